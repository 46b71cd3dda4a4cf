//! A Kinesis stream: lists its shards and opens them for reading.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::types::{self, ShardFilterType};
use bytestring::ByteString;
use fastrand::Rng;
use lease_store::{HashKeyRange, SequenceNumber, ShardId, StoreError, StreamIdentity};
use shard_worker::{
    ReadFrom, Record, RecordSource, RetryPolicy, Shard, ShardEnd, ShardFilter, SourceError, SourceErrorKind,
    StreamDescription, StreamSource,
};
use tokio::time::{Instant, sleep};

use crate::call_notes::CallNotes;
use crate::connect::default_timeouts;
use crate::error::{Destination, source_error};
use crate::fan_out::{FanOut, FanOutSource};
use crate::get_records::{GetRecords, GetRecordsFormat};
use crate::polling::PollingSource;
use crate::read_pace::ReadRate;
use crate::service_time::to_system_time;
use crate::settings::DEFAULT_IDLE_TIME_BETWEEN_READS;

/// How many shards are asked for in one page (AWS: 1000 unless told otherwise).
const SHARDS_PER_PAGE: i32 = 1000;

/// The service tells the retention period in hours.
const SECONDS_PER_HOUR: u64 = 60 * 60;

/// The most pages of one listing, far above the shards of any stream: a bound for a server that never ends.
const MAX_PAGES: usize = 1000;

/// How one page is asked for again while the service says to slow down; the SDK repeats each attempt by itself too.
const PAGE_RETRY: RetryPolicy = RetryPolicy::exponential(Duration::from_millis(250), Duration::from_secs(5))
    .with_max_attempts(MAX_PAGE_ATTEMPTS);

/// How often one page is asked for.
const MAX_PAGE_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(7);

/// A Kinesis stream. Its shards are read by polling, five times in a second at the most, unless
/// [`with_retrieval`](Self::with_retrieval) says otherwise. Clones share the client.
#[derive(Debug, Clone)]
pub struct KinesisStream {
    client: Client,
    destination: Arc<Destination>,
    rng: Arc<Mutex<Rng>>,
    read_rate: ReadRate,
    /// `None`: the shards are polled.
    pub(crate) fan_out: Option<Arc<FanOut>>,
    get_records: GetRecords,
}

impl KinesisStream {
    /// A stream through a configured client. Time-outs that the client lacks are those of
    /// [`AwsSettings`](crate::AwsSettings): without them a call to a server that does not answer waits for ever.
    pub fn from_client(client: Client, stream_name: impl Into<String>) -> Self {
        let client = with_timeouts(client);
        let region = client.config().region().map(|region| region.as_ref().to_owned());
        let destination = Destination { stream_name: stream_name.into(), region, endpoint: OnceLock::new() };
        let format = GetRecordsFormat::default();
        Self {
            get_records: GetRecords::new(client.clone(), &destination.stream_name, format),
            client,
            destination: Arc::new(destination),
            rng: Arc::new(Mutex::new(fresh_rng())),
            read_rate: ReadRate {
                share_percent: 100,
                idle_time: DEFAULT_IDLE_TIME_BETWEEN_READS,
                max_idle_time: Duration::ZERO,
            },
            fan_out: None,
        }
    }

    /// How records are asked for and read; see [`GetRecordsFormat`]. All readers of the stream and its clones share what
    /// is learnt about the server, so this comes before the first shard is opened.
    #[must_use]
    pub fn with_get_records_format(mut self, format: GetRecordsFormat) -> Self {
        self.get_records = GetRecords::new(self.client.clone(), &self.destination.stream_name, format);
        self
    }

    /// How long a reader that is caught up waits between two reads of its shard; 1 s by default, and never less than
    /// AWS allows (200 ms).
    #[must_use]
    pub fn with_idle_time_between_reads(mut self, idle_time: Duration) -> Self {
        self.read_rate.idle_time = idle_time;
        self
    }

    /// While nothing comes, the idle time doubles from read to read up to this; by default it stays as it is.
    #[must_use]
    pub fn with_max_idle_time_between_reads(mut self, max_idle_time: Duration) -> Self {
        self.read_rate.max_idle_time = max_idle_time;
        self
    }

    /// How many of the five reads in a second and shard this stream takes, in percent (1 to 100); 100 by default. The rest
    /// is for other applications.
    #[must_use]
    pub fn with_read_share_percent(mut self, share_percent: u32) -> Self {
        self.read_rate.share_percent = share_percent;
        self
    }

