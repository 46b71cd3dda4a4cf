//! Carries a plan out: one conditional write after another, then waits for the owners that were asked.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_view::plan::{Plan, Progress, RowChange};
use lease_store::{
    Consistency, Lease, LeaseChange, LeaseStore, LeaseWrite, ShardId, StoreError, WriteOutcome,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::exit_code::{CommandError, table_error};

/// The most attempts at one change: its owner may renew the lease between the read and the write.
const MAX_ATTEMPTS: u32 = 8;

/// The wait before another attempt after the table failed or throttled.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// How often the rows are listed while owners are waited for.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It is made, and an asked owner has carried it out.
    Done,
    /// The row was not as the look saw it. Nothing after this change was tried.
    Changed,
    /// It comes after a change that could not be made.
    NotTried,
    /// The owner did not carry it out in time; the request is withdrawn.
    NotCarriedOut,
    /// The owner changed before it carried the request out, which ended the request.
    OwnerChanged,
}

/// What became of one change of a row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ShardOutcome {
    pub(crate) shard_id: ShardId,
    pub(crate) outcome: Outcome,
}

/// Carries a plan out, and waits for the asked owners.
pub(crate) async fn carry_out(
    store: &dyn LeaseStore,
    plan: &Plan,
    operation_id: u64,
    wait: Duration,
) -> Result<Vec<ShardOutcome>, CommandError> {
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(plan.changes.len());
    for change in &plan.changes {
        let is_over = outcomes.last().is_some_and(|last| *last != Outcome::Done);
        outcomes.push(match is_over {
            true => Outcome::NotTried,
            false => make(store, change, operation_id).await?,
        });
    }
    await_owners(store, plan, operation_id, wait, &mut outcomes).await?;
    let shards = plan.changes.iter().map(|change| change.shard_id.clone());
    let results = shards.zip(outcomes).map(|(shard_id, outcome)| ShardOutcome { shard_id, outcome });
    Ok(results.collect())
}

/// Makes one change.
async fn make(store: &dyn LeaseStore, change: &RowChange, id: u64) -> Result<Outcome, CommandError> {
    let mut failure = None;
    for _ in 0..MAX_ATTEMPTS {
        let row = match read(store, &change.shard_id).await {
            Ok(row) => row,
            Err(error) => {
                failure = Some(error);
                sleep(RETRY_WAIT).await;
                continue;
            }
        };
        // An earlier attempt of unknown outcome may have been applied.
        if change.progress(row.as_ref(), id) != Progress::NotMade {
            return Ok(Outcome::Done);
        }
        if !change.is_possible_on(row.as_ref()) {
            return Ok(Outcome::Changed);
        }
        match store.write(&change.write(row.as_ref(), id)).await {
            Ok(WriteOutcome::Applied { .. }) => return Ok(Outcome::Done),
            Ok(WriteOutcome::Lost { .. }) => {}
            Ok(WriteOutcome::Unknown(error)) => {
                failure = Some(error);
                sleep(RETRY_WAIT).await;
            }
            Err(error) if error.is_retryable() => {
                failure = Some(error);
                sleep(RETRY_WAIT).await;
            }
            Err(error) => return Err(table_error(error)),
        }
    }
    failure.map_or(Ok(Outcome::Changed), |error| Err(table_error(error)))
}

async fn read(store: &dyn LeaseStore, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
    store.get(shard_id).await
}

/// Waits until the asked owners have carried their requests out, and withdraws the other requests.
async fn await_owners(
    store: &dyn LeaseStore,
    plan: &Plan,
    id: u64,
    wait: Duration,
    outcomes: &mut [Outcome],
) -> Result<(), CommandError> {
    let deadline = Instant::now() + wait;
    let mut open: Vec<usize> = (0..plan.changes.len())
        .filter(|index| outcomes[*index] == Outcome::Done && plan.changes[*index].asks_owner())
        .collect();
    while !open.is_empty() {
        let is_last = Instant::now() >= deadline;
        let rows = match store.list(Consistency::Strong).await {
            Ok(listing) => listing.leases,
            Err(error) if error.is_retryable() && !is_last => {
                sleep(POLL_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(table_error(error)),
        };
        let rows: BTreeMap<&ShardId, &Lease> = rows.iter().map(|row| (&row.shard_id, row)).collect();
        let mut waiting = Vec::new();
        for index in open {
            let change = &plan.changes[index];
            match change.progress(rows.get(&change.shard_id).copied(), id) {
                Progress::Made => {}
                Progress::NotMade => outcomes[index] = Outcome::OwnerChanged,
                Progress::Asked if is_last => {
                    withdraw(store, change, id).await?;
                    outcomes[index] = Outcome::NotCarriedOut;
                }
                Progress::Asked => waiting.push(index),
            }
        }
        open = waiting;
        if !open.is_empty() {
            sleep(POLL_INTERVAL.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }
    Ok(())
}

/// Withdraws a request, unless it is gone.
async fn withdraw(store: &dyn LeaseStore, change: &RowChange, id: u64) -> Result<(), CommandError> {
    for _ in 0..MAX_ATTEMPTS {
        let row = read(store, &change.shard_id).await.map_err(table_error)?;
        let Some(row) = row.filter(|row| change.progress(Some(row), id) == Progress::Asked) else {
            return Ok(());
        };
        let withdrawal = match change.requester() {
            Some(by) => LeaseChange::Withdraw { by: by.clone() },
            None => LeaseChange::AskOwner { text: None, instead_of: row.owner_request_text.clone() },
        };
        let (shard_id, expected) = (row.shard_id.clone(), row.version());
        let write = LeaseWrite::Update { shard_id, expected, change: withdrawal };
        if let WriteOutcome::Applied { .. } = store.write(&write).await.map_err(table_error)? {
            return Ok(());
        }
    }
    Ok(())
}
