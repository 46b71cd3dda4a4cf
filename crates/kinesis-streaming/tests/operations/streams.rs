//! A consumer of several streams: a label for each stream in the metrics, and a line for each in the probes.

use std::num::NonZeroUsize;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use kinesis_streaming::prelude::*;
use kinesis_streaming::{ConsumerMetrics, METRICS, MetricsRecording, operations_router};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::ServiceExt as _;

use crate::bed::{A_WHILE, APPLICATION};

/// The largest answer.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The metrics that belong to the worker, whatever its streams.
const OF_THE_WORKER: [&str; 5] = [
    "kinesis_consumer_streams",
    "kinesis_consumer_buffered_bytes",
    "kinesis_consumer_buffer_limit_bytes",
    "kinesis_consumer_waiting_reads",
    "kinesis_consumer_lease_calls_total",
];

fn stream(name: &str) -> InMemoryStream {
    InMemoryStream::new(name, NonZeroUsize::MIN)
}

/// A worker that fails with each record of the text `bad`.
fn consumer(streams: &[&InMemoryStream]) -> MultiStreamConsumer {
    Consumer::builder()
        .application(APPLICATION)
        .worker_id("worker-1")
        .seed(1)
        .processors(batch_handler(async |_, batch| {
            let has_bad = batch.records().iter().any(|record| record.data.as_ref() == b"bad");
            if has_bad { Err("a bad record".into()) } else { Ok(()) }
        }))
        .with_streams(streams.iter().map(|&stream| StreamConfig::new(stream.clone())))
        .lease_store(InMemoryMultiStreamLeaseStore::new())
        .build()
        .unwrap()
}

async fn get(router: &Router, path: &str) -> (u16, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), MAX_BODY_BYTES).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn codes(router: &Router) -> (u16, u16) {
    (get(router, "/healthz").await.0, get(router, "/readyz").await.0)
}

#[tokio::test(start_paused = true)]
async fn each_stream_has_its_label_in_the_metrics() {
    let [orders, bills] = ["orders", "bills"].map(stream);
    let consumer = consumer(&[&orders, &bills]);
    let metrics = ConsumerMetrics::new(APPLICATION, consumer.handle())
        .with_lease_calls(lease_store::StoreCalls::default);
    let router: Router = operations_router(metrics);
    let running = tokio::spawn(consumer.run());
    orders.put("key", "one").unwrap();
    for text in ["one", "two"] {
        bills.put("key", text).unwrap();
    }
    tokio::time::sleep(A_WHILE).await;
    let text = get(&router, "/metrics").await.1;
    let mut series = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (labelled, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
        assert!(series.insert(labelled.to_owned()), "twice: {line}");
        let name = labelled.split_once('{').unwrap().0;
        let is_of_stream = labelled.contains(",worker=\"worker-1\",stream=\"");
        assert_eq!(is_of_stream, !OF_THE_WORKER.contains(&name), "{line}");
    }
    for line in [
        "kinesis_consumer_streams{application=\"word-count\",worker=\"worker-1\"} 2",
        "kinesis_consumer_stream_failed{application=\"word-count\",worker=\"worker-1\",stream=\"bills\"} 0",
        "kinesis_consumer_acknowledged_records_total{application=\"word-count\",worker=\"worker-1\",stream=\"orders\"} 1",
        "kinesis_consumer_shard_acknowledged_records_total{application=\"word-count\",worker=\"worker-1\",stream=\"bills\",shard=\"shardId-000000000000\"} 2",
    ] {
        assert!(text.lines().any(|exposed| exposed == line), "{line} is missing in\n{text}");
    }
    for name in text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()) {
        assert!(METRICS.iter().any(|metric| metric.name == name), "{name} is not documented");
    }
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_name_are_apart_in_the_metrics() {
    // Two streams of one name, as those of two accounts.
    let consumer = consumer(&[&stream("orders"), &stream("orders"), &stream("orders")]);
    let router: Router = operations_router(ConsumerMetrics::new(APPLICATION, consumer.handle()));
    let text = get(&router, "/metrics").await.1;
    for name in ["orders", "orders (2)", "orders (3)"] {
        let start = format!(
            "kinesis_consumer_healthy{{application=\"word-count\",worker=\"worker-1\",stream=\"{name}\"}}"
        );
        assert_eq!(text.lines().filter(|line| line.starts_with(&start)).count(), 1, "{text}");
    }
    drop(consumer);
}

