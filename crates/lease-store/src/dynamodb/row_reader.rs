//! Reads a row of the table as a lease, from the attributes of the KCL 2.x.
//!
//! The reader is strict about the attributes of a lease and ignores all others, which no write changes.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;

use super::attributes::{
    APPLICATION, CHECKPOINT, CHECKPOINT_OWNER, CHECKPOINT_SUB_SEQUENCE_NUMBER, CHILD_SHARD_IDS,
    ENDING_HASH_KEY, ENTITY_TYPE, INITIAL_TIME_MILLIS, Item, LAG_REPORT, LEASE_COUNTER, LEASE_KEY,
    LEASE_OWNER, OFFERED_BY, OWNER_PROCESS, OWNER_REQUEST, OWNER_SWITCHES_SINCE_CHECKPOINT, PARENT_SHARD_ID,
    PAUSE, PENDING_CHECKPOINT, PENDING_CHECKPOINT_STATE, PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER,
    REQUESTED_BY, RESET_ID, ROW_ID, SHARD_ID, STARTING_HASH_KEY, STREAM_ARN, STREAM_CREATION_EPOCH,
    STREAM_NAME, THROUGHPUT,
};
use super::layout::{MultiStreamKey, RowLayout};
use crate::error::StoreError;
use crate::hash_key_range::{HashKey, HashKeyRange};
use crate::lease::{Lease, PendingCheckpoint};
use crate::position::Position;
use crate::shard_id::ShardId;
use crate::store::MalformedLease;
use crate::stream_identity::StreamIdentity;
use crate::worker_id::WorkerId;

/// The largest counter. The KCL's counters are signed 64-bit numbers.
pub(super) const MAX_COUNTER: u64 = i64::MAX.unsigned_abs();

/// The value of [`ENTITY_TYPE`] in a lease row.
const LEASE_ENTITY: &str = "LEASE";

/// The result of reading a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A lease.
    Lease(Box<Lease>),
    /// Not a lease of this application: a row of another stream, or a leader lock, metrics or migration state that
    /// KCL 3.5 keeps in the table.
    Foreign(MalformedLease),
    /// A lease of this application, but malformed.
    Malformed(MalformedLease),
}

/// The attribute that makes a row malformed.
struct Fault {
    attribute: &'static str,
    reason: String,
}

impl Fault {
    fn new(attribute: &'static str, reason: impl Into<String>) -> Self {
        Self { attribute, reason: reason.into() }
    }

    fn missing(attribute: &'static str) -> Self {
        Self::new(attribute, "is missing")
    }

    fn wrong_type(attribute: &'static str, found: &AttributeValue, wanted: &str) -> Self {
        Self::new(attribute, format!("is {}, must be {wanted}", type_name(found)))
    }

    fn in_row(self, item: &Item) -> MalformedLease {
        let key = match item.get(LEASE_KEY) {
            Some(AttributeValue::S(key)) => key.clone(),
            other => format!("{other:?}"),
        };
        MalformedLease { key, attribute: self.attribute.to_owned(), reason: self.reason }
    }
}

/// Reads a row.
pub(super) fn read(item: &Item, layout: &RowLayout) -> Row {
    match text(item, ENTITY_TYPE) {
        Ok(Some(entity)) if entity != LEASE_ENTITY => {
            let fault = Fault::new(ENTITY_TYPE, format!("is {entity:?}: the row is not a lease"));
            return Row::Foreign(fault.in_row(item));
        }
        Ok(_) => {}
        Err(fault) => return Row::Malformed(fault.in_row(item)),
    }
    let shard_id = match layout {
        RowLayout::SingleStream => single_stream_shard_id(item),
        RowLayout::MultiStream(stream) => match text(item, STREAM_NAME) {
            Ok(Some(name)) if name != stream.as_str() => {
                let fault =
                    Fault::new(STREAM_NAME, format!("is {name:?}: the row belongs to another stream"));
                return Row::Foreign(fault.in_row(item));
            }
            Ok(name) => multi_stream_shard_id(item, name, layout),
            Err(fault) => Err(fault),
        },
    };
    match shard_id.and_then(|shard_id| lease(item, shard_id)) {
        Ok(lease) => Row::Lease(Box::new(lease)),
        Err(fault) => Row::Malformed(fault.in_row(item)),
    }
}

/// Reads a row of a multi-stream table, whatever its stream. Returns the identifier of the stream, if the row has one.
pub(super) fn read_of_any_stream(item: &Item) -> (Option<String>, Row) {
    let stream = text(item, STREAM_NAME).ok().flatten();
    let layout = RowLayout::MultiStream(MultiStreamKey::of_row(stream.unwrap_or_default()));
    (stream.map(str::to_owned), read(item, &layout))
}

