//! The whole workspace, used as a program uses it.

use std::sync::Arc;
use std::time::Duration;

use kinesis_streaming::kinesis_asl::{GetRecordsFormat, KinesisStream};
use kinesis_streaming::prelude::{
    BoxError, Consumer, InMemoryLeaseStore, InitialPosition, RecordBatch, RecordProcessor, ShardContext,
    async_trait,
};

use super::job::Job;
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
    let stream = KinesisStream::from_client(job.client(), "words")
        .without_byte_limit()
        .with_idle_time_between_reads(Duration::ZERO)
        .with_get_records_format(format);
    let tally = tally.clone();
    let consumer = Consumer::builder()
        .application("benchmark")
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .initial_position(InitialPosition::TrimHorizon)
        .seed(1)
        .processors(move |_: ShardContext| Counting { tally: tally.clone(), is_first: true })
        .build()?;
    tokio::spawn(async move {
        match consumer.run().await {
            Ok(report) => eprintln!("consumer ended: {report:?}"),
            Err(error) => eprintln!("consumer failed: {error}"),
        }
    });
    Ok(())
}
