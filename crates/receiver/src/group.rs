//! Several receivers in one process.

use fastrand::Rng;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use crate::builder::{ConsumerBuilder, fresh_rng, invalid_settings};
use crate::error::ConsumerError;
use crate::handle::ConsumerHandle;
use crate::process::host_name;
use crate::receiver::Consumer;
use crate::status::{ConsumerStatus, StopReport};
use crate::worker_name::new_worker_id;

/// Several receivers of one application in one process.
///
/// They share only the stream, the lease store and the memory budget, so each is a worker of its own. More receivers use
/// more cores. Those in excess of the shards are standbys.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use std::num::NonZeroUsize;
/// use lease_store::InMemoryLeaseStore;
/// use receiver::{Consumer, ConsumerGroup};
/// use shard_worker::{InMemoryStream, batch_handler};
///
/// let builder = Consumer::builder()
///     .application("billing")
///     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
///     .lease_store(InMemoryLeaseStore::new())
///     .processors(batch_handler(|_, batch| async move {
///         println!("{} records", batch.records().len());
///         Ok(())
///     }));
/// // Two workers in one process share the leases, as two processes would.
/// let group = ConsumerGroup::new(&builder, 2)?;
/// group.handle().stop();
/// assert_eq!(group.run().await?.len(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ConsumerGroup {
    receivers: Vec<Consumer>,
}

impl ConsumerGroup {
    /// `count` receivers from one builder. A worker id in its settings gets the suffixes `-0`, `-1` and so on, the same
    /// after each start.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub fn new(builder: &ConsumerBuilder, count: usize) -> Result<Self, ConsumerError> {
        let mut faults = builder.faults();
        if count == 0 {
            faults.push("a group of 0 receivers does nothing; ask for at least 1".to_owned());
        }
        if !faults.is_empty() {
            return Err(invalid_settings(&faults));
        }
        let mut rng = builder.current_seed().map_or_else(fresh_rng, Rng::with_seed);
        let base = builder
            .current_settings()
            .worker_id
            .clone()
            .unwrap_or_else(|| new_worker_id(&mut rng, host_name()));
        let builder = builder.clone().byte_budget(builder.budget_or_new());
        let receivers: Result<Vec<Consumer>, ConsumerError> = (0..count)
            .map(|index| builder.clone().worker_id(format!("{base}-{index}")).seed(rng.u64(..)).build())
            .collect();
        Ok(Self { receivers: receivers? })
    }

    /// A handle for each receiver, in order.
    pub fn handles(&self) -> Vec<ConsumerHandle> {
        self.receivers.iter().map(Consumer::handle).collect()
    }

    /// A handle for all of them.
    pub fn handle(&self) -> ConsumerGroupHandle {
        ConsumerGroupHandle { handles: self.handles() }
    }

    /// The single receivers, to run each separately.
    pub fn into_receivers(self) -> Vec<Consumer> {
        self.receivers
    }

    /// Runs all receivers until each is stopped or its bounded run is over. If one fails to start for a reason that waiting
    /// does not cure, the others are stopped. If one could not start within the `start_timeout` because a service was throttled
    /// or unavailable, the others continue, and its failure is logged.
    ///
    /// # Errors
    /// The first failure to start that waiting does not cure, or, when no receiver could start, the first of all. After all
    /// have ended.
    pub async fn run(self) -> Result<Vec<StopReport>, ConsumerError> {
        let handle = self.handle();
        let mut running: FuturesUnordered<_> = self.receivers.into_iter().map(Consumer::run).collect();
        let mut reports = Vec::new();
        let mut failure = None;
        let mut timed_out = None;
        while let Some(ended) = running.next().await {
            match ended {
                Ok(report) => reports.push(report),
                Err(error) if error.is_retryable() => {
                    tracing::error!(%error, "one receiver of the group did not start in time, the others go on without it");
                    timed_out.get_or_insert(error);
                }
                Err(error) => {
                    handle.stop();
                    failure.get_or_insert(error);
                }
            }
        }
        reports.sort_by(|left, right| left.worker_id.cmp(&right.worker_id));
        failure.or(timed_out.filter(|_| reports.is_empty())).map_or(Ok(reports), Err)
    }
}

/// Stops all receivers of a [`ConsumerGroup`] and reads their status.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryLeaseStore;
/// # use receiver::{Consumer, ConsumerGroup};
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # let builder = Consumer::builder()
/// #     .application("billing")
/// #     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, batch| async move {
/// #         println!("{} records", batch.records().len());
/// #         Ok(())
/// #     }));
/// let group = ConsumerGroup::new(&builder, 2)?;
/// let handle = group.handle();
/// let running = tokio::spawn(group.run());
/// assert_eq!(handle.statuses().len(), 2);
/// assert!(handle.stop_and_wait().await.iter().all(|report| report.is_drained()));
/// # running.await??;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ConsumerGroupHandle {
    handles: Vec<ConsumerHandle>,
}

impl ConsumerGroupHandle {
    /// Requests a stop of all receivers.
    pub fn stop(&self) {
        for handle in &self.handles {
            handle.stop();
        }
    }

    /// Waits until all receivers have ended. Returns the report of each that ended without an error.
    pub async fn stopped(&self) -> Vec<StopReport> {
        let mut reports = Vec::new();
        for handle in &self.handles {
            reports.extend(handle.stopped().await);
        }
        reports
    }

    /// Requests a stop of all receivers, and waits until they have ended.
    pub async fn stop_and_wait(&self) -> Vec<StopReport> {
        self.stop();
        self.stopped().await
    }

    /// The present status of each receiver.
    pub fn statuses(&self) -> Vec<ConsumerStatus> {
        self.handles.iter().map(ConsumerHandle::status).collect()
    }
}

impl From<ConsumerHandle> for ConsumerGroupHandle {
    /// A group of one receiver.
    fn from(handle: ConsumerHandle) -> Self {
        Self { handles: vec![handle] }
    }
}
