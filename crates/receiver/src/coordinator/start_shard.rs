//! Starts the work on a taken lease, and accounts for it when it finishes.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::SystemTime;

use checkpointer::{Cadence, Checkpointer, RetryPolicy};
use fastrand::Rng;
use lease_store::{HeldLease, Lease, LeaseStore, Position, ShardId, WorkerId};
use shard_worker::{
    RecordProcessorFactory, ShardContext, ShardOutcome, ShardProgress, ShardWorker, ShardWorkerOptions,
    StreamClock, StreamSource, WatchdogCommands,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Coordinator, RetentionInfo, StreamFacts};
use crate::handle::{LiveShard, Shared};
use crate::lease::orders::Order;
use crate::lease::shard_task::{ShardEnding, ShardTask};
use crate::settings::ConsumerSettings;
use crate::shards::initial_position::time_of_millis;
use crate::shards::shard_end_writer::ShardEndWriter;

/// The parts that the work on a shard needs besides its lease.
pub(super) struct ShardStarter {
    pub(super) worker_id: WorkerId,
    pub(super) store: Arc<dyn LeaseStore>,
    pub(super) shared: Arc<Shared>,
    settings: ConsumerSettings,
    application: Arc<str>,
    stream: Arc<str>,
    source: Arc<dyn StreamSource>,
    processors: Arc<dyn RecordProcessorFactory>,
    checkpoint_retry: RetryPolicy,
    worker_options: ShardWorkerOptions,
    retention: RetentionInfo,
    stop_shards: CancellationToken,
    new_leases: Arc<Notify>,
}

impl ShardStarter {
    /// Works on a shard until that is over for this receiver.
    pub(super) async fn run(&self, held: Arc<HeldLease>, rng: &mut Rng) -> ShardEnding {
        let settings = &self.settings;
        let shard_id = held.shard_id().clone();
        // The span around this one has application, stream and worker.
        let lease_counter = held.fencing_token().counter;
        let span = tracing::info_span!("shard", %shard_id, lease_counter);
        let (lease_lost, stop) = (CancellationToken::new(), self.stop_shards.child_token());
        let (progress_sender, progress) = watch::channel(ShardProgress::default());
        let mut context = ShardContext::new(
            self.application.clone(),
            self.stream.clone(),
            shard_id.clone(),
            held.fencing_token().clone(),
        );
        context.start = held.taken().checkpoint.clone();
        context.pending_checkpoint.clone_from(&held.taken().pending_checkpoint);
        context.parent_shard_ids.clone_from(&held.taken().parents);
        context.stream_identity.clone_from(&held.taken().stream);
        context.hash_key_range = held.taken().hash_key_range;
        context.stopping = stop.clone();
        context.lease_lost = lease_lost.clone();
        let cadence =
            Cadence { interval: settings.checkpoint_interval, records: settings.checkpoint_records };
        let checkpointer = span.in_scope(|| {
            let retry = self.checkpoint_retry;
            Checkpointer::start(held.clone(), context.start.clone(), cadence, retry, rng.fork())
        });
        let end_recorder = ShardEndWriter {
            held: held.clone(),
            store: self.store.clone(),
            source: self.source.clone(),
            initial_position: settings.initial_position,
            has_named_positions: !settings.initial_positions.is_empty(),
            lease_lost,
            new_leases: self.new_leases.clone(),
            child_lookups: AtomicU32::new(0),
        };
        let trigger = checkpointer.trigger();
        let acknowledger = checkpointer.acknowledger();
        let watchdog_commands = WatchdogCommands::default();
        let worker = ShardWorker {
            context,
            source: self.source.clone(),
            processors: self.processors.clone(),
            checkpointer,
            end_recorder: Arc::new(end_recorder),
            watchdog_commands: watchdog_commands.clone(),
            progress: progress_sender,
            options: self.options_for(held.taken()),
            rng: rng.fork(),
        };
        let task = ShardTask {
            worker,
            held: held.clone(),
            trigger,
            stop,
            watchdog_commands,
            progress: progress.clone(),
            watchdog: settings.watchdog_limits(),
            failover_time: settings.failover_time,
            drain_time: settings.drain_time,
            clock: self.retention.clock,
        };
        let taken_at = Instant::now();
        self.shared
            .live()
            .shards
            .insert(shard_id, LiveShard { held, progress, acknowledger, taken_at, reported_edit: None });
        task.run().instrument(span).await
    }

    /// The clock by which a pause ends.
    pub(super) fn clock(&self) -> Option<StreamClock> {
        self.retention.clock
    }

