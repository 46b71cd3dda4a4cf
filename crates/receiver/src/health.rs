//! What is wrong with a receiver, from its status; pure.

use std::fmt;
use std::time::Duration;

use lease_store::ShardId;
use shard_worker::{RetentionAlarm, ShardState};

use crate::status::{ConsumerState, ConsumerStatus, LeaseTableState, ShardStatus};

/// How long a shard may fail, or make no progress, until [`ConsumerStatus::health`] reports it: more than the longest idle time
/// between two reads, and several waits of the default retries.
pub const DEFAULT_STUCK_AFTER: Duration = Duration::from_secs(120);

/// What is wrong with a receiver; see [`ConsumerStatus::health`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryLeaseStore;
/// # use receiver::Consumer;
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # let consumer = Consumer::builder()
/// #     .application("billing")
/// #     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, batch| async move {
/// #         println!("{} records", batch.records().len());
/// #         Ok(())
/// #     }))
/// #     .build()?;
/// let health = consumer.handle().status().health();
/// let http_status = if health.is_healthy() { 200 } else { 503 };
/// println!("{http_status} {health}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Health {
    /// Everything that is wrong. Empty: healthy.
    pub faults: Vec<HealthFault>,
}

impl Health {
    /// Whether nothing is wrong.
    pub fn is_healthy(&self) -> bool {
        self.faults.is_empty()
    }
}

/// The faults, separated by semicolons, or `healthy`.
impl fmt::Display for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_healthy() {
            return formatter.write_str("healthy");
        }
        for (index, fault) in self.faults.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{fault}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong with a receiver.
///
/// ```
/// use receiver::{Health, HealthFault};
///
/// /// Whether a restart of the process may help: another worker then tries the shard.
/// fn is_stuck(health: &Health) -> bool {
///     health.faults.iter().any(|fault| matches!(fault, HealthFault::ShardStuck { .. }))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthFault {
    /// The start fails and is repeated, for this reason.
    StartFails(String),
    /// The lease table cannot be listed, or is not complete.
    LeaseTable(LeaseTableState),
    /// The worker takes no leases, for this reason.
    TakesRefused(String),
    /// Another live process runs under the same worker id.
    Namesake(String),
    /// A shard is not read or processed. Its records wait.
    ShardStuck {
        /// The shard.
        shard_id: ShardId,
        /// The present state.
        state: ShardState,
        /// How long it has failed, or made no progress.
        stuck_for: Duration,
        /// The newest error; `None`: nothing failed, so the application holds the shard up.
        error: Option<String>,
    },
    /// A shard will soon lose records: its lag has used up four fifths of the retention period of the stream.
    RecordsExpire(ShardId),
}

impl fmt::Display for HealthFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartFails(reason) => write!(formatter, "the start fails: {reason}"),
            Self::LeaseTable(state) => write!(formatter, "the lease table is {state:?}"),
            Self::TakesRefused(reason) => write!(formatter, "no leases are taken: {reason}"),
            Self::Namesake(other) => write!(formatter, "another process has the same worker id: {other}"),
            Self::ShardStuck { shard_id, state, stuck_for, error } => {
                write!(
                    formatter,
                    "{shard_id} is stuck for {} s in the state {state:?}",
                    stuck_for.as_secs()
                )?;
                match error {
                    Some(error) => write!(formatter, ": {error}"),
                    None => Ok(()),
                }
            }
            Self::RecordsExpire(shard_id) => write!(formatter, "records of {shard_id} expire soon"),
        }
    }
}

impl ConsumerStatus {
    /// What is wrong, where a shard may fail or make no progress for two minutes ([`DEFAULT_STUCK_AFTER`]).
    ///
    /// For an alarm or a readiness check. A restart of the process cures few of these faults, so it is no liveness check.
    pub fn health(&self) -> Health {
        self.health_after(DEFAULT_STUCK_AFTER)
    }

    /// What is wrong, where a shard may fail or make no progress for this time. Set it longer than the application needs for a
    /// batch. A shard in a state that only an operator ends is reported at once.
    pub fn health_after(&self, stuck_after: Duration) -> Health {
        let mut faults = Vec::new();
        let is_active = !matches!(self.state, ConsumerState::Stopping | ConsumerState::Stopped);
        if let (ConsumerState::Starting, Some(error)) = (self.state, &self.start_error) {
            faults.push(HealthFault::StartFails(error.clone()));
        }
        if self.state == ConsumerState::Running && self.lease_table != LeaseTableState::Available {
            faults.push(HealthFault::LeaseTable(self.lease_table));
        }
        if is_active {
            faults.extend(self.takes_refused.clone().map(HealthFault::TakesRefused));
            faults.extend(self.namesake.clone().map(HealthFault::Namesake));
        }
        for shard in &self.shards {
            faults.extend(stuck(shard, stuck_after));
            if shard.progress.retention_alarm >= RetentionAlarm::FourFifths {
                faults.push(HealthFault::RecordsExpire(shard.shard_id.clone()));
            }
        }
        Health { faults }
    }
}

fn stuck(shard: &ShardStatus, stuck_after: Duration) -> Option<HealthFault> {
    let state = shard.progress.state;
    let needs_operator = matches!(
        state,
        ShardState::Halted | ShardState::Denied | ShardState::KeyUnavailable | ShardState::DataLost
    );
    // Before its first progress a shard is as old as its lease; a shard that fails from the start has none.
    let since_progress = shard.since_progress.unwrap_or(shard.held_for);
    let stuck_for = shard.failing_for.unwrap_or_default().max(since_progress);
    (needs_operator || stuck_for >= stuck_after).then(|| HealthFault::ShardStuck {
        shard_id: shard.shard_id.clone(),
        state,
        stuck_for,
        error: shard.progress.last_error.clone(),
    })
}