    /// The same stream with this generator for its random waits, instead of a fresh one.
    #[must_use]
    pub fn with_rng(mut self, rng: Rng) -> Self {
        self.rng = Arc::new(Mutex::new(rng));
        self
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn get_records(&self) -> &GetRecords {
        &self.get_records
    }

    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// A generator for one of the parts.
    pub(crate) fn fork_rng(&self) -> Rng {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }

    pub(crate) fn read_rate(&self) -> ReadRate {
        self.read_rate
    }

    /// Keeps where a call went, for messages.
    pub(crate) fn note_endpoint(&self, notes: &CallNotes) {
        if let Some(endpoint) = notes.endpoint() {
            self.destination.endpoint.get_or_init(|| endpoint.clone());
        }
    }

    /// The error of a call to this stream.
    pub(crate) fn error<E>(&self, doing: &str, error: SdkError<E>) -> SourceError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        source_error(doing, &self.destination, error)
    }

    /// An answer or a request that is not what it must be.
    pub(crate) fn invalid(&self, what: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Invalid, format!("{what} ({})", self.destination))
    }

    /// A call that may succeed when it is made again.
    pub(crate) fn unavailable(&self, what: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, format!("{what} ({})", self.destination))
    }

    /// One page, asked for again while the service says to slow down.
    async fn page(
        &self,
        filter: &ShardFilter,
        token: Option<&str>,
        rng: &mut Rng,
    ) -> Result<ListShardsOutput, SourceError> {
        let mut delays = PAGE_RETRY.delays(rng.fork());
        loop {
            let request = self.client.list_shards();
            // The first page names the stream; a token stands for all of the request it came from, and AWS refuses it
            // together with anything else.
            let request = match token {
                None => request
                    .stream_name(&self.destination.stream_name)
                    .max_results(SHARDS_PER_PAGE)
                    .set_shard_filter(shard_filter(filter)),
                Some(token) => request.next_token(token),
            };
            let notes = CallNotes::default();
            let answer = request.customize().interceptor(notes.clone()).send().await;
            self.note_endpoint(&notes);
            let error = match answer {
                Ok(page) => return Ok(page),
                Err(error) => self.error("listing the shards", error),
            };
            // Other failures have had the SDK's retries; their caller decides.
            let delay = if error.kind() == SourceErrorKind::Throttled { delays.next() } else { None };
            let Some(delay) = delay else { return Err(error) };
            tracing::debug!(%error, ?delay, "asked to slow down while listing the shards");
            sleep(delay).await;
        }
    }

    fn convert(&self, shard: types::Shard) -> Result<Shard, SourceError> {
        let parents = [shard.parent_shard_id, shard.adjacent_parent_shard_id].into_iter().flatten();
        let end = shard.sequence_number_range.and_then(|range| range.ending_sequence_number);
        let is_closed = end.is_some_and(|end| !end.is_empty());
        self.shard(&shard.shard_id, parents, shard.hash_key_range.as_ref(), is_closed)
    }

    /// A shard as we see it, from its parts as AWS writes them. Empty names of parents are absent ones.
    pub(crate) fn shard(
        &self,
        shard_id: &str,
        parents: impl IntoIterator<Item = String>,
        hash_key_range: Option<&types::HashKeyRange>,
        is_closed: bool,
    ) -> Result<Shard, SourceError> {
        let convert = || -> Result<Shard, StoreError> {
            let parents = parents.into_iter().filter(|parent| !parent.is_empty()).map(ShardId::new);
            let hash_key_range = hash_key_range.map(|range| {
                HashKeyRange::new(range.starting_hash_key.parse()?, range.ending_hash_key.parse()?)
            });
            Ok(Shard {
                shard_id: ShardId::new(shard_id.to_owned())?,
                parents: parents.collect::<Result<_, _>>()?,
                hash_key_range: hash_key_range.transpose()?,
                is_closed,
            })
        };
        convert().map_err(|error| self.invalid(&format!("shard {shard_id:?}: {error}")).with_source(error))
    }

    /// A record as we see it; its payload is the buffer of the answer.
    pub(crate) fn record(&self, shard_id: &ShardId, record: types::Record) -> Result<Record, SourceError> {
        let sequence_number = SequenceNumber::new(record.sequence_number)
            .map_err(|error| self.invalid(&format!("a record of {shard_id}: {error}")).with_source(error))?;
        Ok(Record {
            sequence_number,
            sub_sequence_number: 0,
            partition_key: record.partition_key.filter(|key| !key.is_empty()).map(ByteString::from),
            data: record.data.into_bytes(),
            approximate_arrival: record.approximate_arrival_timestamp.and_then(to_system_time),
        })
    }

    /// The end of a shard, as the last answer of either way of reading tells it.
    pub(crate) fn shard_end(&self, children: Vec<types::ChildShard>) -> Result<ShardEnd, SourceError> {
        let convert = |child: types::ChildShard| {
            self.shard(&child.shard_id, child.parent_shards, child.hash_key_range.as_ref(), false)
        };
        Ok(ShardEnd { children: children.into_iter().map(convert).collect::<Result<_, _>>()? })
    }
}

