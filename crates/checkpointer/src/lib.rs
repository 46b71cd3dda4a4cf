//! Checkpoints of one shard: tracks the acknowledged position and writes it to the lease.
//!
//! Three watermarks move forward and never back: **delivered** ≥ **acknowledged** ≥ **checkpointed**. The application
//! acknowledges. The [`Checkpointer`] writes the newest acknowledged position at its [`Cadence`], in a task of its own,
//! so a slow or throttled table never delays the shard. It never writes an unchanged position. A [`RetryPolicy`] with
//! randomised waits decides about retries; when the lease is fenced, the task stops at once.
//!
//! | topic | items |
//! | --- | --- |
//! | the watermarks, pure | [`Watermarks`] |
//! | the time of the next write, pure | [`Cadence`] |
//! | the waits between attempts | [`RetryPolicy`], [`Delays`] |
//! | the destination | [`CheckpointWriter`], implemented by [`lease_store::HeldLease`] |
//! | the task and its handles | [`Checkpointer`], [`Acknowledger`], [`CheckpointTrigger`], [`Flusher`] |

mod backoff_delays;
mod cadence;
mod checkpointer;
mod error;
mod retry_policy;
mod watermarks;
mod writer;

pub use cadence::Cadence;
pub use checkpointer::{Acknowledger, CheckpointTrigger, Checkpointer, Flusher};
pub use error::{CheckpointError, CheckpointErrorKind};
pub use retry_policy::{Delays, RetryPolicy};
pub use watermarks::Watermarks;
pub use writer::CheckpointWriter;
