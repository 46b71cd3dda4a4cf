//! The coordinator of one worker: it starts up, runs lease rounds, and reacts to events until it is stopped.
//!
//! The modules below are the steps of the loop. The decisions are pure functions in [`crate::assignment`] and
//! [`crate::shards`].

mod bounded;
mod cooldowns;
mod fleet_mode;
mod lease_requests;
mod namesakes;
mod read_again;
mod rewound;
mod rounds;
mod scan;
mod shard_sync;
mod shutdown;
mod start;
mod start_shard;
mod startup_log;
mod takes;

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use fastrand::Rng;
use lease_store::{Lease, LeaseListing, MalformedLease, ShardId, StreamIdentity};
use shard_worker::{RecordDistribution, StreamClock, StreamRetention};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Duration, Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;
use tracing::Instrument as _;

use self::cooldowns::Cooldowns;
use self::lease_requests::{LeaseRequests, RequestStep};
use self::namesakes::NamesakeReports;
use self::rounds::Rounds;
use self::scan::Scan;
use self::shard_sync::ShardSync;
use self::takes::{MAX_CONCURRENT_TAKES, TaskEnd};
use crate::assignment::bounded_run::BoundedRun;
use crate::assignment::lease_observations::LeaseObservations;
use crate::assignment::namesakes::Namesakes;
use crate::error::ConsumerError;
use crate::lease::token_floor::TokenFloor;
use crate::lease::unwritten::UnwrittenPositions;
use crate::receiver::Consumer;
use crate::shards::border::{Border, VerifiedStream};
use crate::shards::last_known::LastKnownLeases;
use crate::shards::table_identity::{ApplicationNames, check_identity};
use crate::status::{ConsumerState, StopReport};
use crate::streams::seat::Seat;

/// How many leases are created, requested, polled, deleted or released at the same time.
const MAX_CONCURRENT_WRITES: usize = 16;

/// How long an operation on the lease store or the stream may continue after a stop was requested.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How long a stop may take in addition to the drain time: the event that it interrupts, the abort of what is not done with
/// the release of the leases, and a last look at lost leases.
#[cfg(test)]
pub(crate) const STOP_TAIL: Duration =
    Duration::from_secs(2 * STOP_PATIENCE.as_secs() + shutdown::CUT_OFF_TIME.as_secs());

/// How long the handling of one event may take. The time-outs of store and stream are shorter, so this limit only keeps
/// the loop from hanging. A later round repeats interrupted work.
const TIME_LIMIT: Duration = Duration::from_secs(120);

impl Consumer {
    /// Works until it is stopped or its part of a bounded run is over. Returns the outcome of each shard.
    ///
    /// # Errors
    /// The start can fail: an unknown stream, missing credentials, a table of another layout. Later failures are retried, and
    /// reported in the status and the log, except `WrongStream` and `WrongApplication`: the table turned out to belong to
    /// another stream or application, or the stream was deleted and created again. Then nothing more is read or written, and the leases expire.
    pub async fn run(self) -> Result<StopReport, ConsumerError> {
        let span = tracing::info_span!(
            "receiver",
            application = %self.settings.application,
            stream = %self.source.stream_name(),
            worker_id = %self.worker_id,
        );
        let shared = self.shared.clone();
        let _end = self.end.clone();
        let report = Coordinator::new(self).run().instrument(span).await;
        let mut live = shared.live();
        live.state = ConsumerState::Stopped;
        live.stop_report = report.as_ref().ok().cloned();
        drop(live);
        report
    }
}

/// The running worker, and all it knows of leases and shards.
struct Coordinator {
    receiver: Consumer,
    application: Arc<str>,
    stream: Arc<str>,
    observations: LeaseObservations,
    /// Other live processes under the id of this worker.
    namesakes: Namesakes,
    namesake_reports: NamesakeReports,
    /// The least counter of the next takes.
    token_floor: TokenFloor,
    /// A task for each lease that is being taken or is held.
    tasks: JoinMap<ShardId, TaskEnd>,
    take_permits: Arc<Semaphore>,
    /// The scan of the present round: at most one.
    scans: JoinSet<Scan>,
    /// The clean-up of the last round: at most one.
    clean_up: JoinSet<()>,
    /// The acknowledged positions of lost leases that may not be stored.
    unwritten: UnwrittenPositions,
    stop_shards: CancellationToken,
    /// Notified when a shard has ended and its children can be taken.
    new_leases: Arc<Notify>,
    rounds: Rounds,
    /// Leases that were requested from live workers.
    requests: LeaseRequests,
    /// Shards that this worker does not take for a while.
    cooldowns: Cooldowns,
    sync: ShardSync,
    /// The last known row of each shard, in case a row vanishes.
    known: LastKnownLeases,
    /// When `known` last got a row from another source than a listing.
    known_since: Option<Instant>,
    /// Malformed rows that were logged, so that each is logged once.
    reported_malformed: Vec<MalformedLease>,
    /// The retention of the stream, for the shards that are started.
    retention: RetentionInfo,
    bounded: BoundedRun,
}

