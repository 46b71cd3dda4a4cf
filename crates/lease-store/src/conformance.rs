//! The conformance suite: checks that every lease store must pass.
//!
//! Unstable. The checks write to the store, so use stores that hold nothing else. The caller provides a fresh, empty
//! store for each check; clones of that store must see the same table. A failed check panics with the expected value.

// The suite is test code, also when it is compiled into a library.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::decorators::{CountingLeaseStore, FaultRates, FaultyLeaseStore, SharedLeaseStore};
use crate::error::StoreErrorKind;
use crate::hash_key_range::{HashKey, HashKeyRange};
use crate::held_lease::HeldLease;
use crate::lag_report::LagReport;
use crate::lease::{Lease, LeaseFacts, PendingCheckpoint};
use crate::multi_stream::{MultiStreamLeaseStore, MultiStreamListing, StreamLeases};
use crate::position::Position;
use crate::shard_id::ShardId;
use crate::store::{Consistency, LeaseStore, WriteOutcome};
use crate::stream_identity::StreamIdentity;
use crate::worker_id::WorkerId;
use crate::write::{LeaseChange, LeaseWrite};

/// The number of writers that race for one lease.
const RACING_WRITERS: usize = 16;

/// The number of leases in the listing check: more than one page of a DynamoDB scan in emulators that page by count.
const LISTED_LEASES: usize = 120;

/// Runs every check, each on a fresh store.
///
/// # Panics
/// When the store does not conform.
pub async fn check_all<S: LeaseStore + Clone>(mut fresh: impl FnMut() -> S) {
    check_each(async || {
        let store = fresh();
        store.prepare().await.unwrap();
        store.prepare().await.unwrap();
        store
    })
    .await;
}

/// Runs every check on the leases of one stream.
async fn check_each<S: LeaseStore + Clone>(mut prepared: impl AsyncFnMut() -> S) {
    creates_only_absent_rows(&prepared().await).await;
    keeps_every_field(&prepared().await).await;
    applies_changes_like_the_model(&prepared().await).await;
    refuses_a_stale_version(&prepared().await).await;
    refuses_a_request_over_an_unseen_one(&prepared().await).await;
    refuses_a_note_over_an_unseen_one(&prepared().await).await;
    deletes_only_the_seen_version(&prepared().await).await;
    lists_all_leases_in_order(&prepared().await).await;
    one_of_many_takers_wins(prepared().await).await;
    the_previous_owner_is_fenced(prepared().await).await;
    a_request_leads_to_a_hand_over(prepared().await).await;
    checkpoints_only_move_forward(prepared().await).await;
    a_report_comes_with_each_heartbeat(prepared().await).await;
    unknown_outcomes_are_settled(prepared().await).await;
}

/// Runs every check on a store of several streams: those of [`check_all`] on the leases of one stream, and that the streams
/// are apart.
///
/// # Panics
/// When the store does not conform.
pub async fn check_multi_stream<S: MultiStreamLeaseStore>(mut fresh: impl FnMut() -> S) {
    check_each(async || {
        let table = fresh();
        table.prepare().await.unwrap();
        SharedLeaseStore(table.of_stream(&stream()).unwrap().store)
    })
    .await;
    streams_are_apart(&fresh()).await;
}

/// Two streams have the same shards. One listing returns both, and each is written alone. A stream that was created again has
/// leases of its own.
async fn streams_are_apart(table: &impl MultiStreamLeaseStore) {
    table.prepare().await.unwrap();
    table.prepare().await.unwrap();
    assert_eq!(table.list(Consistency::Strong).await.unwrap(), MultiStreamListing::default());
    let other = |name: &str, creation_epoch_seconds| StreamIdentity {
        arn: format!("arn:aws:kinesis:eu-west-1:123456789012:stream/{name}"),
        creation_epoch_seconds,
    };
    let again = other("orders", stream().creation_epoch_seconds + 1);
    let streams: Vec<StreamLeases> =
        [stream(), other("bills", 1), again].iter().map(|stream| table.of_stream(stream).unwrap()).collect();
    let keys: BTreeSet<&String> = streams.iter().map(|stream| &stream.key).collect();
    assert_eq!(keys.len(), streams.len(), "each stream has a key of its own");
    for (count, stream) in streams.iter().enumerate() {
        for index in 0..=count {
            let lease = Lease::unowned(shard(index), Position::TrimHorizon);
            let created = stream.store.write(&LeaseWrite::Create(lease)).await.unwrap();
            assert!(matches!(created, WriteOutcome::Applied { .. }), "{created:?}");
        }
    }
    let [first, ..] = streams.as_slice() else { return };
    let taken = update(&Lease::unowned(shard(0), Position::TrimHorizon), LeaseChange::take(worker("a")));
    assert!(matches!(first.store.write(&taken).await.unwrap(), WriteOutcome::Applied { .. }));
    let listing = table.list(Consistency::Strong).await.unwrap();
    for (count, stream) in streams.iter().enumerate() {
        let own = stream.store.list(Consistency::Strong).await.unwrap();
        assert_eq!(listing.of_stream(&stream.key), own, "one listing has the rows of each stream");
        let owners: Vec<Option<&str>> =
            own.leases.iter().map(|lease| lease.owner.as_ref().map(WorkerId::as_str)).collect();
        let expected: Vec<Option<&str>> = (0..=count).map(|_| (count == 0).then_some("a")).collect();
        assert_eq!(owners, expected);
    }
}

