//! Converts the status of receivers into metrics with the KCL's names. It reads status only, and sends nothing.

use std::collections::HashMap;

use kinesis_asl::MetricSample;
use lease_store::{ShardId, WorkerId};
use receiver::ConsumerStatus;
use shard_worker::ShardState;

use crate::observed::{MetricsSource, Observation};

/// Worker, number of the stream, shard and lease counter: the counts of a [`ShardProgress`](shard_worker::ShardProgress) start at zero with each.
type Holding = (WorkerId, Option<u64>, ShardId, u64);

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

    /// Each count as `combine` makes it of the two.
    fn with(self, other: Self, combine: fn(u64, u64) -> u64) -> Self {
        Self {
            lost_leases: combine(self.lost_leases, other.lost_leases),
            given_up_leases: combine(self.given_up_leases, other.given_up_leases),
            failed_attempts: combine(self.failed_attempts, other.failed_attempts),
            dead_letters: combine(self.dead_letters, other.dead_letters),
            skipped_records: combine(self.skipped_records, other.skipped_records),
        }
    }

    /// The increase since another sample.
    fn since(self, before: Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }
}

/// Samples the status of one consumer, of a group, or of a consumer of several streams, as metrics. Each count is the increase since the previous sample. The counts
/// between the last sample of a shard and its release are in the next sample: take one more when the receivers have stopped.
///
/// | for each | metrics with a name of the KCL | metrics of this library |
/// | --- | --- | --- |
/// | shard | `MillisBehindLatest`, `RecordsProcessed`, `DataBytesProcessed` | |
/// | worker | `CurrentLeases`, `LostLeases` | `GivenUpLeases`, `HaltedShards`, `FailedAttempts`, `DeadLetters`, `SkippedRecords`; of the shard that is worst: `OldestUnacknowledgedAge`, `PositionAge`, `SinceProgress` |
///
/// With several streams the metrics of a shard have the dimension `StreamId` too, as in the KCL: `account:stream:creationEpoch`. Those
/// of a worker are over all its streams.
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
    source: MetricsSource,
    counted: HashMap<Holding, Counted>,
    /// By worker and number of the stream, which a stream that is added again does not keep.
    workers: HashMap<(WorkerId, Option<u64>), WorkerCounts>,
}

impl FleetMetrics {
    /// Creates metrics for the consumers of this handle.
    pub fn new(source: impl Into<MetricsSource>) -> Self {
        Self { source: source.into(), counted: HashMap::new(), workers: HashMap::new() }
    }

    /// Takes a sample now.
    pub fn sample(&mut self) -> Vec<MetricSample> {
        self.sample_of(&self.source.observe())
    }

    fn sample_of(&mut self, observation: &Observation) -> Vec<MetricSample> {
        let mut samples = Vec::new();
        let before = std::mem::take(&mut self.counted);
        match observation {
            Observation::Workers(statuses) => {
                for status in statuses {
                    let increases = self.increases_of_worker(status, None);
                    samples.extend(worker_samples(&status.worker_id, &[status], increases));
                    samples.extend(self.shard_samples(status, None, None, &before));
                }
            }
            Observation::Streams { worker_id, streams, .. } => {
                let (mut increases, mut of_shards) = (WorkerCounts::default(), Vec::new());
                for stream in streams {
                    let (status, number) = (&stream.status, Some(stream.number));
                    increases = increases.plus(self.increases_of_worker(status, number));
                    of_shards.extend(self.shard_samples(status, number, stream.key.as_deref(), &before));
                }
                let statuses: Vec<&ConsumerStatus> = streams.iter().map(|stream| &stream.status).collect();
                samples.extend(worker_samples(worker_id, &statuses, increases));
                samples.extend(of_shards);
                let is_listed =
                    |number: Option<u64>| streams.iter().any(|stream| Some(stream.number) == number);
                self.workers.retain(|(_, number), _| is_listed(*number));
            }
        }
        samples
    }

    /// The counts of a worker since the previous sample, of one stream of it if it has several.
    fn increases_of_worker(&mut self, status: &ConsumerStatus, stream: Option<u64>) -> WorkerCounts {
        let now = WorkerCounts::of(status);
        let of_stream = (status.worker_id.clone(), stream);
        now.since(self.workers.insert(of_stream, now).unwrap_or_default())
    }

