//! A bounded run of every target that needs no crate of AWS, on every build.

#![allow(clippy::unwrap_used)] // a test may

use fuzzing::block_file::{content_of, sealed};
use fuzzing::bounded::{MAX_INPUT_BYTES, corpus, run};
use fuzzing::{Reading, Target, target};
use receiver::HandOffBlock;

/// The most memory that a mutated block of [`MAX_INPUT_BYTES`] may claim, in bytes: a record for each nine bytes of it.
const MAX_CLAIMED_BYTES: u64 = 512 * 1024;

fn named(name: &str) -> &'static Target {
    target(name).unwrap()
}

/// How many seeds of a target are read.
fn readable(target: &Target) -> usize {
    corpus(target).iter().filter(|(_, seed)| (target.check)(seed) == Reading::Accepted).count()
}

#[test]
fn the_corpus_and_its_mutations_are_safe() {
    run(named("aggregated_record"), 50_000);
}

#[test]
fn the_block_corpus_and_its_mutations_are_safe() {
    let target = named("block_file");
    assert_eq!(readable(target), corpus(target).len(), "each seed is a block");
    run(target, 50_000);
}

#[test]
fn a_block_that_says_it_is_large_claims_no_memory() {
    let (_, many) = corpus(named("block_file")).into_iter().max_by_key(|(_, block)| block.len()).unwrap();
    let content = content_of(&many);
    // Wherever a number of records, a length or a number of children may stand, it is the largest there is.
    for place in 0..content.len().saturating_sub(4).min(MAX_INPUT_BYTES) {
        let mut hostile = content.to_vec();
        hostile[place..place + 4].fill(0xff);
        let hostile = sealed(&hostile);
        let claimed = allocation_counter::measure(|| drop(HandOffBlock::decode(&hostile)));
        assert!(claimed.bytes_max < MAX_CLAIMED_BYTES, "at {place}: {claimed:?}");
    }
}

#[test]
fn the_corpus_of_snapshots_and_its_mutations_are_safe() {
    let target = named("state_snapshot");
    assert!(readable(target) >= 4, "most of the corpus can be read");
    run(target, 20_000);
}

#[test]
fn what_is_taken_for_a_position_is_written_as_it_was_and_ordered_by_its_number() {
    run(named("position"), 30_000);
}

#[test]
fn no_configuration_panics_and_what_is_refused_is_named() {
    run(named("configuration"), 20_000);
}