fn worker(name: impl Into<String>) -> WorkerId {
    WorkerId::new(name.into()).unwrap()
}

fn shard(index: usize) -> ShardId {
    ShardId::new(format!("shardId-{index:012}")).unwrap()
}

fn stream() -> StreamIdentity {
    StreamIdentity {
        arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/orders".to_owned(),
        creation_epoch_seconds: 1_700_000_000,
    }
}

fn pending(number: u128) -> PendingCheckpoint {
    PendingCheckpoint { position: Position::after(number.into(), 1), state: Some(vec![0, 255, 7]) }
}

fn update(seen: &Lease, change: LeaseChange) -> LeaseWrite {
    LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change }
}

async fn create(store: &impl LeaseStore, lease: &Lease) {
    assert_applied(store, &LeaseWrite::Create(lease.clone()), Some(lease)).await;
}

async fn assert_applied(store: &impl LeaseStore, write: &LeaseWrite, expected: Option<&Lease>) {
    match store.write(write).await.unwrap() {
        WriteOutcome::Applied { lease } => assert_eq!(lease.as_ref(), expected, "the answer to {write:?}"),
        other => panic!("{write:?} should be applied, got {other:?}"),
    }
    assert_eq!(store.get(write.shard_id()).await.unwrap().as_ref(), expected, "the row after {write:?}");
}

async fn assert_lost(store: &impl LeaseStore, write: &LeaseWrite, present: Option<&Lease>) {
    match store.write(write).await.unwrap() {
        WriteOutcome::Lost { lease } => assert_eq!(lease.as_ref(), present, "the answer to {write:?}"),
        other => panic!("{write:?} should be lost, got {other:?}"),
    }
    assert_eq!(store.get(write.shard_id()).await.unwrap().as_ref(), present, "the row after {write:?}");
}

/// A second creation is lost and changes nothing.
async fn creates_only_absent_rows(store: &impl LeaseStore) {
    let lease = Lease::unowned(shard(0), Position::TrimHorizon);
    assert_eq!(store.get(&lease.shard_id).await.unwrap(), None);
    create(store, &lease).await;
    let other = Lease::unowned(shard(0), Position::Latest);
    assert_lost(store, &LeaseWrite::Create(other), Some(&lease)).await;
}

/// A created lease is read back unchanged, in every field and for every kind of position.
async fn keeps_every_field(store: &impl LeaseStore) {
    let positions = [
        Position::AtTimestamp,
        Position::TrimHorizon,
        Position::Latest,
        Position::after("9".repeat(129).parse().unwrap(), u64::from(u32::MAX)),
        Position::ShardEnd,
    ];
    for (index, checkpoint) in positions.into_iter().enumerate() {
        let mut lease = Lease::unowned(shard(index), checkpoint);
        lease.parents = BTreeSet::from([shard(100), shard(101)]);
        lease.hash_key_range = Some(HashKeyRange::new(HashKey(index as u128), HashKey::MAX).unwrap());
        lease.pending_checkpoint = Some(pending(index as u128));
        lease.requested_by = Some(worker("b"));
        lease.offered_by = Some(worker("a"));
        lease.owner_process = Some("host-1 17".to_owned());
        lease.stream = Some(stream());
        lease.application = Some("orders".to_owned());
        lease.row_id = Some(1 << 52);
        lease.initial_time_millis = Some(1_700_000_000_123);
        lease.owner_request_text = Some("release #7 to a".to_owned());
        lease.reset_id = Some(6);
        lease.pause_text = Some("until 1700000000123 by me".to_owned());
        lease.lag_report_text = Some("behind=5 at=1700000000123 counter=0".to_owned());
        create(store, &lease).await;
    }
}

