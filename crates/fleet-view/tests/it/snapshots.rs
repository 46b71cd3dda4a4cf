//! The meaning of one look: states of shards, workers, and signs that something is wrong.

use fleet_view::{
    FleetSnapshot, ForeignKind, ForeignRow, History, LagOrigin, LagSample, Look, LookRefusal, MalformedRow,
    ShardInfo, ShardState, Sign, WorkerRow,
};
use lease_store::{HashKey, HashKeyRange, LagReport, Lease, Position, ShardId, StreamIdentity, WorkerId};

use crate::model::{Fleet, Shard};
use crate::table::{NOW, Stream, identity};

fn id(number: u64) -> ShardId {
    ShardId::numbered(number)
}

fn range(start: u128, end: u128) -> Option<HashKeyRange> {
    Some(HashKeyRange::new(HashKey(start), HashKey(end)).unwrap())
}

fn shard(number: u64, parents: &[u64], hash_key_range: Option<HashKeyRange>, is_open: bool) -> ShardInfo {
    let parents = parents.iter().map(|parent| id(*parent)).collect();
    ShardInfo { shard_id: id(number), parents, hash_key_range, is_open }
}

fn lease(number: u64, owner: Option<&'static str>, position: Position) -> Lease {
    let mut lease = Lease::unowned(id(number), position);
    lease.owner = owner.map(|owner| WorkerId::new(owner).unwrap());
    lease
}

/// Shard 0 split into 1 and 2; 1 split into 3 and 4.
fn lineage() -> Stream {
    let shards = vec![
        shard(0, &[], Some(HashKeyRange::FULL), false),
        shard(1, &[0], range(0, 99), false),
        shard(2, &[0], range(100, u128::MAX), true),
        shard(3, &[1], range(0, 49), true),
        shard(4, &[1], range(50, 99), true),
    ];
    Stream { shards, records: vec![] }
}

fn states(look: &Look) -> Vec<ShardState> {
    FleetSnapshot::of(look).shards.iter().map(|shard| shard.state).collect()
}

#[test]
fn states_follow_rows_and_lineage() {
    let after = Position::after(7.into(), 0);
    let leases = [
        lease(1, Some("a"), after.clone()),
        lease(2, None, after),
        lease(3, None, Position::TrimHorizon),
        lease(9, Some("a"), Position::TrimHorizon),
    ];
    let mut look = lineage().look(&leases);
    let expected = [
        ShardState::Ended,
        ShardState::Owned,
        ShardState::Unowned,
        ShardState::NotBegun,
        ShardState::NoRow,
        ShardState::RowWithoutShard,
    ];
    assert_eq!(states(&look), expected, "shard 0 was cleaned up, since its children have rows");
    look.malformed.push(MalformedRow {
        key: id(4).to_string(),
        attribute: "checkpoint".to_owned(),
        reason: "is absent".to_owned(),
    });
    assert_eq!(states(&look)[4], ShardState::MalformedRow);
    look.shards = None;
    assert_eq!(states(&look).last(), Some(&ShardState::Owned), "the listing may have it");
}

#[test]
fn workers_have_their_shards_and_reports() {
    let leases = [
        lease(0, Some("a"), Position::ShardEnd),
        lease(1, Some("b"), Position::TrimHorizon),
        lease(2, Some("a"), Position::TrimHorizon),
    ];
    let mut look = lineage().look(&leases);
    let row = |name, updated_at_seconds, is_failing| WorkerRow {
        worker_id: WorkerId::new(name).unwrap(),
        updated_at_seconds,
        is_failing,
    };
    look.workers = vec![row("a", 9, false), row("a", 7, false), row("idle", 8, true)];
    let snapshot = FleetSnapshot::of(&look);
    let workers: Vec<_> = (snapshot.workers.iter())
        .map(|worker| {
            (worker.worker_id.as_str(), worker.shards.len(), worker.ended_shards, worker.reported_at_seconds)
        })
        .collect();
    assert_eq!(workers, [("a", 1, 1, Some(9)), ("b", 1, 0, None), ("idle", 0, 0, Some(8))]);
    assert!(snapshot.signs.contains(&Sign::WorkerListedTwice { worker_id: WorkerId::new("a").unwrap() }));
    assert!(snapshot.signs.contains(&Sign::FailingWorker { worker_id: WorkerId::new("idle").unwrap() }));
}

