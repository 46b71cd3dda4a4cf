//! Leases that this worker has requested from live workers: write, poll and withdraw the requests.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lease_store::{
    Lease, LeaseChange, LeaseStore, LeaseWrite, ShardId, StoreError, StoreErrorKind, WorkerId, WriteOutcome,
};
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_util::task::JoinMap;

use super::takes::WRITE_PATIENCE_PER_FAILOVER_TIME;
use super::{Coordinator, MAX_CONCURRENT_WRITES, STOP_PATIENCE, StreamFacts};
use crate::assignment::namesakes::is_taken_by_namesake;
use crate::process::LiveProcess;

/// How many times per fail-over time a requested row is read. The interval bounds how long no worker reads the shard
/// during a hand-over.
const POLLS_PER_FAILOVER_TIME: u32 = 40;

/// How many times a request is withdrawn while the row keeps changing.
const MAX_WITHDRAWALS: usize = 5;

/// The requests of this worker whose outcome is not known yet.
#[derive(Debug)]
pub(super) struct LeaseRequests {
    /// In the order of the shards, so that a run can be repeated from its seed.
    in_flight: BTreeMap<ShardId, Request>,
    next_poll: Option<Instant>,
    /// The calls in flight: at most one for each request, so that no request waits for the call of another one.
    pub(super) steps: JoinMap<ShardId, RequestStep>,
    permits: Arc<Semaphore>,
}

