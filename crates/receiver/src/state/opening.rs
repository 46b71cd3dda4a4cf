//! How a shard comes to its state: from its newest snapshot, from those of its parents, or empty.

use std::sync::Arc;

use lease_store::{HashKeyRange, Position, ShardId};
use shard_worker::ShardContext;

use super::keyed::KeyedState;
use super::lineage::{cover, inherit, is_enough};
use super::processor::Common;
use super::shard_state::{Beginning, MAX_BYTES_INLINE};
use super::snapshot::{Snapshot, SnapshotHeader, decode, decode_header};
use super::store::{ApplicationStore, ShardObjects, SnapshotName};
use super::{LostState, StateError, StateErrorKind, StateLogic};

/// How many snapshots of a shard are tried, from the newest on.
const MAX_SNAPSHOTS_TRIED: usize = 16;

pub(super) struct Opening<'a, L: StateLogic> {
    pub(super) common: &'a Arc<Common<L>>,
    pub(super) context: &'a ShardContext,
    pub(super) range: HashKeyRange,
    pub(super) store: &'a ApplicationStore,
}

impl<L: StateLogic> Opening<'_, L> {
    pub(super) async fn open(&self) -> Result<Beginning<L::State>, StateError> {
        let shard_id = &self.context.shard_id;
        let objects = self.store.list_shard(shard_id).await?;
        let lease = self.common.lease_position(self.context);
        let incarnation = self.incarnation(&objects.snapshots);
        let begin = |snapshot: Snapshot<L::State>, is_stored| Beginning {
            state: snapshot.state,
            ancestors: snapshot.header.ancestors,
            position: snapshot.header.position,
            passed: snapshot.header.passed,
            is_stored,
            snapshots: objects.snapshots.clone(),
            incarnation,
        };
        let lost = if objects.snapshots.is_empty() {
            if is_enough(&Position::TrimHorizon, &lease) {
                let (state, ancestors) = self.inherit().await?;
                return Ok(Beginning {
                    state,
                    ancestors,
                    position: lease,
                    passed: None,
                    is_stored: false,
                    snapshots: Vec::new(),
                    incarnation,
                });
            }
            StateError::new(
                StateErrorKind::Missing,
                format!(
                    "the lease of shard {shard_id} stands at {lease}, and there is no snapshot of its state in {}; \
                     restore the snapshots, or begin anew under another application name, or, if the records up to there \
                     are not to be in the state, set lost_state to BeginEmpty",
                    self.store.shard_folder(shard_id)
                ),
            )
        } else {
            match self.newest(shard_id, &objects, &lease).await {
                Ok(snapshot) => return Ok(begin(snapshot, true)),
                Err(error) => error,
            }
        };
        let is_lost =
            matches!(lost.kind(), StateErrorKind::Missing | StateErrorKind::Behind | StateErrorKind::Corrupt);
        if !is_lost || self.common.lost_state() == LostState::Refuse {
            return Err(lost);
        }
        tracing::warn!(
            application = %self.context.application,
            stream = %self.context.stream,
            %shard_id,
            error = %lost,
            "the shard begins with an empty state; what came before its position is in no total any more"
        );
        Ok(Beginning {
            state: KeyedState::default(),
            ancestors: self.context.parent_shard_ids.clone(),
            position: lease,
            passed: None,
            is_stored: false,
            snapshots: objects.snapshots,
            incarnation,
        })
    }

    fn incarnation(&self, snapshots: &[SnapshotName]) -> u32 {
        let counter = self.context.fencing_token.counter;
        let known = snapshots.iter().filter(|name| name.lease_counter == counter);
        let newest = known.map(|name| name.incarnation).max().unwrap_or(0);
        self.common.next_incarnation().max(newest.saturating_add(1))
    }

    /// The newest snapshot of a shard that holds all up to a position.
    async fn newest(
        &self,
        shard_id: &ShardId,
        objects: &ShardObjects,
        lease: &Position,
    ) -> Result<Snapshot<L::State>, StateError> {
        let mut first_fault = None;
        for name in objects.snapshots.iter().rev().take(MAX_SNAPSHOTS_TRIED) {
            let path = self.store.path(shard_id, *name);
            let max_bytes = self.common.settings.max_snapshot_bytes;
            let Some(bytes) = self.store.read(shard_id, *name, max_bytes).await? else {
                return Err(StateError::new(
                    StateErrorKind::Unavailable,
                    format!(
                        "the snapshot {path} went away while it was to be read; somebody else has written newer ones"
                    ),
                ));
            };
            let at = |error: StateError| {
                StateError::new(error.kind(), format!("{path}: {error}")).with_source(error)
            };
            let read = self
                .decode(bytes)
                .await
                .and_then(|snapshot| self.check(shard_id, &snapshot.header).map(|()| snapshot));
            let fault = match read {
                Ok(snapshot) if is_enough(snapshot.header.covers(), lease) => return Ok(snapshot),
                Ok(snapshot) => behind(shard_id, lease, &snapshot.header, path.as_ref()),
                Err(error) if error.kind() == StateErrorKind::Corrupt => {
                    tracing::warn!(%shard_id, %path, %error, "a snapshot is damaged; the one before it is tried");
                    at(error)
                }
                Err(error) => return Err(at(error)),
            };
            first_fault.get_or_insert(fault);
        }
        Err(first_fault.unwrap_or_else(|| {
            StateError::new(StateErrorKind::Missing, format!("there is no snapshot of shard {shard_id}"))
        }))
    }

    /// A large one on a thread of its own.
    async fn decode(&self, bytes: bytes::Bytes) -> Result<Snapshot<L::State>, StateError> {
        if bytes.len() <= MAX_BYTES_INLINE {
            return decode(&bytes, &self.common.logic);
        }
        let common = self.common.clone();
        tokio::task::spawn_blocking(move || decode(&bytes, &common.logic)).await.unwrap_or_else(|error| {
            Err(StateError::new(StateErrorKind::Invalid, "the application's code panicked on a snapshot")
                .with_source(error))
        })
    }

    /// Whether a snapshot is of this application, stream and shard.
    fn check(&self, shard_id: &ShardId, header: &SnapshotHeader) -> Result<(), StateError> {
        let (application, stream) = (&*self.context.application, &*self.context.stream);
        let other = |found: String, expected: String| {
            StateError::new(
                StateErrorKind::OtherStream,
                format!(
                    "the snapshot is of {found}, not of {expected}; its positions mean nothing here: remove it, or use \
                     another prefix or application name"
                ),
            )
        };
        if (&*header.application, &*header.stream, &header.shard_id) != (application, stream, shard_id) {
            let named = |application: &str, stream: &str, shard_id: &ShardId| {
                format!("application {application:?}, stream {stream:?}, shard {shard_id}")
            };
            return Err(other(
                named(&header.application, &header.stream, &header.shard_id),
                named(application, stream, shard_id),
            ));
        }
        match (&header.stream_identity, &self.common.settings.stream_identity) {
            (Some(found), Some(expected)) if found != expected => {
                Err(other(format!("stream {found}"), format!("stream {expected}")))
            }
            _ => Ok(()),
        }
    }

    /// What the shard takes over from its parents.
    async fn inherit(
        &self,
    ) -> Result<(KeyedState<L::State>, std::collections::BTreeSet<ShardId>), StateError> {
        let shard_id = &self.context.shard_id;
        let mut parents = Vec::new();
        let mut missing = Vec::new();
        for parent in &self.context.parent_shard_ids {
            let objects = self.store.list_shard(parent).await?;
            if objects.snapshots.is_empty() {
                missing.push(parent.as_str());
                continue;
            }
            match self.newest(parent, &objects, &Position::ShardEnd).await {
                Ok(snapshot) => parents.push(snapshot),
                Err(error) => self.do_without(error)?,
            }
        }
        if parents.is_empty() {
            // They ended before the application began; or somebody removed what they left, which cannot be told apart.
            tracing::info!(
                application = %self.context.application,
                stream = %self.context.stream,
                %shard_id,
                ?missing,
                "the shard begins with an empty state: no parent has left one"
            );
        } else if !missing.is_empty() {
            self.do_without(StateError::new(
                StateErrorKind::Missing,
                format!(
                    "shard {shard_id} takes over the state of all its parents, and there is none of {}; restore the \
                     snapshots, or set lost_state to BeginEmpty to go on without",
                    missing.join(", ")
                ),
            ))?;
        }
        let merge = |key: &str, one, other| self.common.logic.merge(key, one, other);
        Ok(inherit(self.range, parents, merge))
    }

    /// Goes on without what is lost, if the settings say so.
    fn do_without(&self, lost: StateError) -> Result<(), StateError> {
        if self.common.lost_state() == LostState::Refuse {
            return Err(lost);
        }
        tracing::warn!(
            application = %self.context.application,
            stream = %self.context.stream,
            shard_id = %self.context.shard_id,
            error = %lost,
            "the shard begins without the state of a parent; its records are in no total any more"
        );
        Ok(())
    }

    /// Tells the parents' snapshots that this shard has its own, and removes those that nobody needs any more.
    pub(super) async fn release_parents(&self) {
        for parent in &self.context.parent_shard_ids {
            if let Err(error) = self.release(parent).await {
                tracing::warn!(%parent, %error, "the snapshots of a parent stay for now");
            }
        }
    }

    async fn release(&self, parent: &ShardId) -> Result<(), StateError> {
        let mut objects = self.store.list_shard(parent).await?;
        if !objects.snapshots.is_empty() {
            self.store.note_heir(parent, &self.context.shard_id, self.range).await?;
            // Looked at again, so that of two children that begin at the same time one sees both notes.
            objects = self.store.list_shard(parent).await?;
        }
        if let Some(newest) = objects.snapshots.last() {
            let max_bytes = self.common.settings.max_snapshot_bytes;
            let Some(bytes) = self.store.read(parent, *newest, max_bytes).await? else { return Ok(()) };
            let whole = decode_header(&bytes)?.hash_key_range;
            if !cover(whole, objects.heirs.iter().map(|(_, range)| *range)) {
                return Ok(());
            }
        }
        for name in objects.snapshots {
            self.store.delete(parent, name).await?;
        }
        for (child, range) in objects.heirs {
            self.store.delete_heir(parent, &child, range).await?;
        }
        Ok(())
    }
}

fn behind(shard_id: &ShardId, lease: &Position, header: &SnapshotHeader, path: &str) -> StateError {
    let what = if lease.is_shard_end() {
        format!("shard {shard_id} has ended")
    } else {
        format!("the lease of shard {shard_id} stands at {lease}")
    };
    StateError::new(
        StateErrorKind::Behind,
        format!(
            "{what}, but its newest snapshot {path} holds the state only up to {}: the records between would be missing; \
             restore the newer snapshots, or set the lease back to that position, or begin anew under another \
             application name",
            header.covers()
        ),
    )
}
