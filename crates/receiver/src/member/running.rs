//! The shards at work: started with all they need, and over at some time.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use checkpointer::{Cadence, Checkpointer};
use lease_store::{HeldLease, Position, ShardId};
use shard_worker::{
    DEFAULT_PROCESSING_RETRY, Interventions, ShardContext, ShardOutcome, ShardProgress, ShardWorker,
    ShardWorkerOptions,
};
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Member, StreamFacts};
use crate::children::ShardEndWriter;
use crate::handle::LiveShard;
use crate::initial_position::time_of_millis;
use crate::shard_task::{ShardEnding, ShardTask};

/// For which part of the drain time a stop waits for what the application acknowledges later: the last checkpoint needs
/// time too.
const SETTLE_SHARE: f64 = 0.75;

impl Member {
    pub(super) fn start_shard(&mut self, held: Arc<HeldLease>) {
        let settings = &self.receiver.settings;
        let shard_id = held.shard_id().clone();
        // Application, stream and worker stand in the span around this one.
        let lease_counter = held.fencing_token().counter;
        let span = tracing::info_span!("shard", %shard_id, lease_counter);
        let (lease_lost, stop) = (CancellationToken::new(), self.stop_shards.child_token());
        let (progress_sender, progress) = watch::channel(ShardProgress::default());
        let context = ShardContext {
            application: self.application.clone(),
            stream: self.stream.clone(),
            shard_id: shard_id.clone(),
            worker_id: self.receiver.worker_id.clone(),
            fencing_token: held.fencing_token().clone(),
            start: held.taken().checkpoint.clone(),
            pending_checkpoint: held.taken().pending_checkpoint.clone(),
            parent_shard_ids: held.taken().parents.clone(),
            hash_key_range: held.taken().hash_key_range,
            failure_policy: self.receiver.failure_policy.clone(),
            retry: self.receiver.retries.processing.unwrap_or(DEFAULT_PROCESSING_RETRY),
            stopping: stop.clone(),
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
            has_named_positions: !settings.initial_positions.is_empty(),
            lease_lost,
            new_leases: self.new_leases.clone(),
            child_lookups: AtomicU32::new(0),
        };
        let mut options = ShardWorkerOptions::default();
        options.initial_timestamp = match (held.taken().initial_time_millis, &context.start) {
            (Some(millis), _) => time_of_millis(millis),
            // A row of a KCL worker: the time comes from the configuration, the same in the whole fleet.
            (None, Position::AtTimestamp) => settings.initial_position.timestamp(),
            (None, _) => None,
        };
        options.deaggregates = settings.deaggregates;
        options.budget = self.receiver.shared.budget.clone();
        options.read_ahead_bytes = settings.read_ahead_bytes;
        options.data_loss = settings.data_loss_policy;
        options.run_until = settings.run_until;
        (options.stream_clock, options.retention) = (self.keeps.clock, self.keeps.retention);
        options.max_unacknowledged_records = settings.max_unacknowledged_records;
        options.max_unacknowledged_bytes = settings.max_unacknowledged_bytes;
        options.batch_limits = settings.batch_limits();
        options.rate_limit = self.receiver.rate_limit.clone();
        options.adapts_rate = settings.adapts_rate;
        options.settle_time = settings.drain_time.mul_f64(SETTLE_SHARE);
        let trigger = checkpointer.trigger();
        let acknowledger = checkpointer.acknowledger();
        let interventions = Interventions::default();
        let worker = ShardWorker {
            context,
            source: self.receiver.source.clone(),
            processors: self.receiver.processors.clone(),
            checkpointer,
            end_recorder: Arc::new(end_recorder),
            stop: stop.clone(),
            interventions: interventions.clone(),
            progress: progress_sender,
            options,
            rng: self.receiver.rng.fork(),
        };
        let task = ShardTask {
            worker,
            held: held.clone(),
            trigger,
            stop,
            interventions,
            progress: progress.clone(),
            watchdog: settings.watchdog_limits(),
            failover_time: settings.failover_time,
            drain_time: settings.drain_time,
        };
        self.receiver
            .shared
            .live()
            .shards
            .insert(shard_id.clone(), LiveShard { held, progress, acknowledger });
        self.tasks.spawn(shard_id, task.run().instrument(span));
    }

    /// Takes note that the work on a shard is over, however it ended, and puts its row back if somebody deleted it.
    pub(super) async fn shard_is_over(
        &mut self,
        facts: &StreamFacts,
        shard_id: &ShardId,
        ended: Result<ShardEnding, JoinError>,
    ) {
        if let Some(held) = self.note_end(shard_id, &ended)
            && let Some(vanished_after) = held.vanished_after()
        {
            self.restore(facts, &held, vanished_after).await;
        }
    }

    /// Counts what the shard did; the lease that it held, if it is known.
    pub(super) fn note_end(
        &mut self,
        shard_id: &ShardId,
        ended: &Result<ShardEnding, JoinError>,
    ) -> Option<Arc<HeldLease>> {
        let mut live = self.receiver.shared.live();
        let shard = live.shards.remove(shard_id);
        if let Some(shard) = &shard {
            // Whatever else still knows the lease writes nothing more.
            shard.held.fence();
            let progress = shard.progress.borrow().clone();
            live.acknowledged_records += progress.acknowledged_records;
            live.acknowledged_bytes += progress.acknowledged_bytes;
        }
        drop(live);
        self.note_rest(shard_id, ended);
        let mut live = self.receiver.shared.live();
        match ended {
            Ok(ShardEnding { handed_over_to: Some(_), .. }) => live.handed_over_leases += 1,
            Ok(ShardEnding { outcome: ShardOutcome::LeaseLost, .. }) => live.lost_leases += 1,
            Ok(ShardEnding { outcome: ShardOutcome::GivenUp, .. }) => live.given_up_leases += 1,
            Ok(_) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(%shard_id, %error, "the task of the shard failed; its lease is taken anew when it has expired");
            }
        }
        shard.map(|shard| shard.held)
    }
}
