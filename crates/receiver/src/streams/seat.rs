//! The place of one stream at the table that all streams of a worker share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lease_store::{
    Consistency, Lease, LeaseListing, LeaseStore, LeaseWrite, ShardId, StoreError, StoreErrorKind,
    StreamIdentity, StreamLeases, WriteOutcome,
};
use shard_worker::StreamClock;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::assignment::AssignmentPlan;
use crate::assignment::fleet_view::AssignmentLimits;
use crate::assignment::lease_observations::ObservedLease;
use crate::error::{ConsumerError, ConsumerErrorKind, store_error};
use crate::streams::table::{Join, SharedTable, TableScan};

/// The leases of one stream in the shared table. Until the stream is described, they cannot be read.
#[derive(Debug)]
pub(crate) struct StreamStore {
    table: Arc<SharedTable>,
    leases: Mutex<Option<StreamLeases>>,
    clock: Mutex<Option<StreamClock>>,
}

impl StreamStore {
    fn leases(&self) -> Result<StreamLeases, StoreError> {
        self.identified().ok_or_else(|| {
            let message =
                "the stream is not described yet, so the key of its leases is not known; try again later";
            StoreError::new(StoreErrorKind::Unavailable, message)
        })
    }

    fn key(&self) -> Option<String> {
        Some(self.identified()?.key)
    }

    /// The leases, once the stream is described.
    pub(crate) fn identified(&self) -> Option<StreamLeases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the stream was removed, and ends soon.
    pub(crate) fn leave_soon(&self) {
        if let Some(key) = self.key() {
            self.table.publish(&key, |stream| stream.is_leaving = true);
        }
    }

    /// The clock of the stream, once it is described.
    pub(crate) fn clock(&self) -> Option<StreamClock> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scans the table for all streams. Returns the scan, and the rows of this one.
    pub(crate) async fn scan(
        &self,
        consistency: Consistency,
    ) -> Result<(Arc<TableScan>, LeaseListing), StoreError> {
        let key = self.leases()?.key;
        let scan = self.table.list(consistency).await?;
        let listing = scan.of_stream(&key);
        Ok((scan, listing))
    }
}

#[async_trait]
impl LeaseStore for StreamStore {
    fn name(&self) -> &str {
        self.table.store().name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        self.table.store().check_fleet_mode().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        Ok(self.scan(consistency).await?.1)
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.leases()?.store.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        self.leases()?.store.write(write).await
    }
}

/// The place of one stream's coordinator. When it is dropped, the stream is not read any more.
#[derive(Debug)]
pub(crate) struct Seat {
    table: Arc<SharedTable>,
    store: Arc<StreamStore>,
    scans: watch::Receiver<Option<Arc<TableScan>>>,
    /// The number of the newest scan that had its round.
    planned: u64,
    /// The newest scan that started before this stream created rows: it gets no round, because it may not show them.
    outdated: AtomicU64,
}

/// Whether a scan gets a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is newer than those that had a round.
    First,
    /// It had its round.
    Again,
    /// A newer one had a round, or it started before this stream created rows.
    Late,
}

/// A stream as its coordinator sees it in a round.
#[derive(Debug)]
pub(crate) struct StreamView<'v, 'a> {
    /// The rows that may be planned.
    pub(crate) observed: &'v [ObservedLease<'a>],
    pub(crate) held: &'v HashSet<ShardId>,
    pub(crate) requested: &'v HashSet<ShardId>,
}

impl Seat {
    pub(crate) fn new(table: &Arc<SharedTable>) -> Self {
        let store = StreamStore { table: table.clone(), leases: Mutex::default(), clock: Mutex::default() };
        Self {
            table: table.clone(),
            store: Arc::new(store),
            scans: table.scans(),
            planned: 0,
            outdated: AtomicU64::new(0),
        }
    }

    /// The leases of this stream.
    pub(crate) fn leases(&self) -> Arc<StreamStore> {
        self.store.clone()
    }

    /// Records which stream it is, and so the key of its leases, and its clock.
    ///
    /// # Errors
    /// `InvalidSettings` when another stream of this worker has the same key, and `Unavailable` while such a stream is being
    /// removed; `Invalid` when the stream has none.
    pub(crate) fn identify(
        &self,
        stream: &StreamIdentity,
        clock: Option<StreamClock>,
    ) -> Result<(), ConsumerError> {
        *self.store.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
        let leases = self.table.store().of_stream(stream);
        let leases = leases.map_err(|error| store_error("finding the leases of the stream", error))?;
        let known = self.store.key();
        if known.as_ref() == Some(&leases.key) {
            return Ok(());
        }
        match self.table.join(&leases.key) {
            Join::Joined => {}
            Join::Taken => {
                let message = format!("the consumer has the stream {stream} twice; name each stream once");
                return Err(ConsumerError::new(ConsumerErrorKind::InvalidSettings, message));
            }
            // It was removed under another name.
            Join::Leaving => {
                let message =
                    format!("the stream {stream} was removed and has not ended yet; try again later");
                return Err(ConsumerError::new(ConsumerErrorKind::Unavailable, message));
            }
        }
        if let Some(known) = known {
            self.table.leave(&known);
        }
        *self.store.leases.lock().unwrap_or_else(PoisonError::into_inner) = Some(leases);
        Ok(())
    }

