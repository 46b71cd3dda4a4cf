//! The values of the metrics, from the status of the workers. Pure.

use std::time::Duration;

use lease_store::StoreCalls;
use receiver::{ConsumerState, ConsumerStatus, LeaseTableState, ShardStatus};
use shard_worker::{RetentionAlarm, ShardState};

use super::layers::Reading;
use super::list::{self, Metric};
use super::value::Value;
use crate::observed::Observation;

/// A value of a metric with its labels, in the order of the list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) metric: &'static Metric,
    /// The stream, if the consumer has several and the value belongs to one of them.
    pub(super) stream: Option<String>,
    /// Another one when the counters of the series begin again.
    #[cfg_attr(not(feature = "metrics"), allow(dead_code))] // the text format has no increases
    pub(super) number: u64,
    /// The values of the labels `worker` and those of the metric.
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
}

impl Sample {
    /// The labels besides `application`, with their values.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let (worker, of_metric) = self.labels.split_at(self.labels.len().min(1));
        let worker = worker.iter().map(|value| ("worker", value.as_str()));
        let stream = self.stream.iter().map(|value| ("stream", value.as_str()));
        let of_metric = self.metric.labels.iter().copied().zip(of_metric.iter().map(String::as_str));
        worker.chain(stream).chain(of_metric)
    }
}

/// All values at one time, grouped by metric in the order of the list.
pub(super) fn samples(
    observation: &Observation,
    calls: Option<StoreCalls>,
    readings: Vec<Reading>,
) -> Vec<Sample> {
    let mut found = Found { stream: None, number: 0, samples: Vec::new() };
    match observation {
        Observation::Workers(statuses) => {
            for status in statuses {
                found.memory(status);
                found.worker(status, None);
            }
        }
        Observation::Streams { worker_id, streams, .. } => {
            let worker = worker_id.as_str();
            found.add(&list::STREAMS, worker, &[], Value::Gauge(count(streams.len())));
            // All streams share the memory.
            streams.iter().take(1).for_each(|stream| found.memory(&stream.status));
            for stream in streams {
                (found.stream, found.number) = (Some(stream.name.clone()), stream.number);
                let has_failed = stream.failure.is_some();
                found.add(&list::STREAM_FAILED, worker, &[], Value::Gauge(flag(has_failed)));
                found.worker(&stream.status, stream.failure.as_deref());
            }
            (found.stream, found.number) = (None, 0);
        }
    }
    // One store, and one layer of each kind, serves all workers of the process.
    let workers = workers_of(observation);
    if let Some(calls) = calls {
        for (call, count) in kinds_of(&calls) {
            found.add(&list::LEASE_CALLS, &workers, &[call], Value::Counter(count));
        }
    }
    for Reading { metric, labels, value } in readings {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        found.add(metric, &workers, &labels, value);
    }
    let place = |sample: &Sample| list::METRICS.iter().position(|metric| metric.name == sample.metric.name);
    found.samples.sort_by_key(place);
    found.samples
}

/// The workers of the process.
fn workers_of(observation: &Observation) -> String {
    match observation {
        Observation::Workers(statuses) => {
            let names: Vec<&str> = statuses.iter().map(|status| status.worker_id.as_str()).collect();
            names.join(",")
        }
        Observation::Streams { worker_id, .. } => worker_id.to_string(),
    }
}

struct Found {
    /// The stream of the samples that are added.
    stream: Option<String>,
    number: u64,
    samples: Vec<Sample>,
}

impl Found {
    fn add(&mut self, metric: &'static Metric, worker: &str, labels: &[&str], value: Value) {
        let labels = std::iter::once(worker).chain(labels.iter().copied()).map(str::to_owned).collect();
        let (stream, number) = (self.stream.clone(), self.number);
        self.samples.push(Sample { metric, stream, number, labels, value });
    }

    /// The memory of a worker, over all its streams.
    fn memory(&mut self, status: &ConsumerStatus) {
        let worker = status.worker_id.as_str();
        let gauges = [
            (&list::BUFFERED_BYTES, status.memory.buffered_bytes),
            (&list::BUFFER_LIMIT_BYTES, status.memory.limit_bytes),
            (&list::WAITING_READS, status.memory.waiting_reads),
        ];
        for (metric, value) in gauges {
            self.add(metric, worker, &[], Value::Gauge(number(value)));
        }
    }

