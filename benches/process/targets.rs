//! The project's targets, and whether the figures meet them.

use crate::freeze::{Freeze, ROUND_TRIP};
use crate::report::Report;
use crate::subjects::BEFORE;
use crate::warm::Warm;
use serde::Serialize;

/// A figure, mostly a ratio of medians, and its limit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) is: f64,
    /// The same for CPU time, which a busy machine affects less.
    pub(crate) cpu: Option<f64>,
    /// The figure of a function that does nothing behind the same carrier, the lower bound.
    pub(crate) floor: Option<f64>,
    pub(crate) most: Option<f64>,
}

impl Target {
    fn new(what: impl Into<String>, is: f64, most: f64) -> Self {
        Self { what: what.into(), is, cpu: None, floor: None, most: Some(most) }
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match self.most {
            Some(most) if self.is > most => "MISSED",
            Some(_) => "met",
            None => "",
        }
    }
}

pub(crate) fn of(report: &Report) -> Vec<Target> {
    [starts(report), warm(report), freezes(report)].concat()
}

fn starts(report: &Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for world in ["1 flag", "1000 flags", "10000 flags"] {
        // A subject without LaunchDarkly was measured once for the first two.
        let floor_world = if world == "1000 flags" { "1 flag" } else { world };
        for (subject, to, to_world, most) in [
            ("redirect-edge", "noop-edge", floor_world, Some(1.05)),
            ("redirect-native", "noop-native", floor_world, Some(1.4)),
            ("redirect-edge", "guide-bundled", world, None),
            ("redirect-edge", "guide", world, None),
        ] {
            let (Some(one), Some(other)) = (report.cold(subject, world, None), report.cold(to, to_world, None)) else {
                continue;
            };
            let floor = report.cold("noop-edge", floor_world, None).filter(|_| most.is_none());
            targets.push(Target {
                what: format!("start of {} / {}, {world}", report.label(subject), report.label(to)),
                is: one.wall_ms.median / other.wall_ms.median,
                cpu: Some(one.cpu_ms.median / other.cpu_ms.median),
                floor: floor.map(|floor| floor.wall_ms.median / other.wall_ms.median),
                most,
            });
        }
    }
    targets
}

fn warm(report: &Report) -> Vec<Target> {
    let row = |subject| report.warm.iter().find(|row| row.subject == subject);
    let (p50, p99) = (|row: &Warm| row.p50_us.median, |row: &Warm| row.p99_us.median);
    let mut targets = Vec::new();
    for (what, one, to, figure, most) in [
        ("warm p50 / no-op Rust, events on", "redirect-native", "noop-native", p50 as fn(&Warm) -> f64, 1.20),
        ("warm p50 / no-op Rust, events off", "redirect-native-no-events", "noop-native", p50, 1.10),
        ("warm p99 / no-op Rust, events on", "redirect-native", "noop-native", p99, 1.5),
        ("warm p99 / no-op Rust, events off", "redirect-native-no-events", "noop-native", p99, 1.5),
        (
            "warm p50 with cookie, headers and preview / without",
            "redirect-native-visitors",
            "redirect-native",
            p50,
            1.10,
        ),
        ("warm p50 / the earlier function's", "redirect-native", BEFORE, p50, 1.03),
    ] {
        if let (Some(one), Some(other)) = (row(one), row(to)) {
            targets.push(Target::new(what, figure(one) / figure(other), most));
        }
    }
    targets.extend(row("redirect-native").map(|row| Target::new("resident memory, MB", row.late_mb, 7.0)));
    targets
}

fn freezes(report: &Report) -> Vec<Target> {
    let row = |subject, memory_mb, resumes| {
        let is_wanted = |row: &&Freeze| {
            (row.subject, row.memory_mb, row.resumes) == (subject, memory_mb, resumes)
                && row.round_trip_ms == ROUND_TRIP.as_millis()
        };
        report.freeze.iter().find(is_wanted)
    };
    let ratio = |what: &str, one: &Freeze, other: &Freeze, most| Target {
        what: format!("wait after a freeze at 128 MB, {what}"),
        is: one.wait_ms.median / other.wait_ms.median,
        cpu: Some(one.cpu_ms.median / other.cpu_ms.median),
        floor: None,
        most,
    };
    let mut targets = Vec::new();
    if let Some(whole) = row("redirect-native", None, true) {
        let most = 3.0 * ROUND_TRIP.as_secs_f64() * 1e3 + 5.0;
        targets.push(Target::new("wait after a freeze, ms: three round trips and 5 ms", whole.wait_ms.median, most));
    }
    let (sessions, none) = (row("redirect-native", Some(128), true), row("redirect-native", Some(128), false));
    for (what, one, other, most) in [
        ("now / the earlier function, a server with sessions", sessions, row(BEFORE, Some(128), true), Some(0.6)),
        ("now / the earlier function, a server without", none, row(BEFORE, Some(128), false), Some(0.6)),
        ("a server with sessions / without", sessions, none, None),
    ] {
        if let (Some(one), Some(other)) = (one, other) {
            targets.push(ratio(what, one, other, most));
        }
    }
    targets
}
