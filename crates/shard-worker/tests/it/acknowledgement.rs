//! Late acknowledgement: the position follows it, and never passes an unacknowledged record.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lease_store::{BoxError, Position};
use shard_worker::{
    Acknowledgement, Aggregator, FailurePolicy, FlushReason, Record, RecordAcknowledgement, RecordBatch,
    RecordProcessor, RecordProcessorFactory, ShardContext, ShardOutcome, ShardState,
};
use test_support::wait_until_within;
use tokio::time::Instant;

use crate::support::one_shard::{LIMIT, OneShard};
use crate::support::texts;

/// Defers each batch, hands it to the test with its acknowledgement, and counts calls.
#[derive(Debug, Clone, Default)]
struct Deferring {
    batches: Arc<Mutex<Vec<(RecordBatch, Acknowledgement)>>>,
    created: Arc<AtomicUsize>,
    flushed: Arc<AtomicUsize>,
    /// Drops the records from the handles at once.
    drops_records: bool,
}

impl RecordProcessorFactory for Deferring {
    fn create(&self, _context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        self.created.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl RecordProcessor for Deferring {
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let acknowledgement = batch.defer();
        let acknowledgement =
            if self.drops_records { acknowledgement.without_records() } else { acknowledgement };
        self.batches.lock().unwrap().push((batch.clone(), acknowledgement));
        Ok(())
    }

    async fn flush(&mut self, _reason: FlushReason) -> Result<(), BoxError> {
        self.flushed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Deferring {
    /// The next delivered batch.
    async fn next(&self) -> (RecordBatch, Acknowledgement) {
        wait_until_within(LIMIT, "a batch is delivered", || !self.batches.lock().unwrap().is_empty()).await;
        self.batches.lock().unwrap().remove(0)
    }

    async fn next_records(&self) -> Vec<(Record, RecordAcknowledgement)> {
        self.next().await.1.into_records().collect()
    }

    fn is_empty(&self) -> bool {
        self.batches.lock().unwrap().is_empty()
    }
}

async fn a_while() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_stops_at_the_first_unacknowledged_record() {
    let (shard, application) = (OneShard::with(0..3), Deferring::default());
    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    let (first, first_done) = application.next().await;
    shard.put(3..6);
    let (second, second_done) = application.next().await;
    second_done.acknowledge();
    a_while().await;
    assert_eq!(shard.checkpoint(), None, "the first batch is not done");
    let mut records: Vec<_> = first_done.into_records().collect();
    records.pop().unwrap().1.acknowledge();
    records.remove(0).1.acknowledge();
    shard.wait_for_checkpoint(&first[0].position()).await;
    assert_eq!(running.progress().acknowledged_records, 1);
    records.pop().unwrap().1.acknowledge();
    shard.wait_for_checkpoint(&second.last_position()).await;
    let progress = running.progress();
    assert_eq!((progress.acknowledged_records, progress.acknowledged_bytes), (6, 6));
    assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_inside_an_aggregate_is_exact() {
    let shard = OneShard::with([0; 0]);
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    for text in ["a", "b", "c"] {
        aggregator.add(text, None, text.as_bytes()).unwrap();
    }
    let aggregate = aggregator.finish().unwrap();
    shard.stream.put("key", aggregate.data).unwrap();
    let application = Deferring::default();
    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    let mut records = application.next_records().await;
    assert_eq!(records.len(), 3);
    let positions: Vec<Position> = records.iter().map(|(record, _)| record.position()).collect();
    let middle = records.remove(1);
    for (_, acknowledgement) in records {
        acknowledgement.acknowledge();
    }
    shard.wait_for_checkpoint(&positions[0]).await;
    middle.1.acknowledge();
    shard.wait_for_checkpoint(&positions[2]).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_record_acknowledgement_redelivers_that_record() {
    let (shard, application) = (OneShard::with(["a", "b", "c"]), Deferring::default());
    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    let mut records = application.next_records().await;
    drop(records.remove(1));
    let (again, done) = application.next().await;
    assert_eq!((texts(&again), again.attempt()), (vec!["b".to_owned()], 2));
    done.fail("not yet");
    let (again, done) = application.next().await;
    assert_eq!((texts(&again), again.attempt()), (vec!["b".to_owned()], 3));
    assert_eq!(running.progress().last_error.as_deref(), Some("not yet"));
    done.acknowledge();
    for (_, acknowledgement) in records {
        acknowledgement.acknowledge();
    }
    wait_until_within(LIMIT, "all is acknowledged", || running.progress().acknowledged_records == 3).await;
    assert_eq!(running.progress().failed_attempts, 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_is_redelivered_without_its_done_records() {
    #[derive(Clone)]
    struct HalfDone(Deferring);
    #[async_trait]
    impl RecordProcessor for HalfDone {
        async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
            let mut records: Vec<_> = batch.defer().into_records().collect();
            if batch.attempt() == 1 {
                records.remove(1).1.acknowledge();
                let late = records.pop();
                self.0.batches.lock().unwrap().push((batch.clone(), batch.defer()));
                drop(late);
                return Err("half of it".into());
            }
            self.0.batches.lock().unwrap().push((batch.clone(), batch.defer()));
            for (_, acknowledgement) in records {
                acknowledgement.acknowledge();
            }
            Ok(())
        }
    }
    let (shard, seen) = (OneShard::with(["a", "b", "c"]), Deferring::default());
    let processor = HalfDone(seen.clone());
    let running = shard.start(move |_| processor.clone(), FailurePolicy::default(), |_| {});
    assert_eq!(texts(&seen.next().await.0), ["a", "b", "c"]);
    assert_eq!(texts(&seen.next().await.0), ["a", "c"]);
    wait_until_within(LIMIT, "all is acknowledged", || running.progress().acknowledged_records == 3).await;
    a_while().await;
    assert!(seen.is_empty(), "no record is delivered a third time");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn dropped_records_are_read_again_by_a_new_processor() {
    let (shard, application) =
        (OneShard::with(0..3), Deferring { drops_records: true, ..Deferring::default() });
    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    application.next().await.1.acknowledge();
    shard.put(3..6);
    let (second, lost) = application.next().await;
    shard.put(6..9);
    let (_, third) = application.next().await;
    drop(lost);
    let (again, done) = application.next().await;
    assert_eq!(again.records(), [second.records(), &again.records()[3..]].concat());
    assert_eq!(again.len(), 6, "all records after the acknowledged position");
    third.acknowledge();
    assert_eq!(running.progress().acknowledged_records, 3, "a handle from before the restart does nothing");
    done.acknowledge();
    wait_until_within(LIMIT, "all is acknowledged", || running.progress().acknowledged_records == 9).await;
    assert_eq!((application.created.load(Ordering::Relaxed), running.progress().restarts), (2, 1));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handle_without_records_keeps_no_memory() {
    for (drops_records, expected) in [(true, 0), (false, 1)] {
        let (shard, application) =
            (OneShard::with(0..3), Deferring { drops_records, ..Deferring::default() });
        let budget = shard_worker::ByteBudget::default();
        let running = shard.start(application.clone(), FailurePolicy::default(), |worker| {
            worker.options.budget = budget.clone();
            worker.options.read_ahead_bytes = 0;
        });
        let (batch, acknowledgement) = application.next().await;
        drop(batch);
        a_while().await;
        assert_eq!(budget.usage().buffered_bytes.min(1), expected, "{:?}", budget.usage());
        acknowledgement.acknowledge();
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn reading_stops_at_the_limit_of_unacknowledged_records() {
    for by_bytes in [false, true] {
        let (shard, application) = (OneShard::with(0..10), Deferring::default());
        let running = shard.start(application.clone(), FailurePolicy::default(), |worker| {
            if by_bytes {
                worker.options.max_unacknowledged_bytes = 100;
            } else {
                worker.options.max_unacknowledged_records = NonZeroUsize::new(10).unwrap();
            }
        });
        let (_, first) = application.next().await;
        shard.put(10..20);
        a_while().await;
        assert!(application.is_empty(), "the limit is reached");
        assert_eq!(running.progress().state, ShardState::Flushing);
        assert_eq!(application.flushed.load(Ordering::Relaxed), 1, "the application was asked to flush");
        first.acknowledge();
        let (_, second) = application.next().await;
        second.acknowledge();
        assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_shard_waits_for_the_last_acknowledgement() {
    let (shard, application) = (OneShard::with(0..3), Deferring::default());
    shard.stream.split(&shard.shard_id()).unwrap();
    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    let mut records = application.next_records().await;
    let last = records.pop().unwrap().1;
    for (_, acknowledgement) in records {
        acknowledgement.acknowledge();
    }
    a_while().await;
    assert!(!running.task.is_finished());
    assert_ne!(shard.checkpoint(), Some(Position::ShardEnd));
    // The record fails once, and the end still waits.
    last.fail("not yet");
    let (_, last) = application.next().await;
    a_while().await;
    assert!(!running.task.is_finished());
    last.acknowledge();
    assert_eq!(running.task.await.unwrap(), ShardOutcome::Ended);
    assert_eq!(shard.checkpoint(), Some(Position::ShardEnd));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_deferred_records_up_to_its_limit() {
    let (shard, application) = (OneShard::with(0..3), Deferring::default());
    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    let mut records = application.next_records().await;
    let (first, second) = (records.remove(0), records.remove(0));
    let asked_at = Instant::now();
    let (stop, task) = (running.stop.clone(), running.task);
    stop.cancel();
    a_while().await;
    assert!(!task.is_finished());
    first.1.acknowledge();
    // The stop does not wait for a failed record: the next owner delivers it again.
    second.1.fail("not any more");
    assert_eq!(task.await.unwrap(), ShardOutcome::Stopped { drained: false });
    assert_eq!(asked_at.elapsed().as_secs(), 20);
    assert_eq!(shard.checkpoint(), Some(first.0.position()), "the done record is checkpointed");
    drop(records);

    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    let (batch, done) = application.next().await;
    assert_eq!(texts(&batch), ["1", "2"]);
    let (stop, task) = (running.stop.clone(), running.task);
    stop.cancel();
    a_while().await;
    done.acknowledge();
    assert_eq!(task.await.unwrap(), ShardOutcome::Stopped { drained: true });
    assert_eq!(shard.checkpoint(), Some(batch.last_position()));
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_after_the_lease_is_lost_changes_nothing() {
    let (shard, application) = (OneShard::with(0..3), Deferring::default());
    let running = shard.start(application.clone(), FailurePolicy::default(), |_| {});
    let (_, done) = application.next().await;
    running.lease_lost.cancel();
    assert_eq!(running.task.await.unwrap(), ShardOutcome::LeaseLost);
    done.acknowledge();
    a_while().await;
    assert_eq!(shard.checkpoint(), None);
    assert_eq!(running.progress.borrow().acknowledged_records, 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_made_by_an_application_can_be_deferred() {
    let record = Record::new(1.into(), "x".into());
    let batch = RecordBatch::new(vec![record], None).unwrap();
    let handles: Vec<_> = batch.defer().into_records().collect();
    assert_eq!(handles.len(), 1);
    for (_, acknowledgement) in handles {
        acknowledgement.acknowledge();
    }
    batch.defer().fail("it has no effect");
}
