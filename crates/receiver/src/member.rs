//! The running receiver: looks at the leases, takes its share, supervises its shards, and stops.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use checkpointer::{Cadence, Checkpointer, RetryPolicy};
use fastrand::Rng;
use futures::StreamExt as _;
use lease_store::{
    Consistency, HeldLease, Lease, LeaseListing, LeaseWrite, MalformedLease, Position, ShardId, StoreError,
    StoreErrorKind, WriteOutcome,
};
use shard_worker::{ShardContext, ShardOutcome, ShardProgress, ShardWorker, ShardWorkerOptions};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::JoinMap;
use tracing::Instrument as _;

use crate::assignment::{AssignmentLimits, Holdings, ObservedLease, plan_assignment};
use crate::children::ShardEndWriter;
use crate::cleanup::plan_cleanup;
use crate::error::{source_error, store_error};
use crate::handle::LiveShard;
use crate::shard_sync::plan_new_leases;
use crate::shard_task::{ShardTask, release};
use crate::{LeaseObservations, Receiver, ReceiverError, ReceiverState, StopReport};

/// How many rounds of looking at the leases fit into the fail-over time.
const ROUNDS_PER_FAILOVER_TIME: u32 = 4;

/// How many rounds follow each other in the time of one while there are free leases to take.
const FOLLOW_UPS_PER_ROUND: u32 = 12;

/// How many leases are taken, created or released at the same time.
const MAX_CONCURRENT_WRITES: usize = 16;

/// How long cutting off shards and releasing their leases may take after the drain time is over.
const CUT_OFF_TIME: Duration = Duration::from_secs(5);

