//! The application of one process: notes what it gets, and misbehaves when the plan says so.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use shard_worker::{BoxError, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::event::{At, Batch, Place, Process, What, record_number, shard_number};
use crate::network::Link;
use crate::observer::Observer;
use crate::plan::{Mood, Planted};

/// The application of one process. Clones share the mood.
#[derive(Debug, Clone)]
pub struct Application {
    /// What is seen.
    pub observer: Observer,
    /// The gate of the process.
    pub link: Link,
    /// Which process.
    pub process: Process,
    /// A defect.
    pub planted: Option<Planted>,
    /// Whether it acknowledges late and out of order.
    pub acknowledges_late: bool,
    /// How it behaves, and until when.
    pub mood: Arc<Mutex<Option<(Mood, Instant)>>>,
}

impl Application {
    /// Behaves like this for so long.
    pub fn set_mood(&self, mood: Mood, time: Duration) {
        let until = Instant::now() + time;
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = Some((mood, until));
    }

    fn mood(&self) -> Option<(Mood, Instant)> {
        let mood = *self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        mood.filter(|(_, until)| Instant::now() < *until)
    }
}

impl RecordProcessorFactory for Application {
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor> {
        let (shard, token) = (shard_number(&context.shard_id), context.fencing_token.counter);
        let start = Place::of(&context.start);
        self.observer.note(What::Began { process: self.process, shard, token, start });
        Box::new(ShardApplication { application: self.clone(), shard, token, context, tasks: JoinSet::new() })
    }
}

struct ShardApplication {
    application: Application,
    shard: u32,
    token: u64,
    context: ShardContext,
    /// What is acknowledged late ends with the process.
    tasks: JoinSet<()>,
}

/// The longest that a record is worked on when acknowledgements come late, in milliseconds.
const LATE_MILLIS: u64 = 4_000;

impl ShardApplication {
    /// Hands the records of a batch to tasks of their own; each is acknowledged by itself, and a few are dropped.
    async fn acknowledge_late(
        &mut self,
        whole: &RecordBatch,
        batch: Batch,
        places: &[At],
    ) -> Result<(), BoxError> {
        let application = &self.application;
        let batch = Batch { late_attempt: whole.attempt(), ..batch };
        application.observer.note(What::Delivered(batch));
        application.link.pass().await;
        for (place, (_, acknowledgement)) in places.iter().zip(whole.defer().into_records()) {
            let one = Batch { first: *place, last: *place, count: 1, ..batch };
            let (application, lost) = (self.application.clone(), self.context.lease_lost.clone());
            let millis = application.link.draw(LATE_MILLIS);
            let drops = application.link.draw(40) == 0;
            self.tasks.spawn(async move {
                sleep(Duration::from_millis(millis)).await;
                application.link.pass().await;
                if lost.is_cancelled() {
                    application.observer.note(What::CutOff(one));
                } else if drops {
                    application.observer.note(What::Refused(one, "its acknowledgement was dropped"));
                    drop(acknowledgement);
                } else {
                    application.observer.note(What::Acknowledged(one));
                    acknowledgement.acknowledge();
                }
            });
        }
        while self.tasks.try_join_next().is_some() {}
        Ok(())
    }
}

/// Notes that a batch was cut off, unless it came to an end.
struct UnderWay<'a> {
    observer: &'a Observer,
    batch: Batch,
    is_over: bool,
}

impl UnderWay<'_> {
    fn end(&mut self, what: What) {
        self.is_over = true;
        self.observer.note(what);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.observer.note(What::CutOff(self.batch));
        }
    }
}

#[async_trait]
impl RecordProcessor for ShardApplication {
    async fn process(&mut self, whole: &RecordBatch) -> Result<(), BoxError> {
        let application = &self.application;
        let places = whole.records().iter().map(|record| At {
            record: record_number(&record.sequence_number),
            sub: record.sub_sequence_number,
        });
        let mut places: Vec<At> = places.collect();
        if application.planted == Some(Planted::BackToFront) {
            places.reverse();
        }
        let batch = Batch {
            process: application.process,
            shard: self.shard,
            token: self.token,
            first: places[0],
            last: places[places.len() - 1],
            count: places.len(),
            is_sorted: places.is_sorted_by(|one, other| one < other),
            late_attempt: 0,
        };
        if application.acknowledges_late {
            return self.acknowledge_late(whole, batch, &places).await;
        }
        application.observer.note(What::Delivered(batch));
        let mut under_way = UnderWay { observer: &application.observer, batch, is_over: false };
        application.link.pass().await;
        let is_bad = application.link.draw(2) == 0;
        match application.mood() {
            None => {
                let millis = application.link.draw(30);
                if millis > 20 {
                    sleep(Duration::from_millis(millis)).await;
                }
            }
            Some((Mood::Errors, _)) if is_bad => {
                under_way.end(What::Refused(batch, "an error"));
                return Err("simulated".into());
            }
            Some((Mood::Panics, _)) if is_bad => {
                under_way.end(What::Refused(batch, "a panic"));
                // It unwinds as any panic does, without a word on the console.
                std::panic::resume_unwind(Box::new("simulated"));
            }
            Some((Mood::Errors | Mood::Panics, _)) => {}
            Some((Mood::Slow(millis), _)) => sleep(Duration::from_millis(millis)).await,
            Some((Mood::Hangs, until)) => sleep_until(until).await,
        }
        application.link.pass().await;
        under_way.end(What::Acknowledged(batch));
        Ok(())
    }

    async fn lease_lost(&mut self) {
        let (process, shard, token) = (self.application.process, self.shard, self.token);
        self.application.observer.note(What::LossTold { process, shard, token });
    }
}
