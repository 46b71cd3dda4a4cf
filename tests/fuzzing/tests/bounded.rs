//! Bounded runs of every target that needs no AWS crate, on every build.

#![allow(clippy::unwrap_used)] // a test may

use fuzzing::block_file::{content_of, sealed};
use fuzzing::bounded::{MAX_INPUT_BYTES, corpus, run};
use fuzzing::{Reading, Target, target_named};
use storage_buffer::internals::Block;

/// Most memory that a mutated block of [`MAX_INPUT_BYTES`] may claim, in bytes: one record for every nine bytes.
const MAX_CLAIMED_BYTES: u64 = 512 * 1024;

/// A quick run tries one in so many mutations; the tests of a full run try all of them.
const QUICK: usize = 5;

fn named(name: &str) -> &'static Target {
    target_named(name).unwrap()
}

/// Returns how many seeds of a target are accepted.
fn readable(target: &Target) -> usize {
    corpus(target).iter().filter(|(_, seed)| (target.check)(seed) == Reading::Accepted).count()
}

#[test]
fn aggregates_and_their_mutations_are_safe() {
    run(named("aggregated_record"), 50_000 / QUICK);
}

#[test]
fn blocks_and_their_mutations_are_safe() {
    let target = named("block_file");
    assert_eq!(readable(target), corpus(target).len(), "a seed is not a block");
    run(target, 50_000 / QUICK);
}

#[test]
fn a_block_with_large_lengths_claims_no_memory() {
    let (_, many) = corpus(named("block_file")).into_iter().max_by_key(|(_, block)| block.len()).unwrap();
    let content = content_of(&many);
    // Sets every place that may hold a record count, a length or a child count to its largest value.
    for place in 0..content.len().saturating_sub(4).min(MAX_INPUT_BYTES) {
        let mut hostile = content.to_vec();
        hostile[place..place + 4].fill(0xff);
        let hostile = sealed(&hostile);
        let claimed = allocation_counter::measure(|| drop(Block::decode(&hostile)));
        assert!(claimed.bytes_max < MAX_CLAIMED_BYTES, "at byte {place}: {claimed:?}");
    }
}

#[test]
fn snapshots_and_their_mutations_are_safe() {
    let target = named("state_snapshot");
    assert!(readable(target) >= 4, "too few seeds are accepted");
    run(target, 20_000 / QUICK);
}

#[test]
fn accepted_positions_survive_a_round_trip_and_sort_by_number() {
    run(named("position"), 30_000 / QUICK);
}

#[test]
fn no_configuration_panics_and_faults_name_their_setting() {
    run(named("configuration"), 20_000 / QUICK);
}

#[test]
fn targets_withstand_a_full_run_of_mutations() {
    for (name, mutations) in [
        ("aggregated_record", 50_000),
        ("block_file", 50_000),
        ("state_snapshot", 20_000),
        ("position", 30_000),
        ("configuration", 20_000),
    ] {
        run(named(name), mutations);
    }
}
