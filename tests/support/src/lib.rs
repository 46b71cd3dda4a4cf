//! Support for the tests of this workspace: a stream and a lease store with hooks, a log of reads, a capture of log events,
//! helpers for a paused clock, a journal of deliveries, and the lease-taking of the KCL. With the feature `object-store` an
//! object store that fails on demand.
//!
//! Of the crates it depends on `lease-store` and `shard-worker` alone, so that the integration tests of these two and of every
//! crate above them can use it. It knows nothing of the receiver or of AWS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // only tests call it

#[cfg(feature = "object-store")]
pub mod faulty_object_store;
pub mod hooked_lease_store;
pub mod hooked_stream;
pub mod journal;
pub mod kcl_taking;
pub mod log_capture;
pub mod paused_clock;
pub mod read_log;
pub mod switch;

pub use hooked_lease_store::{HookedLeaseStore, StoreCall};
pub use hooked_stream::{HookedStream, StreamCall};
pub use journal::{Journal, JournalEntry};
pub use kcl_taking::KclLeaseTaker;
pub use log_capture::{LogCapture, LogEvent};
pub use paused_clock::{LIMIT, run_with_paused_clock, wait_until, wait_until_within};
pub use read_log::ReadLog;
pub use switch::Switch;
