//! Bounded runs of the targets that need AWS crates.

#![allow(clippy::unwrap_used)] // a test may

use fuzzing::bounded::{corpus, run};
use fuzzing::{Reading, Target, target_named};

fn named(name: &str) -> &'static Target {
    target_named(name).unwrap()
}

/// Returns the names of the refused seeds.
fn refused(target: &Target) -> Vec<String> {
    let refused = corpus(target).into_iter().filter(|(_, seed)| (target.check)(seed) == Reading::Refused);
    refused.filter_map(|(file, _)| Some(file.file_name()?.to_string_lossy().into_owned())).collect()
}

#[test]
fn rows_are_leases_or_faults_and_keep_unknown_attributes() {
    let target = named("lease_row");
    assert!(refused(target).iter().all(|name| name.starts_with("malformed_")), "{:?}", refused(target));
    run(target, 10_000);
}

#[test]
fn any_answer_is_read_like_the_sdk_or_refused() {
    let target = named("get_records");
    assert!(refused(target).iter().all(|name| name.starts_with("malformed_")), "{:?}", refused(target));
    run(target, 10_000);
}

#[test]
fn settings_for_aws_are_usable_or_faults_name_them() {
    run(named("aws_settings"), 20_000);
}
