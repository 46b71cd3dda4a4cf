//! A Kinesis stream in memory: write, split, merge, throttle, trim.
//!
//! It is made for demonstrations and for tests of applications. Towards a consumer it behaves like Kinesis, at memory speed
//! and under the control of a paused clock.

mod reader;
mod topology;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use bytestring::ByteString;
use lease_store::{BoxError, HashKey, SequenceNumber, ShardId, StreamIdentity};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use self::reader::InMemoryReader;
use self::topology::{ReadLimits, Slice, Topology};
use crate::aggregation::hash_filter::hash_key_of;
use crate::error::{SourceError, SourceErrorKind};
use crate::failure::dead_letter::{DeadLetter, DeadLetterSink};
use crate::shard::Shard;
use crate::source::{
    ReadFrom, RecordDistribution, RecordSource, ShardFilter, StreamDescription, StreamSource,
};

/// The default capacity of a stream, in bytes of payload and keys.
const DEFAULT_CAPACITY_BYTES: usize = 256 * 1024 * 1024;

/// The most records of one read (Kinesis API: `GetRecords`).
const MAX_BATCH_RECORDS: usize = 10_000;

/// The most bytes of one read, counted in memory (Kinesis API: 10 MiB of payload). A larger record is read alone.
const MAX_BATCH_BYTES: u64 = 10 * 1024 * 1024;

/// The wall clock of a stream at its creation: 2026-01-01, in seconds since 1970. Arrival times count from here by the
/// runtime's clock, so that a paused runtime controls them.
const EPOCH_SECONDS: u64 = 1_767_225_600;

/// The default of the reported retention period (that of Kinesis).
const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// A stream in memory. Clones are the same stream.
///
/// ```
/// # fn main() -> Result<(), shard_worker::SourceError> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # let _guard = runtime.enter();
/// use std::num::NonZeroUsize;
/// use shard_worker::InMemoryStream;
///
/// let stream = InMemoryStream::new("clicks", NonZeroUsize::MIN);
/// let (shard_id, _) = stream.put("user-17", "a click")?;
/// let children = stream.split(&shard_id)?;
/// assert_eq!(stream.open_shards(), children);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct InMemoryStream {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    created_at: Instant,
    /// The time of the creation by the stream's own wall clock, in seconds since 1970.
    creation_epoch_seconds: u64,
    state: Mutex<State>,
    /// Counts the changes, so that waiting readers notice them.
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    topology: Topology,
    max_batch_records: usize,
    retention: Option<Duration>,
    distribution: Option<RecordDistribution>,
    /// How the next reads fail, and how many of them.
    failing_reads: Option<(SourceErrorKind, u32)>,
}

impl InMemoryStream {
    /// A stream whose shards cover equal parts of the hash-key space.
    pub fn new(name: impl Into<String>, shard_count: NonZeroUsize) -> Self {
        Self::with_capacity(name, shard_count, DEFAULT_CAPACITY_BYTES)
    }

    /// A stream that holds at most `capacity_bytes` of payload and keys; further writes are throttled.
    pub fn with_capacity(name: impl Into<String>, shard_count: NonZeroUsize, capacity_bytes: usize) -> Self {
        Self::created_at(name.into(), shard_count, capacity_bytes, EPOCH_SECONDS)
    }

    /// An empty stream of the same name, as if this one was deleted and created again: another stream.
    #[must_use]
    pub fn recreated(&self, shard_count: NonZeroUsize) -> Self {
        let creation_epoch_seconds =
            self.shared.creation_epoch_seconds + 1 + self.shared.created_at.elapsed().as_secs();
        Self::created_at(
            self.shared.name.clone(),
            shard_count,
            DEFAULT_CAPACITY_BYTES,
            creation_epoch_seconds,
        )
    }

