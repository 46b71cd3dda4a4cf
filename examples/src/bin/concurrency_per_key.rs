//! Processes many records of one shard concurrently, in order for each key: slow transfers between accounts.
//!
//! ```text
//! cargo run --bin concurrency_per_key
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kinesis_streaming::prelude::*;
use tokio::time::{Instant, sleep};

const ACCOUNTS: u32 = 20;
const TRANSFERS_PER_ACCOUNT: u32 = 25;
/// How many accounts are processed concurrently, and the time of one transfer.
const DEGREE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);
const TRANSFER_TIME: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let stream = InMemoryStream::new("transfers", NonZeroUsize::MIN);
    for number in 0..TRANSFERS_PER_ACCOUNT {
        for account in 0..ACCOUNTS {
            stream.put(format!("account-{account}"), number.to_string())?;
        }
    }

    // The last transfer of each account, and how many were out of order.
    let accounts: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let out_of_order = Arc::new(Mutex::new(0_u32));
    let (last, counted) = (accounts.clone(), out_of_order.clone());
    let handler = concurrent_handler(Concurrency::PerKey(DEGREE), move |_shard, record: Record| {
        let (accounts, out_of_order) = (last, counted);
        async move {
            sleep(TRANSFER_TIME).await;
            let number: u32 = record.json()?;
            let account = record.partition_key.as_deref().unwrap_or_default().to_owned();
            let before = accounts.lock().unwrap_or_else(PoisonError::into_inner).insert(account, number);
            if before.map_or(0, |before| before + 1) != number {
                *out_of_order.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            }
            Ok(())
        }
    });
    let consumer = Consumer::builder()
        .application("bank")
        .source(stream)
        .lease_store(InMemoryLeaseStore::new())
        .processors(handler)
        .build()?;
    let handle = consumer.handle();
    let started_at = Instant::now();
    let running = tokio::spawn(consumer.run());
    let transfers = u64::from(ACCOUNTS * TRANSFERS_PER_ACCOUNT);
    while handle.status().acknowledged_records < transfers {
        sleep(TRANSFER_TIME).await;
    }
    let time = started_at.elapsed();
    handle.stop();
    let report = running.await??;

    let out_of_order = *out_of_order.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{transfers} transfers of {TRANSFER_TIME:?} each in {:.1} s, {DEGREE} accounts at a time; {out_of_order} out of order; \
         drained: {}",
        time.as_secs_f64(),
        report.is_drained()
    );
    Ok(if out_of_order == 0 && report.is_drained() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