/// The events that the loop reacts to. One at a time exists, so its size does not matter.
#[allow(clippy::large_enum_variant)]
enum Event {
    TaskEnded(ShardId, Result<TaskEnd, JoinError>),
    NewLeases,
    RequestAnswered(ShardId, Result<RequestStep, JoinError>),
    RequestsDue,
    Scanned(Result<Scan, JoinError>),
    /// Another stream of this worker has scanned the table.
    TableScanned(Scan),
    AuditDue,
    RoundDue,
}

/// The stream as it was described at the start.
#[derive(Debug, Clone)]
struct StreamFacts {
    identity: StreamIdentity,
    application: Arc<ApplicationNames>,
    border: Arc<Border>,
    /// The instant of `LATEST` or `AT_TIMESTAMP`, in milliseconds since 1970.
    initial_time_millis: Option<u64>,
    clock: Option<StreamClock>,
}

impl StreamFacts {
    /// Refuses leases of another stream or another application.
    ///
    /// # Errors
    /// `WrongStream` or `WrongApplication`.
    fn check_rows(&self, table: &str, leases: &[Lease]) -> Result<(), ConsumerError> {
        check_identity(table, leases, &self.identity)?;
        self.application.check(table, leases)
    }
}

/// The clock that stamps the records of the stream, and how long it keeps them.
#[derive(Debug, Clone, Default)]
struct RetentionInfo {
    clock: Option<StreamClock>,
    period: Option<Duration>,
    /// How the stream distributes records over its shards.
    distribution: Option<RecordDistribution>,
    /// The retention period, with the later readings of all shards.
    shared: StreamRetention,
}

