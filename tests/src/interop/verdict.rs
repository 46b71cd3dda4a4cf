//! Compares the deliveries with the records put and with the history of the lease table: no record is missing or out of
//! order, and every redelivery has a cause.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use super::deliveries::Delivery;
use super::lease_history::LeaseHistory;
use super::lease_rows::{KclPosition, LeaseRows};
use super::test_run::KilledWorker;
use super::workers::{End, Ended, Kind};

/// The longest time after which the history of the table shows a change, in milliseconds.
const HISTORY_LAG_MILLIS: u128 = 1000;

/// Why a record was delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its owner was killed before it had checkpointed it.
    AfterKill(Kind),
    /// Its owner was stopped in order and had not checkpointed it.
    AfterStop(Kind),
    /// Its owner was stopped, and could not reach the table to checkpoint it.
    AfterUndrainedStop(Kind),
    /// Its lease was stolen: from a live owner of the first kind by a worker of the second.
    Taken(Kind, Kind),
    /// A worker delivered it that had lost the lease and had not noticed yet.
    NotYetNoticed(Kind),
    /// The same worker owned the lease twice, and no other worker delivered the record in between.
    OwnAgain(Kind),
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AfterKill(kind) => {
                write!(formatter, "not yet checkpointed by a {kind} worker that was killed")
            }
            Self::AfterStop(kind) => {
                write!(formatter, "not checkpointed by a {kind} worker that was stopped")
            }
            Self::AfterUndrainedStop(kind) => {
                write!(
                    formatter,
                    "not checkpointed by a {kind} worker that was stopped and did not reach the table"
                )
            }
            Self::Taken(from, to) => write!(formatter, "taken by {to} from a live {from} worker"),
            Self::NotYetNoticed(kind) => {
                write!(
                    formatter,
                    "delivered by a {kind} worker that had not noticed that its lease was taken"
                )
            }
            Self::OwnAgain(kind) => write!(formatter, "by the same {kind} worker that owned the lease twice"),
        }
    }
}

/// The redeliveries of one cause.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Their number at each change of the owner: by shard, the worker before and the worker after.
    by_owner_change: BTreeMap<(String, String, String), usize>,
}

impl Repeats {
    /// Their number.
    pub fn total(&self) -> usize {
        self.by_owner_change.values().sum()
    }

    /// The number of changes of the owner that caused them.
    pub fn owner_changes(&self) -> usize {
        self.by_owner_change.len()
    }

    /// The largest number at one change of the owner.
    pub fn most(&self) -> usize {
        self.by_owner_change.values().copied().max().unwrap_or(0)
    }
}

/// The outcome of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The number of different records.
    pub records: usize,
    /// The number of records that each kind of worker delivered first.
    pub first_by: BTreeMap<Kind, usize>,
    /// Numbers that were never delivered.
    pub missing: Vec<usize>,
    /// Deliveries after the first one of their record, by cause.
    pub repeats: BTreeMap<Cause, Repeats>,
    /// Violations, one line each.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Checks everything: `deliveries` in the order of time, the numbers from 0 up to `total` that were put, the history of
    /// the table, and the workers that ended.
    pub fn new(deliveries: &[Delivery], total: usize, history: &LeaseHistory, ended: &[Ended]) -> Self {
        let mut verdict = Self::default();
        let mut last_by: HashMap<(&str, &KclPosition), &Delivery> = HashMap::new();
        let mut newest: BTreeMap<&str, &KclPosition> = BTreeMap::new();
        let mut numbers = BTreeSet::new();
        for delivery in deliveries {
            let shard = delivery.shard.as_str();
            if let Some(before) = last_by.insert((shard, &delivery.position), delivery) {
                let cause = cause(before, delivery, history, ended);
                let hands = (shard.to_owned(), before.worker.clone(), delivery.worker.clone());
                *verdict.repeats.entry(cause).or_default().by_owner_change.entry(hands).or_default() += 1;
                // A worker that delivers a record again started at a checkpoint. Records before that checkpoint must never
                // be delivered again.
                let start = history.start_of(&delivery.worker, shard, delivery.at_millis);
                if start.as_ref().is_some_and(|start| delivery.position <= *start) {
                    verdict
                        .faults
                        .push(format!("delivered again although checkpointed: {delivery:?} <= {start:?}"));
                }
                continue;
            }
            *verdict.first_by.entry(Kind::of(&delivery.worker)).or_default() += 1;
            if !numbers.insert(delivery.number) {
                verdict.faults.push(format!("another record has the number of {delivery:?}"));
            }
            if newest.insert(shard, &delivery.position).is_some_and(|newest| *newest > delivery.position) {
                verdict.faults.push(format!("out of order within its shard: {delivery:?}"));
            }
        }
        verdict.records = numbers.len();
        verdict.missing = (0..total).filter(|number| !numbers.contains(number)).collect();
        verdict.faults.extend(parents_after_children(deliveries, &history.last_seen()));
        verdict.faults.extend(history.faults());
        verdict
    }
}

