//! Consume Amazon Kinesis streams natively.
//!
//! Name an application and a stream. A fleet of processes then delivers every record at least once, in order within its
//! shard. The fleet balances itself, survives crashes and resharding, and never skips a record silently.
//!
//! Most programs depend on this crate alone. It re-exports the layers and has no logic of its own. Without features the
//! dependency tree contains no AWS crate; the feature `kinesis-asl` adds them.
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

#[cfg(all(feature = "kinesis-asl", feature = "cloudwatch"))]
mod fleet_metrics;
#[cfg(doctest)]
mod guides;

#[cfg(all(feature = "kinesis-asl", feature = "cloudwatch"))]
pub use fleet_metrics::FleetMetrics;
#[cfg(feature = "kinesis-asl")]
pub use kinesis_asl;

/// The application's own state, with snapshots: running totals and windows.
#[cfg(feature = "state")]
pub use processor_state as state;
/// The storage buffer: receives a stream ahead of processing, at one of Spark's storage levels.
#[cfg(feature = "storage")]
pub use storage_buffer as storage;

pub use checkpointer;
pub use lease_store;
pub use receiver;
pub use shard_worker;

/// A fleet member: the consumer of a stream. The one builder of this crate is [`Consumer::builder`].
pub use receiver::Receiver as Consumer;

/// The items that most programs need: `use kinesis_streaming::prelude::*`.
pub mod prelude {
    pub use async_trait::async_trait;
    pub use lease_store::{BoxError, InMemoryLeaseStore, LeaseStore, Position, SequenceNumber, ShardId};
    pub use receiver::{
        Delivery, InitialPosition, ReceiverBuilder, ReceiverGroup, ReceiverHandle, ReceiverSettings,
        ReceiverStatus, ShardPosition, StopReport, UnitedStream, united_stream,
    };
    pub use shard_worker::{
        Acknowledgement, AggregateFilter, BatchLimits, ByteBudget, Concurrency, DataLossPolicy, DeadLetter,
        DeadLetterSink, FailurePolicy, FileDeadLetters, InMemoryStream, ProcessorPool, Record,
        RecordAcknowledgement, RecordBatch, RecordProcessor, RetryPolicy, RunUntil, ShardContext,
        ShardFilter, StreamSource, batch_handler, blocking_handler, concurrent_handler,
    };

    pub use crate::Consumer;

    #[cfg(feature = "state")]
    pub use processor_state::{
        SlidingWindow, SlidingWindowCount, StateLogic, StateSchema, StateSettings, StateStore,
        StatefulProcessors, stateful, update_state_by_key,
    };
    #[cfg(feature = "storage")]
    pub use storage_buffer::{BlockStores, StorageBuffer, StorageLevel, StorageSettings};

    #[cfg(feature = "kinesis-asl")]
    pub use kinesis_asl::{AwsSettings, FanOutSettings, KinesisAsl, KinesisDeadLetters, RetrievalMode};
}
