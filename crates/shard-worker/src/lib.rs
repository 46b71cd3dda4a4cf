//! The life of one shard: fetch, deliver, acknowledge, end.
//!
//! A [`ShardWorker`] reads one shard from a [`RecordSource`] and hands its records to a [`RecordProcessor`], batch by
//! batch and in order. A batch that was processed is acknowledged; one whose handler failed or panicked is tried again
//! in place, after a wait, until it succeeds or somebody stops the worker: it is never skipped. What comes next is
//! decided by a state machine without I/O; the task around it only carries the steps out.
//!
//! | what | where |
//! | --- | --- |
//! | what the application writes | [`RecordProcessor`], or a closure by [`batch_handler`], or one that blocks by [`blocking_handler`] |
//! | where records come from | [`StreamSource`] lists and opens shards, [`RecordSource`] reads one |
//! | how much memory the records of all shards take | [`ByteBudget`] |
//! | acknowledge later, or record by record | [`RecordBatch::defer`], [`Acknowledgement`], [`RecordAcknowledgement`] |
//! | many records of a shard at a time | [`concurrent_handler`], [`Concurrency`] |
//! | what cannot be processed | [`FailurePolicy`], [`DeadLetterSink`] |
//! | payloads as values | [`Record::json`], [`Record::decode`] |
//! | how large batches are, and how fast they come | [`BatchLimits`], [`RateLimit`] |
//! | the worker | [`ShardWorker`], [`ShardOutcome`], [`ShardProgress`]; [`Watchdog`] when it makes no progress |
//! | where it starts and ends, and what becomes of records that are no longer there | [`DataLossPolicy`], [`RetentionAlarm`], [`RunUntil`] |
//! | a stream to test with | [`InMemoryStream`]: write, split, merge, throttle, trim |
//! | many records in one, as the Kinesis Producer Library writes them | [`deaggregate`], [`Aggregator`] |

mod acknowledgement;
mod aggregation;
mod arrivals;
mod batch_handler;
mod blocking_handler;
mod byte_budget;
mod byte_ledger;
mod concurrent_handler;
mod data_loss;
mod dead_letter;
mod decoding;
mod error;
mod failure_policy;
mod file_dead_letters;
mod gathering;
mod in_memory_stream;
mod intake;
mod last_resort;
mod life;
mod panics;
mod processor;
mod progress;
mod rate_limit;
mod reading_guard;
mod record;
mod retention;
mod run_until;
mod shard;
mod source;
mod stream_clock;
mod task;
mod watchdog;
mod worker;

pub use acknowledgement::{Acknowledgement, RecordAcknowledgement};
#[doc(hidden)]
pub use acknowledgement::{Advance, Window};
pub use aggregation::{
    AggregatedRecord, Aggregator, Deaggregated, MIN_SUB_RECORD_BYTES, deaggregate, hash_key_of,
};
pub use batch_handler::{BatchHandler, batch_handler};
pub use blocking_handler::{BlockingHandler, ProcessorPool, blocking_handler};
pub use byte_budget::{ByteBudget, ByteReservation, ByteUsage, DEFAULT_MAX_BUFFERED_BYTES};
pub use checkpointer::RetryPolicy;
pub use concurrent_handler::{Concurrency, ConcurrentHandler, concurrent_handler};
pub use data_loss::{DataLossPolicy, LossEvidence, LostSpan};
pub use dead_letter::{DeadLetter, DeadLetterSink, LetterInJson};
pub use decoding::DecodeError;
pub use error::{SourceError, SourceErrorKind};
pub use failure_policy::FailurePolicy;
pub use file_dead_letters::FileDeadLetters;
pub use gathering::BatchLimits;
pub use in_memory_stream::InMemoryStream;
pub use lease_store::BoxError;
pub use processor::{
    DEFAULT_PROCESSING_RETRY, RecordProcessor, RecordProcessorFactory, Settling, ShardContext,
};
pub use progress::{ShardProgress, ShardState};
pub use rate_limit::RateLimit;
pub use record::{Record, RecordBatch, RecordId};
pub use retention::RetentionAlarm;
pub use run_until::RunUntil;
pub use shard::Shard;
pub use source::{
    FetchedBatch, ReadFrom, RecordSource, ShardEnd, ShardFilter, StreamDescription, StreamSource,
};
pub use stream_clock::StreamClock;
pub use watchdog::{Interventions, Watchdog, WatchdogAct, WatchdogLimits};
pub use worker::{
    DEFAULT_MAX_UNACKNOWLEDGED_BYTES, DEFAULT_MAX_UNACKNOWLEDGED_RECORDS, DEFAULT_READ_AHEAD_BYTES,
    ShardEndRecorder, ShardOutcome, ShardWorker, ShardWorkerOptions,
};