fn cause(before: &Delivery, again: &Delivery, history: &LeaseHistory, ended: &[Ended]) -> Cause {
    let (from, to) = (Kind::of(&before.worker), Kind::of(&again.worker));
    let owns = |at_millis| history.owner_at(&again.shard, at_millis).as_ref() == Some(&again.worker);
    if before.worker == again.worker {
        return Cause::OwnAgain(to);
    }
    if !owns(again.at_millis) && !owns(again.at_millis + HISTORY_LAG_MILLIS) {
        return Cause::NotYetNoticed(to);
    }
    // The last worker with the name, since names may be reused.
    let end = ended.iter().rfind(|ended| ended.name == before.worker && ended.at_millis <= again.at_millis);
    let owned_to_the_end =
        |end: &&Ended| history.owner_at(&again.shard, end.at_millis).as_ref() == Some(&before.worker);
    match end.filter(owned_to_the_end).map(|end| end.how) {
        Some(End::Killed) => Cause::AfterKill(from),
        Some(End::Stopped) => Cause::AfterStop(from),
        Some(End::Undrained) => Cause::AfterUndrainedStop(from),
        None => Cause::Taken(from, to),
    }
}

/// Finds children that were delivered before their parents were finished.
fn parents_after_children(deliveries: &[Delivery], leases: &LeaseRows) -> Vec<String> {
    let mut first: HashMap<&str, &Delivery> = HashMap::new();
    let mut last_first: HashMap<&str, &Delivery> = HashMap::new();
    let mut seen = BTreeSet::new();
    for delivery in deliveries {
        first.entry(&delivery.shard).or_insert(delivery);
        if seen.insert(delivery.number) {
            last_first.insert(&delivery.shard, delivery);
        }
    }
    let mut faults = Vec::new();
    for (shard, lease) in leases {
        for parent in &lease.parents {
            if let (Some(child), Some(parent)) = (first.get(shard.as_str()), last_first.get(parent.as_str()))
                && child.at_millis < parent.at_millis
            {
                faults.push(format!("a child before its parent: {child:?} before {parent:?}"));
            }
        }
    }
    faults
}

/// How the shards of a killed worker continued.
#[derive(Debug)]
pub struct Inheritance {
    /// The number of shards on which an heir delivered a record.
    pub shards: usize,
    /// The time from the kill to the first delivery by the last heir.
    pub last_start: Duration,
    /// Violations, one line each.
    pub faults: Vec<String>,
}

