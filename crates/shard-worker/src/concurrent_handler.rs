//! A processor from a closure that works on many records of a shard at a time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytestring::ByteString;
use fastrand::Rng;
use futures::FutureExt as _;
use lease_store::BoxError;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;

use crate::failure_policy::Verdict;
use crate::last_resort::take_last_resort;
use crate::panics::panic_error;
use crate::{
    Record, RecordAcknowledgement, RecordBatch, RecordProcessor, RecordProcessorFactory, Settling,
    ShardContext,
};

/// Which records of a shard are worked on at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// Records with the same partition key one after the other, in order; up to so many keys at a time. Records without a
    /// key count as having the same one.
    PerKey(NonZeroUsize),
    /// Up to so many records, in any order.
    Unordered(NonZeroUsize),
}

/// Calls a closure for many records at a time; see [`concurrent_handler`].
pub struct ConcurrentHandler<F> {
    concurrency: Concurrency,
    handle: Arc<F>,
}

impl<F> Clone for ConcurrentHandler<F> {
    fn clone(&self) -> Self {
        Self { concurrency: self.concurrency, handle: self.handle.clone() }
    }
}

impl<F> fmt::Debug for ConcurrentHandler<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConcurrentHandler")
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// A processor factory from a closure that is called with each record of each shard, many at a time. `Ok` acknowledges the
/// record; the position of the shard moves over what is acknowledged without a gap.
///
/// A record that fails is tried again in its place, so that the order of its key is kept, and the others go on meanwhile, as
/// far as the limits for what is unacknowledged allow. Then the failure policy of the receiver holds for it.
///
/// ```
/// use std::num::NonZeroUsize;
/// use shard_worker::{BoxError, Concurrency, concurrent_handler};
///
/// let sixteen_keys = Concurrency::PerKey(NonZeroUsize::MIN.saturating_add(15));
/// let factory = concurrent_handler(sixteen_keys, async |shard, record| {
///     println!("{} of {}", record.sequence_number, shard.shard_id);
///     Ok::<_, BoxError>(())
/// });
/// # let _: &dyn shard_worker::RecordProcessorFactory = &factory;
/// ```
pub fn concurrent_handler<F, R>(concurrency: Concurrency, handle: F) -> ConcurrentHandler<F>
where
    F: Fn(ShardContext, Record) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    ConcurrentHandler { concurrency, handle: Arc::new(handle) }
}

impl<F, R> RecordProcessorFactory for ConcurrentHandler<F>
where
    F: Fn(ShardContext, Record) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor> {
        // The waits of different shards differ by their counters; no secret is drawn from it.
        let rng = Rng::with_seed(context.fencing_token.counter);
        let work = Work { context: Arc::new(context), handle: self.handle.clone() };
        let (limit, queues) = match self.concurrency {
            Concurrency::PerKey(limit) => (limit, Some(Arc::default())),
            Concurrency::Unordered(limit) => (limit, None),
        };
        let slots = Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)));
        Box::new(Concurrent { work, slots, queues, tasks: JoinSet::new(), count: 0, rng })
    }
}

/// A record and what it is acknowledged with.
#[derive(Debug)]
struct Item {
    /// Counts on from record to record.
    number: u64,
    record: Record,
    acknowledgement: RecordAcknowledgement,
}

/// The records that wait because one with the same key is worked on. They are bounded by what may be unacknowledged.
#[derive(Debug, Default)]
struct Queues {
    /// For each key that is worked on.
    waiting: HashMap<Option<ByteString>, VecDeque<Item>>,
    /// The newest record that was begun with.
    newest_begun: u64,
}

impl Queues {
    /// Begins with a record, or lets it wait behind others of its key.
    fn enqueue(&mut self, key: &Option<ByteString>, item: Item) -> Option<Item> {
        match self.waiting.get_mut(key) {
            Some(queue) => {
                queue.push_back(item);
                None
            }
            None => Some(item),
        }
    }

    fn begin(&mut self, key: &Option<ByteString>, number: u64) {
        self.newest_begun = self.newest_begun.max(number);
        self.waiting.entry(key.clone()).or_default();
    }

    /// The next record of a key; without one the key is worked on no more.
    fn dequeue(&mut self, key: &Option<ByteString>) -> Option<Item> {
        let next = self.waiting.get_mut(key)?.pop_front();
        match &next {
            Some(item) => self.newest_begun = self.newest_begun.max(item.number),
            None => drop(self.waiting.remove(key)),
        }
        next
    }

