//! The leases of several streams in one DynamoDB table, in the rows of a multi-stream application of the KCL.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::attributes::Item;
use super::layout::MultiStreamKey;
use super::row_reader::{self, Row};
use super::store::DynamoDbLeaseStore;
use crate::error::StoreError;
use crate::multi_stream::{MultiStreamLeaseStore, MultiStreamListing, StreamLeases};
use crate::store::{Consistency, LeaseListing, LeaseStore as _};
use crate::stream_identity::StreamIdentity;

/// A DynamoDB table with the leases of several streams. Clones share the client.
///
/// The rows are those of a multi-stream application of the KCL: the key is `account:stream:creationEpoch:shardId`, and
/// `streamName` and `shardId` are attributes. Rows of other streams are left as they are.
#[derive(Debug, Clone)]
pub struct DynamoDbMultiStreamLeaseStore {
    table: DynamoDbLeaseStore,
    /// The keys of streams whose KCL application does not use the account, name and creation time of the stream, by ARN.
    keys: BTreeMap<String, MultiStreamKey>,
}

impl DynamoDbMultiStreamLeaseStore {
    /// The leases of all streams in the table of this store.
    pub fn new(table: DynamoDbLeaseStore) -> Self {
        Self { table, keys: BTreeMap::new() }
    }

    /// Sets the key of the stream with this ARN. Needed only beside a KCL application whose `StreamIdentifier` has another
    /// creation epoch than the stream. Default: the account and the name in the ARN, and the creation time of the stream.
    #[must_use]
    pub fn with_stream_key(mut self, stream_arn: impl Into<String>, key: MultiStreamKey) -> Self {
        self.keys.insert(stream_arn.into(), key);
        self
    }

    fn key_of(&self, stream: &StreamIdentity) -> Result<MultiStreamKey, StoreError> {
        self.keys.get(&stream.arn).cloned().map_or_else(|| MultiStreamKey::of_stream(stream), Ok)
    }
}

#[async_trait]
impl MultiStreamLeaseStore for DynamoDbMultiStreamLeaseStore {
    fn name(&self) -> &str {
        self.table.table_name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        self.table.check_fleet_mode().await
    }

    async fn list(&self, consistency: Consistency) -> Result<MultiStreamListing, StoreError> {
        let mut listing = MultiStreamListing::default();
        self.table.scan_rows(consistency, |item| add_row(item, &mut listing)).await?;
        listing.streams.values_mut().for_each(sort);
        listing.malformed.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(listing)
    }

    fn of_stream(&self, stream: &StreamIdentity) -> Result<StreamLeases, StoreError> {
        let key = self.key_of(stream)?;
        let name = key.as_str().to_owned();
        Ok(StreamLeases::new(name, Arc::new(self.table.clone().with_multi_stream_key(key))))
    }
}

/// Adds a row to the listing of its stream.
fn add_row(item: &Item, listing: &mut MultiStreamListing) {
    let (stream, row) = row_reader::read_of_any_stream(item);
    match (stream, row) {
        (Some(stream), Row::Lease(lease)) => {
            listing.streams.entry(stream).or_default().leases.push(*lease);
        }
        (Some(stream), Row::Malformed(fault)) => {
            listing.streams.entry(stream).or_default().malformed.push(fault);
        }
        (None, Row::Malformed(fault)) => listing.malformed.push(fault),
        (_, Row::Foreign(_)) | (None, Row::Lease(_)) => {}
    }
}

/// Sorts a listing, since a scan returns rows in the order of a hash.
fn sort(listing: &mut LeaseListing) {
    listing.leases.sort_by(|one, other| one.shard_id.cmp(&other.shard_id));
    listing.malformed.sort_by(|one, other| one.key.cmp(&other.key));
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::shard_id::ShardId;

    fn row(attributes: &[(&str, &str)]) -> Item {
        let value = |name: &str, value: &str| match name {
            "leaseCounter" | "ownerSwitchesSinceCheckpoint" => AttributeValue::N(value.to_owned()),
            _ => AttributeValue::S(value.to_owned()),
        };
        attributes.iter().map(|(name, text)| ((*name).to_owned(), value(name, text))).collect()
    }

    fn lease<'a>(key: &'a str, stream: &'a str, shard: &'a str) -> Vec<(&'a str, &'a str)> {
        let counts =
            [("leaseCounter", "3"), ("ownerSwitchesSinceCheckpoint", "0"), ("checkpoint", "TRIM_HORIZON")];
        [("leaseKey", key), ("streamName", stream), ("shardId", shard)].into_iter().chain(counts).collect()
    }

    #[test]
    fn each_row_is_listed_with_its_stream() {
        let mut listing = MultiStreamListing::default();
        let orders = lease("1:orders:7:shardId-000000000000", "1:orders:7", "shardId-000000000000");
        let bills = lease("1:bills:8:shardId-000000000000", "1:bills:8", "shardId-000000000000");
        let broken = lease("1:bills:8:shardId-000000000001", "1:bills:8", "no shard");
        let single = [("leaseKey", "shardId-000000000000"), ("checkpoint", "LATEST")];
        let leader = [("leaseKey", "Leader"), ("entityType", "LEADER")];
        let tracked = [("leaseKey", "1:bills:8"), ("entityType", "STREAM"), ("streamName", "1:bills:8")];
        for attributes in [&orders[..], &bills, &broken, &single, &leader, &tracked] {
            add_row(&row(attributes), &mut listing);
        }
        let streams: Vec<&str> = listing.streams.keys().map(String::as_str).collect();
        assert_eq!(streams, ["1:bills:8", "1:orders:7"]);
        let bills = listing.of_stream("1:bills:8");
        assert_eq!(bills.leases[0].shard_id, ShardId::numbered(0));
        let faults: Vec<&str> = bills.malformed.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(faults, ["1:bills:8:shardId-000000000001", "shardId-000000000000"]);
        assert_eq!(listing.of_stream("1:orders:7").malformed.len(), 1, "the row that names no stream");
        assert!(listing.of_stream("1:unknown:9").leases.is_empty());
    }
}
