//! Stored blocks of the storage buffer. They cause no panic and no copy, claim no more memory than the file
//! justifies, and are refused with a wrong checksum.

use bytes::Bytes;
use shard_worker::Record;
use storage_buffer::internals::{Block, BlockError};

use crate::target::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "block_file",
    check,
    tokens: &[
        b"\x00",
        b"\x01",
        b"\x02",
        b"\x03",
        b"\x04",
        b"\x05",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"9",
        b"\x00\x00\x00",
        b"\xff\xff\xff\xff",
        &HEAD,
    ],
};

/// The beginning of a block: magic bytes and version.
const HEAD: [u8; 8] = *b"KINBLK\n\x01";

/// Puts a head and a correct checksum before these contents, so that mutations reach the parser.
pub fn sealed(content: &[u8]) -> Bytes {
    [&HEAD[..], &crc32fast::hash(content).to_le_bytes(), content].concat().into()
}

/// Returns the contents of a block after its checksum.
pub fn content_of(block: &[u8]) -> &[u8] {
    block.get(HEAD.len() + size_of::<u32>()..).unwrap_or_default()
}

fn check(input: &[u8]) -> Reading {
    if read(&Bytes::copy_from_slice(input)).is_ok() {
        assert_eq!(sealed(content_of(input)), input, "a block with a wrong checksum was read");
    }
    let _ = read(&sealed(input));
    match read(&sealed(content_of(input))) {
        Ok(()) => Reading::Accepted,
        Err(BlockError::Damaged(_)) => Reading::Refused,
        Err(other) => panic!("a block with a correct head was refused for another reason: {other}"),
    }
}

/// Decodes the bytes and checks the properties of every block.
fn read(bytes: &Bytes) -> Result<(), BlockError> {
    let block = Block::decode(bytes)?;
    let inside = bytes.as_ptr_range();
    for record in block.records() {
        let data = record.data.as_ptr_range();
        assert!(
            inside.start <= data.start && data.end <= inside.end,
            "a payload is not a slice of the block"
        );
        assert_eq!(record.sub_sequence_number, 0);
    }
    let ascends = |pair: &[Record]| pair[0].sequence_number < pair[1].sequence_number;
    assert!(block.records().windows(2).all(ascends), "the records are out of order");
    assert_eq!(block.records().is_empty(), block.is_shard_end());
    assert_eq!(Block::decode(&block.encode()).as_ref(), Ok(&block), "the block changes in a round trip");
    Ok(())
}
