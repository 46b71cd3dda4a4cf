//! Checkpoints that the application asks for, the children of an ended shard, and factories that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::CheckpointWriter;
use lease_store::{BoxError, PendingCheckpoint, Position, ShardId, StoreError};
use shard_worker::{
    CheckpointErrorKind, FailurePolicy, PreparedCheckpoint, RecordBatch, RecordProcessor, Shard,
    ShardContext, ShardEndRecorder, batch_handler,
};

use crate::support::one_shard::OneShard;
use crate::support::{self, ONLY_ON_DEMAND};

/// What was written to the lease, in order.
#[derive(Debug, Clone, Default)]
struct Row(Arc<Mutex<Vec<Written>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Written {
    Checkpoint(Position),
    Prepared(PendingCheckpoint),
    End,
}

impl Row {
    fn all(&self) -> Vec<Written> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl CheckpointWriter for Row {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(Written::Checkpoint(position.clone()));
        Ok(())
    }

    async fn prepare(&self, pending: &PendingCheckpoint) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(Written::Prepared(pending.clone()));
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Row {
    async fn record_end(&self, _children: &[Shard]) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(Written::End);
        Ok(())
    }
}

/// Runs a worker over three records to the end of the shard; returns what it wrote, and the positions after the records.
async fn run<F, R>(steps: F) -> (Vec<Written>, Vec<Position>)
where
    F: FnOnce(ShardContext, RecordBatch) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let shard = OneShard::with(["a", "b", "c"]);
    shard.stream.split(&shard.shard_id()).unwrap();
    let (row, positions) = (Row::default(), Arc::new(Mutex::new(Vec::new())));
    let noted = positions.clone();
    let processors = batch_handler(move |context, batch: RecordBatch| {
        *noted.lock().unwrap() = batch.iter().map(shard_worker::Record::position).collect();
        steps(context, batch)
    });
    let stored = Arc::new(row.clone());
    let start = Position::TrimHorizon;
    let (worker, _) = support::worker(&shard.stream, start, processors, ONLY_ON_DEMAND, &stored);
    worker.run().await;
    let positions = positions.lock().unwrap().clone();
    (row.all(), positions)
}

#[tokio::test(start_paused = true)]
async fn explicit_checkpoint_holds_acknowledged_records_only() {
    let (written, positions) = run(async |shard: ShardContext, batch: RecordBatch| {
        shard.checkpoint().await?;
        batch.acknowledge_first(2);
        shard.checkpoint().await?;
        shard.checkpoint().await?;
        batch.acknowledge_first(1);
        shard.checkpoint().await?;
        Ok(())
    })
    .await;
    let expected = [
        // Nothing is acknowledged at first, and no position is written twice or moves back.
        Written::Checkpoint(positions[1].clone()),
        Written::Checkpoint(positions[2].clone()),
        Written::End,
    ];
    assert_eq!(written, expected);
}

#[tokio::test(start_paused = true)]
async fn acknowledged_part_of_a_failed_batch_is_not_repeated() {
    let shard = OneShard::with(["a", "b", "c"]);
    let batches = Arc::new(Mutex::new(Vec::new()));
    let noted = batches.clone();
    let factory = batch_handler(async move |_, batch: RecordBatch| {
        noted.lock().unwrap().push(support::texts(&batch));
        if batch.len() == 3 {
            batch.acknowledge_first(2);
            return Err("the third failed".into());
        }
        Ok(())
    });
    let running = shard.start(factory, FailurePolicy::halt(), |_| {});
    running.wait_for("all is processed", |progress| progress.acknowledged_records == 3).await;
    assert_eq!(*batches.lock().unwrap(), [vec!["a", "b", "c"], vec!["c"]]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_step_checkpoint_announces_and_then_completes() {
    let (written, positions) = run(async |shard: ShardContext, batch: RecordBatch| {
        let prepared = shard.prepare_checkpoint(&batch, Some(b"tx 5".to_vec())).await?;
        assert_eq!(prepared.position(), batch.last_position());
        prepared.commit().await?;
        // The position was passed, so it cannot be announced again.
        let again = shard.prepare_checkpoint(&batch, None).await;
        assert!(again.is_ok(), "the acknowledged position itself is no step back");
        Ok(())
    })
    .await;
    let announced = |state| Written::Prepared(PendingCheckpoint::new(positions[2].clone(), state));
    let expected = [
        announced(Some(b"tx 5".to_vec())),
        Written::Checkpoint(positions[2].clone()),
        announced(None),
        Written::End,
    ];
    assert_eq!(written, expected);
}

#[tokio::test(start_paused = true)]
async fn commit_of_a_batch_delivered_again_is_refused() {
    let kept = Arc::new(Mutex::new(None));
    let (written, positions) = run(async move |shard: ShardContext, batch: RecordBatch| {
        let of_first_attempt = kept.lock().unwrap().take();
        let Some(prepared) = of_first_attempt else {
            let prepared: PreparedCheckpoint = shard.prepare_checkpoint(&batch, None).await?;
            *kept.lock().unwrap() = Some(prepared);
            return Err("the attempt failed".into());
        };
        let error = prepared.commit().await.unwrap_err();
        assert_eq!(error.kind(), CheckpointErrorKind::Invalid, "{error}");
        Ok(())
    })
    .await;
    let announced = PendingCheckpoint::new(positions[2].clone(), None);
    let expected = [Written::Prepared(announced), Written::Checkpoint(positions[2].clone()), Written::End];
    assert_eq!(written, expected);
}

#[tokio::test(start_paused = true)]
async fn context_tells_the_children_at_the_end() {
    /// Notes the children in each call.
    struct Noting(ShardContext, Arc<Mutex<Vec<Vec<ShardId>>>>);

    #[async_trait]
    impl RecordProcessor for Noting {
        async fn initialize(&mut self) -> Result<(), BoxError> {
            self.1.lock().unwrap().push(self.0.children());
            Ok(())
        }

        async fn process(&mut self, _batch: &RecordBatch) -> Result<(), BoxError> {
            Ok(())
        }

        async fn shard_ended(&mut self) -> Result<(), BoxError> {
            self.1.lock().unwrap().push(self.0.children());
            Ok(())
        }
    }

    let shard = OneShard::with(["a"]);
    let children = shard.stream.split(&shard.shard_id()).unwrap().to_vec();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let of_processor = noted.clone();
    let factory = move |context: ShardContext| Noting(context, of_processor.clone());
    let running = shard.start(factory, FailurePolicy::halt(), |_| {});
    running.task.await.unwrap();
    assert_eq!(*noted.lock().unwrap(), [Vec::new(), children]);
}

#[tokio::test(start_paused = true)]
async fn factory_that_fails_is_called_again() {
    struct Ready;

    #[async_trait]
    impl RecordProcessor for Ready {
        async fn process(&mut self, _batch: &RecordBatch) -> Result<(), BoxError> {
            Ok(())
        }
    }

    let shard = OneShard::with(["a"]);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let factory = move |_: ShardContext| match counted.fetch_add(1, Ordering::Relaxed) {
        0..3 => Err("the database is away"),
        _ => Ok(Ready),
    };
    let running = shard.start(factory, FailurePolicy::halt(), |_| {});
    running
        .wait_for("it fails", |progress| progress.last_error.as_deref() == Some("the database is away"))
        .await;
    running.wait_for("it works", |progress| progress.acknowledged_records == 1).await;
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    assert_eq!(running.progress().last_error, None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.stop().await;
}