    fn created_at(
        name: String,
        shard_count: NonZeroUsize,
        capacity_bytes: usize,
        creation_epoch_seconds: u64,
    ) -> Self {
        let state = State {
            topology: Topology::new(shard_count, capacity_bytes),
            max_batch_records: MAX_BATCH_RECORDS,
            distribution: None,
            retention: Some(DEFAULT_RETENTION),
            failing_reads: None,
        };
        Self {
            shared: Arc::new(Shared {
                name,
                created_at: Instant::now(),
                creation_epoch_seconds,
                state: Mutex::new(state),
                version: watch::channel(0).0,
            }),
        }
    }

    /// Writes a record to the shard that covers the MD5 digest of its partition key, as Kinesis does.
    ///
    /// # Errors
    /// `Throttled` when the stream is full.
    pub fn put(
        &self,
        partition_key: impl Into<ByteString>,
        data: impl Into<Bytes>,
    ) -> Result<(ShardId, SequenceNumber), SourceError> {
        let partition_key = partition_key.into();
        self.put_with_hash_key(hash_key_of(&partition_key), Some(partition_key), data)
    }

    /// Writes a record to the shard that covers a hash key, with or without a partition key.
    ///
    /// # Errors
    /// `Throttled` when the stream is full.
    pub fn put_with_hash_key(
        &self,
        hash_key: HashKey,
        partition_key: Option<impl Into<ByteString>>,
        data: impl Into<Bytes>,
    ) -> Result<(ShardId, SequenceNumber), SourceError> {
        let arrival = self.now();
        let (partition_key, data) = (partition_key.map(Into::into), data.into());
        self.change(|state| state.topology.put(hash_key, partition_key, data, arrival))
    }

    /// Splits an open shard in the middle of its range.
    ///
    /// # Errors
    /// `ShardNotFound`, or `Invalid` when the shard is closed or too narrow.
    pub fn split(&self, shard_id: &ShardId) -> Result<[ShardId; 2], SourceError> {
        let now = self.now();
        self.change(|state| state.topology.split(shard_id, None, now))
    }

    /// Splits an open shard so that the second child starts at a hash key.
    ///
    /// # Errors
    /// `ShardNotFound`, or `Invalid` when the shard is closed or does not cover the key.
    pub fn split_at(&self, shard_id: &ShardId, start: HashKey) -> Result<[ShardId; 2], SourceError> {
        let now = self.now();
        self.change(|state| state.topology.split(shard_id, Some(start), now))
    }

    /// Merges two open shards that lie side by side.
    ///
    /// # Errors
    /// `ShardNotFound`, or `Invalid` when one is closed or they do not lie side by side.
    pub fn merge(&self, one: &ShardId, other: &ShardId) -> Result<ShardId, SourceError> {
        let now = self.now();
        self.change(|state| state.topology.merge(one, other, now))
    }

    /// Removes records older than `age`, and closed shards that are empty then, as at the end of the retention period.
    pub fn trim_older_than(&self, age: Duration) {
        let instant = self.now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        self.change(|state| state.topology.trim_arrived_before(instant));
    }

    /// Sets the retention period that [`describe`](StreamSource::describe) reports; the default is a day, and `None` reports
    /// none. Records are removed only by [`trim_older_than`](Self::trim_older_than).
    pub fn set_retention(&self, retention: Option<Duration>) {
        self.change(|state| state.retention = retention);
    }

    /// Sets the reported distribution of records; by default none is reported. With [`RecordDistribution::Automatic`], write with
    /// [`put_with_hash_key`](Self::put_with_hash_key) and any hash key, as the service does.
    pub fn set_distribution(&self, distribution: Option<RecordDistribution>) {
        self.change(|state| state.distribution = distribution);
    }

    /// Makes the next `reads` reads answer `Throttled`.
    pub fn throttle_reads(&self, reads: u32) {
        self.fail_reads(SourceErrorKind::Throttled, reads);
    }

    /// Makes the next `reads` reads fail.
    pub fn fail_reads(&self, kind: SourceErrorKind, reads: u32) {
        self.change(|state| state.failing_reads = Some((kind, reads)));
    }

    /// Sets the most records that one read returns; the default is 10,000.
    pub fn set_max_batch_records(&self, max_batch_records: NonZeroUsize) {
        self.change(|state| state.max_batch_records = max_batch_records.get());
    }

