//! How a worker of the KCL's kind calls the table: at once and without fail, or over a network as ours do.

use lease_store::{Lease, ShardId};
use tokio::time::{Duration, sleep};

use crate::event::{WriteKind, Writer};
use crate::network::{Fate, Service};
use crate::table_client::TableClient;

/// Up to how much later a write arrives that was given up, in milliseconds.
const MAX_LATENESS_MILLIS: u64 = 25_000;

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFailed {
    /// It was refused for the load (`ProvisionedThroughputException`).
    Throttled,
    /// Anything else (`DependencyException`): it may have been done.
    Unknown,
}

/// The calls of one worker.
#[derive(Debug)]
pub(crate) struct KclCalls {
    pub(crate) client: TableClient,
    /// Whether they go over a network.
    pub(crate) can_fail: bool,
}

impl KclCalls {
    /// All rows.
    pub(crate) async fn rows(&self) -> Result<Vec<Lease>, CallFailed> {
        self.read(|| self.client.table.rows()).await
    }

    /// One row.
    pub(crate) async fn row(&self, shard_id: &ShardId) -> Result<Option<Lease>, CallFailed> {
        self.read(|| self.client.table.row(shard_id)).await
    }

    async fn read<T>(&self, read: impl FnOnce() -> T) -> Result<T, CallFailed> {
        if !self.can_fail {
            return Ok(read());
        }
        let link = &self.client.link;
        link.pass().await;
        let weather = self.client.table.sky.now();
        let fate = link.fate(Service::Table, weather);
        if let Fate::Applied | Fate::Dropped = fate {
            link.time_out().await;
            return Err(CallFailed::Unknown);
        }
        link.travel(weather).await;
        let answer = match fate {
            Fate::Throttled => Err(CallFailed::Throttled),
            Fate::Unavailable => Err(CallFailed::Unknown),
            _ => Ok(read()),
        };
        link.travel(weather).await;
        link.pass().await;
        answer
    }

    /// A write on the condition that the counter stands: the row after it, or `None` when the counter has moved.
    pub(crate) async fn write(
        &self,
        kind: WriteKind,
        shard_id: &ShardId,
        counter: u64,
        change: impl FnOnce(&mut Lease) + Send + 'static,
    ) -> Result<Option<Lease>, CallFailed> {
        let (table, by) = (self.client.table.clone(), Writer::Kcl(self.client.process));
        if !self.can_fail {
            return Ok(table.kcl_write(by, kind, shard_id, counter, change));
        }
        let link = &self.client.link;
        link.pass().await;
        let weather = table.sky.now();
        let fate = link.fate(Service::Table, weather);
        if fate == Fate::Dropped {
            link.time_out().await;
            return Err(CallFailed::Unknown);
        }
        link.travel(weather).await;
        match fate {
            Fate::Throttled | Fate::Unavailable => {
                link.pass().await;
                let is_throttled = fate == Fate::Throttled;
                Err(if is_throttled { CallFailed::Throttled } else { CallFailed::Unknown })
            }
            Fate::Late => {
                let delay = Duration::from_millis(link.draw(MAX_LATENESS_MILLIS));
                let shard_id = shard_id.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    table.kcl_write(by, kind, &shard_id, counter, change);
                });
                link.time_out().await;
                Err(CallFailed::Unknown)
            }
            Fate::Fine | Fate::Applied | Fate::Dropped => {
                let written = table.kcl_write(by, kind, shard_id, counter, change);
                if fate == Fate::Applied {
                    link.time_out().await;
                    return Err(CallFailed::Unknown);
                }
                link.travel(weather).await;
                link.pass().await;
                Ok(written)
            }
        }
    }
}
