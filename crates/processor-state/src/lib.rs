//! The application's own state: a value for each key, with snapshots that hold the positions of their shards.
//!
//! A consumer with a state has two checkpoints: the position of each shard, in its lease, and the state that the application
//! computed from the records, in snapshots. They are written at different times, and a crash can come in between. So each
//! snapshot holds the position up to which records are in it, and a record is acknowledged only after a snapshot holds it:
//! the checkpoint of a shard is never beyond its newest snapshot. The next owner of the shard restores the snapshot and skips
//! the records that are in it. Each record changes the state once.
//!
//! ```
//! use processor_state::{StateSchema, StateSettings, StateStore, stateful, update_state_by_key};
//!
//! # fn main() -> Result<(), processor_state::StateError> {
//! # let folder = std::env::temp_dir().join("kinesis-state-example");
//! let counts = update_state_by_key(
//!     StateSchema::new("words", 1),
//!     |record| Ok(String::from_utf8(record.data.to_vec())?.split(' ').map(|word| (word.to_owned(), 1)).collect()),
//!     |count: Option<u64>, one: u64| Some(count.unwrap_or(0) + one),
//!     |one, other| one + other,
//! );
//! let processors = stateful(counts, StateStore::directory(&folder)?, StateSettings::default())?;
//! // Consumer::builder().processors(processors) ...
//! # let _ = processors;
//! # Ok(()) }
//! ```
//!
//! | topic | items |
//! | --- | --- |
//! | processors with a state | [`stateful`], [`StatefulProcessors`], [`StateSettings`] |
//! | how records change the state | [`StateLogic`], [`update_state_by_key`], [`SlidingWindowCount`] |
//! | where snapshots are stored | [`StateStore`] |
//! | reading snapshots from outside | [`read_totals`], [`decode_snapshot_header`] |
// Items for `internals` are public in private modules.
#![cfg_attr(not(feature = "internals"), allow(unreachable_pub))]

mod error;
mod inherited_state;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod keyed_state;
mod processor;
mod restore;
mod settings;
mod shard_state;
mod snapshot;
mod snapshot_cadence;
mod snapshot_retention;
mod snapshot_series;
mod snapshot_store;
mod state_logic;
mod status;
mod totals;
mod update_state_by_key;
mod window;

pub use error::{StateError, StateErrorKind};
pub use keyed_state::{KeyedState, StateChanges};
pub use processor::{StatefulProcessors, stateful};
pub use settings::{LostState, StateSettings};
pub use snapshot::{SnapshotHeader, decode_snapshot_header};
pub use snapshot_store::StateStore;
pub use state_logic::{StateLogic, StateSchema, StateValue};
pub use status::ShardStateStatus;
pub use totals::{Totals, read_totals};
pub use update_state_by_key::update_state_by_key;
pub use window::{PaneCounts, SlidingWindow, SlidingWindowCount};