impl Default for LeaseRequests {
    fn default() -> Self {
        Self {
            in_flight: BTreeMap::new(),
            next_poll: None,
            steps: JoinMap::new(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    owner: WorkerId,
    requested_at: Instant,
    /// Whether the write of the request was answered. Its row is read only afterwards.
    is_written: bool,
}

/// The answer to one call for a request.
#[derive(Debug)]
pub(super) enum RequestStep {
    Written(Result<WriteOutcome, StoreError>),
    Polled(Result<Option<Lease>, StoreError>),
    /// The call was not answered in time. The next poll shows its effect.
    NotAnswered,
}

/// The answer to a request, as read from its row.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// No answer yet.
    None,
    /// The owner has made this worker the owner.
    HandedOver,
    /// Another worker or process owns or requests the lease, or the row was deleted.
    Gone,
}

impl Request {
    fn answer(&self, row: Option<&Lease>, worker_id: &WorkerId, process: &LiveProcess) -> Answer {
        match row {
            Some(lease) if lease.is_owned_by(worker_id) && lease.checkpoint_owner.is_none() => {
                if is_taken_by_namesake(process.owner_of(lease)) {
                    Answer::Gone
                } else {
                    Answer::HandedOver
                }
            }
            Some(lease)
                if lease.is_owned_by(&self.owner) && lease.requested_by.as_ref() == Some(worker_id) =>
            {
                Answer::None
            }
            _ => Answer::Gone,
        }
    }
}

impl LeaseRequests {
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// How many requests are not known to be on their rows yet.
    pub(super) fn unanswered_writes(&self) -> usize {
        self.in_flight.values().filter(|request| !request.is_written).count()
    }

    /// When to read the requested rows again, if there are any.
    pub(super) fn next_poll(&self) -> Instant {
        self.next_poll.unwrap_or_else(Instant::now)
    }

    pub(super) fn shards(&self) -> HashSet<ShardId> {
        self.in_flight.keys().cloned().collect()
    }

    pub(super) fn remove(&mut self, shard_id: &ShardId) {
        self.in_flight.remove(shard_id);
    }

    /// Forgets unanswered requests of this age, which the planner ignores as well.
    pub(super) fn forget_older_than(&mut self, age: Duration) {
        self.in_flight.retain(|_, request| request.requested_at.elapsed() < age);
    }
}

impl Coordinator {
    /// Starts to request these leases from their live owners.
    pub(super) fn request(&mut self, wanted: Vec<Lease>) {
        let (store, worker_id) = (self.receiver.store.clone(), self.receiver.worker_id.clone());
        for lease in wanted {
            let Some(owner) = lease.owner.clone() else { continue };
            let shard_id = lease.shard_id.clone();
            if self.requests.steps.contains_key(&shard_id) {
                continue;
            }
            let request = Request { owner, requested_at: Instant::now(), is_written: false };
            self.requests.in_flight.insert(shard_id.clone(), request);
            let change =
                LeaseChange::Request { by: worker_id.clone(), instead_of: lease.requested_by.clone() };
            let write = LeaseWrite::Update { shard_id: shard_id.clone(), expected: lease.version(), change };
            let store = store.clone();
            self.spawn_step(shard_id, async move { RequestStep::Written(store.write(&write).await) });
        }
        if self.requests.next_poll.is_none() {
            self.schedule_poll();
        }
    }

    /// Starts to read the requested rows, except those that are being read or written.
    pub(super) fn poll_requests(&mut self) {
        let written = self.requests.in_flight.iter().filter(|(_, request)| request.is_written);
        let idle = written.map(|(shard_id, _)| shard_id.clone());
        let due: Vec<ShardId> = idle.filter(|shard_id| !self.requests.steps.contains_key(shard_id)).collect();
        for shard_id in due {
            let (store, read) = (self.receiver.store.clone(), shard_id.clone());
            self.spawn_step(shard_id, async move { RequestStep::Polled(store.get(&read).await) });
        }
        self.schedule_poll();
    }

    fn spawn_step(&mut self, shard_id: ShardId, call: impl Future<Output = RequestStep> + Send + 'static) {
        let patience = self.receiver.settings.failover_time / WRITE_PATIENCE_PER_FAILOVER_TIME;
        let permits = self.requests.permits.clone();
        self.requests.steps.spawn(shard_id, async move {
            let _permit = permits.acquire().await;
            timeout(patience, call).await.unwrap_or(RequestStep::NotAnswered)
        });
    }

    /// Acts on the answer to a call for a request, and takes a lease that was handed over.
    pub(super) fn on_request_answered(
        &mut self,
        facts: &StreamFacts,
        shard_id: &ShardId,
        step: Result<RequestStep, JoinError>,
    ) {
        let step = step.unwrap_or_else(|error| {
            tracing::error!(%shard_id, %error, "a call for a requested lease panicked");
            RequestStep::NotAnswered
        });
        let Some(request) = self.requests.in_flight.get_mut(shard_id) else { return };
        match step {
            // The first read of the row settles an unknown outcome.
            RequestStep::Written(Ok(WriteOutcome::Applied { .. } | WriteOutcome::Unknown(_))) => {
                tracing::info!(%shard_id, owner = %request.owner, "lease requested");
                request.is_written = true;
            }
            RequestStep::NotAnswered => request.is_written = true,
            RequestStep::Written(Ok(WriteOutcome::Lost { .. })) => {
                tracing::debug!(%shard_id, "the lease changed before the request");
                self.requests.remove(shard_id);
            }
            RequestStep::Written(Err(error)) => {
                tracing::warn!(%shard_id, %error, "lease not requested");
                self.requests.remove(shard_id);
                self.rounds.record_store_failure();
            }
            RequestStep::Polled(Err(error)) if error.kind() != StoreErrorKind::Invalid => {
                tracing::debug!(%shard_id, %error, "reading the requested row failed, trying again at the next poll");
            }
            RequestStep::Polled(row) => {
                let row = row.ok().flatten();
                match request.answer(row.as_ref(), &self.receiver.worker_id, &self.receiver.process) {
                    Answer::None => return,
                    Answer::HandedOver => self.take(facts, row.into_iter().collect()),
                    Answer::Gone => {
                        tracing::debug!(%shard_id, "the request is over, another worker was first or the row is gone");
                    }
                }
                self.requests.remove(shard_id);
            }
        }
    }

    /// Starts to withdraw the unanswered requests, and to release leases that have just been handed over: otherwise no
    /// worker would read those shards until the fail-over time has passed.
    pub(super) async fn withdraw_requests(&mut self) -> JoinMap<ShardId, Result<(), StoreError>> {
        let mut requests = std::mem::take(&mut self.requests);
        // A request that is written after its row was read would stay on the row.
        let deadline = Instant::now() + STOP_PATIENCE;
        while requests
            .in_flight
            .iter()
            .any(|(shard_id, request)| !request.is_written && requests.steps.contains_key(shard_id))
        {
            let Ok(Some((shard_id, step))) = timeout_at(deadline, requests.steps.join_next()).await else {
                break;
            };
            if matches!(step, Ok(RequestStep::Written(Ok(WriteOutcome::Lost { .. }) | Err(_)))) {
                requests.remove(&shard_id);
            }
        }
        let mut withdrawals = JoinMap::new();
        for (shard_id, request) in requests.in_flight {
            let (store, worker_id) = (self.receiver.store.clone(), self.receiver.worker_id.clone());
            let (permits, row) = (requests.permits.clone(), shard_id.clone());
            let process = self.receiver.process.clone();
            withdrawals.spawn(shard_id, async move {
                let _permit = permits.acquire().await;
                withdraw(store.as_ref(), &worker_id, &process, &row, &request).await
            });
        }
        withdrawals
    }

    fn schedule_poll(&mut self) {
        let interval = self.receiver.settings.failover_time / POLLS_PER_FAILOVER_TIME;
        self.requests.next_poll = (!self.requests.is_empty()).then(|| Instant::now() + interval);
    }
}

/// Withdraws one request, or releases its lease if it has been handed over.
async fn withdraw(
    store: &dyn LeaseStore,
    worker_id: &WorkerId,
    process: &LiveProcess,
    shard_id: &ShardId,
    request: &Request,
) -> Result<(), StoreError> {
    for _ in 0..MAX_WITHDRAWALS {
        let row = store.get(shard_id).await?;
        let change = match (request.answer(row.as_ref(), worker_id, process), &row) {
            (Answer::None, Some(_)) => LeaseChange::Withdraw { by: worker_id.clone() },
            (Answer::HandedOver, Some(_)) => LeaseChange::Release,
            _ => return Ok(()),
        };
        let Some(row) = row else { return Ok(()) };
        let (shard_id, expected) = (shard_id.clone(), row.version());
        match store.write(&LeaseWrite::Update { shard_id, expected, change }).await? {
            WriteOutcome::Applied { .. } => return Ok(()),
            // The owner wrote in between, or the outcome is unknown: read the row again.
            WriteOutcome::Lost { .. } | WriteOutcome::Unknown(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lease_store::Position;

    use super::*;

    #[test]
    fn the_answer_to_a_request_is_read_from_its_row() {
        let worker = |name: &'static str| WorkerId::new(name).unwrap();
        let me = worker("me");
        let (process, namesake) = (LiveProcess::register(&me), LiveProcess::register(&me));
        let request = Request { owner: worker("owner"), requested_at: Instant::now(), is_written: true };
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        assert_eq!(request.answer(None, &me, &process), Answer::Gone);
        assert_eq!(
            request.answer(Some(&lease), &me, &process),
            Answer::Gone,
            "released; the next round finds it free"
        );
        lease.owner = Some(worker("owner"));
        assert_eq!(request.answer(Some(&lease), &me, &process), Answer::Gone, "the row has no request");
        lease.requested_by = Some(worker("other"));
        assert_eq!(request.answer(Some(&lease), &me, &process), Answer::Gone);
        lease.requested_by = Some(me.clone());
        assert_eq!(request.answer(Some(&lease), &me, &process), Answer::None);
        lease.owner = Some(worker("third"));
        assert_eq!(request.answer(Some(&lease), &me, &process), Answer::Gone);
        lease.owner = Some(me.clone());
        assert_eq!(request.answer(Some(&lease), &me, &process), Answer::HandedOver);
        lease.owner_process = Some(process.text().to_owned());
        assert_eq!(
            request.answer(Some(&lease), &me, &process),
            Answer::HandedOver,
            "its own take of unknown outcome"
        );
        lease.owner_process = Some(namesake.text().to_owned());
        assert_eq!(
            request.answer(Some(&lease), &me, &process),
            Answer::Gone,
            "a process of the same name took it"
        );
        lease.owner_process = None;
        lease.checkpoint_owner = Some(worker("third"));
        assert_eq!(
            request.answer(Some(&lease), &me, &process),
            Answer::Gone,
            "a hand-over of KCL 3.x is in progress"
        );
    }
}
