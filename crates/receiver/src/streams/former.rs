//! The leases of a stream that was removed: kept, or deleted once no worker has written them for a while.

use std::sync::Arc;

use futures::StreamExt as _;
use lease_store::{Consistency, Lease, LeaseWrite, StreamLeases, WriteOutcome};
use shard_worker::StreamClock;
use tokio::time::{Duration, Instant, sleep};

use crate::lease::orders::millis_of;
use crate::streams::table::{SharedTable, TableScan};

/// What happens to the leases of a stream that is removed from a running consumer.
///
/// With kept leases the stream can be added again, and is read from its checkpoints.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use std::time::Duration;
/// # use lease_store::InMemoryMultiStreamLeaseStore;
/// # use shard_worker::{InMemoryStream, batch_handler};
/// use receiver::{Consumer, FormerLeases, StreamConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # let streams = ["orders", "bills"].map(|name| StreamConfig::new(InMemoryStream::new(name, NonZeroUsize::MIN)));
/// # let consumer = Consumer::builder()
/// #     .application("shop")
/// #     .processors(batch_handler(async |_, _| Ok(())))
/// #     .with_streams(streams)
/// #     .lease_store(InMemoryMultiStreamLeaseStore::new())
/// #     .build()?;
/// let handle = consumer.handle();
/// let running = tokio::spawn(consumer.run());
/// let an_hour = Duration::from_secs(3600);
/// let bills = handle.remove_stream("bills", FormerLeases::DeleteAfter(an_hour));
/// // The other stream goes on.
/// assert!(bills.ok_or("no such stream")?.stopped().await.is_some());
/// # handle.stop();
/// # running.await??;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FormerLeases {
    /// They stay as they are, like those of any stream that is not read.
    #[default]
    Keep,
    /// They are deleted once no worker has written any of them for this time, by the clock of this process. Less than two
    /// fail-over times counts as that. While an operator pauses a shard of the stream, the time does not run. The worker forgets
    /// the deletion when it stops earlier.
    DeleteAfter(Duration),
}

/// In how many fail-over times a worker that does not lead deletes the leases that the leader has left.
const PATIENCE_FAILOVER_TIMES: u32 = 2;

/// The least wait in fail-over times: an owner that renews its leases has written them by then.
const LEAST_WAIT_FAILOVER_TIMES: u32 = 2;

/// The most rows that are deleted in one step.
const MAX_DELETES_PER_STEP: usize = 1000;

/// How many rows are deleted at the same time.
const MAX_CONCURRENT_DELETES: usize = 16;

/// A removed stream whose leases are to be deleted.
#[derive(Debug)]
pub(super) struct FormerStream {
    name: Arc<str>,
    leases: StreamLeases,
    /// For how long no worker may have written them.
    wait: Duration,
    /// The clock by which pauses of its shards end.
    clock: Option<StreamClock>,
    /// Whether its deletion has ended.
    is_done: bool,
}

impl FormerStream {
    pub(super) fn new(
        name: Arc<str>,
        leases: StreamLeases,
        wait: Duration,
        clock: Option<StreamClock>,
    ) -> Self {
        Self { name, leases, wait, clock, is_done: false }
    }
}

/// Whether a removed stream is in the list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddedAgain {
    Yes,
    /// A stream of its name is, and is not described yet. It may have been created again.
    Unknown,
    No,
}

/// Logs a deletion that does not take place, also when its future is dropped.
impl Drop for FormerStream {
    fn drop(&mut self) {
        if !self.is_done {
            tracing::warn!(
                stream = &*self.name,
                "the worker has stopped before the leases of this former stream were deleted, they stay"
            );
        }
    }
}

/// The next step of a deletion.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is left to delete.
    Done,
    /// A worker has written a row, or the time is not over.
    Wait,
    /// An operator has paused a shard, so no worker writes its row.
    Paused,
    Delete(Vec<Lease>),
}

/// How long a deletion waits.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// As it was asked for.
    asked: Duration,
    failover_time: Duration,
    is_leader: bool,
}

impl Wait {
    fn full(self) -> Duration {
        let wait = self.asked.max(self.failover_time * LEAST_WAIT_FAILOVER_TIMES);
        let patience = if self.is_leader { 0 } else { PATIENCE_FAILOVER_TIMES };
        wait.saturating_add(self.failover_time * patience)
    }
}

/// The next step for the rows of a stream that was removed some time ago, each with the time since it was last seen to change.
/// A row that changes keeps all of them: another worker still reads the stream. So does a paused one: the stream is to be read
/// on after the pause. `now_millis` is the time by which pauses end.
fn next_step(rows: &[(Lease, Duration)], removed_for: Duration, wait: Wait, now_millis: Option<u64>) -> Step {
    let Some(unchanged_for) = rows.iter().map(|(_, unchanged_for)| *unchanged_for).min() else {
        return Step::Done;
    };
    if rows.iter().any(|(lease, _)| !lease.is_finished() && lease.is_paused(now_millis)) {
        return Step::Paused;
    }
    if unchanged_for.min(removed_for) < wait.full() {
        return Step::Wait;
    }
    Step::Delete(rows.iter().take(MAX_DELETES_PER_STEP).map(|(lease, _)| lease.clone()).collect())
}