#[tokio::test(start_paused = true)]
async fn recorder_keeps_the_streams_of_a_worker_apart() {
    let [orders, bills] = ["orders", "bills"].map(stream);
    let consumer = consumer(&[&orders, &bills]);
    let handle = consumer.handle();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let mut recording = MetricsRecording::new(ConsumerMetrics::new(APPLICATION, handle.clone()));
    let running = tokio::spawn(consumer.run());
    // A snapshot of this recorder sets its counters to 0.
    let records = || -> Vec<(String, u64)> {
        let all = snapshotter.snapshot().into_vec().into_iter();
        let records = all.filter_map(|(key, _, _, value)| {
            let (key, DebugValue::Counter(count)) = (key.key(), value) else { return None };
            let stream = key.labels().find(|label| label.key() == "stream")?.value().to_owned();
            (key.name() == "kinesis_consumer_acknowledged_records_total").then_some((stream, count))
        });
        let mut records: Vec<_> = records.collect();
        records.sort();
        records
    };
    orders.put("key", "one").unwrap();
    tokio::time::sleep(A_WHILE).await;
    metrics::with_local_recorder(&recorder, || recording.record());
    assert_eq!(records(), [("bills".to_owned(), 0), ("orders".to_owned(), 1)]);
    // A stream that is added again counts from 0, and its counter goes on.
    handle.remove_stream("orders", FormerLeases::Keep).unwrap().stopped().await;
    handle.add_stream(StreamConfig::new(orders.clone())).unwrap();
    for text in ["two", "three"] {
        orders.put("key", text).unwrap();
        bills.put("key", text).unwrap();
    }
    tokio::time::sleep(A_WHILE).await;
    metrics::with_local_recorder(&recorder, || recording.record());
    assert_eq!(records(), [("bills".to_owned(), 2), ("orders".to_owned(), 2)]);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn probes_follow_the_streams_of_a_consumer() {
    let [orders, bills, invoices] = ["orders", "bills", "invoices"].map(stream);
    let consumer = consumer(&[&orders, &bills]);
    let handle = consumer.handle();
    let router: Router = operations_router(ConsumerMetrics::new(APPLICATION, handle.clone()));
    assert_eq!(codes(&router).await, (200, 503), "not started");
    let running = tokio::spawn(consumer.run());
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(
        get(&router, "/readyz").await,
        (200, "worker-1 orders: running\nworker-1 bills: running\n".to_owned())
    );
    // A stream that is stopped or removed on its own is no fault, and neither is a list without streams.
    handle.of_stream("bills").unwrap().stop_and_wait().await;
    assert_eq!(
        get(&router, "/readyz").await,
        (200, "worker-1 orders: running\nworker-1 bills: stopped\n".to_owned())
    );
    for name in ["bills", "orders"] {
        handle.remove_stream(name, FormerLeases::Keep).unwrap().stopped().await;
        assert_eq!(codes(&router).await, (200, 200));
    }
    // A stream that fails is one, and the process lives.
    handle.add_stream(StreamConfig::new(orders.clone())).unwrap();
    handle.add_stream(StreamConfig::new(invoices.clone())).unwrap();
    handle.add_stream(StreamConfig::new(orders.clone()).named("twice")).unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(codes(&router).await, (200, 503));
    let body = get(&router, "/readyz").await.1;
    assert!(
        body.contains("worker-1 twice: the stream is not read any more: the consumer has the stream"),
        "{body}"
    );
    handle.remove_stream("twice", FormerLeases::Keep).unwrap();
    assert_eq!(codes(&router).await, (200, 200));
    invoices.put("key", "bad").unwrap();
    tokio::time::sleep(A_WHILE * 10).await;
    assert_eq!(codes(&router).await, (200, 503));
    let body = get(&router, "/readyz").await.1;
    assert!(body.contains("worker-1 invoices: ") && body.contains("a bad record"), "{body}");
    running.abort();
    handle.stopped().await;
    assert_eq!(codes(&router).await, (503, 503));
}
