//! Kinesis over the AWS SDK: everything of AWS except the lease table.
//!
//! ```no_run
//! # async fn example() -> Result<(), shard_worker::BoxError> {
//! use kinesis_asl::{AwsSettings, KinesisAsl};
//! use shard_worker::{ShardFilter, StreamSource};
//!
//! let mut settings = AwsSettings::new("words");
//! settings.region = Some("eu-west-1".to_owned());
//! let aws = KinesisAsl::connect(settings).await?;
//! let leases = aws.lease_store("word-count")?;
//! let shards = aws.stream().list_shards(&ShardFilter::All).await?;
//! println!("{} shards, leases in {}", shards.len(), leases.table_name());
//! # Ok(()) }
//! ```
//!
//! | what | where |
//! | --- | --- |
//! | credentials, regions, endpoints, time-outs | [`AwsSettings`], [`KinesisAsl`] |
//! | a stream: listing and polling | [`KinesisStream`], which is a [`StreamSource`](shard_worker::StreamSource) |
//! | polling or enhanced fan-out, registered consumers | [`RetrievalMode`], [`FanOutSettings`], [`KinesisStream::list_consumers`] |
//! | how records come over the wire, and a fall-back | [`GetRecordsFormat`] |
//! | the lease table | [`KinesisAsl::lease_store`] opens it; it is `lease_store::dynamodb` |
//! | records that could not be processed, into a stream | [`KinesisDeadLetters`] |
//! | metrics | [`MetricSample`], [`CloudWatchPublisher`], [`MetricsTask`] |
//! | what can fail | [`AslError`]; reading a stream fails with a [`SourceError`](shard_worker::SourceError) |
//!
//! Types of the SDK appear in three places only: [`KinesisStream::from_client`], [`KinesisDeadLetters::from_client`] and
//! [`CloudWatchPublisher::new`] take a client that the caller has configured.
//!
//! # Reading from `LATEST`
//!
//! An iterator for `LATEST` means the tip at the moment it was made. As long as no record was read, the same chain of
//! iterators is kept; when the service refuses it (an iterator lives for five minutes), reading goes on at the time
//! when the first one was made, by the service's own clock (the `Date` of its answer, less the duration of the call
//! and the second that the header is cut to). So nothing that came in between is lost; a record that arrived within
//! that margin before the start may be delivered. Where a server sends no date, reading goes on at the tip, and a
//! warning says so.
//!
//! A subscription for `LATEST` is treated alike: as long as it has brought no event, the next one starts at the time when
//! the service first answered.
//!
//! # Enhanced fan-out
//!
//! With [`RetrievalMode::FanOut`] each shard has a subscription, on a connection of its own unless the client that was
//! given has a fixed one: on a shared HTTP/2 connection a few shards whose records nobody takes would hold up all others. A
//! shard holds one event at the most, besides what its connection lets through before it is read (2 MB with the SDK's
//! client).
//!
//! ```no_run
//! # async fn example() -> Result<(), shard_worker::BoxError> {
//! use kinesis_asl::{AwsSettings, FanOutSettings, KinesisAsl, RetrievalMode};
//!
//! let mut settings = AwsSettings::new("words");
//! settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_name("word-count"));
//! let stream = KinesisAsl::connect(settings).await?.stream();
//! if let Some(consumer) = stream.ensure_consumer().await? {
//!     println!("reading as {}", consumer.arn);
//! }
//! # Ok(()) }
//! ```
//!
//! A consumer stays until it is deregistered, and costs money by the hour and shard: after a crash, and after a stop without
//! [`deregister_at_end`](FanOutSettings::deregister_at_end). [`KinesisStream::list_consumers`] finds it. The credentials need
//! `kinesis:SubscribeToShard`, `kinesis:DescribeStreamConsumer` and, for a consumer by name,
//! `kinesis:RegisterStreamConsumer`; for removal and listing also `kinesis:DeregisterStreamConsumer` and
//! `kinesis:ListStreamConsumers`.

#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub mod bench_internals;
mod call_notes;
mod connect;
mod dead_letters;
mod error;
mod fan_out;
mod get_records;
mod metrics;
mod polling;
mod read_pace;
mod service_time;
mod settings;
mod stream;

pub use connect::KinesisAsl;
pub use dead_letters::KinesisDeadLetters;
pub use error::{AslError, AslErrorKind};
pub use fan_out::{
    ConsumerChoice, ConsumerStatus, FanOutSettings, FanOutStatus, RetrievalMode, StreamConsumer,
};
pub use get_records::GetRecordsFormat;
pub use metrics::{CloudWatchPublisher, METRICS_INTERVAL, MetricSample, MetricUnit, MetricsTask};
pub use settings::AwsSettings;
pub use stream::KinesisStream;
