//! The AWS side of the consumer: Kinesis over the AWS SDK, credentials, endpoints and CloudWatch.
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
//! | purpose | types |
//! | --- | --- |
//! | streams by name or ARN, credentials, regions, endpoints, time-outs | [`AwsSettings`], [`KinesisAsl`] |
//! | listing and reading a stream | [`KinesisStream`], which is a [`StreamSource`](shard_worker::StreamSource) |
//! | polling or enhanced fan-out, registered consumers | [`RetrievalMode`], [`FanOutSettings`], [`KinesisStream::list_consumers`] |
//! | the encoding of records on the wire | [`GetRecordsFormat`] |
//! | the lease table | [`KinesisAsl::lease_store`] opens it; it is `lease_store::dynamodb` (feature `dynamodb`) |
//! | dead letters in a stream | [`KinesisDeadLetters`] |
//! | records that are put again | [`RecordWriter`] |
//! | whose credentials, and what they allow | [`KinesisAsl::caller_identity`], [`Permission`] |
//! | metrics | [`MetricSample`], [`CloudWatchPublisher`], [`MetricsTask`] (feature `cloudwatch`) |
//! | errors | [`AslError`]; reading a stream fails with a [`SourceError`](shard_worker::SourceError) |
//!
//! Only these have SDK types in their signatures: [`KinesisStream::from_client`], [`KinesisDeadLetters::from_client`]
//! and [`CloudWatchPublisher::new`] take a client that the caller configured, [`KinesisAsl::from_sdk_config`] a configuration, and
//! [`KinesisAslBuilder`] configurations, credentials and an HTTP client.
//!
//! # Features
//!
//! All are on by default, and a build without them is lighter: `dynamodb` (the lease table), `cloudwatch` (metrics), `sso`
//! (credentials of IAM Identity Center) and `credentials-process` (credentials from a program). The settings are the same in every
//! build; those of a service that is left out have no effect.
//!
//! # Reading from `LATEST`
//!
//! An iterator for `LATEST` starts at the tip of the shard at the moment it was made. An iterator expires after five minutes. If
//! the service refuses one before the first record was read, reading resumes from the time of the first iterator. So records that
//! arrived in between are not lost.
//!
//! That time is the `Date` header of the service's answer, minus the duration of the call. One more second is
//! subtracted because the header has whole seconds. A record that arrived within this margin before the start may be delivered. If a server sends no
//! date, reading resumes from the current tip, and a warning is logged.
//!
//! The same holds for a subscription at `LATEST` that ends before its first event: the next one starts at the time of the
//! service's first answer.
//!
//! # Enhanced fan-out
//!
//! With [`RetrievalMode::FanOut`] each shard has a subscription, on a connection of its own unless the given client has a
//! fixed one. On a shared HTTP/2 connection, a few shards whose events are not read would block all others. A shard holds at
//! most one event in memory, plus the flow-control window of its connection (2 MB with the SDK's client).
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
//! A consumer exists until it is deregistered, and costs money for each hour and shard. It remains after a crash, and after a
//! stop without [`deregister_at_end`](FanOutSettings::deregister_at_end); [`KinesisStream::list_consumers`] finds it.
//!
//! The credentials need `kinesis:SubscribeToShard`, `kinesis:DescribeStreamConsumer` and, for a consumer by name,
//! `kinesis:RegisterStreamConsumer`. Removal and listing need `kinesis:DeregisterStreamConsumer` and
//! `kinesis:ListStreamConsumers`.

mod connect;
mod connection_builder;
mod connections;
mod dead_letters;
mod end_proof;
mod environment;
mod error;
mod fan_out;
mod first_record;
mod get_records;
mod identity;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
#[cfg(feature = "dynamodb")]
mod lease_table;
#[cfg(feature = "cloudwatch")]
mod metrics;
mod permissions;
mod polling;
mod read_counts;
mod read_position;
mod record_writer;
mod response_metadata;
mod role;
mod sequence_layout;
mod service_time;
mod settings;
mod stream;
mod stream_arn;
mod stream_client;
mod stream_summary;
mod surroundings;
mod timeouts;

pub use connect::KinesisAsl;
pub use connection_builder::KinesisAslBuilder;
pub use dead_letters::KinesisDeadLetters;
pub use error::{AslError, AslErrorKind};
pub use fan_out::consumer::{ConsumerStatus, StreamConsumer};
pub use fan_out::settings::{ConsumerChoice, FanOutSettings, RetrievalMode};
pub use fan_out::status::FanOutStatus;
pub use first_record::{FirstRecord, MAX_READS_PER_PROBE};
pub use get_records::format::GetRecordsFormat;
pub use identity::CallerIdentity;
#[cfg(feature = "cloudwatch")]
pub use metrics::{CloudWatchPublisher, METRICS_INTERVAL, MetricSample, MetricUnit, MetricsTask};
pub use permissions::Permission;
pub use read_counts::ReadCounts;
pub use record_writer::RecordWriter;
pub use role::RoleSettings;
pub use settings::AwsSettings;
pub use stream::KinesisStream;
pub use stream_summary::StreamSummary;
