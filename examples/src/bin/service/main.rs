//! A consumer as a service: settings from a file and the environment, logs in JSON, health and metrics over HTTP, a stop at SIGTERM.
//!
//! ```text
//! cargo run -p examples --features service --bin service                          # embedded: records by POST /records
//! cargo run -p examples --features service,kinesis-asl --bin service service.toml  # a stream of Kinesis
//! ```
//!
//! It counts the words of the records. Replace `count_words.rs` by your own processor, and keep the rest. Exit status: 0 if all
//! delivered records are checkpointed, 3 if not, 1 after an error.

#[cfg(feature = "kinesis-asl")]
mod aws;
#[cfg(not(feature = "kinesis-asl"))]
#[path = "without_aws.rs"]
mod aws;
mod count_words;
mod embedded;
mod json_log;
mod settings;

use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use kinesis_streaming::lease_store::{CountingLeaseStore, StoreCalls};
use kinesis_streaming::prelude::*;
use kinesis_streaming::{ConsumerMetrics, operations_router};
use tokio::net::TcpListener;

use crate::settings::Settings;

/// The exit status after a stop that left delivered records without a checkpoint.
const NOT_DRAINED: u8 = 3;

/// Where records come from, where leases are, and the paths that the source adds to the router.
struct Backend {
    source: Arc<dyn StreamSource>,
    leases: Arc<dyn LeaseStore>,
    lease_calls: Box<dyn Fn() -> StoreCalls + Send + Sync>,
    routes: Router,
}

impl Backend {
    /// A stream and a table, whose calls are counted.
    fn new(source: impl StreamSource, leases: impl LeaseStore + Clone, routes: Router) -> Self {
        let leases = CountingLeaseStore::new(leases);
        let counted = leases.clone();
        Self {
            source: Arc::new(source),
            leases: Arc::new(leases),
            lease_calls: Box::new(move || counted.calls()),
            routes,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match Settings::load(std::env::args().nth(1).as_deref(), std::env::vars()) {
        Ok(settings) => settings,
        Err(error) => {
            json_log::init("info");
            tracing::error!(%error, "the settings are not valid");
            return ExitCode::FAILURE;
        }
    };
    json_log::init(&settings.log);
    match run(settings).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_DRAINED),
        Err(error) => {
            tracing::error!(%error, "the service failed");
            ExitCode::FAILURE
        }
    }
}

/// Runs until the consumer has stopped. Returns whether it is drained.
async fn run(settings: Settings) -> Result<bool, BoxError> {
    let application = settings.consumer.application.clone();
    let is_embedded = settings.stream.is_none();
    let backend = match &settings.stream {
        Some(stream) => aws::connect(stream, &application).await?,
        None => embedded::start(settings.embedded.shards),
    };
    let consumer = Consumer::builder()
        .settings(settings.consumer)
        .shared_source(backend.source)
        .shared_lease_store(backend.leases.clone())
        .processors(count_words::handler())
        .build()?;
    let handle = consumer.handle();
    let metrics = ConsumerMetrics::new(application, handle.clone()).with_lease_calls(backend.lease_calls);

    let listener = TcpListener::bind(settings.listen).await?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let router = operations_router(metrics).merge(backend.routes);
    let ended = handle.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        // Probes are answered until the last checkpoint is written.
        ended.stopped().await;
    });
    let serving = tokio::spawn(server.into_future());

    stop_on_signal(move || handle.stop());
    let report = consumer.run().await?;
    serving.await??;
    if is_embedded {
        embedded::log_positions(&*backend.leases).await?;
    }
    tracing::info!(
        worker = %report.worker_id,
        drained = report.is_drained(),
        records = report.acknowledged_records,
        "stopped"
    );
    Ok(report.is_drained())
}
