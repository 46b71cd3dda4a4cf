//! Rows that an operator sets back to `TRIM_HORIZON`: all records come again, in order.

use std::collections::BTreeSet;

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
