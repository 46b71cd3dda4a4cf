//! A lease as an item of the table, in the attributes of the KCL 2.x.
//!
//! Reading is strict about the attributes that a lease needs and blind to all others, which writes leave alone.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::layout::RowLayout;
use crate::{
    HashKey, HashKeyRange, Lease, MalformedLease, PendingCheckpoint, Position, ShardId, StoreError,
    StreamIdentity, WorkerId,
};

/// S, the hash key of the table. In a single-stream application it is the shard id.
pub(super) const LEASE_KEY: &str = "leaseKey";
/// N, mandatory.
pub(super) const LEASE_COUNTER: &str = "leaseCounter";
/// S, absent when nobody holds the lease.
pub(super) const LEASE_OWNER: &str = "leaseOwner";
/// N, mandatory.
pub(super) const OWNER_SWITCHES_SINCE_CHECKPOINT: &str = "ownerSwitchesSinceCheckpoint";
/// S, mandatory: a sequence number or a sentinel.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// N, 0 when absent.
pub(super) const CHECKPOINT_SUB_SEQUENCE_NUMBER: &str = "checkpointSubSequenceNumber";
/// S, only between the two halves of a two-step checkpoint.
pub(super) const PENDING_CHECKPOINT: &str = "pendingCheckpoint";
/// N, beside the pending checkpoint.
pub(super) const PENDING_CHECKPOINT_SUB_SEQUENCE_NUMBER: &str = "pendingCheckpointSubSequenceNumber";
/// B, beside the pending checkpoint when the application gave bytes.
pub(super) const PENDING_CHECKPOINT_STATE: &str = "pendingCheckpointState";
/// SS despite the singular, absent when there are none.
pub(super) const PARENT_SHARD_ID: &str = "parentShardId";
/// SS, absent until the shard is read to its end.
pub(super) const CHILD_SHARD_IDS: &str = "childShardIds";
/// S, decimal.
pub(super) const STARTING_HASH_KEY: &str = "startingHashKey";
/// S, decimal.
pub(super) const ENDING_HASH_KEY: &str = "endingHashKey";
/// S, KCL 3.x, only during a hand-over: the previous owner.
pub(super) const CHECKPOINT_OWNER: &str = "checkpointOwner";
/// S, KCL 3.5: what the row is. Rows of older versions lack it and are leases.
const ENTITY_TYPE: &str = "entityType";
/// S, only in rows of multi-stream applications: the identifier of the stream.
pub(super) const STREAM_NAME: &str = "streamName";
/// S, only in rows of multi-stream applications, where the key is more than the shard id.
pub(super) const SHARD_ID: &str = "shardId";
/// N, KCL 3.x: how much is read from the shard, in KiB per second.
const THROUGHPUT: &str = "throughputKBps";
/// S, ours: the worker that asks for the lease.
pub(super) const REQUESTED_BY: &str = "handOverRequestedBy";
/// S, ours: the owner that is ready to part with the lease.
pub(super) const OFFERED_BY: &str = "handOverOfferedBy";
/// S, ours: the stream.
pub(super) const STREAM_ARN: &str = "streamArn";
/// N, ours: when the stream was created, in seconds since 1970.
pub(super) const STREAM_CREATION_EPOCH: &str = "streamCreationEpoch";
/// N, ours: what `LATEST` or `AT_TIMESTAMP` stands for.
pub(super) const INITIAL_TIME_MILLIS: &str = "initialTimeMillis";

/// The largest count: the KCL's are signed numbers of 64 bits.
const MAX_COUNTER: u64 = i64::MAX.unsigned_abs();

/// The value of [`ENTITY_TYPE`] in a lease row.
const LEASE_ENTITY: &str = "LEASE";

/// A row as DynamoDB answers it.
pub(super) type Item = HashMap<String, AttributeValue>;

/// What a row turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A lease.
    Lease(Box<Lease>),
    /// No lease and not meant as one: the leader lock, metrics and migration states that KCL 3.5 keeps in the table.
    Foreign(MalformedLease),
    /// Meant as a lease, but unusable.
    Malformed(MalformedLease),
}

