//! Puts uniquely numbered records at a steady rate while the workers come and go.

#![allow(clippy::unwrap_used, clippy::panic)] // only tests call it

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often records are put while the rate is held.
const TICKS_PER_SECOND: usize = 10;

/// The most records of one call, and how many are put at once when the rate no longer counts.
const MAX_RECORDS_PER_CALL: usize = 500;

/// From this part of the total on a tenth of the rate is held, so that records still flow on a slower machine.
const FULL_RATE_PERCENT: usize = 80;

/// How long the records that are left at the end may take.
const FINISH_LIMIT: Duration = Duration::from_secs(120);

/// Puts the numbers from 0 up to a total.
#[derive(Debug)]
pub struct Producer {
    put: Arc<AtomicUsize>,
    hurry: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Producer {
    /// Starts at once.
    pub fn start(client: aws_sdk_kinesis::Client, stream: &str, total: usize, per_second: usize) -> Self {
        let (put, hurry) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (stream, shared_put, shared_hurry) = (stream.to_owned(), put.clone(), hurry.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / u32::try_from(TICKS_PER_SECOND).unwrap());
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut next = 0;
            while next < total {
                let count = if shared_hurry.load(Ordering::Relaxed) {
                    MAX_RECORDS_PER_CALL
                } else {
                    ticks.tick().await;
                    let is_early = next < total * FULL_RATE_PERCENT / 100;
                    let per_second = if is_early { per_second } else { per_second / 10 };
                    per_second.div_ceil(TICKS_PER_SECOND)
                };
                let end = total.min(next + count);
                put_numbers(&client, &stream, next..end).await;
                next = end;
                shared_put.store(next, Ordering::Relaxed);
            }
        });
        Self { put, hurry, task }
    }

    /// How many are put so far.
    pub fn put(&self) -> usize {
        self.put.load(Ordering::Relaxed)
    }

    /// Fails when all are put: what is to be tested must happen while records flow.
    ///
    /// # Panics
    /// When they are.
    pub fn check_flowing(&self, step: &str) {
        assert!(
            !self.task.is_finished(),
            "all records are put before {step}: the total is too small for the rate"
        );
    }

    /// Puts the rest without holding the rate, and waits until it is done. Returns how many were left.
    ///
    /// # Panics
    /// When a put failed, or that takes too long.
    pub async fn finish(&mut self, total: usize) -> usize {
        let left = total - self.put();
        self.hurry.store(true, Ordering::Relaxed);
        let done = timeout(FINISH_LIMIT, &mut self.task).await;
        done.unwrap_or_else(|_| panic!("the last {left} records were not put in {FINISH_LIMIT:?}")).unwrap();
        left
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts these numbers at once, no more than one call takes.
///
/// # Panics
/// When one is refused.
pub async fn put_numbers(client: &aws_sdk_kinesis::Client, stream: &str, numbers: std::ops::Range<usize>) {
    let entry = |number: usize| {
        let text = number.to_string();
        // The key is hashed, so that each shard has its part.
        PutRecordsRequestEntry::builder().partition_key(&text).data(Blob::new(text)).build().unwrap()
    };
    let entries = numbers.map(entry).collect();
    let put = client.put_records().stream_name(stream).set_records(Some(entries)).send().await.unwrap();
    // The local server has no write limits; a record put again would look like a repeat.
    assert_eq!(put.failed_record_count.unwrap_or(0), 0, "records were refused: {put:?}");
}
