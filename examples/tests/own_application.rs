//! How to test your own application: with the in-memory stream and lease store and a paused clock, a reshard, throttling and a crash
//! take milliseconds. The application in this file sums up amounts.

#![allow(clippy::unwrap_used)] // a test may

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::SourceErrorKind;
use tokio::time::sleep;

/// The application: amounts by the id of their record, so that a repeated record counts once.
#[derive(Debug, Clone, Default)]
struct Ledger(Arc<Mutex<std::collections::BTreeMap<String, u64>>>);

impl Ledger {
    fn sum(&self) -> u64 {
        self.0.lock().unwrap().values().sum()
    }
}

struct Bookkeeper {
    shard: ShardContext,
    ledger: Ledger,
}

#[async_trait]
impl RecordProcessor for Bookkeeper {
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        for record in batch {
            let amount: u64 = record.json()?;
            let id = record.id(&self.shard.stream, &self.shard.shard_id).to_string();
            self.ledger.0.lock().unwrap().insert(id, amount);
        }
        Ok(())
    }
}

fn consumer(name: &str, stream: &InMemoryStream, leases: &InMemoryLeaseStore, ledger: &Ledger) -> Consumer {
    let ledger = ledger.clone();
    Consumer::builder()
        .application("bookkeeping")
        .worker_id(name)
        .source(stream.clone())
        .lease_store(leases.clone())
        .seed(7) // every run has the same waits
        .processors(move |shard| Bookkeeper { shard, ledger: ledger.clone() })
        .build()
        .unwrap()
}

fn put(stream: &InMemoryStream, amounts: std::ops::Range<u64>) {
    for amount in amounts {
        stream.put(format!("customer-{amount}"), amount.to_string()).unwrap();
    }
}

/// Virtual time costs nothing, so a test can wait for minutes.
async fn wait_for_sum(ledger: &Ledger, expected: u64) {
    for _ in 0..1000 {
        if ledger.sum() == expected {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ledger.sum(), expected, "after 100 seconds");
}

#[tokio::test(start_paused = true)]
async fn sums_survive_a_split_a_merge_throttling_and_a_crash() {
    let stream = InMemoryStream::new("amounts", NonZeroUsize::MIN.saturating_add(1));
    let (leases, ledger) = (InMemoryLeaseStore::new(), Ledger::default());
    let first = tokio::spawn(consumer("first", &stream, &leases, &ledger).run());
    put(&stream, 0..10);
    wait_for_sum(&ledger, 45).await;

    // A reshard: the children are read after their parents.
    let shards = stream.open_shards();
    let [left, right] = stream.split(&shards[0]).unwrap();
    put(&stream, 10..20);
    stream.merge(&left, &right).unwrap();
    put(&stream, 20..30);
    wait_for_sum(&ledger, 435).await;

    // The next three reads are throttled.
    stream.fail_reads(SourceErrorKind::Throttled, 3);
    put(&stream, 30..40);
    wait_for_sum(&ledger, 780).await;

    // A crash: all tasks of the first consumer vanish, and the second resumes from its last checkpoint.
    put(&stream, 40..50);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = consumer("second", &stream, &leases, &ledger);
    let handle = second.handle();
    let second = tokio::spawn(second.run());
    wait_for_sum(&ledger, 1225).await;

    handle.stop();
    assert!(
        second.await.unwrap().unwrap().is_drained(),
        "a drained consumer leaves no record to be delivered again"
    );
}

#[test]
fn a_processor_can_be_called_directly() {
    use kinesis_streaming::lease_store::{FencingToken, WorkerId};

    let owner = FencingToken::new(WorkerId::new("me").unwrap(), 1);
    let ledger = Ledger::default();
    let mut bookkeeper = Bookkeeper {
        shard: ShardContext::new("bookkeeping", "amounts", ShardId::new("shard-1").unwrap(), owner),
        ledger: ledger.clone(),
    };
    let record = |data: &'static str| Record::new(1.into(), data.into());
    let batch = |data| RecordBatch::new(vec![record(data)], None).unwrap();
    futures::executor::block_on(async {
        bookkeeper.process(&batch("17")).await.unwrap();
        assert!(bookkeeper.process(&batch("no amount")).await.is_err());
    });
    assert_eq!(ledger.sum(), 17);
}