    /// The options of the receiver, with the start time of this shard and the retention of the stream.
    fn options_for(&self, lease: &Lease) -> ShardWorkerOptions {
        let mut options = self.worker_options.clone();
        options.initial_timestamp = self.start_time_of(lease);
        options.stream_clock = self.retention.clock;
        options.retention = self.retention.period;
        options.distribution = self.retention.distribution;
        options.stream_retention = Some(self.retention.shared.clone());
        options
    }

    fn start_time_of(&self, lease: &Lease) -> Option<SystemTime> {
        match (lease.initial_time_millis, &lease.checkpoint) {
            (Some(millis), _) => time_of_millis(millis),
            // A row of a KCL worker: the time comes from the configuration, the same in the whole fleet.
            (None, Position::AtTimestamp) => self.settings.initial_position.timestamp(),
            (None, _) => None,
        }
    }
}

impl Coordinator {
    pub(super) fn shard_starter(&self) -> ShardStarter {
        let receiver = &self.receiver;
        ShardStarter {
            worker_id: receiver.worker_id.clone(),
            store: receiver.store.clone(),
            shared: receiver.shared.clone(),
            settings: receiver.settings.clone(),
            application: self.application.clone(),
            stream: self.stream.clone(),
            source: receiver.source.clone(),
            processors: receiver.processors.clone(),
            checkpoint_retry: receiver.checkpoint_retry,
            worker_options: receiver.worker_options.clone(),
            retention: self.retention.clone(),
            stop_shards: self.stop_shards.clone(),
            new_leases: self.new_leases.clone(),
        }
    }

    /// Records that the work on a shard is over, and restores its row if it was deleted.
    pub(super) async fn on_shard_finished(
        &mut self,
        facts: &StreamFacts,
        shard_id: &ShardId,
        ended: Result<ShardEnding, JoinError>,
    ) {
        let Some(held) = self.record_end(shard_id, &ended) else { return };
        let is_reset = ended.as_ref().is_ok_and(|ending| matches!(ending.order, Some(Order::Reset(_))));
        if is_reset {
            // A worker of this fleet continues from the new position, and this one need not wait for its next round.
            self.schedule_strong_scan();
        }
        if held.has_ended() {
            // The shard is read to its end, whether or not its row says so.
            self.known.forget(shard_id);
        } else {
            // This row is newer than that of any listing.
            let now = Instant::now();
            let written_at = now.checked_sub(held.vanished_after().unwrap_or_default()).unwrap_or(now);
            self.known.record(held.last_known().await, written_at);
            self.known_since = Some(Instant::now());
        }
        if let Some(vanished_after) = held.vanished_after() {
            self.restore_row(facts, &held, vanished_after).await;
        }
    }

    /// Adds the progress of a finished shard to the totals. Returns the lease that it held, if it is known.
    pub(super) fn record_end(
        &mut self,
        shard_id: &ShardId,
        ended: &Result<ShardEnding, JoinError>,
    ) -> Option<Arc<HeldLease>> {
        let mut live = self.receiver.shared.live();
        let shard = live.shards.remove(shard_id);
        // After a reset it does not matter what was acknowledged before.
        let is_reset = ended.as_ref().is_ok_and(|ending| matches!(ending.order, Some(Order::Reset(_))));
        if let Some(shard) = &shard {
            // From now on no other holder of this lease handle can write.
            shard.held.fence();
            live.record_released(shard);
            // A lost lease stays in doubt until a row shows another owner or the position.
            if shard.held.lost_to().is_none()
                && !is_reset
                && let Some(position) = shard.acknowledger.unwritten()
            {
                self.unwritten.record(shard_id.clone(), position);
            }
        }
        drop(live);
        self.record_cooldown(shard_id, ended);
        if let Some(row) = shard.as_ref().and_then(|shard| shard.held.lost_to_namesake()) {
            self.record_loss_to_namesake(&row);
        }
        let mut live = self.receiver.shared.live();
        match ended {
            Ok(ShardEnding { handed_over_to: Some(_), .. }) => live.handed_over_leases += 1,
            Ok(ShardEnding { outcome: ShardOutcome::LeaseLost, .. }) => live.lost_leases += 1,
            Ok(ShardEnding { outcome: ShardOutcome::GivenUp, .. }) => live.given_up_leases += 1,
            Ok(_) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(%shard_id, %error, "the task of the shard failed, its lease is taken again when it has expired");
            }
        }
        shard.map(|shard| shard.held)
    }
}
