//! Why a plan must not be carried out, and what to know about one that may. Each text names its remedy.

use std::fmt;

use lease_store::{ShardId, StreamIdentity, WorkerId};
use serde::{Deserialize, Serialize};

use crate::text::{duration_text, instant_text};

/// Why a plan must not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// The history does not end with the look.
    HistoryOfOtherLook,
    /// The shards could not be listed.
    ShardsUnknown,
    /// A worker renews leases.
    WorkerRenews {
        /// The worker.
        worker_id: WorkerId,
        /// How many leases it owns.
        leases: usize,
    },
    /// A worker owns leases, and the looks so far do not tell whether it is alive.
    WorkerMayRenew {
        /// The worker.
        worker_id: WorkerId,
        /// How many leases it owns.
        leases: usize,
    },
    /// A worker of a KCL 3.x fleet has reported about itself, so it is alive although it owns no lease.
    WorkerReports {
        /// The worker.
        worker_id: WorkerId,
        /// How long ago, in seconds.
        seconds: u64,
    },
    /// The live owner of a lease does not understand requests: it is no worker of this library.
    OwnerCannotBeAsked {
        /// The shard.
        shard_id: ShardId,
        /// The owner.
        worker_id: WorkerId,
    },
    /// An earlier request to the owner is not carried out yet.
    RequestPending {
        /// The shard.
        shard_id: ShardId,
    },
    /// The lease is being handed over.
    HandOverUnderWay {
        /// The shard.
        shard_id: ShardId,
    },
    /// The leader of a KCL 3.x fleet assigns the leases.
    LeaderAssigns,
    /// A row cannot be read.
    MalformedRow {
        /// Its key.
        key: String,
    },
    /// The positions belong to another stream.
    OtherStream {
        /// The stream that is read.
        expected: StreamIdentity,
        /// The stream of the positions.
        found: StreamIdentity,
    },
    /// It is not known which stream the positions belong to.
    StreamUnknown,
    /// Neither stream nor table has such a shard.
    UnknownShard {
        /// The shard.
        shard_id: ShardId,
    },
    /// The stream no longer lists the shard, so that nothing can be read from it.
    GoneShard {
        /// The shard.
        shard_id: ShardId,
    },
    /// The shard has no row yet.
    NoRow {
        /// The shard.
        shard_id: ShardId,
    },
    /// The shard is read to its end.
    ShardEnded {
        /// The shard.
        shard_id: ShardId,
    },
    /// The file says that a shard is ended which still receives records.
    OpenShardCannotEnd {
        /// The shard.
        shard_id: ShardId,
    },
    /// The time lies in the future.
    FutureTime {
        /// The time, in milliseconds since 1970.
        at_millis: u64,
    },
    /// The end of the pause lies in the past.
    PauseInPast {
        /// The end, in milliseconds since 1970.
        until_millis: u64,
    },
    /// No lease that the worker renews is known.
    UnknownWorker {
        /// The worker.
        worker_id: WorkerId,
    },
    /// The table to copy to already has other rows.
    TableInUse {
        /// The application that the table belongs to.
        application: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HistoryOfOtherLook => {
                formatter.write_str("the history does not end with this look; add the look to it first")
            }
            Self::ShardsUnknown => {
                formatter.write_str("the shards could not be listed; allow kinesis:ListShards")
            }
            Self::WorkerRenews { worker_id, leases } => {
                write!(formatter, "worker {worker_id} renews {leases} leases; stop it, or ask it with --live")
            }
            Self::WorkerMayRenew { worker_id, leases } => write!(
                formatter,
                "worker {worker_id} owns {leases} leases and may be alive; look again after a minute"
            ),
            Self::WorkerReports { worker_id, seconds } => {
                write!(
                    formatter,
                    "worker {worker_id} reported about itself {seconds} s ago; stop it, and wait"
                )
            }
            Self::OwnerCannotBeAsked { shard_id, worker_id } => write!(
                formatter,
                "the owner of {shard_id}, {worker_id}, is not known to understand requests; stop it first"
            ),
            Self::RequestPending { shard_id } => write!(
                formatter,
                "an earlier request to the owner of {shard_id} is not carried out yet; wait for it"
            ),
            Self::HandOverUnderWay { shard_id } => {
                write!(formatter, "the lease of {shard_id} is being handed over; look again in a minute")
            }
            Self::LeaderAssigns => {
                formatter.write_str("the leader of a KCL 3.x fleet assigns the leases; stop the fleet first")
            }
            Self::MalformedRow { key } => {
                write!(formatter, "row {key:?} cannot be read; repair or delete the row first")
            }
            Self::OtherStream { expected, found } => write!(
                formatter,
                "the positions belong to the stream {found}, not to {expected}; use positions of this stream"
            ),
            Self::StreamUnknown => formatter.write_str(
                "it is not known which stream the positions belong to; allow kinesis:DescribeStreamSummary",
            ),
            Self::UnknownShard { shard_id } => {
                write!(formatter, "neither stream nor table has {shard_id}; check the name")
            }
            Self::GoneShard { shard_id } => {
                write!(formatter, "the stream no longer lists {shard_id}; leave it out")
            }
            Self::NoRow { shard_id } => {
                write!(formatter, "{shard_id} has no row yet; start a worker, which adds it")
            }
            Self::ShardEnded { shard_id } => {
                write!(formatter, "{shard_id} is read to its end; to read it again, reset it")
            }
            Self::OpenShardCannotEnd { shard_id } => write!(
                formatter,
                "the file says that {shard_id} is ended, but it still receives records; use positions of this stream"
            ),
            Self::FutureTime { at_millis } => write!(
                formatter,
                "{} lies in the future; to start at new records only, reset to latest",
                instant_text(*at_millis)
            ),
            Self::PauseInPast { until_millis } => {
                write!(formatter, "the pause would end at {}, in the past", instant_text(*until_millis))
            }
            Self::UnknownWorker { worker_id } => write!(
                formatter,
                "no lease that worker {worker_id} renews is known; check its id, or accept an unknown worker"
            ),
            Self::TableInUse { application } => write!(
                formatter,
                "the table of {application} already has other positions; delete that application first"
            ),
        }
    }
}

