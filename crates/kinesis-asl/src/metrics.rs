//! Publishes metrics to CloudWatch under the names of the KCL, so that dashboards for the KCL keep working.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use lease_store::{ShardId, WorkerId};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::error::{AslError, AslErrorKind, asl_error};
use crate::response_metadata::ResponseMetadata;
use crate::settings::AwsSettings;
use crate::timeouts::timeouts;

/// How often metrics are published (KCL: `metricsBufferTimeMillis`, 10 s).
pub const METRICS_INTERVAL: Duration = Duration::from_secs(10);

/// The most metrics of one `PutMetricData` request (CloudWatch API).
const METRICS_PER_REQUEST: usize = 1000;

/// The longest namespace, in bytes (CloudWatch API).
const MAX_NAMESPACE_BYTES: usize = 255;

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricUnit {
    /// A count.
    Count,
    /// A size in bytes.
    Bytes,
    /// A duration in milliseconds.
    Milliseconds,
}

/// The current value of one metric; CloudWatch adds the time.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MetricSample {
    /// The name of the metric.
    pub name: &'static str,
    /// Its unit.
    pub unit: MetricUnit,
    /// The shard, for a metric of one shard.
    pub shard_id: Option<ShardId>,
    /// The stream, for a metric of a shard in a consumer of several streams: `account:stream:creationEpoch`.
    pub stream_id: Option<String>,
    /// The worker, for a metric of one worker.
    pub worker: Option<WorkerId>,
    /// The value. Samples with NaN or infinity are not published.
    pub value: f64,
}

// CloudWatch stores values as floating point, which is exact up to 2^53.
impl MetricSample {
    /// How far the reader of a shard is behind its tip.
    pub fn millis_behind_latest(shard_id: ShardId, millis: u64) -> Self {
        Self::of_shard("MillisBehindLatest", MetricUnit::Milliseconds, shard_id, millis)
    }

    /// `RecordsProcessed`, a count with the dimension `ShardId`: how many records of a shard were acknowledged since the last
    /// sample, each sub-record of an aggregate counted.
    pub fn records_processed(shard_id: ShardId, records: u64) -> Self {
        Self::of_shard("RecordsProcessed", MetricUnit::Count, shard_id, records)
    }

    /// How many payload bytes of a shard were processed since the last sample.
    pub fn data_bytes_processed(shard_id: ShardId, bytes: u64) -> Self {
        Self::of_shard("DataBytesProcessed", MetricUnit::Bytes, shard_id, bytes)
    }

    /// How many leases a worker holds.
    pub fn current_leases(worker: WorkerId, leases: u64) -> Self {
        Self::of_worker("CurrentLeases", worker, leases)
    }

    /// How many leases a worker lost to others since the last sample.
    pub fn lost_leases(worker: WorkerId, leases: u64) -> Self {
        Self::of_worker("LostLeases", worker, leases)
    }

    /// A count of a worker, under a name of this library.
    pub fn count_of_worker(name: &'static str, worker: WorkerId, count: u64) -> Self {
        Self::of_worker(name, worker, count)
    }

    /// A duration of a worker, in milliseconds, under a name of this library.
    pub fn millis_of_worker(name: &'static str, worker: WorkerId, millis: u64) -> Self {
        Self { unit: MetricUnit::Milliseconds, ..Self::of_worker(name, worker, millis) }
    }

    /// Adds the stream of a shard, which becomes the dimension `StreamId`, as in a multi-stream application of the KCL.
    #[must_use]
    pub fn of_stream(mut self, stream_id: impl Into<String>) -> Self {
        self.stream_id = Some(stream_id.into());
        self
    }

    fn of_shard(name: &'static str, unit: MetricUnit, shard_id: ShardId, value: u64) -> Self {
        Self { name, unit, shard_id: Some(shard_id), stream_id: None, worker: None, value: value as f64 }
    }

    fn of_worker(name: &'static str, worker: WorkerId, value: u64) -> Self {
        Self {
            name,
            unit: MetricUnit::Count,
            shard_id: None,
            stream_id: None,
            worker: Some(worker),
            value: value as f64,
        }
    }

