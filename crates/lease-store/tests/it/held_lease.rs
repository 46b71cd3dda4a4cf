//! A held lease under faults: its own writes never fence it, and it never overwrites another owner.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fastrand::Rng;
use lease_store::{
    Consistency, FaultRates, FaultyLeaseStore, HeldLease, InMemoryLeaseStore, Lease, LeaseChange, LeaseFacts,
    LeaseListing, LeaseStore, LeaseWrite, Position, ShardId, StoreError, StoreErrorKind, WorkerId,
    WriteOutcome,
};
use test_support::{HookedLeaseStore, StoreCall, Switch};
use tokio::sync::Notify;
use tokio::time::Duration;

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name.to_owned()).unwrap()
}

fn at(number: u64) -> Position {
    Position::after(u128::from(number).into(), 0)
}

async fn table_with_one_lease() -> (InMemoryLeaseStore, Lease) {
    let (table, lease) =
        (InMemoryLeaseStore::new(), Lease::unowned(ShardId::numbered(0), Position::TrimHorizon));
    table.write(&LeaseWrite::Create(lease.clone())).await.unwrap();
    (table, lease)
}

async fn row(table: &InMemoryLeaseStore) -> Lease {
    table.get(&ShardId::numbered(0)).await.unwrap().unwrap()
}

/// Another worker takes the lease, like an observer that saw no renewal.
async fn steal(table: &InMemoryLeaseStore, thief: &str) {
    let row = row(table).await;
    let change = LeaseChange::take(worker(thief));
    let take = LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
    assert!(matches!(table.write(&take).await.unwrap(), WriteOutcome::Applied { .. }));
}

#[tokio::test]
async fn one_of_many_takers_wins() {
    let (table, seen) = table_with_one_lease().await;
    let takers = (0..50).map(|index| {
        let (store, seen) = (Arc::new(table.clone()), seen.clone());
        tokio::spawn(async move { HeldLease::take(store, &seen, &worker(&format!("w{index}"))).await })
    });
    let mut winners = 0;
    for taker in takers.collect::<Vec<_>>() {
        winners += usize::from(taker.await.unwrap().is_ok());
    }
    assert_eq!((winners, row(&table).await.counter), (1, 1));
}

