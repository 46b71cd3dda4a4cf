//! A bounded fuzz run for every build: the corpus of the fuzz target `aggregated_record`, and seeded mutations of it.

#![allow(clippy::unwrap_used)] // a test may

#[path = "support/aggregate_checks.rs"]
mod aggregate_checks;

use std::fs;
use std::path::Path;

use aggregate_checks::{MAGIC, check_payload, sealed};
use bytes::Bytes;
use fastrand::Rng;
use shard_worker::Deaggregated;

/// Where the seeds of the fuzz target lie.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/aggregated_record");

/// The seed of the run; change it to try other mutations.
const SEED: u64 = 20_261_124;

/// How many mutated inputs are tried.
const MUTATIONS: usize = 50_000;

/// The most mutations that one input goes through.
const MAX_STEPS: usize = 6;

/// The largest input, in bytes.
const MAX_INPUT_BYTES: usize = 4096;

/// Bytes that mean something to the format: keys of fields, indexes, and lengths near their limits.
const MEANINGFUL: [u8; 14] =
    [0x00, 0x01, 0x08, 0x0a, 0x10, 0x12, 0x1a, 0x22, 0x7f, 0x80, 0xf3, 0xfe, 0xff, b'9'];

/// As the fuzz target does: the input as a payload, and as the message of an aggregate, without which the digest would
/// keep nearly everything from the parser. Returns what the second was.
fn check(input: &[u8]) -> Deaggregated {
    check_payload(&Bytes::copy_from_slice(input));
    check_payload(&sealed(input))
}

fn corpus() -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(Path::new(CORPUS)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    let place = rng.usize(..=input.len());
    let byte = if rng.bool() { MEANINGFUL[rng.usize(..MEANINGFUL.len())] } else { rng.u8(..) };
    match rng.u8(..6) {
        0 if place < input.len() => input[place] = byte,
        1 if place < input.len() => input[place] ^= 1 << rng.u8(..8),
        2 => input.insert(place, byte),
        3 => drop(input.drain(place..(place + rng.usize(..8)).min(input.len()))),
        4 => input.truncate(place),
        _ => {
            let other = &others[rng.usize(..others.len())];
            let start = rng.usize(..=other.len());
            let end = (start + rng.usize(..32)).min(other.len());
            input.splice(place..place, other[start..end].iter().copied());
        }
    }
    input.truncate(MAX_INPUT_BYTES);
}

#[test]
fn the_corpus_and_its_mutations_are_safe() {
    let corpus = corpus();
    assert!(corpus.len() >= 5, "the corpus is there");
    // The messages alone: sealed again, a change in one of them is seen by the parser.
    let aggregates = corpus.iter().filter(|seed| seed.starts_with(&MAGIC) && seed.len() > 20);
    let messages: Vec<Vec<u8>> = aggregates.map(|seed| seed[MAGIC.len()..seed.len() - 16].to_vec()).collect();
    let seeds = [corpus, messages.clone()].concat();
    for seed in &seeds {
        check(seed);
    }
    let mut rng = Rng::with_seed(SEED);
    let (mut aggregates, mut malformed) = (0, 0);
    for _ in 0..MUTATIONS {
        let among = if rng.u8(..8) == 0 { &seeds } else { &messages };
        let mut input = among[rng.usize(..among.len())].clone();
        // Mostly a few: many steps leave nothing that can be read.
        let most = rng.usize(1..=MAX_STEPS);
        for _ in 0..rng.usize(1..=most) {
            mutate(&mut input, &seeds, &mut rng);
        }
        match check(&input) {
            Deaggregated::Aggregate { .. } => aggregates += 1,
            Deaggregated::Malformed { .. } => malformed += 1,
            Deaggregated::Plain => {}
        }
    }
    let few = MUTATIONS / 20;
    assert!(aggregates > few && malformed > few, "{aggregates} aggregates and {malformed} malformed ones");
}
