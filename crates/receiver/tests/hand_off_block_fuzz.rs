//! A bounded fuzz run for every build: the corpus of the fuzz target `block_file`, and seeded mutations of it.

#![allow(clippy::unwrap_used)] // a test may

#[path = "support/block_checks.rs"]
mod block_checks;

use std::fs;

use block_checks::{check_block, content_of, sealed};
use bytes::Bytes;
use fastrand::Rng;
use receiver::{BlockError, HandOffBlock};

/// Where the seeds of the fuzz target lie.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/block_file");

/// The seed of the run; change it to try other mutations.
const SEED: u64 = 20_261_125;

/// How many mutated inputs are tried.
const MUTATIONS: usize = 50_000;

/// The most mutations that one input goes through.
const MAX_STEPS: usize = 4;

/// The largest input, in bytes.
const MAX_INPUT_BYTES: usize = 4096;

/// The most memory that a mutated block of [`MAX_INPUT_BYTES`] may claim, in bytes: a record for each nine bytes of it.
const MAX_CLAIMED_BYTES: u64 = 512 * 1024;

fn corpus() -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(CORPUS).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    let place = rng.usize(..=input.len());
    let byte =
        if rng.bool() { [0, 1, 2, 3, 4, 5, 0x7f, 0x80, 0xff, b'9'][rng.usize(..10)] } else { rng.u8(..) };
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
fn the_block_corpus_and_its_mutations_are_safe() {
    let corpus = corpus();
    assert!(corpus.len() >= 4, "the corpus is there");
    for seed in &corpus {
        assert_eq!(check_block(&Bytes::from(seed.clone())), Ok(()), "each seed is a block");
    }
    let contents: Vec<Vec<u8>> = corpus.iter().map(|seed| content_of(seed).to_vec()).collect();
    let mut rng = Rng::with_seed(SEED);
    let (mut read, mut malformed) = (0, 0);
    for _ in 0..MUTATIONS {
        // The block as it is: the checksum notices every change.
        let original = &corpus[rng.usize(..corpus.len())];
        let mut file = original.clone();
        mutate(&mut file, &corpus, &mut rng);
        assert_eq!(check_block(&Bytes::from(file.clone())).is_ok(), corpus.contains(&file));
        // With a right checksum, so that the parser sees the changes.
        let mut content = contents[rng.usize(..contents.len())].clone();
        for _ in 0..rng.usize(1..=MAX_STEPS) {
            mutate(&mut content, &contents, &mut rng);
        }
        match check_block(&sealed(&content)) {
            Ok(()) => read += 1,
            Err(BlockError::Damaged(_)) => malformed += 1,
            Err(other) => unreachable!("{other}"),
        }
    }
    let few = MUTATIONS / 50;
    assert!(read > few && malformed > few, "{read} were read, {malformed} were malformed");
}

#[test]
fn a_block_that_says_it_is_large_claims_no_memory() {
    let many = corpus().into_iter().max_by_key(Vec::len).unwrap();
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
