//! As many receivers as the stream has open shards, united into one stream of batches.
//!
//! ```text
//! cargo run --bin united_receivers
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt as _;
use kinesis_streaming::prelude::*;
use tokio::time::timeout;

const RECORDS: usize = 1000;

/// The time limit for the next batch.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let stream = InMemoryStream::new("clicks", NonZeroUsize::MIN.saturating_add(3));
    for number in 0..RECORDS {
        stream.put(format!("user-{}", number % 50), number.to_string())?;
    }

    // One receiver for each open shard. After a reshard they share the new shards.
    let open_shards = stream.list_shards(&ShardFilter::Open).await?.len();
    let plan = NonZeroUsize::new(open_shards).ok_or("the stream has no open shard")?;
    let (processors, mut batches) = united_stream(plan);
    let builder = Consumer::builder()
        .application("click-count")
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .failover_time(Duration::from_secs(2))
        .processors(processors);
    let group = ConsumerGroup::new(&builder, plan.get())?;
    // The stream ends when the last receiver has ended.
    drop(builder);
    let handle = group.handle();
    let running = tokio::spawn(group.run());

    let (mut records, mut by_worker) = (0, BTreeMap::<String, usize>::new());
    while records < RECORDS {
        let Some(delivery) = timeout(LIMIT, batches.next()).await? else { break };
        records += delivery.batch().len();
        *by_worker.entry(delivery.shard().worker_id.to_string()).or_default() += delivery.batch().len();
        // From now on a checkpoint may pass the batch. Without the acknowledgement it would be delivered again.
        delivery.acknowledge();
    }
    handle.stop();
    while batches.next().await.is_some() {}
    let drained = running.await??.iter().all(StopReport::is_drained);
    for (worker, records) in by_worker {
        println!("{worker}: {records} records");
    }
    println!("{records} records from {open_shards} shards by {plan} receivers; drained: {drained}");
    Ok(if records == RECORDS && drained { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
