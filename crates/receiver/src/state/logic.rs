//! What the application says about its state: how a record changes it, and how two of it become one.

use std::time::SystemTime;

use lease_store::BoxError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shard_worker::Record;

use super::{StateChanges, StateSchema};

/// What can be kept for a key: it goes into a snapshot as JSON.
///
/// What does not come back from JSON as it went in (a number that is not finite, a map whose keys are not text) is refused
/// when a snapshot is to be written.
pub trait StateValue: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<S: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> StateValue for S {}

/// What the application says about its state.
///
/// A snapshot stands for the records of its shard up to a position. So what a record changes must depend on the record and
/// the state alone: not on the time of day, on how records are divided into batches, or on anything that is kept elsewhere.
pub trait StateLogic: Send + Sync + 'static {
    /// What is kept for a key.
    type State: StateValue;

    /// The name and version of [`State`](Self::State).
    fn schema(&self) -> StateSchema;

    /// Changes the state as a record says. The changes of a batch come into force together.
    ///
    /// # Errors
    /// After an error or a panic nothing of the batch is in the state, and its records meet the failure policy of the
    /// receiver: tried again, divided, put aside.
    fn update(&self, record: &Record, state: &mut StateChanges<'_, Self::State>) -> Result<(), BoxError>;

    /// Makes one of two values of a key: when two shards are merged, and when the totals of all shards are read. The order
    /// of the two must not matter.
    fn merge(&self, key: &str, one: Self::State, other: Self::State) -> Self::State;

    /// Called for every key before a snapshot, with the newest arrival time of the shard: lets go of what is too old. A key
    /// for which it returns `false` is removed. What it takes away must be what nobody asks for any more.
    fn expire(&self, state: &mut Self::State, watermark: SystemTime) -> bool {
        let _ = (state, watermark);
        true
    }

    /// Reads the value of a key from a snapshot of another version of the schema; `None`: there is no way.
    ///
    /// # Errors
    /// Any error: the value is not one of that version.
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

/// A state that is updated by key: `extract` takes from a record its keys, each with a value; `update` gets what a key has
/// and such a value, and returns what the key is to have, or `None` to remove it; `merge` makes one of two.
///
/// ```
/// use receiver::state::{StateSchema, update_state_by_key};
/// use shard_worker::Record;
///
/// let counts = update_state_by_key(
///     StateSchema::new("counts-by-partition-key", 1),
///     |record: &Record| Ok(record.partition_key.iter().map(|key| (key.to_string(), 1)).collect()),
///     |count: Option<u64>, one: u64| Some(count.unwrap_or(0) + one),
///     |one, other| one + other,
/// );
/// # let _ = counts;
/// ```
pub fn update_state_by_key<S, V, Extract, Update, Merge>(
    schema: StateSchema,
    extract: Extract,
    update: Update,
    merge: Merge,
) -> impl StateLogic<State = S>
where
    S: StateValue,
    V: 'static,
    Extract: Fn(&Record) -> Result<Vec<(String, V)>, BoxError> + Send + Sync + 'static,
    Update: Fn(Option<S>, V) -> Option<S> + Send + Sync + 'static,
    Merge: Fn(S, S) -> S + Send + Sync + 'static,
{
    UpdateByKey { schema, extract, update, merge, types: std::marker::PhantomData }
}

struct UpdateByKey<S, V, Extract, Update, Merge> {
    schema: StateSchema,
    extract: Extract,
    update: Update,
    merge: Merge,
    types: std::marker::PhantomData<fn(S, V)>,
}

impl<S, V, Extract, Update, Merge> StateLogic for UpdateByKey<S, V, Extract, Update, Merge>
where
    S: StateValue,
    V: 'static,
    Extract: Fn(&Record) -> Result<Vec<(String, V)>, BoxError> + Send + Sync + 'static,
    Update: Fn(Option<S>, V) -> Option<S> + Send + Sync + 'static,
    Merge: Fn(S, S) -> S + Send + Sync + 'static,
{
    type State = S;

    fn schema(&self) -> StateSchema {
        self.schema.clone()
    }

    fn update(&self, record: &Record, state: &mut StateChanges<'_, S>) -> Result<(), BoxError> {
        for (key, value) in (self.extract)(record)? {
            state.update_by_key(&key, |present| (self.update)(present, value));
        }
        Ok(())
    }

    fn merge(&self, _key: &str, one: S, other: S) -> S {
        (self.merge)(one, other)
    }
}
