//! Converts the status of receivers into metrics with the KCL's names. It reads status only, and sends nothing.

use std::collections::HashMap;

use kinesis_asl::MetricSample;
use lease_store::{ShardId, WorkerId};
use receiver::{ReceiverGroupHandle, ReceiverStatus};

/// Worker, shard and lease counter: the counts of a [`ShardProgress`](shard_worker::ShardProgress) start at zero with each.
type Holding = (WorkerId, ShardId, u64);

/// The counts at the previous sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    records: u64,
    bytes: u64,
}

/// Samples the status of receivers: per shard `MillisBehindLatest`, `RecordsProcessed` and `DataBytesProcessed`, per
/// worker `CurrentLeases` and `LostLeases`. Each count is the increase since the previous sample. The counts between the
/// last sample of a shard and its release are in the next sample: take one more when the receivers have stopped.
///
/// ```no_run
/// # async fn example(
/// #     aws: kinesis_asl::KinesisAsl,
/// #     group: receiver::ReceiverGroup,
/// # ) -> Result<(), kinesis_asl::AslError> {
/// use kinesis_asl::METRICS_INTERVAL;
/// use kinesis_streaming::FleetMetrics;
///
/// let mut metrics = FleetMetrics::new(group.handle());
/// let publisher = aws.cloudwatch("my-application")?.publish_every(METRICS_INTERVAL, move || metrics.sample());
/// # let _ = publisher;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FleetMetrics {
    handle: ReceiverGroupHandle,
    counted: HashMap<Holding, Counted>,
    lost_leases: HashMap<WorkerId, u64>,
}

impl FleetMetrics {
    /// Creates metrics for the receivers of this handle.
    pub fn new(handle: ReceiverGroupHandle) -> Self {
        Self { handle, counted: HashMap::new(), lost_leases: HashMap::new() }
    }

    /// Takes a sample now.
    pub fn sample(&mut self) -> Vec<MetricSample> {
        self.sample_of(&self.handle.statuses())
    }

    fn sample_of(&mut self, statuses: &[ReceiverStatus]) -> Vec<MetricSample> {
        let mut samples = Vec::new();
        let mut counted = HashMap::new();
        for status in statuses {
            let worker_id = &status.worker_id;
            samples.push(MetricSample::current_leases(worker_id.clone(), status.shards.len() as u64));
            let lost_before = self.lost_leases.insert(worker_id.clone(), status.lost_leases).unwrap_or(0);
            samples.push(MetricSample::lost_leases(worker_id.clone(), status.lost_leases - lost_before));
            for shard in &status.shards {
                let (shard_id, progress) = (&shard.shard_id, &shard.progress);
                let holding = (worker_id.clone(), shard_id.clone(), shard.lease_counter);
                let now =
                    Counted { records: progress.acknowledged_records, bytes: progress.acknowledged_bytes };
                samples.extend(self.increases(shard_id, &holding, now));
                if let Some(millis) = progress.millis_behind_latest {
                    samples.push(MetricSample::millis_behind_latest(shard_id.clone(), millis));
                }
                counted.insert(holding, now);
            }
            for shard in &status.released_shards {
                let holding = (worker_id.clone(), shard.shard_id.clone(), shard.lease_counter);
                let now = Counted { records: shard.acknowledged_records, bytes: shard.acknowledged_bytes };
                // The final counts of a released shard are published once.
                if self.counted.get(&holding) != Some(&now) {
                    samples.extend(self.increases(&shard.shard_id, &holding, now));
                }
                counted.insert(holding, now);
            }
        }
        self.counted = counted;
        samples
    }

    /// The records and bytes processed under a lease since the previous sample.
    fn increases(&self, shard_id: &ShardId, holding: &Holding, now: Counted) -> [MetricSample; 2] {
        let before = self.counted.get(holding).copied().unwrap_or_default();
        [
            MetricSample::records_processed(shard_id.clone(), now.records - before.records),
            MetricSample::data_bytes_processed(shard_id.clone(), now.bytes - before.bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use super::*;
    use crate::prelude::*;

    /// A stream of one shard and the only receiver of it.
    fn one_receiver() -> (InMemoryStream, ReceiverGroup) {
        let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
        let builder = Consumer::builder()
            .application("metrics")
            .worker_id("w")
            .source(stream.clone())
            .lease_store(InMemoryLeaseStore::new())
            .seed(1)
            .processors(batch_handler(|_, _| async { Ok(()) }));
        let group = ReceiverGroup::new(&builder, 1).unwrap();
        (stream, group)
    }

    #[tokio::test(start_paused = true)]
    async fn counts_are_increases_since_the_last_sample() {
        let (stream, group) = one_receiver();
        let mut metrics = FleetMetrics::new(group.handle());
        let running = tokio::spawn(group.run());
        let mut values = async |texts: &[&'static str]| {
            for text in texts {
                stream.put("key", *text).unwrap();
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            let samples = metrics.sample();
            samples.into_iter().map(|sample| (sample.name, sample.value)).collect::<Vec<_>>()
        };
        let expected = |records: f64, bytes: f64| {
            vec![
                ("CurrentLeases", 1.0),
                ("LostLeases", 0.0),
                ("RecordsProcessed", records),
                ("DataBytesProcessed", bytes),
                ("MillisBehindLatest", 0.0),
            ]
        };
        assert_eq!(values(&["one", "three"]).await, expected(2.0, 8.0));
        assert_eq!(values(&["x"]).await, expected(1.0, 1.0));
        assert_eq!(values(&[]).await, expected(0.0, 0.0));
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn counts_before_a_release_are_in_the_next_sample() {
        let (stream, group) = one_receiver();
        let handle = group.handle();
        let mut metrics = FleetMetrics::new(group.handle());
        let running = tokio::spawn(group.run());
        stream.put("key", "one").unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let records = |samples: Vec<MetricSample>| -> f64 {
            samples.iter().filter(|sample| sample.name == "RecordsProcessed").map(|sample| sample.value).sum()
        };
        assert!((records(metrics.sample()) - 1.0).abs() < 1e-9);
        for text in ["two", "three"] {
            stream.put("key", text).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        handle.stop();
        running.await.unwrap().unwrap();
        assert!((records(metrics.sample()) - 2.0).abs() < 1e-9, "records before the release are counted");
        assert!(records(metrics.sample()).abs() < 1e-9, "and only once");
    }
}
