//! A position in a shard: after a record, or one of the KCL's sentinels.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::sequence_number::SequenceNumber;

/// The position of one record: its sequence number and, inside an aggregated record, its sub-sequence number.
///
/// Ordered by (sequence number, sub-sequence number). A record that is not part of an aggregate has sub-sequence
/// number 0.
///
/// ```
/// use lease_store::{RecordPosition, SequenceNumber};
///
/// // The first two records of one aggregate.
/// let sequence_number = SequenceNumber::from(4959_u128);
/// let first = RecordPosition { sequence_number: sequence_number.clone(), sub_sequence_number: 0 };
/// let second = RecordPosition { sequence_number, sub_sequence_number: 1 };
/// assert!(first < second);
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RecordPosition {
    /// The sequence number that Kinesis gave the (aggregated) record.
    pub sequence_number: SequenceNumber,
    /// The index of the record inside its aggregate, 0 for a plain record.
    pub sub_sequence_number: u64,
}

/// A position in a shard, as a lease row stores it.
///
/// The order is the KCL's (`ExtendedSequenceNumber`): `AT_TIMESTAMP` < `TRIM_HORIZON` < `LATEST` < any record <
/// `SHARD_END`. A checkpoint may only move forward in it.
///
/// ```
/// use lease_store::Position;
///
/// let position = Position::from_checkpoint("4959", 2)?;
/// assert_eq!(position, Position::after("4959".parse()?, 2));
/// assert!(Position::TrimHorizon < position && position < Position::ShardEnd);
/// # Ok::<(), lease_store::StoreError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Position {
    /// Start at the first record at or after an instant. The position does not hold the instant: the row of the lease does, in
    /// [`Lease::initial_time_millis`](crate::Lease::initial_time_millis). A row of a KCL worker has none; then the instant
    /// comes from the configuration, which must be the same in the whole fleet.
    AtTimestamp,
    /// Start at the oldest record that the stream still retains.
    TrimHorizon,
    /// Start after the newest record at the first start of the application. As for `AtTimestamp`, the position does not hold
    /// that instant: the row of the lease does. A row without an instant, such as one of a KCL worker, means the tip when the
    /// shard is opened.
    Latest,
    /// This record and all records before it are processed.
    After(RecordPosition),
    /// The shard is closed and read to its end.
    ShardEnd,
}

impl Position {
    const AT_TIMESTAMP: &'static str = "AT_TIMESTAMP";
    const TRIM_HORIZON: &'static str = "TRIM_HORIZON";
    const LATEST: &'static str = "LATEST";
    const SHARD_END: &'static str = "SHARD_END";

    /// The position after one record.
    pub fn after(sequence_number: SequenceNumber, sub_sequence_number: u64) -> Self {
        Self::After(RecordPosition { sequence_number, sub_sequence_number })
    }

    /// Parses the KCL's attributes `checkpoint` and `checkpointSubSequenceNumber`.
    ///
    /// # Errors
    /// `Invalid` when the text is neither a sentinel nor a sequence number.
    pub fn from_checkpoint(checkpoint: &str, sub_sequence_number: u64) -> Result<Self, StoreError> {
        match checkpoint {
            Self::AT_TIMESTAMP => Ok(Self::AtTimestamp),
            Self::TRIM_HORIZON => Ok(Self::TrimHorizon),
            Self::LATEST => Ok(Self::Latest),
            Self::SHARD_END => Ok(Self::ShardEnd),
            number => Ok(Self::after(number.parse()?, sub_sequence_number)),
        }
    }

    /// The KCL's attribute `checkpoint`: a sentinel's name or the decimal sequence number.
    pub fn checkpoint(&self) -> &str {
        match self {
            Self::AtTimestamp => Self::AT_TIMESTAMP,
            Self::TrimHorizon => Self::TRIM_HORIZON,
            Self::Latest => Self::LATEST,
            Self::After(record) => record.sequence_number.as_str(),
            Self::ShardEnd => Self::SHARD_END,
        }
    }

    /// The KCL's attribute `checkpointSubSequenceNumber`, 0 for a sentinel.
    pub fn sub_sequence_number(&self) -> u64 {
        match self {
            Self::After(record) => record.sub_sequence_number,
            Self::AtTimestamp | Self::TrimHorizon | Self::Latest | Self::ShardEnd => 0,
        }
    }

    /// Whether the shard is read to its end.
    pub fn is_shard_end(&self) -> bool {
        matches!(self, Self::ShardEnd)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.checkpoint())?;
        match self.sub_sequence_number() {
            0 => Ok(()),
            sub_sequence_number => write!(formatter, "/{sub_sequence_number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(number: u128, sub_sequence_number: u64) -> Position {
        Position::after(number.into(), sub_sequence_number)
    }

    #[test]
    fn order_is_the_kcl_order() {
        let ascending = [
            Position::AtTimestamp,
            Position::TrimHorizon,
            Position::Latest,
            after(0, 0),
            after(9, 7),
            after(10, 0),
            after(10, 1),
            Position::ShardEnd,
        ];
        assert!(ascending.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn checkpoint_text_round_trips() {
        for position in [
            Position::AtTimestamp,
            Position::TrimHorizon,
            Position::Latest,
            after(4959, 3),
            Position::ShardEnd,
        ] {
            let read = Position::from_checkpoint(position.checkpoint(), position.sub_sequence_number());
            assert_eq!(read.unwrap(), position);
        }
        assert!(Position::from_checkpoint("trim_horizon", 0).is_err());
        assert!(Position::from_checkpoint("", 0).is_err());
    }
}
