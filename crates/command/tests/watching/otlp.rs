//! Metrics of a consumer by the exporter of OTLP to a collector: what `docs/metrics.md` shows, over a real connection.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use kinesis_streaming::prelude::*;
use kinesis_streaming::{ConsumerMetrics, MetricsRecording};
use metrics_exporter_otel::OpenTelemetryRecorder;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::bench::PATIENCE;

const RECORDS: u8 = 5;

/// What the collector received.
type Collected = Arc<Mutex<Vec<Metric>>>;

async fn collect(State(collected): State<Collected>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    collected.lock().unwrap().extend(scopes.flat_map(|scope| scope.metrics));
    StatusCode::OK
}

/// A collector; its address.
async fn collector(collected: &Collected) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().route("/v1/metrics", post(collect)).with_state(collected.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, AbortOnDropHandle::new(serving))
}

/// The provider of an application that exports to this address.
fn provider(address: &str) -> SdkMeterProvider {
    let exporter = opentelemetry_otlp::MetricExporter::builder()
        .with_http()
        .with_endpoint(format!("http://{address}/v1/metrics"))
        .build()
        .unwrap();
    SdkMeterProvider::builder().with_periodic_exporter(exporter).build()
}

fn points(metric: &Metric) -> &[NumberDataPoint] {
    match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => &gauge.data_points,
        Data::Sum(sum) => &sum.data_points,
        _ => panic!("{} is neither a gauge nor a sum", metric.name),
    }
}

fn value(point: &NumberDataPoint) -> f64 {
    match point.value.unwrap() {
        Value::AsDouble(value) => value,
        Value::AsInt(value) => f64::from(i32::try_from(value).unwrap()),
    }
}

fn label<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a KeyValue> {
    attributes.iter().find(|attribute| attribute.key == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_reach_a_collector_of_otlp() {
    let stream = InMemoryStream::new("words", NonZeroUsize::MIN);
    for number in 0..RECORDS {
        stream.put(format!("key-{number}"), "a word").unwrap();
    }
    let consumer = Consumer::builder()
        .application("word-count")
        .worker_id("worker-1")
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .checkpoint_interval(Duration::from_millis(100))
        .processors(batch_handler(async |_, _| Ok(())))
        .build()
        .unwrap();
    let handle = consumer.handle();
    let metrics = ConsumerMetrics::new("word-count", handle.clone());
    let running = tokio::spawn(consumer.run());
    let all_read = async {
        while handle.status().acknowledged_records < u64::from(RECORDS) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, all_read).await.is_ok(), "{:?}", handle.status());

    let collected = Collected::default();
    let (address, _serving) = collector(&collected).await;
    // Its client blocks.
    let exporting = tokio::task::spawn_blocking(move || {
        let provider = provider(&address);
        let recorder = OpenTelemetryRecorder::new(provider.meter("kinesis"));
        metrics::with_local_recorder(&recorder, || MetricsRecording::new(metrics).record());
        provider.force_flush().and_then(|()| provider.shutdown())
    });
    exporting.await.unwrap().unwrap();

    {
        let collected = collected.lock().unwrap();
        let of = |name: &str| collected.iter().find(|metric| metric.name == name).unwrap();
        let records = of("kinesis_consumer_acknowledged_records_total");
        assert!((value(&points(records)[0]) - f64::from(RECORDS)).abs() < 1e-9, "{records:?}");
        let lag = of("kinesis_consumer_shard_position_age_seconds");
        let attributes = &points(lag)[0].attributes;
        for name in ["application", "worker", "shard"] {
            assert!(label(attributes, name).is_some(), "{name} is missing in {attributes:?}");
        }
        assert_eq!(lag.unit, "s", "the code of UCUM");
    }
    handle.stop_and_wait().await;
    assert!(running.await.unwrap().unwrap().is_drained());
}