    /// The rest of a worker and its shards. A failure ended it for good.
    fn worker(&mut self, status: &ConsumerStatus, failure: Option<&str>) {
        let worker = status.worker_id.as_str();
        for state in STATES {
            let is_now = Value::Gauge(flag(state == status.state));
            self.add(&list::STATE, worker, &[state_label(state)], is_now);
        }
        let faults = status.health().faults.len() + usize::from(failure.is_some());
        let gauges = [
            (&list::HEALTHY, flag(faults == 0)),
            (&list::FAULTS, count(faults)),
            (&list::LEASES, count(status.shards.len())),
            (&list::STANDBY, flag(status.is_standby)),
            (&list::LEADER, flag(status.is_leader)),
            (&list::LEASE_TABLE_AVAILABLE, flag(status.lease_table == LeaseTableState::Available)),
            (&list::TAKES_REFUSED, flag(status.takes_refused.is_some())),
            (&list::SHARDS_WITHOUT_WORKER, count(status.shards_without_worker.len())),
            (&list::NAMESAKE, flag(status.namesake.is_some())),
        ];
        for (metric, value) in gauges {
            self.add(metric, worker, &[], Value::Gauge(value));
        }
        let counters = [
            (&list::RECORDS, status.acknowledged_records),
            (&list::BYTES, status.acknowledged_bytes),
            (&list::FAILED_ATTEMPTS, status.failed_attempts),
            (&list::DEAD_LETTERS, status.dead_letters),
            (&list::SKIPPED_RECORDS, status.skipped_records),
            (&list::LOST_LEASES, status.lost_leases),
            (&list::HANDED_OVER_LEASES, status.handed_over_leases),
            (&list::GIVEN_UP_LEASES, status.given_up_leases),
            (&list::NAMESAKE_SIGHTINGS, status.namesake_sightings),
        ];
        for (metric, value) in counters {
            self.add(metric, worker, &[], Value::Counter(value));
        }
        for shard in &status.shards {
            self.shard(worker, shard);
        }
    }

    fn shard(&mut self, worker: &str, shard: &ShardStatus) {
        let (id, progress) = (shard.shard_id.as_str(), &shard.progress);
        self.add(&list::SHARD_STATE, worker, &[id, shard_state_label(progress.state)], Value::Gauge(1.0));
        let behind = progress.millis_behind_latest.map(Duration::from_millis);
        let ages = [
            (&list::SHARD_POSITION_AGE, shard.position_age),
            (&list::SHARD_BEHIND_LATEST, behind),
            (&list::SHARD_OLDEST_UNACKNOWLEDGED, shard.oldest_unacknowledged_age),
            (&list::SHARD_SINCE_PROGRESS, Some(shard.since_progress.unwrap_or(shard.held_for))),
            (&list::SHARD_SINCE_CHECKPOINT, shard.since_checkpoint),
            (&list::SHARD_FAILING, shard.failing_for),
            (&list::SHARD_HELD, Some(shard.held_for)),
        ];
        for (metric, age) in ages {
            if let Some(age) = age {
                self.add(metric, worker, &[id], Value::Gauge(age.as_secs_f64()));
            }
        }
        let alarm = match progress.retention_alarm {
            RetentionAlarm::Half => 1.0,
            RetentionAlarm::FourFifths => 2.0,
            _ => 0.0,
        };
        self.add(&list::SHARD_RETENTION_ALARM, worker, &[id], Value::Gauge(alarm));
        let counters = [
            (&list::SHARD_RECORDS, progress.acknowledged_records),
            (&list::SHARD_BYTES, progress.acknowledged_bytes),
            (&list::SHARD_FAILED_ATTEMPTS, progress.failed_attempts),
            (&list::SHARD_AGGREGATES, progress.aggregates),
            (&list::SHARD_FILTERED, progress.filtered_records),
            (&list::SHARD_MALFORMED, progress.malformed_aggregates),
            (&list::SHARD_LOST_SPANS, progress.lost_spans.saturating_add(progress.possibly_lost_spans)),
            (&list::SHARD_RESTARTS, progress.restarts),
        ];
        for (metric, value) in counters {
            self.add(metric, worker, &[id], Value::Counter(value));
        }
    }
}

const STATES: [ConsumerState; 4] =
    [ConsumerState::Starting, ConsumerState::Running, ConsumerState::Stopping, ConsumerState::Stopped];

/// The phase of a worker as a label.
pub(crate) fn state_label(state: ConsumerState) -> &'static str {
    match state {
        ConsumerState::Starting => "starting",
        ConsumerState::Running => "running",
        ConsumerState::Stopping => "stopping",
        ConsumerState::Stopped => "stopped",
        // The enum may grow in its own crate.
        _ => "other",
    }
}

fn shard_state_label(state: ShardState) -> &'static str {
    match state {
        ShardState::Initializing => "initializing",
        ShardState::Reading => "reading",
        ShardState::Processing => "processing",
        ShardState::Flushing => "flushing",
        ShardState::BackingOff => "backing_off",
        ShardState::Halted => "halted",
        ShardState::Denied => "denied",
        ShardState::KeyUnavailable => "key_unavailable",
        ShardState::DataLost => "data_lost",
        ShardState::Ending => "ending",
        ShardState::Stopping => "stopping",
        ShardState::Finished => "finished",
        // The enum may grow in its own crate.
        _ => "other",
    }
}

/// The calls to a lease store by their kind.
fn kinds_of(calls: &StoreCalls) -> [(&'static str, u64); 14] {
    [
        ("list", calls.lists),
        ("get", calls.gets),
        ("create", calls.creates),
        ("renew", calls.renewals),
        ("checkpoint", calls.checkpoints),
        ("prepare", calls.prepares),
        ("take", calls.takes),
        ("hand_over", calls.hand_overs),
        ("request", calls.requests),
        ("note", calls.notes),
        ("reset", calls.resets),
        ("offer", calls.offers),
        ("release", calls.releases),
        ("delete", calls.deletes),
    ]
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

/// A count as a gauge: exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss)]
pub(super) fn count(value: usize) -> f64 {
    value as f64
}
