//! The facade `metrics`: exactly the documented metrics, with their units and labels, and what becomes of shards that are gone.

use std::collections::{BTreeMap, BTreeSet};

use kinesis_streaming::prelude::*;
use kinesis_streaming::{METRICS, MetricKind, MetricsRecording};
use metrics_exporter_otel::OpenTelemetryRecorder;
use metrics_util::MetricKind as Kind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tokio::task::JoinHandle;

use crate::bed::{A_WHILE, APPLICATION, Bed, documented};

/// What a recorder has of one series.
struct Seen {
    kind: Kind,
    name: String,
    unit: Option<metrics::Unit>,
    meaning: Option<String>,
    labels: BTreeMap<String, String>,
    value: DebugValue,
}

fn seen(snapshotter: &Snapshotter) -> Vec<Seen> {
    let each = snapshotter.snapshot().into_vec().into_iter();
    each.map(|(key, unit, meaning, value)| {
        let (kind, key) = key.into_parts();
        let labels = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned()));
        Seen {
            kind,
            name: key.name().to_owned(),
            unit,
            meaning: meaning.map(|meaning| meaning.to_string()),
            labels: labels.collect(),
            value,
        }
    })
    .collect()
}

fn number(value: &DebugValue) -> f64 {
    match value {
        DebugValue::Gauge(value) => value.0,
        DebugValue::Counter(count) => *count as f64,
        DebugValue::Histogram(_) => panic!("no histogram is documented"),
    }
}

/// A consumer with a shard that is processed and one that is halted.
async fn half_halted() -> (Bed, JoinHandle<Result<StopReport, ConsumerError>>) {
    let mut bed = Bed::new();
    let running = bed.run();
    bed.put_into_each_shard("good");
    tokio::time::sleep(A_WHILE).await;
    bed.stream.put("one key", "bad").unwrap();
    tokio::time::sleep(A_WHILE).await;
    (bed, running)
}

#[tokio::test(start_paused = true)]
async fn recorder_gets_exactly_the_documented_metrics() {
    let (bed, running) = half_halted().await;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let mut recording = MetricsRecording::new(bed.metrics);
    metrics::with_local_recorder(&recorder, || recording.record());
    let all = seen(&snapshotter);
    let names: BTreeSet<&str> = all.iter().map(|seen| seen.name.as_str()).collect();
    // Those of the layers have a test of their own.
    assert_eq!(names, documented());
    for Seen { kind, name, unit, meaning, labels, .. } in &all {
        let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
        let expected = if metric.kind == MetricKind::Counter { Kind::Counter } else { Kind::Gauge };
        assert_eq!(*kind, expected, "{name}");
        assert_eq!(unit.map(|unit| unit.as_str()), Some(metric.unit), "{name}");
        assert_eq!(meaning.as_deref(), Some(metric.meaning), "{name}");
        let expected = ["application", "worker"].into_iter().chain(metric.labels.iter().copied());
        assert_eq!(labels.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected.collect(), "{name}");
        assert_eq!((labels["application"].as_str(), labels["worker"].as_str()), (APPLICATION, "worker-1"));
    }
    let one = |name: &str| number(&all.iter().find(|seen| seen.name == name).unwrap().value);
    assert!(one("kinesis_consumer_acknowledged_records_total") >= 16.0);
    assert!(one("kinesis_consumer_failed_attempts_total") >= 1.0);
    assert!((one("kinesis_consumer_leases") - 2.0).abs() < 1e-9);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn gauges_of_a_shard_that_is_gone_are_not_numbers() {
    let (bed, running) = half_halted().await;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let mut recording = MetricsRecording::new(bed.metrics.clone());
    metrics::with_local_recorder(&recorder, || recording.record());
    let of_shards = |all: &[Seen]| {
        let ages = all.iter().filter(|seen| seen.name == "kinesis_consumer_shard_position_age_seconds");
        ages.map(|seen| number(&seen.value)).collect::<Vec<f64>>()
    };
    let held = of_shards(&seen(&snapshotter));
    assert!(held.len() == 2 && held.iter().all(|age| age.is_finite()), "{held:?}");
    bed.handle.stop_and_wait().await;
    running.await.unwrap().unwrap();
    metrics::with_local_recorder(&recorder, || recording.record());
    let released = of_shards(&seen(&snapshotter));
    assert!(released.len() == 2 && released.iter().all(|age| age.is_nan()), "{released:?}");
}

#[tokio::test(start_paused = true)]
async fn final_counts_are_recorded_when_the_consumer_ends() {
    let mut bed = Bed::new();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let recording = tokio::spawn(MetricsRecording::new(bed.metrics.clone()).every(A_WHILE * 100));
    let running = bed.run();
    tokio::time::sleep(A_WHILE).await;
    bed.stream.put("key", "good").unwrap();
    tokio::time::sleep(A_WHILE).await;
    bed.handle.stop();
    assert!(running.await.unwrap().unwrap().is_drained());
    recording.await.unwrap();
    let all = seen(&snapshotter);
    let records = all.iter().find(|seen| seen.name == "kinesis_consumer_acknowledged_records_total").unwrap();
    assert!((number(&records.value) - 1.0).abs() < 1e-9, "{:?}", records.value);
}

/// The way to OpenTelemetry, up to its exporter: that of OTLP is one more line (`docs/metrics.md`).
#[tokio::test(start_paused = true)]
async fn open_telemetry_exports_the_documented_metrics() {
    let (bed, running) = half_halted().await;
    let exporter = InMemoryMetricExporter::default();
    let provider =
        SdkMeterProvider::builder().with_reader(PeriodicReader::builder(exporter.clone()).build()).build();
    let recorder = OpenTelemetryRecorder::new(provider.meter("kinesis"));
    metrics::with_local_recorder(&recorder, || MetricsRecording::new(bed.metrics.clone()).record());
    provider.force_flush().unwrap();
    let mut names = BTreeSet::new();
    for resource in exporter.get_finished_metrics().unwrap() {
        for scope in resource.scope_metrics() {
            names.extend(scope.metrics().map(|metric| metric.name().to_owned()));
        }
    }
    assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), documented());
    running.abort();
}
