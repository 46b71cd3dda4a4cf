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
    Record, RecordAcknowledgement, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext,
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
#[derive(Clone)]
pub struct ConcurrentHandler<F> {
    concurrency: Concurrency,
    handle: Arc<F>,
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
            Concurrency::PerKey(limit) => (limit, Some(Queues::default())),
            Concurrency::Unordered(limit) => (limit, None),
        };
        let slots = Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)));
        Box::new(Concurrent { work, slots, queues, tasks: JoinSet::new(), rng })
    }
}

/// A record and what it is acknowledged with.
type Item = (Record, RecordAcknowledgement);

/// For each key that is worked on, the records that wait for it. They are bounded by what may be unacknowledged.
type Queues = Arc<Mutex<HashMap<Option<ByteString>, VecDeque<Item>>>>;

/// A task for each record or key that is worked on. They end with the processor.
struct Concurrent<F> {
    work: Work<F>,
    slots: Arc<Semaphore>,
    /// `None`: unordered.
    queues: Option<Queues>,
    tasks: JoinSet<()>,
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
            let mut item = (record, acknowledgement);
            if let Some(queues) = &self.queues {
                item = match enqueue(queues, &key, item) {
                    Some(item) => item,
                    None => continue,
                };
            }
            let slot = self.slots.clone().acquire_owned().await?;
            while self.tasks.try_join_next().is_some() {}
            if let Some(queues) = &self.queues {
                lock(queues).entry(key.clone()).or_default();
            }
            let (work, queues, mut rng) = (self.work.clone(), self.queues.clone(), self.rng.fork());
            let task = async move {
                let mut next = Some(item);
                while let Some((record, acknowledgement)) = next {
                    work.carry_through(record, acknowledgement, rng.fork()).await;
                    next = queues.as_ref().and_then(|queues| dequeue(queues, &key));
                }
                drop(slot);
            };
            self.tasks.spawn(task.in_current_span());
        }
        Ok(())
    }
}

fn lock(queues: &Queues) -> MutexGuard<'_, HashMap<Option<ByteString>, VecDeque<Item>>> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a record wait behind others of its key; gives it back if there are none.
fn enqueue(queues: &Queues, key: &Option<ByteString>, item: Item) -> Option<Item> {
    match lock(queues).get_mut(key) {
        Some(queue) => {
            queue.push_back(item);
            None
        }
        None => Some(item),
    }
}

/// The next record of a key; without one the key is worked on no more.
fn dequeue(queues: &Queues, key: &Option<ByteString>) -> Option<Item> {
    let mut queues = lock(queues);
    let next = queues.get_mut(key)?.pop_front();
    if next.is_none() {
        queues.remove(key);
    }
    next
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