    fn datum(&self) -> MetricDatum {
        let unit = match self.unit {
            MetricUnit::Count => StandardUnit::Count,
            MetricUnit::Bytes => StandardUnit::Bytes,
            MetricUnit::Milliseconds => StandardUnit::Milliseconds,
        };
        let dimension = |name: &str, value: &str| Dimension::builder().name(name).value(value).build();
        let mut datum = MetricDatum::builder().metric_name(self.name).unit(unit).value(self.value);
        // The KCL always adds the operation that a metric comes from.
        if self.shard_id.is_some() {
            datum = datum.dimensions(dimension("Operation", "ProcessTask"));
        } else if self.worker.is_some() {
            datum = datum.dimensions(dimension("Operation", "RenewAllLeases"));
        }
        if let Some(stream_id) = &self.stream_id {
            datum = datum.dimensions(dimension("StreamId", stream_id));
        }
        if let Some(shard_id) = &self.shard_id {
            datum = datum.dimensions(dimension("ShardId", shard_id.as_str()));
        }
        if let Some(worker) = &self.worker {
            datum = datum.dimensions(dimension("WorkerIdentifier", worker.as_str()));
        }
        datum.build()
    }
}

/// The CloudWatch client of the settings.
pub(crate) fn client(
    settings: &AwsSettings,
    loaded: &SdkConfig,
    region: Region,
    endpoint_url: Option<String>,
) -> Client {
    let mut config =
        aws_sdk_cloudwatch::config::Builder::from(loaded).region(region).timeout_config(timeouts(settings));
    config.set_endpoint_url(endpoint_url);
    Client::from_conf(config.build())
}

/// Publishes metrics to one CloudWatch namespace.
#[derive(Debug, Clone)]
pub struct CloudWatchPublisher {
    client: Client,
    namespace: String,
}

impl CloudWatchPublisher {
    /// A publisher through a configured client.
    ///
    /// # Errors
    /// `InvalidSettings` when the namespace is not 1 to 255 letters, digits and `.-_/#:`, or begins with `:` or `AWS/`.
    pub fn new(client: Client, namespace: impl Into<String>) -> Result<Self, AslError> {
        let namespace = namespace.into();
        let allowed = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/' | b'#' | b':')
        };
        let is_sound = (1..=MAX_NAMESPACE_BYTES).contains(&namespace.len())
            && namespace.bytes().all(allowed)
            && !namespace.starts_with(':')
            && !namespace.starts_with("AWS/");
        if !is_sound {
            let message = format!(
                "metrics namespace {namespace:?} must be 1 to {MAX_NAMESPACE_BYTES} letters, digits and .-_/#:, not \
                 beginning with ':' or 'AWS/'"
            );
            return Err(AslError::new(AslErrorKind::InvalidSettings, message));
        }
        Ok(Self { client, namespace })
    }

    /// Publishes samples, up to 1000 in each request.
    ///
    /// # Errors
    /// `Denied`, `Throttled`, `Unavailable` or `Invalid`; the samples of the failed request and of later requests are not
    /// published.
    pub async fn publish(&self, samples: &[MetricSample]) -> Result<(), AslError> {
        let data: Vec<_> =
            samples.iter().filter(|sample| sample.value.is_finite()).map(MetricSample::datum).collect();
        for data in data.chunks(METRICS_PER_REQUEST) {
            let request = self.client.put_metric_data().namespace(&self.namespace);
            let request = request.set_metric_data(Some(data.to_vec())).customize();
            let published = request.interceptor(ResponseMetadata::default()).send().await;
            published.map_err(|error| {
                asl_error(&format!("publishing metrics to the namespace {:?}", self.namespace), error)
            })?;
        }
        Ok(())
    }

    /// Asks whether metrics may be published, by a request without any: the service refuses it after it has checked the permission.
    ///
    /// # Errors
    /// `Denied` when they may not; `Throttled` or `Unavailable` when that is not known.
    pub async fn ask_permission(&self) -> Result<(), AslError> {
        let request = self.client.put_metric_data().namespace(&self.namespace).customize();
        let Err(error) = request.interceptor(ResponseMetadata::default()).send().await else { return Ok(()) };
        let error = asl_error(&format!("asking to publish to the namespace {:?}", self.namespace), error);
        if error.kind() == AslErrorKind::Invalid { Ok(()) } else { Err(error) }
    }

    /// Spawns a task that publishes the samples of the closure at this interval (usually [`METRICS_INTERVAL`]). A failure is
    /// logged and counted in [`MetricsTask::failed_publications`]; the task continues, and does not publish the lost samples
    /// later. Dropping the returned value ends the task; [`MetricsTask::stop`] publishes once more before.
    ///
    /// Call it within a tokio runtime; it panics outside. An interval below a millisecond counts as one.
    pub fn publish_every(
        self,
        interval: Duration,
        samples: impl FnMut() -> Vec<MetricSample> + Send + 'static,
    ) -> MetricsTask {
        let failures = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(publish_until(stopped, self, interval, samples, failures.clone()));
        MetricsTask { failures, stop: Some(stop), task }
    }
}

