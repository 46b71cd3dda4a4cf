//! The snapshot format: round trips, damage, versions and limits.

use std::time::{Duration, SystemTime};

use lease_store::{BoxError, HashKeyRange, Position, ShardId, StreamIdentity};
use processor_state::internals::{decode_snapshot, encode_snapshot};
use processor_state::{
    KeyedState, SnapshotHeader, StateChanges, StateErrorKind, StateLogic, StateSchema,
    decode_snapshot_header, update_state_by_key,
};
use proptest::prelude::*;
use shard_worker::Record;

use crate::counts;

const MAX_BYTES: usize = 1024 * 1024;

pub(crate) fn header(position: Position) -> SnapshotHeader {
    SnapshotHeader {
        application: "words".to_owned(),
        stream: "text".to_owned(),
        stream_identity: None,
        shard_id: ShardId::numbered(3),
        hash_key_range: HashKeyRange::FULL,
        ancestors: [ShardId::numbered(0), ShardId::numbered(1)].into(),
        schema: StateSchema::new("counts", 1),
        position,
        passed: None,
        owner: "worker \"a\"".to_owned(),
        lease_counter: 17,
        watermark: None,
        entries: 0,
    }
}

fn sample() -> (SnapshotHeader, KeyedState<u64>) {
    let state = [("a", 3), ("b\n\"", 1), ("", 7)].map(|(key, count)| (key.to_owned(), count));
    (header(Position::after(49_590_u128.into(), 2)), state.into_iter().collect())
}

prop_compose! {
    fn any_position()(sentinel in 0_u8..8, number: u128, sub: u64) -> Position {
        match sentinel {
            0 => Position::TrimHorizon,
            1 => Position::Latest,
            2 => Position::AtTimestamp,
            3 => Position::ShardEnd,
            _ => Position::after(number.into(), sub),
        }
    }
}

proptest! {
    #[test]
    fn snapshots_round_trip(
        entries in prop::collection::btree_map(".{0,12}", any::<u64>(), 0..40),
        position in any_position(),
        passed in prop::option::of(any_position()),
        watermark in prop::option::of(0_u64..4_000_000_000_000),
        identity in prop::option::of(any::<u32>()),
    ) {
        let watermark = watermark.map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        let identity = identity.map(|created| StreamIdentity { arn: "arn:aws:kinesis:a:1:stream/text".to_owned(), creation_epoch_seconds: created.into() });
        let header = SnapshotHeader { position, passed, watermark, stream_identity: identity, entries: entries.len() as u64, ..header(Position::Latest) };
        let state = entries.into_iter().collect::<KeyedState<u64>>().with_watermark(watermark);
        let bytes = encode_snapshot(&header, &state, MAX_BYTES).unwrap();
        let read = decode_snapshot(&bytes, &counts(1)).unwrap();
        prop_assert_eq!(&read.state, &state);
        prop_assert_eq!(&read.header, &header);
        prop_assert_eq!(decode_snapshot_header(&bytes).unwrap(), header);
    }
}

#[test]
fn every_truncation_and_flipped_bit_is_detected() {
    let (header, state) = sample();
    let bytes = encode_snapshot(&header, &state, MAX_BYTES).unwrap();
    for end in 0..bytes.len() {
        assert_eq!(
            decode_snapshot(&bytes[..end], &counts(1)).unwrap_err().kind(),
            StateErrorKind::Corrupt,
            "{end}"
        );
    }
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 1 << bit;
            let error = decode_snapshot(&damaged, &counts(1)).unwrap_err();
            // A digit of the version can become another digit.
            let is_detected = matches!(error.kind(), StateErrorKind::Corrupt | StateErrorKind::OtherVersion);
            assert!(is_detected, "{offset} {bit}: {error}");
        }
    }
    let longer = [bytes.as_slice(), b"\n"].concat();
    assert_eq!(decode_snapshot(&longer, &counts(1)).unwrap_err().kind(), StateErrorKind::Corrupt);
}