#[tokio::test]
async fn unknown_outcomes_are_settled_on_every_seed() {
    for seed in 0..300 {
        let (table, seen) = table_with_one_lease().await;
        let store = FaultyLeaseStore::new(table.clone(), FaultRates::NONE, seed);
        let held = HeldLease::take(Arc::new(store.clone()), &seen, &worker("owner")).await.unwrap();
        store.set_rates(FaultRates::each(0.2));
        let mut rng = Rng::with_seed(seed);
        let (mut confirmed, mut counter) = (0, 1);
        for number in 1..60 {
            let answer =
                if rng.bool() { held.renew().await } else { held.checkpoint(&at(number), &[]).await };
            let row = row(&table).await;
            assert!(
                row.is_owned_by(&worker("owner")) && row.counter >= counter,
                "seed {seed}, write {number}"
            );
            counter = row.counter;
            match answer {
                Ok(()) => confirmed = confirmed.max(if row.checkpoint == at(number) { number } else { 0 }),
                Err(error) => assert!(error.is_retryable(), "seed {seed}, write {number}: {error}"),
            }
            assert!(
                confirmed == 0 || row.checkpoint >= at(confirmed),
                "seed {seed}, write {number}: a confirmed checkpoint moved back"
            );
        }
        // Then another worker takes the lease. From now on no write of the old holder is applied, not even a late one.
        steal(&table, "thief").await;
        let stolen = row(&table).await;
        for number in 60..80 {
            let answer = held.checkpoint(&at(number), &[]).await;
            assert!(answer.is_err(), "seed {seed}, write {number}");
            assert_eq!(row(&table).await, stolen, "seed {seed}, write {number}: a fenced holder wrote");
        }
        store.set_rates(FaultRates::NONE);
        assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_write_does_not_lose_the_lease() {
    let (table, seen) = table_with_one_lease().await;
    let slow = Switch::default();
    let is_slow = slow.clone();
    let store = HookedLeaseStore::new(table.clone()).after_write(move |_, outcome| {
        let slow = is_slow.clone();
        async move {
            slow.hang_if_on().await;
            outcome
        }
    });
    let store = Arc::new(store);
    let held = HeldLease::take(store.clone(), &seen, &worker("owner")).await.unwrap();
    let confirmed_at = held.confirmed_at();
    slow.turn_on();
    let limit = Duration::from_secs(1);
    assert!(tokio::time::timeout(limit, held.checkpoint(&at(1), &[])).await.is_err());
    assert_eq!(
        held.confirmed_at(),
        confirmed_at,
        "an unanswered write is not confirmed, although it was applied"
    );
    slow.turn_off();
    held.checkpoint(&at(2), &[]).await.unwrap();
    assert_eq!((row(&table).await.checkpoint, row(&table).await.counter), (at(2), 3));
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_before_the_request() {
    let (table, seen) = table_with_one_lease().await;
    let (slow, answer) = (Switch::default(), Arc::new(Notify::new()));
    let (is_slow, answered) = (slow.clone(), answer.clone());
    let store = HookedLeaseStore::new(table).after_write(move |_, outcome| {
        let (is_slow, answered) = (is_slow.is_on(), answered.clone());
        async move {
            if is_slow {
                answered.notified().await;
            }
            outcome
        }
    });
    let store = Arc::new(store);
    let held = HeldLease::take(store.clone(), &seen, &worker("owner")).await.unwrap();
    slow.turn_on();
    let asked_at = tokio::time::Instant::now();
    let answer_late = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        answer.notify_one();
    };
    let (renewed, ()) = tokio::join!(held.renew(), answer_late);
    renewed.unwrap();
    assert_eq!(asked_at.elapsed().as_secs(), 3);
    assert_eq!(held.confirmed_at(), asked_at, "an observer may count from the moment the write was applied");
}

#[tokio::test]
async fn a_released_lease_is_not_written_again() {
    let (table, seen) = table_with_one_lease().await;
    let held = HeldLease::take(Arc::new(table.clone()), &seen, &worker("owner")).await.unwrap();
    held.release().await.unwrap();
    let released = row(&table).await;
    assert_eq!(
        (&released.owner, released.counter),
        (&None, 1),
        "the counter is unchanged, for KCL versions before 2.6"
    );
    for answer in [held.renew().await, held.checkpoint(&at(1), &[]).await, held.release().await] {
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Fenced);
    }
    assert_eq!(row(&table).await, released);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_row_fences_its_holder() {
    let (table, seen) = table_with_one_lease().await;
    let held = HeldLease::take(Arc::new(table.clone()), &seen, &worker("owner")).await.unwrap();
    let row = row(&table).await;
    table
        .write(&LeaseWrite::Delete { shard_id: row.shard_id.clone(), expected: row.version() })
        .await
        .unwrap();
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(held.vanished_after(), None);
    assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced);
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced);
    assert_eq!(held.vanished_after(), Some(Duration::from_secs(7)), "the time of the first failed renewal");
    assert_eq!(table.get(&row.shard_id).await.unwrap(), None);
    assert!(!held.has_ended());
    assert_eq!(held.checkpoint(&Position::ShardEnd, &[]).await.unwrap_err().kind(), StoreErrorKind::Fenced);
    assert!(held.has_ended(), "a failed attempt counts too");
}

fn unavailable() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "no answer")
}

/// While it is on, the rows of a store cannot be read.
fn unreadable_if_on(
    unreadable: &Switch,
) -> impl Fn(StoreCall) -> Ready<Result<(), StoreError>> + Send + Sync + 'static {
    let unreadable = unreadable.clone();
    move |call| {
        let fails = unreadable.is_on() && matches!(call, StoreCall::Get(_));
        ready(if fails { Err(unavailable()) } else { Ok(()) })
    }
}

