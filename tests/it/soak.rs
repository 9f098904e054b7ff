//! Thousands of invocations with random flag changes and faults: no answer is lost, and memory does not grow.
//!
//! `SOAK` is the number of invocations, `SOAK_SEED` the seed; `just soak` sets both.

use crate::setup::{World, event, flag, launchdarkly};
use serde_json::Value;
use standins::Fault;
use std::env;
use std::fs;
use std::time::{Duration, SystemTime};

/// [SplitMix64](https://prng.di.unimi.it/splitmix64.c): small, and the same on every machine for a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn fault(&mut self) -> Fault {
        match self.below(12) {
            0 => Fault::Status(500, None),
            1 => Fault::Status(401, None),
            2 => Fault::Status(429, Some(20)),
            3 => Fault::BlackHole,
            4 => Fault::SlowHeaders(Duration::from_millis(30)),
            5 => Fault::CutBody,
            6 => Fault::TruncatedJson,
            7 => Fault::Text("text/html", "<!doctype html>"),
            _ => Fault::None,
        }
    }
}

fn resident_kb(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.function.process.id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn number(variable: &str, otherwise: u64) -> u64 {
    env::var(variable).map_or(otherwise, |text| text.parse().expect("a whole number"))
}

#[tokio::test]
async fn soak() {
    let (times, seed) = (number("SOAK", 5_000), number("SOAK_SEED", 1));
    let mut dice = Dice(seed);
    // Short budgets, so that a fault costs little time; the code that runs is the same.
    let settings = [
        ("REDIRECT_VIEWER_BUDGET_MS", "20"),
        ("REDIRECT_BETWEEN_BUDGET_MS", "60"),
        ("REDIRECT_INIT_BUDGET_MS", "1000"),
    ];
    let mut world = World::new(launchdarkly(flag(1, true)).await, &settings).await;
    let mut arrival = SystemTime::now();
    let mut early = 0;
    let (mut beta, mut current) = (0_u64, 0_u64);
    for count in 0..times {
        if count % 50 == 0 {
            world.launchdarkly.fail(dice.fault());
            world.launchdarkly.fail_events(dice.fault());
            world.launchdarkly.set_flag(&flag(count + 2, dice.below(2) == 0));
        }
        if dice.below(40) == 0 {
            world.launchdarkly.drop_connections();
        }
        arrival += Duration::from_millis(dice.below(8_000));
        let address = format!("/page-{}.html?visit={count}", dice.below(1_000));
        let ip = format!("10.{}.{}.{}", dice.below(256), dice.below(256), dice.below(256));
        let deadline = arrival + Duration::from_secs(5);
        let outcome = world.lambda.invoke_with_deadline(event(&address, &ip), deadline).await;
        let outcome = outcome.unwrap_or_else(|| panic!("no answer to visit {count} of seed {seed}"));
        assert!(!outcome.is_error, "visit {count} of seed {seed}: {:?}", outcome.body);
        let answer: Value = serde_json::from_slice(&outcome.body).unwrap();
        let location = answer["headers"]["location"][0]["value"].as_str().unwrap();
        match location.strip_suffix(address.as_str()).unwrap() {
            "/site" => current += 1,
            "/site/beta" => beta += 1,
            site => panic!("visit {count} of seed {seed} went to {site}"),
        }
        if count == times / 5 {
            early = resident_kb(&world);
        }
        if count % 10_000 == 0 && count > 0 {
            eprintln!("{count} of {times} visits, {} kB resident", resident_kb(&world));
        }
    }
    let late = resident_kb(&world);
    eprintln!(
        "{times} visits with seed {seed}: {beta} to beta, {current} to the current site; {early} kB, then {late} kB"
    );
    assert!(beta > times / 10 && current > times / 10, "{beta} and {current}: the flag's changes did not arrive");
    assert!(late < early + early / 5, "{early} kB resident after a fifth of {times} visits, {late} kB at the end");

    world.launchdarkly.fail(Fault::None);
    let answered = world.send_at(&event("/last", "10.0.0.1"), arrival + Duration::from_secs(7_200)).await;
    assert_eq!(answered.line["data"], "fresh", "{}", answered.line);
}
