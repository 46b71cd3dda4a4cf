//! Writes poison records to a file while the shard makes progress: the records are orders in JSON, and some are malformed.
//!
//! ```text
//! cargo run --bin dead_letters
//! ```

use std::num::{NonZeroU32, NonZeroUsize};
use std::process::ExitCode;
use std::time::Duration;

use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::LetterInJson;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How many orders are put, of which every tenth is broken.
const ORDERS: u32 = 100;
const BROKEN_EVERY: u32 = 10;

/// The time limit of the run.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    number: u32,
    cents: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let stream = InMemoryStream::new("orders", NonZeroUsize::MIN.saturating_add(1));
    for number in 0..ORDERS {
        let order = serde_json::to_string(&Order { number, cents: u64::from(number) * 100 })?;
        let is_broken = number % BROKEN_EVERY == 0;
        stream.put(
            format!("customer-{}", number % 7),
            if is_broken { order.replace(':', "=") } else { order },
        )?;
    }

    let path = std::env::temp_dir().join(format!("orders-rejected-{}.jsonl", std::process::id()));
    let policy = FailurePolicy::dead_letters(FileDeadLetters::new(&path))
        .attempts(NonZeroU32::MIN.saturating_add(2))
        .time_limit(Duration::from_secs(30));
    let (sender, mut accepted) = mpsc::channel(16);
    let consumer = Consumer::builder()
        .application("order-desk")
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .failure_policy(policy)
        .processing_retry(RetryPolicy::exponential(Duration::from_millis(5), Duration::from_millis(50)))
        .processors(batch_handler(move |_shard, batch: RecordBatch| {
            async move {
                // One broken order fails the batch; the policy divides the batch until the order is alone.
                for order in batch.json::<Order>()? {
                    sender.send(order).await?;
                }
                Ok(())
            }
        }))
        .build()?;
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());

    let (mut orders, mut cents) = (0, 0);
    while orders < ORDERS - ORDERS / BROKEN_EVERY {
        let Some(order) = timeout(LIMIT, accepted.recv()).await? else { break };
        (orders, cents) = (orders + 1, cents + order.cents);
    }
    while handle.status().acknowledged_records < u64::from(ORDERS) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    handle.stop();
    let report = running.await??;

    let letters = std::fs::read_to_string(&path)?;
    std::fs::remove_file(&path)?;
    for line in letters.lines().take(3) {
        let letter: LetterInJson = serde_json::from_str(line)?;
        println!("{} was tried {} times: {}", letter.id, letter.attempts, letter.error);
    }
    let rejected = letters.lines().count();
    println!(
        "{orders} orders of {cents} cents accepted, {rejected} rejected; drained: {}",
        report.is_drained()
    );
    let is_right = rejected == (ORDERS / BROKEN_EVERY) as usize && report.is_drained();
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
