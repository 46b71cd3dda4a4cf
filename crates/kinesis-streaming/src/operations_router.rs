//! Metrics, liveness and readiness of a process over HTTP.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use receiver::{ConsumerState, ConsumerStatus};

use crate::consumer_metrics::ConsumerMetrics;
use crate::consumer_metrics::samples::state_label;
use crate::observed::{MetricsSource, Observation, ObservedStream};

/// The content type of the text format of Prometheus.
const EXPOSITION_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A router for the people and programs that operate a process with one consumer, a group, or a consumer of several streams. Serve
/// it on a port of its own, or merge it into the router of the application.
///
/// | path | answer |
/// | --- | --- |
/// | `/metrics` | the [metrics](ConsumerMetrics) in the text format of Prometheus |
/// | `/healthz` | 200 until a consumer of the process has ended; for a liveness probe. A shard that lags or is halted does not fail it: a restart would not cure it |
/// | `/readyz` | 200 while each consumer runs without a fault; the body has a line for each worker and each fault. For a readiness probe and for people |
///
/// A consumer of several streams has a line for each stream. It is alive until all of it has ended, and ready while each stream
/// runs without a fault; a stream that was stopped or removed on its own is no fault, and one that has failed is.
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
    let source = metrics.source().clone();
    Router::new()
        .route("/metrics", get(exposition).with_state(metrics))
        .route("/healthz", get(liveness).with_state(source.clone()))
        .route("/readyz", get(readiness).with_state(source))
}

async fn exposition(State(metrics): State<ConsumerMetrics>) -> Response {
    ([(CONTENT_TYPE, EXPOSITION_TYPE)], metrics.exposition()).into_response()
}

async fn liveness(State(source): State<MetricsSource>) -> Response {
    let (is_alive, body) = match source.observe() {
        Observation::Workers(statuses) => liveness_of(&statuses),
        Observation::Streams { has_ended, streams, .. } => {
            let lines = streams.iter().map(|stream| (name_of(stream), &stream.status));
            (!has_ended, state_lines(lines))
        }
    };
    answer(is_alive, body)
}

async fn readiness(State(source): State<MetricsSource>) -> Response {
    let (is_ready, body) = match source.observe() {
        Observation::Workers(statuses) => readiness_of(&statuses),
        Observation::Streams { has_ended, streams, .. } => readiness_of_streams(has_ended, &streams),
    };
    answer(is_ready, body)
}

fn answer(is_good: bool, body: String) -> Response {
    let code = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, body).into_response()
}

/// Whether every consumer of the process still works or is about to, with a line for each worker.
fn liveness_of(statuses: &[ConsumerStatus]) -> (bool, String) {
    let is_alive = statuses.iter().all(|status| status.state != ConsumerState::Stopped);
    let lines = statuses.iter().map(|status| (status.worker_id.to_string(), status));
    (is_alive, state_lines(lines))
}

/// A line with the phase of each consumer.
fn state_lines<'s>(consumers: impl Iterator<Item = (String, &'s ConsumerStatus)>) -> String {
    let mut body = String::new();
    for (name, status) in consumers {
        // Writing to a string cannot fail.
        let _ = writeln!(body, "{name}: {}", state_label(status.state));
    }
    body
}

/// Whether every consumer runs without a fault, with a line for each worker and each fault.
fn readiness_of(statuses: &[ConsumerStatus]) -> (bool, String) {
    let (mut is_ready, mut body) = (true, String::new());
    for status in statuses {
        let has_no_fault = write_faults(&mut body, status.worker_id.as_str(), status, None);
        is_ready &= status.state == ConsumerState::Running && has_no_fault;
    }
    (is_ready, body)
}

/// Whether a worker runs, and each of its streams has no fault. A stream that was stopped on its own is none.
fn readiness_of_streams(has_ended: bool, streams: &[ObservedStream]) -> (bool, String) {
    let mut body = String::new();
    let mut is_ready = !has_ended
        && (streams.is_empty() || streams.iter().any(|stream| is_in(stream, ConsumerState::Running)));
    for stream in streams {
        let has_no_fault =
            write_faults(&mut body, &name_of(stream), &stream.status, stream.failure.as_deref());
        is_ready &= !is_in(stream, ConsumerState::Starting) && has_no_fault;
    }
    (is_ready, body)
}

fn is_in(stream: &ObservedStream, state: ConsumerState) -> bool {
    stream.status.state == state
}

fn name_of(stream: &ObservedStream) -> String {
    format!("{} {}", stream.status.worker_id, stream.name)
}

/// Writes a line with the phase, and one for each fault. Returns whether there is none.
fn write_faults(body: &mut String, name: &str, status: &ConsumerStatus, failure: Option<&str>) -> bool {
    // Writing to a string cannot fail.
    let _ = writeln!(body, "{name}: {}", state_label(status.state));
    if let Some(failure) = failure {
        let _ = writeln!(body, "{name}: the stream is not read any more: {failure}");
    }
    let health = status.health();
    for fault in &health.faults {
        let _ = writeln!(body, "{name}: {fault}");
    }
    failure.is_none() && health.is_healthy()
}
