//! What holds for any bytes that are taken for a stored block, hostile or not: shared by the bounded fuzz run and the fuzz
//! target.

use bytes::Bytes;
use receiver::{BlockError, HandOffBlock};

/// What a block begins with: the magic bytes and the version.
const HEAD: [u8; 8] = *b"KINBLK\n\x01";

/// The head and the checksum of these contents before them, so that the parser sees the input.
pub(crate) fn sealed(content: &[u8]) -> Bytes {
    [&HEAD[..], &crc32fast::hash(content).to_le_bytes(), content].concat().into()
}

/// The contents of a block: what comes after its checksum.
pub(crate) fn content_of(block: &[u8]) -> &[u8] {
    block.get(HEAD.len() + size_of::<u32>()..).unwrap_or_default()
}

/// Reads the bytes, and checks what must hold whatever they are.
///
/// # Panics
/// When something does not hold.
pub(crate) fn check_block(bytes: &Bytes) -> Result<(), BlockError> {
    let block = HandOffBlock::decode(bytes)?;
    let inside = bytes.as_ptr_range();
    for record in block.records() {
        let data = record.data.as_ptr_range();
        assert!(inside.start <= data.start && data.end <= inside.end, "a payload is a slice of the block");
        assert_eq!(record.sub_sequence_number, 0);
    }
    let ascends = |pair: &[shard_worker::Record]| pair[0].sequence_number < pair[1].sequence_number;
    assert!(block.records().windows(2).all(ascends), "in the order of the shard");
    assert_eq!(block.records().is_empty(), block.is_shard_end());
    assert_eq!(HandOffBlock::decode(&block.encode()).as_ref(), Ok(&block), "written again it is the same");
    Ok(())
}
