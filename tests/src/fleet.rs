//! Fleets over the in-memory stream and lease store, for tests in virtual time.

#![allow(clippy::unwrap_used)] // only tests call it

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use kinesis_streaming::prelude::*;
use test_support::{Journal, wait_until};
use tokio_util::task::AbortOnDropHandle;

/// The seed of every fleet in these tests. Change it to try another schedule.
pub const SEED: u64 = 20_261_124;

/// The fail-over time of these tests: the default of the setting.
pub const FAILOVER_TIME: Duration = Duration::from_secs(10);

/// A number of shards.
///
/// # Panics
/// When it is 0.
pub fn shards(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// A fleet member that runs in a task, so that a test can crash it. A dropped member crashes, so that the fleets of earlier seeds
/// do not run on beside the present one.
#[derive(Debug)]
pub struct Member {
    /// Stops it and returns its status.
    pub handle: ConsumerHandle,
    task: AbortOnDropHandle<StopReport>,
}

impl Member {
    /// Builds and runs it.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn start(builder: ConsumerBuilder) -> Self {
        let receiver = builder.build().unwrap();
        let handle = receiver.handle();
        let task = tokio::spawn(async move { receiver.run().await.unwrap() });
        Self { handle, task: AbortOnDropHandle::new(task) }
    }

    /// Crashes it: its tasks are dropped, and it flushes and releases nothing.
    ///
    /// # Panics
    /// When it has ended already.
    pub async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Stops it and waits until it has ended.
    ///
    /// # Panics
    /// When it failed.
    pub async fn stop(self) -> StopReport {
        self.handle.stop();
        self.task.await.unwrap()
    }

    /// The shards whose leases it holds.
    pub fn held(&self) -> BTreeSet<ShardId> {
        self.handle.status().shards.into_iter().map(|shard| shard.shard_id).collect()
    }

    /// Waits until it holds this many shards.
    ///
    /// # Panics
    /// When that takes longer than [`wait_until`] waits.
    pub async fn wait_until_holding(&self, count: usize) {
        wait_until(&format!("it holds {count} shards"), || self.held().len() == count).await;
    }
}

/// A member called `name` that records its deliveries in the journal.
pub fn member(
    name: &str,
    stream: &InMemoryStream,
    store: &(impl LeaseStore + Clone),
    journal: &Journal,
) -> ConsumerBuilder {
    let journal = journal.clone();
    Consumer::builder()
        .application("embedded-test")
        .worker_id(name)
        .source(stream.clone())
        .lease_store(store.clone())
        .seed(SEED ^ name.bytes().map(u64::from).sum::<u64>())
        .processors(batch_handler(move |shard: ShardContext, batch| {
            journal.record(&shard, &batch);
            async { Ok(()) }
        }))
}

/// Puts a record for each of these numbers, with the number as its text.
///
/// # Panics
/// When the stream is full.
pub fn put(stream: &InMemoryStream, numbers: std::ops::Range<usize>) {
    for number in numbers {
        stream.put(format!("key-{number}"), number.to_string()).unwrap();
    }
}

/// The parents of each shard.
///
/// # Panics
/// Never: an in-memory stream can always be listed.
pub async fn parents(stream: &InMemoryStream) -> BTreeMap<ShardId, BTreeSet<ShardId>> {
    stream
        .list_shards(&ShardFilter::All)
        .await
        .unwrap()
        .into_iter()
        .map(|shard| (shard.shard_id, shard.parents))
        .collect()
}

/// A stream with this many shards, an empty lease store and an empty journal.
pub fn setup(shard_count: usize) -> (InMemoryStream, InMemoryLeaseStore, Journal) {
    (InMemoryStream::new("s", shards(shard_count)), InMemoryLeaseStore::new(), Journal::default())
}
