//! Each hook sees its call and has its effect.

#![allow(clippy::unwrap_used)] // a test may

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease_store::{
    Consistency, HashKey, InMemoryLeaseStore, Lease, LeaseStore as _, LeaseWrite, Position, ShardId,
    StoreError, StoreErrorKind, WriteOutcome,
};
use shard_worker::{
    FetchedBatch, InMemoryStream, ReadFrom, ShardFilter, SourceError, SourceErrorKind, StreamSource as _,
};
use test_support::{
    HookedLeaseStore, HookedStream, ReadLog, StoreCall, StreamCall, Switch, run_with_paused_clock,
};
use tokio::time::timeout;

fn stream() -> InMemoryStream {
    let stream = InMemoryStream::new("s", NonZeroUsize::new(2).unwrap());
    stream.put_with_hash_key(HashKey::MIN, Some("key"), "text").unwrap();
    stream
}

#[tokio::test]
async fn before_hook_sees_every_stream_call_and_can_fail_it() {
    let (calls, fails) = (Arc::new(Mutex::new(Vec::new())), Switch::default());
    let (seen, failing) = (calls.clone(), fails.clone());
    let hooked =
        HookedStream::new(stream()).before(move |call| {
            seen.lock().unwrap().push(call);
            let fails = failing.is_on();
            async move {
                if fails { Err(SourceError::new(SourceErrorKind::Throttled, "slow down")) } else { Ok(()) }
            }
        });
    let shard_id = ShardId::numbered(0);
    hooked.describe().await.unwrap();
    assert_eq!(hooked.list_shards(&ShardFilter::Open).await.unwrap().len(), 2);
    let mut reader = hooked.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    fails.turn_on();
    assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Throttled);
    let expected = [
        StreamCall::Describe,
        StreamCall::ListShards(ShardFilter::Open),
        StreamCall::Open(shard_id.clone(), ReadFrom::TrimHorizon),
        StreamCall::NextBatch(shard_id),
    ];
    assert_eq!(*calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn stream_answers_can_be_changed_or_replaced() {
    let empty = Switch::default();
    empty.turn_on();
    let inner = stream();
    inner.merge(&ShardId::numbered(0), &ShardId::numbered(1)).unwrap();
    let hooked = HookedStream::new(inner)
        .change_filter(|_| ShardFilter::Open)
        .after_describe(|mut description| async move {
            description.retention = Some(Duration::from_secs(7));
            Ok(description)
        })
        .after_ready(|bytes| bytes + 1)
        .replace_read(move |_| {
            let batch = FetchedBatch::new(Vec::new(), Some(9));
            empty.take().then_some(batch)
        })
        .after_read(|_, mut batch| {
            batch.millis_behind_latest = Some(5);
            batch
        });
    assert_eq!(
        hooked.list_shards(&ShardFilter::All).await.unwrap().len(),
        1,
        "the filter was changed to open shards"
    );
    assert_eq!(hooked.describe().await.unwrap().retention, Some(Duration::from_secs(7)));
    let mut reader = hooked.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
    assert!(reader.ready().await >= 1);
    let replaced = reader.next_batch().await.unwrap();
    assert_eq!((replaced.records.len(), replaced.millis_behind_latest), (0, Some(9)));
    let read = reader.next_batch().await.unwrap();
    assert_eq!((read.records.len(), read.millis_behind_latest), (1, Some(5)));
}

#[tokio::test]
async fn read_log_has_positions_and_texts_and_adds_empty_pages() {
    let log = ReadLog::default();
    let watched = log.watch(stream());
    log.set_empty_pages(2);
    let mut reader = watched.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
    for _ in 0..2 {
        assert!(reader.next_batch().await.unwrap().records.is_empty());
        assert!(log.texts().is_empty());
    }
    assert_eq!(reader.next_batch().await.unwrap().records.len(), 1);
    assert_eq!((log.opened(), log.texts()), (vec![ReadFrom::TrimHorizon], vec!["text".to_owned()]));
    log.clear();
    assert!(log.opened().is_empty() && log.texts().is_empty());
}

fn create() -> LeaseWrite {
    LeaseWrite::Create(Lease::unowned(ShardId::numbered(0), Position::TrimHorizon))
}

#[tokio::test]
async fn store_calls_can_fail_and_outcomes_can_be_lost() {
    let fails = Switch::default();
    let failing = fails.clone();
    let unavailable = || StoreError::new(StoreErrorKind::Unavailable, "no answer");
    let store = HookedLeaseStore::new(InMemoryLeaseStore::new())
        .before(move |call| {
            let fails = failing.is_on() && matches!(call, StoreCall::Get(_));
            async move { if fails { Err(unavailable()) } else { Ok(()) } }
        })
        .after_list(|_, mut listing| {
            listing.leases.clear();
            listing
        })
        .after_write(move |_, _| async move { WriteOutcome::Unknown(unavailable()) });
    store.prepare().await.unwrap();
    assert!(matches!(store.write(&create()).await.unwrap(), WriteOutcome::Unknown(_)));
    assert!(store.get(&ShardId::numbered(0)).await.unwrap().is_some(), "the write was applied");
    assert!(store.list(Consistency::Strong).await.unwrap().leases.is_empty());
    fails.turn_on();
    assert_eq!(store.get(&ShardId::numbered(0)).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn replaced_write_is_not_carried_out() {
    let writes: Arc<Mutex<u32>> = Arc::default();
    let counted = writes.clone();
    let store = HookedLeaseStore::new(InMemoryLeaseStore::new())
        .before_write(move |_| *counted.lock().unwrap() += 1)
        .replace_write(|_| Some(WriteOutcome::Lost { lease: None }));
    assert!(matches!(store.write(&create()).await.unwrap(), WriteOutcome::Lost { .. }));
    assert!(store.get(&ShardId::numbered(0)).await.unwrap().is_none());
    assert_eq!(*writes.lock().unwrap(), 1, "a hook that observes writes keeps its effect");
}

#[test]
fn switch_hangs_a_call_while_it_is_on() {
    run_with_paused_clock(async {
        let hangs = Switch::default();
        hangs.turn_on();
        let limit = Duration::from_secs(3600);
        assert!(timeout(limit, hangs.hang_if_on()).await.is_err());
        assert!(hangs.take() && !hangs.is_on());
        assert!(timeout(limit, hangs.hang_if_on()).await.is_ok());
    });
}
