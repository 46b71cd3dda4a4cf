//! The calls that polling and fan-out share: describing a stream, listing its shards, and converting the SDK's types and errors.
//!
//! Knows nothing about how records are read; [`KinesisStream`](crate::KinesisStream) chooses between polling and fan-out.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Region;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::types::{self, ShardFilterType};
use fastrand::Rng;
use lease_store::{HashKeyRange, ShardId, StoreError, StreamIdentity};
use shard_worker::{
    RecordDistribution, RetryPolicy, Shard, ShardEnd, ShardFilter, SourceError, SourceErrorKind,
    StreamDescription,
};
use tokio::time::{Instant, sleep};

use crate::error::{Destination, source_error};
use crate::get_records::call::GetRecords;
use crate::get_records::format::GetRecordsFormat;
use crate::polling::read_pace::{ReadRate, USUAL_RECORD_BYTES};
use crate::response_metadata::ResponseMetadata;
use crate::service_time::to_system_time;
use crate::settings::DEFAULT_IDLE_TIME_BETWEEN_READS;
use crate::stream_arn::StreamId;
use crate::stream_summary::StreamSummary;
use crate::timeouts::default_timeouts;

/// How many shards one page of a listing may hold (AWS default: 1000).
const SHARDS_PER_PAGE: i32 = 1000;

/// The service reports the retention period in hours.
const SECONDS_PER_HOUR: u64 = 60 * 60;

/// The most pages of one listing, far more than any stream needs. Bounds the loop when a server keeps sending tokens.
const MAX_PAGES: usize = 1000;

/// The waits between attempts for one throttled page; the SDK retries within each attempt as well.
const PAGE_RETRY: RetryPolicy = RetryPolicy::exponential(Duration::from_millis(250), Duration::from_secs(5))
    .with_max_attempts(MAX_PAGE_ATTEMPTS);

/// How often one page is requested before the throttling is reported.
const MAX_PAGE_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(7);

/// The SDK client of one stream, with everything that its readers share. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StreamClient {
    sdk: Client,
    destination: Arc<Destination>,
    rng: Arc<Mutex<Rng>>,
    read_rate: ReadRate,
    format: GetRecordsFormat,
    get_records: GetRecords,
    /// The largest record that the stream accepts, in bytes, by the last description.
    largest_record: Arc<AtomicU64>,
}

impl StreamClient {
    /// Adds default time-outs where the SDK client has none.
    pub(crate) fn new(sdk: Client, stream: String) -> Self {
        let sdk = with_stream_region(with_timeouts(sdk), &stream);
        let region = sdk.config().region().map(|region| region.as_ref().to_owned());
        let destination = Destination::new(stream, region);
        let format = GetRecordsFormat::default();
        Self {
            get_records: GetRecords::new(sdk.clone(), &destination.stream, format),
            sdk,
            format,
            destination: Arc::new(destination),
            rng: Arc::new(Mutex::new(fresh_rng())),
            read_rate: ReadRate {
                share_percent: 100,
                idle_time: DEFAULT_IDLE_TIME_BETWEEN_READS,
                max_idle_time: Duration::ZERO,
                counts_bytes: true,
            },
            largest_record: Arc::new(AtomicU64::new(USUAL_RECORD_BYTES)),
        }
    }

    /// A client of another stream, read at the same pace and in the same format.
    pub(crate) fn another(&self, sdk: Client, stream: String) -> Self {
        let mut another = Self::new(sdk, stream);
        another.read_rate = self.read_rate;
        another.set_get_records_format(self.format);
        another.set_rng(self.fork_rng());
        another
    }

    pub(crate) fn set_get_records_format(&mut self, format: GetRecordsFormat) {
        self.format = format;
        self.get_records = GetRecords::new(self.sdk.clone(), &self.destination.stream, format);
    }

    pub(crate) fn set_rng(&mut self, rng: Rng) {
        self.rng = Arc::new(Mutex::new(rng));
    }

    pub(crate) fn read_rate_mut(&mut self) -> &mut ReadRate {
        &mut self.read_rate
    }

    pub(crate) fn sdk(&self) -> &Client {
        &self.sdk
    }

    pub(crate) fn stream_name(&self) -> &str {
        &self.destination.stream.name
    }

    /// The ARN of a stream that was given by its ARN.
    pub(crate) fn stream_arn(&self) -> Option<String> {
        self.destination.arn()
    }

    pub(crate) fn get_records(&self) -> &GetRecords {
        &self.get_records
    }

    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    pub(crate) fn read_rate(&self) -> ReadRate {
        self.read_rate
    }

    /// The largest record that the stream accepts, in bytes: as the service described it last, or else the usual size.
    pub(crate) fn largest_record_bytes(&self) -> u64 {
        self.largest_record.load(Ordering::Relaxed)
    }

    /// A generator for one reader or task.
    pub(crate) fn fork_rng(&self) -> Rng {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }

