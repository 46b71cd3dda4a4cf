//! A bounded run of a target for every build: its corpus, and seeded mutations of it, without libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::{Reading, Target};

/// Where the corpora lie, one directory for each target.
const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");

/// The seed of a run; change it to try other mutations.
const SEED: u64 = 20_261_124;

/// The most mutations that one input goes through.
const MAX_STEPS: usize = 6;

/// The largest mutated input, in bytes.
pub const MAX_INPUT_BYTES: usize = 4096;

/// The most bytes that are cut out of an input, or copied into it, at a time.
const MAX_STRETCH_BYTES: usize = 48;

/// What became of the inputs of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Inputs that were read.
    pub accepted: usize,
    /// Inputs that were refused.
    pub refused: usize,
}

/// The seeds of a target, in the order of their names.
///
/// # Panics
/// When they cannot be read.
pub fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let listed = fs::read_dir(Path::new(CORPORA).join(target.name)).expect("each target has a corpus");
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.expect("it can be listed").path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).expect("it can be read"))).collect()
}

/// Checks each seed, and so many mutations of them.
///
/// # Panics
/// When the property of the target does not hold, or when a run of mutations reads, or refuses, next to none of them: then it
/// tries nothing.
pub fn run(target: &Target, mutations: usize) -> Tally {
    let seeds: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, seed)| seed).collect();
    for seed in &seeds {
        (target.check)(seed);
    }
    let mut rng = Rng::with_seed(SEED);
    let mut tally = Tally::default();
    for _ in 0..mutations {
        let mut input = seeds[rng.usize(..seeds.len())].clone();
        // Mostly a few: many steps leave nothing that can be read.
        let most = rng.usize(1..=MAX_STEPS);
        for _ in 0..rng.usize(1..=most) {
            mutate(&mut input, &seeds, target.tokens, &mut rng);
        }
        match (target.check)(&input) {
            Reading::Accepted => tally.accepted += 1,
            Reading::Refused => tally.refused += 1,
            Reading::LeftAlone => {}
        }
    }
    let few = mutations / 100;
    assert!(tally.accepted > few && tally.refused > few, "{}: {tally:?} of {mutations}", target.name);
    tally
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], tokens: &[&[u8]], rng: &mut Rng) {
    let place = rng.usize(..=input.len());
    match rng.u8(..8) {
        0 if place < input.len() => input[place] = rng.u8(..),
        1 if place < input.len() => input[place] ^= 1 << rng.u8(..8),
        2 => input.insert(place, rng.u8(..)),
        3 => drop(input.drain(place..(place + rng.usize(..8)).min(input.len()))),
        4 => input.truncate(place),
        5 => {
            let other = &others[rng.usize(..others.len())];
            let start = rng.usize(..=other.len());
            let end = (start + rng.usize(..MAX_STRETCH_BYTES)).min(other.len());
            input.splice(place..place, other[start..end].iter().copied());
        }
        step => {
            let token = tokens[rng.usize(..tokens.len())];
            let replaced = if step == 6 { 0 } else { token.len() };
            input.splice(place..(place + replaced).min(input.len()), token.iter().copied());
        }
    }
    input.truncate(MAX_INPUT_BYTES);
}
