//! The history of the lease table: a watcher that reads it repeatedly and records every change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::deliveries::now_millis;
use super::lease_rows::{KclPosition, LeaseRow, LeaseRows, lease_rows};

/// The time between two readings of the table.
const READ_INTERVAL: Duration = Duration::from_millis(100);

/// The longest time between two readings that counts as watched: only an ownership that begins and ends within it is missed.
const WATCHED_MILLIS: u128 = 1000;

/// A reading of a lease whose owner or checkpoint differs from the one before.
#[derive(Debug, Clone)]
struct Change {
    at_millis: u128,
    owner: Option<String>,
    checkpoint: KclPosition,
}

#[derive(Debug, Default)]
struct Seen {
    changes: BTreeMap<String, Vec<Change>>,
    /// The last reading of each lease, including deleted ones.
    last: LeaseRows,
    /// When the table was read.
    readings: Vec<u128>,
    faults: Vec<String>,
}

/// The history of a lease table.
#[derive(Debug)]
pub struct LeaseHistory {
    seen: Arc<Mutex<Seen>>,
    watcher: JoinHandle<()>,
}

impl Drop for LeaseHistory {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl LeaseHistory {
    /// Watches a table, which need not exist yet.
    pub fn watch(client: aws_sdk_dynamodb::Client, table: &str) -> Self {
        let (seen, table) = (Arc::new(Mutex::new(Seen::default())), table.to_owned());
        let shared = seen.clone();
        let watcher = tokio::spawn(async move {
            loop {
                // Before the table exists there is nothing to record; the test fails if it never exists.
                if let Ok(rows) = lease_rows(&client, &table).await {
                    locked(&shared).record(now_millis(), rows);
                }
                sleep(READ_INTERVAL).await;
            }
        });
        Self { seen, watcher }
    }

    /// The last reading of every lease, including deleted ones.
    pub fn last_seen(&self) -> LeaseRows {
        locked(&self.seen).last.clone()
    }

    /// Changes that the table must never show: a counter or checkpoint that went back, or an ended shard that was reopened.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = locked(&self.seen).faults.clone();
        if self.watcher.is_finished() {
            faults.push("the watcher of the lease table has ended: see its panic above".to_owned());
        }
        faults
    }

    /// The number of times that a lease went from one owner to another.
    pub fn owner_changes(&self) -> usize {
        let seen = locked(&self.seen);
        let owners = |changes: &Vec<Change>| {
            let mut owners: Vec<String> = changes.iter().filter_map(|change| change.owner.clone()).collect();
            owners.dedup();
            owners.len().saturating_sub(1)
        };
        seen.changes.values().map(owners).sum()
    }

    /// When the owner of any lease last changed.
    pub fn last_owner_change_millis(&self) -> Option<u128> {
        let seen = locked(&self.seen);
        let last = |changes: &Vec<Change>| {
            let mut moved = changes.windows(2).rev().filter(|pair| pair[0].owner != pair[1].owner);
            moved.next().or(changes.get(..1))?.last().map(|change| change.at_millis)
        };
        seen.changes.values().filter_map(last).max()
    }

    /// The owner of the lease of a shard at a time.
    pub fn owner_at(&self, shard: &str, at_millis: u128) -> Option<String> {
        let seen = locked(&self.seen);
        let changes = seen.changes.get(shard)?;
        changes.iter().rfind(|change| change.at_millis <= at_millis)?.owner.clone()
    }

    /// The owners of the lease of a shard and the times from which they owned it, for a message.
    pub fn owners_in_words(&self, shard: &str) -> String {
        let seen = locked(&self.seen);
        let mut words: Vec<String> = Vec::new();
        let mut before = None;
        for Change { at_millis, owner, checkpoint } in seen.changes.get(shard).into_iter().flatten() {
            if before.replace(owner) != Some(owner) {
                let owner = owner.as_deref().unwrap_or("no owner");
                words.push(format!("{owner} from {at_millis} at checkpoint {checkpoint}"));
            }
        }
        words.join(", ")
    }

    /// The checkpoint from which the owner at this time started, or an earlier one: that of the last reading before it
    /// became the owner. `None` while the lease had its first owner.
    pub fn start_of_owner_at(&self, shard: &str, at_millis: u128) -> Option<KclPosition> {
        let seen = locked(&self.seen);
        let mut changes = seen.changes.get(shard)?.iter().rev();
        let owner = changes.find(|change| change.at_millis <= at_millis)?.owner.clone();
        changes.find(|change| change.owner != owner).map(|before| before.checkpoint.clone())
    }