fn single_stream_shard_id(item: &Item) -> Result<ShardId, Fault> {
    // Checked first, because it explains why the key is not a shard id.
    if item.contains_key(STREAM_NAME) {
        return Err(Fault::new(
            STREAM_NAME,
            "the row belongs to a multi-stream application; name its stream to the store (with_multi_stream_key), or \
             give this application a table of its own",
        ));
    }
    let key = text(item, LEASE_KEY)?.ok_or_else(|| Fault::missing(LEASE_KEY))?;
    parsed(LEASE_KEY, ShardId::new(key.to_owned()))
}

fn multi_stream_shard_id(
    item: &Item,
    stream_name: Option<&str>,
    layout: &RowLayout,
) -> Result<ShardId, Fault> {
    if stream_name.is_none() {
        return Err(Fault::new(
            STREAM_NAME,
            "is missing: the row belongs to a single-stream application; do not call with_multi_stream_key, or give \
             this application a table of its own",
        ));
    }
    let shard_id = text(item, SHARD_ID)?.ok_or_else(|| Fault::missing(SHARD_ID))?;
    let shard_id = parsed(SHARD_ID, ShardId::new(shard_id.to_owned()))?;
    let (found, wanted) = (text(item, LEASE_KEY)?.unwrap_or_default(), layout.lease_key(&shard_id));
    if found != wanted {
        return Err(Fault::new(LEASE_KEY, format!("is {found:?}, must be {wanted:?}")));
    }
    Ok(shard_id)
}

fn lease(item: &Item, shard_id: ShardId) -> Result<Lease, Fault> {
    let checkpoint = text(item, CHECKPOINT)?.ok_or_else(|| Fault::missing(CHECKPOINT))?;
    let required = |attribute| counter(item, attribute)?.ok_or_else(|| Fault::missing(attribute));
    Ok(Lease {
        shard_id,
        owner: worker_id(item, LEASE_OWNER)?,
        counter: required(LEASE_COUNTER)?,
        checkpoint: position(item, CHECKPOINT, checkpoint, CHECKPOINT_SUB_SEQUENCE_NUMBER)?,
        owner_switches_since_checkpoint: required(OWNER_SWITCHES_SINCE_CHECKPOINT)?,
        pending_checkpoint: pending_checkpoint(item)?,
        parents: shard_ids(item, PARENT_SHARD_ID)?,
        children: shard_ids(item, CHILD_SHARD_IDS)?,
        hash_key_range: hash_key_range(item)?,
        checkpoint_owner: worker_id(item, CHECKPOINT_OWNER)?,
        requested_by: worker_id(item, REQUESTED_BY)?,
        offered_by: worker_id(item, OFFERED_BY)?,
        owner_process: hint(item, OWNER_PROCESS),
        stream: stream_identity(item)?,
        application: text(item, APPLICATION)?.map(str::to_owned),
        row_id: number(item, ROW_ID)?,
        initial_time_millis: number(item, INITIAL_TIME_MILLIS)?,
        owner_request_text: text(item, OWNER_REQUEST)?.map(str::to_owned),
        reset_id: number(item, RESET_ID)?,
        pause_text: text(item, PAUSE)?.map(str::to_owned),
        lag_report_text: hint(item, LAG_REPORT),
        throughput_bytes_per_second: throughput(item),
    })
}

fn stream_identity(item: &Item) -> Result<Option<StreamIdentity>, Fault> {
    match (text(item, STREAM_ARN)?, number(item, STREAM_CREATION_EPOCH)?) {
        (Some(arn), Some(creation_epoch_seconds)) => {
            Ok(Some(StreamIdentity { arn: arn.to_owned(), creation_epoch_seconds }))
        }
        (None, None) => Ok(None),
        // A half identity is an error: a take would add the missing half, perhaps of another stream.
        (None, Some(_)) => Err(Fault::missing(STREAM_ARN)),
        (Some(_), None) => Err(Fault::missing(STREAM_CREATION_EPOCH)),
    }
}

/// The process is only a hint about namesakes, and the lag is one for readers, so a value of another type counts as absent.
fn hint(item: &Item, attribute: &str) -> Option<String> {
    item.get(attribute)?.as_s().ok().cloned()
}

/// The throughput is only a hint for balancing, so an invalid value counts as absent.
fn throughput(item: &Item) -> Option<u64> {
    const BYTES_PER_KIBIBYTE: f64 = 1024.0;
    let kibibytes: f64 = item.get(THROUGHPUT)?.as_n().ok()?.parse().ok()?;
    let bytes = kibibytes * BYTES_PER_KIBIBYTE;
    // The cast saturates, and the value is neither negative nor NaN.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (bytes >= 0.0).then_some(bytes.round() as u64)
}

