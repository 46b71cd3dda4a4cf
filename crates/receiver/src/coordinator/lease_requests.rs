//! Leases that this worker has requested from live workers: write, poll and withdraw the requests.

use std::collections::{BTreeMap, HashSet};

use futures::StreamExt as _;
use lease_store::{
    Lease, LeaseChange, LeaseStore, LeaseWrite, ShardId, StoreError, StoreErrorKind, WorkerId, WriteOutcome,
};
use tokio::time::{Duration, Instant};

use super::{Coordinator, MAX_CONCURRENT_WRITES, StreamFacts};

/// How many times per fail-over time a requested row is read. The interval bounds how long no worker reads the shard
/// during a hand-over.
const POLLS_PER_FAILOVER_TIME: u32 = 40;

/// How many times a request is withdrawn while the row keeps changing.
const MAX_WITHDRAWALS: usize = 5;

/// The requests of this worker whose outcome is not known yet.
#[derive(Debug, Default)]
pub(super) struct LeaseRequests {
    /// In the order of the shards, so that a run can be repeated from its seed.
    in_flight: BTreeMap<ShardId, Request>,
    next_poll: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    owner: WorkerId,
    requested_at: Instant,
}

/// The answer to a request, as read from its row.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// No answer yet.
    None,
    /// The owner has made this worker the owner.
    HandedOver,
    /// Another worker owns or requests the lease, or the row was deleted.
    Gone,
}

impl Request {
    fn answer(&self, row: Option<&Lease>, worker_id: &WorkerId) -> Answer {
        match row {
            Some(lease) if lease.is_owned_by(worker_id) && lease.checkpoint_owner.is_none() => {
                Answer::HandedOver
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
    /// Requests these leases from their live owners. Returns `false` if a write to the store failed.
    pub(super) async fn request(&mut self, wanted: Vec<Lease>) -> bool {
        let mut store_answers = true;
        let (store, worker_id) = (self.receiver.store.clone(), self.receiver.worker_id.clone());
        let requested: Vec<(Lease, Result<WriteOutcome, StoreError>)> = futures::stream::iter(wanted)
            .map(|lease| async {
                let change =
                    LeaseChange::Request { by: worker_id.clone(), instead_of: lease.requested_by.clone() };
                let (shard_id, expected) = (lease.shard_id.clone(), lease.version());
                let outcome = store.write(&LeaseWrite::Update { shard_id, expected, change }).await;
                (lease, outcome)
            })
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .collect()
            .await;
        for (lease, outcome) in requested {
            let shard_id = lease.shard_id;
            let Some(owner) = lease.owner else { continue };
            match outcome {
                // An unknown outcome is settled by the first read of the row.
                Ok(WriteOutcome::Applied { .. } | WriteOutcome::Unknown(_)) => {
                    tracing::info!(%shard_id, %owner, "lease requested");
                    self.requests.in_flight.insert(shard_id, Request { owner, requested_at: Instant::now() });
                }
                Ok(WriteOutcome::Lost { .. }) => {
                    tracing::debug!(%shard_id, "the lease changed before the request");
                }
                Err(error) => {
                    store_answers = false;
                    tracing::warn!(%shard_id, %error, "lease not requested");
                }
            }
        }
        self.schedule_poll();
        store_answers
    }

    /// Reads the requested rows, and takes the leases that were handed over.
    pub(super) async fn poll_requests(&mut self, facts: &StreamFacts) {
        let store = self.receiver.store.clone();
        let rows: Vec<(ShardId, Result<Option<Lease>, StoreError>)> =
            futures::stream::iter(self.requests.in_flight.keys().cloned().collect::<Vec<_>>())
                .map(|shard_id| async {
                    let row = store.get(&shard_id).await;
                    (shard_id, row)
                })
                .buffer_unordered(MAX_CONCURRENT_WRITES)
                .collect()
                .await;
        let mut handed_over = Vec::new();
        for (shard_id, row) in rows {
            let row = match row {
                Ok(row) => row,
                Err(error) if error.kind() == StoreErrorKind::Invalid => None,
                Err(error) => {
                    tracing::debug!(%shard_id, %error, "reading the requested row failed, trying again at the next poll");
                    continue;
                }
            };
            let Some(request) = self.requests.in_flight.get(&shard_id) else { continue };
            match request.answer(row.as_ref(), &self.receiver.worker_id) {
                Answer::None => continue,
                Answer::HandedOver => handed_over.extend(row),
                Answer::Gone => {
                    tracing::debug!(%shard_id, "the request is over, another worker was first or the row is gone");
                }
            }
            self.requests.remove(&shard_id);
        }
        self.take(facts, handed_over).await;
        self.schedule_poll();
    }

    /// Withdraws the unanswered requests, and releases leases that have just been handed over: otherwise no worker would
    /// read those shards until the fail-over time has passed.
    pub(super) async fn withdraw_requests(&mut self) {
        let (store, worker_id) = (self.receiver.store.clone(), self.receiver.worker_id.clone());
        let requests = std::mem::take(&mut self.requests);
        futures::stream::iter(requests.in_flight)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |(shard_id, request)| {
                let (store, worker_id) = (&store, &worker_id);
                async move {
                    if let Err(error) = withdraw(store.as_ref(), worker_id, &shard_id, &request).await {
                        tracing::warn!(%shard_id, %error, "request not withdrawn");
                    }
                }
            })
            .await;
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
    shard_id: &ShardId,
    request: &Request,
) -> Result<(), StoreError> {
    for _ in 0..MAX_WITHDRAWALS {
        let row = store.get(shard_id).await?;
        let change = match (request.answer(row.as_ref(), worker_id), &row) {
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
        let request = Request { owner: worker("owner"), requested_at: Instant::now() };
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        assert_eq!(request.answer(None, &me), Answer::Gone);
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone, "released; the next round finds it free");
        lease.owner = Some(worker("owner"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone, "the row has no request");
        lease.requested_by = Some(worker("other"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone);
        lease.requested_by = Some(me.clone());
        assert_eq!(request.answer(Some(&lease), &me), Answer::None);
        lease.owner = Some(worker("third"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone);
        lease.owner = Some(me.clone());
        assert_eq!(request.answer(Some(&lease), &me), Answer::HandedOver);
        lease.checkpoint_owner = Some(worker("third"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone, "a hand-over of KCL 3.x is in progress");
    }
}
