//! A worker of a Kinesis consumer fleet: it finds the shards of a stream, takes its share of the leases, and reads them.
//!
//! Any number of [`Consumer`]s with the same application name share a stream through one lease store, in one process or
//! in many. Each scans the leases in rounds, takes free ones, balances the fleet, reads its shards, and hands them over or
//! releases them when it stops. Pure functions decide which leases to take, which to create and which have expired
//! (`assignment`, `shards`). The coordinator carries the plans out (`coordinator`, `lease`).
//!
//! | what | where |
//! | --- | --- |
//! | the worker | [`Consumer`], built by [`ConsumerBuilder`], stopped and observed by [`ConsumerHandle`] |
//! | several in one process | [`ConsumerGroup`] |
//! | several streams in one worker | [`MultiStreamConsumer`], built by [`ConsumerBuilder::with_streams`] |
//! | all shards as one stream | [`united_stream`], [`UnitedStream`], [`Delivery`] |
//! | its settings | [`ConsumerSettings`], [`InitialPosition`], [`ShardPosition`] |
//! | its status | [`ConsumerStatus`], [`Health`], [`StopReport`] |

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
mod streams;
mod united_stream;
mod worker_name;

pub use builder::ConsumerBuilder;
pub use error::{ConsumerError, ConsumerErrorKind};
pub use group::{ConsumerGroup, ConsumerGroupHandle};
pub use handle::ConsumerHandle;
pub use health::{DEFAULT_STUCK_AFTER, Health, HealthFault};
pub use receiver::Consumer;
pub use settings::ConsumerSettings;
pub use shards::initial_position::{InitialPosition, ShardPosition};
pub use status::{
    ConsumerState, ConsumerStatus, LeaseTableState, MAX_RELEASED_SHARDS, MAX_SHARDS_WITHOUT_WORKER,
    ReleasedShard, ShardStatus, StopReport, Unread, UnreadReason,
};
pub use streams::builder::MultiStreamBuilder;
pub use streams::config::StreamConfig;
pub use streams::consumer::{
    MultiStreamConsumer, MultiStreamHandle, MultiStreamReport, StreamReport, StreamStatus,
};
pub use streams::former::FormerLeases;
pub use streams::list::MAX_STREAMS;
pub use united_stream::{Delivery, UnitedProcessors, UnitedStream, united_stream};
