//! The shutdown of a receiver: it offers its shards to other workers, or drains and releases them.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use lease_store::{Consistency, HeldLease, Position, ShardId, StoreError};
use shard_worker::ShardOutcome;
use tokio::task::JoinError;
use tokio::time::{Duration, Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::JoinMap;

use super::scan::{Scan, scan};
use super::takes::TaskEnd;
use super::{Coordinator, MAX_CONCURRENT_WRITES, STOP_PATIENCE};
use crate::assignment::peers::live_peers;
use crate::lease::release::release_or_hand_over;
use crate::lease::shard_task::ShardEnding;
use crate::status::{ConsumerState, StopReport, Unread, UnreadReason};

/// How long it may take to abort shards and release their leases after the drain time.
pub(super) const CUT_OFF_TIME: Duration = Duration::from_secs(5);

/// The share of the fail-over time for which leases are offered to other workers before they are released. It covers one
/// lease round of theirs (a quarter, up to a tenth later) and the time to write a request.
const OFFER_SHARE: f64 = 0.325;

/// How many times per fail-over time the table is scanned for requests while leases are offered.
const SCANS_PER_FAILOVER_TIME: u32 = 20;

impl Coordinator {
    /// Hands over or releases all shards.
    ///
    /// While other live workers exist, the shards are offered to them and keep working until one of them requests them.
    /// After that, the remaining shards finish their batches, checkpoint and are released. A shard that is not done
    /// within the drain time is aborted: its lease is released too, and its batch is delivered again elsewhere.
    pub(super) async fn drain(mut self) -> StopReport {
        self.receiver.shared.live().state = ConsumerState::Stopping;
        let deadline = Instant::now() + self.receiver.settings.drain_time;
        let mut outcomes = Vec::new();
        let unread = self.unread();
        let withdrawals = self.withdraw_requests().await;
        if self.rounds.live_peers > 0 && !self.tasks.is_empty() {
            self.offer_shards(deadline, &mut outcomes).await;
        }
        self.stop_shards.cancel();
        while let Ok(Some((shard_id, ended))) = timeout_at(deadline, self.tasks.join_next()).await {
            self.record_outcome(&shard_id, ended, &mut outcomes);
        }
        self.cut_off(&mut outcomes).await;
        self.finish_withdrawals(withdrawals, deadline, &mut outcomes).await;
        self.settle_unwritten().await;
        outcomes.sort_by(|left, right| left.0.cmp(&right.0));
        self.report(outcomes, unread)
    }

    /// The rows and shards that could not be read.
    fn unread(&self) -> Vec<Unread> {
        let malformed = self.reported_malformed.iter().map(|row| {
            let fault = format!("attribute {:?}: {}", row.attribute, row.reason);
            Unread { key: row.key.clone(), reason: UnreadReason::MalformedRow(fault) }
        });
        let shards = self.receiver.shared.live().unread_shards();
        malformed.chain(shards).collect()
    }

    /// Waits for the withdrawals of requests. A lease whose withdrawal is not known to have succeeded may have been handed
    /// over to this worker, so the report names it.
    async fn finish_withdrawals(
        &self,
        mut withdrawals: JoinMap<ShardId, Result<(), StoreError>>,
        deadline: Instant,
        outcomes: &mut Vec<(ShardId, Option<ShardOutcome>)>,
    ) {
        let mut remaining: BTreeSet<ShardId> = withdrawals.keys().cloned().collect();
        let until = deadline.min(Instant::now() + CUT_OFF_TIME);
        while let Ok(Some((shard_id, withdrawn))) = timeout_at(until, withdrawals.join_next()).await {
            match withdrawn {
                Ok(Ok(())) => drop(remaining.remove(&shard_id)),
                Ok(Err(error)) => tracing::warn!(%shard_id, %error, "request not withdrawn"),
                Err(error) => tracing::error!(%shard_id, %error, "request not withdrawn"),
            }
        }
        outcomes.extend(remaining.into_iter().map(|shard_id| (shard_id, None)));
    }

    /// Reads the rows of the leases that were lost with unwritten positions: another worker may own them now, or the position
    /// was stored by a write that was never answered.
    async fn settle_unwritten(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let listing = scan(self.lease_source(), Consistency::Strong, self.list_patience());
        if let Ok(Scan { listing: Ok(listing), .. }) = timeout(STOP_PATIENCE, listing).await {
            self.unwritten.settle(&listing.leases, &self.receiver.worker_id);
        }
    }

    /// Offers the shards to the other workers, and keeps working on each until it is requested.
    async fn offer_shards(&mut self, deadline: Instant, outcomes: &mut Vec<(ShardId, Option<ShardOutcome>)>) {
        let failover_time = self.receiver.settings.failover_time;
        let until = deadline.min(Instant::now() + failover_time.mul_f64(OFFER_SHARE));
        tracing::info!(shards = self.tasks.len(), "stopping, offering the shards to the other workers");
        // If an offer is not answered in time, the tasks of the shards continue.
        drop(timeout_at(until, self.offer(|_| true)).await);
        let mut next_scan = Instant::now();
        while !self.tasks.is_empty() && Instant::now() < until {
            tokio::select! {
                biased;
                Some((shard_id, ended)) = self.tasks.join_next() => self.record_outcome(&shard_id, ended, outcomes),
                () = sleep_until(next_scan.min(until)) => {
                    next_scan = Instant::now() + failover_time / SCANS_PER_FAILOVER_TIME;
                    if timeout_at(until, self.scan_for_requests()).await.is_ok_and(|others_remain| !others_remain) {
                        return;
                    }
                }
            }
        }
    }

    /// Notifies requested shards at once, instead of with their next renewal. Returns whether other live workers remain.
    async fn scan_for_requests(&mut self) -> bool {
        let scan = scan(self.lease_source(), Consistency::Eventual, self.list_patience()).await;
        let requested_at = scan.requested_at;
        let listing = match scan.listing {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, "listing the leases failed while stopping");
                return true;
            }
        };
        self.observations.observe(&listing.leases, Instant::now());
        let requested: Vec<&ShardId> = listing
            .leases
            .iter()
            .filter(|lease| lease.is_owned_by(&self.receiver.worker_id) && lease.hand_over_target().is_some())
            .map(|lease| &lease.shard_id)
            .collect();
        self.offer(|shard_id| requested.contains(&shard_id)).await;
        if let Some(table) = &scan.table {
            return table.live_peers() > 0;
        }
        let observed = self.observations.of(&listing.leases, requested_at);
        live_peers(&observed, &self.receiver.worker_id, self.receiver.settings.failover_time) > 0
    }

    /// Offers these shards, with their newest positions: a KCL worker may take an offered lease at once. The answer to each
    /// write also shows a request on the row.
    async fn offer(&self, which: impl Fn(&ShardId) -> bool) {
        let held: Vec<(Arc<HeldLease>, Option<Position>)> = {
            let live = self.receiver.shared.live();
            let chosen = live.shards.iter().filter(|(shard_id, _)| which(shard_id)).map(|(_, shard)| shard);
            let unrequested = chosen.filter(|shard| !shard.held.is_requested());
            unrequested.map(|shard| (shard.held.clone(), shard.acknowledger.unwritten())).collect()
        };
        futures::stream::iter(held)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |(held, unwritten)| async move {
                // If it fails, the checkpointer writes the position, or has written a newer one.
                if let Some(position) = unwritten
                    && let Err(error) = held.checkpoint(&position, &[]).await
                {
                    tracing::debug!(shard_id = %held.shard_id(), %error, "no checkpoint before the offer");
                }
                if let Err(error) = held.offer().await {
                    tracing::debug!(shard_id = %held.shard_id(), %error, "lease not offered");
                }
            })
            .await;
    }

    /// Aborts the shards that are not done after the drain time.
    async fn cut_off(&mut self, outcomes: &mut Vec<(ShardId, Option<ShardOutcome>)>) {
        self.tasks.abort_all();
        // Code that never reaches an await point cannot be aborted. Its lease is not released, since the code may still be
        // working on the shard.
        let deadline = Instant::now() + CUT_OFF_TIME;
        let mut cut_off = Vec::new();
        while let Ok(Some((shard_id, ended))) = timeout_at(deadline, self.tasks.join_next()).await {
            if ended.is_ok() {
                // The task ended before it could be aborted.
                self.record_outcome(&shard_id, ended, outcomes);
                continue;
            }
            let live = self.receiver.shared.live();
            if let Some(shard) = live.shards.get(&shard_id) {
                tracing::warn!(%shard_id, progress = ?*shard.progress.borrow(), "the drain time is over, shard aborted");
                cut_off.push(shard.held.clone());
            } else {
                tracing::warn!(%shard_id, "the drain time is over, the take of the lease was not answered");
                outcomes.push((shard_id, None));
            }
        }
        let releases =
            futures::stream::iter(&cut_off).for_each_concurrent(MAX_CONCURRENT_WRITES, |held| async {
                drop(release_or_hand_over(held).await);
            });
        if timeout_at(deadline, releases).await.is_err() {
            tracing::warn!(
                "not all leases were released in time; others can take them after the fail-over time"
            );
        }
        let remaining: Vec<ShardId> = self.receiver.shared.live().shards.keys().cloned().collect();
        for shard_id in remaining {
            let outcome = ShardOutcome::Stopped { drained: false };
            self.record_end(&shard_id, &Ok(ShardEnding::new(outcome, None)));
            outcomes.push((shard_id, None));
        }
    }

    fn record_outcome(
        &mut self,
        shard_id: &ShardId,
        ended: Result<TaskEnd, JoinError>,
        outcomes: &mut Vec<(ShardId, Option<ShardOutcome>)>,
    ) {
        let Some(ended) = self.work_end(ended) else { return };
        self.record_end(shard_id, &ended);
        outcomes.push((shard_id.clone(), ended.ok().map(|ending| ending.outcome)));
    }

    pub(super) fn report(
        &self,
        shards: Vec<(ShardId, Option<ShardOutcome>)>,
        unread: Vec<Unread>,
    ) -> StopReport {
        let acknowledged_records = self.receiver.shared.live().acknowledged_records;
        let worker_id = self.receiver.worker_id.clone();
        let unwritten = self.unwritten.shards();
        let report = StopReport { worker_id, shards, unwritten, unread, acknowledged_records };
        for unread in &report.unread {
            tracing::warn!(key = unread.key, reason = ?unread.reason, "not read, and its records may be missing");
        }
        tracing::info!(
            drained = report.is_drained(),
            shards = report.shards.len(),
            acknowledged_records,
            "receiver stopped"
        );
        report
    }
}

