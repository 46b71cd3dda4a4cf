//! A producer that puts uniquely numbered records at a steady rate while workers start and end.

#![allow(clippy::unwrap_used, clippy::panic)] // only tests call it

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The puts per second while the rate is held.
const TICKS_PER_SECOND: usize = 10;

/// The most records of one call, and the size of a call once the rate no longer counts.
const MAX_RECORDS_PER_CALL: usize = 500;

/// From this part of the total on the producer holds a tenth of the rate, so that records still flow on a slow machine.
const FULL_RATE_PERCENT: usize = 80;

/// The limit for putting the remaining records at the end.
const FINISH_LIMIT: Duration = Duration::from_secs(120);

/// Puts a record for each number from 0 up to a total.
#[derive(Debug)]
pub struct Producer {
    put: Arc<AtomicUsize>,
    hurry: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Producer {
    /// Starts the producer.
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

    /// The number of records put so far.
    pub fn put(&self) -> usize {
        self.put.load(Ordering::Relaxed)
    }

    /// Fails when all records are put: the steps of a test must happen while records flow.
    ///
    /// # Panics
    /// When all are put.
    pub fn check_flowing(&self, step: &str) {
        assert!(!self.task.is_finished(), "all records were put before {step}; raise their number");
    }

    /// Puts the remaining records without holding the rate, and waits until they are put. Returns their number.
    ///
    /// # Panics
    /// When a put failed, or that takes longer than two minutes.
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

/// Puts these numbers in one call.
///
/// # Panics
/// When a record is refused.
pub async fn put_numbers(client: &aws_sdk_kinesis::Client, stream: &str, numbers: std::ops::Range<usize>) {
    put_padded_numbers(client, stream, numbers, 0).await;
}

/// As [`put_numbers`]; each record has at least this many bytes, with spaces behind its number.
///
/// # Panics
/// When the server refuses records.
pub async fn put_padded_numbers(
    client: &aws_sdk_kinesis::Client,
    stream: &str,
    numbers: std::ops::Range<usize>,
    bytes: usize,
) {
    let entry = |number: usize| {
        let key = number.to_string();
        let data = format!("{key:<bytes$}");
        // Keys are hashed, so every shard gets records.
        PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(data)).build().unwrap()
    };
    let entries = numbers.map(entry).collect();
    let put = client.put_records().stream_name(stream).set_records(Some(entries)).send().await.unwrap();
    // The local server has no write limits, so nothing is refused; a record put again would look like a redelivery.
    assert_eq!(put.failed_record_count.unwrap_or(0), 0, "records were refused: {put:?}");
}
