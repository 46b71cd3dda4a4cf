//! A store behind a shared pointer, so that another decorator can wrap it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::StoreError;
use crate::lease::Lease;
use crate::shard_id::ShardId;
use crate::store::{Consistency, LeaseListing, LeaseStore, WriteOutcome};
use crate::write::LeaseWrite;

/// A lease store whose type is not known, such as the one of [`StreamLeases`](crate::StreamLeases), for decorators that wrap a
/// [`LeaseStore`]. Every call goes to the store inside.
#[derive(Debug, Clone)]
pub struct SharedLeaseStore(pub Arc<dyn LeaseStore>);

#[async_trait]
impl LeaseStore for SharedLeaseStore {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.0.prepare().await
    }

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        self.0.check_fleet_mode().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        self.0.list(consistency).await
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.0.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        self.0.write(write).await
    }
}
