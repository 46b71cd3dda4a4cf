//! Fleets on the in-memory stream and store, for tests in virtual time.

#![allow(clippy::unwrap_used)] // only tests call it

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use kinesis_streaming::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Journal;

/// The seed of every fleet here; change it to try another schedule.
pub const SEED: u64 = 20_261_124;

/// The default of the settings.
pub const FAILOVER_TIME: Duration = Duration::from_secs(10);
/// How long anything may take, in virtual time.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A number of shards.
///
/// # Panics
/// When it is 0.
pub fn shards(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// A fleet member that runs in a task, so that it can be crashed.
#[derive(Debug)]
pub struct Member {
    /// Steers and watches it.
    pub handle: ReceiverHandle,
    task: JoinHandle<StopReport>,
}

impl Member {
    /// Builds and runs it.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn start(builder: ReceiverBuilder) -> Self {
        let receiver = builder.build().unwrap();
        Self { handle: receiver.handle(), task: tokio::spawn(async move { receiver.run().await.unwrap() }) }
    }

    /// What a crash does: the tasks vanish, nothing is flushed or released.
    ///
    /// # Panics
    /// When it ended before.
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

    /// The shards it holds.
    pub fn held(&self) -> BTreeSet<ShardId> {
        self.handle.status().shards.into_iter().map(|shard| shard.shard_id).collect()
    }

    /// Waits until it holds so many shards.
    ///
    /// # Panics
    /// When that takes longer than [`LIMIT`].
    pub async fn wait_until_holding(&self, count: usize) {
        wait_until(&format!("it holds {count} shards"), || self.held().len() == count).await;
    }
}

/// Looks again in virtual time, which costs nothing, until it is so.
///
/// # Panics
/// When that takes longer than [`LIMIT`].
pub async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A member called `name` that notes what it gets.
pub fn member(
    name: &str,
    stream: &InMemoryStream,
    store: &(impl LeaseStore + Clone),
    journal: &Journal,
) -> ReceiverBuilder {
    let journal = journal.clone();
    Consumer::builder()
        .application("embedded-test")
        .worker_id(name)
        .source(stream.clone())
        .lease_store(store.clone())
        .seed(SEED ^ name.bytes().map(u64::from).sum::<u64>())
        .processors(batch_handler(move |shard: ShardContext, batch| {
            journal.note(&shard, &batch);
            async { Ok(()) }
        }))
}

/// Puts these numbers, each as the text of a record.
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

/// A stream of so many shards, an empty lease store and an empty journal.
pub fn setup(shard_count: usize) -> (InMemoryStream, InMemoryLeaseStore, Journal) {
    (InMemoryStream::new("s", shards(shard_count)), InMemoryLeaseStore::new(), Journal::default())
}
