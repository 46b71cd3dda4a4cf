//! The work on one shard: fetch, deliver, acknowledge, end.
//!
//! A [`ShardWorker`] reads one shard from a [`RecordSource`] and delivers its records to a [`RecordProcessor`], batch by
//! batch and in order. A processed batch is acknowledged. A batch whose handler failed or panicked is retried in place,
//! after a wait, until it succeeds or the worker is stopped: no batch is ever skipped. A state machine without I/O decides
//! the next step; the task around it only runs the steps.
//!
//! | topic | items |
//! | --- | --- |
//! | the application's code | [`RecordProcessor`], or a closure by [`batch_handler`], or a blocking one by [`blocking_handler`] |
//! | record sources | [`StreamSource`] lists and opens shards, [`RecordSource`] reads one |
//! | the memory for the records of all shards | [`ByteBudget`] |
//! | late acknowledgement, record by record | [`RecordBatch::defer`], [`Acknowledgement`], [`RecordAcknowledgement`] |
//! | a checkpoint now, or in two steps | [`ShardContext::checkpoint`], [`ShardContext::prepare_checkpoint`] |
//! | many records of a shard at a time | [`concurrent_handler`], [`Concurrency`] |
//! | records that cannot be processed | [`FailurePolicy`], [`ProcessError`], [`DeadLetterSink`] |
//! | decoding payloads | [`Record::json`], [`Record::decode`] |
//! | the size of batches and the delivery rate | [`BatchLimits`], [`RateLimit`] |
//! | the worker | [`ShardWorker`], [`ShardWorkerOptions`], [`ShardOutcome`], [`ShardProgress`]; [`Watchdog`] |
//! | data loss, retention and bounded runs | [`DataLossPolicy`], [`RetentionAlarm`], [`RunUntil`] |
//! | a stream for tests | [`InMemoryStream`]: write, split, merge, throttle, trim |
//! | aggregates of the Kinesis Producer Library | [`deaggregate`], [`Aggregator`] |

mod acknowledgement;
mod age;
mod aggregation;
mod checkpoint_access;
mod decoding;
mod error;
mod explicit_checkpoint;
mod failure;
mod handlers;
mod in_memory_stream;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod memory;
mod processor;
mod progress;
mod read;
mod record;
mod shard;
mod shard_context;
mod source;
mod worker;

pub use acknowledgement::handles::{Acknowledgement, RecordAcknowledgement};
pub use acknowledgement::record_batch::RecordBatch;
pub use age::Age;
pub use aggregation::aggregator::{AggregatedRecord, Aggregator};
pub use aggregation::deaggregate::{Deaggregated, MIN_SUB_RECORD_BYTES, deaggregate};
pub use aggregation::filter_rule::{AggregateFilter, KPL_PARTITION_KEY, RE_PUT_WINDOW};
pub use aggregation::hash_filter::hash_key_of;
pub use checkpointer::{CheckpointError, CheckpointErrorKind, RetryPolicy};
pub use decoding::DecodeError;
pub use error::{SourceError, SourceErrorKind};
pub use explicit_checkpoint::PreparedCheckpoint;
pub use failure::dead_letter::{DeadLetter, DeadLetterSink, LetterInJson};
pub use failure::failure_policy::FailurePolicy;
pub use failure::failure_settings::{FailureSettings, LastResortSetting};
pub use failure::file_dead_letters::FileDeadLetters;
pub use failure::process_error::ProcessError;
pub use handlers::batch_handler::{BatchHandler, batch_handler};
pub use handlers::blocking_handler::{BlockingHandler, ProcessorPool, blocking_handler};
pub use handlers::concurrent_handler::{Concurrency, ConcurrentHandler, concurrent_handler};
pub use in_memory_stream::InMemoryStream;
pub use lease_store::BoxError;
pub use memory::byte_budget::{ByteBudget, ByteReservation, ByteUsage, DEFAULT_MAX_BUFFERED_BYTES};
pub use processor::{FlushReason, IntoProcessor, RecordProcessor, RecordProcessorFactory};
pub use progress::{ShardProgress, ShardState};
pub use read::batching::BatchLimits;
pub use read::data_loss::DataLossPolicy;
pub use read::rate_limit::RateLimit;
pub use read::retention::RetentionAlarm;
pub use read::run_until::RunUntil;
pub use read::stream_clock::StreamClock;
pub use read::stream_retention::StreamRetention;
pub use record::{Record, RecordId};
pub use shard::Shard;
pub use shard_context::{DEFAULT_PROCESSING_RETRY, ShardContext, ShardContextData};
pub use source::{
    FetchedBatch, ReadFrom, RecordDistribution, RecordSource, ShardEnd, ShardFilter, StreamDescription,
    StreamSource,
};
pub use worker::ShardOutcome;
pub use worker::options::{
    DEFAULT_MAX_UNACKNOWLEDGED_BYTES, DEFAULT_MAX_UNACKNOWLEDGED_RECORDS, DEFAULT_READ_AHEAD_BYTES,
    ShardWorkerOptions,
};
pub use worker::shard_worker::{ShardEndRecorder, ShardWorker};
pub use worker::watchdog::{Watchdog, WatchdogAct, WatchdogCommands, WatchdogLimits};
