//! A Kinesis stream: lists its shards and opens each one for polling or for fan-out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_smithy_http_client::tls::TlsContext;
use fastrand::Rng;
use lease_store::{Position, SequenceNumber, ShardId};
use shard_worker::{
    ReadFrom, RecordSource, Shard, ShardFilter, SourceError, StreamDescription, StreamSource,
};

use crate::fan_out::consumer::StreamConsumer;
use crate::fan_out::settings::RetrievalMode;
use crate::fan_out::shared::FanOut;
use crate::fan_out::source::FanOutSource;
use crate::fan_out::status::FanOutStatus;
use crate::first_record::{self, FirstRecord};
use crate::get_records::format::GetRecordsFormat;
use crate::polling::PollingSource;
use crate::read_counts::ReadCounts;
use crate::sequence_layout::{arrival_of, shard_start_of};
use crate::stream_client::StreamClient;
use crate::stream_summary::StreamSummary;

/// A Kinesis stream. Its shards are polled, at most five times a second each; [`with_retrieval`](Self::with_retrieval)
/// switches to enhanced fan-out. Clones share the client.
#[derive(Debug, Clone)]
pub struct KinesisStream {
    client: StreamClient,
    /// `None`: the shards are polled.
    fan_out: Option<Arc<FanOut>>,
}

impl KinesisStream {
    /// A stream read through a configured client. A client without time-outs gets those of
    /// [`AwsSettings`](crate::AwsSettings); otherwise a call to a server that never answers would wait for ever.
    ///
    /// The stream is given by its name or by its ARN. With an ARN that is not valid, or not in the region of the client, every
    /// call fails with `Invalid`, and no request is sent. A client without a region gets that of the ARN.
    pub fn from_client(client: Client, stream: impl Into<String>) -> Self {
        Self { client: StreamClient::new(client, stream.into()), fan_out: None }
    }

    /// The encoding of `GetRecords`; see [`GetRecordsFormat`]. Set it before the first shard is opened: readers of the stream
    /// and of its clones share what the earlier calls showed about the server.
    #[must_use]
    pub fn with_get_records_format(mut self, format: GetRecordsFormat) -> Self {
        self.client.set_get_records_format(format);
        self
    }

    /// How long a reader at the tip waits between two reads of its shard: 1 s by default. Values below the 200 ms that AWS
    /// allows have the effect of 200 ms.
    #[must_use]
    pub fn with_idle_time_between_reads(mut self, idle_time: Duration) -> Self {
        self.client.read_rate_mut().idle_time = idle_time;
        self
    }

    /// Doubles the idle time after each empty read, up to this. By default the idle time does not grow.
    #[must_use]
    pub fn with_max_idle_time_between_reads(mut self, max_idle_time: Duration) -> Self {
        self.client.read_rate_mut().max_idle_time = max_idle_time;
        self
    }

    /// The share of a shard's five reads a second that this stream uses, in percent (1 to 100); 100 by default. The rest is
    /// left to other applications.
    #[must_use]
    pub fn with_read_share_percent(mut self, share_percent: u32) -> Self {
        self.client.read_rate_mut().share_percent = share_percent;
        self
    }

    /// Reads five answers a second, whatever their size. By default the bytes of an answer delay the next read of its shard,
    /// because AWS refuses reads beyond 2 MB a second and shard. A server without that limit needs no such delay.
    #[must_use]
    pub fn without_byte_limit(mut self) -> Self {
        self.client.read_rate_mut().counts_bytes = false;
        self
    }

    /// Draws the random waits from this generator instead of a fresh one.
    #[must_use]
    pub fn with_rng(mut self, rng: Rng) -> Self {
        self.client.set_rng(rng);
        self
    }

    /// The same stream, read by polling or by enhanced fan-out. Clones made afterwards share the consumer.
    ///
    /// The mode is not checked here: [`RetrievalMode::faults`] lists its faults, and
    /// [`KinesisAsl::connect`](crate::KinesisAsl::connect) refuses a mode that has any.
    #[must_use]
    pub fn with_retrieval(mut self, mode: RetrievalMode) -> Self {
        self.fan_out = match mode {
            RetrievalMode::Polling => None,
            RetrievalMode::FanOut(settings) => Some(Arc::new(FanOut::new(settings, self.client.fork_rng()))),
        };
        self
    }

    /// Another stream, read as this one: with its pace and its retrieval mode. With enhanced fan-out it has a consumer of its own,
    /// of the same name.
    pub(crate) fn another(&self, client: Client, stream: String) -> Self {
        let another = Self { client: self.client.another(client, stream), fan_out: None };
        let another = another.with_retrieval(self.retrieval());
        if let (Some(this), Some(other)) = (&self.fan_out, &another.fan_out) {
            other.connections().trust_as(this.connections());
        }
        another
    }