#[test]
fn holes_are_found_where_no_lease_is_open() {
    let mut leases = vec![
        lease(1, None, Position::ShardEnd),
        lease(2, None, Position::Latest),
        lease(3, None, Position::Latest),
    ];
    let signs = |leases: &[Lease]| FleetSnapshot::of(&lineage().look(leases)).signs;
    assert_eq!(signs(&leases), [Sign::Hole { hash_keys: "50-99".to_owned() }]);
    leases.push(lease(4, None, Position::TrimHorizon));
    assert_eq!(signs(&leases), []);
    assert_eq!(signs(&[]), [], "no worker has begun");
    let mut look = lineage().look(&leases);
    look.shards = None;
    assert_eq!(FleetSnapshot::of(&look).signs, [Sign::CoverageUnknown, Sign::ShardsUnknown]);
}

#[test]
fn foreign_rows_are_signs() {
    let mut foreign = lease(1, None, Position::TrimHorizon);
    let other = StreamIdentity { creation_epoch_seconds: 8, ..identity() };
    foreign.stream = Some(other.clone());
    let mut look =
        lineage().look(&[foreign, lease(2, None, Position::Latest), lease(9, None, Position::Latest)]);
    look.foreign = vec![
        ForeignRow { key: "Leader".to_owned(), kind: ForeignKind::Coordination },
        ForeignRow { key: "mine".to_owned(), kind: ForeignKind::Unknown },
    ];
    let expected = [
        Sign::UnknownRows { keys: vec!["mine".to_owned()] },
        Sign::OtherStream { in_rows: other, described: identity(), shards: vec![id(1)] },
        Sign::GoneShards { shards: vec![id(9)] },
    ];
    let signs = FleetSnapshot::of(&look).signs;
    assert_eq!(signs, expected);
    assert_eq!(signs.iter().map(Sign::is_error).collect::<Vec<_>>(), [false, true, true]);
    assert!(signs.iter().all(|sign| sign.to_string().contains(';')), "each names its remedy");
}

#[test]
fn rows_of_two_applications_are_a_sign() {
    let mut leases = [lease(1, None, Position::TrimHorizon), lease(2, None, Position::Latest)];
    leases[0].application = Some("a".to_owned());
    assert_eq!(FleetSnapshot::of(&lineage().look(&leases)).signs, []);
    leases[1].application = Some("b".to_owned());
    let applications = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(
        FleetSnapshot::of(&lineage().look(&leases)).signs,
        [Sign::ApplicationsInRows { applications }]
    );
}

fn process(shard: &mut Shard, pid: u32) {
    shard.process =
        Some(format!("host=h pid={pid} ticks=- started=2026-11-30T00:00:00Z instance=1 worker=worker-a"));
}

/// The last signs of a fleet of two shards of one worker, after some looks.
fn signs_after(looks: u64, mut event: impl FnMut(u64, &mut Vec<Shard>)) -> Vec<Sign> {
    let mut fleet = Fleet::new((0..2).map(Shard::new));
    fleet.shards.iter_mut().for_each(|shard| process(shard, 1));
    let mut signs = Vec::new();
    for look in 0..looks {
        event(look, &mut fleet.shards);
        signs = fleet.next_verdict().signs;
    }
    signs
}

#[test]
fn two_live_processes_under_one_name_are_a_sign() {
    let signs = signs_after(8, |_, shards| process(&mut shards[1], 2));
    let [Sign::WorkerIdUsedTwice { worker_id, processes }] = signs.as_slice() else { panic!("{signs:?}") };
    assert_eq!((worker_id.as_str(), processes.len()), ("worker-a", 2));
}

