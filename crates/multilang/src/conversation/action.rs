//! The actions that a child answers with a status.

use std::fmt;

/// An action that a child answers with a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// The first one.
    Initialize,
    /// A batch of records.
    ProcessRecords,
    /// Another worker owns the shard, or this worker has stopped.
    LeaseLost,
    /// The shard was read to its end.
    ShardEnded,
    /// This worker is about to stop.
    ShutdownRequested,
}

impl Action {
    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::ProcessRecords => "processRecords",
            Self::LeaseLost => "leaseLost",
            Self::ShardEnded => "shardEnded",
            Self::ShutdownRequested => "shutdownRequested",
        }
    }

    /// Whether the child may checkpoint during this action.
    pub fn may_checkpoint(self) -> bool {
        matches!(self, Self::ProcessRecords | Self::ShardEnded | Self::ShutdownRequested)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
