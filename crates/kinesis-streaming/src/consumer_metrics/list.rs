//! The one list of the metrics of a consumer. `docs/metrics.md` is compared with it. Pure.

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// A value that rises and falls.
    Gauge,
    /// A count that only rises.
    Counter,
}

/// A metric, as it is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, in the style of Prometheus.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its unit: `seconds`, `bytes` or `count`.
    pub unit: &'static str,
    /// The labels besides `application` and `worker`, which each metric has. With several streams in one consumer, a metric about
    /// a stream or a shard has the label `stream` too.
    pub labels: &'static [&'static str],
    /// Its meaning.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$unit:literal $(, $label:literal)*] $meaning:literal;)+) => {
        $(pub(super) const $constant: Metric = Metric {
            name: $name,
            kind: MetricKind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            meaning: $meaning,
        };)+
        /// All metrics of a consumer, in the order in which they are exposed.
        pub const METRICS: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    STATE = Gauge "kinesis_consumer_state" ["count", "state"]
        "1 for the phase of the worker, 0 for all others; state is starting, running, stopping or stopped";
    HEALTHY = Gauge "kinesis_consumer_healthy" ["count"] "1 while the worker has no fault, else 0";
    FAULTS = Gauge "kinesis_consumer_faults" ["count"]
        "Number of faults: what /readyz shows, and `ConsumerStatus::health` returns";
    LEASES = Gauge "kinesis_consumer_leases" ["count"] "Number of leases that the worker holds";
    STANDBY = Gauge "kinesis_consumer_standby" ["count"] "1 while the worker runs without a shard, else 0";
    LEADER = Gauge "kinesis_consumer_leader" ["count"] "1 while the worker lists the shards for the fleet, else 0";
    LEASE_TABLE_AVAILABLE = Gauge "kinesis_consumer_lease_table_available" ["count"]
        "1 if the newest listing of the lease table was answered and complete, else 0";
    TAKES_REFUSED = Gauge "kinesis_consumer_takes_refused" ["count"]
        "1 while the worker takes no leases because a KCL 3.x leader assigns them, else 0";
    STREAMS = Gauge "kinesis_consumer_streams" ["count"]
        "Number of streams in the list of the worker; only with several streams in one consumer";
    STREAM_FAILED = Gauge "kinesis_consumer_stream_failed" ["count"]
        "1 if the worker does not read the stream any more because of a failure, else 0; only with several streams in one consumer";
    SHARDS_WITHOUT_WORKER = Gauge "kinesis_consumer_shards_without_worker" ["count"]
        "Number of shards that no worker reads because all hold their max_leases";
    NAMESAKE = Gauge "kinesis_consumer_namesake" ["count"]
        "1 while another live process has the same worker id, else 0";
    BUFFERED_BYTES = Gauge "kinesis_consumer_buffered_bytes" ["bytes"]
        "Memory for records in use, over all shards that share the budget";
    BUFFER_LIMIT_BYTES = Gauge "kinesis_consumer_buffer_limit_bytes" ["bytes"] "The budget of that memory";
    WAITING_READS = Gauge "kinesis_consumer_waiting_reads" ["count"] "Number of reads that wait for memory";
    RECORDS = Counter "kinesis_consumer_acknowledged_records_total" ["count"]
        "Records acknowledged since the start of the worker, over all shards";
    BYTES = Counter "kinesis_consumer_acknowledged_bytes_total" ["bytes"] "Payload bytes of those records";
    FAILED_ATTEMPTS = Counter "kinesis_consumer_failed_attempts_total" ["count"]
        "Attempts of the application's code that failed, panicked or took too long";
    DEAD_LETTERS = Counter "kinesis_consumer_dead_letters_total" ["count"]
        "Records that went to the dead-letter sink";
    SKIPPED_RECORDS = Counter "kinesis_consumer_skipped_records_total" ["count"]
        "Records that the failure policy skipped: they are lost to the application";
    LOST_LEASES = Counter "kinesis_consumer_lost_leases_total" ["count"] "Leases lost to other workers";
    HANDED_OVER_LEASES = Counter "kinesis_consumer_handed_over_leases_total" ["count"]
        "Leases handed over to workers that requested them";
    GIVEN_UP_LEASES = Counter "kinesis_consumer_given_up_leases_total" ["count"]
        "Leases released because their shards made no progress";
    NAMESAKE_SIGHTINGS = Counter "kinesis_consumer_namesake_sightings_total" ["count"]
        "How often another live process was seen under the same worker id";
    SHARD_STATE = Gauge "kinesis_consumer_shard_state" ["count", "shard", "state"]
        "1 for what the worker of the shard does; absent for all other states";
    SHARD_POSITION_AGE = Gauge "kinesis_consumer_shard_position_age_seconds" ["seconds", "shard"]
        "Every record that arrived earlier is acknowledged; it grows while the shard is halted or cannot be read";
    SHARD_BEHIND_LATEST = Gauge "kinesis_consumer_shard_behind_latest_seconds" ["seconds", "shard"]
        "How far the newest read lies behind the tip; it stays as it is while nothing is read";
    SHARD_OLDEST_UNACKNOWLEDGED = Gauge "kinesis_consumer_shard_oldest_unacknowledged_seconds" ["seconds", "shard"]
        "Age of the oldest batch that is delivered and not acknowledged; absent when there is none";
    SHARD_SINCE_PROGRESS = Gauge "kinesis_consumer_shard_since_progress_seconds" ["seconds", "shard"]
        "Time since the last answered read, acknowledgement or step; before the first one since the take of the lease";
    SHARD_SINCE_CHECKPOINT = Gauge "kinesis_consumer_shard_since_checkpoint_seconds" ["seconds", "shard"]
        "Time since the last checkpoint; absent before the first one of this holder";
    SHARD_FAILING = Gauge "kinesis_consumer_shard_failing_seconds" ["seconds", "shard"]
        "How long steps or records have failed; absent while nothing fails";
    SHARD_HELD = Gauge "kinesis_consumer_shard_held_seconds" ["seconds", "shard"]
        "How long the worker has held the lease";
    SHARD_RETENTION_ALARM = Gauge "kinesis_consumer_shard_retention_alarm" ["count", "shard"]
        "1 from half of the retention period on, 2 from four fifths of it on, else 0";
    SHARD_RECORDS = Counter "kinesis_consumer_shard_acknowledged_records_total" ["count", "shard"]
        "Records of the shard acknowledged under this lease";
    SHARD_BYTES = Counter "kinesis_consumer_shard_acknowledged_bytes_total" ["bytes", "shard"]
        "Payload bytes of those records";
    SHARD_FAILED_ATTEMPTS = Counter "kinesis_consumer_shard_failed_attempts_total" ["count", "shard"]
        "Attempts of the application's code that failed under this lease";
    SHARD_AGGREGATES = Counter "kinesis_consumer_shard_aggregates_total" ["count", "shard"]
        "Records in the format of the Kinesis Producer Library that were de-aggregated under this lease";
    SHARD_FILTERED = Counter "kinesis_consumer_shard_filtered_records_total" ["count", "shard"]
        "Sub-records filtered under this lease because another shard delivers them";
    SHARD_MALFORMED = Counter "kinesis_consumer_shard_malformed_aggregates_total" ["count", "shard"]
        "Malformed aggregates, delivered as one record each, under this lease";
    SHARD_LOST_SPANS = Counter "kinesis_consumer_shard_lost_spans_total" ["count", "shard"]
        "Spans of records that the stream removed, certainly or possibly, before they were read under this lease";
    SHARD_RESTARTS = Counter "kinesis_consumer_shard_restarts_total" ["count", "shard"]
        "Restarts of the work on the shard under this lease";
    LEASE_CALLS = Counter "kinesis_consumer_lease_calls_total" ["count", "call"]
        "Calls to the lease table by their kind; only with `with_lease_calls`";
    STREAM_READS = Counter "kinesis_consumer_stream_reads_total" ["count"]
        "Calls of GetRecords that have ended; only with `with_stream`, as all metrics of the stream";
    STREAM_THROTTLED_READS = Counter "kinesis_consumer_stream_throttled_reads_total" ["count"]
        "Those that were refused because a limit of the shard or of the account was exceeded";
    STREAM_TIMED_OUT_READS = Counter "kinesis_consumer_stream_timed_out_reads_total" ["count"]
        "Those without a whole answer in time; each retires its connection";
    STREAM_FAILED_READS = Counter "kinesis_consumer_stream_failed_reads_total" ["count"]
        "Those that failed for another reason, such as an expired iterator";
    FAN_OUT_SHARDS = Gauge "kinesis_consumer_fan_out_shards" ["count", "by"]
        "Number of shards that are read by subscription or by polling; only with `with_stream` and fan-out";
    FAN_OUT_SUBSCRIPTIONS = Counter "kinesis_consumer_fan_out_subscriptions_total" ["count"]
        "Subscriptions that the service has accepted";
    FAN_OUT_FAILURES = Counter "kinesis_consumer_fan_out_failed_subscriptions_total" ["count"]
        "Subscriptions that were refused, broke or became silent";
    KEYED_STATE_KEYS = Gauge "kinesis_consumer_keyed_state_keys" ["count", "shard"]
        "Number of keys with a value; only with `with_state`, as all metrics of the state";
    KEYED_STATE_UNSTORED = Gauge "kinesis_consumer_keyed_state_unstored_records" ["count", "shard"]
        "Number of records that are in the state and in no snapshot";
    KEYED_STATE_SNAPSHOT_BYTES = Gauge "kinesis_consumer_keyed_state_snapshot_bytes" ["bytes", "shard"]
        "Size of the newest snapshot";
    KEYED_STATE_FAILING = Gauge "kinesis_consumer_keyed_state_failing" ["count", "shard"]
        "1 if the last attempt to write a snapshot failed, else 0";
    KEYED_STATE_SNAPSHOTS = Counter "kinesis_consumer_keyed_state_snapshots_total" ["count", "shard"]
        "Snapshots written under this lease";
    STORAGE_BYTES = Gauge "kinesis_consumer_storage_bytes" ["bytes", "place"]
        "Bytes of blocks in memory, in the local store and in the replica store; only with `with_storage`, as all metrics of the \
         storage buffer";
    STORAGE_RECEIVED = Counter "kinesis_consumer_storage_received_records_total" ["count"]
        "Records received from the stream into blocks";
    STORAGE_BLOCKS = Counter "kinesis_consumer_storage_served_blocks_total" ["count", "place"]
        "Blocks served from memory, from the local store and from the replica store";
    STORAGE_BACKFILLS = Counter "kinesis_consumer_storage_backfilled_gaps_total" ["count"]
        "Gaps read again from the stream, where a block was damaged in or missing from all stores";
    STORAGE_LOSSES = Counter "kinesis_consumer_storage_lost_gaps_total" ["count"]
        "Gaps that the stream could no longer backfill completely";
    STORAGE_FAILURES = Counter "kinesis_consumer_storage_store_failures_total" ["count"]
        "Failed calls of a store";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_end_with_kind_and_unit() {
        let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            let stem = metric.name.trim_end_matches("_total");
            assert_eq!(stem != metric.name, metric.kind == MetricKind::Counter, "{}", metric.name);
            let ends_with = |unit: &str| stem.ends_with(&format!("_{unit}"));
            assert_eq!(ends_with("seconds"), metric.unit == "seconds", "{}", metric.name);
            assert_eq!(ends_with("bytes"), metric.unit == "bytes", "{}", metric.name);
        }
    }

    /// The rows of `docs/metrics.md`, between the markers.
    #[test]
    fn documented_metrics_are_those_of_the_list() {
        let page = include_str!("../../../../docs/metrics.md");
        let (_, rest) = page.split_once("<!-- metrics of a consumer: begin -->\n").unwrap();
        let (table, _) = rest.split_once("<!-- metrics of a consumer: end -->").unwrap();
        let mut expected =
            String::from("\n| name | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n");
        for metric in METRICS {
            let labels: String = metric.labels.iter().map(|label| format!(", `{label}`")).collect();
            let kind = if metric.kind == MetricKind::Counter { "counter" } else { "gauge" };
            expected.push_str(&format!(
                "| `{}` | {kind} | {} | `application`, `worker`{labels} | {} |\n",
                metric.name, metric.unit, metric.meaning
            ));
        }
        expected.push('\n');
        assert!(table == expected, "the table in docs/metrics.md should be\n{expected}");
    }
}