#[async_trait]
impl StreamSource for KinesisStream {
    fn stream_name(&self) -> &str {
        &self.destination.stream_name
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        let request = self.client.describe_stream_summary().stream_name(&self.destination.stream_name);
        let notes = CallNotes::default();
        let asked_at = Instant::now();
        let answer = request.customize().interceptor(notes.clone()).send().await;
        self.note_endpoint(&notes);
        let answer = answer.map_err(|error| self.error("describing the stream", error))?;
        let summary = answer
            .stream_description_summary
            .ok_or_else(|| self.unavailable("the description of the stream came back empty"))?;
        let created_at = to_system_time(summary.stream_creation_timestamp);
        let created_at = created_at.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let created_at =
            created_at.ok_or_else(|| self.invalid("the stream says that it was created before 1970"))?;
        // The date is cut to the second below, and from the end of the call at the latest.
        let now = notes.date().and_then(|date| date.checked_sub(asked_at.elapsed()));
        let retention = u64::try_from(summary.retention_period_hours).ok().filter(|hours| *hours > 0);
        let retention = retention.map(|hours| Duration::from_secs(hours * SECONDS_PER_HOUR));
        let identity =
            StreamIdentity { arn: summary.stream_arn, creation_epoch_seconds: created_at.as_secs() };
        Ok(StreamDescription { identity, now, retention })
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        let mut rng = self.fork_rng();
        let mut shards = Vec::new();
        let mut tokens = BTreeSet::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(filter, token.as_deref(), &mut rng).await?;
            for shard in page.shards.unwrap_or_default() {
                shards.push(self.convert(shard)?);
            }
            let Some(next) = page.next_token.filter(|next| !next.is_empty()) else { return Ok(shards) };
            if !tokens.insert(next.clone()) {
                return Err(
                    self.invalid("the listing of the shards goes in a circle: a NextToken came twice")
                );
            }
            token = Some(next);
        }
        Err(self.invalid(&format!("the listing of the shards does not end after {MAX_PAGES} pages")))
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        let (stream, shard_id, from) = (self.clone(), shard_id.clone(), from.clone());
        Ok(match &self.fan_out {
            None => Box::new(PollingSource::new(stream, shard_id, from)),
            Some(fan_out) => Box::new(FanOutSource::new(stream, fan_out.clone(), shard_id, from)),
        })
    }
}

/// The same client, with time-outs where it has none.
fn with_timeouts(client: Client) -> Client {
    let own = client.config().timeout_config().cloned();
    let mut timeouts = own.clone().unwrap_or_else(|| TimeoutConfig::builder().build());
    timeouts.take_defaults_from(&default_timeouts());
    if own.as_ref() == Some(&timeouts) {
        return client;
    }
    Client::from_conf(client.config().to_builder().timeout_config(timeouts).build())
}

/// How the service is told which shards to list. AWS takes no filter together with a token.
fn shard_filter(filter: &ShardFilter) -> Option<types::ShardFilter> {
    let builder = types::ShardFilter::builder();
    let builder = match filter {
        ShardFilter::All => return None,
        ShardFilter::Open => builder.r#type(ShardFilterType::AtLatest),
        ShardFilter::OpenSince(instant) => {
            builder.r#type(ShardFilterType::FromTimestamp).timestamp((*instant).into())
        }
        ShardFilter::After(shard_id) => {
            builder.r#type(ShardFilterType::AfterShardId).shard_id(shard_id.as_str())
        }
    };
    // Only the type is mandatory, and it is there.
    builder.build().ok()
}

/// The one place where randomness enters from outside.
#[allow(clippy::disallowed_methods)]
fn fresh_rng() -> Rng {
    Rng::new()
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::config::{BehaviorVersion, Config, Region};

    use super::*;

    #[test]
    fn a_client_without_time_outs_gets_them_and_its_own_are_kept() {
        let own = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(7)).build();
        for (given, attempt) in [(None, Duration::from_secs(10)), (Some(own), Duration::from_millis(7))] {
            let mut config = Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-west-1"));
            config.set_timeout_config(given);
            let stream = KinesisStream::from_client(Client::from_conf(config.build()), "words");
            let timeouts = stream.client().config().timeout_config().unwrap();
            assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(3)));
            assert_eq!(timeouts.operation_attempt_timeout(), Some(attempt));
            assert_eq!(timeouts.operation_timeout(), Some(Duration::from_secs(30)));
        }
    }
}
