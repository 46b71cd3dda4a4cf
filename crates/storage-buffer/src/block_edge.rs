//! Edges: boundaries between two records of a shard, such as the start of a block or the end of the served records.

use std::time::SystemTime;

use lease_store::SequenceNumber;
use shard_worker::ReadFrom;

/// A boundary between two records of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Before the oldest record that the stream retained.
    TrimHorizon,
    /// After the newest record at the time of opening, whose number is unknown.
    Latest,
    /// Before the first record that arrived at or after this time.
    AtTimestamp(SystemTime),
    /// Before the record with this sequence number.
    At(SequenceNumber),
    /// After the record with this sequence number.
    After(SequenceNumber),
}

impl Edge {
    /// Whether every record after `other` is certainly after this edge too.
    pub(crate) fn is_no_later_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::TrimHorizon, _) | (Self::Latest, Self::Latest) => true,
            (Self::After(mine), Self::At(theirs)) => mine < theirs,
            (Self::After(mine), Self::After(theirs))
            | (Self::At(mine), Self::At(theirs) | Self::After(theirs)) => mine <= theirs,
            (Self::AtTimestamp(mine), Self::AtTimestamp(theirs)) => mine <= theirs,
            _ => false,
        }
    }

    /// Whether this edge is past a record: the record comes before it.
    pub(crate) fn is_past(&self, record: &SequenceNumber) -> bool {
        match self {
            Self::At(edge) => record < edge,
            Self::After(edge) => record <= edge,
            Self::TrimHorizon | Self::Latest | Self::AtTimestamp(_) => false,
        }
    }

    /// Where to open the stream to read on from this edge. The caller skips the records that the edge [`is_past`](Self::is_past).
    pub(crate) fn read_from(&self) -> ReadFrom {
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
    fn edges_compare_only_where_their_order_is_certain() {
        let (at, after) = (|n: u128| Edge::At(n.into()), |n: u128| Edge::After(n.into()));
        for (mine, theirs, expected) in [
            (after(4), after(4), true),
            (after(4), after(3), false),
            (after(4), at(5), true),
            (after(4), at(4), false),
            (at(4), after(4), true),
            (at(4), at(4), true),
            (at(5), at(4), false),
            // A record may lie between the two.
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
