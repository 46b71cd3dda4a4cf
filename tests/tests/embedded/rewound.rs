//! Rows that an operator sets back to `TRIM_HORIZON`: all records come again, in order.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, member, put, setup};
use kinesis_streaming::lease_store::{Consistency, Lease, LeaseWrite};
use kinesis_streaming::prelude::*;
use test_support::{LIMIT, wait_until};
use tokio::time::sleep;

async fn rows(store: &InMemoryLeaseStore) -> Vec<Lease> {
    store.list(Consistency::Strong).await.unwrap().leases
}

/// Sets a row back to `TRIM_HORIZON`, as an operator may.
async fn rewind(store: &InMemoryLeaseStore, row: Lease) {
    let delete = LeaseWrite::Delete { shard_id: row.shard_id.clone(), expected: row.version() };
    store.write(&delete).await.unwrap();
    let rewound = Lease { checkpoint: Position::TrimHorizon, owner: None, counter: row.counter + 1, ..row };
    store.write(&LeaseWrite::Create(rewound)).await.unwrap();
}

/// A stream whose shards split twice, read to the tip by a worker that has stopped. Only the open shards have rows.
async fn read_through_two_splits() -> (InMemoryStream, InMemoryLeaseStore, test_support::Journal) {
    let (stream, store, journal) = setup(1);
    let first = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..639);
    for last in [800, 1000] {
        let shard_id = stream.open_shards().swap_remove(0);
        stream.split(&shard_id).unwrap();
        put(&stream, if last == 800 { 639..last } else { 800..last });
    }
    journal.wait_for(1000, LIMIT).await;
    wait_until("the row of the first shard is deleted", || {
        first.held() == stream.open_shards().into_iter().collect()
    })
    .await;
    sleep(FAILOVER_TIME * 3).await;
    first.stop().await;
    let open: BTreeSet<ShardId> = stream.open_shards().into_iter().collect();
    assert_eq!(rows(&store).await.into_iter().map(|row| row.shard_id).collect::<BTreeSet<_>>(), open);
    (stream, store, journal)
}

#[tokio::test(start_paused = true)]
async fn rewinding_all_rows_reads_the_split_parents_again() {
    let (stream, store, journal) = read_through_two_splits().await;
    for row in rows(&store).await {
        rewind(&store, row).await;
    }
    let again = Member::start(member("b", &stream, &store, &journal));
    wait_until("every record came again", || journal.times().values().all(|times| *times == 2)).await;
    again.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_rewound_child_repeats_no_record_of_its_parent() {
    let (stream, store, journal) = read_through_two_splits().await;
    let row = rows(&store).await.swap_remove(0);
    let parent_texts = 639;
    rewind(&store, row).await;
    let again = Member::start(member("b", &stream, &store, &journal));
    again.wait_until_holding(3).await;
    sleep(FAILOVER_TIME).await;
    let repeated = journal.times();
    let of_parent = |text: &str| text.parse::<usize>().unwrap() < parent_texts;
    assert!(repeated.iter().all(|(text, times)| *times == 1 || !of_parent(text)), "the sibling has begun");
    again.stop().await;
}

/// A worker at its `max_leases` remembers all rows and takes none of them.
#[tokio::test(start_paused = true)]
async fn a_forgotten_worker_does_not_undo_a_rewind() {
    let (stream, store, journal) = setup(3);
    let forgotten = Member::start(member("forgotten", &stream, &store, &journal).max_leases(1));
    forgotten.wait_until_holding(1).await;
    let reader = Member::start(member("a", &stream, &store, &journal));
    reader.wait_until_holding(2).await;
    put(&stream, 0..300);
    journal.wait_for(300, LIMIT).await;
    sleep(FAILOVER_TIME).await;
    assert!(reader.stop().await.is_drained());
    let kept = forgotten.held();
    for row in rows(&store).await.into_iter().filter(|row| !kept.contains(&row.shard_id)) {
        rewind(&store, row).await;
    }
    // It reads so slowly that the forgotten worker sees the rows before their positions are restored.
    let per_second = NonZeroU64::new(10).unwrap();
    let again = Member::start(member("b", &stream, &store, &journal).max_records_per_second(per_second));
    let times = |is_kept| {
        let times = journal.times();
        let of_kept =
            journal.all().into_iter().filter(move |entry| kept.contains(&entry.shard_id) == is_kept);
        of_kept.map(|entry| times[&entry.text]).collect::<BTreeSet<usize>>()
    };
    wait_until("the records of the rewound shards came again", || times.clone()(false) == [2].into()).await;
    assert_eq!(times(true), [1].into(), "the other shard was not rewound");
    again.stop().await;
    forgotten.stop().await;
}
