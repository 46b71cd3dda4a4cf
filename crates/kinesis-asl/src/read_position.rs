//! The position up to which a shard was read. Polling and fan-out share it, so one can resume from the other.

use std::time::SystemTime;

use lease_store::SequenceNumber;
use shard_worker::ReadFrom;

/// The position from which the next iterator or subscription reads; the variants are the API's iterator types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadPosition {
    /// The oldest record.
    TrimHorizon,
    /// The first record that arrived at this time or later.
    AtTimestamp(SystemTime),
    /// This record.
    AtSequenceNumber(SequenceNumber),
    /// The tip of the shard. `since` is the service's clock when the first iterator or subscription for it was made;
    /// `None`: not known. A second `LATEST` would skip records that arrived since the first, so it resumes from that time.
    Latest { since: Option<SystemTime> },
    /// The record after this one, which was returned to the caller.
    AfterSequenceNumber(SequenceNumber),
}

impl ReadPosition {
    /// The same position for another iterator or subscription: a known `LATEST` becomes its time.
    pub(crate) fn for_retry(self) -> Self {
        match self {
            Self::Latest { since: Some(since) } => Self::AtTimestamp(since),
            other => other,
        }
    }
}

impl From<ReadFrom> for ReadPosition {
    fn from(from: ReadFrom) -> Self {
        match from {
            ReadFrom::TrimHorizon => Self::TrimHorizon,
            ReadFrom::Latest => Self::Latest { since: None },
            ReadFrom::AtTimestamp(time) => Self::AtTimestamp(time),
            ReadFrom::At(sequence_number) => Self::AtSequenceNumber(sequence_number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn latest_is_retried_at_its_time() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let latest = ReadPosition::Latest { since: Some(time) };
        assert_eq!(latest.for_retry(), ReadPosition::AtTimestamp(time));
        for position in
            [ReadPosition::TrimHorizon, ReadPosition::Latest { since: None }, ReadPosition::AtTimestamp(time)]
        {
            assert_eq!(position.clone().for_retry(), position);
        }
    }
}