    /// Records the endpoint of the first call; error messages name it.
    pub(crate) fn record_endpoint(&self, metadata: &ResponseMetadata) {
        if let Some(endpoint) = metadata.endpoint() {
            self.destination.endpoint.get_or_init(|| endpoint.clone());
        }
    }

    /// The error of a failed call to this stream; `action` names the purpose of the call.
    pub(crate) fn error<E>(&self, action: &str, error: SdkError<E>) -> SourceError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        source_error(action, &self.destination, error)
    }

    /// An error for a request or an answer that breaks the API's rules.
    pub(crate) fn invalid(&self, fault: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Invalid, format!("{fault} ({})", self.destination))
    }

    /// An error that a retry may resolve.
    pub(crate) fn unavailable(&self, fault: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, format!("{fault} ({})", self.destination))
    }

    pub(crate) async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.summary().await.map(|summary| summary.description)
    }

    pub(crate) async fn summary(&self) -> Result<StreamSummary, SourceError> {
        self.destination.check()?;
        let request = self.sdk.describe_stream_summary().stream_name(self.stream_name());
        let request = request.set_stream_arn(self.stream_arn());
        let metadata = ResponseMetadata::default();
        let called_at = Instant::now();
        let answer = request.customize().interceptor(metadata.clone()).send().await;
        self.record_endpoint(&metadata);
        let answer = answer.map_err(|error| self.error("describing the stream", error))?;
        let summary = answer
            .stream_description_summary
            // The SDK fills in missing members: an answer without content describes a stream without an ARN.
            .filter(|summary| !summary.stream_arn.is_empty())
            .ok_or_else(|| self.unavailable("DescribeStreamSummary returned no description"))?;
        if self.stream_arn().is_some_and(|arn| arn != summary.stream_arn) {
            return Err(self.invalid(&format!(
                "the service described {}, another stream: it ignores ARNs; give the name of the stream",
                summary.stream_arn
            )));
        }
        let created_at = to_system_time(summary.stream_creation_timestamp);
        let created_at = created_at.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let created_at = created_at
            .ok_or_else(|| self.invalid("DescribeStreamSummary returned a creation time before 1970"))?;
        // The `Date` header is rounded down and may be as late as the end of the call, so subtract the call's duration.
        let now = metadata.date().and_then(|date| date.checked_sub(called_at.elapsed()));
        let retention = u64::try_from(summary.retention_period_hours).ok().filter(|hours| *hours > 0);
        let retention = retention.map(|hours| Duration::from_secs(hours * SECONDS_PER_HOUR));
        if let Some(kib) = summary.max_record_size_in_kib.and_then(|kib| u64::try_from(kib).ok()) {
            self.largest_record.store(kib.saturating_mul(1024), Ordering::Relaxed);
        }
        let identity =
            StreamIdentity { arn: summary.stream_arn, creation_epoch_seconds: created_at.as_secs() };
        let distribution = summary.record_distribution_strategy.and_then(|strategy| match strategy {
            types::RecordDistributionStrategy::Auto => Some(RecordDistribution::Automatic),
            types::RecordDistributionStrategy::UserPartitionKey => Some(RecordDistribution::ByPartitionKey),
            _ => None,
        });
        let mut description = StreamDescription::new(identity);
        description.now = now;
        description.retention = retention;
        description.distribution = distribution;
        let count = |count: Option<i32>| count.and_then(|count| u32::try_from(count).ok());
        Ok(StreamSummary {
            description,
            name: summary.stream_name,
            status: summary.stream_status.as_str().to_owned(),
            open_shards: u32::try_from(summary.open_shard_count).ok(),
            fan_out_consumers: count(summary.consumer_count),
            encryption_key: summary.key_id,
            max_record_kib: count(summary.max_record_size_in_kib),
        })
    }

    pub(crate) async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.destination.check()?;
        let mut rng = self.fork_rng();
        let mut shards = Vec::new();
        let mut tokens = BTreeSet::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(filter, token.as_deref(), &mut rng).await?;
            // An empty page has an empty list. An answer without one says nothing about the shards.
            let listed =
                page.shards.ok_or_else(|| self.unavailable("ListShards returned no list of shards"))?;
            for shard in listed {
                shards.push(self.listed_shard(shard)?);
            }
            let Some(next) = page.next_token.filter(|next| !next.is_empty()) else { return Ok(shards) };
            if !tokens.insert(next.clone()) {
                return Err(self.invalid("ListShards returned the same NextToken twice"));
            }
            token = Some(next);
        }
        Err(self.invalid(&format!("ListShards returned more than {MAX_PAGES} pages")))
    }

    /// Whether the stream lists a shard as closed.
    ///
    /// # Errors
    /// The errors of the listing; `ShardNotFound` when the stream does not list the shard.
    pub(crate) async fn is_closed(&self, shard_id: &ShardId) -> Result<bool, SourceError> {
        let shards = self.list_shards(&ShardFilter::All).await?;
        let shard = shards.iter().find(|shard| shard.shard_id == *shard_id);
        shard.map(|shard| shard.is_closed).ok_or_else(|| {
            let fault = format!("the stream does not list the shard {shard_id} ({})", self.destination);
            SourceError::new(SourceErrorKind::ShardNotFound, fault)
        })
    }

    /// One page of a listing, requested again while the service throttles.
    async fn page(
        &self,
        filter: &ShardFilter,
        token: Option<&str>,
        rng: &mut Rng,
    ) -> Result<ListShardsOutput, SourceError> {
        let mut delays = PAGE_RETRY.delays(rng.fork());
        loop {
            let request = self.sdk.list_shards();
            // Only the first page names the stream. A token implies the rest of its request, and AWS refuses any other
            // parameter next to it.
            let request = match token {
                None => request
                    .stream_name(self.stream_name())
                    .set_stream_arn(self.stream_arn())
                    .max_results(SHARDS_PER_PAGE)
                    .set_shard_filter(shard_filter(filter)),
                Some(token) => request.next_token(token),
            };
            let metadata = ResponseMetadata::default();
            let answer = request.customize().interceptor(metadata.clone()).send().await;
            self.record_endpoint(&metadata);
            let error = match answer {
                Ok(page) => return Ok(page),
                Err(error) => self.error("listing the shards", error),
            };
            // The SDK has retried other failures already; the caller decides about them.
            let delay = if error.kind() == SourceErrorKind::Throttled { delays.next() } else { None };
            let Some(delay) = delay else { return Err(error) };
            tracing::debug!(%error, ?delay, "ListShards was throttled, retrying after the delay");
            sleep(delay).await;
        }
    }

    fn listed_shard(&self, shard: types::Shard) -> Result<Shard, SourceError> {
        let parents = [shard.parent_shard_id, shard.adjacent_parent_shard_id].into_iter().flatten();
        let end = shard.sequence_number_range.and_then(|range| range.ending_sequence_number);
        let is_closed = end.is_some_and(|end| !end.is_empty());
        self.shard(&shard.shard_id, parents, shard.hash_key_range.as_ref(), is_closed)
    }

    /// Converts the parts of a shard. Empty parent ids count as absent.
    fn shard(
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
            Ok(Shard::new(ShardId::new(shard_id.to_owned())?, is_closed)
                .with_parents(parents.collect::<Result<_, _>>()?)
                .with_hash_key_range(hash_key_range.transpose()?))
        };
        convert().map_err(|error| self.invalid(&format!("shard {shard_id:?}: {error}")).with_source(error))
    }

    /// Converts the children that the last answer or event of a shard names.
    pub(crate) fn shard_end(&self, children: Vec<types::ChildShard>) -> Result<ShardEnd, SourceError> {
        let convert = |child: types::ChildShard| {
            self.shard(&child.shard_id, child.parent_shards, child.hash_key_range.as_ref(), false)
        };
        Ok(ShardEnd::new(children.into_iter().map(convert).collect::<Result<_, _>>()?))
    }
}