    /// Takes out what comes after all that was begun with. What comes before it has to be done, or what is done already
    /// would come again elsewhere.
    fn take_untouched(&mut self) -> Vec<Item> {
        let newest_begun = self.newest_begun;
        let mut untouched = Vec::new();
        for queue in self.waiting.values_mut() {
            let kept = queue.partition_point(|item| item.number < newest_begun);
            untouched.extend(queue.split_off(kept));
        }
        untouched
    }
}

/// A task for each record or key that is worked on. They end with the processor.
struct Concurrent<F> {
    work: Work<F>,
    slots: Arc<Semaphore>,
    /// `None`: unordered.
    queues: Option<Arc<Mutex<Queues>>>,
    tasks: JoinSet<()>,
    /// How many records came so far.
    count: u64,
    rng: Rng,
}

#[async_trait]
impl<F, R> RecordProcessor for Concurrent<F>
where
    F: Fn(ShardContext, Record) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        for (record, acknowledgement) in batch.defer().into_records() {
            let key = record.partition_key.clone();
            self.count += 1;
            let mut item = Item { number: self.count, record, acknowledgement };
            if let Some(queues) = &self.queues {
                item = match lock(queues).enqueue(&key, item) {
                    Some(item) => item,
                    None => continue,
                };
            }
            let slot = tokio::select! {
                biased;
                () = self.work.context.stopping.cancelled() => {
                    item.acknowledgement.release();
                    continue;
                }
                slot = self.slots.clone().acquire_owned() => slot?,
            };
            while self.tasks.try_join_next().is_some() {}
            if let Some(queues) = &self.queues {
                lock(queues).begin(&key, item.number);
            }
            let (work, queues, mut rng) = (self.work.clone(), self.queues.clone(), self.rng.fork());
            let task = async move {
                let mut next = Some(item);
                while let Some(Item { record, acknowledgement, .. }) = next {
                    work.carry_through(record, acknowledgement, rng.fork()).await;
                    next = queues.as_ref().and_then(|queues| lock(queues).dequeue(&key));
                }
                drop(slot);
            };
            self.tasks.spawn(task.in_current_span());
        }
        Ok(())
    }

    async fn settle(&mut self, reason: Settling) -> Result<(), BoxError> {
        if let (Settling::Stop, Some(queues)) = (reason, &self.queues) {
            for untouched in lock(queues).take_untouched() {
                untouched.acknowledgement.release();
            }
        }
        Ok(())
    }
}

fn lock(queues: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Work<F> {
    context: Arc<ShardContext>,
    handle: Arc<F>,
}

impl<F> Clone for Work<F> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), handle: self.handle.clone() }
    }
}

impl<F, R> Work<F>
where
    F: Fn(ShardContext, Record) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    /// Works on a record until it is done, or the failure policy lets it go.
    async fn carry_through(&self, record: Record, acknowledgement: RecordAcknowledgement, rng: Rng) {
        let policy = &self.context.failure_policy;
        let mut delays = self.context.retry.delays(rng);
        let mut attempts = 0;
        let mut given_up: Option<String> = None;
        let mut wait = None;
        loop {
            let result = match &given_up {
                None => self.attempt(&record).await.map(|()| None),
                Some(error) => take_last_resort(&self.context, &record, attempts, error).await.map(Some),
            };
            let error = match result {
                Ok(given_up) => {
                    acknowledgement.settle(given_up);
                    return;
                }
                Err(error) => error,
            };
            acknowledgement.note_failure(&error);
            if given_up.is_none() {
                attempts += 1;
                match policy.verdict(attempts, 1, false) {
                    Verdict::GiveUp => {
                        given_up = Some(error.to_string());
                        continue;
                    }
                    Verdict::Halt => tracing::error!(
                        %error, attempts, sequence_number = %record.sequence_number,
                        "a record fails again and again; it is tried again now and then, and nothing passes it"
                    ),
                    Verdict::Again | Verdict::Divide => tracing::warn!(
                        %error, attempts, sequence_number = %record.sequence_number,
                        "a record failed and is tried again"
                    ),
                }
            }
            // A record is never given up silently: where the waits end, the last one repeats.
            wait = delays.next().or(wait);
            sleep(wait.unwrap_or_default()).await;
        }
    }

    async fn attempt(&self, record: &Record) -> Result<(), BoxError> {
        let (handle, context, record) =
            (self.handle.clone(), ShardContext::clone(&self.context), record.clone());
        let handling = AssertUnwindSafe(async move { handle(context, record).await }).catch_unwind();
        let handled = match self.context.failure_policy.handler_time_limit() {
            Some(limit) => timeout(limit, handling)
                .await
                .map_err(|_| format!("the handler took longer than {limit:?} and was cut short"))?,
            None => handling.await,
        };
        handled.map_err(|panic| panic_error("the handler", &*panic))?
    }
}
