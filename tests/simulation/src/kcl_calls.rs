//! The table calls of a KCL worker: immediate and without faults, or over the same faulty network as ours.

use lease_store::{Lease, ShardId};
use tokio::time::{Duration, sleep};

use crate::event::{WriteKind, Writer};
use crate::network::{CallFault, Destination};
use crate::table_client::TableClient;

/// Longest delay of a write after its caller timed out, in milliseconds.
const MAX_LATENESS_MILLIS: u64 = 25_000;

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFailed {
    /// Throttled (`ProvisionedThroughputException`).
    Throttled,
    /// Any other failure (`DependencyException`); the write may have been applied.
    Unknown,
}

/// The table calls of one worker.
#[derive(Debug)]
pub(crate) struct KclCalls {
    pub(crate) client: TableClient,
    /// Whether the calls go over a faulty network.
    pub(crate) can_fail: bool,
}

impl KclCalls {
    /// Reads all rows.
    pub(crate) async fn rows(&self) -> Result<Vec<Lease>, CallFailed> {
        self.read(|| self.client.table.rows()).await
    }

    /// Reads one row.
    pub(crate) async fn row(&self, shard_id: &ShardId) -> Result<Option<Lease>, CallFailed> {
        self.read(|| self.client.table.row(shard_id)).await
    }

    async fn read<T>(&self, read: impl FnOnce() -> T) -> Result<T, CallFailed> {
        if !self.can_fail {
            return Ok(read());
        }
        let link = &self.client.link;
        link.wait_while_paused().await;
        let rates = self.client.table.fault_rates.now();
        let fault = link.draw_fault(Destination::Table, rates);
        if let CallFault::AnswerLost | CallFault::RequestLost = fault {
            link.wait_for_timeout().await;
            return Err(CallFailed::Unknown);
        }
        link.wait_latency(rates).await;
        let answer = match fault {
            CallFault::Throttled => Err(CallFailed::Throttled),
            CallFault::Unavailable => Err(CallFailed::Unknown),
            _ => Ok(read()),
        };
        link.wait_latency(rates).await;
        link.wait_while_paused().await;
        answer
    }

    /// Writes on condition that the counter is unchanged. Returns the new row, or `None` when the counter has moved.
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
        link.wait_while_paused().await;
        let rates = table.fault_rates.now();
        let fault = link.draw_fault(Destination::Table, rates);
        if fault == CallFault::RequestLost {
            link.wait_for_timeout().await;
            return Err(CallFailed::Unknown);
        }
        link.wait_latency(rates).await;
        match fault {
            CallFault::Throttled | CallFault::Unavailable => {
                link.wait_while_paused().await;
                let is_throttled = fault == CallFault::Throttled;
                Err(if is_throttled { CallFailed::Throttled } else { CallFailed::Unknown })
            }
            CallFault::Delayed => {
                let delay = Duration::from_millis(link.draw(MAX_LATENESS_MILLIS));
                let shard_id = shard_id.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    table.kcl_write(by, kind, &shard_id, counter, change);
                });
                link.wait_for_timeout().await;
                Err(CallFailed::Unknown)
            }
            CallFault::None | CallFault::AnswerLost | CallFault::RequestLost => {
                let written = table.kcl_write(by, kind, shard_id, counter, change);
                if fault == CallFault::AnswerLost {
                    link.wait_for_timeout().await;
                    return Err(CallFailed::Unknown);
                }
                link.wait_latency(rates).await;
                link.wait_while_paused().await;
                Ok(written)
            }
        }
    }
}
