//! The contract that an application implements: a record processor, and its factory.

use async_trait::async_trait;
use lease_store::BoxError;

use crate::acknowledgement::record_batch::RecordBatch;
use crate::shard_context::ShardContext;

/// The application's code for one shard. One value lives as long as this worker owns the shard.
///
/// Calls come one at a time. All but [`process`](Self::process) are optional.
///
/// ```
/// use async_trait::async_trait;
/// use shard_worker::{BoxError, RecordBatch, RecordProcessor};
///
/// /// Counts the records of one shard.
/// #[derive(Debug, Default)]
/// struct Counter(usize);
///
/// #[async_trait]
/// impl RecordProcessor for Counter {
///     async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
///         self.0 += batch.records().len();
///         Ok(()) // the batch is acknowledged
///     }
/// }
/// ```
#[async_trait]
pub trait RecordProcessor: Send + 'static {
    /// Called once before the first batch.
    ///
    /// # Errors
    /// Any error is logged, and the call is repeated after a wait.
    async fn initialize(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Processes a batch. `Ok` acknowledges all of it: a checkpoint may pass it from then on. A processor that finishes
    /// later, or record by record, calls [`RecordBatch::defer`].
    ///
    /// When the lease is lost, the future is dropped at its next await point, since another worker is about to read the
    /// same records.
    ///
    /// # Errors
    /// An error, like a panic, acknowledges nothing: the same batch is delivered again after a wait, to the same value,
    /// until the [`FailurePolicy`](crate::FailurePolicy) decides otherwise. Records that were acknowledged one by one are
    /// not delivered again.
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError>;

    /// A read found no records, and none wait to be delivered: a chance to do what depends on time. Called only if
    /// [`ShardWorkerOptions::calls_for_empty_reads`](crate::ShardWorkerOptions::calls_for_empty_reads) is set, after each such
    /// read. `millis_behind_latest` is how far that read was behind the newest record, as the stream reports it.
    ///
    /// # Errors
    /// Any error is logged, and the call is repeated after a wait; nothing is read before it succeeds.
    async fn nothing_read(&mut self, millis_behind_latest: Option<u64>) -> Result<(), BoxError> {
        let _ = millis_behind_latest;
        Ok(())
    }

    /// The worker delivers no batch until deferred records are acknowledged: all of them, or as many as the reason
    /// demands. A processor that holds acknowledgements back, to store something before them, does it now. It need not
    /// wait for running work. At a stop it [releases](crate::RecordAcknowledgement::release) the records that it has not
    /// started.
    ///
    /// # Errors
    /// Any error is logged, and the call is repeated after a wait.
    async fn flush(&mut self, reason: FlushReason) -> Result<(), BoxError> {
        let _ = reason;
        Ok(())
    }

    /// Another worker owns the shard now. Acknowledgements do nothing any more.
    async fn lease_lost(&mut self) {}

    /// The shard was read to its end and every record is acknowledged. The application need not call anything for the
    /// children to start.
    ///
    /// # Errors
    /// Any error is logged, and the call is repeated after a wait; the children start after it succeeds.
    async fn shard_ended(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// This worker is stopping. Afterwards the acknowledged position is checkpointed and the lease is released.
    ///
    /// # Errors
    /// An error is logged; the stop continues.
    async fn shutdown_requested(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Why deferred records have to be acknowledged.
///
/// ```
/// use shard_worker::FlushReason;
///
/// /// Whether a processor that collects records has to write all of them now.
/// fn writes_all(reason: FlushReason) -> bool {
///     matches!(reason, FlushReason::ShardEnd | FlushReason::Stop)
/// }
/// assert!(writes_all(FlushReason::Stop) && !writes_all(FlushReason::Capacity));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushReason {
    /// The limit of unacknowledged records is reached; the next batch is delivered once there is capacity.
    Capacity,
    /// The shard was read to its end, which is recorded once all records are acknowledged; or up to the bound of a bounded
    /// run, where the worker stops.
    ShardEnd,
    /// The worker is stopping; it waits for the time that its settings allow.
    Stop,
}

/// Creates a processor for each shard that this worker takes. Any `Fn(ShardContext) -> P` is a factory, where `P` is a
/// [`RecordProcessor`], or a `Result` of one and an error.
///
/// ```
/// # use shard_worker::{BoxError, RecordBatch, RecordProcessor, ShardContext};
/// # struct Writer;
/// # impl Writer { fn open(shard: &str) -> Result<Self, std::io::Error> { let _ = shard; Ok(Self) } }
/// # #[async_trait::async_trait]
/// # impl RecordProcessor for Writer {
/// #     async fn process(&mut self, _: &RecordBatch) -> Result<(), BoxError> { Ok(()) }
/// # }
/// let factory = |shard: ShardContext| Writer::open(shard.shard_id.as_str());
/// # let _: &dyn shard_worker::RecordProcessorFactory = &factory;
/// ```
pub trait RecordProcessorFactory: Send + Sync + 'static {
    /// A processor for one shard.
    ///
    /// # Errors
    /// Any error is logged, and the call is repeated after a wait. The shard is reported as backing off.
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError>;
}

/// The result of a closure that is a factory: a processor, or a `Result` of one.
pub trait IntoProcessor {
    /// The processor.
    ///
    /// # Errors
    /// That of a `Result`.
    fn into_processor(self) -> Result<Box<dyn RecordProcessor>, BoxError>;
}

impl<P: RecordProcessor> IntoProcessor for P {
    fn into_processor(self) -> Result<Box<dyn RecordProcessor>, BoxError> {
        Ok(Box::new(self))
    }
}

impl<P: RecordProcessor, E: Into<BoxError>> IntoProcessor for Result<P, E> {
    fn into_processor(self) -> Result<Box<dyn RecordProcessor>, BoxError> {
        self.map_err(Into::into)?.into_processor()
    }
}

impl<F, P> RecordProcessorFactory for F
where
    F: Fn(ShardContext) -> P + Send + Sync + 'static,
    P: IntoProcessor,
{
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        self(context).into_processor()
    }
}
