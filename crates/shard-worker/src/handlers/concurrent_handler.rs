//! A processor from an async closure that works on many records of a shard at a time.

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

use crate::acknowledgement::handles::RecordAcknowledgement;
use crate::acknowledgement::record_batch::RecordBatch;
use crate::failure::failure_policy::Verdict;
use crate::failure::last_resort::apply_last_resort;
use crate::failure::panics::panic_error;
use crate::failure::process_error::{ErrorTexts, ProcessError};
use crate::processor::{FlushReason, RecordProcessor, RecordProcessorFactory};
use crate::record::Record;
use crate::shard_context::ShardContext;

/// Which records of a shard are worked on at the same time.
///
/// ```
/// use std::num::NonZeroUsize;
/// use shard_worker::{Concurrency, concurrent_handler};
///
/// // At most eight records of a shard at once, and those of one partition key in order.
/// let concurrency = Concurrency::PerKey(NonZeroUsize::new(8).expect("eight is not zero"));
/// let processors = concurrent_handler(concurrency, |_, record| async move {
///     println!("{}", record.sequence_number);
///     Ok(())
/// });
/// # fn is_factory(_: impl shard_worker::RecordProcessorFactory) {}
/// # is_factory(processors);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concurrency {
    /// Records with the same partition key one after the other, in order; up to this many keys at a time. Records without
    /// a key count as records of one key.
    PerKey(NonZeroUsize),
    /// Up to this many records, in any order.
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
/// record; the position of the shard moves over records that are acknowledged without a gap.
///
/// A failed record is retried in place, which keeps the order of its key. Meanwhile other records are processed, within the
/// limits for unacknowledged records. The failure policy of the receiver applies to each record.
///
/// Each call gets a clone of the closure, as with [`batch_handler`](crate::batch_handler()).
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
    F: FnOnce(ShardContext, Record) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    ConcurrentHandler { concurrency, handle: Arc::new(handle) }
}

impl<F, R> RecordProcessorFactory for ConcurrentHandler<F>
where
    F: FnOnce(ShardContext, Record) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        // The lease counter makes the waits of different shards differ; the numbers need not be secret.
        let rng = Rng::with_seed(context.fencing_token.counter);
        let work = Work { context, handle: self.handle.clone() };
        let (limit, queues) = match self.concurrency {
            Concurrency::PerKey(limit) => (limit, Some(Arc::default())),
            Concurrency::Unordered(limit) => (limit, None),
        };
        let slots = Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)));
        Ok(Box::new(Concurrent { work, slots, queues, tasks: JoinSet::new(), count: 0, rng }))
    }
}

/// A record and its acknowledgement.
#[derive(Debug)]
struct Item {
    /// The number of the record, in the order of the shard.
    number: u64,
    record: Record,
    acknowledgement: RecordAcknowledgement,
}

/// The records that wait for a running record of the same key. The limit of unacknowledged records bounds their number.
#[derive(Debug, Default)]
struct Queues {
    /// One queue for each key with a running record.
    waiting: HashMap<Option<ByteString>, VecDeque<Item>>,
    /// The number of the newest record that was started.
    newest_started: u64,
}

impl Queues {
    /// Queues a record behind a running one of its key; returns it if there is none, so that it can start.
    fn enqueue(&mut self, key: &Option<ByteString>, item: Item) -> Option<Item> {
        match self.waiting.get_mut(key) {
            Some(queue) => {
                queue.push_back(item);
                None
            }
            None => Some(item),
        }
    }

    fn start(&mut self, key: &Option<ByteString>, number: u64) {
        self.newest_started = self.newest_started.max(number);
        self.waiting.entry(key.clone()).or_default();
    }

    /// The next record of a key; `None` ends the queue of the key.
    fn dequeue(&mut self, key: &Option<ByteString>) -> Option<Item> {
        let next = self.waiting.get_mut(key)?.pop_front();
        match &next {
            Some(item) => self.newest_started = self.newest_started.max(item.number),
            None => drop(self.waiting.remove(key)),
        }
        next
    }