    /// Trusts these certificates instead of the system's in the subscriptions, as the HTTP client of the client does.
    pub(crate) fn trust_in_subscriptions(&self, certificates: TlsContext) {
        if let Some(fan_out) = &self.fan_out {
            fan_out.connections().trust(certificates);
        }
    }

    /// Whether the stream is polled or read by enhanced fan-out.
    pub fn retrieval(&self) -> RetrievalMode {
        match &self.fan_out {
            None => RetrievalMode::Polling,
            Some(fan_out) => RetrievalMode::FanOut(fan_out.settings().clone()),
        }
    }

    /// Registers the consumer if it is missing, and waits up to 60 s until it is active. `None`: the stream is polled.
    ///
    /// Calling this is optional, since reading the first shard does the same. It lets a program log its consumer at start-up,
    /// or fail early.
    ///
    /// # Errors
    /// `Invalid` when the consumer of a given ARN does not exist, or the ARN of the stream is not valid; `Unavailable` when it does not become active in time, or
    /// the stream has reached its limit of consumers; the errors of the calls.
    pub async fn ensure_consumer(&self) -> Result<Option<StreamConsumer>, SourceError> {
        self.client.destination().check()?;
        match &self.fan_out {
            None => Ok(None),
            Some(fan_out) => Ok(Some(fan_out.registration().ensure(&self.client).await?)),
        }
    }

    /// Deregisters the consumer and returns `true`, if [`deregister_at_end`](crate::FanOutSettings::deregister_at_end) is set
    /// and this value or a clone of it registered the consumer; otherwise returns `false`.
    ///
    /// Call it after the last receiver of this process has ended. Other processes that still use the consumer are
    /// interrupted, and register it again.
    ///
    /// # Errors
    /// The errors of the call; the consumer may then still exist.
    pub async fn end_retrieval(&self) -> Result<bool, SourceError> {
        match &self.fan_out {
            Some(fan_out) if fan_out.settings().deregister_at_end => {
                fan_out.registration().deregister(&self.client).await
            }
            _ => Ok(false),
        }
    }

    /// Counts of the `GetRecords` calls of this stream and its clones in this process.
    pub fn read_counts(&self) -> ReadCounts {
        self.client.get_records().counts()
    }

    /// Counts of this process's subscriptions; `None`: the stream is polled.
    pub fn fan_out_status(&self) -> Option<FanOutStatus> {
        self.fan_out.as_ref().map(|fan_out| fan_out.status())
    }

    /// What the service reports about the stream in one call: more than a worker needs, for programs that watch it.
    ///
    /// # Errors
    /// As [`describe`](StreamSource::describe).
    pub async fn summary(&self) -> Result<StreamSummary, SourceError> {
        self.client.summary().await
    }

    /// The first record after a stored position, by at most [`MAX_READS_PER_PROBE`](crate::MAX_READS_PER_PROBE) reads of one record
    /// each. `instant` is the instant of a position `AT_TIMESTAMP` or `LATEST`. `None`: the position names no place in the
    /// shard, because it lacks its instant or is the end of the shard.
    ///
    /// Tells how far a worker of any library is behind, at the cost of one record.
    ///
    /// # Errors
    /// `Denied`, `Throttled`, `ShardNotFound` and the other errors of reading. No call is repeated after a failure.
    pub async fn first_record(
        &self,
        shard_id: &ShardId,
        position: &Position,
        instant: Option<SystemTime>,
    ) -> Result<Option<FirstRecord>, SourceError> {
        first_record::after(&self.client, shard_id, position, instant).await
    }

    /// When a record arrived, by its sequence number, to the second. `None`: the number has an unknown layout. Makes no call.
    pub fn arrived_at(&self, record: &SequenceNumber) -> Option<SystemTime> {
        arrival_of(record)
    }

    /// All registered consumers of the stream, from all pages, including those of other applications. A consumer that no
    /// process uses still costs money and counts towards the limit of the stream.
    ///
    /// # Errors
    /// `StreamNotFound`, `Denied`, `Throttled` or `Unavailable`; `Invalid` when the pages never end.
    pub async fn list_consumers(&self) -> Result<Vec<StreamConsumer>, SourceError> {
        self.client.list_consumers().await
    }
}

#[async_trait]
impl StreamSource for KinesisStream {
    fn stream_name(&self) -> &str {
        self.client.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.client.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.client.list_shards(filter).await
    }

    fn shard_started_at(&self, _shard_id: &ShardId, record: &SequenceNumber) -> Option<SystemTime> {
        shard_start_of(record)
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        self.client.destination().check()?;
        let (client, shard_id, from) = (self.client.clone(), shard_id.clone(), from.clone());
        Ok(match &self.fan_out {
            None => Box::new(PollingSource::new(client, shard_id, from)),
            Some(fan_out) => Box::new(FanOutSource::new(client, fan_out.clone(), shard_id, from)),
        })
    }
}
