//! The end of a receiver: its shards go to others without a gap, or are finished and released.

use std::sync::Arc;

use futures::StreamExt as _;
use lease_store::{Consistency, HeldLease, ShardId};
use shard_worker::ShardOutcome;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::rounds::live_peers;
use super::{MAX_CONCURRENT_WRITES, Member};
use crate::last_write::give_up;
use crate::shard_task::ShardEnding;
use crate::{ReceiverState, StopReport};

/// How long cutting off shards and releasing their leases may take after the drain time is over.
const CUT_OFF_TIME: Duration = Duration::from_secs(5);

/// For which part of the fail-over time leases are offered to other workers before they are released: a round of theirs
/// (a quarter, up to a tenth later) and the time to ask.
const OFFER_SHARE: f64 = 0.325;

/// How often, in a fail-over time, the table is read for requests while leases are offered.
const LOOKS_PER_FAILOVER_TIME: u32 = 20;

impl Member {
    /// Parts with all shards. While other workers are there to take them, they are offered and go on working until
    /// somebody asks; then, and for what nobody wants, the shards finish their batches, checkpoint and release. What is
    /// not done within the drain time is cut off; its lease is released too, and its batch comes again elsewhere.
    pub(super) async fn drain(mut self) -> StopReport {
        self.receiver.shared.live().state = ReceiverState::Stopping;
        let deadline = Instant::now() + self.receiver.settings.drain_time;
        let mut outcomes = Vec::new();
        let with_others = async {
            self.withdraw_requests().await;
            if self.rounds.live_peers > 0 && !self.tasks.is_empty() {
                self.offer_shards(deadline, &mut outcomes).await;
            }
        };
        if timeout_at(deadline, with_others).await.is_err() {
            tracing::warn!(
                "the lease store did not answer; the drain time passed before the shards could finish"
            );
        }
        self.stop_shards.cancel();
        while let Ok(Some((shard_id, ended))) = timeout_at(deadline, self.tasks.join_next()).await {
            self.note_outcome(&shard_id, ended, &mut outcomes);
        }
        self.cut_off(&mut outcomes).await;
        outcomes.sort_by(|left, right| left.0.cmp(&right.0));
        self.report(outcomes)
    }

    /// Offers the shards to the other workers, and lets them work on until somebody asks for them.
    async fn offer_shards(&mut self, deadline: Instant, outcomes: &mut Vec<(ShardId, Option<ShardOutcome>)>) {
        let failover_time = self.receiver.settings.failover_time;
        let until = deadline.min(Instant::now() + failover_time.mul_f64(OFFER_SHARE));
        tracing::info!(shards = self.tasks.len(), "stopping: the shards are offered to the other workers");
        self.offer(|_| true).await;
        let mut next_look = Instant::now();
        while !self.tasks.is_empty() && Instant::now() < until {
            tokio::select! {
                biased;
                Some((shard_id, ended)) = self.tasks.join_next() => self.note_outcome(&shard_id, ended, outcomes),
                () = sleep_until(next_look.min(until)) => {
                    next_look = Instant::now() + failover_time / LOOKS_PER_FAILOVER_TIME;
                    if !self.look_for_requests().await {
                        return;
                    }
                }
            }
        }
    }

    /// Lets the shards that somebody asks for know at once, instead of with their next renewal; says whether there is
    /// still somebody who could ask.
    async fn look_for_requests(&mut self) -> bool {
        let asked_at = Instant::now();
        let listing = match self.receiver.store.list(Consistency::Eventual).await {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, "the leases could not be listed while stopping");
                return true;
            }
        };
        self.observations.observe(&listing.leases, Instant::now());
        let asked_for: Vec<&ShardId> = listing
            .leases
            .iter()
            .filter(|lease| lease.is_owned_by(&self.receiver.worker_id) && lease.hand_over_target().is_some())
            .map(|lease| &lease.shard_id)
            .collect();
        self.offer(|shard_id| asked_for.contains(&shard_id)).await;
        let observed = self.observations.of(&listing.leases, asked_at);
        live_peers(&observed, &self.receiver.worker_id, self.receiver.settings.failover_time) > 0
    }

    /// Offers these shards; the answer to each write also says who asks.
    async fn offer(&self, which: impl Fn(&ShardId) -> bool) {
        let held: Vec<Arc<HeldLease>> = {
            let live = self.receiver.shared.live();
            let chosen = live.shards.iter().filter(|(shard_id, _)| which(shard_id));
            chosen.map(|(_, shard)| shard.held.clone()).filter(|held| !held.is_asked_for()).collect()
        };
        futures::stream::iter(held)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |held| async move {
                if let Err(error) = held.offer().await {
                    tracing::debug!(shard_id = %held.shard_id(), %error, "the lease could not be offered");
                }
            })
            .await;
    }

    /// Ends what is left after the drain time.
    async fn cut_off(&mut self, outcomes: &mut Vec<(ShardId, Option<ShardOutcome>)>) {
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
        let releases = futures::stream::iter(&cut_off)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |held| async { drop(give_up(held).await) });
        if timeout_at(deadline, releases).await.is_err() {
            tracing::warn!("not all leases could be released in time; others wait the fail-over time");
        }
        let left: Vec<ShardId> = self.receiver.shared.live().shards.keys().cloned().collect();
        for shard_id in left {
            let outcome = ShardOutcome::Stopped { drained: false };
            self.note_end(&shard_id, &Ok(ShardEnding { outcome, handed_over_to: None }));
            outcomes.push((shard_id, None));
        }
    }

    fn note_outcome(
        &mut self,
        shard_id: &ShardId,
        ended: Result<ShardEnding, tokio::task::JoinError>,
        outcomes: &mut Vec<(ShardId, Option<ShardOutcome>)>,
    ) {
        self.note_end(shard_id, &ended);
        outcomes.push((shard_id.clone(), ended.ok().map(|ending| ending.outcome)));
    }

    pub(super) fn report(&self, shards: Vec<(ShardId, Option<ShardOutcome>)>) -> StopReport {
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
