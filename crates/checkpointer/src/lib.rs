//! How far a shard is acknowledged, and when and how that is written.
//!
//! Three watermarks move forward and never back: **delivered** ≥ **acknowledged** ≥ **checkpointed**. The application
//! acknowledges; the [`Checkpointer`] writes the newest acknowledged position at its [`Cadence`], in a task of its own,
//! so that a slow or throttled table never holds up the shard. Only the newest position is written, an unchanged one
//! never. Refused writes are retried by a [`RetryPolicy`] with randomised waits; a writer that is fenced stops at once.
//!
//! | what | where |
//! | --- | --- |
//! | the watermarks, pure | [`Watermarks`] |
//! | when to write, pure | [`Cadence`], [`Due`] |
//! | how long to wait before trying again | [`RetryPolicy`], [`Delays`] |
//! | where it is written to | [`CheckpointWriter`], implemented by [`lease_store::HeldLease`] |
//! | the task that does it | [`Checkpointer`], [`Acknowledger`], [`CheckpointTrigger`] |

mod backoff_delays;
mod cadence;
mod checkpointer;
mod error;
mod retry_policy;
mod watermarks;
mod writer;

pub use cadence::{Cadence, Due, Unwritten};
pub use checkpointer::{Acknowledger, CheckpointTrigger, Checkpointer};
pub use error::{CheckpointError, CheckpointErrorKind};
pub use retry_policy::{Delays, RetryPolicy};
pub use watermarks::Watermarks;
pub use writer::CheckpointWriter;