/// Deletes the leases of a former stream when its time has come. Ends early when the stream is in the list of this worker again.
/// A stream that was created again under its name has other leases.
pub(super) async fn delete_when_unused(
    mut former: FormerStream,
    table: Arc<SharedTable>,
    is_added_again: impl Fn(&str, &str) -> AddedAgain,
) {
    let failover_time = table.failover_time();
    let (name, leases) = (former.name.clone(), former.leases.clone());
    // The wait begins with the removal, or with the end of a pause.
    let mut counted_from = Instant::now();
    while !former.is_done {
        sleep(failover_time).await;
        let again = is_added_again(&name, &leases.key);
        if again == AddedAgain::Yes || table.is_read(&leases.key) {
            tracing::info!(stream = &*name, "the stream was added again, its leases are kept");
            former.is_done = true;
            continue;
        }
        if again == AddedAgain::Unknown {
            continue;
        }
        let step_of = |scan: &TableScan| {
            let rows = table.unchanged(scan, &leases.key);
            let wait = Wait { asked: former.wait, failover_time, is_leader: scan.is_led_by_this_worker() };
            next_step(&rows, counted_from.elapsed(), wait, millis_of(former.clock))
        };
        let mut step = table.newer_than(failover_time).await.map(|scan| step_of(&scan));
        if matches!(step, Ok(Step::Done | Step::Delete(_))) {
            // An eventually consistent listing may be outdated, and not show that a worker reads the stream.
            step = table.list(Consistency::Strong).await.map(|scan| step_of(&scan));
        }
        match step {
            Ok(Step::Done) => {
                tracing::info!(stream = &*name, "the table has no leases of the former stream any more");
                former.is_done = true;
            }
            Ok(Step::Wait) => {}
            Ok(Step::Paused) => counted_from = Instant::now(),
            // The next scan shows what remains.
            Ok(Step::Delete(due)) => delete(&name, &leases, due).await,
            Err(error) => {
                tracing::warn!(stream = &*name, %error, "listing the leases of a former stream failed, trying again");
            }
        }
    }
}

/// Deletes rows that are still as they were observed.
async fn delete(name: &str, leases: &StreamLeases, due: Vec<Lease>) {
    tracing::warn!(stream = name, rows = due.len(), "deleting the leases of a former stream");
    futures::stream::iter(due)
        .for_each_concurrent(MAX_CONCURRENT_DELETES, |lease| async move {
            let delete = LeaseWrite::Delete { shard_id: lease.shard_id.clone(), expected: lease.version() };
            match leases.store.write(&delete).await {
                Ok(WriteOutcome::Lost { .. }) => {
                    tracing::info!(shard_id = %lease.shard_id, "the lease of a former stream has changed, it stays");
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(shard_id = %lease.shard_id, %error, "the lease of a former stream was not deleted, trying again");
                }
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use lease_store::{Position, ShardId};

    use super::*;

    /// The time by the clock of the stream.
    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn former_rows_go_when_all_are_unchanged_for_the_wait() {
        let (failover_time, long) = (Duration::from_secs(10), Duration::from_secs(3600));
        let row = |number, seconds| {
            (Lease::unowned(ShardId::numbered(number), Position::TrimHorizon), Duration::from_secs(seconds))
        };
        let step = |rows: &[(Lease, Duration)], wait, is_leader| {
            let wait = Wait { asked: Duration::from_secs(wait), failover_time, is_leader };
            next_step(rows, long, wait, Some(NOW))
        };
        assert_eq!(step(&[], 60, true), Step::Done);
        assert_eq!(step(&[row(0, 60), row(1, 59)], 60, true), Step::Wait, "one row was written later");
        let rows = [row(0, 60), row(1, 70)];
        assert_eq!(step(&rows, 60, true), Step::Delete(rows.iter().map(|(row, _)| row.clone()).collect()));
        assert_eq!(step(&rows, 60, false), Step::Wait, "the leader deletes first");
        assert!(matches!(step(&[row(0, 80)], 60, false), Step::Delete(_)));
        assert_eq!(step(&[row(0, 19)], 0, true), Step::Wait, "an owner may not have renewed it yet");
        let wait = Wait { asked: Duration::from_secs(60), failover_time, is_leader: true };
        let removed_for = Duration::from_secs(59);
        assert_eq!(next_step(&rows, removed_for, wait, None), Step::Wait, "the wait begins with the removal");
        let mut paused = [row(0, 60), row(1, 70)];
        for (end, is_kept) in [(NOW + 1, true), (NOW, false)] {
            paused[0].0.pause_text = Some(format!("until {end} by me"));
            assert_eq!(step(&paused, 60, true) == Step::Paused, is_kept, "a pause is in force: {is_kept}");
        }
        let many: Vec<_> = (0..1_500).map(|number| row(number, 60)).collect();
        assert!(matches!(step(&many, 60, true), Step::Delete(due) if due.len() == MAX_DELETES_PER_STEP));
    }
}