#[cfg(test)]
mod tests {
    use checkpointer::{Cadence, Checkpointer, RetryPolicy};
    use lease_store::{InMemoryLeaseStore, Lease, LeaseStore, LeaseWrite, Position};
    use shard_worker::{InMemoryStream, RecordBatch, ShardContext, ShardProgress, batch_handler};
    use tokio::sync::watch;

    use super::*;
    use crate::handle::LiveShard;
    use crate::receiver::Consumer;

    #[tokio::test(start_paused = true)]
    async fn task_that_ended_before_the_abort_keeps_its_outcome() {
        let store = InMemoryLeaseStore::new();
        let receiver = Consumer::builder()
            .application("shutdown")
            .worker_id("a")
            .source(InMemoryStream::new("s", std::num::NonZeroUsize::MIN))
            .lease_store(store.clone())
            .seed(1)
            .processors(batch_handler(|_: ShardContext, _: RecordBatch| async { Ok(()) }))
            .build()
            .unwrap();
        let worker_id = receiver.worker_id.clone();
        let mut coordinator = Coordinator::new(receiver);
        let ids = [0, 1].map(ShardId::numbered);
        for shard_id in &ids {
            let lease = Lease::unowned(shard_id.clone(), Position::TrimHorizon);
            store.write(&LeaseWrite::Create(lease.clone())).await.unwrap();
            let held = HeldLease::take(Arc::new(store.clone()), &lease, &worker_id).await.unwrap();
            let held = Arc::new(held);
            let checkpointer = Checkpointer::start(
                held.clone(),
                Position::TrimHorizon,
                Cadence::default(),
                RetryPolicy::default(),
                fastrand::Rng::with_seed(1),
            );
            let shard = LiveShard {
                held,
                progress: watch::channel(ShardProgress::default()).1,
                acknowledger: checkpointer.acknowledger(),
                taken_at: Instant::now(),
                reported_edit: None,
            };
            coordinator.receiver.shared.live().shards.insert(shard_id.clone(), shard);
        }
        // The first one has drained, the second one hangs.
        let outcome = ShardOutcome::Stopped { drained: true };
        coordinator
            .tasks
            .spawn(ids[0].clone(), async move { TaskEnd::Ended(ShardEnding::new(outcome, None)) });
        coordinator.tasks.spawn(ids[1].clone(), std::future::pending());
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let mut outcomes = Vec::new();
        coordinator.cut_off(&mut outcomes).await;
        outcomes.sort_by(|left, right| left.0.cmp(&right.0));
        let [first, second] = ids;
        assert_eq!(outcomes, [(first, Some(outcome)), (second, None)]);
        assert!(coordinator.receiver.shared.live().shards.is_empty());
    }
}