/// Every change produces exactly the row that [`LeaseChange::apply`] computes.
async fn applies_changes_like_the_model(store: &impl LeaseStore) {
    let mut row = Lease::unowned(shard(0), Position::TrimHorizon);
    row.parents = BTreeSet::from([shard(7)]);
    row.hash_key_range = Some(HashKeyRange::FULL);
    create(store, &row).await;
    let at = |number: u128| LeaseChange::Checkpoint {
        position: Position::after(number.into(), 3),
        children: BTreeSet::new(),
    };
    let facts = |initial_time_millis| LeaseFacts {
        stream: Some(stream()),
        application: Some(format!("orders-{initial_time_millis}")),
        row_id: Some(initial_time_millis),
        initial_time_millis: Some(initial_time_millis),
        hash_key_range: Some(HashKeyRange::new(HashKey(1), HashKey(2)).unwrap()),
        owner_process: Some(format!("host-1 {initial_time_millis}")),
        counter_floor: initial_time_millis * 1000,
    };
    let end = LeaseChange::Checkpoint {
        position: Position::ShardEnd,
        children: BTreeSet::from([shard(1), shard(2)]),
    };
    let ask = |text: Option<&str>, instead_of: Option<&str>| LeaseChange::AskOwner {
        text: text.map(str::to_owned),
        instead_of: instead_of.map(str::to_owned),
    };
    let pause = |text: Option<&str>, instead_of: Option<&str>| LeaseChange::Pause {
        text: text.map(str::to_owned),
        instead_of: instead_of.map(str::to_owned),
    };
    let reset = |position, initial_time_millis, owner_request: Option<&str>| LeaseChange::Reset {
        position,
        initial_time_millis,
        children: BTreeSet::new(),
        reset_id: 7,
        owner_request: owner_request.map(str::to_owned),
    };
    let reported = |change: LeaseChange, behind_millis| LeaseChange::Reported {
        change: Box::new(change),
        report: LagReport {
            behind_millis,
            measured_at_millis: 1_700_000_000_123,
            processed_bytes_per_second: (behind_millis > 5).then_some(2_048),
        },
    };
    let changes = [
        LeaseChange::take(worker("a")),
        LeaseChange::Renew,
        reported(LeaseChange::Renew, 5),
        reported(at(5), 6),
        reported(LeaseChange::PrepareCheckpoint(pending(6)), 0),
        LeaseChange::Renew,
        reported(at(6), u64::MAX),
        pause(Some("by me"), None),
        ask(Some("release #1 to a"), None),
        ask(Some("reset LATEST #2 to a"), Some("release #1 to a")),
        LeaseChange::Renew,
        reset(Position::Latest, Some(1_700_000_000_123), Some("reset LATEST #2 to a")),
        pause(Some("until 5 by you"), Some("by me")),
        pause(None, Some("until 5 by you")),
        LeaseChange::take(worker("a")),
        LeaseChange::PrepareCheckpoint(pending(9)),
        ask(Some("release #3 to a"), None),
        ask(None, Some("release #3 to a")),
        reset(Position::TrimHorizon, None, None),
        LeaseChange::take(worker("a")),
        ask(Some("release #4 to a"), None),
        LeaseChange::take(worker("a")),
        at(10),
        LeaseChange::take(worker("b")),
        LeaseChange::take(worker("c")),
        LeaseChange::PrepareCheckpoint(pending(19)),
        LeaseChange::PrepareCheckpoint(PendingCheckpoint { state: None, ..pending(20) }),
        at(20),
        LeaseChange::Request { by: worker("d"), instead_of: None },
        LeaseChange::Renew,
        LeaseChange::Request { by: worker("e"), instead_of: Some(worker("d")) },
        LeaseChange::Offer,
        LeaseChange::Withdraw { by: worker("e") },
        LeaseChange::Request { by: worker("e"), instead_of: None },
        LeaseChange::HandOver { to: worker("e") },
        LeaseChange::Request { by: worker("d"), instead_of: None },
        LeaseChange::Offer,
        LeaseChange::Release,
        LeaseChange::Take { owner: worker("a"), facts: facts(1_700_000_000_123) },
        LeaseChange::Take { owner: worker("a"), facts: facts(7) },
        LeaseChange::Renew,
        LeaseChange::Request { by: worker("b"), instead_of: None },
        LeaseChange::HandOver { to: worker("b") },
        LeaseChange::Take { owner: worker("b"), facts: facts(8) },
        LeaseChange::take(worker("b")),
        LeaseChange::Take { owner: worker("b"), facts: facts(9) },
        end,
        LeaseChange::Renew,
        LeaseChange::Release,
    ];
    for change in changes {
        let next = change.apply(&row);
        assert_applied(store, &update(&row, change), Some(&next)).await;
        row = next;
    }
}