    /// The shards that take records, in the order of their creation.
    pub fn open_shards(&self) -> Vec<ShardId> {
        self.state().topology.open_shards()
    }

    /// How many records the stream holds.
    pub fn record_count(&self) -> usize {
        self.state().topology.record_count()
    }

    fn now(&self) -> SystemTime {
        let created_at = Duration::from_secs(self.shared.creation_epoch_seconds);
        SystemTime::UNIX_EPOCH + created_at + self.shared.created_at.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.shared.version.send_modify(|version| *version += 1);
        changed
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// The memory of the next read, in bytes; `None`: there is nothing to read. It does not count as a read.
    fn next_read_bytes(&self, shard_id: &ShardId, after: Option<&SequenceNumber>) -> Option<u64> {
        let state = self.state();
        if matches!(state.failing_reads, Some((_, 1..))) {
            return Some(0);
        }
        let limits = ReadLimits { records: state.max_batch_records, bytes: MAX_BATCH_BYTES };
        state.topology.next_read_bytes(shard_id, after, limits)
    }

    fn read(
        &self,
        shard_id: &ShardId,
        after: Option<&SequenceNumber>,
        max_bytes: u64,
    ) -> Result<Slice, SourceError> {
        let mut state = self.state();
        if let Some((kind, reads @ 1..)) = state.failing_reads {
            state.failing_reads = Some((kind, reads - 1));
            return Err(SourceError::new(kind, format!("injected: {kind:?}")));
        }
        state.topology.read(
            shard_id,
            after,
            ReadLimits { records: state.max_batch_records, bytes: max_bytes },
        )
    }
}

#[async_trait]
impl StreamSource for InMemoryStream {
    fn stream_name(&self) -> &str {
        &self.shared.name
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        let identity = StreamIdentity {
            arn: format!("arn:aws:kinesis:in-memory:000000000000:stream/{}", self.shared.name),
            creation_epoch_seconds: self.shared.creation_epoch_seconds,
        };
        let (retention, distribution) = {
            let state = self.state();
            (state.retention, state.distribution)
        };
        Ok(StreamDescription { identity, now: Some(self.now()), retention, distribution })
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        Ok(self.state().topology.list(filter))
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        let after = self.state().topology.resolve(shard_id, from)?;
        Ok(Box::new(InMemoryReader {
            stream: self.clone(),
            shard_id: shard_id.clone(),
            after,
            announced: None,
        }))
    }

