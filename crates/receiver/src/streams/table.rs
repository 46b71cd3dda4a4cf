//! The table that the streams of a worker share: one scan at a time for all who ask, and one plan for each scan.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use lease_store::{
    Consistency, Lease, LeaseListing, MultiStreamLeaseStore, MultiStreamListing, ShardId, StoreError,
    StoreErrorKind, WorkerId,
};
use tokio::sync::{OnceCell, watch};
use tokio::time::{Duration, Instant, sleep};

use crate::assignment::fleet_view::AssignmentLimits;
use crate::assignment::lease_observations::{LeaseObservations, ObservedLease};
use crate::assignment::peers::{leads, live_peers};
use crate::assignment::streams::{StreamRows, StreamsPlan, plan_streams};

/// A scan starts this part of the fail-over time after it was asked for (50 ms of 10 s), and answers all streams that ask
/// for one by then.
const COLLECT_TIMES_PER_FAILOVER_TIME: u32 = 200;

type SharedScan = Shared<BoxFuture<'static, Result<Arc<TableScan>, Arc<StoreError>>>>;

/// The lease table of all streams of a worker.
pub(crate) struct SharedTable {
    store: Arc<dyn MultiStreamLeaseStore>,
    worker_id: WorkerId,
    failover_time: Duration,
    prepared: OnceCell<()>,
    state: Mutex<State>,
    newest: watch::Sender<Option<Arc<TableScan>>>,
}

impl fmt::Debug for SharedTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedTable").field("store", &self.store).finish_non_exhaustive()
    }
}

/// One answered scan of the table.
#[derive(Debug)]
pub(crate) struct TableScan {
    /// Grows with each scan of this process, in the order in which they were requested.
    pub(crate) number: u64,
    pub(crate) consistency: Consistency,
    /// When the scan was requested.
    pub(crate) requested_at: Instant,
    pub(crate) duration: Duration,
    listing: MultiStreamListing,
    live_peers: usize,
    is_led_by_this_worker: bool,
}

impl TableScan {
    /// The rows of one stream.
    pub(crate) fn of_stream(&self, key: &str) -> LeaseListing {
        self.listing.of_stream(key)
    }

    /// The shards of one stream that have a valid row.
    pub(crate) fn shards_of<'s>(&'s self, key: &str) -> impl Iterator<Item = &'s ShardId> + use<'s> {
        let listing = self.listing.streams.get(key);
        listing.into_iter().flat_map(|listing| &listing.leases).map(|lease| &lease.shard_id)
    }

    /// How many other workers are alive, by the leases of all streams.
    pub(crate) fn live_peers(&self) -> usize {
        self.live_peers
    }

    /// Whether this worker is the leader of the fleet, by the leases of all streams, as in the KCL.
    pub(crate) fn is_led_by_this_worker(&self) -> bool {
        self.is_led_by_this_worker
    }
}

/// What the coordinator of a running stream has published.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    pub(crate) held: HashSet<ShardId>,
    pub(crate) requested: HashSet<ShardId>,
    /// Rows that no worker may take at present, by its last round.
    pub(crate) left_out: HashSet<ShardId>,
    pub(crate) paused: HashSet<ShardId>,
    /// Leases of another process under the id of this worker.
    pub(crate) of_namesakes: HashSet<ShardId>,
    /// Whether the stream was removed, and ends soon.
    pub(crate) is_leaving: bool,
}

/// Whether a stream could join the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    Joined,
    /// A stream of the same key is read.
    Taken,
    /// A stream of the same key was removed, and has not ended yet.
    Leaving,
}

struct State {
    /// The scan that has not started yet.
    collecting: Option<Collecting>,
    /// The number of the last scan that started.
    started: u64,
    /// The number of the newest answered scan.
    answered: u64,
    observations: BTreeMap<String, LeaseObservations>,
    /// The streams that are read, by key.
    streams: BTreeMap<String, StreamState>,
    /// The plan for the newest answered scan.
    plan: Option<Arc<StreamsPlan>>,
    next_audit: Option<Instant>,
    rng: Rng,
}

struct Collecting {
    is_strong: bool,
    scan: SharedScan,
}

impl State {
    fn observe(&mut self, listing: &MultiStreamListing, now: Instant) {
        for (key, observations) in &mut self.observations {
            if !listing.streams.contains_key(key) {
                observations.observe(&[], now);
            }
        }
        for (key, listing) in &listing.streams {
            self.observations.entry(key.clone()).or_default().observe(&listing.leases, now);
        }
    }
}

