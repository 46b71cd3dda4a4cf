//! A bounded fuzz run for every build: the corpus of the fuzz target `state_snapshot`, and seeded mutations of it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

#[path = "support/state_checks.rs"]
mod state_checks;

use std::fs;
use std::path::Path;

use fastrand::Rng;
use state_checks::{check, sealed};

/// Where the seeds of the fuzz target lie.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/state_snapshot");

/// The seed of the run; change it to try other mutations.
const SEED: u64 = 20_261_124;

/// How many mutated inputs are tried.
const MUTATIONS: usize = 20_000;

/// The most mutations that one input goes through.
const MAX_STEPS: usize = 4;

/// Bytes that mean something to the format.
const MEANINGFUL: &[u8] = b"0123456789,:[]{}\"\\\n ecrns-\xff\x00";

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    let place = rng.usize(..=input.len());
    let byte = if rng.u8(..4) > 0 { MEANINGFUL[rng.usize(..MEANINGFUL.len())] } else { rng.u8(..) };
    match rng.u8(..6) {
        0 if place < input.len() => input[place] = byte,
        1 if place < input.len() => input[place] ^= 1 << rng.u8(..8),
        2 => input.insert(place, byte),
        3 => drop(input.drain(place..(place + rng.usize(..8)).min(input.len()))),
        4 => input.truncate(place),
        _ => {
            let other = &others[rng.usize(..others.len())];
            let start = rng.usize(..=other.len());
            let end = (start + rng.usize(..48)).min(other.len());
            input.splice(place..place, other[start..end].iter().copied());
        }
    }
}

#[test]
fn the_corpus_of_snapshots_and_its_mutations_are_safe() {
    let mut files: Vec<_> =
        fs::read_dir(Path::new(CORPUS)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(corpus.len() >= 5, "the corpus is there");
    assert!(corpus.iter().filter(|seed| check(seed)).count() >= 4, "most of the corpus can be read");
    let mut rng = Rng::with_seed(SEED);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..MUTATIONS {
        let mut input = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.usize(1..=MAX_STEPS) {
            mutate(&mut input, &corpus, &mut rng);
        }
        check(&input);
        if check(&sealed(&input)) { read += 1 } else { refused += 1 }
    }
    let few = MUTATIONS / 50;
    assert!(read > few && refused > few, "{read} snapshots read and {refused} refused");
}
