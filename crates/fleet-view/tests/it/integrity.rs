//! Faults of single rows: each with the row that has it, and none in a sound table.

use std::collections::BTreeMap;

use fleet_view::{LagOrigin, LagSample, Look, RowFault, ShardInfo, ShardNotes, row_faults};
use lease_store::{HashKey, HashKeyRange, Lease, Position, ShardId};

use crate::table::{NOW, Stream};

fn id(number: u64) -> ShardId {
    ShardId::numbered(number)
}

fn at(number: u128) -> Position {
    Position::after(number.into(), 0)
}

fn half(is_upper: bool) -> Option<HashKeyRange> {
    let middle = u128::MAX / 2;
    let (start, end) = if is_upper { (middle + 1, u128::MAX) } else { (0, middle) };
    HashKeyRange::new(HashKey(start), HashKey(end)).ok()
}

/// Shard 0 split into 1 and 2.
fn stream() -> Stream {
    let shard = |number, parents: &[u64], hash_key_range, is_open| ShardInfo {
        shard_id: id(number),
        parents: parents.iter().map(|parent| id(*parent)).collect(),
        hash_key_range,
        is_open,
    };
    let shards = vec![
        shard(0, &[], Some(HashKeyRange::FULL), false),
        shard(1, &[0], half(false), true),
        shard(2, &[0], half(true), true),
    ];
    Stream { shards, records: vec![] }
}

/// The rows of workers that have read the parent and are at the children.
fn rows() -> [Lease; 3] {
    let mut parent = Lease::unowned(id(0), Position::ShardEnd);
    parent.children = [id(1), id(2)].into();
    let child = |number, is_upper| {
        let mut row = Lease::unowned(id(number), at(7));
        row.parents = [id(0)].into();
        row.hash_key_range = half(is_upper);
        row
    };
    [parent, child(1, false), child(2, true)]
}

fn faults(rows: &[Lease]) -> Vec<RowFault> {
    row_faults(&stream().look(rows), &BTreeMap::new())
}

fn with(change: impl FnOnce(&mut [Lease; 3])) -> Vec<RowFault> {
    let mut rows = rows();
    change(&mut rows);
    faults(&rows)
}

#[test]
fn sound_table_has_no_fault() {
    assert_eq!(faults(&rows()), []);
    assert_eq!(faults(&rows()[1..]), [], "the KCL deletes the row of a shard that is read to its end");
    assert_eq!(faults(&[]), [RowFault::MissingRows { shards: vec![id(0), id(1), id(2)] }]);
    let unlisted = Look { shards: None, ..stream().look(&rows()) };
    assert_eq!(row_faults(&unlisted, &BTreeMap::new()), [], "nothing contradicts the rows");
}

/// awslabs/amazon-kinesis-client #339: after a reshard some new shards are not processed.
#[test]
fn child_without_a_row_is_found() {
    let [parent, child, _] = rows();
    assert_eq!(faults(&[parent, child]), [RowFault::OrphanedShards { shards: vec![id(2)] }]);
}

#[test]
fn each_contradiction_is_found() {
    let one = |number| vec![id(number)];
    assert_eq!(
        with(|rows| rows[1].checkpoint = Position::ShardEnd),
        [RowFault::OpenShardsEnded { shards: one(1) }]
    );
    assert_eq!(with(|rows| rows[2].parents = [id(9)].into()), [RowFault::OtherParents { shards: one(2) }]);
    assert_eq!(with(|rows| rows[1].children = [id(2)].into())[0], RowFault::OtherChildren { shards: one(1) });
    assert_eq!(
        with(|rows| rows[2].hash_key_range = half(false)),
        [RowFault::OtherHashKeys { shards: one(2) }]
    );
    assert_eq!(
        with(|rows| rows[0].checkpoint = at(3)),
        [RowFault::BegunBeforeParents { shards: vec![id(1), id(2)] }]
    );
    assert_eq!(
        with(|rows| {
            rows[1].checkpoint = Position::Latest;
            rows[2].checkpoint = Position::AtTimestamp;
            rows[2].initial_time_millis = Some(NOW);
        }),
        [RowFault::InstantUnknown { shards: one(1) }]
    );
    let circle = with(|rows| {
        rows[0].parents = [id(1)].into();
        rows[0].checkpoint = Position::TrimHorizon;
        rows[1].checkpoint = Position::TrimHorizon;
        rows[2].checkpoint = Position::TrimHorizon;
    });
    assert!(circle.contains(&RowFault::Circle { shards: vec![id(0), id(1), id(2)] }), "{circle:?}");
}

#[test]
fn position_before_the_horizon_is_a_loss_if_records_wait() {
    let day = 86_400_000;
    let times = BTreeMap::from([(id(1), NOW - 2 * day), (id(2), NOW - day / 2)]);
    let with_lag = |behind_millis| {
        let lag = LagSample {
            measured_at_millis: NOW,
            behind_millis,
            arriving_bytes_per_second: None,
            processed_bytes_per_second: None,
            origin: LagOrigin::Probe,
        };
        let mut look = stream().look(&rows());
        look.notes.insert(id(1), ShardNotes { lag: Some(lag), ..ShardNotes::default() });
        row_faults(&look, &times)
    };
    assert_eq!(with_lag(day), [RowFault::BeforeHorizon { shards: vec![id(1)], millis: day }]);
    assert_eq!(with_lag(0), [], "an idle shard keeps the position of its last record");
    let future = BTreeMap::from([(id(1), NOW + day)]);
    let faults = row_faults(&stream().look(&rows()), &future);
    assert_eq!(faults, [RowFault::InFuture { shards: vec![id(1)] }]);
    assert!(faults.iter().all(RowFault::is_error));
}

/// Azure/azure-sdk-for-java #28990: the stream was deleted and made again, and the stored positions are of the old one.
#[test]
fn position_of_a_deleted_stream_is_found() {
    let mut look = stream().look(&rows());
    look.stream.as_mut().unwrap().identity.creation_epoch_seconds = NOW / 1000 - 3_600;
    let times = BTreeMap::from([(id(1), NOW - 7_200_000), (id(2), NOW - 60_000)]);
    assert_eq!(row_faults(&look, &times), [RowFault::BeforeStream { shards: vec![id(1)] }]);
}

#[test]
fn each_text_names_a_remedy() {
    let shards = vec![id(0), id(1), id(2), id(3)];
    let text = RowFault::OrphanedShards { shards }.to_string();
    assert!(text.contains("and 1 more") && text.contains("start a worker"), "{text}");
}
