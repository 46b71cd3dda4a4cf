//! Limits the rate of calls, like provisioned capacity.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::{Duration, Instant};

use crate::error::{StoreError, StoreErrorKind};
use crate::lease::Lease;
use crate::shard_id::ShardId;
use crate::store::{Consistency, LeaseListing, LeaseStore, WriteOutcome};
use crate::write::LeaseWrite;

/// Forwards a limited number of calls per second and refuses the others with `Throttled`. Clones share the limit.
#[derive(Debug, Clone)]
pub struct ThrottledLeaseStore<S> {
    store: S,
    calls_per_second: NonZeroU32,
    window: Arc<Mutex<Window>>,
}

#[derive(Debug)]
struct Window {
    started_at: Instant,
    calls: u32,
}

impl<S: LeaseStore> ThrottledLeaseStore<S> {
    /// Forwards at most this many calls per second.
    pub fn new(store: S, calls_per_second: NonZeroU32) -> Self {
        let window = Window { started_at: Instant::now(), calls: 0 };
        Self { store, calls_per_second, window: Arc::new(Mutex::new(window)) }
    }

    fn admit(&self) -> Result<(), StoreError> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(window.started_at) >= Duration::from_secs(1) {
            *window = Window { started_at: now, calls: 0 };
        }
        if window.calls >= self.calls_per_second.get() {
            return Err(StoreError::new(
                StoreErrorKind::Throttled,
                format!("more than {} calls in one second", self.calls_per_second),
            ));
        }
        window.calls += 1;
        Ok(())
    }
}

#[async_trait]
impl<S: LeaseStore> LeaseStore for ThrottledLeaseStore<S> {
    fn name(&self) -> &str {
        self.store.name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.admit()?;
        self.store.prepare().await
    }

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        self.store.check_fleet_mode().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        self.admit()?;
        self.store.list(consistency).await
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.admit()?;
        self.store.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        self.admit()?;
        self.store.write(write).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::in_memory::InMemoryLeaseStore;

    #[tokio::test(start_paused = true)]
    async fn refuses_above_the_limit_and_recovers() {
        let store = ThrottledLeaseStore::new(InMemoryLeaseStore::new(), NonZeroU32::new(2).unwrap());
        for _ in 0..2 {
            store.list(Consistency::Eventual).await.unwrap();
        }
        let refused = store.list(Consistency::Eventual).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Throttled);
        tokio::time::advance(Duration::from_secs(1)).await;
        store.list(Consistency::Eventual).await.unwrap();
    }
}