    /// The next answered scan of any stream, with the rows of this one.
    pub(crate) async fn next_scan(&mut self) -> (Arc<TableScan>, LeaseListing) {
        loop {
            // The sender lives as long as the table.
            if self.scans.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let scan = self.scans.borrow_and_update().clone();
            if let (Some(scan), Some(key)) = (scan, self.store.key())
                && scan.number > self.planned.max(self.outdated.load(Ordering::Relaxed))
            {
                let listing = scan.of_stream(&key);
                return (scan, listing);
            }
        }
    }

    /// Whether this scan gets a round now.
    pub(crate) fn turn(&mut self, scan: &TableScan) -> Turn {
        if scan.number == self.planned {
            return Turn::Again;
        }
        if scan.number < self.planned || scan.number <= self.outdated.load(Ordering::Relaxed) {
            return Turn::Late;
        }
        self.planned = scan.number;
        Turn::First
    }

    /// Ignores the scans that have started so far: they may not show the rows that this stream has created.
    pub(crate) fn ignore_started_scans(&self) {
        self.outdated.fetch_max(self.table.started(), Ordering::Relaxed);
    }

    /// Publishes the leases that this stream's coordinator holds and has requested.
    pub(crate) fn publish(&self, held: HashSet<ShardId>, requested: HashSet<ShardId>) {
        if let Some(key) = self.store.key() {
            self.table.publish(&key, |stream| (stream.held, stream.requested) = (held, requested));
        }
    }

    /// Whether no other stream of this worker holds a lease.
    pub(crate) fn others_hold_nothing(&self) -> bool {
        self.store.key().is_none_or(|key| self.table.others_hold_nothing(&key))
    }

    /// The time of the next audit, the same for all streams, so that they share its scan.
    pub(crate) fn common_audit(&self, next: Instant) -> Instant {
        self.table.common_audit(next)
    }

    /// This stream's part of the plan for all streams, and its shards that no worker reads. `None`: a newer scan was answered.
    pub(crate) fn plan<'a>(
        &self,
        scan: &TableScan,
        view: &StreamView<'_, 'a>,
        limits: AssignmentLimits,
    ) -> Option<(AssignmentPlan<'a>, Vec<ShardId>)> {
        let key = self.store.key()?;
        let ids = |chosen: fn(&ObservedLease<'_>) -> bool| -> HashSet<ShardId> {
            let chosen = view.observed.iter().filter(|observed| chosen(observed));
            chosen.map(|observed| observed.lease.shard_id.clone()).collect()
        };
        let usable = ids(|_| true);
        let left_out = scan.shards_of(&key).filter(|shard_id| !usable.contains(shard_id));
        let left_out: HashSet<ShardId> = left_out.cloned().collect();
        let (paused, of_namesakes) = (ids(|row| row.is_paused), ids(|row| row.is_of_namesake));
        self.table.publish(&key, |stream| {
            stream.held.clone_from(view.held);
            stream.requested.clone_from(view.requested);
            (stream.left_out, stream.paused, stream.of_namesakes) = (left_out, paused, of_namesakes);
        });
        let plan = self.table.plan(scan, limits)?;
        let part = plan.parts.get(&key).cloned().unwrap_or_default();
        let rows = |ids: &[ShardId]| part_of(ids, view, limits.failover_time);
        let plan = AssignmentPlan {
            take: rows(&part.take),
            request: rows(&part.request),
            is_partial: plan.is_partial,
        };
        Some((plan, part.unread))
    }
}

/// The planned rows that are still as they were when the plan was made, by what this stream knows itself.
fn part_of<'a>(ids: &[ShardId], view: &StreamView<'_, 'a>, failover_time: Duration) -> Vec<&'a Lease> {
    let may_have = |observed: &&ObservedLease<'a>| {
        let shard_id = &observed.lease.shard_id;
        let is_of_live_namesake = observed.is_of_namesake && observed.unchanged_for < failover_time;
        !view.held.contains(shard_id) && !observed.is_paused && !is_of_live_namesake
    };
    let rows: HashMap<&ShardId, &ObservedLease<'a>> =
        view.observed.iter().map(|observed| (&observed.lease.shard_id, observed)).collect();
    let rows = ids.iter().filter_map(|shard_id| rows.get(shard_id).copied());
    rows.filter(may_have).map(|observed| observed.lease).collect()
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(key) = self.store.key() {
            self.table.leave(&key);
        }
    }
}
