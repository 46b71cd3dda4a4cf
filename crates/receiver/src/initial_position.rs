//! Where a shard without a checkpoint starts.

use std::time::SystemTime;

use lease_store::Position;
use serde::{Deserialize, Serialize};

/// Where a shard starts that has no lease and no ancestor with one. Whatever has a checkpoint goes on from there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InitialPosition {
    /// At the oldest record that the stream keeps: nothing is missed.
    #[default]
    TrimHorizon,
    /// After the newest record at the first read: what came before is not seen.
    Latest,
    /// At the first record that arrived at this time or later. The lease table does not hold the time, so it must be
    /// the same in the whole fleet.
    AtTimestamp(SystemTime),
}

impl InitialPosition {
    /// What a new lease says.
    pub fn position(&self) -> Position {
        match self {
            Self::TrimHorizon => Position::TrimHorizon,
            Self::Latest => Position::Latest,
            Self::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// What the lease of a child shard says, whose parent is read to its end: all of it, except what lies before the
    /// timestamp that the application starts at.
    pub fn position_of_child(&self) -> Position {
        match self {
            Self::TrimHorizon | Self::Latest => Position::TrimHorizon,
            Self::AtTimestamp(_) => Position::AtTimestamp,
        }
    }

    /// The timestamp, if that is where the application starts.
    pub fn timestamp(&self) -> Option<SystemTime> {
        match self {
            Self::AtTimestamp(timestamp) => Some(*timestamp),
            Self::TrimHorizon | Self::Latest => None,
        }
    }
}
