//! The whole workspace, used as a program uses it.

use std::sync::Arc;
use std::time::Duration;

use kinesis_streaming::kinesis_asl::{
    AwsSettings, FanOutSettings, GetRecordsFormat, KinesisAsl, KinesisStream, RetrievalMode,
};
use kinesis_streaming::prelude::{
    BoxError, Consumer, InMemoryLeaseStore, InitialPosition, RecordBatch, RecordProcessor, ShardContext,
    async_trait,
};

use super::job::{Job, credentials};
use super::tally::Tally;

/// A processor that counts its records.
struct Counting {
    tally: Arc<Tally>,
    is_first: bool,
}

#[async_trait]
impl RecordProcessor for Counting {
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        self.tally.arrived(batch.iter().map(|record| record.approximate_arrival));
        // Sub-records of an aggregate share its sequence number; the expected total counts Kinesis records.
        let records = batch.iter().filter(|record| record.sub_sequence_number == 0).count() as u64;
        self.tally.add(self.is_first, records, batch.payload_bytes());
        self.is_first = false;
        Ok(())
    }
}

pub(super) fn start(format: GetRecordsFormat, job: &Job, tally: &Arc<Tally>) -> Result<(), BoxError> {
    // Reads as often as AWS allows, like the other contenders.
    let stream = KinesisStream::from_client(job.client()?, "words")
        .without_byte_limit()
        .with_idle_time_between_reads(Duration::ZERO)
        .with_get_records_format(format);
    let consumer = consumer(stream, tally)?;
    tokio::spawn(run(consumer));
    Ok(())
}

/// Reads by enhanced fan-out, with the clients of an application. `AWS_CA_BUNDLE` has to name the certificate of the server.
pub(super) fn start_fan_out(job: &Job, tally: &Arc<Tally>) {
    let mut settings = AwsSettings::new("words");
    settings.region = Some("us-east-1".to_owned());
    settings.kinesis_endpoint_url = Some(job.endpoint.clone());
    settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_name("benchmark"));
    let tally = tally.clone();
    tokio::spawn(async move {
        let connecting = Box::pin(KinesisAsl::builder(settings).credentials(credentials()).connect());
        let consumer = match connecting.await {
            Ok(aws) => consumer(aws.stream(), &tally),
            Err(error) => Err(error.into()),
        };
        match consumer {
            Ok(consumer) => run(consumer).await,
            Err(error) => eprintln!("pipeline-fan-out cannot start: {error}"),
        }
    });
}

fn consumer(stream: KinesisStream, tally: &Arc<Tally>) -> Result<Consumer, BoxError> {
    let tally = tally.clone();
    let consumer = Consumer::builder()
        .application("benchmark")
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .initial_position(InitialPosition::TrimHorizon)
        .seed(1)
        .processors(move |_: ShardContext| Counting { tally: tally.clone(), is_first: true })
        .build()?;
    Ok(consumer)
}

async fn run(consumer: Consumer) {
    match consumer.run().await {
        Ok(report) => eprintln!("consumer ended: {report:?}"),
        Err(error) => eprintln!("consumer failed: {error}"),
    }
}