    /// The metrics of the shards of a worker, of one stream of it if it has several.
    fn shard_samples(
        &mut self,
        status: &ConsumerStatus,
        stream: Option<u64>,
        stream_id: Option<&str>,
        before: &HashMap<Holding, Counted>,
    ) -> Vec<MetricSample> {
        let mut samples = Vec::new();
        let holding =
            |shard_id: &ShardId, counter: u64| (status.worker_id.clone(), stream, shard_id.clone(), counter);
        for shard in &status.shards {
            let (shard_id, progress) = (&shard.shard_id, &shard.progress);
            let holding = holding(shard_id, shard.lease_counter);
            let now = Counted { records: progress.acknowledged_records, bytes: progress.acknowledged_bytes };
            samples.extend(increases(shard_id, before.get(&holding), now));
            if let Some(millis) = progress.millis_behind_latest {
                samples.push(MetricSample::millis_behind_latest(shard_id.clone(), millis));
            }
            self.counted.insert(holding, now);
        }
        for shard in &status.released_shards {
            let holding = holding(&shard.shard_id, shard.lease_counter);
            let now = Counted { records: shard.acknowledged_records, bytes: shard.acknowledged_bytes };
            // The final counts of a released shard are published once.
            if before.get(&holding) != Some(&now) {
                samples.extend(increases(&shard.shard_id, before.get(&holding), now));
            }
            self.counted.insert(holding, now);
        }
        // A stream has no key before it is described, and no shards either.
        match stream_id {
            Some(stream_id) => samples.into_iter().map(|sample| sample.of_stream(stream_id)).collect(),
            None => samples,
        }
    }
}

/// The records and bytes processed under a lease since the previous sample.
fn increases(shard_id: &ShardId, before: Option<&Counted>, now: Counted) -> [MetricSample; 2] {
    let before = before.copied().unwrap_or_default();
    [
        MetricSample::records_processed(shard_id.clone(), now.records.saturating_sub(before.records)),
        MetricSample::data_bytes_processed(shard_id.clone(), now.bytes.saturating_sub(before.bytes)),
    ]
}

/// The metrics of a worker, over its streams, with the counts since the previous sample.
fn worker_samples(
    worker_id: &WorkerId,
    statuses: &[&ConsumerStatus],
    increases: WorkerCounts,
) -> Vec<MetricSample> {
    let shards = || statuses.iter().flat_map(|status| &status.shards);
    let halted = shards().filter(|shard| shard.progress.state == ShardState::Halted).count();
    let mut samples = vec![
        MetricSample::current_leases(worker_id.clone(), shards().count() as u64),
        MetricSample::lost_leases(worker_id.clone(), increases.lost_leases),
    ];
    samples.extend(
        [
            ("GivenUpLeases", increases.given_up_leases),
            ("HaltedShards", halted as u64),
            ("FailedAttempts", increases.failed_attempts),
            ("DeadLetters", increases.dead_letters),
            ("SkippedRecords", increases.skipped_records),
        ]
        .map(|(name, count)| MetricSample::count_of_worker(name, worker_id.clone(), count)),
    );
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
    async fn streams_have_their_ids_and_share_the_worker() {
        let [orders, bills] = ["orders", "bills"].map(|name| InMemoryStream::new(name, NonZeroUsize::MIN));
        let consumer = Consumer::builder()
            .application("metrics")
            .worker_id("w")
            .seed(1)
            .processors(batch_handler(|_, _| async { Ok(()) }))
            .with_streams([&orders, &bills].map(|stream| StreamConfig::new(stream.clone())))
            .lease_store(InMemoryMultiStreamLeaseStore::new())
            .build()
            .unwrap();
        let handle = consumer.handle();
        let mut metrics = FleetMetrics::new(handle.clone());
        let running = tokio::spawn(consumer.run());
        orders.put("key", "one").unwrap();
        for text in ["one", "two"] {
            bills.put("key", text).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let samples = metrics.sample();
        let of_shards = samples.iter().filter(|sample| sample.name == "RecordsProcessed");
        let of_shards: Vec<(Option<String>, f64)> =
            of_shards.map(|sample| (sample.stream_id.clone(), sample.value)).collect();
        let keys: Vec<Option<String>> = handle.statuses().into_iter().map(|stream| stream.key).collect();
        assert!(keys.iter().all(Option::is_some) && keys[0] != keys[1], "{keys:?}");
        assert_eq!(of_shards, [(keys[0].clone(), 1.0), (keys[1].clone(), 2.0)]);
        let leases: Vec<&MetricSample> =
            samples.iter().filter(|sample| sample.name == "CurrentLeases").collect();
        assert!(leases.len() == 1 && (leases[0].value - 2.0).abs() < 1e-9, "over all streams: {leases:?}");
        // A stream that is removed and added again counts from 0.
        handle.remove_stream("bills", FormerLeases::Keep).unwrap().stopped().await;
        handle.add_stream(StreamConfig::new(bills.clone())).unwrap();
        bills.put("key", "three").unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let samples = metrics.sample();
        let records = samples.iter().filter(|sample| sample.name == "RecordsProcessed");
        assert!((records.map(|sample| sample.value).sum::<f64>() - 1.0).abs() < 1e-9);
        running.abort();
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