    /// The checkpoint from which a worker started when it last became the owner of a shard's lease before this time, or an
    /// earlier one. A worker that has lost a lease without noticing started from its own checkpoint, not from that of the
    /// new owner. `None` where the start is unknown.
    pub fn start_of(&self, worker: &str, shard: &str, at_millis: u128) -> Option<KclPosition> {
        let seen = locked(&self.seen);
        let changes = seen.changes.get(shard)?;
        let is_own = |change: &Change| change.owner.as_deref() == Some(worker);
        let (past, future) =
            changes.split_at(changes.partition_point(|change| change.at_millis <= at_millis));
        let before = match past.iter().rposition(is_own) {
            Some(own) => past[..own].iter().rfind(|change| !is_own(change)),
            // It is the owner already, and the next reading of the table will show it.
            None => {
                past.last().filter(|_| future.first().is_some_and(is_own) && seen.was_watched_at(at_millis))
            }
        };
        before.map(|before| before.checkpoint.clone())
    }

    /// Whether a worker was certainly not the owner of a shard's lease at this time: neither in the reading before it nor
    /// after it.
    pub fn was_not_owner_at(&self, worker: &str, shard: &str, at_millis: u128) -> bool {
        let seen = locked(&self.seen);
        let Some(changes) = seen.changes.get(shard) else { return false };
        let is_own = |change: &Change| change.owner.as_deref() == Some(worker);
        let (past, future) =
            changes.split_at(changes.partition_point(|change| change.at_millis <= at_millis));
        seen.was_watched_at(at_millis)
            && !past.last().is_some_and(is_own)
            && !future.first().is_some_and(is_own)
    }

