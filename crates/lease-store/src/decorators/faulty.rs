//! Injects the faults that a remote table has, reproducibly from a seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fastrand::Rng;

use crate::{
    Consistency, Lease, LeaseListing, LeaseStore, LeaseWrite, ShardId, StoreError, StoreErrorKind,
    WriteOutcome,
};

/// How often each fault happens: shares of all calls, between 0 and 1, tried in the order of the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct FaultRates {
    /// Refused with `Throttled`; nothing happens.
    pub throttled: f64,
    /// Refused with `Unavailable`; nothing happens.
    pub unavailable: f64,
    /// A write is applied, but answered `Unknown`.
    pub applied_unanswered: f64,
    /// A write is not applied, and answered `Unknown`.
    pub dropped_unanswered: f64,
    /// A write is answered `Unknown` and arrives later: right before the next write that reaches the store.
    pub applied_late: f64,
}

impl FaultRates {
    /// No faults.
    pub const NONE: Self = Self {
        throttled: 0.0,
        unavailable: 0.0,
        applied_unanswered: 0.0,
        dropped_unanswered: 0.0,
        applied_late: 0.0,
    };

    /// Every kind of fault, each in this share of the calls.
    pub fn each(share: f64) -> Self {
        Self {
            throttled: share,
            unavailable: share,
            applied_unanswered: share,
            dropped_unanswered: share,
            applied_late: share,
        }
    }
}

#[derive(Debug)]
struct Faults {
    rates: FaultRates,
    rng: Rng,
    /// Writes that were answered `Unknown` and have not arrived yet. At most one per write that found it, since the
    /// next write delivers them all.
    late: Vec<LeaseWrite>,
}

enum Fault {
    None,
    Refused(StoreErrorKind),
    AppliedUnanswered,
    DroppedUnanswered,
    AppliedLate,
}

/// Passes calls on, with seeded faults. Clones share the faults.
#[derive(Debug, Clone)]
pub struct FaultyLeaseStore<S> {
    store: S,
    faults: Arc<Mutex<Faults>>,
}

impl<S: LeaseStore> FaultyLeaseStore<S> {
    /// Injects faults at these rates, drawn from a generator with this seed.
    pub fn new(store: S, rates: FaultRates, seed: u64) -> Self {
        let faults = Faults { rates, rng: Rng::with_seed(seed), late: Vec::new() };
        Self { store, faults: Arc::new(Mutex::new(faults)) }
    }

    /// Changes the rates from now on; [`FaultRates::NONE`] heals the store.
    pub fn set_rates(&self, rates: FaultRates) {
        self.faults().rates = rates;
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, is_write: bool) -> Fault {
        let faults = &mut *self.faults();
        let rates = faults.rates;
        let mut happens = |rate: f64| rate > 0.0 && faults.rng.f64() < rate;
        if happens(rates.throttled) {
            Fault::Refused(StoreErrorKind::Throttled)
        } else if happens(rates.unavailable) {
            Fault::Refused(StoreErrorKind::Unavailable)
        } else if is_write && happens(rates.applied_unanswered) {
            Fault::AppliedUnanswered
        } else if is_write && happens(rates.dropped_unanswered) {
            Fault::DroppedUnanswered
        } else if is_write && happens(rates.applied_late) {
            Fault::AppliedLate
        } else {
            Fault::None
        }
    }

    fn refuse_read(&self) -> Result<(), StoreError> {
        match self.draw(false) {
            Fault::Refused(kind) => Err(injected(kind)),
            _ => Ok(()),
        }
    }
}

fn injected(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, format!("injected fault: {kind:?}"))
}

fn unanswered() -> WriteOutcome {
    WriteOutcome::Unknown(injected(StoreErrorKind::Unavailable))
}

#[async_trait]
impl<S: LeaseStore> LeaseStore for FaultyLeaseStore<S> {
    fn name(&self) -> &str {
        self.store.name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.refuse_read()?;
        self.store.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        self.refuse_read()?;
        self.store.list(consistency).await
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.refuse_read()?;
        self.store.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        let late = std::mem::take(&mut self.faults().late);
        for late_write in late {
            self.store.write(&late_write).await?;
        }
        match self.draw(true) {
            Fault::None => self.store.write(write).await,
            Fault::Refused(kind) => Err(injected(kind)),
            Fault::AppliedUnanswered => {
                self.store.write(write).await?;
                Ok(unanswered())
            }
            Fault::DroppedUnanswered => Ok(unanswered()),
            Fault::AppliedLate => {
                self.faults().late.push(write.clone());
                Ok(unanswered())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InMemoryLeaseStore, Position};

    fn create() -> LeaseWrite {
        LeaseWrite::Create(Lease::unowned(ShardId::new("shard-0").unwrap(), Position::TrimHorizon))
    }

    #[tokio::test]
    async fn conforms_without_faults() {
        crate::conformance::check_all(|| {
            FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::NONE, 1)
        })
        .await;
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_faults() {
        let run = async |seed| {
            let store = FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::each(0.2), seed);
            let mut answers = Vec::new();
            for _ in 0..64 {
                answers.push(format!("{:?}", store.write(&create()).await));
            }
            answers
        };
        assert_eq!(run(7).await, run(7).await);
        assert_ne!(run(7).await, run(8).await);
    }

    #[tokio::test]
    async fn a_late_write_arrives_with_the_next() {
        let inner = InMemoryLeaseStore::new();
        let rates = FaultRates { applied_late: 1.0, ..FaultRates::NONE };
        let store = FaultyLeaseStore::new(inner.clone(), rates, 1);
        let shard_id = create().shard_id().clone();
        assert!(matches!(store.write(&create()).await, Ok(WriteOutcome::Unknown(_))));
        assert_eq!(inner.get(&shard_id).await.unwrap(), None);
        store.set_rates(FaultRates::NONE);
        assert!(matches!(store.write(&create()).await, Ok(WriteOutcome::Lost { lease: Some(_) })));
    }
}