/// The running receiver.
pub(crate) struct Member {
    receiver: Receiver,
    application: Arc<str>,
    stream: Arc<str>,
    observations: LeaseObservations,
    tasks: JoinMap<ShardId, ShardOutcome>,
    stop_shards: CancellationToken,
    /// Told when a shard ended and its children can be taken.
    new_leases: Arc<Notify>,
    next_round: Instant,
    /// There are leases that an eventually consistent listing may not show yet.
    has_new_leases: bool,
    next_shard_sync: Instant,
    /// Malformed rows that were reported, so that each is reported once.
    reported_malformed: Vec<MalformedLease>,
    was_standby: bool,
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
            next_round: now,
            has_new_leases: true,
            next_shard_sync: now,
            reported_malformed: Vec::new(),
            was_standby: false,
            receiver,
        }
    }

    pub(crate) async fn run(mut self) -> Result<StopReport, ReceiverError> {
        let stop = self.receiver.shared.stop.clone();
        tokio::select! {
            started = self.start() => started?,
            () = stop.cancelled() => return Ok(self.report(Vec::new())),
        }
        self.receiver.shared.live().state = ReceiverState::Running;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((shard_id, ended)) = self.tasks.join_next() => self.shard_is_over(&shard_id, ended),
                () = self.new_leases.notified() => self.look_at_new_leases(),
                () = sleep_until(self.next_shard_sync) => self.sync_shards().await,
                () = sleep_until(self.next_round) => self.look_at_leases().await,
            }
        }
        Ok(self.drain().await)
    }

    /// Makes the store ready and creates the first leases. Failures that pass are tried again a few times; all workers
    /// of a fleet can do this at once.
    async fn start(&mut self) -> Result<(), ReceiverError> {
        let mut delays = RetryPolicy::default().delays(self.receiver.rng.fork());
        loop {
            let error = match self.try_start().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let delay = if error.is_retryable() { delays.next() } else { None };
            let Some(delay) = delay else { return Err(error) };
            tracing::warn!(%error, ?delay, "the start failed; trying again");
            tokio::time::sleep(delay).await;
        }
    }

    async fn try_start(&mut self) -> Result<(), ReceiverError> {
        let store = &self.receiver.store;
        store.prepare().await.map_err(|error| store_error("preparing the lease store", error))?;
        self.try_sync_shards().await?;
        tracing::info!(settings = ?self.receiver.settings, "receiver started");
        Ok(())
    }

    async fn sync_shards(&mut self) {
        if let Err(error) = self.try_sync_shards().await {
            tracing::warn!(%error, "shard sync failed; the next one is due after its interval");
        }
    }

    /// Creates the leases that are missing, and deletes those that nobody needs.
    async fn try_sync_shards(&mut self) -> Result<(), ReceiverError> {
        let settings = &self.receiver.settings;
        self.next_shard_sync =
            Instant::now() + jittered(settings.shard_sync_interval, &mut self.receiver.rng);
        let shards = self.receiver.source.list_shards().await;
        let shards = shards.map_err(|error| source_error("listing the shards of the stream", error))?;
        let listing = self.receiver.store.list(Consistency::Strong).await;
        let listing = listing.map_err(|error| store_error("listing the leases", error))?;
        self.report_malformed(&listing);
        // A row that cannot be read may be a lease all the same: it counts as one that is not finished.
        let unreadable =
            unreadable_shards(&listing).into_iter().map(|id| Lease::unowned(id, Position::TrimHorizon));
        let known: Vec<Lease> = listing.leases.iter().cloned().chain(unreadable).collect();
        for lease in plan_new_leases(&shards, &known, &self.receiver.settings.initial_position) {
            let created = self.receiver.store.write(&LeaseWrite::Create(lease.clone())).await;
            match created.map_err(|error| store_error("creating a lease", error))? {
                WriteOutcome::Applied { .. } => {
                    tracing::info!(shard_id = %lease.shard_id, checkpoint = %lease.checkpoint, "lease created");
                }
                WriteOutcome::Lost { .. } => {}
                WriteOutcome::Unknown(error) => return Err(store_error("creating a lease", error)),
            }
            self.look_at_new_leases();
        }
        self.clean_up(&listing.leases).await;
        Ok(())
    }

    async fn clean_up(&self, leases: &[Lease]) {
        for lease in plan_cleanup(leases) {
            let delete = LeaseWrite::Delete { shard_id: lease.shard_id.clone(), expected: lease.version() };
            match self.receiver.store.write(&delete).await {
                Ok(WriteOutcome::Applied { .. }) => {
                    tracing::info!(shard_id = %lease.shard_id, "lease of an ended shard deleted");
                }
                // Somebody else did it, or it is done at the next sync.
                Ok(WriteOutcome::Lost { .. } | WriteOutcome::Unknown(_)) => {}
                Err(error) => tracing::debug!(shard_id = %lease.shard_id, %error, "lease not deleted yet"),
            }
        }
    }

    fn look_at_new_leases(&mut self) {
        self.next_round = Instant::now();
        self.has_new_leases = true;
    }

    /// One round: what do the leases look like, and which ones to take.
    async fn look_at_leases(&mut self) {
        let failover_time = self.receiver.settings.failover_time;
        let interval = failover_time / ROUNDS_PER_FAILOVER_TIME;
        let asked_at = Instant::now();
        self.next_round = asked_at + jittered(interval, &mut self.receiver.rng);
        let consistency = if self.has_new_leases { Consistency::Strong } else { Consistency::Eventual };
        let mut listing = match self.receiver.store.list(consistency).await {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, "the leases could not be listed; trying again in the next round");
                return;
            }
        };
        self.has_new_leases = false;
        self.observations.observe(&listing.leases, Instant::now());
        self.report_malformed(&listing);
        // The children of a shard whose row cannot be read have to wait: it may not be finished.
        let unreadable = unreadable_shards(&listing);
        listing.leases.retain(|lease| lease.parents.is_disjoint(&unreadable));
        let (wanted, is_partial) = self.plan(&listing.leases, asked_at);
        self.take(wanted).await;
        if is_partial {
            self.has_new_leases = true;
            self.next_round = asked_at + jittered(interval / FOLLOW_UPS_PER_ROUND, &mut self.receiver.rng);
        }
        let of_others: Vec<&ShardId> = listing
            .leases
            .iter()
            .filter(|lease| !lease.is_finished() && !self.tasks.contains_key(&lease.shard_id))
            .map(|lease| &lease.shard_id)
            .collect();
        let next_expiry = self.observations.next_expiry(of_others, failover_time, Instant::now());
        self.next_round = next_expiry.map_or(self.next_round, |expiry| expiry.min(self.next_round));
        self.receiver.shared.live().has_looked = true;
        let is_standby = self.tasks.is_empty();
        if is_standby && !self.was_standby {
            tracing::info!("standby: no shard is free; this worker takes over when another one goes away");
        }
        self.was_standby = is_standby;
    }

    /// The leases to take, and whether more are free for this worker.
    fn plan(&mut self, leases: &[Lease], asked_at: Instant) -> (Vec<Lease>, bool) {
        let settings = &self.receiver.settings;
        let observed: Vec<ObservedLease<'_>> = leases
            .iter()
            .map(|lease| ObservedLease {
                lease,
                unchanged_for: self.observations.unchanged_for(&lease.shard_id, asked_at),
                owned_for: None,
                requested_for: Duration::ZERO,
                weight: 1,
            })
            .collect();
        let held: HashSet<ShardId> = self.tasks.keys().cloned().collect();
        let limits = AssignmentLimits {
            failover_time: settings.failover_time,
            hand_over_time: settings.failover_time,
            drain_time: settings.failover_time,
            max_leases: settings.max_leases,
            max_moves: settings.max_lease_moves_per_round,
            max_takes: usize::MAX,
        };
        let holdings =
            Holdings { worker_id: &self.receiver.worker_id, held: &held, requested: &HashSet::new() };
        let plan = plan_assignment(&observed, &holdings, limits, &mut self.receiver.rng);
        (plan.take.into_iter().chain(plan.request).cloned().collect(), plan.is_partial)
    }

    async fn take(&mut self, wanted: Vec<Lease>) {
        let taken: Vec<(Lease, Result<HeldLease, StoreError>)> = futures::stream::iter(wanted)
            .map(|lease| async {
                let store = self.receiver.store.clone();
                let held = HeldLease::take(store, &lease, &self.receiver.worker_id).await;
                (lease, held)
            })
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .collect()
            .await;
        for (seen, held) in taken {
            let previous_owner = seen.owner.as_ref().map_or("nobody", |owner| owner.as_str());
            match held {
                Ok(held) => {
                    tracing::info!(shard_id = %seen.shard_id, previous_owner, checkpoint = %held.taken().checkpoint, "lease taken");
                    self.start_shard(Arc::new(held));
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {
                    tracing::debug!(shard_id = %seen.shard_id, %error, "somebody else was first");
                }
                Err(error) => tracing::warn!(shard_id = %seen.shard_id, %error, "lease not taken"),
            }
        }
    }

    fn start_shard(&mut self, held: Arc<HeldLease>) {
        let settings = &self.receiver.settings;
        let shard_id = held.shard_id().clone();
        // Application, stream and worker stand in the span around this one.
        let lease_counter = held.fencing_token().counter;
        let span = tracing::info_span!("shard", %shard_id, lease_counter);
        let lease_lost = CancellationToken::new();
        let (progress_sender, progress) = watch::channel(ShardProgress::default());
        let context = ShardContext {
            application: self.application.clone(),
            stream: self.stream.clone(),
            shard_id: shard_id.clone(),
            worker_id: self.receiver.worker_id.clone(),
            fencing_token: held.fencing_token().clone(),
            start: held.taken().checkpoint.clone(),
            lease_lost: lease_lost.clone(),
        };
        let cadence =
            Cadence { interval: settings.checkpoint_interval, records: settings.checkpoint_records };
        let checkpointer = span.in_scope(|| {
            let rng = self.receiver.rng.fork();
            let retry = self.receiver.retries.checkpoint;
            Checkpointer::start(held.clone(), context.start.clone(), cadence, retry, rng)
        });
        let end_recorder = ShardEndWriter {
            held: held.clone(),
            store: self.receiver.store.clone(),
            source: self.receiver.source.clone(),
            initial_position: settings.initial_position,
            lease_lost,
            new_leases: self.new_leases.clone(),
            child_lookups: AtomicU32::new(0),
        };
        let mut options = ShardWorkerOptions::default();
        options.retry = self.receiver.retries.processing.unwrap_or(options.retry);
        options.initial_timestamp = settings.initial_position.timestamp();
        let worker = ShardWorker {
            context,
            source: self.receiver.source.clone(),
            processors: self.receiver.processors.clone(),
            checkpointer,
            end_recorder: Arc::new(end_recorder),
            stop: self.stop_shards.child_token(),
            progress: progress_sender,
            options,
            rng: self.receiver.rng.fork(),
        };
        let task = ShardTask { worker, held: held.clone(), failover_time: settings.failover_time };
        self.receiver.shared.live().shards.insert(shard_id.clone(), LiveShard { held, progress });
        self.tasks.spawn(shard_id, task.run().instrument(span));
    }

    /// Takes note that the work on a shard is over, however it ended.
    fn shard_is_over(&mut self, shard_id: &ShardId, ended: Result<ShardOutcome, JoinError>) {
        let mut live = self.receiver.shared.live();
        if let Some(shard) = live.shards.remove(shard_id) {
            // Whatever else still knows the lease writes nothing more.
            shard.held.fence();
            let progress = shard.progress.borrow().clone();
            live.acknowledged_records += progress.acknowledged_records;
            live.acknowledged_bytes += progress.acknowledged_bytes;
        }
        match ended {
            Ok(ShardOutcome::LeaseLost) => live.lost_leases += 1,
            Ok(_) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(%shard_id, %error, "the task of the shard failed; its lease is taken anew when it has expired");
            }
        }
    }

    fn report_malformed(&mut self, listing: &LeaseListing) {
        for row in &listing.malformed {
            if !self.reported_malformed.contains(row) {
                tracing::error!(%row, "a row of the lease table cannot be read and is left alone; mend or delete it");
            }
        }
        self.reported_malformed.clone_from(&listing.malformed);
    }

    /// Stops all shards: they finish their batches, checkpoint and release. What is not done within the drain time is
    /// cut off; its lease is released too, and its batch comes again elsewhere.
    async fn drain(mut self) -> StopReport {
        self.receiver.shared.live().state = ReceiverState::Stopping;
        self.stop_shards.cancel();
        let deadline = Instant::now() + self.receiver.settings.drain_time;
        let mut outcomes = Vec::new();
        while let Ok(Some((shard_id, ended))) = timeout_at(deadline, self.tasks.join_next()).await {
            outcomes.push((shard_id.clone(), ended.as_ref().ok().copied()));
            self.shard_is_over(&shard_id, ended);
        }
        self.tasks.abort_all();
        // Code that does not come to an await point cannot be cut off; its lease is not released either, since it may
        // still be working on the shard.
        let deadline = Instant::now() + CUT_OFF_TIME;
        let mut cut_off = Vec::new();
        while let Ok(Some((shard_id, _))) = timeout_at(deadline, self.tasks.join_next()).await {
            let live = self.receiver.shared.live();
            if let Some(shard) = live.shards.get(&shard_id) {
                tracing::warn!(%shard_id, progress = ?*shard.progress.borrow(), "cut off: the drain time is over");
                cut_off.push(shard.held.clone());
            }
        }
        let releases =
            futures::stream::iter(&cut_off).for_each_concurrent(MAX_CONCURRENT_WRITES, |held| release(held));
        if timeout_at(deadline, releases).await.is_err() {
            tracing::warn!("not all leases could be released in time; others wait the fail-over time");
        }
        let left: Vec<ShardId> = self.receiver.shared.live().shards.keys().cloned().collect();
        for shard_id in left {
            self.shard_is_over(&shard_id, Ok(ShardOutcome::Stopped { drained: false }));
            outcomes.push((shard_id, None));
        }
        outcomes.sort_by(|left, right| left.0.cmp(&right.0));
        self.report(outcomes)
    }

    fn report(&self, shards: Vec<(ShardId, Option<ShardOutcome>)>) -> StopReport {
        let acknowledged_records = self.receiver.shared.live().acknowledged_records;
        let report = StopReport { worker_id: self.receiver.worker_id.clone(), shards, acknowledged_records };
        tracing::info!(
            drained = report.is_drained(),
            shards = report.shards.len(),
            acknowledged_records,
            "receiver stopped"
        );
        report
    }
}

/// The shards whose rows cannot be read.
fn unreadable_shards(listing: &LeaseListing) -> BTreeSet<ShardId> {
    listing.malformed.iter().filter_map(|row| ShardId::new(row.key.clone()).ok()).collect()
}

/// A time up to a tenth shorter or longer, so that workers which started together do not stay in step.
fn jittered(duration: Duration, rng: &mut Rng) -> Duration {
    duration.mul_f64(0.9 + 0.2 * rng.f64())
}
