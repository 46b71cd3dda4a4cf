//! Leases that this worker has asked live workers for, and what becomes of them.

use std::collections::{BTreeMap, HashSet};

use futures::StreamExt as _;
use lease_store::{
    Lease, LeaseChange, LeaseStore, LeaseWrite, ShardId, StoreError, StoreErrorKind, WorkerId, WriteOutcome,
};
use tokio::time::{Duration, Instant};

use super::{MAX_CONCURRENT_WRITES, Member, StreamFacts};

/// How often, in a fail-over time, a row is read whose owner was asked to hand it over. It decides how long the shard is
/// read by nobody.
const POLLS_PER_FAILOVER_TIME: u32 = 40;

/// How often a request is tried to be taken back while the row changes.
const MAX_WITHDRAWALS: usize = 5;

/// The leases that this worker has asked for and that are not settled.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// In the order of the shards, so that the same generator always gives the same course.
    under_way: BTreeMap<ShardId, Request>,
    next_poll: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    owner: WorkerId,
    asked_at: Instant,
}

/// What a row says about a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing so far.
    None,
    /// The owner made this worker the owner.
    HandedOver,
    /// Somebody else has the lease or asks for it, or the row is gone.
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

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// When to look at the rows again, if there are any.
    pub(super) fn next_poll(&self) -> Instant {
        self.next_poll.unwrap_or_else(Instant::now)
    }

    pub(super) fn shards(&self) -> HashSet<ShardId> {
        self.under_way.keys().cloned().collect()
    }

    pub(super) fn remove(&mut self, shard_id: &ShardId) {
        self.under_way.remove(shard_id);
    }

    /// Forgets what nobody answered for so long that the planner does not count on it either.
    pub(super) fn forget_older_than(&mut self, age: Duration) {
        self.under_way.retain(|_, request| request.asked_at.elapsed() < age);
    }
}

impl Member {
    /// Asks the live owners of these leases for them; `false` when the store failed at one of them.
    pub(super) async fn request(&mut self, wanted: Vec<Lease>) -> bool {
        let mut store_answers = true;
        let (store, worker_id) = (self.receiver.store.clone(), self.receiver.worker_id.clone());
        let asked: Vec<(Lease, Result<WriteOutcome, StoreError>)> = futures::stream::iter(wanted)
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
        for (lease, outcome) in asked {
            let shard_id = lease.shard_id;
            let Some(owner) = lease.owner else { continue };
            match outcome {
                // If it is not applied after all, the row says so at the first look.
                Ok(WriteOutcome::Applied { .. } | WriteOutcome::Unknown(_)) => {
                    tracing::info!(%shard_id, %owner, "the lease is asked for");
                    self.requests.under_way.insert(shard_id, Request { owner, asked_at: Instant::now() });
                }
                Ok(WriteOutcome::Lost { .. }) => {
                    tracing::debug!(%shard_id, "the lease changed before it could be asked for");
                }
                Err(error) => {
                    store_answers = false;
                    tracing::warn!(%shard_id, %error, "the lease could not be asked for");
                }
            }
        }
        self.schedule_poll();
        store_answers
    }

    /// Reads the rows that were asked for, and takes those that were handed over.
    pub(super) async fn poll_requests(&mut self, facts: &StreamFacts) {
        let store = self.receiver.store.clone();
        let rows: Vec<(ShardId, Result<Option<Lease>, StoreError>)> =
            futures::stream::iter(self.requests.under_way.keys().cloned().collect::<Vec<_>>())
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
                    tracing::debug!(%shard_id, %error, "the row that was asked for could not be read; again soon");
                    continue;
                }
            };
            let Some(request) = self.requests.under_way.get(&shard_id) else { continue };
            match request.answer(row.as_ref(), &self.receiver.worker_id) {
                Answer::None => continue,
                Answer::HandedOver => handed_over.extend(row),
                Answer::Gone => tracing::debug!(%shard_id, "the request is over: somebody else was first"),
            }
            self.requests.remove(&shard_id);
        }
        self.take(facts, handed_over).await;
        self.schedule_poll();
    }

    /// Takes back what is not answered, and releases what has just been handed over: nobody would read those shards until
    /// the fail-over time is over.
    pub(super) async fn withdraw_requests(&mut self) {
        let (store, worker_id) = (self.receiver.store.clone(), self.receiver.worker_id.clone());
        let requests = std::mem::take(&mut self.requests);
        futures::stream::iter(requests.under_way)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |(shard_id, request)| {
                let (store, worker_id) = (&store, &worker_id);
                async move {
                    if let Err(error) = withdraw(store.as_ref(), worker_id, &shard_id, &request).await {
                        tracing::warn!(%shard_id, %error, "a request could not be taken back");
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

/// Takes one request back, whatever became of it in the meantime.
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
            // The owner wrote in between, or it is open what happened: look again.
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
    fn a_request_is_answered_by_the_row() {
        let worker = |name: &'static str| WorkerId::new(name).unwrap();
        let me = worker("me");
        let request = Request { owner: worker("owner"), asked_at: Instant::now() };
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        assert_eq!(request.answer(None, &me), Answer::Gone);
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone, "released; the next round finds it free");
        lease.owner = Some(worker("owner"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone, "the request is not on it");
        lease.requested_by = Some(worker("other"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone);
        lease.requested_by = Some(me.clone());
        assert_eq!(request.answer(Some(&lease), &me), Answer::None);
        lease.owner = Some(worker("third"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone);
        lease.owner = Some(me.clone());
        assert_eq!(request.answer(Some(&lease), &me), Answer::HandedOver);
        lease.checkpoint_owner = Some(worker("third"));
        assert_eq!(request.answer(Some(&lease), &me), Answer::Gone, "a hand-over of KCL 3.x is under way");
    }
}