impl Coordinator {
    fn new(receiver: Consumer) -> Self {
        let now = Instant::now();
        Self {
            application: receiver.settings.application.as_str().into(),
            stream: receiver.source.stream_name().into(),
            observations: LeaseObservations::new(),
            namesakes: Namesakes::default(),
            namesake_reports: NamesakeReports::default(),
            token_floor: TokenFloor::default(),
            tasks: JoinMap::new(),
            take_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_TAKES)),
            scans: JoinSet::new(),
            clean_up: JoinSet::new(),
            unwritten: UnwrittenPositions::default(),
            stop_shards: CancellationToken::new(),
            new_leases: Arc::new(Notify::new()),
            rounds: Rounds::starting_at(now),
            requests: LeaseRequests::default(),
            cooldowns: Cooldowns::default(),
            sync: ShardSync::starting_at(now),
            known: LastKnownLeases::default(),
            known_since: None,
            reported_malformed: Vec::new(),
            retention: RetentionInfo::default(),
            bounded: BoundedRun::default(),
            receiver,
        }
    }

    async fn run(mut self) -> Result<StopReport, ConsumerError> {
        let stop = self.receiver.shared.stop.clone();
        let facts = tokio::select! {
            biased;
            started = self.start() => started?,
            () = stop.cancelled() => return Ok(self.report(Vec::new(), Vec::new())),
        };
        self.ignore_started_scans();
        let (store, shared) = (self.receiver.store.clone(), self.receiver.shared.clone());
        let _fleet_mode = fleet_mode::watch(store, shared, Rng::with_seed(self.receiver.shared.mode_seed()));
        let border = facts.border.clone();
        self.receiver.source = Arc::new(VerifiedStream::new(self.receiver.source.clone(), border.clone()));
        self.receiver.shared.live().state = ConsumerState::Running;
        loop {
            let next_poll = self.requests.next_poll();
            let event = tokio::select! {
                biased;
                () = border.crossed() => return Err(self.leave(&border)),
                () = stop.cancelled() => break,
                Some((shard_id, ended)) = self.tasks.join_next() => Event::TaskEnded(shard_id, ended),
                () = self.new_leases.notified() => Event::NewLeases,
                Some((shard_id, step)) = self.requests.steps.join_next() => Event::RequestAnswered(shard_id, step),
                Some(scan) = self.scans.join_next() => Event::Scanned(scan),
                scan = table_scan(self.receiver.seat.as_mut()) => Event::TableScanned(scan),
                () = sleep_until(next_poll), if !self.requests.is_empty() => Event::RequestsDue,
                () = sleep_until(self.sync.next_audit) => Event::AuditDue,
                () = sleep_until(self.rounds.next), if self.scans.is_empty() => Event::RoundDue,
            };
            let stop_and_patience = async {
                stop.cancelled().await;
                sleep(STOP_PATIENCE).await;
            };
            // Takes, polls and scans are tasks of their own. Only the repair of holes and rows and the audit are waited for
            // here, and a store that never answers must not block a stop.
            tokio::select! {
                biased;
                () = border.crossed() => {}
                () = self.on(&facts, event) => {}
                () = stop_and_patience => break,
                () = sleep(TIME_LIMIT) => tracing::error!(
                    time_limit = ?TIME_LIMIT,
                    "the lease store or the stream did not answer in time, a later round repeats the work"
                ),
            }
            if let Some(seat) = &self.receiver.seat {
                seat.publish(self.tasks.keys().cloned().collect(), self.requests.shards());
            }
        }
        Ok(self.drain().await)
    }

    /// Ends all work without another read or write: stream and table do not belong together.
    fn leave(&mut self, border: &Border) -> ConsumerError {
        for (_, shard) in std::mem::take(&mut self.receiver.shared.live().shards) {
            shard.held.fence();
        }
        self.tasks.abort_all();
        self.requests.steps.abort_all();
        self.clean_up.abort_all();
        self.scans.abort_all();
        border.error()
    }

    /// The shards whose leases this worker holds.
    fn held_shards(&self) -> BTreeSet<ShardId> {
        self.receiver.shared.live().shards.keys().cloned().collect()
    }

    async fn on(&mut self, facts: &StreamFacts, event: Event) {
        match event {
            Event::TaskEnded(shard_id, ended) => {
                if let Some(ended) = self.work_end(ended) {
                    self.record_bound(&shard_id, &ended);
                    self.on_shard_finished(facts, &shard_id, ended).await;
                }
            }
            Event::NewLeases => self.schedule_strong_scan(),
            Event::RequestAnswered(shard_id, step) => self.on_request_answered(facts, &shard_id, step),
            Event::RequestsDue => self.poll_requests(),
            Event::Scanned(Ok(scan)) => self.lease_round(facts, scan).await,
            Event::Scanned(Err(error)) => {
                tracing::error!(%error, "listing the leases panicked, trying again in the next round");
            }
            Event::TableScanned(scan) => self.shared_round(facts, scan).await,
            Event::AuditDue => self.audit(facts).await,
            Event::RoundDue => self.start_round(),
        }
    }

    /// Ignores scans of other streams of this worker that may not show rows which this one has just created.
    fn ignore_started_scans(&self) {
        if let Some(seat) = &self.receiver.seat {
            seat.ignore_started_scans();
        }
    }

    fn report_malformed(&mut self, listing: &LeaseListing) {
        for row in &listing.malformed {
            if !self.reported_malformed.contains(row) {
                tracing::error!(
                    table = self.receiver.store.name(),
                    %row,
                    "malformed row in the lease table is left as it is; fix or delete it"
                );
            }
        }
        self.reported_malformed.clone_from(&listing.malformed);
    }
}

/// The next scan of the table that all streams of this worker share. A worker of one stream waits for ever.
async fn table_scan(seat: Option<&mut Seat>) -> Scan {
    let Some(seat) = seat else { return pending().await };
    let (table, listing) = seat.next_scan().await;
    Scan::of_table(table, listing)
}

/// A time up to a tenth shorter or longer, so that workers which started together do not stay synchronised.
fn jittered(duration: Duration, rng: &mut Rng) -> Duration {
    duration.mul_f64(0.9 + 0.2 * rng.f64())
}
