//! The heap that 2,048 shards take, idle and busy. It is a program of its own, since its allocator counts every allocation
//! in the process.

#![allow(clippy::unwrap_used)] // a test may

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{Member, SEED, setup};
use kinesis_streaming::lease_store::StreamIdentity;
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, SourceError, StreamDescription,
};
use peak_alloc::PeakAlloc;
use test_support::wait_until;
use tokio::sync::watch;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SHARDS: usize = 2048;

/// The limit for the heap of an idle shard, in bytes.
const MAX_IDLE_BYTES: usize = 64 * 1024;

/// The budget for records in the busy run, in bytes, and the percentage by which the heap may exceed it.
const BUDGET: usize = 32 * 1024 * 1024;
const MAX_EXCESS_PERCENT: usize = 10;

/// The records in a batch of the busy run, and the bytes of each.
const BATCH_RECORDS: usize = 64;
const PAYLOAD_BYTES: usize = 1024;

/// The batches that the busy run processes: several for each shard.
const BATCHES: usize = 3 * SHARDS;

/// Shards with an endless backlog. A record is created when it is read, so unread records take no heap.
#[derive(Debug)]
struct Endless {
    shards: InMemoryStream,
    is_open: watch::Receiver<bool>,
}

#[async_trait]
impl StreamSource for Endless {
    fn stream_name(&self) -> &str {
        self.shards.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        let identity = StreamIdentity { arn: "arn:endless".to_owned(), creation_epoch_seconds: 1 };
        Ok(StreamDescription::new(identity))
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.shards.list_shards(filter).await
    }

    async fn open(&self, _: &ShardId, _: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        Ok(Box::new(EndlessShard { next: 1, is_open: self.is_open.clone() }))
    }
}

#[derive(Debug)]
struct EndlessShard {
    next: u128,
    is_open: watch::Receiver<bool>,
}

#[async_trait]
impl RecordSource for EndlessShard {
    async fn ready(&mut self) -> u64 {
        self.is_open.wait_for(|is_open| *is_open).await.unwrap();
        // As with a real stream, the estimate exceeds the actual size.
        (BATCH_RECORDS * PAYLOAD_BYTES * 3) as u64
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let records = (0..BATCH_RECORDS).map(|_| {
            self.next += 1;
            Record::new((10_u128.pow(38) + self.next).into(), vec![0; PAYLOAD_BYTES].into())
                .with_partition_key(Some(format!("key-{}", self.next).into()))
        });
        let records = records.collect();
        // The latency of a read.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(FetchedBatch::new(records, Some(1000)))
    }
}

#[tokio::test(start_paused = true)]
async fn idle_shards_are_cheap_and_busy_ones_stay_within_the_budget() {
    let (stream, store, _) = setup(SHARDS);
    let (is_open, batches) = (watch::channel(false).0, Arc::new(AtomicUsize::new(0)));
    let counted = batches.clone();
    let builder = Consumer::builder()
        .application("heap")
        .worker_id("w")
        .source(Endless { shards: stream, is_open: is_open.subscribe() })
        .lease_store(store)
        .seed(SEED)
        .max_buffered_bytes(BUDGET as u64)
        .processors(batch_handler(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(())
            }
        }));

    let before = HEAP.current_usage();
    let member = Member::start(builder);
    member.wait_until_holding(SHARDS).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    HEAP.reset_peak_usage();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let idle = HEAP.peak_usage() - before;
    let idle_bytes = idle / SHARDS;
    println!("heap for each idle shard: {idle_bytes} B (with its row in the lease table)");
    assert!(idle_bytes <= MAX_IDLE_BYTES, "{idle_bytes}");

    HEAP.reset_peak_usage();
    is_open.send_replace(true);
    wait_until("each shard had several batches", || batches.load(Ordering::Relaxed) >= BATCHES).await;
    let busy = HEAP.peak_usage() - before - idle;
    let used = member.handle.status().memory;
    println!("heap for busy shards beyond that: {busy} B at a budget of {BUDGET} B; {used:?}");
    assert!(used.most_buffered_bytes <= BUDGET as u64, "{used:?}");
    assert!(busy > BUDGET / 4, "the run uses the budget: {busy}");
    assert!(busy <= BUDGET + BUDGET * MAX_EXCESS_PERCENT / 100, "{busy}");
    member.crash().await;
}
