//! Edges: places between the records of a shard, where blocks begin and serving stands.

use std::time::SystemTime;

use lease_store::SequenceNumber;
use shard_worker::ReadFrom;

/// A place between two records of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edge {
    /// Before everything that the stream kept.
    TrimHorizon,
    /// After what was the newest record, whichever that was.
    Latest,
    /// Before the first record that arrived at this time or later.
    AtTimestamp(SystemTime),
    /// Before the record with this number.
    At(SequenceNumber),
    /// After the record with this number.
    After(SequenceNumber),
}

impl Edge {
    /// Whether everything after `other` comes after this place too, for certain.
    pub(super) fn is_no_later_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::TrimHorizon, _) | (Self::Latest, Self::Latest) => true,
            (Self::After(mine), Self::At(theirs)) => mine < theirs,
            (Self::After(mine), Self::After(theirs))
            | (Self::At(mine), Self::At(theirs) | Self::After(theirs)) => mine <= theirs,
            (Self::AtTimestamp(mine), Self::AtTimestamp(theirs)) => mine <= theirs,
            _ => false,
        }
    }

    /// Whether a record comes before this place.
    pub(super) fn is_past(&self, record: &SequenceNumber) -> bool {
        match self {
            Self::At(edge) => record < edge,
            Self::After(edge) => record <= edge,
            Self::TrimHorizon | Self::Latest | Self::AtTimestamp(_) => false,
        }
    }

    /// Where reading begins that goes on from here; what [`is_past`](Self::is_past) is to be left out of it.
    pub(super) fn read_from(&self) -> ReadFrom {
        match self {
            Self::TrimHorizon => ReadFrom::TrimHorizon,
            Self::Latest => ReadFrom::Latest,
            Self::AtTimestamp(timestamp) => ReadFrom::AtTimestamp(*timestamp),
            Self::At(edge) | Self::After(edge) => ReadFrom::At(edge.clone()),
        }
    }
}

impl From<&ReadFrom> for Edge {
    fn from(from: &ReadFrom) -> Self {
        match from {
            ReadFrom::TrimHorizon => Self::TrimHorizon,
            ReadFrom::Latest => Self::Latest,
            ReadFrom::AtTimestamp(timestamp) => Self::AtTimestamp(*timestamp),
            ReadFrom::At(number) => Self::At(number.clone()),
        }
    }
}

impl std::fmt::Display for Edge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TrimHorizon => formatter.write_str("TRIM_HORIZON"),
            Self::Latest => formatter.write_str("LATEST"),
            Self::AtTimestamp(_) => formatter.write_str("AT_TIMESTAMP"),
            Self::At(number) => write!(formatter, "at {number}"),
            Self::After(number) => write!(formatter, "after {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_ordered_only_where_that_is_certain() {
        let (at, after) = (|n: u128| Edge::At(n.into()), |n: u128| Edge::After(n.into()));
        for (mine, theirs, expected) in [
            (after(4), after(4), true),
            (after(4), after(3), false),
            (after(4), at(5), true),
            (after(4), at(4), false),
            (at(4), after(4), true),
            (at(4), at(4), true),
            (at(5), at(4), false),
            // There may be a record between.
            (at(5), after(4), false),
            (Edge::TrimHorizon, after(4), true),
            (Edge::TrimHorizon, Edge::TrimHorizon, true),
            (after(4), Edge::TrimHorizon, false),
            (Edge::Latest, after(4), false),
            (Edge::Latest, Edge::Latest, true),
        ] {
            assert_eq!(mine.is_no_later_than(&theirs), expected, "{mine} and {theirs}");
        }
    }
}
