//! A state logic of three closures, named after Spark's `updateStateByKey`.

use lease_store::BoxError;
use shard_worker::Record;

use crate::keyed_state::StateChanges;
use crate::state_logic::{StateLogic, StateSchema, StateValue};

/// A state that is updated by key. `extract` returns the keys of a record, each with a value. `update` receives the state of
/// a key and such a value, and returns the new state, or `None` to remove the key. `merge` merges two states of a key.
///
/// ```
/// use processor_state::{StateSchema, update_state_by_key};
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
