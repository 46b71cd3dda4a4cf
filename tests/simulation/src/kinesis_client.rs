//! The stream as one process sees it: latency, throttling, expired iterators, empty pages, ends without children.

use std::time::SystemTime;

use async_trait::async_trait;
use lease_store::{SequenceNumber, ShardId, StreamIdentity};
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, ShardEnd, ShardFilter, SourceError, SourceErrorKind,
    StreamDescription, StreamSource,
};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use crate::account::AccountCall;
use crate::event::{EventKind, FIRST_CREATION_EPOCH, Process, STREAM_ARN, record_number, shard_of_life};
use crate::kinesis::Kinesis;
use crate::network::{CallFault, Destination, Link};
use crate::plan::Defect;

/// Longest wait of a reader for records.
const IDLE_ANSWER_INTERVAL: Duration = Duration::from_secs(5);

/// Least time between two reads of a shard (Kinesis API: five reads per second).
const MIN_READ_INTERVAL: Duration = Duration::from_millis(200);

/// Largest number of records of one read.
const MAX_PAGE_RECORDS: usize = 50;

/// The stream as one process sees it.
#[derive(Debug, Clone)]
pub struct KinesisClient {
    /// The stream.
    pub kinesis: Kinesis,
    /// The network link of the process.
    pub link: Link,
    /// The process.
    pub process: Process,
    /// The seeded defect, if any.
    pub defect: Option<Defect>,
}

fn failed(kind: SourceErrorKind, why: &str) -> SourceError {
    SourceError::new(kind, format!("simulated: {why}"))
}

impl KinesisClient {
    /// How many times the stream was created again.
    fn life(&self) -> Result<u32, SourceError> {
        self.kinesis.life().ok_or_else(|| failed(SourceErrorKind::StreamNotFound, "there is no such stream"))
    }

    /// Makes one call. Returns whether its answer is an empty page.
    async fn call(&self) -> Result<bool, SourceError> {
        self.link.wait_while_paused().await;
        let rates = self.kinesis.fault_rates.now();
        let is_partitioned = self.link.is_partitioned(Destination::Stream);
        let fault = self.link.draw_fault(Destination::Stream, rates);
        if is_partitioned {
            self.link.wait_for_timeout().await;
            return Err(failed(SourceErrorKind::Unavailable, "no answer"));
        }
        self.link.wait_latency(rates).await;
        self.link.wait_while_paused().await;
        match fault {
            CallFault::Throttled => Err(failed(SourceErrorKind::Throttled, "throttled")),
            CallFault::Unavailable => Err(failed(SourceErrorKind::Unavailable, "unavailable")),
            CallFault::RequestLost => Err(failed(SourceErrorKind::Unavailable, "the iterator has expired")),
            CallFault::AnswerLost => Ok(true),
            CallFault::None | CallFault::Delayed => Ok(false),
        }
    }
}

#[async_trait]
impl StreamSource for KinesisClient {
    fn stream_name(&self) -> &str {
        "simulated"
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.call().await?;
        let is_refused = self.defect == Some(Defect::DescriptionsRefused);
        if is_refused || !self.kinesis.allows(AccountCall::Describe) {
            return Err(failed(SourceErrorKind::Throttled, "the account describes too many streams"));
        }
        let life = self.life()?;
        self.kinesis.observer.record(EventKind::StreamDescribed { process: self.process, life });
        let shown = if self.defect == Some(Defect::IdentityStays) { 0 } else { life };
        let identity = StreamIdentity {
            arn: STREAM_ARN.to_owned(),
            creation_epoch_seconds: FIRST_CREATION_EPOCH + u64::from(shown),
        };
        // The real service reports its time in a response header, in whole seconds.
        let clock = self.kinesis.clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(clock.as_secs());
        let mut description = StreamDescription::new(identity);
        description.now = Some(now);
        Ok(description)
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.call().await?;
        if !self.kinesis.allows(AccountCall::ListShards) {
            return Err(failed(SourceErrorKind::Throttled, "the account lists too many shards"));
        }
        self.life()?;
        Ok(self.kinesis.list(filter))
    }

