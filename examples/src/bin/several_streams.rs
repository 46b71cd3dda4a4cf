//! Several streams in one worker: orders and bills share a lease table, and the workers of the fleet divide the shards of both.
//!
//! ```text
//! cargo run --bin several_streams
//! ```

use std::num::NonZeroUsize;

use kinesis_streaming::prelude::*;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let [orders, bills] = ["orders", "bills"].map(|name| InMemoryStream::new(name, NonZeroUsize::MIN));
    for (stream, text) in [(&orders, "order 1"), (&orders, "order 2"), (&bills, "bill 1")] {
        stream.put("customer 7", text)?;
    }

    let (seen, mut lines) = mpsc::channel(8);
    let consumer = Consumer::builder()
        .application("several-streams")
        .processors(batch_handler(move |shard: ShardContext, batch: RecordBatch| async move {
            for record in batch.iter() {
                // The context tells the stream; shard ids are the same in all of them.
                let text = String::from_utf8_lossy(&record.data);
                seen.send(format!("{} {}: {text}", shard.stream, shard.shard_id)).await?;
            }
            Ok(())
        }))
        .with_streams([
            StreamConfig::new(orders),
            StreamConfig::new(bills).initial_position(InitialPosition::TrimHorizon),
        ])
        .lease_store(InMemoryMultiStreamLeaseStore::new())
        .build()?;

    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());
    for _ in 0..3 {
        println!("{}", lines.recv().await.unwrap_or_default());
    }
    handle.stop();
    println!("drained: {}", running.await??.is_drained());
    Ok(())
}
