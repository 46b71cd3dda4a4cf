//! The adoption of a table of the KCL: positions and lineage stay, and no live worker is disturbed.

use fleet_view::plan::{Change, Note, Refusal, adopt};
use fleet_view::{ForeignKind, ForeignRow, Look, ShardInfo, WorkerRow};
use lease_store::{HashKeyRange, Lease, LeaseWrite, Position, ShardId, Verdict, WorkerId};

use crate::plans::Looks;
use crate::table::{NOW, Stream};

fn id(number: u64) -> ShardId {
    ShardId::numbered(number)
}

fn worker(name: &'static str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn at(number: u128) -> Position {
    Position::after(number.into(), 0)
}

/// A row as the KCL writes it.
fn row(number: u64, owner: Option<&'static str>, position: Position) -> Lease {
    let mut lease = Lease::unowned(id(number), position);
    lease.owner = owner.map(worker);
    lease.counter = 5;
    lease
}

fn look(leases: &[Lease]) -> Look {
    let shard = |number| ShardInfo {
        shard_id: id(number),
        parents: [].into(),
        hash_key_range: Some(HashKeyRange::FULL),
        is_open: true,
    };
    Stream { shards: (0..5).map(shard).collect(), records: vec![] }.look(leases)
}

#[test]
fn adoption_frees_leases_and_keeps_positions() {
    let mut handing_over = row(2, Some("new"), at(9));
    handing_over.checkpoint_owner = Some(worker("old"));
    let rows = [
        row(0, Some("dead"), at(7)),
        row(1, None, Position::Latest),
        handing_over,
        row(3, None, Position::AtTimestamp),
        row(4, Some("dead"), Position::ShardEnd),
    ];
    let looks = Looks::with(&look(&rows), &[]);
    let plan = adopt(&looks.situation());
    assert_eq!(plan.refusals, []);
    assert_eq!(plan.effects, [], "no record is read again or skipped");
    let changed: Vec<&ShardId> = plan.changes.iter().map(|change| &change.shard_id).collect();
    assert_eq!(changed, [&id(0), &id(1), &id(2)], "ended shards and free leases stay as they are");
    assert_eq!(plan.changes[0].change, Change::Release);
    for (change, before) in plan.changes.iter().zip(&rows) {
        let LeaseWrite::Update { .. } = change.write(Some(before), 7) else { panic!("{change:?}") };
        let Verdict::Applies(Some(after)) = change.write(Some(before), 7).decide(Some(before)) else {
            panic!("{change:?}");
        };
        assert_eq!(after.checkpoint, before.checkpoint);
        assert_eq!((after.owner, after.checkpoint_owner), (None, None));
        assert_eq!((after.parents, after.children), (before.parents.clone(), before.children.clone()));
        let is_latest = before.checkpoint == Position::Latest;
        assert_eq!(after.initial_time_millis, is_latest.then_some(NOW));
    }
    assert!(plan.notes.contains(&Note::InstantUnknown { shard_id: id(1) }));
    assert!(plan.notes.contains(&Note::InstantInSettings { shard_id: id(3) }));
}

#[test]
fn adoption_is_refused_while_a_worker_lives() {
    let rows = [row(0, Some("java"), at(7))];
    let plan = adopt(&Looks::with(&look(&rows), &["java"]).situation());
    assert_eq!(plan.refusals, [Refusal::WorkerRenews { worker_id: worker("java"), leases: 1 }]);
    let mut reporting = look(&[row(0, None, at(7))]);
    let report = |seconds| WorkerRow {
        worker_id: worker("idle"),
        updated_at_seconds: NOW / 1000 - seconds,
        is_failing: false,
    };
    reporting.workers = vec![report(30)];
    let plan = adopt(&Looks::with(&reporting, &[]).situation());
    assert_eq!(plan.refusals, [Refusal::WorkerReports { worker_id: worker("idle"), seconds: 30 }]);
    reporting.workers = vec![report(600)];
    assert!(!adopt(&Looks::with(&reporting, &[]).situation()).is_refused());
}

#[test]
fn adoption_names_what_stays_and_the_former_name() {
    let mut named = row(0, None, at(7));
    named.application = Some("desk-v1".to_owned());
    let mut look = look(&[named]);
    let foreign = |key: &str, kind| ForeignRow { key: key.to_owned(), kind };
    look.foreign = vec![foreign("Leader", ForeignKind::Coordination), foreign("mine", ForeignKind::Unknown)];
    let plan = adopt(&Looks::with(&look, &[]).situation());
    assert_eq!(
        plan.notes,
        [Note::RowStays { key: "mine".to_owned() }, Note::FormerApplication { name: "desk-v1".to_owned() }]
    );
    assert!(plan.changes.is_empty() && !plan.is_refused());
}