#[test]
fn restarted_process_is_no_namesake() {
    // The new process takes the leases of its predecessor one after the other.
    let signs = signs_after(12, |look, shards| {
        if look >= 5 {
            process(&mut shards[0], 2);
            shards[1].is_dead = look < 8;
        }
        if look >= 8 {
            process(&mut shards[1], 2);
        }
    });
    assert_eq!(signs, []);
}

#[test]
fn looks_at_something_else_are_refused() {
    let look = lineage().look(&[lease(1, None, Position::TrimHorizon)]);
    let mut history = History::new();
    history.add(&look).unwrap();
    let before = history.clone();
    assert_eq!(history.add(&look), Err(LookRefusal::NotNewer));
    let later = Look { taken_at_millis: NOW + 1, ..look };
    let mut renamed = later.clone();
    renamed.application = "other".to_owned();
    assert_eq!(history.add(&renamed), Err(LookRefusal::OfAnother));
    let mut recreated = later.clone();
    recreated.stream.as_mut().unwrap().identity.creation_epoch_seconds = 8;
    assert_eq!(history.add(&recreated), Err(LookRefusal::OfAnother));
    assert_eq!(history, before);
    assert_eq!(history.add(&later), Ok(()));
}

/// A row of shard 0 whose owner reported its lag at this time.
fn reported(counter: u64, position: u128, behind_millis: u64, measured_at_millis: u64) -> Lease {
    let report = LagReport { behind_millis, measured_at_millis, processed_bytes_per_second: Some(2_048) };
    let mut lease = lease(2, Some("a"), Position::after(position.into(), 0));
    lease.counter = counter;
    lease.lag_report_text = Some(report.text(counter));
    lease
}

/// A look at this time, with the lags of the rows.
fn look_with_lags(leases: &[Lease], at_millis: u64) -> Look {
    let mut look = lineage().look(leases);
    look.taken_at_millis = at_millis;
    look.note_lags();
    look
}

#[test]
fn newest_lag_counts_by_worker_or_probe() {
    let row = reported(7, 5, 5_000, NOW - 4_000);
    let lag_of = |look: &Look| look.notes[&id(2)].lag.clone().unwrap();
    let look = look_with_lags(std::slice::from_ref(&row), NOW);
    let lag = lag_of(&look);
    assert_eq!((lag.behind_millis, lag.origin), (5_000, LagOrigin::Worker));
    let snapshot = FleetSnapshot::of(&look);
    assert_eq!(snapshot.behind_millis(snapshot.shard(&id(2)).unwrap()), Some(9_000), "it ages");
    assert_eq!(snapshot.workers[0].processed_bytes_per_second, Some(2_048));

    let probe = |measured_at_millis| LagSample {
        measured_at_millis,
        behind_millis: 1,
        arriving_bytes_per_second: None,
        processed_bytes_per_second: None,
        origin: LagOrigin::Probe,
    };
    for (measured_at, origin) in [(NOW - 5_000, LagOrigin::Worker), (NOW - 3_000, LagOrigin::Probe)] {
        let mut look = lineage().look(std::slice::from_ref(&row));
        look.taken_at_millis = NOW;
        look.notes.entry(id(2)).or_default().lag = Some(probe(measured_at));
        look.note_lags();
        assert_eq!(lag_of(&look).origin, origin);
    }
    let of_the_future = look_with_lags(&[reported(7, 5, 5_000, NOW + 90_000)], NOW);
    assert_eq!(lag_of(&of_the_future).measured_at_millis, NOW, "the clocks differ");
    let taken = Lease { counter: 8, ..row };
    assert!(look_with_lags(&[taken], NOW).notes.is_empty(), "of another write");
}

#[test]
fn report_of_a_late_clock_is_of_the_present_position() {
    let late = 30_000;
    let mut history = History::new();
    for step in 0..6 {
        let at = NOW + step * 10_000;
        let row = reported(7 + step, 5 + u128::from(step), 2_000, at - late);
        history.add(&look_with_lags(&[row], at)).unwrap();
        let verdict = history.verdict();
        assert_eq!(verdict.shards[&id(2)].behind_millis, Some(2_000 + late), "look {step}");
    }
}
