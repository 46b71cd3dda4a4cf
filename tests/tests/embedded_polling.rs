//! How a shard is read when the source refuses, or never answers: in virtual time, without a network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::Journal;
use end_to_end_tests::fleet::{LIMIT, Member, member, put, setup};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, SourceError, SourceErrorKind, StreamDescription,
};
use tokio::time::Instant;

/// What a call does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Throttled,
    Silent,
}

/// Refuses the first calls of each kind, and notes when each call began.
#[derive(Debug, Clone)]
struct Refusing {
    stream: InMemoryStream,
    fault: Fault,
    opens_left: Arc<AtomicUsize>,
    reads_left: Arc<AtomicUsize>,
    calls: Arc<Mutex<Vec<Instant>>>,
}

impl Refusing {
    fn new(stream: &InMemoryStream, fault: Fault, opens: usize, reads: usize) -> Self {
        Self {
            stream: stream.clone(),
            fault,
            opens_left: Arc::new(AtomicUsize::new(opens)),
            reads_left: Arc::new(AtomicUsize::new(reads)),
            calls: Arc::default(),
        }
    }

    async fn call(&self, left: &AtomicUsize) -> Result<(), SourceError> {
        self.calls.lock().unwrap().push(Instant::now());
        let is_refused =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        match (is_refused, self.fault) {
            (false, _) => Ok(()),
            (true, Fault::Throttled) => Err(SourceError::new(SourceErrorKind::Throttled, "slow down")),
            (true, Fault::Silent) => std::future::pending().await,
        }
    }

    fn waits(&self) -> Vec<Duration> {
        self.calls.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

#[async_trait]
impl StreamSource for Refusing {
    fn stream_name(&self) -> &str {
        self.stream.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.stream.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.stream.list_shards(filter).await
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        self.call(&self.opens_left).await?;
        let reader = self.stream.open(shard_id, from).await?;
        Ok(Box::new(RefusingShard { stream: self.clone(), reader }))
    }
}

#[derive(Debug)]
struct RefusingShard {
    stream: Refusing,
    reader: Box<dyn RecordSource>,
}

#[async_trait]
impl RecordSource for RefusingShard {
    async fn ready(&mut self) -> u64 {
        self.reader.ready().await
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        self.stream.call(&self.stream.reads_left).await?;
        self.reader.next_batch().await
    }
}

async fn read_all(name: &str, fault: Fault, opens: usize, reads: usize) -> Refusing {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..5);
    let refusing = Refusing::new(&stream, fault, opens, reads);
    let builder = member(name, &stream, &store, &journal).source(refusing.clone());
    let _member = Member::start(builder);
    wait_for_all(&journal).await;
    refusing
}

async fn wait_for_all(journal: &Journal) {
    journal.wait_for(5, LIMIT * 10).await;
    assert!(journal.times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn throttled_reads_are_repeated_after_random_waits_that_grow() {
    let mut first_waits = BTreeSet::new();
    for name in ["a", "b", "c"] {
        let waits = read_all(name, Fault::Throttled, 0, 12).await.waits()[1..].to_vec();
        assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(100)), "{waits:?}");
        let (early, late): (Duration, Duration) = (waits[..4].iter().sum(), waits[7..11].iter().sum());
        assert!(late > early * 4, "{waits:?}");
        first_waits.insert(waits[0]);
    }
    assert_eq!(first_waits.len(), 3, "no two members wait alike: {first_waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_asked_again() {
    for (opens, reads) in [(1, 0), (0, 1)] {
        let waits = read_all("a", Fault::Silent, opens, reads).await.waits();
        let longest = waits.iter().max().unwrap();
        let expected = Duration::from_secs(120)..Duration::from_secs(121);
        assert!(expected.contains(longest), "{waits:?}");
    }
}