/// The one attribute that makes a row unusable.
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
            let fault = Fault::new(ENTITY_TYPE, format!("is {entity:?}: the row is no lease"));
            return Row::Foreign(fault.in_row(item));
        }
        Ok(_) => {}
        Err(fault) => return Row::Malformed(fault.in_row(item)),
    }
    let shard_id = match layout {
        RowLayout::SingleStream => single_stream_shard_id(item),
        RowLayout::MultiStream(stream) => match text(item, STREAM_NAME) {
            Ok(Some(name)) if name != stream.as_str() => {
                let fault = Fault::new(STREAM_NAME, format!("is {name:?}: the row is another stream's"));
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

fn single_stream_shard_id(item: &Item) -> Result<ShardId, Fault> {
    // First, because it explains why the key is no shard id.
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
            "is missing: the row belongs to an application of one stream; do not call with_multi_stream_key, or give \
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
        stream: stream_identity(item)?,
        initial_time_millis: number(item, INITIAL_TIME_MILLIS)?,
        throughput_bytes_per_second: throughput(item),
    })
}

fn stream_identity(item: &Item) -> Result<Option<StreamIdentity>, Fault> {
    match (text(item, STREAM_ARN)?, number(item, STREAM_CREATION_EPOCH)?) {
        (Some(arn), Some(creation_epoch_seconds)) => {
            Ok(Some(StreamIdentity { arn: arn.to_owned(), creation_epoch_seconds }))
        }
        (None, None) => Ok(None),
        // A take would add what is missing, of another stream perhaps.
        (None, Some(_)) => Err(Fault::missing(STREAM_ARN)),
        (Some(_), None) => Err(Fault::missing(STREAM_CREATION_EPOCH)),
    }
}

/// Only a hint for balancing, so a number that makes no sense is none.
fn throughput(item: &Item) -> Option<u64> {
    const BYTES_PER_KIBIBYTE: f64 = 1024.0;
    let kibibytes: f64 = item.get(THROUGHPUT)?.as_n().ok()?.parse().ok()?;
    let bytes = kibibytes * BYTES_PER_KIBIBYTE;
    // The cast saturates, and the number is neither negative nor NaN.
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

/// Nobody writes only one end. The KCL would take such a row as one without a range; here a take would add the other end of
/// the shard's own range to whatever stands there, and records would be left out by a range that is no shard's.
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
        Fault::new(attribute, format!("{error}; or AT_TIMESTAMP, TRIM_HORIZON, LATEST or SHARD_END"))
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

/// A number that grows by one. Beyond the KCL's range it would soon have no successor here.
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

/// The whole row of a new lease. What is absent in the lease is absent in the row, and its throughput is KCL 3.x's to
/// write.
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
    if let Some(stream) = &lease.stream {
        put(STREAM_ARN, text_value(&stream.arn));
        put(STREAM_CREATION_EPOCH, number_value(stream.creation_epoch_seconds));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dynamodb::MultiStreamKey;

    fn s(text: &str) -> AttributeValue {
        text_value(text)
    }

    fn n(number: &str) -> AttributeValue {
        AttributeValue::N(number.to_owned())
    }

    fn ss(names: &[&str]) -> AttributeValue {
        AttributeValue::Ss(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn shards(names: &[&'static str]) -> BTreeSet<ShardId> {
        names.iter().map(|&name| ShardId::new(name).unwrap()).collect()
    }

    fn worker(name: &'static str) -> Option<WorkerId> {
        Some(WorkerId::new(name).unwrap())
    }

    /// The row that the KCL writes for a new shard, with other attributes put over it.
    fn kcl_row<const COUNT: usize>(others: [(&str, AttributeValue); COUNT]) -> Item {
        let fresh = [
            ("leaseKey", s("shardId-000000000004")),
            ("leaseCounter", n("0")),
            ("ownerSwitchesSinceCheckpoint", n("0")),
            ("checkpoint", s("TRIM_HORIZON")),
            ("checkpointSubSequenceNumber", n("0")),
        ];
        fresh.into_iter().chain(others).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn fresh() -> Lease {
        Lease::unowned(ShardId::new("shardId-000000000004").unwrap(), Position::TrimHorizon)
    }

    fn usable(item: &Item) -> Lease {
        match read(item, &RowLayout::SingleStream) {
            Row::Lease(lease) => *lease,
            other => panic!("{other:?}"),
        }
    }

    /// The attribute and the reason of a malformed row.
    fn fault(item: &Item) -> (String, String) {
        match read(item, &RowLayout::SingleStream) {
            Row::Malformed(malformed) => (malformed.attribute, malformed.reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fresh_row_is_an_unowned_lease() {
        let row = kcl_row([]);
        assert_eq!(usable(&row), fresh());
        assert_eq!(write(&fresh(), &RowLayout::SingleStream), row, "and is written in the same attributes");
    }

    #[test]
    fn an_owned_row_has_parents_and_a_range() {
        let row = kcl_row([
            ("leaseOwner", s("ip-10-0-0-7:4e1b")),
            ("leaseCounter", n("1187")),
            ("ownerSwitchesSinceCheckpoint", n("2")),
            ("checkpoint", s("49590338271490256608559692538361571095921575989136588898")),
            ("checkpointSubSequenceNumber", n("5")),
            ("parentShardId", ss(&["shardId-000000000001", "shardId-000000000000"])),
            ("startingHashKey", s("0")),
            ("endingHashKey", s("170141183460469231731687303715884105727")),
        ]);
        let mut expected = fresh();
        expected.owner = worker("ip-10-0-0-7:4e1b");
        expected.counter = 1187;
        expected.owner_switches_since_checkpoint = 2;
        let number = "49590338271490256608559692538361571095921575989136588898".parse().unwrap();
        expected.checkpoint = Position::after(number, 5);
        expected.parents = shards(&["shardId-000000000000", "shardId-000000000001"]);
        expected.hash_key_range = Some(HashKeyRange::new(HashKey(0), HashKey(u128::MAX / 2)).unwrap());
        assert_eq!(usable(&row), expected);
    }

    #[test]
    fn a_finished_row_has_children() {
        let row = kcl_row([
            ("leaseOwner", s("a")),
            ("checkpoint", s("SHARD_END")),
            ("childShardIds", ss(&["shardId-000000000009", "shardId-000000000008"])),
        ]);
        let mut expected = fresh();
        expected.owner = worker("a");
        expected.checkpoint = Position::ShardEnd;
        expected.children = shards(&["shardId-000000000008", "shardId-000000000009"]);
        assert_eq!(usable(&row), expected);
        assert_eq!(
            write(&expected, &RowLayout::SingleStream)["childShardIds"],
            ss(&["shardId-000000000008", "shardId-000000000009"])
        );
    }

    #[test]
    fn a_prepared_checkpoint_keeps_its_state_bytes() {
        let row = kcl_row([
            ("pendingCheckpoint", s("4960")),
            ("pendingCheckpointSubSequenceNumber", n("3")),
            ("pendingCheckpointState", AttributeValue::B(Blob::new([0, 255, 7]))),
        ]);
        let pending = usable(&row).pending_checkpoint;
        let position = Position::after(4960.into(), 3);
        assert_eq!(pending, Some(PendingCheckpoint { position, state: Some(vec![0, 255, 7]) }));
        let without_state = kcl_row([("pendingCheckpoint", s("SHARD_END"))]);
        let pending = usable(&without_state).pending_checkpoint;
        assert_eq!(pending, Some(PendingCheckpoint { position: Position::ShardEnd, state: None }));
    }

    #[test]
    fn attributes_of_later_versions_are_no_hindrance() {
        let row = kcl_row([
            ("entityType", s("LEASE")),
            ("leaseOwner", s("b")),
            ("checkpointOwner", s("a")),
            ("throughputKBps", n("12.345678")),
            ("someoneElses", AttributeValue::M(HashMap::new())),
        ]);
        let mut expected = fresh();
        expected.owner = worker("b");
        expected.checkpoint_owner = worker("a");
        expected.throughput_bytes_per_second = Some(12_642);
        assert_eq!(usable(&row), expected);
    }

    #[test]
    fn an_absent_sub_sequence_number_is_zero() {
        let mut row = kcl_row([("checkpoint", s("4959"))]);
        row.remove("checkpointSubSequenceNumber");
        assert_eq!(usable(&row).checkpoint, Position::after(4959.into(), 0));
    }

    #[test]
    fn a_range_with_one_end_is_malformed() {
        for (end, other) in [("startingHashKey", "endingHashKey"), ("endingHashKey", "startingHashKey")] {
            assert_eq!(fault(&kcl_row([(end, s("5"))])), (other.to_owned(), "is missing".to_owned()));
        }
    }

    #[test]
    fn a_multi_stream_row_is_malformed() {
        let key = "123456789012:orders:1700000000:shardId-000000000004";
        let row = kcl_row([
            ("leaseKey", s(key)),
            ("streamName", s("123456789012:orders:1700000000")),
            ("shardId", s("shardId-000000000004")),
        ]);
        let Row::Malformed(malformed) = read(&row, &RowLayout::SingleStream) else { panic!("{row:?}") };
        assert_eq!((malformed.key.as_str(), malformed.attribute.as_str()), (key, "streamName"));
        assert_eq!(fault(&kcl_row([("leaseKey", s(key))])).0, "leaseKey");
        assert_eq!(fault(&kcl_row([("streamName", s("orders"))])).0, "streamName");
    }

    fn orders() -> RowLayout {
        RowLayout::MultiStream(MultiStreamKey::new("123456789012", "orders", 1_700_000_000).unwrap())
    }

    #[test]
    fn a_store_of_one_stream_of_many_reads_its_rows_and_leaves_the_others_alone() {
        let row = |stream: &str, key: &str| {
            kcl_row([("leaseKey", s(key)), ("streamName", s(stream)), ("shardId", s("shardId-000000000004"))])
        };
        let (mine, other) = ("123456789012:orders:1700000000", "123456789012:invoices:1700000000");
        let own = row(mine, "123456789012:orders:1700000000:shardId-000000000004");
        assert_eq!(read(&own, &orders()), Row::Lease(Box::new(fresh())));
        assert_eq!(write(&fresh(), &orders()), own, "and is written in the same attributes");
        let foreign = row(other, "123456789012:invoices:1700000000:shardId-000000000004");
        assert!(matches!(read(&foreign, &orders()), Row::Foreign(_)));
        let crossed = row(mine, "123456789012:invoices:1700000000:shardId-000000000004");
        assert!(matches!(read(&crossed, &orders()), Row::Malformed(fault) if fault.attribute == "leaseKey"));
        assert!(
            matches!(read(&kcl_row([]), &orders()), Row::Malformed(fault) if fault.attribute == "streamName")
        );
    }

    #[test]
    fn what_we_add_stands_in_attributes_of_its_own() {
        let row = kcl_row([
            ("handOverRequestedBy", s("b")),
            ("handOverOfferedBy", s("a")),
            ("streamArn", s("arn:aws:kinesis:eu-west-1:123456789012:stream/orders")),
            ("streamCreationEpoch", n("1700000000")),
            ("initialTimeMillis", n("1700000000123")),
        ]);
        let mut expected = fresh();
        expected.requested_by = worker("b");
        expected.offered_by = worker("a");
        expected.stream = Some(StreamIdentity {
            arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/orders".to_owned(),
            creation_epoch_seconds: 1_700_000_000,
        });
        expected.initial_time_millis = Some(1_700_000_000_123);
        assert_eq!(usable(&row), expected);
        assert_eq!(write(&expected, &RowLayout::SingleStream), row);
        for (half, other) in [
            (("streamArn", s("arn")), "streamCreationEpoch"),
            (("streamCreationEpoch", n("17")), "streamArn"),
        ] {
            assert_eq!(fault(&kcl_row([half])), (other.to_owned(), "is missing".to_owned()));
        }
    }

    #[test]
    fn a_missing_attribute_is_named() {
        for attribute in ["leaseKey", "leaseCounter", "ownerSwitchesSinceCheckpoint", "checkpoint"] {
            let mut row = kcl_row([]);
            row.remove(attribute);
            assert_eq!(fault(&row), (attribute.to_owned(), "is missing".to_owned()));
        }
    }

    #[test]
    fn a_wrong_attribute_is_named_with_its_value() {
        let cases = [
            ("leaseCounter", s("7"), "a string (S)"),
            ("leaseCounter", n("-1"), "-1"),
            ("leaseCounter", n("1.5"), "1.5"),
            ("leaseCounter", n("18446744073709551616"), "18446744073709551616"),
            ("leaseCounter", n("9223372036854775808"), "9223372036854775807"),
            ("ownerSwitchesSinceCheckpoint", n("18446744073709551615"), "18446744073709551615"),
            ("ownerSwitchesSinceCheckpoint", AttributeValue::Null(true), "null (NULL)"),
            ("checkpoint", s("garbage"), "\"garbage\""),
            ("checkpoint", s(""), "\"\""),
            ("checkpoint", s("007"), "\"007\""),
            ("checkpoint", n("4959"), "a number (N)"),
            ("checkpointSubSequenceNumber", s("0"), "a string (S)"),
            ("leaseOwner", s(""), "\"\""),
            ("leaseOwner", AttributeValue::Bool(true), "a boolean (BOOL)"),
            ("checkpointOwner", n("1"), "a number (N)"),
            ("pendingCheckpoint", s("x"), "\"x\""),
            ("parentShardId", s("shardId-000000000001"), "a string (S)"),
            ("parentShardId", ss(&["shard 1"]), "\"shard 1\""),
            ("childShardIds", AttributeValue::L(Vec::new()), "a list (L)"),
            ("startingHashKey", s("0x10"), "\"0x10\""),
            ("endingHashKey", n("5"), "a number (N)"),
            ("entityType", n("5"), "a number (N)"),
        ];
        for (attribute, value, shown) in cases {
            let (named, reason) = fault(&kcl_row([(attribute, value.clone())]));
            assert_eq!(named, attribute, "{value:?}");
            assert!(reason.contains(shown), "{attribute} {value:?}: {reason}");
        }
        let state = kcl_row([("pendingCheckpoint", s("7")), ("pendingCheckpointState", n("0"))]);
        assert_eq!(fault(&state).0, "pendingCheckpointState");
        let turned = kcl_row([("startingHashKey", s("7")), ("endingHashKey", s("5"))]);
        assert_eq!(fault(&turned).0, "startingHashKey");
    }

    #[test]
    fn a_row_of_another_entity_is_no_lease_and_no_fault() {
        let leader = Item::from([
            ("leaseKey".to_owned(), s("Leader")),
            ("entityType".to_owned(), s("LEADER")),
            ("ownerName".to_owned(), s("a")),
        ]);
        let Row::Foreign(foreign) = read(&leader, &RowLayout::SingleStream) else { panic!("{leader:?}") };
        assert_eq!((foreign.key.as_str(), foreign.attribute.as_str()), ("Leader", "entityType"));
    }

    fn a_position() -> impl Strategy<Value = Position> {
        prop_oneof![
            Just(Position::AtTimestamp),
            Just(Position::TrimHorizon),
            Just(Position::Latest),
            Just(Position::ShardEnd),
            ("0|[1-9][0-9]{0,128}", any::<u64>())
                .prop_map(|(number, sub)| Position::after(number.parse().unwrap(), sub)),
        ]
    }

    fn a_worker() -> impl Strategy<Value = Option<WorkerId>> {
        proptest::option::of(".{1,40}".prop_map(|name| WorkerId::new(name).unwrap()))
    }

    fn a_shard() -> impl Strategy<Value = ShardId> {
        "[a-zA-Z0-9_.-]{1,128}".prop_map(|name| ShardId::new(name).unwrap())
    }

    fn some_shards() -> impl Strategy<Value = BTreeSet<ShardId>> {
        proptest::collection::btree_set(a_shard(), 0..3)
    }

    prop_compose! {
        fn a_pending_checkpoint()(
            position in a_position(),
            state in proptest::option::of(any::<Vec<u8>>()),
        ) -> PendingCheckpoint {
            PendingCheckpoint { position, state }
        }
    }

    prop_compose! {
        fn a_lease()(
            shard_id in a_shard(),
            owner in a_worker(),
            checkpoint_owner in a_worker(),
            (counter, owner_switches_since_checkpoint) in (0..=MAX_COUNTER, 0..=MAX_COUNTER),
            checkpoint in a_position(),
            pending_checkpoint in proptest::option::of(a_pending_checkpoint()),
            (parents, children) in (some_shards(), some_shards()),
            ends in proptest::option::of(any::<(u128, u128)>()),
            (requested_by, offered_by) in (a_worker(), a_worker()),
            stream in proptest::option::of((".{1,40}", any::<u64>())),
            initial_time_millis in any::<Option<u64>>(),
        ) -> Lease {
            let hash_key_range = ends.map(|(one, other)| {
                HashKeyRange::new(HashKey(one.min(other)), HashKey(one.max(other))).unwrap()
            });
            Lease {
                shard_id, owner, counter, checkpoint, owner_switches_since_checkpoint, pending_checkpoint,
                parents, children, hash_key_range, checkpoint_owner, requested_by, offered_by,
                stream: stream.map(|(arn, creation_epoch_seconds)| StreamIdentity { arn, creation_epoch_seconds }),
                initial_time_millis, throughput_bytes_per_second: None,
            }
        }
    }

    proptest! {
        #[test]
        fn any_lease_is_read_as_it_was_written(lease in a_lease()) {
            for layout in [RowLayout::SingleStream, orders()] {
                prop_assert_eq!(read(&write(&lease, &layout), &layout), Row::Lease(Box::new(lease.clone())));
            }
        }
    }
}
