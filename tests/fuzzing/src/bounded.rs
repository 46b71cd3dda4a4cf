//! A bounded run of a target without libFuzzer: its corpus and seeded mutations of it, on every build.

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::target::{Reading, Target};

/// The directory of the corpora, with one subdirectory per target.
const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");

/// The seed of a run; change it to try other mutations.
const SEED: u64 = 20_261_124;

/// Most mutations applied to one input.
const MAX_STEPS: usize = 6;

/// Largest mutated input, in bytes.
pub const MAX_INPUT_BYTES: usize = 4096;

/// Most bytes that one mutation copies from another input.
const MAX_STRETCH_BYTES: usize = 48;

/// How the inputs of a run were classified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of accepted inputs.
    pub accepted: usize,
    /// Number of refused inputs.
    pub refused: usize,
}

/// Returns the seeds of a target, ordered by file name.
///
/// # Panics
/// The corpus cannot be read.
pub fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let listed =
        fs::read_dir(Path::new(CORPORA).join(target.name)).expect("cannot list the corpus of the target");
    let mut files: Vec<PathBuf> =
        listed.map(|entry| entry.expect("cannot list a file of the corpus").path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| (file.clone(), fs::read(file).expect("cannot read a file of the corpus")))
        .collect()
}

/// Checks each seed, and then `mutations` mutated seeds.
///
/// # Panics
/// The property of the target does not hold, or nearly all mutations are accepted, or nearly all are refused: such a
/// run tests nothing.
pub fn run(target: &Target, mutations: usize) -> Tally {
    let seeds: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, seed)| seed).collect();
    for seed in &seeds {
        (target.check)(seed);
    }
    let mut rng = Rng::with_seed(SEED);
    let mut tally = Tally::default();
    for _ in 0..mutations {
        let mut input = seeds[rng.usize(..seeds.len())].clone();
        // Mostly few steps, because an input that went through many is always refused.
        let most = rng.usize(1..=MAX_STEPS);
        for _ in 0..rng.usize(1..=most) {
            mutate(&mut input, &seeds, target.tokens, &mut rng);
        }
        match (target.check)(&input) {
            Reading::Accepted => tally.accepted += 1,
            Reading::Refused => tally.refused += 1,
            Reading::Ignored => {}
        }
    }
    let few = mutations / 100;
    assert!(
        tally.accepted > few && tally.refused > few,
        "{}: the mutations are nearly all alike: {tally:?} of {mutations}",
        target.name
    );
    tally
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], tokens: &[&[u8]], rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    match rng.u8(..8) {
        0 if at < input.len() => input[at] = rng.u8(..),
        1 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        2 => input.insert(at, rng.u8(..)),
        3 => drop(input.drain(at..(at + rng.usize(..8)).min(input.len()))),
        4 => input.truncate(at),
        5 => {
            let other = &others[rng.usize(..others.len())];
            let start = rng.usize(..=other.len());
            let end = (start + rng.usize(..MAX_STRETCH_BYTES)).min(other.len());
            input.splice(at..at, other[start..end].iter().copied());
        }
        step => {
            let token = tokens[rng.usize(..tokens.len())];
            let replaced = if step == 6 { 0 } else { token.len() };
            input.splice(at..(at + replaced).min(input.len()), token.iter().copied());
        }
    }
    input.truncate(MAX_INPUT_BYTES);
}