    /// Removes the records after the newest started one. The waiting records before it stay and have to be processed:
    /// otherwise the next owner would repeat later records that are done.
    fn take_not_started(&mut self) -> Vec<Item> {
        let newest_started = self.newest_started;
        let mut not_started = Vec::new();
        for queue in self.waiting.values_mut() {
            let kept = queue.partition_point(|item| item.number < newest_started);
            not_started.extend(queue.split_off(kept));
        }
        not_started
    }
}

/// The processor of one shard, with a task for each running record or key. The tasks end with it.
struct Concurrent<F> {
    work: Work<F>,
    slots: Arc<Semaphore>,
    /// `None`: unordered.
    queues: Option<Arc<Mutex<Queues>>>,
    tasks: JoinSet<()>,
    /// How many records were delivered so far.
    count: u64,
    rng: Rng,
}

#[async_trait]
impl<F, R> RecordProcessor for Concurrent<F>
where
    F: FnOnce(ShardContext, Record) -> R + Clone + Send + Sync + 'static,
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
                lock(queues).start(&key, item.number);
            }
            let (work, queues, mut rng) = (self.work.clone(), self.queues.clone(), self.rng.fork());
            let task = async move {
                let mut next = Some(item);
                while let Some(Item { record, acknowledgement, .. }) = next {
                    work.process(record, acknowledgement, rng.fork()).await;
                    next = queues.as_ref().and_then(|queues| lock(queues).dequeue(&key));
                }
                drop(slot);
            };
            self.tasks.spawn(task.in_current_span());
        }
        Ok(())
    }

    async fn flush(&mut self, reason: FlushReason) -> Result<(), BoxError> {
        if let (FlushReason::Stop, Some(queues)) = (reason, &self.queues) {
            for item in lock(queues).take_not_started() {
                item.acknowledgement.release();
            }
        }
        Ok(())
    }
}

fn lock(queues: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The closure, and the context that it is called with.
struct Work<F> {
    context: ShardContext,
    handle: Arc<F>,
}

impl<F> Clone for Work<F> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), handle: self.handle.clone() }
    }
}

impl<F, R> Work<F>
where
    F: FnOnce(ShardContext, Record) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    /// Processes a record until it succeeds, or until the last resort of the failure policy is applied.
    async fn process(&self, record: Record, acknowledgement: RecordAcknowledgement, rng: Rng) {
        let policy = &self.context.failure_policy;
        let mut delays = self.context.retry.delays(rng);
        let mut attempts = 0;
        let mut last_error: Option<ErrorTexts> = None;
        let mut wait = None;
        loop {
            let result = match &last_error {
                None => self.attempt(&record).await.map(|()| None),
                Some(texts) => apply_last_resort(&self.context, &record, attempts, texts).await.map(Some),
            };
            let error = match result {
                Ok(last_resort) => {
                    acknowledgement.complete(last_resort);
                    return;
                }
                Err(error) => error,
            };
            acknowledgement.record_failure(&error);
            if last_error.is_none() {
                attempts += 1;
                match policy.verdict(attempts, 1, false, ProcessError::is_permanent(&*error)) {
                    Verdict::LastResort => {
                        last_error = Some(ErrorTexts::of(&*error));
                        continue;
                    }
                    Verdict::Halt => tracing::error!(
                        %error, attempts, sequence_number = %record.sequence_number,
                        "record keeps failing; fix the cause, the record is retried at the longest wait and no checkpoint \
                         passes it"
                    ),
                    Verdict::Retry | Verdict::Divide => tracing::warn!(
                        %error, attempts, sequence_number = %record.sequence_number,
                        "record failed, retrying it"
                    ),
                }
            }
            // Where the retry policy ends, its last wait repeats: the failure policy alone ends the retries.
            wait = delays.next().or(wait);
            sleep(wait.unwrap_or_default()).await;
        }
    }

    async fn attempt(&self, record: &Record) -> Result<(), BoxError> {
        let (handle, context, record) = (F::clone(&self.handle), self.context.clone(), record.clone());
        let handling = AssertUnwindSafe(async move { handle(context, record).await }).catch_unwind();
        let handled = match self.context.failure_policy.handler_time_limit() {
            Some(limit) => timeout(limit, handling)
                .await
                .map_err(|_| format!("the handler took longer than {limit:?} and was cancelled"))?,
            None => handling.await,
        };
        handled.map_err(|panic| panic_error("the handler", &*panic))?
    }
}