/// A holder reports its lag with renewals and checkpoints, and never writes for a report alone.
async fn a_report_comes_with_each_heartbeat(store: impl LeaseStore + Clone) {
    let lease = Lease::unowned(shard(0), Position::TrimHorizon);
    create(&store, &lease).await;
    let counted = CountingLeaseStore::new(store.clone());
    let held = HeldLease::take(Arc::new(counted.clone()), &lease, &worker("a")).await.unwrap();
    let measured = AtomicU64::new(0);
    held.report_lag(move || {
        let behind_millis = measured.fetch_add(1, Ordering::Relaxed);
        Some(LagReport { behind_millis, measured_at_millis: 7, processed_bytes_per_second: Some(3) })
    });
    let reported = async || {
        let row = store.get(&shard(0)).await.unwrap().unwrap();
        row.lag_report().map(|report| report.behind_millis)
    };
    assert_eq!(reported().await, None, "nothing is written for a report");
    held.renew().await.unwrap();
    assert_eq!(reported().await, Some(0));
    let position = Position::after(7u128.into(), 0);
    held.checkpoint(&position, &[]).await.unwrap();
    assert_eq!(reported().await, Some(1));
    held.checkpoint(&position, &[]).await.unwrap();
    assert_eq!(reported().await, Some(1), "a stored position is not written again for a report");
    held.offer().await.unwrap();
    assert_eq!(reported().await, None, "the report is older than the row");
    held.renew().await.unwrap();
    held.release().await.unwrap();
    assert_eq!(reported().await, None, "a free lease has no owner that reports");
    let calls = counted.calls();
    assert_eq!((calls.takes, calls.renewals, calls.checkpoints, calls.offers), (1, 2, 1, 1));
}

/// A write against an older counter, another owner or an absent row is lost.
async fn refuses_a_stale_version(store: &impl LeaseStore) {
    let unowned = Lease::unowned(shard(0), Position::TrimHorizon);
    create(store, &unowned).await;
    let take = LeaseChange::take(worker("a"));
    let taken = take.apply(&unowned);
    assert_applied(store, &update(&unowned, take.clone()), Some(&taken)).await;
    assert_lost(store, &update(&unowned, take), Some(&taken)).await;
    let mut other_owner = taken.clone();
    other_owner.owner = Some(worker("b"));
    for change in [LeaseChange::Renew, LeaseChange::Release] {
        assert_lost(store, &update(&unowned, change.clone()), Some(&taken)).await;
        assert_lost(store, &update(&other_owner, change), Some(&taken)).await;
    }
    let absent = Lease::unowned(shard(1), Position::TrimHorizon);
    assert_lost(store, &update(&absent, LeaseChange::Renew), None).await;
}

/// A request does not replace one that its writer has not seen.
async fn refuses_a_request_over_an_unseen_one(store: &impl LeaseStore) {
    let mut row = Lease::unowned(shard(0), Position::TrimHorizon);
    row.owner = Some(worker("owner"));
    create(store, &row).await;
    let ask = |by: &'static str, instead_of: Option<&'static str>| LeaseChange::Request {
        by: worker(by),
        instead_of: instead_of.map(worker),
    };
    let asked = ask("a", None).apply(&row);
    assert_applied(store, &update(&row, ask("a", None)), Some(&asked)).await;
    assert_lost(store, &update(&row, ask("b", None)), Some(&asked)).await;
    assert_lost(store, &update(&row, ask("b", Some("c"))), Some(&asked)).await;
    let replaced = ask("b", Some("a")).apply(&asked);
    assert_applied(store, &update(&asked, ask("b", Some("a"))), Some(&replaced)).await;
    let hand_over = |to: &'static str| LeaseChange::HandOver { to: worker(to) };
    assert_lost(store, &update(&replaced, hand_over("a")), Some(&replaced)).await;
    let withdraw = |by: &'static str| LeaseChange::Withdraw { by: worker(by) };
    assert_lost(store, &update(&replaced, withdraw("a")), Some(&replaced)).await;
    assert_applied(store, &update(&replaced, withdraw("b")), Some(&row)).await;
    assert_lost(store, &update(&row, hand_over("b")), Some(&row)).await;
}