/// Checks that on each shard the first delivery by an heir is the record right after the checkpoint of the killed worker. A
/// delivery by a worker that the table does not show as the owner yet may be left from before the killed worker took the
/// lease. It does not count.
pub fn inheritance(
    deliveries: &[Delivery],
    killed_worker: &KilledWorker,
    history: &LeaseHistory,
) -> Inheritance {
    let KilledWorker { ended, checkpoints } = killed_worker;
    let mut inheritance = Inheritance { shards: 0, last_start: Duration::ZERO, faults: Vec::new() };
    for (shard, checkpoint) in checkpoints {
        let of_shard = || deliveries.iter().filter(|delivery| delivery.shard == *shard);
        let next =
            of_shard().map(|delivery| &delivery.position).filter(|position| *position > checkpoint).min();
        let is_by_heir = |delivery: &&Delivery| {
            let owner = history.owner_at(shard, delivery.at_millis);
            let may_own = owner.as_ref() == Some(&delivery.worker) || Some(&delivery.position) == next;
            delivery.worker != ended.name && delivery.at_millis >= ended.at_millis && may_own
        };
        let Some(first) = of_shard().find(is_by_heir) else { continue };
        inheritance.shards += 1;
        let start =
            u64::try_from(first.at_millis - ended.at_millis).map_or(Duration::MAX, Duration::from_millis);
        inheritance.last_start = inheritance.last_start.max(start);
        if Some(&first.position) != next {
            let fault = format!(
                "{shard}: {} was killed at checkpoint {checkpoint}, but the heir began with {first:?}; owners: {}",
                ended.name,
                history.owners_in_words(shard)
            );
            inheritance.faults.push(fault);
        }
    }
    inheritance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::lease_rows::LeaseRow;

    const SHARD: &str = "shardId-0";

    fn row(owner: &str, counter: u64, checkpoint: &str, parent: Option<&str>) -> LeaseRow {
        LeaseRow {
            owner: Some(owner.to_owned()),
            counter,
            checkpoint: KclPosition::new(checkpoint, 0),
            children: BTreeSet::new(),
            parents: parent.into_iter().map(str::to_owned).collect(),
        }
    }

    /// A Java worker owned the shard, and at 100 a worker of ours took it at checkpoint 2.
    fn history() -> LeaseHistory {
        let rows = |owner, counter| LeaseRows::from([(SHARD.to_owned(), row(owner, counter, "2", None))]);
        LeaseHistory::of(&[(1, rows("java-1", 1)), (100, rows("rust-2", 2))])
    }

    fn delivery(worker: &str, shard: &str, number: usize, at_millis: u128) -> Delivery {
        let position = KclPosition::new(&(number + 1).to_string(), 0);
        Delivery { worker: worker.to_owned(), shard: shard.to_owned(), position, number, at_millis }
    }

    fn by_java(numbers: std::ops::Range<usize>) -> Vec<Delivery> {
        numbers.map(|number| delivery("java-1", SHARD, number, 10 + number as u128)).collect()
    }

    fn ended(how: End) -> Ended {
        Ended { name: "java-1".to_owned(), how, at_millis: 50 }
    }

    #[tokio::test]
    async fn a_missing_record_and_a_wrong_order_are_found() {
        let mut deliveries = by_java(0..4);
        deliveries.remove(1);
        let verdict = Verdict::new(&deliveries, 4, &history(), &[]);
        assert_eq!((verdict.records, verdict.missing), (3, vec![1]));
        assert_eq!(verdict.faults, Vec::<String>::new());
        deliveries.swap(0, 1);
        assert_eq!(Verdict::new(&deliveries, 4, &history(), &[]).faults.len(), 1, "out of order");
    }

    #[tokio::test]
    async fn repeat_has_a_cause_and_was_never_checkpointed() {
        let mut deliveries = by_java(0..4);
        deliveries.push(delivery("rust-2", SHARD, 2, 120)); // its position is 3, after the checkpoint
        let causes = |ended: &[Ended]| {
            let verdict = Verdict::new(&deliveries, 4, &history(), ended);
            assert_eq!(verdict.faults, Vec::<String>::new());
            verdict.repeats.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(causes(&[]), [Cause::Taken(Kind::Java, Kind::Rust)]);
        assert_eq!(causes(&[ended(End::Killed)]), [Cause::AfterKill(Kind::Java)]);
        assert_eq!(causes(&[ended(End::Stopped)]), [Cause::AfterStop(Kind::Java)]);
        let late = delivery("java-1", SHARD, 2, 130);
        let verdict = Verdict::new(&[&deliveries[..], &[late]].concat(), 4, &history(), &[]);
        assert!(verdict.repeats.contains_key(&Cause::NotYetNoticed(Kind::Java)), "{verdict:?}");
        deliveries.push(delivery("rust-2", SHARD, 1, 140));
        assert_eq!(Verdict::new(&deliveries, 4, &history(), &[]).faults.len(), 1, "was checkpointed");
    }

    #[tokio::test]
    async fn a_child_before_its_parent_is_found() {
        let child = ("shardId-1".to_owned(), row("rust-2", 1, "TRIM_HORIZON", Some(SHARD)));
        let parent = (SHARD.to_owned(), row("java-1", 1, "SHARD_END", None));
        let history = LeaseHistory::of(&[(1, LeaseRows::from([parent, child]))]);
        let faults = |at_millis| {
            let mut deliveries = by_java(0..4);
            deliveries.push(delivery("rust-2", "shardId-1", 4, at_millis));
            deliveries.sort_by_key(|delivery| delivery.at_millis);
            Verdict::new(&deliveries, 5, &history, &[]).faults.len()
        };
        assert_eq!((faults(12), faults(20)), (1, 0));
    }

    #[tokio::test]
    async fn heir_begins_with_the_record_after_the_checkpoint() {
        let checkpoints = BTreeMap::from([(SHARD.to_owned(), KclPosition::new("2", 0))]);
        let killed_worker = KilledWorker { ended: ended(End::Killed), checkpoints };
        let faults = |first: usize| {
            let mut deliveries = by_java(0..4);
            deliveries.push(delivery("rust-2", SHARD, first, 120));
            let inheritance = inheritance(&deliveries, &killed_worker, &history());
            assert_eq!((inheritance.shards, inheritance.last_start), (1, Duration::from_millis(70)));
            inheritance.faults.len()
        };
        assert_eq!((faults(1), faults(2), faults(3)), (1, 0, 1));
    }

    #[tokio::test]
    async fn late_deliveries_after_an_earlier_loss_are_no_inheritance() {
        let checkpoints = BTreeMap::from([(SHARD.to_owned(), KclPosition::new("2", 0))]);
        let killed_worker = KilledWorker { ended: ended(End::Killed), checkpoints };
        let mut deliveries = by_java(0..4);
        deliveries.push(delivery("rust-2", SHARD, 4, 60)); // at 100 it becomes the owner
        deliveries.push(delivery("rust-2", SHARD, 2, 120));
        let inheritance = inheritance(&deliveries, &killed_worker, &history());
        assert_eq!((inheritance.shards, inheritance.last_start), (1, Duration::from_millis(70)));
        assert_eq!(inheritance.faults, Vec::<String>::new());
    }
}
