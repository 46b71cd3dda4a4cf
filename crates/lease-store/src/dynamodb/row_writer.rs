//! Writes a lease as a row of the table, in the attributes of the KCL 2.x.

use super::attributes::{
    APPLICATION, CHECKPOINT, CHECKPOINT_OWNER, CHECKPOINT_SUB_SEQUENCE_NUMBER, CHILD_SHARD_IDS,
    ENDING_HASH_KEY, INITIAL_TIME_MILLIS, Item, LAG_REPORT, LEASE_COUNTER, LEASE_KEY, LEASE_OWNER,
    OFFERED_BY, OWNER_PROCESS, OWNER_REQUEST, OWNER_SWITCHES_SINCE_CHECKPOINT, PARENT_SHARD_ID, PAUSE,
    PENDING_CHECKPOINT, PENDING_CHECKPOINT_STATE, PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER, REQUESTED_BY,
    RESET_ID, ROW_ID, SHARD_ID, STARTING_HASH_KEY, STREAM_ARN, STREAM_CREATION_EPOCH, STREAM_NAME,
    bytes_value, number_value, shard_ids_value, text_value,
};
use super::layout::RowLayout;
use crate::lease::Lease;
use crate::shard_id::ShardId;

/// The whole row of a new lease. A `None` or empty field has no attribute. The throughput is never written: only KCL 3.x
/// workers measure it.
pub(super) fn write(lease: &Lease, layout: &RowLayout) -> Item {
    let mut item = key(&lease.shard_id, layout);
    if let RowLayout::MultiStream(stream) = layout {
        item.insert(STREAM_NAME.to_owned(), text_value(stream.as_str()));
        item.insert(SHARD_ID.to_owned(), text_value(lease.shard_id.as_str()));
    }
    let mut put = |attribute: &str, value| item.insert(attribute.to_owned(), value);
    put(LEASE_COUNTER, number_value(lease.counter));
    put(OWNER_SWITCHES_SINCE_CHECKPOINT, number_value(lease.owner_switches_since_checkpoint));
    put(CHECKPOINT, text_value(lease.checkpoint.checkpoint()));
    put(CHECKPOINT_SUB_SEQUENCE_NUMBER, number_value(lease.checkpoint.sub_sequence_number()));
    if let Some(owner) = &lease.owner {
        put(LEASE_OWNER, text_value(owner.as_str()));
    }
    if let Some(pending) = &lease.pending_checkpoint {
        put(PENDING_CHECKPOINT, text_value(pending.position.checkpoint()));
        let sub_sequence_number = number_value(pending.position.sub_sequence_number());
        put(PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER, sub_sequence_number);
        if let Some(state) = &pending.state {
            put(PENDING_CHECKPOINT_STATE, bytes_value(state));
        }
    }
    for (attribute, shard_ids) in [(PARENT_SHARD_ID, &lease.parents), (CHILD_SHARD_IDS, &lease.children)] {
        // DynamoDB has no empty sets.
        if !shard_ids.is_empty() {
            put(attribute, shard_ids_value(shard_ids));
        }
    }
    if let Some(range) = &lease.hash_key_range {
        put(STARTING_HASH_KEY, text_value(&range.start().to_string()));
        put(ENDING_HASH_KEY, text_value(&range.end().to_string()));
    }
    for (attribute, worker_id) in [
        (CHECKPOINT_OWNER, &lease.checkpoint_owner),
        (REQUESTED_BY, &lease.requested_by),
        (OFFERED_BY, &lease.offered_by),
    ] {
        if let Some(worker_id) = worker_id {
            put(attribute, text_value(worker_id.as_str()));
        }
    }
    if let Some(owner_process) = &lease.owner_process {
        put(OWNER_PROCESS, text_value(owner_process));
    }
    if let Some(request) = &lease.owner_request_text {
        put(OWNER_REQUEST, text_value(request));
    }
    if let Some(reset_id) = lease.reset_id {
        put(RESET_ID, number_value(reset_id));
    }
    if let Some(pause) = &lease.pause_text {
        put(PAUSE, text_value(pause));
    }
    if let Some(report) = &lease.lag_report_text {
        put(LAG_REPORT, text_value(report));
    }
    if let Some(stream) = &lease.stream {
        put(STREAM_ARN, text_value(&stream.arn));
        put(STREAM_CREATION_EPOCH, number_value(stream.creation_epoch_seconds));
    }
    if let Some(application) = &lease.application {
        put(APPLICATION, text_value(application));
    }
    if let Some(row_id) = lease.row_id {
        put(ROW_ID, number_value(row_id));
    }
    if let Some(initial_time_millis) = lease.initial_time_millis {
        put(INITIAL_TIME_MILLIS, number_value(initial_time_millis));
    }
    item
}

/// The key of a lease's row.
pub(super) fn key(shard_id: &ShardId, layout: &RowLayout) -> Item {
    Item::from([(LEASE_KEY.to_owned(), text_value(&layout.lease_key(shard_id)))])
}
