//! Converts the status of receivers into metrics with the KCL's names. It reads status only, and sends nothing.

use std::collections::HashMap;

use kinesis_asl::MetricSample;
use lease_store::{ShardId, WorkerId};
use receiver::{ConsumerGroupHandle, ConsumerStatus};
use shard_worker::ShardState;

/// Worker, shard and lease counter: the counts of a [`ShardProgress`](shard_worker::ShardProgress) start at zero with each.
type Holding = (WorkerId, ShardId, u64);

/// The counts at the previous sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    records: u64,
    bytes: u64,
}

/// The counts of a worker at the previous sample.
#[derive(Debug, Clone, Copy, Default)]
struct WorkerCounts {
    lost_leases: u64,
    given_up_leases: u64,
    failed_attempts: u64,
    dead_letters: u64,
    skipped_records: u64,
}

impl WorkerCounts {
    fn of(status: &ConsumerStatus) -> Self {
        Self {
            lost_leases: status.lost_leases,
            given_up_leases: status.given_up_leases,
            failed_attempts: status.failed_attempts,
            dead_letters: status.dead_letters,
            skipped_records: status.skipped_records,
        }
    }
}

/// Samples the status of one consumer or of a group, as metrics. Each count is the increase since the previous sample. The counts
/// between the last sample of a shard and its release are in the next sample: take one more when the receivers have stopped.
///
/// | for each | metrics with a name of the KCL | metrics of this library |
/// | --- | --- | --- |
/// | shard | `MillisBehindLatest`, `RecordsProcessed`, `DataBytesProcessed` | |
/// | worker | `CurrentLeases`, `LostLeases` | `GivenUpLeases`, `HaltedShards`, `FailedAttempts`, `DeadLetters`, `SkippedRecords`; of the shard that is worst: `OldestUnacknowledgedAge`, `PositionAge`, `SinceProgress` |
///
/// `MillisBehindLatest` is the lag of the newest read, so it stays as it is while a shard is halted or cannot be read. Alarms
/// belong on `PositionAge`: every record that arrived earlier is processed, in all shards of the worker.
///
/// ```no_run
/// # async fn example(
/// #     aws: kinesis_asl::KinesisAsl,
/// #     group: receiver::ConsumerGroup,
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
    handle: ConsumerGroupHandle,
    counted: HashMap<Holding, Counted>,
    workers: HashMap<WorkerId, WorkerCounts>,
}

impl FleetMetrics {
    /// Creates metrics for the consumer or the group of this handle.
    pub fn new(handle: impl Into<ConsumerGroupHandle>) -> Self {
        Self { handle: handle.into(), counted: HashMap::new(), workers: HashMap::new() }
    }

    /// Takes a sample now.
    pub fn sample(&mut self) -> Vec<MetricSample> {
        self.sample_of(&self.handle.statuses())
    }

    fn sample_of(&mut self, statuses: &[ConsumerStatus]) -> Vec<MetricSample> {
        let mut samples = Vec::new();
        let mut counted = HashMap::new();
        for status in statuses {
            let worker_id = &status.worker_id;
            let now = WorkerCounts::of(status);
            let before = self.workers.insert(worker_id.clone(), now).unwrap_or_default();
            samples.extend(worker_samples(status, before, now));
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

/// The metrics of a worker, with the counts of the previous sample and of this one.
fn worker_samples(status: &ConsumerStatus, before: WorkerCounts, now: WorkerCounts) -> Vec<MetricSample> {
    let worker_id = &status.worker_id;
    let halted = status.shards.iter().filter(|shard| shard.progress.state == ShardState::Halted).count();
    let mut samples = vec![
        MetricSample::current_leases(worker_id.clone(), status.shards.len() as u64),
        MetricSample::lost_leases(worker_id.clone(), now.lost_leases - before.lost_leases),
    ];
    samples.extend(
        [
            ("GivenUpLeases", now.given_up_leases - before.given_up_leases),
            ("HaltedShards", halted as u64),
            ("FailedAttempts", now.failed_attempts - before.failed_attempts),
            ("DeadLetters", now.dead_letters - before.dead_letters),
            ("SkippedRecords", now.skipped_records - before.skipped_records),
        ]
        .map(|(name, count)| MetricSample::count_of_worker(name, worker_id.clone(), count)),
    );
    let shards = || status.shards.iter();
    let ages = [
        ("OldestUnacknowledgedAge", shards().filter_map(|shard| shard.oldest_unacknowledged_age).max()),
        ("PositionAge", shards().filter_map(|shard| shard.position_age).max()),
        ("SinceProgress", shards().map(|shard| shard.since_progress.unwrap_or(shard.held_for)).max()),
    ];
    samples.extend(ages.into_iter().map(|(name, age)| {
        let millis = u64::try_from(age.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        MetricSample::millis_of_worker(name, worker_id.clone(), millis)
    }));
    samples
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use super::*;
    use crate::prelude::*;

    /// A stream of one shard and the only receiver of it.
    fn one_receiver() -> (InMemoryStream, ConsumerGroup) {
        let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
        let builder = Consumer::builder()
            .application("metrics")
            .worker_id("w")
            .source(stream.clone())
            .lease_store(InMemoryLeaseStore::new())
            .seed(1)
            .processors(batch_handler(|_, _| async { Ok(()) }));
        let group = ConsumerGroup::new(&builder, 1).unwrap();
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
            let samples = metrics.sample().into_iter();
            // The time since the last read depends on the pace of reads.
            let counts = samples.filter(|sample| !["PositionAge", "SinceProgress"].contains(&sample.name));
            counts.map(|sample| (sample.name, sample.value)).collect::<Vec<_>>()
        };
        let expected = |records: f64, bytes: f64| {
            vec![
                ("CurrentLeases", 1.0),
                ("LostLeases", 0.0),
                ("GivenUpLeases", 0.0),
                ("HaltedShards", 0.0),
                ("FailedAttempts", 0.0),
                ("DeadLetters", 0.0),
                ("SkippedRecords", 0.0),
                ("OldestUnacknowledgedAge", 0.0),
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

    #[tokio::test(start_paused = true)]
    async fn halted_consumer_shows_in_its_metrics() {
        let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
        let consumer = Consumer::builder()
            .application("metrics")
            .source(stream.clone())
            .lease_store(InMemoryLeaseStore::new())
            .seed(1)
            .processors(batch_handler(async |_, batch| {
                batch.json::<u32>()?;
                Ok(())
            }))
            .build()
            .unwrap();
        let mut metrics = FleetMetrics::new(consumer.handle());
        let running = tokio::spawn(consumer.run());
        stream.put("key", "no number").unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        let mut value = |name: &str| {
            let samples = metrics.sample();
            samples.iter().find(|sample| sample.name == name).map(|sample| sample.value).unwrap()
        };
        assert!(value("FailedAttempts") >= 1.0);
        assert!(value("FailedAttempts").abs() < 1e-9, "the increase since the sample before");
        assert!((value("HaltedShards") - 1.0).abs() < 1e-9);
        assert!(value("MillisBehindLatest").abs() < 1e-9, "the newest read was at the tip");
        for age in ["OldestUnacknowledgedAge", "PositionAge", "SinceProgress"] {
            assert!((115_000.0..=120_000.0).contains(&value(age)), "{age}: {}", value(age));
        }
        running.abort();
    }
}
