//! The lease store of one process: the table, seen through its own way to it.

use async_trait::async_trait;
use lease_store::{
    Consistency, Lease, LeaseListing, LeaseStore, LeaseWrite, Position, ShardId, StoreError, StoreErrorKind,
    WriteOutcome,
};
use tokio::time::{Duration, sleep};

use crate::event::{Process, Writer};
use crate::network::{Fate, Link, Service};
use crate::plan::Planted;
use crate::table::Table;

/// Up to how much later a write arrives that was given up by its writer, in milliseconds: longer than the fail-over
/// time.
const MAX_LATENESS_MILLIS: u64 = 25_000;

/// How many eventually consistent listings in a hundred show rows of a moment ago.
const STALE_LISTINGS_PERCENT: u64 = 30;

/// The lease store of one process.
#[derive(Debug, Clone)]
pub struct TableClient {
    /// The table.
    pub table: Table,
    /// The way to it.
    pub link: Link,
    /// Whose it is.
    pub process: Process,
    /// A defect.
    pub planted: Option<Planted>,
}

/// A write on its way. Where its writer goes away meanwhile, it may arrive all the same.
struct Flight<'a> {
    client: &'a TableClient,
    write: &'a LeaseWrite,
    asked_at: u64,
    has_landed: bool,
}

impl Flight<'_> {
    fn land(&mut self) -> WriteOutcome {
        self.has_landed = true;
        self.client.table.apply(Writer::Ours(self.client.process), self.write, self.asked_at)
    }

    /// Leaves it to the network: it arrives some time later.
    fn drift(&mut self) {
        self.has_landed = true;
        let delay = if self.client.link.draw(3) == 0 { MAX_LATENESS_MILLIS } else { 500 };
        let delay = Duration::from_millis(self.client.link.draw(delay));
        let (client, write, asked_at) = (self.client.clone(), self.write.clone(), self.asked_at);
        tokio::spawn(async move {
            sleep(delay).await;
            client.table.apply(Writer::Ours(client.process), &write, asked_at);
        });
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.has_landed && self.client.link.draw(2) == 0 && tokio::runtime::Handle::try_current().is_ok()
        {
            self.drift();
        }
    }
}

fn refused(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, format!("simulated: {kind:?}"))
}

impl TableClient {
    /// A call that only reads.
    async fn read<T>(&self, read: impl FnOnce() -> T) -> Result<T, StoreError> {
        self.link.pass().await;
        let weather = self.table.sky.now();
        match self.link.fate(Service::Table, weather) {
            Fate::Fine | Fate::Late => {}
            Fate::Throttled => {
                self.link.travel(weather).await;
                return Err(refused(StoreErrorKind::Throttled));
            }
            Fate::Unavailable => {
                self.link.travel(weather).await;
                return Err(refused(StoreErrorKind::Unavailable));
            }
            Fate::Applied | Fate::Dropped => {
                self.link.time_out().await;
                return Err(refused(StoreErrorKind::Unavailable));
            }
        }
        self.link.travel(weather).await;
        let answer = read();
        self.link.travel(weather).await;
        self.link.pass().await;
        Ok(answer)
    }

    /// What a planted defect makes of a listing.
    fn spoil(&self, rows: &mut [Lease]) {
        match self.planted {
            Some(Planted::ParentsLookDone) => {
                let parents: Vec<ShardId> = rows.iter().flat_map(|row| row.parents.iter().cloned()).collect();
                for row in rows.iter_mut().filter(|row| parents.contains(&row.shard_id)) {
                    row.checkpoint = Position::ShardEnd;
                }
            }
            Some(Planted::ChildrenLookDone) => {
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
        self.read(|| ()).await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        let is_stale = consistency == Consistency::Eventual && self.link.draw(100) < STALE_LISTINGS_PERCENT;
        let rows = || {
            if is_stale { self.table.rows_of_late(|bound| self.link.draw(bound)) } else { self.table.rows() }
        };
        let mut leases = self.read(rows).await?;
        self.spoil(&mut leases);
        Ok(LeaseListing { leases, malformed: Vec::new() })
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.read(|| self.table.row(shard_id)).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        let asked_at = self.table.observer.now();
        self.link.pass().await;
        let weather = self.table.sky.now();
        let fate = self.link.fate(Service::Table, weather);
        if let Fate::Throttled | Fate::Unavailable = fate {
            self.link.travel(weather).await;
            self.link.pass().await;
            let is_throttled = fate == Fate::Throttled;
            return Err(refused(if is_throttled {
                StoreErrorKind::Throttled
            } else {
                StoreErrorKind::Unavailable
            }));
        }
        if fate == Fate::Dropped {
            self.link.time_out().await;
            return Ok(WriteOutcome::Unknown(refused(StoreErrorKind::Unavailable)));
        }
        let mut flight = Flight { client: self, write, asked_at, has_landed: false };
        self.link.travel(weather).await;
        if fate == Fate::Late {
            flight.drift();
            self.link.time_out().await;
            return Ok(WriteOutcome::Unknown(refused(StoreErrorKind::Unavailable)));
        }
        let outcome = flight.land();
        if fate == Fate::Applied {
            self.link.time_out().await;
            return Ok(WriteOutcome::Unknown(refused(StoreErrorKind::Unavailable)));
        }
        self.link.travel(weather).await;
        self.link.pass().await;
        Ok(outcome)
    }
}
