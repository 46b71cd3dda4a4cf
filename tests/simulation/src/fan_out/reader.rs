//! The stream of `kinesis-asl`, watched: which readers are opened, and what they read.

use async_trait::async_trait;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, IdentityCache, Region};
use aws_sdk_kinesis::{Client, Config};
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};
use kinesis_asl::{FanOutSettings, GetRecordsFormat, KinesisStream, RetrievalMode};
use lease_store::{Position, ShardId};
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, ShardFilter, SourceError, StreamDescription, StreamSource,
};
use tokio::time::Duration;

use super::connection::Connection;
use super::service::{CONSUMER, Service};
use crate::event::{Process, What, shard_number};
use crate::network::Link;
use crate::plan::{Plan, Planted};

/// How long a shard is polled before fan-out is tried again: short, so that both ways happen in one simulation.
const RETRY_FAN_OUT_AFTER: Duration = Duration::from_secs(40);

/// So many answers, and the impatient reader of a planted defect subscribes anew.
const IMPATIENT_AFTER: u32 = 8;

/// The stream as one process sees it.
#[derive(Debug, Clone)]
struct Watched {
    inner: KinesisStream,
    connection: Connection,
}

impl Service {
    /// The stream as one process sees it: by fan-out or, for some, by polling.
    pub fn stream(&self, plan: &Plan, link: &Link, process: Process) -> impl StreamSource {
        let mut rng = plan.rng("kinesis-asl", u64::from(process));
        let (service, link, planted) = (self.clone(), link.clone(), plan.planted);
        let connection = Connection { service, link, process, planted };
        let connector = SharedHttpConnector::new(connection.clone());
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("simulated", "simulated", None, None, "simulated"))
            .identity_cache(IdentityCache::no_cache())
            .endpoint_url("http://simulated.test")
            // Its waits would be drawn from outside. Who calls makes the call again.
            .retry_config(RetryConfig::disabled())
            .http_client(http_client_fn(move |_, _| connector.clone()));
        let mut settings = FanOutSettings::with_consumer_name(CONSUMER);
        settings.retry_fan_out_after = RETRY_FAN_OUT_AFTER;
        settings.fall_back_to_polling = rng.u64(..4) > 0;
        if planted == Some(Planted::SilenceUnnoticed) {
            settings.inactivity_timeout = Duration::from_secs(300);
        }
        let polls = rng.u64(..5) == 0 && planted.is_none();
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

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        let inner = self.inner.open(shard_id, from).await?;
        let (process, shard) = (self.connection.process, shard_number(shard_id));
        self.connection.service.kinesis.observer.note(What::Opened { process, shard });
        let is_impatient = self.connection.planted == Some(Planted::Impatient);
        let reader =
            Reader { inner, stream: self.clone(), shard_id: shard_id.clone(), reads: 0, is_impatient };
        Ok(Box::new(reader))
    }
}

#[derive(Debug)]
struct Reader {
    inner: Box<dyn RecordSource>,
    stream: Watched,
    shard_id: ShardId,
    reads: u32,
    is_impatient: bool,
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
            connection.service.kinesis.observer.note(What::Read {
                process: connection.process,
                shard: shard_number(&self.shard_id),
                count: batch.records.len(),
                is_end: batch.shard_end.is_some(),
            });
        }
        self.reads += 1;
        if self.is_impatient
            && self.reads.is_multiple_of(IMPATIENT_AFTER)
            && let Some(last) = batch.records.last()
        {
            let from = ReadFrom::At(last.sequence_number.clone());
            self.inner = self.stream.inner.open(&self.shard_id, &from).await?;
        }
        if connection.planted == Some(Planted::StreamSkips) && batch.records.len() > 1 {
            batch.records.remove(0);
        }
        Ok(batch)
    }

    fn checkpointed(&mut self, position: &Position) {
        self.inner.checkpointed(position);
    }
}