/// The note of an operator does not replace one that its writer has not seen, and a reset answers only the request it saw.
async fn refuses_a_note_over_an_unseen_one(store: &impl LeaseStore) {
    let mut row = Lease::unowned(shard(0), Position::TrimHorizon);
    row.owner = Some(worker("a"));
    create(store, &row).await;
    let text = |text: &str| Some(text.to_owned());
    let ask = |text, instead_of| LeaseChange::AskOwner { text, instead_of };
    let pause = |text, instead_of| LeaseChange::Pause { text, instead_of };
    for note in [ask, pause] {
        let first = note(text("x"), None);
        let noted = first.apply(&row);
        assert_eq!(noted.counter, row.counter);
        assert_applied(store, &update(&row, first), Some(&noted)).await;
        assert_lost(store, &update(&row, note(text("y"), None)), Some(&noted)).await;
        assert_lost(store, &update(&row, note(None, text("y"))), Some(&noted)).await;
        row = noted;
    }
    let reset = |owner_request| LeaseChange::Reset {
        position: Position::Latest,
        initial_time_millis: None,
        children: BTreeSet::new(),
        reset_id: 1,
        owner_request,
    };
    assert_lost(store, &update(&row, reset(None)), Some(&row)).await;
    assert_lost(store, &update(&row, reset(text("y"))), Some(&row)).await;
    let done = reset(text("x")).apply(&row);
    assert_applied(store, &update(&row, reset(text("x"))), Some(&done)).await;
}

/// A delete is conditional like every other write.
async fn deletes_only_the_seen_version(store: &impl LeaseStore) {
    let seen = Lease::unowned(shard(0), Position::ShardEnd);
    create(store, &seen).await;
    let take = LeaseChange::take(worker("a"));
    let taken = take.apply(&seen);
    assert_applied(store, &update(&seen, take), Some(&taken)).await;
    let delete =
        |lease: &Lease| LeaseWrite::Delete { shard_id: lease.shard_id.clone(), expected: lease.version() };
    assert_lost(store, &delete(&seen), Some(&taken)).await;
    assert_applied(store, &delete(&taken), None).await;
    assert_lost(store, &delete(&taken), None).await;
}

/// A strongly consistent listing returns every row, sorted by shard id.
async fn lists_all_leases_in_order(store: &impl LeaseStore) {
    for index in (0..LISTED_LEASES).rev() {
        create(store, &Lease::unowned(shard(index), Position::TrimHorizon)).await;
    }
    let listing = store.list(Consistency::Strong).await.unwrap();
    let listed: Vec<ShardId> = listing.leases.into_iter().map(|lease| lease.shard_id).collect();
    assert_eq!(listed, (0..LISTED_LEASES).map(shard).collect::<Vec<_>>());
    assert_eq!(listing.malformed, []);
}

