//! The usual loop over `aws-sdk-kinesis` alone: no leases, no checkpoints, no memory limit.

use std::sync::Arc;

use aws_sdk_kinesis::types::ShardIteratorType;
use kinesis_streaming::prelude::BoxError;
use tokio::time::{Instant, sleep_until};

use super::job::{Job, READ_INTERVAL};
use super::tally::Tally;

pub(super) fn start(job: &Job, tally: &Arc<Tally>) -> Result<(), BoxError> {
    let client = job.client()?;
    for shard in 0..job.shards {
        let (client, tally, job) = (client.clone(), tally.clone(), job.clone());
        tokio::spawn(async move {
            if let Err(error) = read(&client, shard, &job, &tally).await {
                eprintln!("sdk-loop, shard {shard}: {error}");
            }
        });
    }
    Ok(())
}

async fn read(
    client: &aws_sdk_kinesis::Client,
    shard: u64,
    job: &Job,
    tally: &Tally,
) -> Result<(), BoxError> {
    let first = client
        .get_shard_iterator()
        .stream_name("words")
        .shard_id(format!("shardId-{shard:012}"))
        .shard_iterator_type(ShardIteratorType::TrimHorizon)
        .send()
        .await?;
    let mut iterator = first.shard_iterator;
    let mut records = 0;
    loop {
        let due = Instant::now() + READ_INTERVAL;
        let answer = client.get_records().set_shard_iterator(iterator).send().await?;
        let count = answer.records.len() as u64;
        if count > 0 {
            let bytes = answer.records.iter().map(|record| record.data.as_ref().len() as u64).sum();
            let put_at = answer
                .records
                .iter()
                .map(|record| record.approximate_arrival_timestamp.and_then(|time| time.try_into().ok()));
            tally.arrived(put_at);
            tally.add(records == 0, count, bytes);
            records += count;
        }
        iterator = answer.next_shard_iterator;
        if iterator.is_none() || (!job.is_timed() && records >= job.shape.records() * job.answers) {
            return Ok(());
        }
        sleep_until(due).await;
    }
}