/// The same client, with default time-outs where it has none.
fn with_timeouts(client: Client) -> Client {
    let own = client.config().timeout_config().cloned();
    let mut timeouts = own.clone().unwrap_or_else(|| TimeoutConfig::builder().build());
    timeouts.take_defaults_from(&default_timeouts());
    if own.as_ref() == Some(&timeouts) {
        return client;
    }
    Client::from_conf(client.config().to_builder().timeout_config(timeouts).build())
}

/// The same client, for the region of the stream's ARN if it has no region of its own.
pub(crate) fn with_stream_region(client: Client, stream: &str) -> Client {
    let arn = StreamId::parse(stream).ok().and_then(|stream| stream.arn);
    match arn {
        Some(arn) if client.config().region().is_none() => in_region(&client, arn.region),
        _ => client,
    }
}

/// The same client for a region.
pub(crate) fn in_region(client: &Client, region: String) -> Client {
    Client::from_conf(client.config().to_builder().region(Region::new(region)).build())
}

/// The API's form of a shard filter; `None`: all shards.
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
    // Cannot fail: the type is the only mandatory member.
    builder.build().ok()
}

/// The only generator of this crate that is not seeded by the caller.
#[allow(clippy::disallowed_methods)]
fn fresh_rng() -> Rng {
    Rng::new()
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::config::{BehaviorVersion, Config};

    use super::*;

    #[test]
    fn missing_timeouts_are_added_and_own_ones_kept() {
        let own = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(7)).build();
        for (given, attempt) in [(None, Duration::from_secs(10)), (Some(own), Duration::from_millis(7))] {
            let mut config = Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-west-1"));
            config.set_timeout_config(given);
            let stream = StreamClient::new(Client::from_conf(config.build()), "words".to_owned());
            let timeouts = stream.sdk().config().timeout_config().unwrap();
            assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(3)));
            assert_eq!(timeouts.operation_attempt_timeout(), Some(attempt));
            assert_eq!(timeouts.operation_timeout(), Some(Duration::from_secs(30)));
        }
    }
}
