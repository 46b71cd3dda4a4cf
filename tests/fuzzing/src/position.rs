//! Sequence numbers, positions, shard ids, worker ids and hash keys. An accepted value is written as it was read and
//! ordered by its number; an error shows the refused value.
//!
//! An input is up to three lines, to compare positions with each other.

use std::cmp::Ordering;
use std::fmt::Display;

use lease_store::{HashKey, Position, SequenceNumber, ShardId, StoreError, StoreErrorKind, WorkerId};
use serde_json::{from_value, to_value};

use crate::target::{Reading, Target};

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

/// Most digits of a sequence number (Kinesis API).
const MAX_DIGITS: usize = 129;

/// Longest name of a shard and of a worker, in bytes.
const MAX_SHARD_ID_BYTES: usize = 128;
const MAX_WORKER_ID_BYTES: usize = 256;

/// The sentinels in order; every number comes before the last one.
const SENTINELS: [&str; 4] = ["AT_TIMESTAMP", "TRIM_HORIZON", "LATEST", "SHARD_END"];

fn check(input: &[u8]) -> Reading {
    let Ok(text) = std::str::from_utf8(input) else { return Reading::Ignored };
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

/// Parses the line as every kind of value. Returns the position if it is one.
fn check_line(line: &str) -> Option<Position> {
    let is_canonical = line == "0" || (!line.starts_with('0') && !line.is_empty());
    let is_number = is_canonical && line.bytes().all(|byte| byte.is_ascii_digit());
    let number = accepted(line, SequenceNumber::new(line.to_owned()));
    assert_eq!(number.is_some(), is_number && line.len() <= MAX_DIGITS, "{line:?}");
    if let Some(number) = &number {
        let written = to_value(number).expect("cannot write the value");
        assert_eq!(&from_value::<SequenceNumber>(written).expect("cannot read the written value"), number);
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let is_shard = (1..=MAX_SHARD_ID_BYTES).contains(&line.len()) && line.bytes().all(is_name);
    assert_eq!(accepted(line, ShardId::new(line.to_owned())).is_some(), is_shard, "{line:?}");
    let is_worker = (1..=MAX_WORKER_ID_BYTES).contains(&line.len());
    assert_eq!(accepted(line, WorkerId::new(line.to_owned())).is_some(), is_worker, "{line:?}");
    let is_hash_key = is_number && big(line) <= big(&u128::MAX.to_string());
    assert_eq!(accepted(line, line.parse::<HashKey>()).is_some(), is_hash_key, "{line:?}");

    let sub_sequence_number = line.len() as u64;
    let position = Position::from_checkpoint(line, sub_sequence_number);
    assert_eq!(position.is_ok(), number.is_some() || SENTINELS.contains(&line), "{line:?}");
    let position = position.ok()?;
    assert_eq!(position.checkpoint(), line);
    let kept = if number.is_some() { sub_sequence_number } else { 0 };
    assert_eq!(position.sub_sequence_number(), kept, "a sentinel has a sub-sequence number");
    let again = Position::from_checkpoint(position.checkpoint(), position.sub_sequence_number());
    assert_eq!(again.expect("cannot read the written position"), position);
    let written = to_value(&position).expect("cannot write the value");
    assert_eq!(from_value::<Position>(written).expect("cannot read the written value"), position);
    Some(position)
}

/// Checks that an accepted value is written as it was read, and that an error shows the refused text.
fn accepted<T: Display>(line: &str, read: Result<T, StoreError>) -> Option<T> {
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

/// Returns the order of the positions on two lines: sentinels as in the KCL, numbers by value.
fn in_order(one: &str, other: &str) -> Ordering {
    // The rank among the sentinels. Numbers rank before the last one.
    let rank = |line: &str| SENTINELS.iter().position(|sentinel| *sentinel == line).map_or(5, |at| at * 2);
    rank(one).cmp(&rank(other)).then_with(|| big(one).cmp(&big(other)))
}

/// Returns the limbs of a decimal number from the highest on, without leading zeros, and their count. The arithmetic
/// is independent of the text, so comparing it checks the ordering of positions.
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

#[allow(clippy::cast_possible_truncation)] // only the low half
fn low(number: u64) -> u32 {
    number as u32
}
