//! The task of the checkpointer, on a paused clock.

#![allow(clippy::unwrap_used)] // allowed in tests

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::{Cadence, CheckpointErrorKind, CheckpointWriter, Checkpointer, RetryPolicy};
use lease_store::{PendingCheckpoint, Position, StoreError, StoreErrorKind};
use tokio::time::{Instant, advance};

/// Records the attempts to write, with their times. Returns the scripted results, then success.
#[derive(Debug, Default)]
struct ScriptedWriter {
    answers: Mutex<VecDeque<Option<StoreErrorKind>>>,
    attempts: Mutex<Vec<(Instant, Position)>>,
    prepared: Mutex<Vec<PendingCheckpoint>>,
}

impl ScriptedWriter {
    fn answering(answers: impl IntoIterator<Item = Option<StoreErrorKind>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    fn attempts(&self) -> Vec<(Instant, Position)> {
        self.attempts.lock().unwrap().clone()
    }

    fn positions(&self) -> Vec<Position> {
        self.attempts().into_iter().map(|(_, position)| position).collect()
    }
}

#[async_trait]
impl CheckpointWriter for ScriptedWriter {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        self.attempts.lock().unwrap().push((Instant::now(), position.clone()));
        match self.answers.lock().unwrap().pop_front().flatten() {
            None => Ok(()),
            Some(kind) => Err(StoreError::new(kind, "scripted")),
        }
    }

    async fn prepare(&self, pending: &PendingCheckpoint) -> Result<(), StoreError> {
        if let Some(kind) = self.answers.lock().unwrap().pop_front().flatten() {
            return Err(StoreError::new(kind, "scripted"));
        }
        self.prepared.lock().unwrap().push(pending.clone());
        Ok(())
    }
}

fn at(number: u128) -> Position {
    Position::after(number.into(), 0)
}

fn start(writer: &Arc<ScriptedWriter>, cadence: Cadence) -> Checkpointer {
    let rng = fastrand::Rng::with_seed(1);
    Checkpointer::start(writer.clone(), Position::TrimHorizon, cadence, RetryPolicy::spark(), rng)
}

fn acknowledge(checkpointer: &Checkpointer, number: u128) {
    checkpointer.deliver(at(number));
    checkpointer.acknowledge(at(number), 1).unwrap();
}

fn every(seconds: u64) -> Cadence {
    Cadence { interval: Duration::from_secs(seconds), records: None }
}

/// Lets the task run until it waits again.
async fn run_task() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_position_is_written_per_interval() {
    let writer = ScriptedWriter::answering([]);
    let checkpointer = start(&writer, every(10));
    for number in 1..=50 {
        acknowledge(&checkpointer, number);
        run_task().await;
    }
    assert_eq!(writer.positions(), []);
    advance(Duration::from_secs(10)).await;
    run_task().await;
    assert_eq!(writer.positions(), [at(50)]);
    assert_eq!(checkpointer.watermarks().checkpointed(), &at(50));
}

#[tokio::test(start_paused = true)]
async fn an_idle_shard_is_checkpointed_only_once() {
    let writer = ScriptedWriter::answering([]);
    let checkpointer = start(&writer, every(10));
    acknowledge(&checkpointer, 7);
    for _ in 0..100 {
        advance(Duration::from_secs(10)).await;
        run_task().await;
    }
    assert_eq!(writer.positions(), [at(7)]);
    acknowledge(&checkpointer, 8);
    acknowledge(&checkpointer, 9);
    run_task().await;
    assert_eq!(writer.positions(), [at(7), at(9)], "one write after an idle period, not a burst");
}

#[tokio::test(start_paused = true)]
async fn enough_records_trigger_a_write_before_the_interval() {
    let writer = ScriptedWriter::answering([]);
    let checkpointer = start(&writer, Cadence { records: NonZeroU64::new(3), ..every(3600) });
    for number in 1..=7 {
        acknowledge(&checkpointer, number);
        run_task().await;
    }
    assert_eq!(writer.positions(), [at(3), at(6)]);
}