async fn publish_until(
    mut stopped: oneshot::Receiver<()>,
    publisher: CloudWatchPublisher,
    interval: Duration,
    mut samples: impl FnMut() -> Vec<MetricSample>,
    failures: Arc<AtomicU64>,
) {
    // Tokio panics on an interval of 0.
    let interval = interval.max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + interval, interval);
    // Skip the ticks missed by a slow publication: the next samples contain everything since the last ones.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_last = false;
    while !is_last {
        tokio::select! {
            _ = &mut stopped => is_last = true,
            _ = ticks.tick() => {}
        }
        if let Err(error) = publisher.publish(&samples()).await {
            let failures = failures.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(%error, failures, "publishing metrics failed, continuing without these samples");
        }
    }
}

/// A task that publishes metrics; dropping this aborts it.
#[derive(Debug)]
pub struct MetricsTask {
    failures: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl MetricsTask {
    /// How many publications failed since the task was spawned. A publication is all samples of one interval, in one or more
    /// requests; one that failed in part counts once.
    pub fn failed_publications(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Publishes once more and ends the task. Takes at most as long as the client's time-outs allow.
    pub async fn stop(mut self) {
        self.stop = None;
        // Fails only when the closure panicked; the panic was reported then.
        let _ = (&mut self.task).await;
    }
}

impl Drop for MetricsTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dimensions(sample: &MetricSample) -> Vec<(String, String)> {
        let pair = |dimension: &Dimension| {
            (dimension.name().unwrap().to_owned(), dimension.value().unwrap().to_owned())
        };
        sample.datum().dimensions().iter().map(pair).collect()
    }

    #[test]
    fn names_units_and_dimensions_match_the_kcl() {
        let shard_id = ShardId::numbered(1);
        for (sample, name, unit) in [
            (
                MetricSample::millis_behind_latest(shard_id.clone(), 7),
                "MillisBehindLatest",
                StandardUnit::Milliseconds,
            ),
            (MetricSample::records_processed(shard_id.clone(), 7), "RecordsProcessed", StandardUnit::Count),
            (MetricSample::data_bytes_processed(shard_id, 7), "DataBytesProcessed", StandardUnit::Bytes),
        ] {
            let datum = sample.datum();
            assert_eq!(
                (datum.metric_name(), datum.unit(), datum.value()),
                (Some(name), Some(&unit), Some(7.0))
            );
            let expected = [("Operation", "ProcessTask"), ("ShardId", "shardId-000000000001")];
            assert_eq!(
                dimensions(&sample),
                expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
            );
        }
        let of_stream = MetricSample::records_processed(ShardId::numbered(1), 7).of_stream("1:orders:7");
        let expected =
            [("Operation", "ProcessTask"), ("StreamId", "1:orders:7"), ("ShardId", "shardId-000000000001")];
        assert_eq!(dimensions(&of_stream), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let worker = WorkerId::new("worker-a").unwrap();
        for (sample, name) in [
            (MetricSample::current_leases(worker.clone(), 7), "CurrentLeases"),
            (MetricSample::lost_leases(worker, 7), "LostLeases"),
        ] {
            assert_eq!(sample.datum().metric_name(), Some(name));
            let expected = [("Operation", "RenewAllLeases"), ("WorkerIdentifier", "worker-a")];
            assert_eq!(
                dimensions(&sample),
                expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
            );
        }
    }

    #[test]
    fn namespaces_follow_the_rules_of_the_api() {
        let config = aws_sdk_cloudwatch::Config::builder()
            .behavior_version(aws_sdk_cloudwatch::config::BehaviorVersion::latest())
            .build();
        let client = Client::from_conf(config);
        for namespace in ["word-count", "a/b#c:d.e_f"] {
            assert!(CloudWatchPublisher::new(client.clone(), namespace).is_ok(), "{namespace}");
        }
        for namespace in ["", ":a", "AWS/Kinesis", "a b", &"a".repeat(MAX_NAMESPACE_BYTES + 1)] {
            let error = CloudWatchPublisher::new(client.clone(), namespace).unwrap_err();
            assert_eq!(error.kind(), AslErrorKind::InvalidSettings, "{namespace}");
        }
    }
}
