//! The totals of a whole application, read from the newest snapshots of all its shards.

use std::collections::BTreeMap;

use super::lineage::unite;
use super::snapshot::{SnapshotHeader, decode};
use super::{KeyedState, StateError, StateErrorKind, StateLogic, StateSettings, StateStore};

/// How often the snapshots are listed again because one went away before it was read.
const MAX_READS: u32 = 10;

/// The totals of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals<S> {
    /// A value for each key, of all shards together.
    pub state: KeyedState<S>,
    /// What the snapshots say about themselves, by shard: each state is one cut at its position.
    pub shards: Vec<SnapshotHeader>,
}

/// Reads the newest snapshot of each shard of an application and puts them together. Needs nothing but the store: no lease
/// is touched, and the application may run meanwhile. A shard's part is as old as its newest snapshot.
///
/// # Errors
/// `Corrupt` or `OtherVersion` for a snapshot that cannot be read, `OtherStream` for one that lies in the wrong place, and
/// what the store fails with. Nothing is left out.
pub async fn read_totals<L: StateLogic>(
    logic: &L,
    store: &StateStore,
    settings: &StateSettings,
    application: &str,
    stream: &str,
) -> Result<Totals<L::State>, StateError> {
    let folder = store.of_application(application, stream, settings.store_time_limit);
    let mut known = BTreeMap::new();
    'again: for _ in 0..MAX_READS {
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
                StateError::new(error.kind(), format!("{path}: {error}")).with_source(error)
            };
            let snapshot = decode(&bytes, logic).map_err(at)?;
            let header = &snapshot.header;
            let is_ours =
                (&*header.application, &*header.stream, &header.shard_id) == (application, stream, shard_id);
            if !is_ours {
                return Err(at(StateError::new(
                    StateErrorKind::OtherStream,
                    format!(
                        "the snapshot is of application {:?}, stream {:?}, shard {}; remove it",
                        header.application, header.stream, header.shard_id
                    ),
                )));
            }
            known.insert((shard_id.clone(), *name), snapshot);
        }
        let snapshots = known.into_values().collect();
        let (state, shards) = unite(snapshots, |key, one, other| logic.merge(key, one, other));
        return Ok(Totals { state, shards });
    }
    Err(StateError::new(
        StateErrorKind::Unavailable,
        format!(
            "the snapshots of {application:?} changed faster than they could be read, {MAX_READS} times; try again"
        ),
    ))
}
