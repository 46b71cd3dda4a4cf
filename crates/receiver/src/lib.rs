//! A fleet member: it finds the shards of a stream, takes its share of them, and keeps each one working.
//!
//! Any number of [`Receiver`]s with the same application name share a stream through one lease store, in one process or
//! in many. Each looks at the leases in turn, takes what is free, moves what is out of balance, reads its shards, and
//! gives them up when it stops. Who takes what, which shards need a lease and when a lease has expired are pure
//! functions ([`plan_assignment`], [`plan_new_leases`], [`plan_cleanup`], [`LeaseObservations`]); the receiver only carries the plans out.
//!
//! | what | where |
//! | --- | --- |
//! | the fleet member | [`Receiver`], built by [`ReceiverBuilder`], steered by [`ReceiverHandle`] |
//! | several in one process | [`ReceiverGroup`] |
//! | all shards as one stream | [`united_stream`], [`UnitedStream`], [`Delivery`] |
//! | its settings | [`ReceiverSettings`], [`InitialPosition`], [`ShardPosition`] |
//! | how it is doing | [`ReceiverStatus`], [`StopReport`] |

mod assignment;
mod bounded_run;
mod builder;
mod children;
mod cleanup;
mod coverage;
mod end_of_shard;
mod error;
mod group;
mod handle;
mod identity;
mod initial_position;
mod keeper;
mod last_write;
mod leader;
mod lineage;
mod member;
mod observations;
mod receiver;
mod settings;
mod shard_sync;
mod shard_task;
mod start_notice;
mod status;
mod supervision;
mod united_stream;

pub use assignment::{
    AssignmentLimits, AssignmentPlan, Holdings, ObservedLease, is_sure_of_parents, plan_assignment,
};
pub use builder::ReceiverBuilder;
pub use cleanup::plan_cleanup;
pub use coverage::{Coverage, coverage};
pub use end_of_shard::{EndObstacle, EndStep, MAX_CHILD_LOOKUPS, lease_of_child, other_parents};
pub use error::{ReceiverError, ReceiverErrorKind};
pub use group::{ReceiverGroup, ReceiverGroupHandle};
pub use handle::ReceiverHandle;
pub use identity::{check_identity, check_shards};
pub use initial_position::{InitialPosition, ShardPosition};
pub use keeper::{Renewal, renewal};
pub use leader::kcl_leader;
pub use observations::LeaseObservations;
pub use receiver::Receiver;
pub use settings::ReceiverSettings;
pub use shard_sync::{StartTime, plan_new_leases};
pub use start_notice::{StartNotice, start_notice};
pub use status::{ReceiverState, ReceiverStatus, ShardStatus, StopReport};
pub use united_stream::{Delivery, UnitedProcessors, UnitedStream, united_stream};