/// What a person should know about a plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Note {
    /// The stream no longer lists the shard: its row stays as it is.
    LeftGoneShard {
        /// The shard.
        shard_id: ShardId,
    },
    /// The file does not mention the shard, nor one that it came from: its row stays as it is.
    NotInFile {
        /// The shard.
        shard_id: ShardId,
    },
    /// The time is before the oldest record of the stream: that many milliseconds of it are gone.
    BeforeHorizon {
        /// How far before.
        millis: u64,
    },
    /// The KCL's workers do not store the instant of a position: they take it from their settings.
    KclIgnoresInstants,
    /// The KCL's workers take and read paused shards.
    KclIgnoresPauses,
    /// The pause lasts until after the first waiting record of the shard is removed.
    PauseOutlastsRetention {
        /// The shard.
        shard_id: ShardId,
        /// When the record is removed, in milliseconds from the look.
        lost_in_millis: u64,
    },
    /// The position is `LATEST` without an instant, as workers of the KCL store it. The instant of the look, or of the file,
    /// takes its place.
    InstantUnknown {
        /// The shard.
        shard_id: ShardId,
    },
    /// The position is `AT_TIMESTAMP`, and its instant is in the settings of the KCL alone.
    InstantInSettings {
        /// The shard.
        shard_id: ShardId,
    },
    /// The rows name another application: the table was made under that name.
    FormerApplication {
        /// The name.
        name: String,
    },
    /// Nothing changes for the shard.
    AlreadySo {
        /// The shard.
        shard_id: ShardId,
    },
    /// A row that stays behind.
    RowStays {
        /// Its key.
        key: String,
    },
    /// A table of a KCL 3.0 to 3.4 fleet beside the lease table, which stays behind.
    TableStays {
        /// Its name.
        name: String,
    },
    /// The worker must take up the lease within its fail-over time; otherwise another worker takes it.
    MustTakeUp {
        /// The shard.
        shard_id: ShardId,
        /// The worker.
        worker_id: WorkerId,
    },
    /// Resetting a parent does not reset its children: their records are not read again.
    ChildrenStay {
        /// The parent.
        shard_id: ShardId,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftGoneShard { shard_id } => {
                write!(formatter, "the stream no longer lists {shard_id}; its row stays as it is")
            }
            Self::NotInFile { shard_id } => {
                write!(formatter, "the file does not mention {shard_id}; its row stays as it is")
            }
            Self::BeforeHorizon { millis } => write!(
                formatter,
                "the time is {} before the oldest record that the stream keeps",
                duration_text(*millis)
            ),
            Self::KclIgnoresInstants => formatter.write_str(
                "workers of the KCL take the instant of a position from their settings, not from the row",
            ),
            Self::KclIgnoresPauses => formatter.write_str("workers of the KCL take and read paused shards"),
            Self::PauseOutlastsRetention { shard_id, lost_in_millis } => write!(
                formatter,
                "records of {shard_id} are lost in {}, before the pause ends",
                duration_text(*lost_in_millis)
            ),
            Self::InstantUnknown { shard_id } => write!(
                formatter,
                "{shard_id} is at LATEST without an instant; reading starts where the positions were taken"
            ),
            Self::InstantInSettings { shard_id } => write!(
                formatter,
                "{shard_id} is at AT_TIMESTAMP, whose time is in the settings of the KCL; set the same initial position for the \
                 workers"
            ),
            Self::FormerApplication { name } => write!(
                formatter,
                "the rows name the application {name}; set former_application to {name} in all workers"
            ),
            Self::AlreadySo { shard_id } => write!(formatter, "nothing changes for {shard_id}"),
            Self::RowStays { key } => write!(formatter, "row {key:?} is no lease of this library and stays"),
            Self::TableStays { name } => {
                write!(
                    formatter,
                    "the table {name:?} of a KCL 3.0 to 3.4 fleet stays; delete it too if no fleet uses it"
                )
            }
            Self::MustTakeUp { shard_id, worker_id } => write!(
                formatter,
                "worker {worker_id} must take up {shard_id} within its fail-over time, or another worker takes it"
            ),
            Self::ChildrenStay { shard_id } => write!(
                formatter,
                "the children of {shard_id} keep their positions; to read them again too, reset the descendants"
            ),
        }
    }
}
