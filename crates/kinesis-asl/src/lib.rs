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
//! | the lease table | [`KinesisAsl::lease_store`] opens it; it is `lease_store::dynamodb` |
//! | metrics | [`MetricSample`], [`CloudWatchPublisher`], [`MetricsTask`] |
//! | what can fail | [`AslError`]; reading a stream fails with a [`SourceError`](shard_worker::SourceError) |
//!
//! Types of the SDK appear in two places only: [`KinesisStream::from_client`] and [`CloudWatchPublisher::new`] take a
//! client that the caller has configured.
//!
//! # Reading from `LATEST`
//!
//! An iterator for `LATEST` means the tip at the moment it was made. As long as no record was read, the same chain of
//! iterators is kept; when the service refuses it (an iterator lives for five minutes), reading goes on at the time
//! when the first one was made, by the service's own clock (the `Date` of its answer, less the duration of the call
//! and the second that the header is cut to). So nothing that came in between is lost; a record that arrived within
//! that margin before the start may be delivered. Where a server sends no date, reading goes on at the tip, and a
//! warning says so.

mod call_notes;
mod connect;
mod error;
mod fan_out;
mod metrics;
mod polling;
mod read_pace;
mod service_time;
mod settings;
mod stream;

pub use connect::KinesisAsl;
pub use error::{AslError, AslErrorKind};
pub use fan_out::{
    ConsumerChoice, ConsumerStatus, FanOutSettings, FanOutStatus, RetrievalMode, StreamConsumer,
};
pub use metrics::{CloudWatchPublisher, METRICS_INTERVAL, MetricSample, MetricUnit, MetricsTask};
pub use settings::AwsSettings;
pub use stream::KinesisStream;
