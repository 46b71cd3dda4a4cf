//! The totals of an application, read from the newest snapshots of all its shards.

use std::collections::BTreeMap;

use crate::error::{StateError, StateErrorKind};
use crate::inherited_state::combine;
use crate::keyed_state::KeyedState;
use crate::settings::StateSettings;
use crate::snapshot::{SnapshotHeader, decode_snapshot};
use crate::snapshot_store::StateStore;
use crate::state_logic::StateLogic;

/// How often the snapshots are listed, because one was deleted before it was read.
const MAX_LISTINGS: u32 = 10;

/// The state of an application over all its shards, read from the newest snapshots by [`read_totals`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals<S> {
    /// The value of each key over all shards.
    pub state: KeyedState<S>,
    /// The header of each shard's snapshot: the totals hold its records up to its position.
    pub shards: Vec<SnapshotHeader>,
}

/// Reads the newest snapshot of each shard of an application and combines them. It needs only the store, reads no lease, and
/// works while the application runs. The totals of a shard are as old as its newest snapshot.
///
/// # Errors
/// `Corrupt` or `OtherVersion` for an unreadable snapshot, `OtherStream` for one in the wrong folder, and the errors of the
/// store. No shard is skipped.
pub async fn read_totals<L: StateLogic>(
    logic: &L,
    store: &StateStore,
    settings: &StateSettings,
    application: &str,
    stream: &str,
) -> Result<Totals<L::State>, StateError> {
    let folder = store.of_application(application, stream, settings.store_time_limit);
    let mut known = BTreeMap::new();
    'again: for _ in 0..MAX_LISTINGS {
        let newest = folder.list_newest().await?;
        known.retain(|of, _| newest.contains(of));
        for (shard_id, name) in &newest {
            if known.contains_key(&(shard_id.clone(), *name)) {
                continue;
            }
            let Some(bytes) = folder.read(shard_id, *name, settings.max_snapshot_bytes).await? else {
                continue 'again;
            };
            let path = folder.path(shard_id, *name);
            let at = |error: StateError| {
                StateError::new(error.kind(), format!("{path}: {error}")).caused_by(error)
            };
            let snapshot = decode_snapshot(&bytes, logic).map_err(at)?;
            let header = &snapshot.header;
            let is_ours =
                (&*header.application, &*header.stream, &header.shard_id) == (application, stream, shard_id);
            if !is_ours {
                return Err(at(StateError::new(
                    StateErrorKind::OtherStream,
                    format!(
                        "the snapshot belongs to application {:?}, stream {:?}, shard {}; remove it",
                        header.application, header.stream, header.shard_id
                    ),
                )));
            }
            known.insert((shard_id.clone(), *name), snapshot);
        }
        let snapshots = known.into_values().collect();
        let (state, shards) = combine(snapshots, |key, one, other| logic.merge(key, one, other));
        return Ok(Totals { state, shards });
    }
    Err(StateError::new(
        StateErrorKind::Unavailable,
        format!(
            "the snapshots of {application:?} changed faster than they could be read, {MAX_LISTINGS} times; try again"
        ),
    ))
}
