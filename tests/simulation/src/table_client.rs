//! The lease store of one process: the table, behind its network link.

use async_trait::async_trait;
use lease_store::{
    Consistency, Lease, LeaseListing, LeaseStore, LeaseWrite, Position, ShardId, StoreError, StoreErrorKind,
    WriteOutcome,
};
use tokio::time::{Duration, sleep};

use crate::event::{EventKind, Process, Writer, shard_of};
use crate::network::{CallFault, Destination, LONG_LEG_MILLIS, Link};
use crate::plan::{Defect, FaultRates};
use crate::table::Table;

/// Longest delay of a write after its writer timed out, in milliseconds: more than the fail-over time.
const MAX_LATENESS_MILLIS: u64 = 25_000;

/// Percentage of eventually consistent listings that are stale.
const STALE_LISTINGS_PERCENT: u64 = 30;

/// Additional time of a listing with [`Defect::ListingsLate`].
const LATE_LISTING: Duration = Duration::from_secs(15);

/// The lease store of one process.
#[derive(Debug, Clone)]
pub struct TableClient {
    /// The table.
    pub table: Table,
    /// The network link of the process.
    pub link: Link,
    /// The process.
    pub process: Process,
    /// The seeded defect, if any.
    pub defect: Option<Defect>,
}

/// A write in flight. It may still be applied after its writer was cancelled.
struct InFlightWrite<'a> {
    client: &'a TableClient,
    write: &'a LeaseWrite,
    sent_at: u64,
    is_applied: bool,
}

impl InFlightWrite<'_> {
    fn apply(&mut self) -> Result<WriteOutcome, StoreError> {
        self.is_applied = true;
        let outcome = self.client.table.apply(Writer::Ours(self.client.process), self.write, self.sent_at);
        outcome.ok_or_else(|| refused(StoreErrorKind::NotFound))
    }

    /// Applies the write some time later.
    fn apply_later(&mut self) {
        self.is_applied = true;
        let delay = if self.client.link.draw(3) == 0 { MAX_LATENESS_MILLIS } else { 500 };
        let delay = Duration::from_millis(self.client.link.draw(delay));
        let (client, write, sent_at) = (self.client.clone(), self.write.clone(), self.sent_at);
        tokio::spawn(async move {
            sleep(delay).await;
            client.table.apply(Writer::Ours(client.process), &write, sent_at);
        });
    }
}

impl Drop for InFlightWrite<'_> {
    fn drop(&mut self) {
        if !self.is_applied && self.client.link.draw(2) == 0 && tokio::runtime::Handle::try_current().is_ok()
        {
            self.apply_later();
        }
    }
}

fn refused(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, format!("simulated: {kind:?}"))
}

impl TableClient {
    /// Makes a call that only reads.
    async fn read<T>(&self, row: Option<&ShardId>, read: impl FnOnce() -> T) -> Result<T, StoreError> {
        self.link.wait_while_paused().await;
        let rates = self.table.fault_rates.now();
        match self.link.draw_fault(Destination::Table, rates) {
            CallFault::None | CallFault::Delayed => {}
            CallFault::Throttled => {
                self.link.wait_latency(rates).await;
                return Err(refused(StoreErrorKind::Throttled));
            }
            CallFault::Unavailable => {
                self.link.wait_latency(rates).await;
                return Err(refused(StoreErrorKind::Unavailable));
            }
            CallFault::AnswerLost | CallFault::RequestLost => {
                self.link.wait_for_timeout().await;
                return Err(refused(StoreErrorKind::Unavailable));
            }
        }
        self.wait_for(row, rates).await;
        let answer = read();
        self.wait_for(row, rates).await;
        self.link.wait_while_paused().await;
        Ok(answer)
    }

    /// Waits for one way of a call, and records a long one for a row.
    async fn wait_for(&self, row: Option<&ShardId>, rates: FaultRates) {
        let latency = self.link.draw_latency(rates);
        if let Some(shard_id) = row.filter(|_| latency >= Duration::from_millis(LONG_LEG_MILLIS)) {
            let shard = shard_of(None, shard_id);
            self.table.observer.record(EventKind::SlowCall { process: self.process, shard });
        }
        sleep(latency).await;
    }

