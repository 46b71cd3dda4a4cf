//! The stream of `kinesis-asl`, with its readers and their reads recorded as events.

use std::time::SystemTime;

use async_trait::async_trait;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, IdentityCache, Region};
use aws_sdk_kinesis::{Client, Config};
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};
use kinesis_asl::{FanOutSettings, GetRecordsFormat, KinesisStream, RetrievalMode};
use lease_store::{Position, SequenceNumber, ShardId};
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, ShardFilter, SourceError, StreamDescription, StreamSource,
};
use tokio::time::Duration;

use super::service::{CONSUMER, Connection, Service};
use crate::event::{EventKind, Process, shard_number};
use crate::network::Link;
use crate::plan::{Defect, Plan};
use crate::scenario::Scenario;

/// Above the longest delay of an event.
const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a shard is polled before fan-out is tried again: short, so that both happen in one simulation.
const RETRY_FAN_OUT_AFTER: Duration = Duration::from_secs(40);

/// A reader with the defect resubscribes after this many answers.
const READS_PER_SUBSCRIPTION: u32 = 8;

/// The stream as one process sees it.
#[derive(Debug, Clone)]
struct Watched {
    inner: KinesisStream,
    connection: Connection,
}

impl Service {
    /// Returns the stream as one process sees it: by fan-out or, for some processes, by polling.
    pub fn stream(&self, plan: &Plan, link: &Link, process: Process) -> impl StreamSource {
        let mut rng = plan.rng("kinesis-asl", u64::from(process));
        let (service, link, defect) = (self.clone(), link.clone(), plan.defect);
        let connection = Connection { service, link, process, defect };
        let connector = SharedHttpConnector::new(connection.clone());
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("simulated", "simulated", None, None, "simulated"))
            .identity_cache(IdentityCache::no_cache())
            .endpoint_url("http://simulated.test")
            // The SDK's retries would draw from its own generator. The caller retries instead.
            .retry_config(RetryConfig::disabled())
            .http_client(http_client_fn(move |_, _| connector.clone()));
        let mut settings = FanOutSettings::with_consumer_name(CONSUMER);
        settings.retry_fan_out_after = RETRY_FAN_OUT_AFTER;
        settings.inactivity_timeout = INACTIVITY_TIMEOUT;
        settings.fall_back_to_polling = rng.u64(..4) > 0;
        if defect == Some(Defect::SilenceTolerated) {
            settings.inactivity_timeout = Duration::from_secs(300);
        }
        let polls = rng.u64(..5) == 0 && defect.is_none();
        // Most odd answers are those of polling.
        let polls =
            polls || plan.scenario == Scenario::OddAnswers && (process.is_multiple_of(2) || defect.is_some());
        let mode = if polls { RetrievalMode::Polling } else { RetrievalMode::FanOut(settings) };
        let format = if rng.bool() { GetRecordsFormat::Json } else { GetRecordsFormat::Sdk };
        let inner = KinesisStream::from_client(Client::from_conf(config.build()), "simulated")
            .with_rng(rng)
            .with_retrieval(mode)
            .with_get_records_format(format);
        Watched { inner, connection }
    }
}

#[async_trait]
impl StreamSource for Watched {
    fn stream_name(&self) -> &str {
        self.inner.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.inner.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.inner.list_shards(filter).await
    }

    fn shard_started_at(&self, shard_id: &ShardId, _record: &SequenceNumber) -> Option<SystemTime> {
        self.connection.service.kinesis.started_at(shard_number(shard_id))
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        let inner = self.inner.open(shard_id, from).await?;
        let (process, shard) = (self.connection.process, shard_number(shard_id));
        self.connection.service.kinesis.observer.record(EventKind::ReaderOpened { process, shard });
        let resubscribes_too_soon = self.connection.defect == Some(Defect::ResubscribesTooSoon);
        let reader = Reader {
            inner,
            stream: self.clone(),
            shard_id: shard_id.clone(),
            reads: 0,
            resubscribes_too_soon,
        };
        Ok(Box::new(reader))
    }
}

#[derive(Debug)]
struct Reader {
    inner: Box<dyn RecordSource>,
    stream: Watched,
    shard_id: ShardId,
    reads: u32,
    resubscribes_too_soon: bool,
}

#[async_trait]
impl RecordSource for Reader {
    async fn ready(&mut self) -> u64 {
        self.inner.ready().await
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let mut batch = self.inner.next_batch().await?;
        let connection = &self.stream.connection;
        if !batch.records.is_empty() || batch.shard_end.is_some() {
            connection.service.kinesis.observer.record(EventKind::RecordsRead {
                process: connection.process,
                shard: shard_number(&self.shard_id),
                count: batch.records.len(),
                is_end: batch.shard_end.is_some(),
            });
        }
        self.reads += 1;
        if self.resubscribes_too_soon
            && self.reads.is_multiple_of(READS_PER_SUBSCRIPTION)
            && let Some(last) = batch.records.last()
        {
            let from = ReadFrom::At(last.sequence_number.clone());
            self.inner = self.stream.inner.open(&self.shard_id, &from).await?;
        }
        if connection.defect == Some(Defect::StreamSkips) && batch.records.len() > 1 {
            batch.records.remove(0);
        }
        Ok(batch)
    }

    fn checkpointed(&mut self, position: &Position) {
        self.inner.checkpointed(position);
    }
}
