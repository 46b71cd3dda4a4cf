//! The restore of a shard's state: from its newest snapshot, from those of its parents, or empty.

use std::collections::BTreeSet;
use std::sync::Arc;

use lease_store::{HashKeyRange, Position, ShardId};
use shard_worker::ShardContext;

use crate::error::{StateError, StateErrorKind};
use crate::inherited_state::{cover, inherit, reaches_lease};
use crate::keyed_state::KeyedState;
use crate::settings::LostState;
use crate::shard_state::{Common, MAX_BYTES_INLINE, RestoredState};
use crate::snapshot::{Snapshot, SnapshotHeader, decode_snapshot, decode_snapshot_header};
use crate::snapshot_series::SnapshotSeries;
use crate::snapshot_store::{ApplicationStore, ShardObjects, SnapshotName};
use crate::state_logic::StateLogic;

/// How many snapshots of a shard are tried, newest first.
const MAX_SNAPSHOTS_TRIED: usize = 16;

/// The restore of one shard.
pub(crate) struct Restore<'a, L: StateLogic> {
    pub(crate) common: &'a Arc<Common<L>>,
    pub(crate) context: &'a ShardContext,
    pub(crate) range: HashKeyRange,
    pub(crate) store: &'a ApplicationStore,
}

impl<L: StateLogic> Restore<'_, L> {
    pub(crate) async fn run(&self) -> Result<RestoredState<L::State>, StateError> {
        let shard_id = &self.context.shard_id;
        let objects = self.store.list_shard(shard_id).await?;
        let lease = self.common.lease_position(self.context);
        let series = self.series(&objects.snapshots);
        let restored = |snapshot: Snapshot<L::State>, is_stored| RestoredState {
            state: snapshot.state,
            ancestors: snapshot.header.ancestors,
            position: snapshot.header.position,
            passed: snapshot.header.passed,
            is_stored,
            snapshots: objects.snapshots.clone(),
            series,
        };
        let lost = if objects.snapshots.is_empty() {
            if reaches_lease(&Position::TrimHorizon, &lease) {
                let (state, ancestors) = self.inherit().await?;
                return Ok(RestoredState {
                    state,
                    ancestors,
                    position: lease,
                    passed: None,
                    is_stored: false,
                    snapshots: Vec::new(),
                    series,
                });
            }
            StateError::new(
                StateErrorKind::Missing,
                format!(
                    "the lease of shard {shard_id} is at {lease}, but {} holds no snapshot of its state; restore the \
                     snapshots, or start under another application name, or set lost_state to BeginEmpty to start without \
                     the records up to the lease",
                    self.store.shard_folder(shard_id)
                ),
            )
        } else {
            match self.newest(shard_id, &objects, &lease).await {
                Ok(snapshot) => return Ok(restored(snapshot, true)),
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
            "starting the shard with an empty state, totals miss the records before its position"
        );
        Ok(RestoredState {
            state: KeyedState::default(),
            ancestors: self.context.parent_shard_ids.clone(),
            position: lease,
            passed: None,
            is_stored: false,
            snapshots: objects.snapshots,
            series,
        })
    }

    /// The series of the new snapshots. Names that sort after the counter of this lease come from another life of the lease
    /// table.
    fn series(&self, snapshots: &[SnapshotName]) -> SnapshotSeries {
        let counter = self.context.fencing_token.counter;
        if let Some(newest) = snapshots.iter().max().filter(|newest| newest.lease_counter > counter) {
            tracing::warn!(
                application = %self.context.application,
                stream = %self.context.stream,
                shard_id = %self.context.shard_id,
                lease_counter = counter,
                snapshot = %self.store.path(&self.context.shard_id, *newest),
                "the newest snapshot is from another life of the lease table, which counted further; new snapshots get names \
                 after it"
            );
        }
        SnapshotSeries::after(snapshots, counter, self.common.next_incarnation())
    }

    /// The newest intact snapshot of a shard that reaches the position of its lease.
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
                        "the snapshot {path} was deleted before it was read; another process wrote newer snapshots"
                    ),
                ));
            };
            let at = |error: StateError| {
                StateError::new(error.kind(), format!("{path}: {error}")).caused_by(error)
            };
            let read = self
                .decode(bytes)
                .await
                .and_then(|snapshot| self.check(shard_id, &snapshot.header).map(|()| snapshot));
            let fault = match read {
                Ok(snapshot) if reaches_lease(snapshot.header.covers(), lease) => return Ok(snapshot),
                Ok(snapshot) => behind(shard_id, lease, &snapshot.header, path.as_ref()),
                Err(error) if error.kind() == StateErrorKind::Corrupt => {
                    tracing::warn!(%shard_id, %path, %error, "a snapshot is damaged, trying the one before it");
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

    /// Decodes a snapshot, a large one on a blocking thread.
    async fn decode(&self, bytes: bytes::Bytes) -> Result<Snapshot<L::State>, StateError> {
        if bytes.len() <= MAX_BYTES_INLINE {
            return decode_snapshot(&bytes, &self.common.logic);
        }
        let common = self.common.clone();
        tokio::task::spawn_blocking(move || decode_snapshot(&bytes, &common.logic)).await.unwrap_or_else(
            |error| {
                Err(StateError::new(
                    StateErrorKind::Invalid,
                    "the application's state logic panicked while it decoded a snapshot",
                )
                .with_source(error))
            },
        )
    }

    /// Checks that a snapshot belongs to this application, stream and shard.
    fn check(&self, shard_id: &ShardId, header: &SnapshotHeader) -> Result<(), StateError> {
        let (application, stream) = (&*self.context.application, &*self.context.stream);
        let other = |found: String, expected: String| {
            StateError::new(
                StateErrorKind::OtherStream,
                format!(
                    "the snapshot belongs to {found}, not to {expected}; it is not used and never deleted; move it elsewhere, \
                     or use another prefix or application name"
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
        match (&header.stream_identity, self.common.stream_identity(self.context)) {
            (Some(found), Some(expected)) if found != expected => {
                Err(other(format!("stream {found}"), format!("stream {expected}")))
            }
            _ => Ok(()),
        }
    }

    /// The state that the shard inherits from its parents.
    async fn inherit(&self) -> Result<(KeyedState<L::State>, BTreeSet<ShardId>), StateError> {
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
                Err(error) => self.accept_loss(error)?,
            }
        }
        if parents.is_empty() {
            // The parents ended before the application started, or their snapshots were removed: the two look the same.
            tracing::info!(
                application = %self.context.application,
                stream = %self.context.stream,
                %shard_id,
                ?missing,
                "starting the shard with an empty state, no parent has a snapshot"
            );
        } else if !missing.is_empty() {
            self.accept_loss(StateError::new(
                StateErrorKind::Missing,
                format!(
                    "shard {shard_id} inherits the state of all its parents, but {} have no snapshot; restore the \
                     snapshots, or set lost_state to BeginEmpty to start without them",
                    missing.join(", ")
                ),
            ))?;
        }
        let merge = |key: &str, one, other| self.common.logic.merge(key, one, other);
        Ok(inherit(self.range, parents, merge))
    }

    /// Accepts a lost snapshot of a parent if the settings allow it.
    fn accept_loss(&self, lost: StateError) -> Result<(), StateError> {
        if self.common.lost_state() == LostState::Refuse {
            return Err(lost);
        }
        tracing::warn!(
            application = %self.context.application,
            stream = %self.context.stream,
            shard_id = %self.context.shard_id,
            error = %lost,
            "starting the shard without the state of a parent, totals miss its records"
        );
        Ok(())
    }

    /// Records the takeover next to the parents' snapshots, and deletes the snapshots that all children have taken over.
    pub(crate) async fn release_parents(&self) {
        for parent in &self.context.parent_shard_ids {
            if let Err(error) = self.release(parent).await {
                tracing::warn!(%parent, %error, "cannot delete the snapshots of a parent, leaving them");
            }
        }
    }

    async fn release(&self, parent: &ShardId) -> Result<(), StateError> {
        let mut objects = self.store.list_shard(parent).await?;
        if !objects.snapshots.is_empty() {
            self.store.record_takeover(parent, &self.context.shard_id, self.range).await?;
            // Listed again: of two children that start at the same time, at least one sees both takeovers.
            objects = self.store.list_shard(parent).await?;
        }
        if let Some(newest) = objects.snapshots.last() {
            let max_bytes = self.common.settings.max_snapshot_bytes;
            let Some(bytes) = self.store.read(parent, *newest, max_bytes).await? else { return Ok(()) };
            let whole = decode_snapshot_header(&bytes)?.hash_key_range;
            if !cover(whole, objects.takeovers.iter().map(|(_, range)| *range)) {
                return Ok(());
            }
        }
        for name in objects.snapshots {
            self.store.delete(parent, name).await?;
        }
        for (child, range) in objects.takeovers {
            self.store.delete_takeover(parent, &child, range).await?;
        }
        Ok(())
    }
}

fn behind(shard_id: &ShardId, lease: &Position, header: &SnapshotHeader, path: &str) -> StateError {
    let lease_state = if lease.is_shard_end() {
        format!("shard {shard_id} has ended")
    } else {
        format!("the lease of shard {shard_id} is at {lease}")
    };
    StateError::new(
        StateErrorKind::Behind,
        format!(
            "{lease_state}, but its newest snapshot {path} holds the state only up to {}: records in between would be \
             missing; restore newer snapshots, or set the lease back to that position, or start under another application \
             name",
            header.covers()
        ),
    )
}
