//! A worker that is killed at any await point skips no record, for each way to consume.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::CheckpointWriter;
use lease_store::{BoxError, Position, StoreError};
use shard_worker::{
    Acknowledgement, Aggregator, Concurrency, FlushReason, RecordBatch, RecordProcessor,
    RecordProcessorFactory, Shard, ShardContext, ShardEndRecorder, ShardOutcome, batch_handler,
    concurrent_handler,
};
use test_support::run_with_paused_clock;
use tokio::time::sleep;

use crate::support::one_shard::OneShard;

/// The records that the application has finished, and the checkpoint, which may pass only those.
#[derive(Debug, Clone, Default)]
struct Ledger {
    all: Arc<Vec<Position>>,
    finished: Arc<Mutex<BTreeSet<Position>>>,
    stored: Arc<Mutex<Option<Position>>>,
}

impl Ledger {
    fn finish(&self, position: Position) {
        self.finished.lock().unwrap().insert(position);
    }

    /// Checks that a checkpoint passes only finished records and moves only forward.
    fn store(&self, position: &Position) {
        let finished = self.finished.lock().unwrap();
        let skipped =
            self.all.iter().filter(|record| *record <= position).find(|record| !finished.contains(*record));
        assert_eq!(skipped, None, "the checkpoint {position} passes an unfinished record");
        let before = self.stored.lock().unwrap().replace(position.clone());
        assert!(before.is_none_or(|before| before < *position), "the checkpoint moves back to {position}");
    }
}

#[async_trait]
impl CheckpointWriter for Ledger {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        sleep(Duration::from_millis(3)).await;
        self.store(position);
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Ledger {
    async fn record_end(&self, _children: &[Shard]) -> Result<(), BoxError> {
        sleep(Duration::from_millis(3)).await;
        self.store(&Position::ShardEnd);
        Ok(())
    }
}

/// Defers all batches and acknowledges them in a flush, like a processor that stores something first.
struct Hoarder {
    ledger: Ledger,
    held: Vec<(Vec<Position>, Acknowledgement)>,
}

#[async_trait]
impl RecordProcessor for Hoarder {
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let positions = batch.iter().map(shard_worker::Record::position).collect();
        self.held.push((positions, batch.defer().without_records()));
        sleep(Duration::from_millis(2)).await;
        if self.held.len() > 2 { self.flush(FlushReason::Capacity).await } else { Ok(()) }
    }

    async fn flush(&mut self, _reason: FlushReason) -> Result<(), BoxError> {
        sleep(Duration::from_millis(5)).await;
        for (positions, acknowledgement) in self.held.drain(..) {
            for position in positions {
                self.ledger.finish(position);
            }
            acknowledgement.acknowledge();
        }
        Ok(())
    }
}

/// The ways to consume.
#[derive(Debug, Clone, Copy)]
enum Way {
    InPlace,
    Hoarding,
    PerKey,
}

fn processors(way: Way, ledger: &Ledger) -> Box<dyn RecordProcessorFactory> {
    let ledger = ledger.clone();
    match way {
        Way::InPlace => Box::new(batch_handler(move |_, batch: RecordBatch| async move {
            sleep(Duration::from_millis(4)).await;
            if batch.attempt() == 1 && batch.len() == 3 {
                return Err("the first time it always fails".into());
            }
            for record in &batch {
                ledger.finish(record.position());
            }
            Ok(())
        })),
        Way::Hoarding => {
            Box::new(move |_: ShardContext| Hoarder { ledger: ledger.clone(), held: Vec::new() })
        }
        Way::PerKey => {
            let four = Concurrency::PerKey(NonZeroUsize::new(4).unwrap());
            Box::new(concurrent_handler(four, move |_, record: shard_worker::Record| async move {
                sleep(Duration::from_millis(1 + record.data.len() as u64 % 7)).await;
                ledger.finish(record.position());
                Ok(())
            }))
        }
    }
}

struct Boxed(Box<dyn RecordProcessorFactory>);

impl RecordProcessorFactory for Boxed {
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        self.0.create(context)
    }
}

/// Runs a worker and kills it after `polls` polls; `None`: it was killed.
async fn work(shard: &OneShard, way: Way, ledger: &Ledger, polls: usize) -> Option<ShardOutcome> {
    let start = ledger.stored.lock().unwrap().clone().unwrap_or(Position::TrimHorizon);
    let (processors, stored) = (Boxed(processors(way, ledger)), Arc::new(ledger.clone()));
    let interval = Duration::from_millis(10);
    let (mut worker, _progress) = crate::support::worker(&shard.stream, start, processors, interval, &stored);
    worker.options.batch_limits.max_records = NonZeroUsize::new(3);
    worker.options.max_unacknowledged_records = NonZeroUsize::new(8).unwrap();
    let mut running = pin!(worker.run());
    let mut remaining = polls;
    poll_fn(|context| {
        if remaining == 0 {
            return Poll::Ready(None);
        }
        remaining -= 1;
        running.as_mut().poll(context).map(Some)
    })
    .await
}

/// A closed shard of plain records and aggregates.
fn scene() -> (OneShard, Ledger) {
    let shard = OneShard::with([0; 0]);
    let mut all = Vec::new();
    for number in 0..30_usize {
        let put = if number % 3 == 0 {
            let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
            for part in 0..4 {
                aggregator.add(format!("key-{part}"), None, &[0; 5]).unwrap();
            }
            shard.stream.put("key", aggregator.finish().unwrap().data).unwrap()
        } else {
            shard.stream.put(format!("key-{number}"), vec![0; number]).unwrap()
        };
        let parts = if number % 3 == 0 { 4 } else { 1 };
        all.extend((0..parts).map(|part| Position::after(put.1.clone(), part)));
    }
    shard.stream.split(&shard.shard_id()).unwrap();
    (shard, Ledger { all: Arc::new(all), ..Ledger::default() })
}

#[test]
fn a_worker_killed_at_any_await_point_skips_nothing() {
    for way in [Way::InPlace, Way::Hoarding, Way::PerKey] {
        let mut kills = 0;
        loop {
            let is_killed = run_with_paused_clock(async {
                let (shard, ledger) = scene();
                let first = work(&shard, way, &ledger, kills).await;
                // No worker takes a shard whose end is recorded.
                let has_ended = *ledger.stored.lock().unwrap() == Some(Position::ShardEnd);
                if first.is_none() && !has_ended {
                    assert_eq!(work(&shard, way, &ledger, usize::MAX).await, Some(ShardOutcome::Ended));
                }
                assert_eq!(*ledger.stored.lock().unwrap(), Some(Position::ShardEnd), "{way:?} {kills}");
                assert_eq!(ledger.finished.lock().unwrap().len(), ledger.all.len(), "{way:?} {kills}");
                first.is_none()
            });
            if !is_killed {
                break;
            }
            kills += 1;
        }
        println!("{way:?}: killed at {kills} await points");
        assert!(kills > 20, "{way:?}: only {kills}");
    }
}
