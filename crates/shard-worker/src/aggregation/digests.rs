//! The MD5 digests of many messages, several side by side. Pure.
//!
//! Each step of MD5 waits for the one before, so a single digest leaves most of a core idle. The steps of four messages are
//! independent of each other, and the compiler turns them into vector instructions: four digests take little more time than one.

use std::array;

/// The number of messages side by side: as many as the words of a 128-bit vector.
const LANES: usize = 4;

const BLOCK_BYTES: usize = 64;

/// The size of the length at the end of the last block, in bytes.
const LENGTH_BYTES: usize = 8;

/// The state before the first block (RFC 1321, 3.3).
const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// How far each step of a round rotates, repeated every four steps (RFC 1321, 3.4).
const ROTATIONS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The sines of the integers from 1 to 64, as 32-bit fractions (RFC 1321, 3.4).
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

type Block = [u8; BLOCK_BYTES];

/// One word of the state, for each lane.
type Word<const N: usize> = [u32; N];

/// The digests of these messages, in their order.
pub(super) fn digests(messages: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut digests = vec![[0; 16]; messages.len()];
    let mut waiting = messages.iter().enumerate().map(|(index, message)| Hash::new(index, message));
    let mut hashes: Vec<Hash<'_>> = waiting.by_ref().take(LANES).collect();
    // When a message ends, the next one takes its lane.
    while let Some(lanes) = hashes.first_chunk_mut::<LANES>() {
        advance(lanes);
        hashes.retain_mut(|hash| !hash.blocks.is_empty() || store(hash, &mut digests));
        hashes.extend(waiting.by_ref().take(LANES - hashes.len()));
    }
    while let Some(lanes) = hashes.first_chunk_mut::<2>() {
        advance(lanes);
        hashes.retain_mut(|hash| !hash.blocks.is_empty() || store(hash, &mut digests));
    }
    for hash in &mut hashes {
        store(hash, &mut digests);
    }
    digests
}

/// Completes a digest; returns `false`, since nothing of the message is left.
fn store(hash: &mut Hash<'_>, digests: &mut [[u8; 16]]) -> bool {
    if let Some(digest) = digests.get_mut(hash.index) {
        *digest = hash.finish();
    }
    false
}

/// A digest in progress.
#[derive(Debug)]
struct Hash<'a> {
    index: usize,
    state: [u32; 4],
    /// The whole blocks that are left.
    blocks: &'a [Block],
    /// The bytes after the whole blocks.
    rest: &'a [u8],
    message_bytes: u64,
}

impl<'a> Hash<'a> {
    fn new(index: usize, message: &'a [u8]) -> Self {
        let (blocks, rest) = message.as_chunks();
        Self { index, state: INITIAL, blocks, rest, message_bytes: message.len() as u64 }
    }

    /// The digest, after the blocks that are left and the padding (RFC 1321, 3.1 and 3.2).
    fn finish(&mut self) -> [u8; 16] {
        let mut padding = [[0; BLOCK_BYTES]; 2];
        let has_room = self.rest.len() < BLOCK_BYTES - LENGTH_BYTES;
        let bytes = padding.as_flattened_mut();
        let (rest, after) = bytes.split_at_mut(self.rest.len());
        rest.copy_from_slice(self.rest);
        if let Some(first) = after.first_mut() {
            *first = 0x80;
        }
        let blocks = if has_room { &mut padding[..1] } else { &mut padding[..] };
        if let Some(length) = blocks.as_flattened_mut().last_chunk_mut::<LENGTH_BYTES>() {
            *length = self.message_bytes.wrapping_mul(8).to_le_bytes();
        }
        let mut state = self.state.map(|word| [word]);
        for block in self.blocks.iter().chain(blocks.iter()) {
            compress(&mut state, [block]);
        }
        self.blocks = &[];
        let mut digest = [0; 16];
        for (bytes, [word]) in digest.as_chunks_mut().0.iter_mut().zip(state) {
            *bytes = word.to_le_bytes();
        }
        digest
    }
}

