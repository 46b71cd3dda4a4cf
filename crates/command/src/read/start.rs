//! Where a reading starts: a place in every shard, or a position in one. Pure.

use std::time::SystemTime;

use fleet_view::parse_position;
use lease_store::{Position, RecordPosition};
use shard_worker::ReadFrom;

use crate::time_argument::parse_instant;
use crate::wall_clock::time_of;

/// Numbers with more digits than this are sequence numbers, not times.
const MAX_DIGITS_OF_TIME: usize = 16;

/// Where a reading starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the oldest record.
    TrimHorizon,
    /// After the newest record.
    Tip,
    /// At the first record that arrived at this time or later.
    Time(SystemTime),
    /// At this record of one shard.
    Record(RecordPosition),
    /// After this record of one shard.
    After(RecordPosition),
}

impl Start {
    /// Reads `trim-horizon`, `tip`, a position, or a time.
    ///
    /// # Errors
    /// A text that says which forms there are.
    pub(crate) fn parse(text: &str, now_millis: u64) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "trim-horizon" | "trim_horizon" => return Ok(Self::TrimHorizon),
            "tip" | "latest" => return Ok(Self::Tip),
            _ => {}
        }
        let number = text.split('/').next().unwrap_or_default();
        if number.len() > MAX_DIGITS_OF_TIME && number.bytes().all(|byte| byte.is_ascii_digit()) {
            return match parse_position(text) {
                Ok(Position::After(record)) => Ok(Self::Record(record)),
                Ok(_) => Err(format!("{text:?} is no position of a record")),
                Err(error) => Err(error.to_string()),
            };
        }
        let millis = parse_instant(text, now_millis)
            .map_err(|fault| format!("{fault}, or trim-horizon, tip, or the sequence number of a record"))?;
        time_of(millis).map(Self::Time).ok_or_else(|| format!("{text:?} is out of range"))
    }

    /// Where the first shards are read from.
    pub(crate) fn of_roots(&self) -> ReadFrom {
        match self {
            Self::TrimHorizon => ReadFrom::TrimHorizon,
            Self::Tip => ReadFrom::Latest,
            Self::Time(time) => ReadFrom::AtTimestamp(*time),
            Self::Record(record) | Self::After(record) => ReadFrom::At(record.sequence_number.clone()),
        }
    }

    /// Where the children of a shard are read from. A child may be older than a time.
    pub(crate) fn of_children(&self) -> ReadFrom {
        match self {
            Self::Time(time) => ReadFrom::AtTimestamp(*time),
            Self::TrimHorizon | Self::Tip | Self::Record(_) | Self::After(_) => ReadFrom::TrimHorizon,
        }
    }

    /// Whether a record of the first shard comes before the start, such as an earlier one of the same aggregate.
    pub(crate) fn is_before(&self, record: &RecordPosition) -> bool {
        match self {
            Self::Record(start) => record < start,
            Self::After(done) => record <= done,
            Self::TrimHorizon | Self::Tip | Self::Time(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn starts_have_several_forms() {
        let now = 1_700_000_000_000;
        let at = |millis| Start::Time(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(Start::parse("TRIM_HORIZON", now), Ok(Start::TrimHorizon));
        assert_eq!(Start::parse("latest", now), Ok(Start::Tip));
        assert_eq!(Start::parse("5m", now), Ok(at(now - 300_000)));
        assert_eq!(Start::parse("1700000000", now), Ok(at(now)));
        let number = "49590338271490256608559692538361571095921575989136588898";
        let Ok(Start::Record(record)) = Start::parse(&format!("{number}/3"), now) else {
            panic!("a position");
        };
        assert_eq!(record.sequence_number.as_str(), number);
        assert_eq!(record.sub_sequence_number, 3);
        assert!(Start::parse("yesterday", now).unwrap_err().contains("trim-horizon"));
    }

    #[test]
    fn children_of_a_time_start_at_that_time() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
        assert_eq!(Start::Time(time).of_children(), ReadFrom::AtTimestamp(time));
        assert_eq!(Start::Tip.of_children(), ReadFrom::TrimHorizon);
    }
}