    /// Reads rows, if there is a table.
    async fn read_rows<T>(&self, row: Option<&ShardId>, read: impl FnOnce() -> T) -> Result<T, StoreError> {
        let rows = self.read(row, || if self.table.is_missing() { None } else { Some(read()) }).await?;
        rows.ok_or_else(|| refused(StoreErrorKind::NotFound))
    }

    /// Applies the seeded defect to a listing.
    fn apply_defect(&self, rows: &mut [Lease]) {
        match self.defect {
            Some(Defect::ParentsLookFinished) => {
                let parents: Vec<ShardId> = rows.iter().flat_map(|row| row.parents.iter().cloned()).collect();
                for row in rows.iter_mut().filter(|row| parents.contains(&row.shard_id)) {
                    row.checkpoint = Position::ShardEnd;
                }
            }
            Some(Defect::ListingsForget) => {
                for row in rows.iter_mut().filter(|row| matches!(row.checkpoint, Position::After(_))) {
                    row.checkpoint = Position::TrimHorizon;
                }
            }
            Some(Defect::ChildrenLookFinished) => {
                for row in rows.iter_mut().filter(|row| !row.parents.is_empty()) {
                    row.checkpoint = Position::ShardEnd;
                }
            }
            _ => {}
        }
    }
}

#[async_trait]
impl LeaseStore for TableClient {
    fn name(&self) -> &str {
        "simulated"
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        let is_led = self
            .read(None, || {
                self.table.create();
                self.table.is_led()
            })
            .await?;
        match is_led {
            true => Err(StoreError::new(StoreErrorKind::Invalid, "simulated: the leader assigns the leases")),
            false => Ok(()),
        }
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        let is_stale = consistency == Consistency::Eventual && self.link.draw(100) < STALE_LISTINGS_PERCENT;
        let rows = || {
            if is_stale { self.table.stale_rows(|bound| self.link.draw(bound)) } else { self.table.rows() }
        };
        if self.defect == Some(Defect::ListingsLate) {
            sleep(LATE_LISTING).await;
        }
        let mut leases = self.read_rows(None, rows).await?;
        self.apply_defect(&mut leases);
        Ok(LeaseListing::new(leases))
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.read_rows(Some(shard_id), || self.table.row(shard_id)).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        let sent_at = self.table.observer.now();
        self.link.wait_while_paused().await;
        let rates = self.table.fault_rates.now();
        let fault = self.link.draw_fault(Destination::Table, rates);
        if let CallFault::Throttled | CallFault::Unavailable = fault {
            self.link.wait_latency(rates).await;
            self.link.wait_while_paused().await;
            let is_throttled = fault == CallFault::Throttled;
            return Err(refused(if is_throttled {
                StoreErrorKind::Throttled
            } else {
                StoreErrorKind::Unavailable
            }));
        }
        if fault == CallFault::RequestLost {
            self.link.wait_for_timeout().await;
            return Ok(WriteOutcome::Unknown(refused(StoreErrorKind::Unavailable)));
        }
        let mut in_flight = InFlightWrite { client: self, write, sent_at, is_applied: false };
        self.wait_for(Some(write.shard_id()), rates).await;
        if fault == CallFault::Delayed {
            in_flight.apply_later();
            self.link.wait_for_timeout().await;
            return Ok(WriteOutcome::Unknown(refused(StoreErrorKind::Unavailable)));
        }
        let outcome = in_flight.apply()?;
        if fault == CallFault::AnswerLost {
            self.link.wait_for_timeout().await;
            return Ok(WriteOutcome::Unknown(refused(StoreErrorKind::Unavailable)));
        }
        self.wait_for(Some(write.shard_id()), rates).await;
        self.link.wait_while_paused().await;
        Ok(outcome)
    }
}
