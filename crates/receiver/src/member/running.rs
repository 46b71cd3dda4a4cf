//! The shards at work: started with all they need, and over at some time.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, SystemTime};

use checkpointer::{Cadence, Checkpointer};
use lease_store::{HeldLease, Position, ShardId};
use shard_worker::{ShardContext, ShardOutcome, ShardProgress, ShardWorker, ShardWorkerOptions};
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Member, StreamFacts};
use crate::children::ShardEndWriter;
use crate::handle::LiveShard;
use crate::shard_task::{ShardEnding, ShardTask};

impl Member {
    pub(super) fn start_shard(&mut self, held: Arc<HeldLease>) {
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
            pending_checkpoint: held.taken().pending_checkpoint.clone(),
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
        options.retry = self.receiver.retries.processing.unwrap_or(options.retry);
        options.initial_timestamp = match (held.taken().initial_time_millis, &context.start) {
            (Some(millis), _) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)),
            // A row of a KCL worker: the time comes from the configuration, the same in the whole fleet.
            (None, Position::AtTimestamp) => settings.initial_position.timestamp(),
            (None, _) => None,
        };
        options.deaggregates = settings.deaggregates;
        options.hash_key_range = held.taken().hash_key_range;
        options.budget = self.receiver.shared.budget.clone();
        options.read_ahead_bytes = settings.read_ahead_bytes;
        options.data_loss = settings.data_loss_policy;
        options.run_until = settings.run_until;
        (options.stream_clock, options.retention) = (self.keeps.clock, self.keeps.retention);
        let stop = self.stop_shards.child_token();
        let trigger = checkpointer.trigger();
        let worker = ShardWorker {
            context,
            source: self.receiver.source.clone(),
            processors: self.receiver.processors.clone(),
            checkpointer,
            end_recorder: Arc::new(end_recorder),
            stop: stop.clone(),
            progress: progress_sender,
            options,
            rng: self.receiver.rng.fork(),
        };
        let task = ShardTask {
            worker,
            held: held.clone(),
            trigger,
            stop,
            failover_time: settings.failover_time,
            drain_time: settings.drain_time,
        };
        self.receiver.shared.live().shards.insert(shard_id.clone(), LiveShard { held, progress });
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
            && held.has_vanished()
        {
            let last_known = held.last_known().await;
            self.restore(facts, last_known).await;
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
        match ended {
            Ok(ShardEnding { handed_over_to: Some(_), .. }) => live.handed_over_leases += 1,
            Ok(ShardEnding { outcome: ShardOutcome::LeaseLost, .. }) => live.lost_leases += 1,
            Ok(_) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(%shard_id, %error, "the task of the shard failed; its lease is taken anew when it has expired");
            }
        }
        shard.map(|shard| shard.held)
    }
}
