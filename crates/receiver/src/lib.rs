//! A worker of a Kinesis consumer fleet: it finds the shards of a stream, takes its share of the leases, and reads them.
//!
//! Any number of [`Receiver`]s with the same application name share a stream through one lease store, in one process or
//! in many. Each scans the leases in rounds, takes free ones, balances the fleet, reads its shards, and hands them over or
//! releases them when it stops. Pure functions decide which leases to take, which to create and which have expired
//! (`assignment`, `shards`). The coordinator carries the plans out (`coordinator`, `lease`).
//!
//! | what | where |
//! | --- | --- |
//! | the worker | [`Receiver`], built by [`ReceiverBuilder`], stopped and observed by [`ReceiverHandle`] |
//! | several in one process | [`ReceiverGroup`] |
//! | all shards as one stream | [`united_stream`], [`UnitedStream`], [`Delivery`] |
//! | its settings | [`ReceiverSettings`], [`InitialPosition`], [`ShardPosition`] |
//! | its status | [`ReceiverStatus`], [`Health`], [`StopReport`] |

// Without `internals` no path leads to the public items of the private modules.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]

mod assignment;
mod builder;
mod coordinator;
mod error;
mod group;
mod handle;
mod health;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod lease;
mod process;
mod receiver;
mod settings;
mod shards;
mod status;
mod united_stream;
mod worker_name;

pub use builder::ReceiverBuilder;
pub use error::{ReceiverError, ReceiverErrorKind};
pub use group::{ReceiverGroup, ReceiverGroupHandle};
pub use handle::ReceiverHandle;
pub use health::{DEFAULT_STUCK_AFTER, Health, HealthFault};
pub use receiver::Receiver;
pub use settings::ReceiverSettings;
pub use shards::initial_position::{InitialPosition, ShardPosition};
pub use status::{
    LeaseTableState, MAX_RELEASED_SHARDS, MAX_SHARDS_WITHOUT_WORKER, ReceiverState, ReceiverStatus,
    ReleasedShard, ShardStatus, StopReport, Unread, UnreadReason,
};
pub use united_stream::{Delivery, UnitedProcessors, UnitedStream, united_stream};
