//! Stored blocks of the hand-off buffer: no panic, no copy, no memory that the file does not hold, and nothing is read whose
//! checksum is another.

use bytes::Bytes;
use receiver::{BlockError, HandOffBlock};
use shard_worker::Record;

use crate::{Reading, Target};

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

/// What a block begins with: the magic bytes and the version.
const HEAD: [u8; 8] = *b"KINBLK\n\x01";

/// The head and the checksum of these contents before them, so that the parser sees the input.
pub fn sealed(content: &[u8]) -> Bytes {
    [&HEAD[..], &crc32fast::hash(content).to_le_bytes(), content].concat().into()
}

/// The contents of a block: what comes after its checksum.
pub fn content_of(block: &[u8]) -> &[u8] {
    block.get(HEAD.len() + size_of::<u32>()..).unwrap_or_default()
}

fn check(input: &[u8]) -> Reading {
    if read(&Bytes::copy_from_slice(input)).is_ok() {
        assert_eq!(sealed(content_of(input)), input, "only what its checksum fits is read");
    }
    let _ = read(&sealed(input));
    match read(&sealed(content_of(input))) {
        Ok(()) => Reading::Accepted,
        Err(BlockError::Damaged(_)) => Reading::Refused,
        Err(other) => panic!("head and version are right: {other}"),
    }
}

/// Reads the bytes, and checks what must hold whatever they are.
fn read(bytes: &Bytes) -> Result<(), BlockError> {
    let block = HandOffBlock::decode(bytes)?;
    let inside = bytes.as_ptr_range();
    for record in block.records() {
        let data = record.data.as_ptr_range();
        assert!(inside.start <= data.start && data.end <= inside.end, "a payload is a slice of the block");
        assert_eq!(record.sub_sequence_number, 0);
    }
    let ascends = |pair: &[Record]| pair[0].sequence_number < pair[1].sequence_number;
    assert!(block.records().windows(2).all(ascends), "in the order of the shard");
    assert_eq!(block.records().is_empty(), block.is_shard_end());
    assert_eq!(HandOffBlock::decode(&block.encode()).as_ref(), Ok(&block), "written again it is the same");
    Ok(())
}