fn pending_checkpoint(item: &Item) -> Result<Option<PendingCheckpoint>, Fault> {
    let Some(checkpoint) = text(item, PENDING_CHECKPOINT)? else { return Ok(None) };
    let position = position(item, PENDING_CHECKPOINT, checkpoint, PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER)?;
    let state = match item.get(PENDING_CHECKPOINT_STATE) {
        None => None,
        Some(AttributeValue::B(bytes)) => Some(bytes.as_ref().to_vec()),
        Some(other) => return Err(Fault::wrong_type(PENDING_CHECKPOINT_STATE, other, "bytes (B)")),
    };
    Ok(Some(PendingCheckpoint { position, state }))
}

/// A range with only one end is an error, although the KCL reads it as absent: no worker writes such a row. A take would
/// add the other end from the shard's own range. The mixed range would belong to no shard, and its filter would drop
/// records.
fn hash_key_range(item: &Item) -> Result<Option<HashKeyRange>, Fault> {
    let end_at =
        |attribute| text(item, attribute)?.map(|end| parsed(attribute, end.parse::<HashKey>())).transpose();
    match (end_at(STARTING_HASH_KEY)?, end_at(ENDING_HASH_KEY)?) {
        (Some(start), Some(end)) => parsed(STARTING_HASH_KEY, HashKeyRange::new(start, end)).map(Some),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Fault::missing(STARTING_HASH_KEY)),
        (Some(_), None) => Err(Fault::missing(ENDING_HASH_KEY)),
    }
}

fn position(
    item: &Item,
    attribute: &'static str,
    checkpoint: &str,
    sub_sequence_attribute: &'static str,
) -> Result<Position, Fault> {
    let sub_sequence_number = number(item, sub_sequence_attribute)?.unwrap_or_default();
    Position::from_checkpoint(checkpoint, sub_sequence_number).map_err(|error| {
        Fault::new(attribute, format!("{error}, or AT_TIMESTAMP, TRIM_HORIZON, LATEST or SHARD_END"))
    })
}

fn worker_id(item: &Item, attribute: &'static str) -> Result<Option<WorkerId>, Fault> {
    text(item, attribute)?.map(|name| parsed(attribute, WorkerId::new(name.to_owned()))).transpose()
}

fn shard_ids(item: &Item, attribute: &'static str) -> Result<BTreeSet<ShardId>, Fault> {
    match item.get(attribute) {
        None => Ok(BTreeSet::new()),
        Some(AttributeValue::Ss(names)) => {
            names.iter().map(|name| parsed(attribute, ShardId::new(name.clone()))).collect()
        }
        Some(other) => Err(Fault::wrong_type(attribute, other, "a set of strings (SS)")),
    }
}

fn text<'a>(item: &'a Item, attribute: &'static str) -> Result<Option<&'a str>, Fault> {
    match item.get(attribute) {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text)),
        Some(other) => Err(Fault::wrong_type(attribute, other, "a string (S)")),
    }
}

fn number(item: &Item, attribute: &'static str) -> Result<Option<u64>, Fault> {
    match item.get(attribute) {
        None => Ok(None),
        Some(AttributeValue::N(number)) => number.parse().map(Some).map_err(|_| {
            Fault::new(attribute, format!("is {number}, must be a whole number from 0 to {}", u64::MAX))
        }),
        Some(other) => Err(Fault::wrong_type(attribute, other, "a number (N)")),
    }
}

/// A number that is incremented. Above the KCL's range it could soon not be incremented any more.
fn counter(item: &Item, attribute: &'static str) -> Result<Option<u64>, Fault> {
    match number(item, attribute)? {
        Some(number) if number > MAX_COUNTER => {
            Err(Fault::new(attribute, format!("is {number}, must be a whole number from 0 to {MAX_COUNTER}")))
        }
        number => Ok(number),
    }
}

fn parsed<T>(attribute: &'static str, value: Result<T, StoreError>) -> Result<T, Fault> {
    value.map_err(|error| Fault::new(attribute, error.to_string()))
}

fn type_name(value: &AttributeValue) -> &'static str {
    match value {
        AttributeValue::S(_) => "a string (S)",
        AttributeValue::N(_) => "a number (N)",
        AttributeValue::B(_) => "bytes (B)",
        AttributeValue::Bool(_) => "a boolean (BOOL)",
        AttributeValue::Null(_) => "null (NULL)",
        AttributeValue::L(_) => "a list (L)",
        AttributeValue::M(_) => "a map (M)",
        AttributeValue::Ss(_) => "a set of strings (SS)",
        AttributeValue::Ns(_) => "a set of numbers (NS)",
        AttributeValue::Bs(_) => "a set of bytes (BS)",
        _ => "of an unknown type",
    }
}