/// Reads as many blocks of each message as the shortest has.
fn advance<const N: usize>(hashes: &mut [Hash<'_>; N]) {
    let steps = hashes.iter().map(|hash| hash.blocks.len()).min().unwrap_or(0);
    let mut state: [Word<N>; 4] = array::from_fn(|word| array::from_fn(|lane| hashes[lane].state[word]));
    let blocks: [&[Block]; N] = array::from_fn(|lane| &hashes[lane].blocks[..steps]);
    (0..steps).for_each(|step| compress(&mut state, array::from_fn(|lane| &blocks[lane][step])));
    for (lane, hash) in hashes.iter_mut().enumerate() {
        hash.state = state.map(|word| word[lane]);
        hash.blocks = &hash.blocks[steps..];
    }
}

/// Reads one block of each lane.
#[inline(never)] // inlined, the compiler does not vectorise it
fn compress<const N: usize>(state: &mut [Word<N>; 4], blocks: [&Block; N]) {
    let words: [Word<N>; 16] = array::from_fn(|word| {
        array::from_fn(|lane| {
            let bytes = &blocks[lane][word * 4..];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        })
    });
    let mut next = *state;
    for four in (0..16).step_by(4) {
        for (at, rotation) in ROTATIONS[0].into_iter().enumerate() {
            let index = four + at;
            step(&mut next, |b, c, d| d ^ (b & (c ^ d)), &words[index], SINES[index], rotation);
        }
    }
    for four in (0..16).step_by(4) {
        for (at, rotation) in ROTATIONS[1].into_iter().enumerate() {
            let index = four + at;
            let word = &words[(5 * index + 1) % 16];
            step(&mut next, |b, c, d| c ^ (d & (b ^ c)), word, SINES[16 + index], rotation);
        }
    }
    for four in (0..16).step_by(4) {
        for (at, rotation) in ROTATIONS[2].into_iter().enumerate() {
            let index = four + at;
            let word = &words[(3 * index + 5) % 16];
            step(&mut next, |b, c, d| b ^ c ^ d, word, SINES[32 + index], rotation);
        }
    }
    for four in (0..16).step_by(4) {
        for (at, rotation) in ROTATIONS[3].into_iter().enumerate() {
            let index = four + at;
            step(&mut next, |b, c, d| c ^ (b | !d), &words[7 * index % 16], SINES[48 + index], rotation);
        }
    }
    for (word, next) in state.iter_mut().zip(next) {
        *word = array::from_fn(|lane| word[lane].wrapping_add(next[lane]));
    }
}

/// One step, in all lanes.
#[inline(always)]
fn step<const N: usize>(
    state: &mut [Word<N>; 4],
    mix: impl Fn(u32, u32, u32) -> u32,
    word: &Word<N>,
    sine: u32,
    rotation: u32,
) {
    let [a, b, c, d] = *state;
    let next = array::from_fn(|lane| {
        let sum =
            mix(b[lane], c[lane], d[lane]).wrapping_add(a[lane]).wrapping_add(sine).wrapping_add(word[lane]);
        if N == 1 {
            return sum.rotate_left(rotation).wrapping_add(b[lane]);
        }
        // The same, without a rotation: most vector units have none, and the compiler would not vectorise it.
        (sum << rotation).wrapping_add(b[lane]).wrapping_add(sum >> (u32::BITS - rotation))
    });
    *state = [d, next, b, c];
}

#[cfg(test)]
mod tests {
    use md5::{Digest as _, Md5};
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(messages: &[Vec<u8>]) {
        let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let expected: Vec<[u8; 16]> = slices.iter().map(|message| Md5::digest(message).into()).collect();
        assert_eq!(digests(&slices), expected, "{:?}", messages.iter().map(Vec::len).collect::<Vec<_>>());
    }

    fn message(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7 + length * 13).to_le_bytes()[0]).collect()
    }

    #[test]
    fn digests_of_every_padding_are_right() {
        for length in 0..200 {
            check(&[message(length)]);
            check(&(length..length + 6).map(message).collect::<Vec<_>>());
        }
        check(&[]);
    }

    #[test]
    fn digests_of_messages_of_unlike_sizes_keep_their_order() {
        check(&[10_000, 0, 64, 3, 5000, 5000, 128, 127, 9999, 1, 64].map(message));
    }

    proptest! {
        #[test]
        fn digests_equal_those_computed_one_by_one(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..12)) {
            check(&messages);
        }
    }
}
