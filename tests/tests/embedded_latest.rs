//! `LATEST` as an instant, while the stream is resharded around the first start. In virtual time.

#![allow(clippy::unwrap_used)] // a test may

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use end_to_end_tests::Journal;
use end_to_end_tests::fleet::{FAILOVER_TIME, LIMIT, Member, member, put, setup};
use kinesis_streaming::lease_store::Consistency;
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{
    ReadFrom, RecordSource, Shard, ShardFilter, SourceError, StreamDescription,
};

/// A stream that is resharded as it is told to while an application starts.
#[derive(Debug, Clone)]
struct Resharded {
    stream: InMemoryStream,
    /// Right after it has said what time it is, a record arrives and the shard that took it is split.
    splits: Arc<AtomicBool>,
    /// It takes no filter.
    lists_all: bool,
}

#[async_trait]
impl StreamSource for Resharded {
    fn stream_name(&self) -> &str {
        self.stream.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        let described = self.stream.describe().await?;
        if self.splits.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (shard_id, _) = self.stream.put("0", "0")?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.stream.split(&shard_id)?;
        }
        Ok(described)
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.stream.list_shards(if self.lists_all { &ShardFilter::All } else { filter }).await
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        self.stream.open(shard_id, from).await
    }
}

fn at_latest(source: Resharded, store: &InMemoryLeaseStore, journal: &Journal) -> Member {
    let builder = member("a", &source.stream, store, journal).initial_position(InitialPosition::Latest);
    Member::start(builder.source(source))
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_closes_between_the_instant_and_the_first_lease_is_read() {
    let (stream, store, journal) = setup(2);
    let source =
        Resharded { stream: stream.clone(), splits: Arc::new(AtomicBool::new(true)), lists_all: false };
    let _member = at_latest(source, &store, &journal);
    journal.wait_for(1, LIMIT).await;
    put(&stream, 1..100);
    journal.wait_for(100, LIMIT).await;
}

/// Starts at the tip of a stream with a history, and yields which shards have rows in the end.
async fn shards_from_before(lists_all: bool) -> BTreeSet<ShardId> {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..100);
    let root = stream.open_shards().swap_remove(0);
    let [left, _] = stream.split(&root).unwrap();
    put(&stream, 100..200);
    stream.split(&left).unwrap();
    put(&stream, 200..300);
    tokio::time::sleep(FAILOVER_TIME).await;
    let source = Resharded { stream: stream.clone(), splits: Arc::new(AtomicBool::new(false)), lists_all };
    let member = at_latest(source, &store, &journal);
    member.wait_until_holding(3).await;
    put(&stream, 300..400);
    journal.wait_for(100, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let delivered: BTreeSet<usize> = journal.times().keys().map(|text| text.parse().unwrap()).collect();
    assert_eq!(delivered, (300..400).collect(), "and nothing from before the instant");
    assert!(member.stop().await.is_drained());
    let rows = store.list(Consistency::Strong).await.unwrap().leases;
    rows.into_iter().map(|row| row.shard_id).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_from_before_the_instant_is_delivered_whatever_the_stream_lists() {
    assert_eq!(shards_from_before(false).await.len(), 3, "the open shards alone have rows");
    // Then every line starts at its oldest shard, and the instant goes down with the rows.
    shards_from_before(true).await;
}
