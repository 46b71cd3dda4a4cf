//! Sequence numbers, positions, shard ids, worker ids and hash keys: what is taken is written as it was read, and its order is
//! that of the numbers; what is not taken is named.
//!
//! An input is up to three lines, so that two of them can be compared.

use std::cmp::Ordering;
use std::fmt::Display;

use lease_store::{HashKey, Position, SequenceNumber, ShardId, StoreError, StoreErrorKind, WorkerId};
use serde_json::{from_value, to_value};

use crate::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "position",
    check,
    tokens: &[
        b"0",
        b"1",
        b"9",
        b"\n",
        b"-",
        b"+",
        b"/",
        b"AT_TIMESTAMP",
        b"TRIM_HORIZON",
        b"LATEST",
        b"SHARD_END",
        b"shardId-",
        b"000000000000",
        b"340282366920938463463374607431768211455",
        b"99999999999999999999",
    ],
};

/// The most digits of a sequence number (Kinesis API).
const MAX_DIGITS: usize = 129;

/// The longest name of a shard and of a worker, in bytes.
const MAX_SHARD_ID_BYTES: usize = 128;
const MAX_WORKER_ID_BYTES: usize = 256;

/// The sentinels in their order; every number comes before the last one.
const SENTINELS: [&str; 4] = ["AT_TIMESTAMP", "TRIM_HORIZON", "LATEST", "SHARD_END"];

fn check(input: &[u8]) -> Reading {
    let Ok(text) = std::str::from_utf8(input) else { return Reading::LeftAlone };
    let lines: Vec<&str> = text.split('\n').take(3).collect();
    let positions: Vec<(&str, Position)> =
        lines.iter().filter_map(|line| Some((*line, check_line(line)?))).collect();
    for (one, position) in &positions {
        for (other, other_position) in &positions {
            assert_eq!(position.cmp(other_position), in_order(one, other), "{one} and {other}");
        }
    }
    if positions.is_empty() { Reading::Refused } else { Reading::Accepted }
}

/// Reads the line as all that it may be. Returns the position that it is, if it is one.
fn check_line(line: &str) -> Option<Position> {
    let is_canonical = line == "0" || (!line.starts_with('0') && !line.is_empty());
    let is_number = is_canonical && line.bytes().all(|byte| byte.is_ascii_digit());
    let number = taken(line, SequenceNumber::new(line.to_owned()));
    assert_eq!(number.is_some(), is_number && line.len() <= MAX_DIGITS, "{line:?}");
    if let Some(number) = &number {
        let written = to_value(number).expect("it can be written");
        assert_eq!(&from_value::<SequenceNumber>(written).expect("it can be read"), number);
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_shard = (1..=MAX_SHARD_ID_BYTES).contains(&line.len()) && line.bytes().all(is_name);
    assert_eq!(taken(line, ShardId::new(line.to_owned())).is_some(), is_shard, "{line:?}");
    let is_worker = (1..=MAX_WORKER_ID_BYTES).contains(&line.len());
    assert_eq!(taken(line, WorkerId::new(line.to_owned())).is_some(), is_worker, "{line:?}");
    let is_hash_key = is_number && big(line) <= big(&u128::MAX.to_string());
    assert_eq!(taken(line, line.parse::<HashKey>()).is_some(), is_hash_key, "{line:?}");

    let sub_sequence_number = line.len() as u64;
    let position = Position::from_checkpoint(line, sub_sequence_number);
    assert_eq!(position.is_ok(), number.is_some() || SENTINELS.contains(&line), "{line:?}");
    let position = position.ok()?;
    assert_eq!(position.checkpoint(), line);
    let kept = if number.is_some() { sub_sequence_number } else { 0 };
    assert_eq!(position.sub_sequence_number(), kept, "a sentinel has no place inside a record");
    let again = Position::from_checkpoint(position.checkpoint(), position.sub_sequence_number());
    assert_eq!(again.expect("what was written can be read"), position);
    let written = to_value(&position).expect("it can be written");
    assert_eq!(from_value::<Position>(written).expect("it can be read"), position);
    Some(position)
}

/// What is taken is written as it was read; what is not is named, as invalid.
fn taken<T: Display>(line: &str, read: Result<T, StoreError>) -> Option<T> {
    match read {
        Ok(value) => {
            assert_eq!(value.to_string(), line);
            Some(value)
        }
        Err(error) => {
            assert_eq!(error.kind(), StoreErrorKind::Invalid);
            assert!(error.to_string().contains(&format!("{line:?}")), "{error} does not show {line:?}");
            None
        }
    }
}

/// The order of two positions that were read from these lines: of the sentinels as the KCL has it, of numbers by their value.
fn in_order(one: &str, other: &str) -> Ordering {
    // Where a line stands among the sentinels: numbers have a place of their own before the last one.
    let rank = |line: &str| SENTINELS.iter().position(|sentinel| *sentinel == line).map_or(5, |at| at * 2);
    rank(one).cmp(&rank(other)).then_with(|| big(one).cmp(&big(other)))
}

/// The limbs of a decimal number, the highest first and none of them a leading zero: multiplied and added up, so that nothing
/// of the text decides. Two of them are compared by how many there are, then from the highest on.
fn big(decimal: &str) -> (usize, Vec<u32>) {
    let mut limbs: Vec<u32> = Vec::new();
    for digit in decimal.bytes().filter(u8::is_ascii_digit) {
        let mut carry = u64::from(digit - b'0');
        for limb in &mut limbs {
            let sum = u64::from(*limb) * 10 + carry;
            (*limb, carry) = (low(sum), sum >> u32::BITS);
        }
        if carry > 0 {
            limbs.push(low(carry));
        }
    }
    limbs.reverse();
    (limbs.len(), limbs)
}

#[allow(clippy::cast_possible_truncation)] // the low half is meant
fn low(number: u64) -> u32 {
    number as u32
}
