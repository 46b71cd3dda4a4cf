//! Reads a record of a CBOR answer in its most common forms, and estimates the number of records. Pure.
//!
//! An answer with small records has many small items, and the decisions of the general code for each item would dominate its cost.

use std::ops::Range;

use bytes::Bytes;

use super::answer::{MAX_RECORDS, RecordParts};
use super::time;

/// The end of a map, array or string of indefinite length.
pub(super) const BREAK: u8 = 0xff;

/// The head of a map of indefinite length.
const INDEFINITE_MAP: u8 = 0xbf;

/// The records of an array of indefinite length after which the others are estimated.
const SAMPLE_RECORDS: usize = 16;

/// Reads the record at an offset: a map of stated or indefinite length with known members in any order, whose lengths are
/// stated. Returns its members and the offset behind it. `None`: the record has another form or is truncated; the general code
/// reads it.
#[inline]
pub(super) fn common_record(body: &Bytes, at: usize) -> Option<(RecordParts, usize)> {
    let mut reader = FastReader { body, at };
    // An indefinite map has as many members as come before its break. Each takes a byte at least, so the loop ends.
    let members = match reader.byte()? {
        head @ 0xa0..=0xb7 => usize::from(head & 0x1f),
        INDEFINITE_MAP => usize::MAX,
        _ => return None,
    };
    let (mut sequence_number, mut data, mut key, mut arrival_millis) = (0..0, 0..0, None, None);
    for _ in 0..members {
        // The first byte of a name is its length, and only two known names have the same.
        match reader.peek()? {
            0x6e if reader.consume(b"\x6eSequenceNumber") => sequence_number = reader.text()?,
            0x6e if reader.consume(b"\x6eEncryptionType") => {
                reader.text()?;
            }
            0x78 if reader.consume(b"\x78\x1bApproximateArrivalTimestamp") => {
                arrival_millis = Some(reader.millis()?);
            }
            0x64 if reader.consume(b"\x64Data") => data = reader.bytes()?,
            0x6c if reader.consume(b"\x6cPartitionKey") => key = Some(reader.text()?),
            BREAK if members == usize::MAX => {
                reader.at += 1;
                break;
            }
            _ => return None,
        }
    }
    let slice = |range: Range<usize>| body.slice(range);
    let parts = RecordParts {
        sequence_number: slice(sequence_number),
        arrival_millis,
        data: slice(data),
        partition_key: key.map(slice),
    };
    Some((parts, reader.at))
}

/// The number of records to make room for once the room for `records` is used. They took `record_bytes`, and the body has
/// `rest_bytes` more. An array of indefinite length gets room for a few records at first, then for as many as the rest holds at
/// the mean size so far.
pub(super) fn further_records(records: usize, record_bytes: usize, rest_bytes: usize) -> usize {
    let estimated = match record_bytes.checked_div(records) {
        // A quarter at least, so that the number of reallocations stays small if the first records are the largest.
        Some(mean) if records >= SAMPLE_RECORDS => (rest_bytes / mean.max(1)).max(records / 4) + 1,
        _ => SAMPLE_RECORDS,
    };
    estimated.min(rest_bytes / RecordParts::MIN_BYTES + 1).min(MAX_RECORDS)
}

/// Reads items in their most common form. `None`: the item is in another form, or truncated.
struct FastReader<'a> {
    body: &'a [u8],
    at: usize,
}

impl FastReader<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn array<const WIDTH: usize>(&mut self) -> Option<[u8; WIDTH]> {
        let bytes = self.body.get(self.at..)?.first_chunk::<WIDTH>()?;
        self.at += WIDTH;
        Some(*bytes)
    }

    #[inline]
    fn consume(&mut self, literal: &[u8]) -> bool {
        let is_there = self.body.get(self.at..).is_some_and(|rest| rest.starts_with(literal));
        self.at += if is_there { literal.len() } else { 0 };
        is_there
    }

    /// The range of the text whose head is next.
    #[inline]
    fn text(&mut self) -> Option<Range<usize>> {
        self.string_range(0x60)
    }

    #[inline]
    fn bytes(&mut self) -> Option<Range<usize>> {
        self.string_range(0x40)
    }

    #[inline]
    fn string_range(&mut self, major: u8) -> Option<Range<usize>> {
        let length = match self.byte()?.checked_sub(major)? {
            length @ 0..=23 => usize::from(length),
            24 => usize::from(self.byte()?),
            25 => usize::from(u16::from_be_bytes(self.array()?)),
            26 => usize::try_from(u32::from_be_bytes(self.array()?)).ok()?,
            _ => return None,
        };
        let start = self.at;
        let end = start.checked_add(length).filter(|&end| end <= self.body.len())?;
        self.at = end;
        Some(start..end)
    }

    /// A time: a tag and an eight-byte integer.
    #[inline]
    fn millis(&mut self) -> Option<i64> {
        if self.array()? != [0xc1, 0x1b] {
            return None;
        }
        i64::try_from(u64::from_be_bytes(self.array()?)).ok().map(time::millis_of_integer)
    }
}

#[cfg(test)]
#[path = "cbor_record_tests.rs"]
mod tests;