/// Of many workers that saw the same row and take it, exactly one gets the lease.
async fn one_of_many_takers_wins(store: impl LeaseStore + Clone) {
    let seen = Lease::unowned(shard(0), Position::TrimHorizon);
    create(&store, &seen).await;
    let takers: Vec<_> = (0..RACING_WRITERS)
        .map(|index| {
            let (store, seen): (Arc<dyn LeaseStore>, _) = (Arc::new(store.clone()), seen.clone());
            tokio::spawn(async move { HeldLease::take(store, &seen, &worker(format!("w{index}"))).await })
        })
        .collect();
    let mut winners = Vec::new();
    for taker in takers {
        match taker.await.unwrap() {
            Ok(held) => winners.push(held),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1, "the number of winners");
    let row = store.get(&seen.shard_id).await.unwrap().unwrap();
    assert_eq!(row.owner.as_ref(), Some(&winners[0].fencing_token().owner));
    assert_eq!(row.counter, 1);
}

/// After another worker took the lease, the old holder can no longer write.
async fn the_previous_owner_is_fenced(store: impl LeaseStore + Clone) {
    let seen = Lease::unowned(shard(0), Position::TrimHorizon);
    create(&store, &seen).await;
    let shared: Arc<dyn LeaseStore> = Arc::new(store.clone());
    let old = HeldLease::take(shared.clone(), &seen, &worker("old")).await.unwrap();
    old.checkpoint(&Position::after(5.into(), 0), &[]).await.unwrap();
    let row = store.get(&seen.shard_id).await.unwrap().unwrap();
    let new = HeldLease::take(shared, &row, &worker("new")).await.unwrap();
    assert!(new.fencing_token().counter > old.fencing_token().counter);
    let before = store.get(&seen.shard_id).await.unwrap();
    let position = Position::after(6.into(), 0);
    assert_eq!(old.checkpoint(&position, &[]).await.unwrap_err().kind(), StoreErrorKind::Fenced);
    assert_eq!(old.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced);
    assert_eq!(old.release().await.unwrap_err().kind(), StoreErrorKind::Fenced);
    assert_eq!(store.get(&seen.shard_id).await.unwrap(), before, "a fenced holder wrote");
    new.renew().await.unwrap();
}

/// The holder learns of a request from its own renewal, and the requester owns the lease after the hand-over.
async fn a_request_leads_to_a_hand_over(store: impl LeaseStore + Clone) {
    let seen = Lease::unowned(shard(0), Position::TrimHorizon);
    create(&store, &seen).await;
    let held = HeldLease::take(Arc::new(store.clone()), &seen, &worker("old")).await.unwrap();
    let row = store.get(&seen.shard_id).await.unwrap().unwrap();
    let request = LeaseChange::Request { by: worker("new"), instead_of: None };
    assert_applied(&store, &update(&row, request.clone()), Some(&request.apply(&row))).await;
    held.renew().await.unwrap();
    assert_eq!(held.hand_over_target().await, worker("new"));
    let position = Position::after(7.into(), 0);
    held.checkpoint(&position, &[]).await.unwrap();
    held.hand_over(&worker("new")).await.unwrap();
    let row = store.get(&seen.shard_id).await.unwrap().unwrap();
    assert_eq!((row.owner, row.checkpoint, row.requested_by), (Some(worker("new")), position, None));
    assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced);
}

/// A checkpoint behind the stored one is refused; an equal one is not written again.
async fn checkpoints_only_move_forward(store: impl LeaseStore + Clone) {
    let seen = Lease::unowned(shard(0), Position::TrimHorizon);
    create(&store, &seen).await;
    let held = HeldLease::take(Arc::new(store.clone()), &seen, &worker("a")).await.unwrap();
    let position = Position::after(10.into(), 2);
    held.checkpoint(&position, &[]).await.unwrap();
    let counter = store.get(&seen.shard_id).await.unwrap().unwrap().counter;
    held.checkpoint(&position, &[]).await.unwrap();
    for behind in [Position::after(9.into(), 9), Position::after(10.into(), 1), Position::TrimHorizon] {
        assert_eq!(held.checkpoint(&behind, &[]).await.unwrap_err().kind(), StoreErrorKind::Invalid);
    }
    let row = store.get(&seen.shard_id).await.unwrap().unwrap();
    assert_eq!((row.counter, row.checkpoint), (counter, position));
}

/// Under any faults, an undisturbed holder is never fenced, and every confirmed checkpoint is in the row.
async fn unknown_outcomes_are_settled(store: impl LeaseStore + Clone) {
    const SEED: u64 = 0x5EED;
    const WRITES: u64 = 200;
    let seen = Lease::unowned(shard(0), Position::TrimHorizon);
    create(&store, &seen).await;
    let faulty = FaultyLeaseStore::new(store.clone(), FaultRates::NONE, SEED);
    let held = HeldLease::take(Arc::new(faulty.clone()), &seen, &worker("a")).await.unwrap();
    faulty.set_rates(FaultRates::each(0.15));
    let mut stored = Position::TrimHorizon;
    for number in 1..=WRITES {
        let position = Position::after(u128::from(number).into(), 0);
        let answer = if number % 3 == 0 { held.renew().await } else { held.checkpoint(&position, &[]).await };
        match answer {
            Ok(()) if number % 3 != 0 => stored = position,
            Ok(()) => {}
            Err(error) => assert!(error.is_retryable(), "seed {SEED:#x}, write {number}: {error}"),
        }
        let row = store.get(&seen.shard_id).await.unwrap().unwrap();
        assert!(row.checkpoint >= stored, "seed {SEED:#x}, write {number}: {} < {stored}", row.checkpoint);
        assert!(row.is_owned_by(&worker("a")));
    }
    faulty.set_rates(FaultRates::NONE);
    held.checkpoint(&Position::ShardEnd, &[shard(1)]).await.unwrap();
    let row = store.get(&seen.shard_id).await.unwrap().unwrap();
    assert!(row.is_finished());
    assert_eq!(row.children, BTreeSet::from([shard(1)]));
}
