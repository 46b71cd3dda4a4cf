//! Our receiver as a peer of the Java KCL: it records every delivery in a file, and drains on SIGTERM.
//!
//! ```text
//! interop_consumer STREAM APPLICATION KINESIS_URL DYNAMODB_URL WORKER FAILOVER_MILLIS FILE HANDLING_MILLIS [CONSUMER]
//! ```
//!
//! With a CONSUMER it reads by fan-out, otherwise by polling.
//!
//! It takes HANDLING_MILLIS for a batch before it records it: a record that is acknowledged too early would be lost in a
//! kill.
//!
//! Exit status: 0 when everything delivered was also checkpointed, 3 when not, 1 after an error.

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use end_to_end_tests::interop::deliveries::{Delivery, DeliveryFile, now_millis};
use end_to_end_tests::interop::lease_rows::KclPosition;
use end_to_end_tests::interop::workers::UNDRAINED_STATUS;
use kinesis_streaming::prelude::*;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// About as often as the Java worker checkpoints, so that both repeat about as much after a kill.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// The idle time in the settings of the Java worker.
const IDLE_TIME_BETWEEN_READS: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() -> ExitCode {
    let filter = env::var("RUST_LOG").unwrap_or_else(|_| "info,receiver=debug".to_owned());
    let filter: Targets = filter.parse().unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter).init();
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(u8::try_from(UNDRAINED_STATUS).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("interop_consumer: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, BoxError> {
    // Before the first log line: a test that sees a line may send the signal.
    let mut terminate = signal(SignalKind::terminate())?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [
        stream,
        application,
        kinesis,
        dynamodb,
        worker,
        failover_millis,
        file,
        handling_millis,
        consumer @ ..,
    ] = arguments.as_slice()
    else {
        return Err(
            "usage: interop_consumer STREAM APPLICATION KINESIS_URL DYNAMODB_URL WORKER FAILOVER_MILLIS \
                    FILE HANDLING_MILLIS [CONSUMER]"
                .into(),
        );
    };
    let handling_time = Duration::from_millis(handling_millis.parse()?);
    let mut settings = AwsSettings::new(stream);
    settings.kinesis_endpoint_url = Some(kinesis.clone());
    settings.dynamodb_endpoint_url = Some(dynamodb.clone());
    settings.idle_time_between_reads = IDLE_TIME_BETWEEN_READS;
    if let [name] = consumer {
        settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_name(name));
    }
    let aws = KinesisAsl::connect(settings).await?;
    let file = Arc::new(Mutex::new(DeliveryFile::append_to(Path::new(file))?));
    let mut receiver_settings = ConsumerSettings::default();
    receiver_settings.application.clone_from(application);
    receiver_settings.worker_id = Some(worker.clone());
    receiver_settings.initial_position = InitialPosition::TrimHorizon;
    receiver_settings.failover_time = Duration::from_millis(failover_millis.parse()?);
    receiver_settings.checkpoint_interval = CHECKPOINT_INTERVAL;
    let consumer = Consumer::builder()
        .settings(receiver_settings)
        .source(aws.stream())
        .lease_store(aws.lease_store(application)?)
        .processors(batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            let file = file.clone();
            async move {
                if !handling_time.is_zero() {
                    tokio::time::sleep(handling_time).await;
                }
                record(&file, &shard, &batch)
            }
        }))
        .build()?;
    let handle = consumer.handle();
    tokio::spawn(async move {
        terminate.recv().await;
        handle.stop();
    });
    Ok(consumer.run().await?.is_complete())
}

fn record(file: &Mutex<DeliveryFile>, shard: &ShardContext, batch: &RecordBatch) -> Result<(), BoxError> {
    let at_millis = now_millis();
    let batch: Vec<Delivery> = batch
        .iter()
        .map(|record| {
            Ok(Delivery {
                worker: shard.worker_id.to_string(),
                shard: shard.shard_id.to_string(),
                position: KclPosition::new(&record.sequence_number.to_string(), record.sub_sequence_number),
                number: std::str::from_utf8(&record.data)?.parse()?,
                at_millis,
            })
        })
        .collect::<Result<_, BoxError>>()?;
    file.lock().unwrap_or_else(PoisonError::into_inner).append(&batch)?;
    Ok(())
}
