//! The contract of the application: how a record changes the state, and how two values are merged.

use std::fmt;
use std::time::SystemTime;

use lease_store::BoxError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shard_worker::Record;

use crate::keyed_state::StateChanges;

/// A type that can be the value of a key. Snapshots hold values as JSON.
///
/// A value that JSON changes, such as a number that is not finite or a map whose keys are not text, is refused when a
/// snapshot is written.
pub trait StateValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> StateValue for S {}

/// The name and version of the value type of an application. Each snapshot names its schema. A snapshot of another schema is
/// refused, or migrated by [`StateLogic::migrate`], but never misread.
///
/// ```
/// use processor_state::StateSchema;
///
/// // Raise the version when the shape of the values changes.
/// let schema = StateSchema::new("totals of customers", 2);
/// assert_eq!(schema.version, 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateSchema {
    /// The name, for example `word-counts`.
    pub name: String,
    /// The version. Raise it with each change of the value type that makes older snapshots unreadable.
    pub version: u32,
}

impl StateSchema {
    /// A schema.
    pub fn new(name: impl Into<String>, version: u32) -> Self {
        Self { name: name.into(), version }
    }
}

impl fmt::Display for StateSchema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} version {}", self.name, self.version)
    }
}

/// How records change the application's state.
///
/// A snapshot represents the records of its shard up to a position. So the change that a record makes must depend on the
/// record and the state alone: not on the time of day, on the division of records into batches, or on data elsewhere.
///
/// ```
/// use processor_state::{StateChanges, StateLogic, StateSchema};
/// use shard_worker::{BoxError, Record};
///
/// /// Counts the records of each partition key.
/// struct Counts;
///
/// impl StateLogic for Counts {
///     type State = u64;
///
///     fn schema(&self) -> StateSchema {
///         StateSchema::new("counts", 1)
///     }
///
///     fn update(&self, record: &Record, state: &mut StateChanges<'_, u64>) -> Result<(), BoxError> {
///         if let Some(key) = &record.partition_key {
///             state.update_by_key(key, |count| Some(count.unwrap_or(0) + 1));
///         }
///         Ok(())
///     }
///
///     fn merge(&self, _key: &str, one: u64, other: u64) -> u64 {
///         one + other
///     }
/// }
/// ```
pub trait StateLogic: Send + Sync + 'static {
    /// The value of a key.
    type State: StateValue;

    /// The name and version of [`State`](Self::State).
    fn schema(&self) -> StateSchema;

    /// Changes the state by one record. The changes of a batch are applied together.
    ///
    /// # Errors
    /// After an error or a panic the state holds nothing of the batch. The receiver's failure policy handles its records: it
    /// retries them, divides the batch, or puts them aside.
    fn update(&self, record: &Record, state: &mut StateChanges<'_, Self::State>) -> Result<(), BoxError>;

    /// Merges two values of a key: when two shards merge, and when the totals of all shards are read. The order of the two
    /// must not matter.
    fn merge(&self, key: &str, one: Self::State, other: Self::State) -> Self::State;

    /// Drops expired parts of a value. Called for every key before a snapshot, with the newest arrival time of the shard;
    /// `false` removes the key. It must drop only data that is never read again.
    fn expire(&self, state: &mut Self::State, watermark: SystemTime) -> bool {
        let _ = (state, watermark);
        true
    }

    /// Reads the value of a key from a snapshot of another schema; `None` refuses the snapshot.
    ///
    /// # Errors
    /// Any error: the value is not one of that schema.
    fn migrate(
        &self,
        from: &StateSchema,
        key: &str,
        value: serde_json::Value,
    ) -> Option<Result<Self::State, BoxError>> {
        let _ = (from, key, value);
        None
    }
}
