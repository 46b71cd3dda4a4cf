//! Injects the faults of a remote table, reproducibly from a seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fastrand::Rng;

use crate::error::{StoreError, StoreErrorKind};
use crate::lease::Lease;
use crate::shard_id::ShardId;
use crate::store::{Consistency, LeaseListing, LeaseStore, WriteOutcome};
use crate::write::LeaseWrite;

/// The probability of each fault, between 0 and 1. A call has at most one fault; they are drawn in the order of the
/// fields.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct FaultRates {
    /// The call fails with `Throttled` and has no effect.
    pub throttled: f64,
    /// The call fails with `Unavailable` and has no effect.
    pub unavailable: f64,
    /// A write is applied, and its outcome is `Unknown`.
    pub applied_unanswered: f64,
    /// A write is not applied, and its outcome is `Unknown`.
    pub dropped_unanswered: f64,
    /// The outcome of a write is `Unknown`, and it is applied later: right before the next write.
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

    /// Every kind of fault, each with this probability.
    pub fn each(rate: f64) -> Self {
        Self {
            throttled: rate,
            unavailable: rate,
            applied_unanswered: rate,
            dropped_unanswered: rate,
            applied_late: rate,
        }
    }
}

#[derive(Debug)]
struct Faults {
    rates: FaultRates,
    rng: Rng,
    /// Writes of unknown outcome that are not applied yet. The next write applies them all, so there is at most one for
    /// each concurrent writer.
    late: Vec<LeaseWrite>,
}

enum Fault {
    None,
    Refused(StoreErrorKind),
    AppliedUnanswered,
    DroppedUnanswered,
    AppliedLate,
}

/// Forwards calls, with seeded faults. Clones share the faults.
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

    /// Changes the rates of all later calls; [`FaultRates::NONE`] stops the faults.
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

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        self.store.check_fleet_mode().await
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
    use crate::in_memory::InMemoryLeaseStore;
    use crate::position::Position;

    fn create() -> LeaseWrite {
        LeaseWrite::Create(Lease::unowned(ShardId::new("shard-0").unwrap(), Position::TrimHorizon))
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
    async fn a_late_write_is_applied_before_the_next_one() {
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
