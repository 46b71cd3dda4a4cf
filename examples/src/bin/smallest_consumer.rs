//! The smallest useful consumer of a Kinesis stream: `smallest_consumer my-stream`.

use kinesis_streaming::prelude::*;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let stream = std::env::args().nth(1).ok_or("usage: smallest_consumer <stream>")?;
    let aws = KinesisAsl::connect(AwsSettings::new(stream)).await?;
    let consumer = Consumer::builder()
        .application("smallest-consumer")
        .source(aws.stream())
        .lease_store(aws.lease_store("smallest-consumer")?)
        .processors(batch_handler(async |shard, batch| {
            println!("{}: {} records", shard.shard_id, batch.len());
            Ok(()) // this acknowledges the batch: a checkpoint may pass it
        }))
        .build()?;
    let handle = consumer.handle();
    stop_on_signal(move || handle.stop()); // SIGTERM or Ctrl-C: finish, checkpoint, release
    println!("drained: {}", consumer.run().await?.is_drained());
    Ok(())
}