#[tokio::test(start_paused = true)]
async fn throttled_writes_are_retried_with_the_newest_position() {
    let busy = Some(StoreErrorKind::Throttled);
    let writer = ScriptedWriter::answering([busy, Some(StoreErrorKind::Unavailable), None]);
    let checkpointer = start(&writer, every(1));
    acknowledge(&checkpointer, 1);
    advance(Duration::from_secs(1)).await;
    run_task().await;
    assert_eq!(writer.positions(), [at(1)]);
    acknowledge(&checkpointer, 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(writer.positions(), [at(1), at(2), at(2)]);
    let attempts = writer.attempts();
    assert!(attempts.windows(2).all(|pair| pair[1].0 - pair[0].0 < Duration::from_millis(501)));
}

#[tokio::test(start_paused = true)]
async fn exhausted_retries_return_the_last_error() {
    let unavailable = Some(StoreErrorKind::Unavailable);
    let writer =
        ScriptedWriter::answering([unavailable, unavailable, unavailable, Some(StoreErrorKind::Throttled)]);
    let mut checkpointer = start(&writer, every(60));
    acknowledge(&checkpointer, 1);
    let error = checkpointer.flush().await.unwrap_err();
    assert_eq!(error.kind(), CheckpointErrorKind::Throttled);
    assert!(error.is_retryable());
    assert_eq!(writer.attempts().len(), 4, "four attempts as in Spark");
    checkpointer.flush().await.unwrap();
    assert_eq!(checkpointer.watermarks().checkpointed(), &at(1));
}

#[tokio::test(start_paused = true)]
async fn fenced_and_invalid_are_never_retried() {
    for (kind, seen) in [
        (StoreErrorKind::Fenced, CheckpointErrorKind::Fenced),
        (StoreErrorKind::Invalid, CheckpointErrorKind::Invalid),
    ] {
        let writer = ScriptedWriter::answering([Some(kind)]);
        let mut checkpointer = start(&writer, every(1));
        acknowledge(&checkpointer, 1);
        let stopped = tokio::time::timeout(Duration::from_secs(60), checkpointer.stopped()).await;
        assert_eq!(stopped, Ok(seen));
        acknowledge(&checkpointer, 2);
        assert_eq!(checkpointer.flush().await.unwrap_err().kind(), seen);
        advance(Duration::from_secs(3600)).await;
        run_task().await;
        assert_eq!(writer.positions(), [at(1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_write_is_repeated_at_the_next_interval() {
    let writer = ScriptedWriter::answering([Some(StoreErrorKind::Denied)]);
    let checkpointer = start(&writer, every(10));
    acknowledge(&checkpointer, 1);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(writer.attempts().len(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(writer.attempts().len(), 2);
    assert_eq!(checkpointer.watermarks().checkpointed(), &at(1));
}

#[tokio::test(start_paused = true)]
async fn a_flush_skips_the_interval_and_the_backoff() {
    let writer = ScriptedWriter::answering([None, Some(StoreErrorKind::Throttled)]);
    let mut checkpointer = start(&writer, every(3600));
    acknowledge(&checkpointer, 1);
    let before = Instant::now();
    checkpointer.flush().await.unwrap();
    assert_eq!(Instant::now(), before);
    acknowledge(&checkpointer, 2);
    advance(Duration::from_secs(3600)).await;
    run_task().await;
    assert_eq!(writer.positions(), [at(1), at(2)], "the second write was throttled and now backs off");
    let before = Instant::now();
    checkpointer.flush().await.unwrap();
    assert_eq!(Instant::now(), before);
    checkpointer.flush().await.unwrap();
    assert_eq!(writer.positions(), [at(1), at(2), at(2)], "an unchanged position is not written");
}

#[tokio::test(start_paused = true)]
async fn a_slow_writer_does_not_delay_acknowledgements() {
    #[derive(Debug)]
    struct HungWriter;
    #[async_trait]
    impl CheckpointWriter for HungWriter {
        async fn write(&self, _position: &Position) -> Result<(), StoreError> {
            std::future::pending().await
        }
    }
    let rng = fastrand::Rng::with_seed(1);
    let start = Position::TrimHorizon;
    let checkpointer = Checkpointer::start(Arc::new(HungWriter), start, every(1), RetryPolicy::spark(), rng);
    acknowledge(&checkpointer, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    acknowledge(&checkpointer, 2);
    assert_eq!(checkpointer.watermarks().acknowledged(), &at(2));
    checkpointer.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_undelivered_position_cannot_be_acknowledged() {
    let checkpointer = start(&ScriptedWriter::answering([]), every(1));
    checkpointer.deliver(at(3));
    let error = checkpointer.acknowledge(at(4), 1).unwrap_err();
    assert_eq!(error.kind(), CheckpointErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_writes_the_newest_position_at_once() {
    let writer = ScriptedWriter::answering([]);
    let checkpointer = start(&writer, Cadence { interval: Duration::from_secs(60), records: None });
    let trigger = checkpointer.trigger();
    assert!(!trigger.write_now());
    acknowledge(&checkpointer, 1);
    acknowledge(&checkpointer, 2);
    assert!(trigger.write_now());
    advance(Duration::from_secs(1)).await;
    assert_eq!(writer.positions(), [at(2)]);
    assert!(!trigger.write_now());
    advance(Duration::from_secs(300)).await;
    assert_eq!(writer.positions(), [at(2)]);
}

/// A writer whose writes wait for a permit.
#[derive(Debug)]
struct SlowWriter {
    permits: tokio::sync::Semaphore,
    positions: Mutex<Vec<Position>>,
}

#[async_trait]
impl CheckpointWriter for SlowWriter {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        self.positions.lock().unwrap().push(position.clone());
        self.permits.acquire().await.unwrap().forget();
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn position_acknowledged_while_written_is_not_due_again() {
    let writer =
        Arc::new(SlowWriter { permits: tokio::sync::Semaphore::new(0), positions: Mutex::default() });
    let cadence = Cadence { records: NonZeroU64::new(1), ..every(3600) };
    let rng = fastrand::Rng::with_seed(1);
    let checkpointer =
        Checkpointer::start(writer.clone(), Position::TrimHorizon, cadence, RetryPolicy::spark(), rng);
    acknowledge(&checkpointer, 1);
    run_task().await;
    acknowledge(&checkpointer, 1);
    writer.permits.add_permits(9);
    // A checkpointer that writes without end never returns from this.
    run_task().await;
    assert_eq!(writer.positions.lock().unwrap().as_slice(), [at(1)]);
    acknowledge(&checkpointer, 2);
    run_task().await;
    assert_eq!(writer.positions.lock().unwrap().as_slice(), [at(1), at(2)]);
}

fn pending(number: u128) -> PendingCheckpoint {
    PendingCheckpoint::new(at(number), Some(vec![7]))
}

#[tokio::test(start_paused = true)]
async fn prepared_checkpoint_follows_the_acknowledged_one() {
    let writer = ScriptedWriter::answering([None, Some(StoreErrorKind::Throttled), None]);
    let checkpointer = start(&writer, every(3600));
    let flusher = checkpointer.flusher();
    acknowledge(&checkpointer, 5);
    checkpointer.deliver(at(9));
    flusher.prepare(pending(9)).await.unwrap();
    assert_eq!(writer.positions(), [at(5)], "a later checkpoint would withdraw the announcement");
    assert_eq!(*writer.prepared.lock().unwrap(), [pending(9)], "throttled once, then stored");
    assert_eq!(flusher.acknowledged(), at(5), "an announcement acknowledges nothing");
    checkpointer.acknowledge(at(9), 4).unwrap();
    flusher.flush().await.unwrap();
    assert_eq!(writer.positions(), [at(5), at(9)]);
}

#[tokio::test(start_paused = true)]
async fn prepared_position_is_neither_undelivered_nor_passed() {
    let writer = ScriptedWriter::answering([]);
    let checkpointer = start(&writer, every(3600));
    let flusher = checkpointer.flusher();
    acknowledge(&checkpointer, 5);
    for number in [4, 6] {
        let error = flusher.prepare(pending(number)).await.unwrap_err();
        assert_eq!(error.kind(), CheckpointErrorKind::Invalid, "{error}");
    }
    assert!(writer.positions().is_empty() && writer.prepared.lock().unwrap().is_empty());
    flusher.prepare(pending(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn refused_announcement_does_not_stop_checkpoints() {
    let writer = ScriptedWriter::answering([Some(StoreErrorKind::Invalid)]);
    let checkpointer = start(&writer, every(3600));
    let flusher = checkpointer.flusher();
    checkpointer.deliver(at(9));
    assert_eq!(flusher.prepare(pending(9)).await.unwrap_err().kind(), CheckpointErrorKind::Invalid);
    acknowledge(&checkpointer, 9);
    flusher.flush().await.unwrap();
    assert_eq!(writer.positions(), [at(9)]);
    checkpointer.close().await;
    acknowledge_after_close(&flusher).await;
}

/// A request after the end of the checkpointer is an error, and not a silent success.
async fn acknowledge_after_close(flusher: &checkpointer::Flusher) {
    let error = flusher.prepare(pending(9)).await.unwrap_err();
    assert_eq!(error.kind(), CheckpointErrorKind::Closed, "{error}");
}
