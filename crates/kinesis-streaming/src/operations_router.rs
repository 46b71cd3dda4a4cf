//! Metrics, liveness and readiness of a process over HTTP.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use receiver::{ConsumerGroupHandle, ConsumerState, ConsumerStatus};

use crate::consumer_metrics::ConsumerMetrics;
use crate::consumer_metrics::samples::state_label;

/// The content type of the text format of Prometheus.
const EXPOSITION_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A router for the people and programs that operate a process with one consumer or a group. Serve it on a port of its own, or
/// merge it into the router of the application.
///
/// | path | answer |
/// | --- | --- |
/// | `/metrics` | the [metrics](ConsumerMetrics) in the text format of Prometheus |
/// | `/healthz` | 200 until a consumer of the process has ended; for a liveness probe. A shard that lags or is halted does not fail it: a restart would not cure it |
/// | `/readyz` | 200 while each consumer runs without a fault; the body has a line for each worker and each fault. For a readiness probe and for people |
///
/// Answers come from the status of the consumers. No path calls a service or changes anything.
///
/// ```no_run
/// # async fn example(consumer: kinesis_streaming::Consumer) -> Result<(), kinesis_streaming::prelude::BoxError> {
/// use kinesis_streaming::{ConsumerMetrics, operations_router};
///
/// let operations: axum::Router = operations_router(ConsumerMetrics::new("word-count", consumer.handle()));
/// # let _ = operations;
/// # Ok(()) }
/// ```
pub fn operations_router<S>(metrics: ConsumerMetrics) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let handle = metrics.handle().clone();
    Router::new()
        .route("/metrics", get(exposition).with_state(metrics))
        .route("/healthz", get(liveness).with_state(handle.clone()))
        .route("/readyz", get(readiness).with_state(handle))
}

async fn exposition(State(metrics): State<ConsumerMetrics>) -> Response {
    ([(CONTENT_TYPE, EXPOSITION_TYPE)], metrics.exposition()).into_response()
}

async fn liveness(State(handle): State<ConsumerGroupHandle>) -> Response {
    let (is_alive, body) = liveness_of(&handle.statuses());
    answer(is_alive, body)
}

async fn readiness(State(handle): State<ConsumerGroupHandle>) -> Response {
    let (is_ready, body) = readiness_of(&handle.statuses());
    answer(is_ready, body)
}

fn answer(is_good: bool, body: String) -> Response {
    let code = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, body).into_response()
}

/// Whether every consumer of the process still works or is about to, with a line for each worker.
fn liveness_of(statuses: &[ConsumerStatus]) -> (bool, String) {
    let is_alive = statuses.iter().all(|status| status.state != ConsumerState::Stopped);
    let mut body = String::new();
    for status in statuses {
        // Writing to a string cannot fail.
        let _ = writeln!(body, "{}: {}", status.worker_id, state_label(status.state));
    }
    (is_alive, body)
}

/// Whether every consumer runs without a fault, with a line for each worker and each fault.
fn readiness_of(statuses: &[ConsumerStatus]) -> (bool, String) {
    let (mut is_ready, mut body) = (true, String::new());
    for status in statuses {
        let health = status.health();
        is_ready &= status.state == ConsumerState::Running && health.is_healthy();
        // Writing to a string cannot fail.
        let _ = writeln!(body, "{}: {}", status.worker_id, state_label(status.state));
        for fault in &health.faults {
            let _ = writeln!(body, "{}: {fault}", status.worker_id);
        }
    }
    (is_ready, body)
}