#[test]
fn positions_are_readable_without_the_application() {
    let (header, state) = sample();
    let text = String::from_utf8(encode_snapshot(&header, &state, MAX_BYTES).unwrap()).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("kinesis-state 1"));
    let written: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(written["position"], serde_json::json!({"checkpoint": "49590", "sub_sequence_number": 2}));
    assert_eq!(written["shard_id"], "shardId-000000000003");
    assert_eq!(lines.next(), Some("[\"\",7]"));
}

#[test]
fn another_version_is_refused_and_both_are_named() {
    let (header, state) = sample();
    let bytes = encode_snapshot(&header, &state, MAX_BYTES).unwrap();
    let error = decode_snapshot(&bytes, &counts(2)).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::OtherVersion);
    let text = error.to_string();
    assert!(
        ["\"counts\" version 1", "\"counts\" version 2", "migrate"].iter().all(|part| text.contains(part)),
        "{text}"
    );
    let newer = String::from_utf8(bytes).unwrap().replacen("kinesis-state 1", "kinesis-state 2", 1);
    let error = decode_snapshot(newer.as_bytes(), &counts(1)).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::OtherVersion);
    assert!(error.to_string().contains("version 2") && error.to_string().contains("version 1"), "{error}");
}

struct Migrating;

impl StateLogic for Migrating {
    type State = (u64, String);

    fn schema(&self) -> StateSchema {
        StateSchema::new("counts", 2)
    }

    fn update(&self, _: &Record, _: &mut StateChanges<'_, Self::State>) -> Result<(), BoxError> {
        Ok(())
    }

    fn merge(&self, _: &str, one: Self::State, _: Self::State) -> Self::State {
        one
    }

    fn migrate(
        &self,
        from: &StateSchema,
        key: &str,
        value: serde_json::Value,
    ) -> Option<Result<Self::State, BoxError>> {
        (from.version == 1).then(|| Ok((value.as_u64().ok_or("no count")?, format!("was {key}"))))
    }
}

#[test]
fn another_version_is_migrated_by_the_application() {
    let (mut header, state) = sample();
    let bytes = encode_snapshot(&header, &state, MAX_BYTES).unwrap();
    assert_eq!(decode_snapshot(&bytes, &Migrating).unwrap().state.get("a"), Some(&(3, "was a".to_owned())));
    header.schema.version = 3;
    let bytes = encode_snapshot(&header, &state, MAX_BYTES).unwrap();
    assert_eq!(decode_snapshot(&bytes, &Migrating).unwrap_err().kind(), StateErrorKind::OtherVersion);
}

#[test]
fn a_changed_type_is_detected_and_no_value_is_quoted() {
    let (header, _) = sample();
    let state: KeyedState<String> =
        [("secret-key".to_owned(), "secret-value".to_owned())].into_iter().collect();
    let bytes = encode_snapshot(&header, &state, MAX_BYTES).unwrap();
    let error = decode_snapshot(&bytes, &counts(1)).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Corrupt);
    assert!(error.to_string().contains("raise the version"), "{error}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[test]
fn a_snapshot_over_the_limit_is_refused() {
    let (header, state) = sample();
    let size = encode_snapshot(&header, &state, MAX_BYTES).unwrap().len();
    assert_eq!(encode_snapshot(&header, &state, size).unwrap().len(), size);
    let error = encode_snapshot(&header, &state, size - 1).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::TooLarge);
    assert!(error.to_string().contains("max_snapshot_bytes"), "{error}");
}

#[test]
fn a_value_that_json_changes_is_refused_at_the_write() {
    let (header, _) = sample();
    let state: KeyedState<f64> = [("a".to_owned(), f64::NAN)].into_iter().collect();
    assert_eq!(encode_snapshot(&header, &state, MAX_BYTES).unwrap_err().kind(), StateErrorKind::Invalid);
    let keyed_by_number = update_state_by_key(
        StateSchema::new("counts", 1),
        |_| Ok(Vec::<(String, f64)>::new()),
        |_, value| Some(value),
        |one: f64, _| one,
    );
    assert_eq!(keyed_by_number.schema().version, 1);
}
