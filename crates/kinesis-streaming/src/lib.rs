//! Consume Amazon Kinesis streams natively.
//!
//! Name an application and a stream. A fleet of processes then delivers every record at least once, in order within its
//! shard. The fleet balances itself, survives crashes and resharding, and never skips a record silently.
//!
//! Most programs depend on this crate alone. It re-exports the layers and has no logic of its own. Without features the
//! dependency tree contains no AWS crate; the feature `kinesis-asl`, also called `aws`, adds them.
//!
//! ```
//! use kinesis_streaming::prelude::*;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stream = InMemoryStream::new("clicks", std::num::NonZeroUsize::MIN);
//! stream.put("some key", "hello")?;
//!
//! let (seen, mut first) = tokio::sync::mpsc::channel(1);
//! let consumer = Consumer::builder()
//!     .application("count-clicks")
//!     .source(stream)
//!     .lease_store(InMemoryLeaseStore::new())
//!     .processors(batch_handler(move |_shard, batch| {
//!         let seen = seen.clone();
//!         async move { Ok(seen.send(batch.len()).await?) }
//!     }))
//!     .build()?;
//! let handle = consumer.handle();
//! let running = tokio::spawn(consumer.run());
//! assert_eq!(first.recv().await, Some(1));
//! handle.stop();
//! assert!(running.await??.is_drained());
//! # Ok(()) }
//! ```

#[cfg(any(feature = "http", feature = "metrics"))]
mod consumer_metrics;
#[cfg(all(feature = "kinesis-asl", feature = "cloudwatch"))]
mod fleet_metrics;
#[cfg(doctest)]
mod guides;
#[cfg(any(feature = "http", feature = "metrics", all(feature = "kinesis-asl", feature = "cloudwatch")))]
mod observed;
#[cfg(feature = "http")]
mod operations_router;
#[cfg(feature = "signal")]
mod shutdown_signal;

#[cfg(feature = "metrics")]
pub use consumer_metrics::MetricsRecording;
#[cfg(any(feature = "http", feature = "metrics"))]
pub use consumer_metrics::{ConsumerMetrics, METRICS, Metric, MetricKind};
#[cfg(all(feature = "kinesis-asl", feature = "cloudwatch"))]
pub use fleet_metrics::FleetMetrics;
#[cfg(feature = "kinesis-asl")]
pub use kinesis_asl;
#[cfg(any(feature = "http", feature = "metrics", all(feature = "kinesis-asl", feature = "cloudwatch")))]
pub use observed::MetricsSource;
#[cfg(feature = "http")]
pub use operations_router::operations_router;
#[cfg(feature = "signal")]
pub use shutdown_signal::{ShutdownSignal, shutdown_signal, stop_on_signal};

/// The application's own state, with snapshots: running totals and windows.
#[cfg(feature = "state")]
pub use processor_state as state;
/// The storage buffer: receives a stream ahead of processing, at one of Spark's storage levels.
#[cfg(feature = "storage")]
pub use storage_buffer as storage;

#[doc(hidden)]
pub use checkpointer;
#[doc(hidden)]
pub use lease_store;
#[doc(hidden)]
pub use receiver;
#[doc(hidden)]
pub use shard_worker;

/// A fleet member: the consumer of a stream. The one builder of this crate is [`Consumer::builder`].
pub use receiver::Consumer;
#[doc(inline)]
pub use receiver::{
    ConsumerBuilder, ConsumerError, ConsumerErrorKind, ConsumerGroup, ConsumerGroupHandle, ConsumerHandle,
    ConsumerSettings, ConsumerState, ConsumerStatus, MultiStreamBuilder, MultiStreamConsumer,
    MultiStreamHandle, StreamConfig,
};

/// The items that most programs need: `use kinesis_streaming::prelude::*`.
pub mod prelude {
    pub use async_trait::async_trait;
    pub use lease_store::{
        BillingMode, BoxError, FencingToken, InMemoryLeaseStore, InMemoryMultiStreamLeaseStore, LeaseStore,
        MultiStreamLeaseStore, Position, RecordPosition, SequenceNumber, ShardId, StoreError, StoreErrorKind,
        TableSettings, WorkerId,
    };
    pub use receiver::{
        Delivery, FormerLeases, Health, HealthFault, InitialPosition, LeaseTableState, MultiStreamReport,
        ReleasedShard, ShardPosition, ShardStatus, StopReport, StreamReport, StreamStatus, UnitedStream,
        Unread, UnreadReason, united_stream,
    };
    pub use shard_worker::{
        Acknowledgement, AggregateFilter, BatchLimits, ByteBudget, ByteUsage, CheckpointError,
        CheckpointErrorKind, Concurrency, DataLossPolicy, DeadLetter, DeadLetterSink, DecodeError,
        FailurePolicy, FailureSettings, FileDeadLetters, FlushReason, InMemoryStream, LastResortSetting,
        LetterInJson, PreparedCheckpoint, ProcessError, ProcessorPool, Record, RecordAcknowledgement,
        RecordBatch, RecordId, RecordProcessor, RecordProcessorFactory, RetentionAlarm, RetryPolicy,
        RunUntil, ShardContext, ShardFilter, ShardOutcome, ShardProgress, ShardState, SourceError,
        SourceErrorKind, StreamSource, batch_handler, blocking_handler, concurrent_handler,
    };

    pub use crate::{
        Consumer, ConsumerBuilder, ConsumerError, ConsumerErrorKind, ConsumerGroup, ConsumerGroupHandle,
        ConsumerHandle, ConsumerSettings, ConsumerState, ConsumerStatus, MultiStreamBuilder,
        MultiStreamConsumer, MultiStreamHandle, StreamConfig,
    };

    #[cfg(feature = "signal")]
    pub use crate::{ShutdownSignal, shutdown_signal, stop_on_signal};
    #[cfg(feature = "state")]
    pub use processor_state::{
        SlidingWindow, SlidingWindowCount, StateError, StateErrorKind, StateLogic, StateSchema,
        StateSettings, StateStore, StatefulProcessors, stateful, update_state_by_key,
    };
    #[cfg(feature = "storage")]
    pub use storage_buffer::{
        BlockStores, StorageBuffer, StorageError, StorageErrorKind, StorageLevel, StorageSettings,
    };

    #[cfg(all(feature = "kinesis-asl", feature = "cloudwatch"))]
    pub use crate::FleetMetrics;
    #[cfg(feature = "kinesis-asl")]
    pub use kinesis_asl::{
        AslError, AslErrorKind, AwsSettings, FanOutSettings, KinesisAsl, KinesisDeadLetters, RetrievalMode,
        RoleSettings,
    };
}