impl SharedTable {
    pub(crate) fn new(
        store: Arc<dyn MultiStreamLeaseStore>,
        worker_id: WorkerId,
        failover_time: Duration,
        rng: Rng,
    ) -> Self {
        let state = State {
            collecting: None,
            started: 0,
            answered: 0,
            observations: BTreeMap::new(),
            streams: BTreeMap::new(),
            plan: None,
            next_audit: None,
            rng,
        };
        let newest = watch::Sender::new(None);
        Self { store, worker_id, failover_time, prepared: OnceCell::new(), state: Mutex::new(state), newest }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store(&self) -> &dyn MultiStreamLeaseStore {
        self.store.as_ref()
    }

    /// The answered scans.
    pub(crate) fn scans(&self) -> watch::Receiver<Option<Arc<TableScan>>> {
        self.newest.subscribe()
    }

    pub(crate) fn failover_time(&self) -> Duration {
        self.failover_time
    }

    /// Whether this worker reads the stream with this key.
    pub(crate) fn is_read(&self, key: &str) -> bool {
        self.state().streams.contains_key(key)
    }

    /// The newest scan if it was requested within this time, or else a new one.
    pub(crate) async fn newer_than(self: &Arc<Self>, age: Duration) -> Result<Arc<TableScan>, StoreError> {
        let newest = self.newest.borrow().clone();
        match newest.filter(|scan| scan.requested_at.elapsed() < age) {
            Some(scan) => Ok(scan),
            None => self.list(Consistency::Eventual).await,
        }
    }

    /// The rows of a stream in a scan, each with the time since it was last seen to change.
    pub(crate) fn unchanged(&self, scan: &TableScan, key: &str) -> Vec<(Lease, Duration)> {
        let state = self.state();
        let leases = scan.listing.streams.get(key).map_or(&[][..], |listing| listing.leases.as_slice());
        let unchanged_for = |lease: &Lease| {
            let known = state.observations.get(key);
            known.map_or(Duration::ZERO, |known| known.unchanged_for(&lease.shard_id, scan.requested_at))
        };
        leases.iter().map(|lease| (lease.clone(), unchanged_for(lease))).collect()
    }

    /// Makes the table ready, once for all streams.
    pub(crate) async fn prepare(&self) -> Result<(), StoreError> {
        self.prepared.get_or_try_init(|| self.store.prepare()).await.copied()
    }

    /// Scans the table. All who ask before the scan starts get the same one, and every answered scan is passed to all streams.
    pub(crate) async fn list(
        self: &Arc<Self>,
        consistency: Consistency,
    ) -> Result<Arc<TableScan>, StoreError> {
        let is_strong = consistency == Consistency::Strong;
        let scan = {
            let mut state = self.state();
            if let Some(collecting) = &mut state.collecting {
                collecting.is_strong |= is_strong;
                collecting.scan.clone()
            } else {
                let delay = self.failover_time / COLLECT_TIMES_PER_FAILOVER_TIME;
                let scan = scan_after(delay, Arc::downgrade(self)).boxed().shared();
                state.collecting = Some(Collecting { is_strong, scan: scan.clone() });
                scan
            }
        };
        scan.await.map_err(|error| copy_of(&error))
    }

    /// Begins the scan that was collected for. Returns its number.
    fn begin(&self) -> (u64, Consistency) {
        let mut state = self.state();
        let is_strong = state.collecting.take().is_some_and(|collecting| collecting.is_strong);
        state.started += 1;
        (state.started, if is_strong { Consistency::Strong } else { Consistency::Eventual })
    }

    /// The number of the last scan that has started.
    pub(crate) fn started(&self) -> u64 {
        self.state().started
    }

    /// Observes the rows of a scan, and passes it to all streams unless a newer one was faster.
    fn answer(&self, mut scan: TableScan) -> Arc<TableScan> {
        let mut state = self.state();
        let is_newest = scan.number > state.answered;
        if is_newest {
            state.observe(&scan.listing, Instant::now());
        }
        let streams = scan.listing.streams.iter();
        let observed: Vec<ObservedLease<'_>> = streams
            .filter_map(|(key, listing)| {
                Some(state.observations.get(key)?.of(&listing.leases, scan.requested_at))
            })
            .flatten()
            .collect();
        let live_peers = live_peers(&observed, &self.worker_id, self.failover_time);
        let is_led_by_this_worker = leads(&observed, &self.worker_id, self.failover_time);
        drop(observed);
        (scan.live_peers, scan.is_led_by_this_worker) = (live_peers, is_led_by_this_worker);
        let scan = Arc::new(scan);
        if is_newest {
            state.answered = scan.number;
            state.plan = None;
            self.newest.send_replace(Some(scan.clone()));
        }
        scan
    }

    /// Adds a stream that is read from now on, unless another one has its key.
    pub(crate) fn join(&self, key: &str) -> Join {
        let mut state = self.state();
        match state.streams.get(key) {
            Some(stream) if stream.is_leaving => return Join::Leaving,
            Some(_) => return Join::Taken,
            None => {}
        }
        state.streams.insert(key.to_owned(), StreamState::default());
        Join::Joined
    }

    /// Removes a stream that is not read any more: its leases count for no worker.
    pub(crate) fn leave(&self, key: &str) {
        self.state().streams.remove(key);
    }

    /// Changes what a stream has published.
    pub(crate) fn publish(&self, key: &str, change: impl FnOnce(&mut StreamState)) {
        if let Some(stream) = self.state().streams.get_mut(key) {
            change(stream);
        }
    }

    /// Whether all streams but this one hold and take nothing.
    pub(crate) fn others_hold_nothing(&self, key: &str) -> bool {
        self.state().streams.iter().all(|(other, stream)| other == key || stream.held.is_empty())
    }

    /// The time of the next audit of all streams: `next`, or the one that another stream has scheduled.
    pub(crate) fn common_audit(&self, next: Instant) -> Instant {
        let mut state = self.state();
        let scheduled = state.next_audit.filter(|scheduled| *scheduled > Instant::now());
        *state.next_audit.insert(scheduled.unwrap_or(next))
    }

    /// The plan for all streams that are read, made once for each scan. `None`: a newer scan was answered.
    pub(crate) fn plan(&self, scan: &TableScan, limits: AssignmentLimits) -> Option<Arc<StreamsPlan>> {
        let mut state = self.state();
        if scan.number != state.answered {
            return None;
        }
        let State { streams, observations, rng, plan, .. } = &mut *state;
        if let Some(plan) = plan {
            return Some(plan.clone());
        }
        let rows: Vec<StreamRows<'_>> = streams
            .iter()
            .map(|(key, stream)| {
                let listing = scan.listing.streams.get(key);
                let leases = listing.map_or(&[][..], |listing| listing.leases.as_slice());
                let observed = observations.get(key).map(|known| known.of(leases, scan.requested_at));
                let mut observed = observed.unwrap_or_default();
                observed.retain(|observed| !stream.left_out.contains(&observed.lease.shard_id));
                for observed in &mut observed {
                    observed.is_paused = stream.paused.contains(&observed.lease.shard_id);
                    observed.is_of_namesake = stream.of_namesakes.contains(&observed.lease.shard_id);
                }
                StreamRows { key, leases: observed, held: &stream.held, requested: &stream.requested }
            })
            .collect();
        let made = Arc::new(plan_streams(&rows, &self.worker_id, limits, rng));
        *plan = Some(made.clone());
        Some(made)
    }
}

/// Waits for others who want a scan, and scans the table.
async fn scan_after(delay: Duration, table: Weak<SharedTable>) -> Result<Arc<TableScan>, Arc<StoreError>> {
    sleep(delay).await;
    let Some(table) = table.upgrade() else {
        let message = "the lease table is not used any more, since its consumer has ended";
        return Err(Arc::new(StoreError::new(StoreErrorKind::Unavailable, message)));
    };
    let (number, consistency) = table.begin();
    let requested_at = Instant::now();
    let listing = table.store.list(consistency).await.map_err(Arc::new)?;
    let duration = requested_at.elapsed();
    Ok(table.answer(TableScan {
        number,
        consistency,
        requested_at,
        duration,
        listing,
        live_peers: 0,
        is_led_by_this_worker: false,
    }))
}

/// An error for each of those who asked for the same scan.
fn copy_of(error: &StoreError) -> StoreError {
    let copy = StoreError::new(error.kind(), error.to_string());
    match error.service_cause() {
        Some(cause) => copy.with_source(cause.clone()),
        None => copy,
    }
}
