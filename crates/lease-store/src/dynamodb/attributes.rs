//! The attributes of a row: their names, which are the KCL's, and the values of each type.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::shard_id::ShardId;

/// S, the hash key of the table. In a single-stream application it is the shard id.
pub(super) const LEASE_KEY: &str = "leaseKey";
/// N, mandatory.
pub(super) const LEASE_COUNTER: &str = "leaseCounter";
/// S, absent in an unowned lease.
pub(super) const LEASE_OWNER: &str = "leaseOwner";
/// N, mandatory.
pub(super) const OWNER_SWITCHES_SINCE_CHECKPOINT: &str = "ownerSwitchesSinceCheckpoint";
/// S, mandatory: a sequence number or a sentinel.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// N, 0 when absent.
pub(super) const CHECKPOINT_SUB_SEQUENCE_NUMBER: &str = "checkpointSubSequenceNumber";
/// S, only between the two halves of a two-step checkpoint.
pub(super) const PENDING_CHECKPOINT: &str = "pendingCheckpoint";
/// N, only together with the pending checkpoint.
pub(super) const PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER: &str = "pendingCheckpointSubSequenceNumber";
/// B, only together with the pending checkpoint, if the application passed bytes.
pub(super) const PENDING_CHECKPOINT_STATE: &str = "pendingCheckpointState";
/// SS despite the singular, absent when the shard has no parents.
pub(super) const PARENT_SHARD_ID: &str = "parentShardId";
/// SS, absent until the shard is read to its end.
pub(super) const CHILD_SHARD_IDS: &str = "childShardIds";
/// S, decimal.
pub(super) const STARTING_HASH_KEY: &str = "startingHashKey";
/// S, decimal.
pub(super) const ENDING_HASH_KEY: &str = "endingHashKey";
/// S, KCL 3.x, only during a hand-over: the previous owner.
pub(super) const CHECKPOINT_OWNER: &str = "checkpointOwner";
/// S, KCL 3.5: the kind of the row. Rows of older versions lack it and are leases.
pub(super) const ENTITY_TYPE: &str = "entityType";
/// S, only in rows of multi-stream applications: the identifier of the stream.
pub(super) const STREAM_NAME: &str = "streamName";
/// S, only in rows of multi-stream applications, where the key is more than the shard id.
pub(super) const SHARD_ID: &str = "shardId";
/// N, KCL 3.x: the read throughput of the shard in KiB per second.
pub(super) const THROUGHPUT: &str = "throughputKBps";
/// S, not of the KCL: the worker that requests the lease.
pub(super) const REQUESTED_BY: &str = "handOverRequestedBy";
/// S, not of the KCL: the owner that offers the lease.
pub(super) const OFFERED_BY: &str = "handOverOfferedBy";
/// S, not of the KCL: the process that took the lease. An attribute of another type counts as absent.
pub(super) const OWNER_PROCESS: &str = "leaseOwnerProcess";
/// S, not of the KCL: the stream.
pub(super) const STREAM_ARN: &str = "streamArn";
/// N, not of the KCL: the creation time of the stream, in seconds since 1970.
pub(super) const STREAM_CREATION_EPOCH: &str = "streamCreationEpoch";
/// S, not of the KCL: the application that the table belongs to.
pub(super) const APPLICATION: &str = "leaseApplication";
/// N, not of the KCL: the number of the row.
pub(super) const ROW_ID: &str = "leaseRowId";
/// N, not of the KCL: the instant that `LATEST` or `AT_TIMESTAMP` stands for.
pub(super) const INITIAL_TIME_MILLIS: &str = "initialTimeMillis";

/// S, not of the KCL: the request of an operator to the owner.
pub(super) const OWNER_REQUEST: &str = "operatorRequest";
/// N, not of the KCL: the number of the newest reset by an operator.
pub(super) const RESET_ID: &str = "operatorResetId";
/// S, not of the KCL: the pause that an operator recorded.
pub(super) const PAUSE: &str = "operatorPause";
/// S, not of the KCL: what the owner reported of its lag with its newest write. A value that cannot be read counts as absent.
pub(super) const LAG_REPORT: &str = "ownerLag";

/// A row as DynamoDB returns it.
pub(super) type Item = HashMap<String, AttributeValue>;

/// A string.
pub(super) fn text_value(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

/// A number.
pub(super) fn number_value(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Bytes.
pub(super) fn bytes_value(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// A set of strings.
pub(super) fn shard_ids_value(shard_ids: &BTreeSet<ShardId>) -> AttributeValue {
    AttributeValue::Ss(shard_ids.iter().map(|shard_id| shard_id.as_str().to_owned()).collect())
}
