//! Publishing metrics over the wire, to a server that only records the requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_cloudwatch::config::retry::RetryConfig;
use aws_sdk_cloudwatch::config::{BehaviorVersion, Region};
use aws_sdk_cloudwatch::{Client, Config};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use kinesis_asl::{AslErrorKind, CloudWatchPublisher, MetricSample};
use lease_store::{ShardId, WorkerId};
use tokio::sync::mpsc;

use crate::support::{REGION, Server, credentials};

/// The longest wait for a request or a stop before the test fails.
const LIMIT: Duration = Duration::from_secs(10);

/// The largest recorded body, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

struct CloudWatch {
    server: Server,
    requests: mpsc::Receiver<(String, Vec<u8>)>,
}

impl CloudWatch {
    /// Refuses this many requests, then accepts the others.
    async fn start(refusals: usize) -> Self {
        let (sender, requests) = mpsc::channel(64);
        let answered = Arc::new(AtomicUsize::new(0));
        let app = Router::new().fallback(move |request: Request| {
            let (sender, answered) = (sender.clone(), answered.clone());
            async move {
                let path = request.uri().path().to_owned();
                let body = to_bytes(request.into_body(), MAX_BODY_BYTES).await.unwrap();
                sender.send((path, body.to_vec())).await.unwrap();
                let status = if answered.fetch_add(1, Ordering::Relaxed) < refusals { 500 } else { 200 };
                // CloudWatch uses CBOR: the body is an empty map.
                let response = Response::builder().status(status).header("smithy-protocol", "rpc-v2-cbor");
                response.header("content-type", "application/cbor").body(Body::from(vec![0xa0])).unwrap()
            }
        });
        Self { server: Server::start(app).await, requests }
    }

    fn publisher(&self) -> CloudWatchPublisher {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials())
            .retry_config(RetryConfig::disabled())
            .endpoint_url(self.server.url())
            .build();
        CloudWatchPublisher::new(Client::from_conf(config), "word-count").unwrap()
    }

    async fn request(&mut self) -> (String, Vec<u8>) {
        tokio::time::timeout(LIMIT, self.requests.recv()).await.expect("a request arrives").unwrap()
    }
}

fn samples(count: u64) -> Vec<MetricSample> {
    (0..count).map(|number| MetricSample::records_processed(ShardId::numbered(number), number)).collect()
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn metrics_are_sent_with_namespace_and_dimensions() {
    let mut cloudwatch = CloudWatch::start(0).await;
    let worker = WorkerId::new("worker-a").unwrap();
    let mut not_finite = MetricSample::current_leases(worker.clone(), 0);
    (not_finite.name, not_finite.value) = ("NotFinite", f64::NAN);
    let samples = [
        MetricSample::millis_behind_latest(ShardId::numbered(3), 1500),
        MetricSample::current_leases(worker, 2),
        not_finite,
    ];
    cloudwatch.publisher().publish(&samples).await.unwrap();
    let (path, body) = cloudwatch.request().await;
    assert!(path.ends_with("/operation/PutMetricData"), "{path}");
    for text in [
        "word-count",
        "MillisBehindLatest",
        "shardId-000000000003",
        "CurrentLeases",
        "WorkerIdentifier",
        "worker-a",
    ] {
        assert!(contains(&body, text), "{text}");
    }
    assert!(!contains(&body, "NotFinite"));
}

#[tokio::test]
async fn a_request_holds_at_most_a_thousand_metrics() {
    let mut cloudwatch = CloudWatch::start(0).await;
    let publisher = cloudwatch.publisher();
    publisher.publish(&[]).await.unwrap();
    assert!(cloudwatch.requests.try_recv().is_err(), "no request without samples");
    publisher.publish(&samples(1000)).await.unwrap();
    publisher.publish(&samples(1001)).await.unwrap();
    for _ in 0..3 {
        cloudwatch.request().await;
    }
    assert!(cloudwatch.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_failed_publication_is_classified() {
    let cloudwatch = CloudWatch::start(1).await;
    let error = cloudwatch.publisher().publish(&samples(1)).await.unwrap_err();
    assert_eq!(error.kind(), AslErrorKind::Unavailable);
    assert!(error.to_string().contains("word-count"), "{error}");
}

#[tokio::test]
async fn task_continues_after_failures_and_publishes_at_stop() {
    let mut cloudwatch = CloudWatch::start(2).await;
    let task = cloudwatch.publisher().publish_every(Duration::from_millis(10), || samples(1));
    for _ in 0..4 {
        cloudwatch.request().await;
    }
    assert_eq!(task.failed_publications(), 2);
    tokio::time::timeout(LIMIT, task.stop()).await.expect("the task stops");

    // With a long interval, the only publication is that of the stop.
    let mut cloudwatch = CloudWatch::start(0).await;
    let task = cloudwatch.publisher().publish_every(Duration::from_secs(3600), || samples(1));
    assert!(cloudwatch.requests.try_recv().is_err());
    tokio::time::timeout(LIMIT, task.stop()).await.expect("the task stops");
    cloudwatch.request().await;
    assert!(cloudwatch.requests.try_recv().is_err());
}