/// Loses the answers to the next writes, which are applied (`true`) or not (`false`).
fn losing_answers(
    table: &InMemoryLeaseStore,
    unreadable: &Switch,
    applies_next: &Arc<Mutex<VecDeque<bool>>>,
) -> Arc<HookedLeaseStore> {
    let next_is = |queue: &Mutex<VecDeque<bool>>, applied: bool| {
        queue.lock().unwrap().pop_front_if(|next| *next == applied).is_some()
    };
    let (before, after) = (applies_next.clone(), applies_next.clone());
    let store = HookedLeaseStore::new(table.clone())
        .before(unreadable_if_on(unreadable))
        .replace_write(move |_| next_is(&before, false).then(|| WriteOutcome::Unknown(unavailable())))
        .after_write(move |_, outcome| {
            ready(if next_is(&after, true) { WriteOutcome::Unknown(unavailable()) } else { outcome })
        });
    Arc::new(store)
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_valid_from_an_answered_take() {
    const SECOND: Duration = Duration::from_secs(1);
    let (table, seen) = table_with_one_lease().await;
    let applies_next = Arc::new(Mutex::new(VecDeque::from([true, false])));
    let unreadable = Switch::default();
    unreadable.turn_on();
    let store = losing_answers(&table, &unreadable, &applies_next);
    let owner = worker("owner");
    let take = || HeldLease::take(store.clone(), &seen, &owner);
    assert_eq!(take().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(row(&table).await.counter, 1, "observers consider the lease alive from now on");
    // The caller takes it again from the same row, which is stale. This write is not applied and not answered, but the
    // row names the worker because of the first one.
    unreadable.turn_off();
    tokio::time::advance(SECOND * 5).await;
    let held = take().await.unwrap();
    assert_eq!((held.taken().counter, row(&table).await.counter), (2, 2), "the lease was taken once more");
    assert_eq!(held.confirmed_at().elapsed(), Duration::ZERO);
    // If the second take is not answered either, the worker does not hold the lease, although the row names it.
    applies_next.lock().unwrap().extend([true; 2]);
    let seen = row(&table).await;
    let unanswered = HeldLease::take(store.clone(), &seen, &owner).await;
    assert_eq!(unanswered.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert!(row(&table).await.is_owned_by(&owner));
}

/// Begins a hand-over like a KCL 3.x leader (`initiateGracefulLeaseHandoff`), which does not change the counter.
async fn begin_kcl_hand_over(table: &InMemoryLeaseStore, new_owner: &str) {
    let mut row = row(table).await;
    table
        .write(&LeaseWrite::Delete { shard_id: row.shard_id.clone(), expected: row.version() })
        .await
        .unwrap();
    row.checkpoint_owner = row.owner.replace(worker(new_owner));
    table.write(&LeaseWrite::Create(row)).await.unwrap();
}

#[tokio::test]
async fn the_previous_owner_completes_a_kcl_3_hand_over() {
    for with_unknown_outcome in [false, true] {
        let (table, seen) = table_with_one_lease().await;
        let store = FaultyLeaseStore::new(table.clone(), FaultRates::NONE, 1);
        let held = HeldLease::take(Arc::new(store.clone()), &seen, &worker("old")).await.unwrap();
        if with_unknown_outcome {
            let mut rates = FaultRates::NONE;
            rates.applied_unanswered = 1.0;
            store.set_rates(rates);
            held.renew().await.unwrap();
            store.set_rates(FaultRates::NONE);
        }
        begin_kcl_hand_over(&table, "new").await;
        held.renew().await.unwrap();
        assert_eq!(held.hand_over_target().await, worker("new"));
        held.checkpoint(&at(5), &[]).await.unwrap();
        let checkpoint_owner = row(&table).await.checkpoint_owner;
        assert_eq!(checkpoint_owner, Some(worker("old")), "the previous owner is still processing");
        held.hand_over(&worker("new")).await.unwrap();
        let row = row(&table).await;
        assert_eq!((row.owner, row.checkpoint_owner, row.checkpoint), (Some(worker("new")), None, at(5)));
        assert_eq!(row.owner_switches_since_checkpoint, 0, "the rule of the KCL");
    }
}

/// After a release the worker chosen by KCL 3.x would not own the lease.
#[tokio::test]
async fn a_lease_reassigned_by_kcl_3_cannot_be_released() {
    let (table, seen) = table_with_one_lease().await;
    let held = HeldLease::take(Arc::new(table.clone()), &seen, &worker("old")).await.unwrap();
    begin_kcl_hand_over(&table, "new").await;
    assert_eq!(held.release().await.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert!(!held.is_fenced());
    assert_eq!(held.hand_over_target().await, worker("new"));
    held.hand_over(&worker("new")).await.unwrap();
    assert_eq!((row(&table).await.owner, row(&table).await.checkpoint_owner), (Some(worker("new")), None));
}

#[tokio::test]
async fn a_kcl_3_hand_over_with_a_changed_counter_is_a_loss() {
    let (table, seen) = table_with_one_lease().await;
    let held = HeldLease::take(Arc::new(table.clone()), &seen, &worker("old")).await.unwrap();
    begin_kcl_hand_over(&table, "new").await;
    steal(&table, "third").await;
    assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced);
}

#[tokio::test]
async fn a_request_does_not_disturb_the_writes_of_the_holder() {
    let (table, seen) = table_with_one_lease().await;
    let held = HeldLease::take(Arc::new(table.clone()), &seen, &worker("old")).await.unwrap();
    let seen = row(&table).await;
    let request = LeaseChange::Request { by: worker("new"), instead_of: None };
    let request =
        LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change: request };
    assert!(matches!(table.write(&request).await.unwrap(), WriteOutcome::Applied { .. }));
    held.checkpoint(&at(1), &[]).await.unwrap();
    assert_eq!(held.hand_over_target().await, worker("new"));
    held.offer().await.unwrap();
    assert!(row(&table).await.is_offered());
}

/// A worker that stops withdraws its request. The holder may not know of that yet.
#[tokio::test]
async fn a_lease_is_not_handed_over_after_a_withdrawn_request() {
    let (table, seen) = table_with_one_lease().await;
    let held = HeldLease::take(Arc::new(table.clone()), &seen, &worker("old")).await.unwrap();
    for change in [
        LeaseChange::Request { by: worker("new"), instead_of: None },
        LeaseChange::Withdraw { by: worker("new") },
    ] {
        let seen = row(&table).await;
        let write = LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change };
        assert!(matches!(table.write(&write).await.unwrap(), WriteOutcome::Applied { .. }));
        if row(&table).await.requested_by.is_some() {
            held.renew().await.unwrap();
        }
    }
    assert_eq!(
        held.newest_hand_over_target(),
        Some(worker("new")),
        "the holder does not know of the withdrawal"
    );
    assert_eq!(held.hand_over(&worker("new")).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(held.newest_hand_over_target(), None);
    held.release().await.unwrap();
    assert_eq!(row(&table).await.owner, None);
}

#[tokio::test]
async fn a_prepared_checkpoint_survives_a_change_of_owner() {
    let (table, seen) = table_with_one_lease().await;
    let held = HeldLease::take(Arc::new(table.clone()), &seen, &worker("old")).await.unwrap();
    held.checkpoint(&at(5), &[]).await.unwrap();
    assert_eq!(
        held.prepare_checkpoint(&at(4), None).await.unwrap_err().kind(),
        StoreErrorKind::Invalid,
        "the position is behind the checkpoint"
    );
    held.prepare_checkpoint(&at(6), Some(b"half done".to_vec())).await.unwrap();
    steal(&table, "thief").await;
    let pending = row(&table).await.pending_checkpoint.unwrap();
    assert_eq!((pending.position, pending.state.as_deref()), (at(6), Some(b"half done".as_slice())));
    assert_eq!(row(&table).await.checkpoint, at(5));
}

#[tokio::test]
async fn an_unanswered_hand_over_is_the_last_write_of_its_holder() {
    let (table, seen) = table_with_one_lease().await;
    // While it is on, writes are applied, their outcomes are unknown, and the row cannot be read.
    let silent = Switch::default();
    let is_silent = silent.clone();
    let store = HookedLeaseStore::new(table.clone()).before(unreadable_if_on(&silent)).after_write(
        move |_, outcome| {
            ready(if is_silent.is_on() { WriteOutcome::Unknown(unavailable()) } else { outcome })
        },
    );
    for again in ["the same hand-over", "a release", "a renewal", "an offer"] {
        let seen = if row(&table).await.counter == 0 { seen.clone() } else { row(&table).await };
        let held = HeldLease::take(Arc::new(store.clone()), &seen, &worker("a")).await.unwrap();
        let change = LeaseChange::Request { by: worker("b"), instead_of: None };
        let expected = row(&table).await.version();
        let shard_id = seen.shard_id.clone();
        table.write(&LeaseWrite::Update { shard_id, expected, change }).await.unwrap();
        held.renew().await.unwrap();
        silent.turn_on();
        assert!(held.hand_over(&worker("b")).await.unwrap_err().is_retryable());
        silent.turn_off();
        let handed_over = row(&table).await;
        assert!(handed_over.is_owned_by(&worker("b")));
        match again {
            "the same hand-over" => held.hand_over(&worker("b")).await.unwrap(),
            "a release" => {
                assert_eq!(held.release().await.unwrap_err().kind(), StoreErrorKind::Fenced);
            }
            "a renewal" => assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced),
            _ => assert_eq!(held.offer().await.unwrap_err().kind(), StoreErrorKind::Fenced),
        }
        assert!(held.is_fenced());
        assert_eq!(row(&table).await, handed_over, "after {again}: the row of the new owner is unchanged");
    }
}

fn process(text: &str) -> LeaseFacts {
    LeaseFacts { owner_process: Some(text.to_owned()), ..LeaseFacts::default() }
}

/// Another process of the same name takes the lease.
async fn steal_as_clone(table: &InMemoryLeaseStore, owner: &str) {
    let row = row(table).await;
    let change = LeaseChange::Take { owner: worker(owner), facts: process("clone") };
    let take = LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
    assert!(matches!(table.write(&take).await.unwrap(), WriteOutcome::Applied { .. }));
}

#[tokio::test]
async fn a_clones_take_is_not_an_own_lost_write() {
    let (table, seen) = table_with_one_lease().await;
    let store = FaultyLeaseStore::new(table.clone(), FaultRates::NONE, 1);
    let me = worker("owner");
    let held = HeldLease::take_with_facts(Arc::new(store.clone()), &seen, &me, process("me")).await.unwrap();
    let mut rates = FaultRates::NONE;
    rates.dropped_unanswered = 1.0;
    store.set_rates(rates);
    assert!(held.renew().await.unwrap_err().is_retryable());
    // The row has the counter and the owner that the renewal would have left.
    steal_as_clone(&table, "owner").await;
    store.set_rates(FaultRates::NONE);
    assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced);
    assert_eq!(held.lost_to_namesake(), Some(row(&table).await));
}

/// Answers no write. After the first one another process of the same name takes the lease.
#[derive(Debug)]
struct CloneTakesFirst(InMemoryLeaseStore);

#[async_trait]
impl LeaseStore for CloneTakesFirst {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.0.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        self.0.list(consistency).await
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.0.get(shard_id).await
    }

    async fn write(&self, _: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        steal_as_clone(&self.0, "owner").await;
        Ok(WriteOutcome::Unknown(StoreError::new(StoreErrorKind::Unavailable, "no answer")))
    }
}

#[tokio::test]
async fn an_unanswered_take_gives_way_to_a_clone() {
    let (table, seen) = table_with_one_lease().await;
    let store = Arc::new(CloneTakesFirst(table.clone()));
    let taken = HeldLease::take_with_facts(store, &seen, &worker("owner"), process("me")).await;
    assert_eq!(taken.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(row(&table).await.counter, 1, "the clone is not disturbed");
}
