//! Reading and writing rows: rows that the KCL writes, malformed rows, and any lease there and back.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;

use super::attributes::{Item, text_value};
use super::layout::{MultiStreamKey, RowLayout};
use super::row_reader::{MAX_COUNTER, Row, read};
use super::row_writer::write;
use crate::hash_key_range::{HashKey, HashKeyRange};
use crate::lag_report::{LagReport, MAX_LAG_REPORT_BYTES};
use crate::lease::{Lease, PendingCheckpoint};
use crate::position::Position;
use crate::shard_id::ShardId;
use crate::stream_identity::StreamIdentity;
use crate::worker_id::WorkerId;

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

/// The row that the KCL writes for a new shard, with the given attributes added or replaced.
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
    assert_eq!(write(&fresh(), &RowLayout::SingleStream), row, "the same attributes are written");
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
fn attributes_of_later_kcl_versions_are_ignored() {
    let row = kcl_row([
        ("entityType", s("LEASE")),
        ("leaseOwner", s("b")),
        ("checkpointOwner", s("a")),
        ("throughputKBps", n("12.345678")),
        ("teamNote", AttributeValue::M(HashMap::new())),
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
fn a_multi_stream_layout_reads_only_its_own_stream() {
    let row = |stream: &str, key: &str| {
        kcl_row([("leaseKey", s(key)), ("streamName", s(stream)), ("shardId", s("shardId-000000000004"))])
    };
    let (mine, other) = ("123456789012:orders:1700000000", "123456789012:invoices:1700000000");
    let own = row(mine, "123456789012:orders:1700000000:shardId-000000000004");
    assert_eq!(read(&own, &orders()), Row::Lease(Box::new(fresh())));
    assert_eq!(write(&fresh(), &orders()), own, "the same attributes are written");
    let foreign = row(other, "123456789012:invoices:1700000000:shardId-000000000004");
    assert!(matches!(read(&foreign, &orders()), Row::Foreign(_)));
    let crossed = row(mine, "123456789012:invoices:1700000000:shardId-000000000004");
    assert!(matches!(read(&crossed, &orders()), Row::Malformed(fault) if fault.attribute == "leaseKey"));
    assert!(
        matches!(read(&kcl_row([]), &orders()), Row::Malformed(fault) if fault.attribute == "streamName")
    );
}

#[test]
fn added_facts_have_their_own_attributes() {
    let row = kcl_row([
        ("handOverRequestedBy", s("b")),
        ("handOverOfferedBy", s("a")),
        ("streamArn", s("arn:aws:kinesis:eu-west-1:123456789012:stream/orders")),
        ("streamCreationEpoch", n("1700000000")),
        ("initialTimeMillis", n("1700000000123")),
        ("operatorRequest", s("release #7 to b")),
        ("operatorResetId", n("6")),
        ("operatorPause", s("by me")),
        ("ownerLag", s("behind=5 at=9 counter=0")),
    ]);
    let mut expected = fresh();
    expected.requested_by = worker("b");
    expected.offered_by = worker("a");
    expected.stream = Some(StreamIdentity {
        arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/orders".to_owned(),
        creation_epoch_seconds: 1_700_000_000,
    });
    expected.initial_time_millis = Some(1_700_000_000_123);
    expected.owner_request_text = Some("release #7 to b".to_owned());
    expected.reset_id = Some(6);
    expected.pause_text = Some("by me".to_owned());
    expected.lag_report_text = Some("behind=5 at=9 counter=0".to_owned());
    assert_eq!(usable(&row), expected);
    assert_eq!(write(&expected, &RowLayout::SingleStream), row);
    for (half, other) in
        [(("streamArn", s("arn")), "streamCreationEpoch"), (("streamCreationEpoch", n("17")), "streamArn")]
    {
        assert_eq!(fault(&kcl_row([half])), (other.to_owned(), "is missing".to_owned()));
    }
}

#[test]
fn a_lag_of_another_type_counts_as_absent() {
    assert_eq!(usable(&kcl_row([("ownerLag", n("5"))])), fresh());
}

/// DynamoDB bills a write of a row up to this size as one unit.
const WRITE_UNIT_BYTES: usize = 1_024;

#[test]
fn a_row_with_everything_is_written_for_one_unit() {
    let mut lease = fresh();
    let counter = 1_796_000_000_000_000;
    let report = LagReport {
        behind_millis: 31_536_000_000,
        measured_at_millis: 1_796_000_000_123,
        processed_bytes_per_second: Some(2_000_000),
    };
    lease.owner = worker("ip-10-0-123-245.eu-west-1.compute.internal-0123456789");
    lease.requested_by = worker("ip-10-0-123-246.eu-west-1.compute.internal-0123456789");
    lease.offered_by = lease.owner.clone();
    lease.counter = counter;
    lease.checkpoint = Position::after(u128::MAX.into(), 1_000);
    lease.parents = shards(&["shardId-000000000002", "shardId-000000000003"]);
    lease.hash_key_range = Some(HashKeyRange::FULL);
    lease.owner_process =
        Some("ip-10-0-123-245.eu-west-1.compute.internal 12345 9876543210 1 consumer".to_owned());
    lease.stream = Some(StreamIdentity {
        arn: "arn:aws:kinesis:eu-west-1:123456789012:stream/orders".to_owned(),
        creation_epoch_seconds: 1_700_000_000,
    });
    lease.application = Some("order-desk".to_owned());
    lease.row_id = Some(1 << 52);
    lease.initial_time_millis = Some(1_700_000_000_123);
    let bytes_of = |lease: &Lease| -> usize {
        let size = |value: &AttributeValue| match value {
            AttributeValue::S(text) => text.len(),
            // Two digits take a byte, and there are two more.
            AttributeValue::N(number) => number.len() / 2 + 2,
            AttributeValue::Ss(texts) => texts.iter().map(|text| text.len() + 1).sum::<usize>() + 3,
            other => panic!("{other:?}"),
        };
        write(lease, &RowLayout::SingleStream).iter().map(|(name, value)| name.len() + size(value)).sum()
    };
    let before = bytes_of(&lease);
    lease.lag_report_text = Some(report.text(counter));
    let after = bytes_of(&lease);
    assert!(after <= WRITE_UNIT_BYTES, "{after} bytes, {before} without the report");
    assert!(after - before <= "ownerLag".len() + MAX_LAG_REPORT_BYTES, "{before} {after}");
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
fn a_row_of_another_entity_type_is_foreign() {
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
        owner_process in proptest::option::of(".{0,40}"),
        stream in proptest::option::of((".{1,40}", any::<u64>())),
        (application, row_id) in (proptest::option::of(".{0,40}"), any::<Option<u64>>()),
        initial_time_millis in any::<Option<u64>>(),
        (owner_request_text, pause_text, reset_id) in
            (proptest::option::of(".{0,40}"), proptest::option::of(".{0,40}"), any::<Option<u64>>()),
        lag_report_text in proptest::option::of(".{0,40}"),
    ) -> Lease {
        let hash_key_range = ends.map(|(one, other)| {
            HashKeyRange::new(HashKey(one.min(other)), HashKey(one.max(other))).unwrap()
        });
        Lease {
            shard_id, owner, counter, checkpoint, owner_switches_since_checkpoint, pending_checkpoint,
            parents, children, hash_key_range, checkpoint_owner, requested_by, offered_by, owner_process,
            stream: stream.map(|(arn, creation_epoch_seconds)| StreamIdentity { arn, creation_epoch_seconds }),
            application, row_id, initial_time_millis, owner_request_text, reset_id, pause_text,
            lag_report_text,
            throughput_bytes_per_second: None,
        }
    }
}

proptest! {
    #[test]
    fn any_lease_survives_a_round_trip(lease in a_lease()) {
        for layout in [RowLayout::SingleStream, orders()] {
            prop_assert_eq!(read(&write(&lease, &layout), &layout), Row::Lease(Box::new(lease.clone())));
        }
    }
}