    /// The leases that a worker itself released at this time or later, and their checkpoints.
    pub fn releases(&self, worker: &str, from_millis: u128) -> Vec<(String, KclPosition)> {
        let seen = locked(&self.seen);
        let mut releases = Vec::new();
        for (shard, changes) in &seen.changes {
            for pair in changes.windows(2) {
                let is_release = pair[0].owner.as_deref() == Some(worker) && pair[1].owner.is_none();
                if is_release && pair[1].at_millis >= from_millis {
                    releases.push((shard.clone(), pair[1].checkpoint.clone()));
                }
            }
        }
        releases
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    /// Whether the table was read shortly before and after this time, so that no ownership in between was long.
    fn was_watched_at(&self, at_millis: u128) -> bool {
        let after = self.readings.partition_point(|reading| *reading <= at_millis);
        let (before, after) =
            (after.checked_sub(1).and_then(|index| self.readings.get(index)), self.readings.get(after));
        before.zip(after).is_some_and(|(before, after)| after - before <= WATCHED_MILLIS)
    }

    fn record(&mut self, at_millis: u128, rows: LeaseRows) {
        self.readings.push(at_millis);
        for (shard, row) in rows {
            let before = self.last.get(&shard);
            if let Some(before) = before {
                self.faults.extend(fault(&shard, before, &row));
            }
            if before
                .is_none_or(|before| (&before.owner, &before.checkpoint) != (&row.owner, &row.checkpoint))
            {
                let (owner, checkpoint) = (row.owner.clone(), row.checkpoint.clone());
                self.changes.entry(shard.clone()).or_default().push(Change { at_millis, owner, checkpoint });
            }
            self.last.insert(shard, row);
        }
    }
}

fn fault(shard: &str, before: &LeaseRow, now: &LeaseRow) -> Option<String> {
    let is_same_writer_later = now.counter > before.counter
        // A release, and a write of the names of children, may leave the counter unchanged.
        || (now.counter == before.counter && (now.owner == before.owner || now.owner.is_none()));
    let is_fault = !is_same_writer_later || now.checkpoint < before.checkpoint;
    is_fault.then(|| format!("{shard} went back: {before:?} became {now:?}"))
}

#[cfg(test)]
impl LeaseHistory {
    /// The history of these readings.
    pub(super) fn of(readings: &[(u128, LeaseRows)]) -> Self {
        let mut seen = Seen::default();
        for (at_millis, rows) in readings {
            seen.record(*at_millis, rows.clone());
        }
        Self { seen: Arc::new(Mutex::new(seen)), watcher: tokio::spawn(std::future::pending()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(owner: &str, counter: u64, checkpoint: &str) -> LeaseRows {
        let row = LeaseRow {
            owner: Some(owner.to_owned()),
            counter,
            checkpoint: KclPosition::new(checkpoint, 0),
            children: Default::default(),
            parents: Default::default(),
        };
        LeaseRows::from([("s".to_owned(), row)])
    }

    #[tokio::test]
    async fn owner_starts_at_the_last_checkpoint_before_it() {
        let history = LeaseHistory::of(&[
            (10, rows("a", 1, "5")),
            (20, rows("a", 2, "6")),
            (30, rows("b", 3, "6")),
            (40, rows("b", 4, "9")),
        ]);
        assert_eq!(history.faults(), Vec::<String>::new());
        assert_eq!(history.owner_at("s", 29).as_deref(), Some("a"));
        assert_eq!(history.owner_at("s", 30).as_deref(), Some("b"));
        assert_eq!(history.start_of_owner_at("s", 50), Some(KclPosition::new("6", 0)));
        assert_eq!(history.start_of_owner_at("s", 25), None);
        assert_eq!(history.owner_changes(), 1);
        assert_eq!(history.last_owner_change_millis(), Some(30));
    }

    #[tokio::test]
    async fn worker_that_lost_a_lease_started_from_its_own_checkpoint() {
        let history = LeaseHistory::of(&[
            (10, rows("a", 1, "5")),
            (20, rows("b", 2, "6")),
            (30, rows("b", 3, "8")),
            (40, rows("c", 4, "9")),
        ]);
        assert_eq!(history.start_of("b", "s", 25), Some(KclPosition::new("5", 0)));
        assert_eq!(
            history.start_of("b", "s", 50),
            Some(KclPosition::new("5", 0)),
            "although c started from 8"
        );
        assert_eq!(history.start_of("c", "s", 50), Some(KclPosition::new("8", 0)));
        assert_eq!(
            history.start_of("c", "s", 35),
            Some(KclPosition::new("8", 0)),
            "an owner before the history shows it"
        );
        assert_eq!(history.start_of("a", "s", 15), None);
    }

    #[tokio::test]
    async fn worker_absent_from_two_close_listings_was_not_the_owner() {
        let history = LeaseHistory::of(&[
            (10, rows("a", 1, "5")),
            (20, rows("b", 2, "5")),
            (30, rows("c", 3, "5")),
            (5000, rows("d", 4, "5")),
        ]);
        let was_not = |worker, at_millis| history.was_not_owner_at(worker, "s", at_millis);
        assert_eq!(
            [was_not("a", 25), was_not("b", 25), was_not("c", 25), was_not("c", 15)],
            [true, false, false, true]
        );
        assert!(!was_not("a", 40), "the table was not read for long");
    }

    #[tokio::test]
    async fn ownerless_lease_was_released_and_a_taken_one_was_not() {
        let mut released = rows("a", 3, "7");
        released.get_mut("s").unwrap().owner = None;
        let readings =
            [(10, rows("a", 1, "5")), (20, rows("a", 2, "6")), (30, released), (40, rows("b", 4, "7"))];
        let history = LeaseHistory::of(&readings);
        assert_eq!(history.releases("a", 15), [("s".to_owned(), KclPosition::new("7", 0))]);
        assert_eq!(history.releases("a", 35), []);
        assert_eq!(history.releases("b", 0), []);
    }

    #[tokio::test]
    async fn row_that_goes_back_is_a_fault() {
        let faults = |next| LeaseHistory::of(&[(10, rows("a", 5, "50")), (20, next)]).faults().len();
        assert_eq!(faults(rows("a", 5, "50")), 0);
        assert_eq!(faults(rows("b", 6, "50")), 0);
        assert_eq!(faults(rows("a", 4, "50")), 1, "the counter");
        assert_eq!(faults(rows("b", 5, "50")), 1, "another owner with the same counter");
        assert_eq!(faults(rows("a", 6, "9")), 1, "the checkpoint");
        assert_eq!(faults(rows("a", 6, "SHARD_END")), 0);
    }
}
