//! A bounded run of the targets that need crates of AWS.

#![allow(clippy::unwrap_used)] // a test may

use fuzzing::bounded::{corpus, run};
use fuzzing::{Reading, Target, target};

fn named(name: &str) -> &'static Target {
    target(name).unwrap()
}

/// The names of the seeds that are refused.
fn refused(target: &Target) -> Vec<String> {
    let refused = corpus(target).into_iter().filter(|(_, seed)| (target.check)(seed) == Reading::Refused);
    refused.filter_map(|(file, _)| Some(file.file_name()?.to_string_lossy().into_owned())).collect()
}

#[test]
fn any_row_is_a_lease_or_a_named_fault_and_writes_keep_what_they_do_not_know() {
    let target = named("lease_row");
    assert!(refused(target).iter().all(|name| name.starts_with("malformed_")), "{:?}", refused(target));
    run(target, 10_000);
}

#[test]
fn any_answer_is_read_as_the_sdk_reads_it_or_refused_within_bounds() {
    let target = named("get_records");
    assert!(refused(target).iter().all(|name| name.starts_with("malformed_")), "{:?}", refused(target));
    run(target, 10_000);
}

#[test]
fn settings_for_aws_are_usable_or_named() {
    run(named("aws_settings"), 20_000);
}