    fn shard_started_at(&self, shard_id: &ShardId, _record: &SequenceNumber) -> Option<SystemTime> {
        self.kinesis.started_at(shard_of_life(self.life().ok()?, shard_id))
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        self.call().await?;
        let shard = shard_of_life(self.life()?, shard_id);
        if let ReadFrom::At(number) = from
            && !self.kinesis.is_of_this_life(record_number(number))
        {
            return Err(failed(SourceErrorKind::Invalid, "the sequence number is not of this stream"));
        }
        if let ReadFrom::AtTimestamp(time) = from
            && *time > self.kinesis.clock()
        {
            // Kinesis: "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis."
            return Err(failed(SourceErrorKind::Invalid, "the timestamp is in the future"));
        }
        let after = match from {
            ReadFrom::TrimHorizon => Some(0),
            ReadFrom::Latest => Some(self.kinesis.newest()),
            ReadFrom::AtTimestamp(_) if self.defect == Some(Defect::TimestampsIgnored) => Some(0),
            ReadFrom::AtTimestamp(time) => self.kinesis.last_before(shard, *time),
            ReadFrom::At(number) => Some(record_number(number).saturating_sub(1)),
        };
        let known = after.filter(|_| self.kinesis.changes(shard).is_some());
        let Some(after) = known else {
            return Err(failed(SourceErrorKind::ShardNotFound, "no such shard"));
        };
        Ok(Box::new(Reader { client: self.clone(), shard, after }))
    }
}

#[derive(Debug)]
struct Reader {
    client: KinesisClient,
    shard: u32,
    after: u64,
}

#[async_trait]
impl RecordSource for Reader {
    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let client = self.client.clone();
        sleep(MIN_READ_INTERVAL + Duration::from_millis(client.link.draw(300))).await;
        if client.call().await? {
            return Ok(FetchedBatch::new(Vec::new(), Some(1000)));
        }
        let deadline = Instant::now() + IDLE_ANSWER_INTERVAL;
        loop {
            let removed = || failed(SourceErrorKind::ShardNotFound, "retention removed the shard");
            let changed = client.kinesis.changes(self.shard).ok_or_else(removed)?;
            // Registered before the read, so that no change between the read and the wait is missed.
            let change = changed.notified();
            let page = client.kinesis.read(self.shard, self.after, MAX_PAGE_RECORDS).ok_or_else(removed)?;
            if !page.records.is_empty() || page.end.is_some() || Instant::now() >= deadline {
                return Ok(self.answer(page));
            }
            let _ = timeout_at(deadline, change).await;
            client.link.wait_while_paused().await;
            if client.link.is_partitioned(Destination::Stream) {
                return Err(failed(SourceErrorKind::Unavailable, "no answer"));
            }
        }
    }
}

impl Reader {
    fn answer(&mut self, page: crate::kinesis::Page) -> FetchedBatch {
        let client = &self.client;
        if let Some((last, _)) = page.records.last() {
            self.after = *last;
        }
        if !page.records.is_empty() || page.end.is_some() {
            client.kinesis.observer.record(EventKind::RecordsRead {
                process: client.process,
                shard: self.shard,
                count: page.records.len(),
                is_end: page.end.is_some(),
            });
        }
        let mut records: Vec<_> = page.records.into_iter().map(|(_, record)| record).collect();
        if client.defect == Some(Defect::StreamSkips) && records.len() > 1 {
            records.remove(0);
        }
        let shard_end = page.end.map(|children| {
            // The API does not always name the children.
            let is_silent = client.link.draw(4) == 0;
            ShardEnd::new(if is_silent { Vec::new() } else { children })
        });
        FetchedBatch::new(records, Some(0)).with_end(shard_end)
    }
}
