//! The application's own state: a value for each key, with snapshots that hold the positions of their shards.
//!
//! Two things are written down while a stream is consumed: the position of each shard, in its lease, and the state that the
//! application has made of the records, in snapshots. They are written at different times, and a crash can come between. So a
//! snapshot holds the position that it is the state of, and a record is acknowledged only when a snapshot holds it: the
//! checkpoint of a shard is never beyond its newest snapshot. Whoever takes the shard over loads the snapshot and leaves out
//! what comes again: each record is in the state once.
//!
//! ```
//! use receiver::state::{StateSchema, StateSettings, StateStore, stateful, update_state_by_key};
//!
//! # fn main() -> Result<(), receiver::state::StateError> {
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
//! | what | where |
//! | --- | --- |
//! | processors with a state | [`stateful`], [`StatefulProcessors`], [`StateSettings`] |
//! | how records change it | [`StateLogic`], [`update_state_by_key`], [`SlidingWindowCount`] |
//! | where it is kept | [`StateStore`] |
//! | reading it from outside | [`read_totals`], [`snapshot::decode_header`] |

pub mod cadence;
mod error;
mod keyed;
pub mod lineage;
mod logic;
mod opening;
mod processor;
pub mod retention;
mod schema;
mod settings;
mod shard_state;
pub mod snapshot;
mod status;
mod store;
mod totals;
mod window;

pub use error::{StateError, StateErrorKind};
pub use keyed::{KeyedState, StateChanges};
pub use logic::{StateLogic, StateValue, update_state_by_key};
pub use processor::{StatefulProcessors, stateful};
pub use schema::StateSchema;
pub use settings::{LostState, StateSettings};
pub use snapshot::{Snapshot, SnapshotHeader};
pub use status::ShardStateStatus;
pub use store::{SnapshotName, StateStore};
pub use totals::{Totals, read_totals};
pub use window::{PaneCounts, SlidingWindow, SlidingWindowCount};
