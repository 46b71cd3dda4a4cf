//! The running receiver: what it knows, its loop, and its start. What it does in the loop stands in the modules below,
//! and what it decides is pure and stands elsewhere.

mod bounded;
mod requests;
mod rests;
mod rounds;
mod running;
mod shards;
mod stop;

use std::sync::Arc;

use checkpointer::RetryPolicy;
use fastrand::Rng;
use lease_store::{LeaseListing, MalformedLease, ShardId, StreamIdentity};
use shard_worker::StreamClock;
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio::time::{Duration, Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;

use self::requests::Requests;
use self::rests::Rests;
use self::rounds::Rounds;
use self::shards::ShardSync;
use crate::bounded_run::BoundedRun;
use crate::error::{source_error, store_error};
use crate::identity::check_identity;
use crate::shard_task::ShardEnding;
use crate::start_notice::{start_notice, too_old_starts};
use crate::{LeaseObservations, Receiver, ReceiverError, ReceiverState, StopReport};

/// How many leases are taken, created, asked for or released at the same time.
const MAX_CONCURRENT_WRITES: usize = 16;

/// How long what is under way with the lease store may go on when a stop comes.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How long one thing may take that the receiver does with store and stream. Their own time-outs are shorter; this one is
/// there so that nothing can hang. What was cut short is seen and done again in a later round.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The running receiver.
pub(crate) struct Member {
    receiver: Receiver,
    application: Arc<str>,
    stream: Arc<str>,
    observations: LeaseObservations,
    tasks: JoinMap<ShardId, ShardEnding>,
    stop_shards: CancellationToken,
    /// Told when a shard ended and its children can be taken.
    new_leases: Arc<Notify>,
    rounds: Rounds,
    /// Leases that live workers were asked for.
    requests: Requests,
    /// Shards to stay away from for a while.
    rests: Rests,
    sync: ShardSync,
    /// Malformed rows that were reported, so that each is reported once.
    reported_malformed: Vec<MalformedLease>,
    /// What the stream keeps, for the shards at work.
    keeps: StreamKeeps,
    bounded: BoundedRun,
}

/// What the loop acts upon.
enum Event {
    ShardIsOver(ShardId, Result<ShardEnding, JoinError>),
    NewLeases,
    RequestsDue,
    AuditDue,
    RoundDue,
}

/// What the stream said of itself at the start.
#[derive(Debug, Clone)]
struct StreamFacts {
    identity: StreamIdentity,
    /// What `LATEST` and `AT_TIMESTAMP` stand for, in milliseconds since 1970.
    initial_time_millis: Option<u64>,
    clock: Option<StreamClock>,
}

/// By which clock the stream stamps its records, and for how long it keeps them.
#[derive(Debug, Clone, Copy, Default)]
struct StreamKeeps {
    clock: Option<StreamClock>,
    retention: Option<Duration>,
}

impl Member {
    pub(crate) fn new(receiver: Receiver) -> Self {
        let now = Instant::now();
        Self {
            application: receiver.settings.application.as_str().into(),
            stream: receiver.source.stream_name().into(),
            observations: LeaseObservations::new(),
            tasks: JoinMap::new(),
            stop_shards: CancellationToken::new(),
            new_leases: Arc::new(Notify::new()),
            rounds: Rounds::starting_at(now),
            requests: Requests::default(),
            rests: Rests::default(),
            sync: ShardSync::starting_at(now),
            reported_malformed: Vec::new(),
            keeps: StreamKeeps::default(),
            bounded: BoundedRun::default(),
            receiver,
        }
    }

    pub(crate) async fn run(mut self) -> Result<StopReport, ReceiverError> {
        let stop = self.receiver.shared.stop.clone();
        let facts = tokio::select! {
            biased;
            started = self.start() => started?,
            () = stop.cancelled() => return Ok(self.report(Vec::new())),
        };
        self.receiver.shared.live().state = ReceiverState::Running;
        loop {
            let next_poll = self.requests.next_poll();
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((shard_id, ended)) = self.tasks.join_next() => Event::ShardIsOver(shard_id, ended),
                () = self.new_leases.notified() => Event::NewLeases,
                () = sleep_until(next_poll), if !self.requests.is_empty() => Event::RequestsDue,
                () = sleep_until(self.sync.next_audit) => Event::AuditDue,
                () = sleep_until(self.rounds.next) => Event::RoundDue,
            };
            let stop_and_patience = async {
                stop.cancelled().await;
                sleep(STOP_PATIENCE).await;
            };
            // A take that is cut short leaves a lease that nobody reads; a store that never answers must not hold up a
            // stop.
            tokio::select! {
                biased;
                () = self.on(&facts, event) => {}
                () = stop_and_patience => break,
                () = sleep(TIME_LIMIT) => tracing::error!(
                    time = ?TIME_LIMIT,
                    "the lease store or the stream did not answer in time; what was under way is given up and done again"
                ),
            }
        }
        Ok(self.drain().await)
    }

    async fn on(&mut self, facts: &StreamFacts, event: Event) {
        match event {
            Event::ShardIsOver(shard_id, ended) => {
                self.note_bound(&shard_id, &ended);
                self.shard_is_over(facts, &shard_id, ended).await;
            }
            Event::NewLeases => self.look_at_new_leases(),
            Event::RequestsDue => self.poll_requests(facts).await,
            Event::AuditDue => self.audit(facts).await,
            Event::RoundDue => self.look_at_leases(facts).await,
        }
    }

    /// Makes the store ready and creates the first leases. Failures that pass are tried again a few times; all workers
    /// of a fleet can do this at once.
    async fn start(&mut self) -> Result<StreamFacts, ReceiverError> {
        let mut delays = RetryPolicy::default().delays(self.receiver.rng.fork());
        loop {
            let error = match self.try_start().await {
                Ok(facts) => return Ok(facts),
                Err(error) => error,
            };
            let delay = if error.is_retryable() { delays.next() } else { None };
            let Some(delay) = delay else { return Err(error) };
            tracing::warn!(%error, ?delay, "the start failed; trying again");
            sleep(delay).await;
        }
    }

    async fn try_start(&mut self) -> Result<StreamFacts, ReceiverError> {
        let (store, source) = (self.receiver.store.clone(), self.receiver.source.clone());
        store.prepare().await.map_err(|error| store_error("preparing the lease store", error))?;
        let stream = source.describe().await;
        let stream = stream.map_err(|error| source_error("looking at the stream", error))?;
        let listing = self.list_all().await?;
        check_identity(store.name(), &listing.leases, &stream.identity)?;
        // The time is that of the call or earlier, so from now on the clock is never fast.
        let clock = stream.now.map(|now| StreamClock::new(now, Instant::now()));
        self.keeps = StreamKeeps { clock, retention: stream.retention };
        self.check_bound()?;
        let settings = self.receiver.settings.clone();
        let named = &settings.initial_positions;
        let initial_time_millis = settings.initial_position.frozen_millis(&listing.leases, named, stream.now);
        let facts = StreamFacts { identity: stream.identity, initial_time_millis, clock };
        let leases = listing.leases.clone();
        let new_leases = self.create_missing_leases(&facts, listing).await?;
        match start_notice(&settings, &leases, &new_leases) {
            Some(notice) if notice.is_warning => tracing::warn!("{}", notice.text),
            Some(notice) => tracing::info!("{}", notice.text),
            None => {}
        }
        if !new_leases.is_empty()
            && let Some(warning) = too_old_starts(&settings, stream.now, stream.retention)
        {
            tracing::warn!("{warning}");
        }
        tracing::info!(settings = ?self.receiver.settings, stream = %facts.identity, "receiver started");
        Ok(facts)
    }

    fn report_malformed(&mut self, listing: &LeaseListing) {
        for row in &listing.malformed {
            if !self.reported_malformed.contains(row) {
                tracing::error!(
                    table = self.receiver.store.name(),
                    %row,
                    "a row of the lease table cannot be read and is left alone; mend or delete it"
                );
            }
        }
        self.reported_malformed.clone_from(&listing.malformed);
    }
}

/// A time up to a tenth shorter or longer, so that workers which started together do not stay in step.
fn jittered(duration: Duration, rng: &mut Rng) -> Duration {
    duration.mul_f64(0.9 + 0.2 * rng.f64())
}
