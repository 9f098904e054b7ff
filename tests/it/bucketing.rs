//! Which site each viewer gets, compared with LaunchDarkly's published formula, which a separate script evaluates.

use crate::setup::field;
use flag_data::clock::Clock;
use redirect::redirect::Verdict;
use redirect::settings::Settings;
use redirect::start;
use redirect::visitor::Visitor;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

#[tokio::test]
async fn two_thousand_addresses_match_the_formula() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/bucketing.py");
    let output = Command::new("python3").arg(script).output().expect("python3 is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = String::from_utf8(output.stdout).unwrap();

    let flags = start::flags(Arc::new(Settings::read(field, |_| None).unwrap()), None, Clock::default()).await.unwrap();
    let mut beta = 0;
    for line in expected.lines() {
        let (address, variation) = line.split_once(' ').unwrap();
        let verdict = flags.evaluate(&Visitor::of_key(address), true).verdict;
        let expected = if variation == "true" { Verdict::Beta } else { Verdict::Current };
        assert_eq!(verdict, expected, "{address}");
        beta += u32::from(verdict == Verdict::Beta);
    }
    assert_eq!(expected.lines().count(), 2_000);
    // Eight standard deviations around one half.
    assert!((821..=1179).contains(&beta), "{beta} of 2,000 on the new site");
}
