//! The application of one process: records the batches it gets, and misbehaves when the plan says so.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use shard_worker::{BoxError, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::event::{Batch, EventKind, Process, ReadPosition, RecordPosition, record_number, shard_of};
use crate::network::Link;
use crate::observer::Observer;
use crate::plan::{Defect, HandlerFault};

/// The application of one process. Clones share the current misbehaviour.
#[derive(Debug, Clone)]
pub struct Application {
    /// Records the events.
    pub observer: Observer,
    /// The network link of the process.
    pub link: Link,
    /// The process.
    pub process: Process,
    /// The seeded defect, if any.
    pub defect: Option<Defect>,
    /// Whether it acknowledges late and out of order.
    pub acknowledges_late: bool,
    /// The current misbehaviour, and when it ends.
    pub handler_fault: Arc<Mutex<Option<(HandlerFault, Instant)>>>,
}

impl Application {
    /// Misbehaves for `time`.
    pub fn set_handler_fault(&self, handler_fault: HandlerFault, time: Duration) {
        let until = Instant::now() + time;
        *self.handler_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some((handler_fault, until));
    }

    fn handler_fault(&self) -> Option<(HandlerFault, Instant)> {
        let handler_fault = *self.handler_fault.lock().unwrap_or_else(PoisonError::into_inner);
        handler_fault.filter(|(_, until)| Instant::now() < *until)
    }
}

impl RecordProcessorFactory for Application {
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        let shard = shard_of(context.stream_identity.as_ref(), &context.shard_id);
        let token = context.fencing_token.counter;
        let start = ReadPosition::of(&context.start);
        self.observer.record(EventKind::ShardStarted { process: self.process, shard, token, start });
        let tasks = JoinSet::new();
        Ok(Box::new(ShardApplication { application: self.clone(), shard, token, context, tasks }))
    }
}

struct ShardApplication {
    application: Application,
    shard: u32,
    token: u64,
    context: ShardContext,
    /// Tasks with late acknowledgements. They end with the process.
    tasks: JoinSet<()>,
}

/// Longest delay of an acknowledgement, in milliseconds.
const LATE_MILLIS: u64 = 4_000;

impl ShardApplication {
    /// Spawns a task for each record of a batch. Each task acknowledges its record, and a few drop it.
    async fn acknowledge_late(
        &mut self,
        whole: &RecordBatch,
        batch: Batch,
        positions: &[RecordPosition],
    ) -> Result<(), BoxError> {
        let application = &self.application;
        let batch = Batch { late_attempt: whole.attempt(), ..batch };
        application.observer.record(EventKind::Delivered(batch));
        application.link.wait_while_paused().await;
        for (position, (_, acknowledgement)) in positions.iter().zip(whole.defer().into_records()) {
            let one = Batch { first: *position, last: *position, count: 1, ..batch };
            let (application, lost) = (self.application.clone(), self.context.lease_lost.clone());
            let millis = application.link.draw(LATE_MILLIS);
            let drops = application.link.draw(40) == 0;
            self.tasks.spawn(async move {
                sleep(Duration::from_millis(millis)).await;
                application.link.wait_while_paused().await;
                if lost.is_cancelled() {
                    application.observer.record(EventKind::BatchCancelled(one));
                } else if drops {
                    application.observer.record(EventKind::BatchFailed(one, "acknowledgement dropped"));
                    drop(acknowledgement);
                } else {
                    application.observer.record(EventKind::Acknowledged(one));
                    acknowledgement.acknowledge();
                }
            });
        }
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }
}

/// Records a batch as cancelled when it is dropped before its end.
struct BatchInProgress<'a> {
    observer: &'a Observer,
    batch: Batch,
    is_over: bool,
}

impl BatchInProgress<'_> {
    fn end(&mut self, kind: EventKind) {
        self.is_over = true;
        self.observer.record(kind);
    }
}

impl Drop for BatchInProgress<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.observer.record(EventKind::BatchCancelled(self.batch));
        }
    }
}

#[async_trait]
impl RecordProcessor for ShardApplication {
    async fn process(&mut self, whole: &RecordBatch) -> Result<(), BoxError> {
        let application = &self.application;
        let positions = whole.records().iter().map(|record| RecordPosition {
            record: record_number(&record.sequence_number),
            sub: record.sub_sequence_number,
        });
        let mut positions: Vec<RecordPosition> = positions.collect();
        if application.defect == Some(Defect::BatchesReversed) {
            positions.reverse();
        }
        let batch = Batch {
            process: application.process,
            shard: self.shard,
            token: self.token,
            first: positions[0],
            last: positions[positions.len() - 1],
            count: positions.len(),
            is_sorted: positions.is_sorted_by(|one, other| one < other),
            late_attempt: 0,
        };
        if application.acknowledges_late {
            return self.acknowledge_late(whole, batch, &positions).await;
        }
        application.observer.record(EventKind::Delivered(batch));
        let mut in_progress = BatchInProgress { observer: &application.observer, batch, is_over: false };
        application.link.wait_while_paused().await;
        let is_bad = application.link.draw(2) == 0;
        match application.handler_fault() {
            None => {
                let millis = application.link.draw(30);
                if millis > 20 {
                    sleep(Duration::from_millis(millis)).await;
                }
            }
            Some((HandlerFault::Errors, _)) if is_bad => {
                in_progress.end(EventKind::BatchFailed(batch, "error"));
                return Err("simulated".into());
            }
            Some((HandlerFault::Panics, _)) if is_bad => {
                in_progress.end(EventKind::BatchFailed(batch, "panic"));
                // Unwinds like any panic, without a message on the console.
                std::panic::resume_unwind(Box::new("simulated"));
            }
            Some((HandlerFault::Errors | HandlerFault::Panics, _)) => {}
            Some((HandlerFault::Slow(millis), _)) => sleep(Duration::from_millis(millis)).await,
            Some((HandlerFault::Hangs, until)) => sleep_until(until).await,
        }
        application.link.wait_while_paused().await;
        in_progress.end(EventKind::Acknowledged(batch));
        Ok(())
    }

    async fn lease_lost(&mut self) {
        let (process, shard, token) = (self.application.process, self.shard, self.token);
        self.application.observer.record(EventKind::LeaseLost { process, shard, token });
    }
}
