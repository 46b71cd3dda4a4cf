//! The usual loop over `SubscribeToShard` of `aws-sdk-kinesis` alone: no leases, no checkpoints, no memory limit.

use std::sync::Arc;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition, SubscribeToShardEventStream};
use kinesis_streaming::prelude::BoxError;

use super::job::Job;
use super::tally::Tally;

pub(super) fn start(job: &Job, tally: &Arc<Tally>) -> Result<(), BoxError> {
    let client = job.client()?;
    let (job, tally) = (job.clone(), tally.clone());
    tokio::spawn(async move {
        let consumer_arn = match register(&client).await {
            Ok(consumer_arn) => consumer_arn,
            Err(error) => return eprintln!("sdk-fan-out cannot register a consumer: {error}"),
        };
        for shard in 0..job.shards {
            let (client, consumer_arn) = (client.clone(), consumer_arn.clone());
            let (job, tally) = (job.clone(), tally.clone());
            tokio::spawn(async move {
                if let Err(error) = read(&client, &consumer_arn, shard, &job, &tally).await {
                    eprintln!("sdk-fan-out, shard {shard}: {error}");
                }
            });
        }
    });
    Ok(())
}

async fn register(client: &Client) -> Result<String, BoxError> {
    let stream = client.describe_stream_summary().stream_name("words").send().await?;
    let stream = stream.stream_description_summary.ok_or("the stream has no description")?;
    let registered = client
        .register_stream_consumer()
        .stream_arn(stream.stream_arn)
        .consumer_name("benchmark")
        .send()
        .await?;
    Ok(registered.consumer.ok_or("no consumer was registered")?.consumer_arn)
}

async fn read(
    client: &Client,
    consumer_arn: &str,
    shard: u64,
    job: &Job,
    tally: &Tally,
) -> Result<(), BoxError> {
    let mut start = StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon).build()?;
    let mut records = 0;
    loop {
        let mut subscription = client
            .subscribe_to_shard()
            .consumer_arn(consumer_arn)
            .shard_id(format!("shardId-{shard:012}"))
            .starting_position(start.clone())
            .send()
            .await?;
        while let Some(event) = subscription.event_stream.recv().await? {
            let SubscribeToShardEventStream::SubscribeToShardEvent(event) = event else { continue };
            let count = event.records.len() as u64;
            if count > 0 {
                let bytes = event.records.iter().map(|record| record.data.as_ref().len() as u64).sum();
                tally.add(records == 0, count, bytes);
                records += count;
            }
            if records >= job.shape.records() * job.answers {
                return Ok(());
            }
            start = StartingPosition::builder()
                .r#type(ShardIteratorType::AfterSequenceNumber)
                .sequence_number(event.continuation_sequence_number)
                .build()?;
        }
    }
}
