//! The shapes of answers: number and size of records.

use std::fmt;

/// Number of records in an aggregate of the shape `d`.
pub(crate) const RECORDS_PER_AGGREGATE: u64 = 100;

/// One answer of `GetRecords`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// 1,000 records of 1 KB.
    A,
    /// 10,000 records of 100 bytes.
    B,
    /// 100 records of 50 KB.
    C,
    /// 100 aggregates of 100 records of 100 bytes.
    D,
    /// No records.
    E,
    /// Records put at a steady rate, to measure their latency.
    Paced,
}

impl Shape {
    /// Returns the shape with this letter.
    pub(crate) fn of(letter: &str) -> Option<Self> {
        [Self::A, Self::B, Self::C, Self::D, Self::E, Self::Paced]
            .into_iter()
            .find(|shape| shape.letter() == letter)
    }

    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::E => "e",
            Self::Paced => "paced",
        }
    }

    /// Number of Kinesis records in an answer.
    pub(crate) fn records(self) -> u64 {
        match self {
            Self::A => 1000,
            Self::B => 10_000,
            Self::C | Self::D => 100,
            Self::E | Self::Paced => 0,
        }
    }

    /// Payload of a user record, in bytes.
    pub(crate) fn payload_bytes(self) -> u64 {
        match self {
            Self::A => 1000,
            Self::C => 50_000,
            Self::B | Self::D | Self::Paced => 100,
            Self::E => 0,
        }
    }

    /// Number of user records in an answer.
    pub(crate) fn user_records(self) -> u64 {
        self.records() * if self == Self::D { RECORDS_PER_AGGREGATE } else { 1 }
    }

    /// Payload of all user records in an answer, in bytes.
    pub(crate) fn user_bytes(self) -> u64 {
        self.user_records() * self.payload_bytes()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::A => "a: 1,000 x 1 KB",
            Self::B => "b: 10,000 x 100 B",
            Self::C => "c: 100 x 50 KB",
            Self::D => "d: 100 x 100 x 100 B, aggregated",
            Self::E => "e: empty",
            Self::Paced => "10 records of 100 B a second",
        })
    }
}