    fn shard_started_at(&self, shard_id: &ShardId, _record: &SequenceNumber) -> Option<SystemTime> {
        self.state().topology.started_at(shard_id)
    }
}

/// Puts each letter as JSON into a stream in memory, with the partition key of the record.
#[async_trait]
impl DeadLetterSink for InMemoryStream {
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let key = letter.record.partition_key.as_deref().unwrap_or(letter.shard_id.as_str());
        InMemoryStream::put(self, key.to_owned(), letter.to_json()?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(shard_count: usize) -> InMemoryStream {
        InMemoryStream::new("test", NonZeroUsize::new(shard_count).unwrap())
    }

    async fn open(stream: &InMemoryStream, shard_id: &ShardId, from: ReadFrom) -> Box<dyn RecordSource> {
        stream.open(shard_id, &from).await.unwrap()
    }

    async fn texts(reader: &mut Box<dyn RecordSource>) -> Vec<String> {
        let batch = reader.next_batch().await.unwrap();
        batch.records.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_goes_to_the_shard_of_its_digest() {
        let stream = stream(16);
        // MD5("a") = 0cc175b9c0f1b6a831c399e269772661, in the first sixteenth; MD5("") = d41d8cd9..., in the 14th.
        assert_eq!(stream.put("a", "x").unwrap().0.as_str(), "shardId-000000000000");
        assert_eq!(stream.put("", "x").unwrap().0.as_str(), "shardId-000000000013");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_wakes_readers_and_cancelled_reads_lose_nothing() {
        let stream = stream(1);
        let shard_id = stream.open_shards().swap_remove(0);
        let mut reader = open(&stream, &shard_id, ReadFrom::TrimHorizon).await;
        let cancelled = tokio::time::timeout(Duration::from_millis(10), reader.next_batch()).await;
        assert!(cancelled.is_err());
        let writer = stream.clone();
        let written = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            writer.put("k", "late").unwrap();
        });
        let before = Instant::now();
        assert_eq!(texts(&mut reader).await, ["late"]);
        assert_eq!(before.elapsed(), Duration::from_millis(100));
        written.await.unwrap();
        assert_eq!(texts(&mut reader).await, [] as [&str; 0], "an idle reader answers, too");
        assert_eq!(before.elapsed(), Duration::from_millis(1100));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_names_the_children_and_is_reported_again() {
        let stream = stream(1);
        let parent = stream.open_shards().swap_remove(0);
        let children = stream.split(&parent).unwrap();
        let mut reader = open(&stream, &parent, ReadFrom::TrimHorizon).await;
        for _ in 0..2 {
            let batch = reader.next_batch().await.unwrap();
            let named: Vec<ShardId> =
                batch.shard_end.unwrap().children.into_iter().map(|s| s.shard_id).collect();
            assert_eq!(named, children);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_starts_at_the_requested_position() {
        let stream = stream(1);
        let shard_id = stream.open_shards().swap_remove(0);
        let mut numbers = Vec::new();
        for text in ["0", "1", "2"] {
            numbers.push(stream.put("k", text).unwrap().1);
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS + 10);
        for (from, expected) in [
            (ReadFrom::TrimHorizon, vec!["0", "1", "2"]),
            (ReadFrom::At(numbers[1].clone()), vec!["1", "2"]),
            (ReadFrom::AtTimestamp(second), vec!["1", "2"]),
        ] {
            assert_eq!(texts(&mut open(&stream, &shard_id, from).await).await, expected);
        }
        let mut latest = open(&stream, &shard_id, ReadFrom::Latest).await;
        stream.put("k", "3").unwrap();
        assert_eq!(texts(&mut latest).await, ["3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lag_is_the_age_of_the_unread_records() {
        let stream = stream(1);
        stream.set_max_batch_records(NonZeroUsize::MIN);
        let shard_id = stream.open_shards().swap_remove(0);
        stream.put("k", "0").unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        stream.put("k", "1").unwrap();
        let mut reader = open(&stream, &shard_id, ReadFrom::TrimHorizon).await;
        assert_eq!(reader.next_batch().await.unwrap().millis_behind_latest, Some(3000));
        assert_eq!(reader.next_batch().await.unwrap().millis_behind_latest, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_reads_skip_nothing() {
        let stream = stream(1);
        let shard_id = stream.open_shards().swap_remove(0);
        stream.put("k", "0").unwrap();
        let mut reader = open(&stream, &shard_id, ReadFrom::TrimHorizon).await;
        stream.throttle_reads(2);
        for _ in 0..2 {
            assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Throttled);
        }
        assert_eq!(texts(&mut reader).await, ["0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn trimmed_shards_are_gone_and_trimmed_positions_move() {
        let stream = stream(1);
        let parent = stream.open_shards().swap_remove(0);
        let (_, trimmed) = stream.put("k", "0").unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        stream.put("k", "1").unwrap();
        stream.trim_older_than(Duration::from_secs(5));
        let mut reader = open(&stream, &parent, ReadFrom::At(trimmed)).await;
        assert_eq!(texts(&mut reader).await, ["1"]);
        stream.split(&parent).unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        stream.trim_older_than(Duration::from_secs(5));
        assert_eq!(stream.list_shards(&ShardFilter::All).await.unwrap().len(), 2);
        let gone = stream.open(&parent, &ReadFrom::TrimHorizon).await.unwrap_err();
        assert_eq!(gone.kind(), SourceErrorKind::ShardNotFound);
        assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::ShardNotFound);
    }
}
