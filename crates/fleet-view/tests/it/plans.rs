//! Plans, case by case: what they change, what they say, and what they refuse.

use std::collections::{BTreeMap, BTreeSet};

use fleet_view::plan::{
    AssignOptions, Change, EffectKind, Expected, Note, Plan, Refusal, ResetOptions, ResetTo, Scope,
    Situation, assign, copy, delete, pause, release, reset, resume,
};
use fleet_view::{
    FleetMode, History, LagOrigin, LagSample, Look, MalformedRow, OperatorRequest, Pause, PositionsFile,
    ShardInfo, ShardNotes,
};
use lease_store::{HashKeyRange, Lease, LeaseWrite, Position, ShardId, StreamIdentity, WorkerId};

use crate::table::{NOW, Stream, identity};

fn id(number: u64) -> ShardId {
    ShardId::numbered(number)
}

fn worker(name: &'static str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn at(number: u128) -> Position {
    Position::after(number.into(), 0)
}

/// Shard 0 split into 1 and 2, which are open.
fn stream() -> Stream {
    let shard = |number, parents: &[u64], is_open| ShardInfo {
        shard_id: id(number),
        parents: parents.iter().map(|parent| id(*parent)).collect(),
        hash_key_range: Some(HashKeyRange::FULL),
        is_open,
    };
    Stream { shards: vec![shard(0, &[], false), shard(1, &[0], true), shard(2, &[0], true)], records: vec![] }
}

fn lease(number: u64, owner: Option<&'static str>, position: Position) -> Lease {
    let mut lease = Lease::unowned(id(number), position);
    lease.owner = owner.map(worker);
    lease.counter = 5;
    lease.stream = Some(identity());
    lease
}

/// Marks the owner as a worker of this library.
fn ours(mut lease: Lease) -> Lease {
    let owner = lease.owner.clone().unwrap();
    lease.owner_process =
        Some(format!("host=h pid=1 ticks=- started=2026-11-30T00:00:00Z instance=1 worker={owner}"));
    lease
}

/// The newest of several looks, of which the owners in `renewing` renewed at each.
pub(crate) struct Looks {
    pub(crate) look: Look,
    history: History,
}

impl Looks {
    fn new(leases: &[Lease], renewing: &[&str]) -> Self {
        Self::with(&stream().look(leases), renewing)
    }

    pub(crate) fn with(newest: &Look, renewing: &[&str]) -> Self {
        let mut history = History::new();
        let mut look = newest.clone();
        for before in (0..20).rev() {
            look = newest.clone();
            look.taken_at_millis = NOW - before * 10_000;
            for lease in &mut look.leases {
                if lease.owner.as_ref().is_some_and(|owner| renewing.contains(&owner.as_str())) {
                    lease.counter += 100 - before;
                }
            }
            history.add(&look).unwrap();
        }
        Self { look, history }
    }

    pub(crate) fn situation(&self) -> Situation<'_> {
        Situation { look: &self.look, history: &self.history }
    }

    fn reset(&self, to: &ResetTo, is_live: bool) -> Plan {
        reset(&self.situation(), to, &ResetOptions { scope: Scope::All, is_live })
    }
}

fn kinds(plan: &Plan) -> Vec<(u64, EffectKind)> {
    let number = |shard_id: &ShardId| shard_id.as_str().trim_start_matches("shardId-").parse().unwrap();
    let mut kinds: Vec<_> =
        plan.effects.iter().map(|effect| (number(&effect.shard_id), effect.kind)).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn reset_is_refused_while_a_worker_renews() {
    let leases = [lease(1, Some("a"), at(7)), lease(2, Some("dead"), at(8))];
    let looks = Looks::new(&leases, &["a"]);
    let plan = looks.reset(&ResetTo::TrimHorizon, false);
    assert_eq!(plan.refusals, [Refusal::WorkerRenews { worker_id: worker("a"), leases: 1 }]);
    assert_eq!(
        kinds(&plan),
        [(0, EffectKind::ReadAgain), (1, EffectKind::ReadAgain), (2, EffectKind::ReadAgain)]
    );
}

#[test]
fn reset_after_one_look_is_refused() {
    let look = stream().look(&[lease(1, Some("a"), at(7)), lease(2, None, at(8))]);
    let mut history = History::new();
    history.add(&look).unwrap();
    let situation = Situation { look: &look, history: &history };
    let expected = [Refusal::WorkerMayRenew { worker_id: worker("a"), leases: 1 }];
    // Also for another shard: a live worker would take it amid the reset.
    let other = Scope::Shards { shards: BTreeSet::from([id(2)]), with_descendants: false };
    for scope in [Scope::All, other] {
        let plan = reset(&situation, &ResetTo::TrimHorizon, &ResetOptions { scope, is_live: false });
        assert_eq!(plan.refusals, expected);
    }
}

#[test]
fn live_reset_asks_owners_and_sets_unowned_rows() {
    let leases = [ours(lease(1, Some("a"), at(7))), lease(2, None, at(8))];
    let looks = Looks::new(&leases, &["a"]);
    let plan = looks.reset(&ResetTo::Latest, true);
    assert!(!plan.is_refused(), "{:?}", plan.refusals);
    let asked = plan.changes.iter().find(|change| change.shard_id == id(1)).unwrap();
    let request = OperatorRequest::Reset { position: Position::Latest, initial_time_millis: Some(NOW) };
    assert_eq!(asked.change, Change::Ask(request.clone()));
    assert_eq!(asked.expected, Expected::OwnedBy { owner: worker("a"), seen_counter: 105 });
    let row = &looks.look.leases[0];
    let lease_store::Verdict::Applies(Some(noted)) = asked.write(Some(row), 7).decide(Some(row)) else {
        panic!("{asked:?} does not apply");
    };
    assert_eq!(OperatorRequest::of(&noted), Some(request));
    assert_eq!((noted.counter, &noted.checkpoint), (row.counter, &row.checkpoint), "the owner acts");
    let set = plan.changes.iter().find(|change| change.shard_id == id(2)).unwrap();
    assert!(matches!(&set.change, Change::SetPosition { position: Position::Latest, .. }));
    assert_eq!(set.expected, Expected::Version { counter: 5, owner: None, checkpoint_owner: None });
    assert_eq!(kinds(&plan), [(1, EffectKind::Skipped), (2, EffectKind::Skipped)]);
}

#[test]
fn live_reset_does_not_touch_leases_of_java() {
    let looks = Looks::new(&[lease(1, Some("java"), at(7)), lease(2, None, at(8))], &["java"]);
    let plan = looks.reset(&ResetTo::TrimHorizon, true);
    let expected = Refusal::OwnerCannotBeAsked { shard_id: id(1), worker_id: worker("java") };
    assert_eq!(plan.refusals, [expected]);
}

#[test]
fn reset_to_the_horizon_opens_ended_parents() {
    let leases =
        [lease(0, None, Position::ShardEnd), lease(1, None, at(7)), lease(2, None, Position::TrimHorizon)];
    let looks = Looks::new(&leases, &[]);
    let plan = looks.reset(&ResetTo::TrimHorizon, false);
    assert!(!plan.is_refused());
    let order: Vec<&ShardId> = plan.changes.iter().map(|change| &change.shard_id).collect();
    assert_eq!(order, [&id(1), &id(0)], "children come first");
    assert_eq!(plan.notes, [Note::AlreadySo { shard_id: id(2) }]);
    assert_eq!(plan.summary(), "2 rows change; shards: 2 read records again");
    let write = plan.changes[1].write(None, 7);
    let lease_store::Verdict::Applies(Some(row)) = write.decide(Some(&looks.look.leases[0])) else {
        panic!("{write:?} is refused");
    };
    assert_eq!(row.checkpoint, Position::TrimHorizon);
}

#[test]
fn instant_of_a_position_is_replaced_with_it() {
    let mut row = lease(1, None, Position::TrimHorizon);
    row.initial_time_millis = Some(NOW - 5_000);
    let looks = Looks::new(&[lease(0, None, Position::ShardEnd), row, lease(2, None, at(8))], &[]);
    let plan = looks.reset(&ResetTo::TrimHorizon, false);
    let change = plan.changes.iter().find(|change| change.shard_id == id(1)).unwrap();
    let row = &looks.look.leases[1];
    let lease_store::Verdict::Applies(Some(set)) = change.write(Some(row), 7).decide(Some(row)) else {
        panic!("{change:?} does not apply");
    };
    assert_eq!((set.initial_time_millis, set.reset_id), (None, Some(7)));
}

#[test]
fn reset_to_latest_ends_closed_shards_and_adds_children() {
    let looks = Looks::new(&[lease(0, None, at(3))], &[]);
    let scope = Scope::Shards { shards: BTreeSet::from([id(0)]), with_descendants: false };
    let plan = reset(&looks.situation(), &ResetTo::Latest, &ResetOptions { scope, is_live: false });
    assert!(!plan.is_refused());
    let changed: Vec<&ShardId> = plan.changes.iter().map(|change| &change.shard_id).collect();
    assert_eq!(changed, [&id(2), &id(1), &id(0)]);
    for child in &plan.changes[..2] {
        assert!(matches!(&child.change, Change::Create(row) if row.position == Position::TrimHorizon));
    }
    let Change::SetPosition { position, children, .. } = &plan.changes[2].change else { panic!() };
    assert_eq!((position, children), (&Position::ShardEnd, &BTreeSet::from([id(1), id(2)])));
    assert_eq!(plan.notes, [Note::ChildrenStay { shard_id: id(0) }]);
}

#[test]
fn lag_tells_how_much_is_skipped() {
    let mut look =
        stream().look(&[lease(0, None, Position::ShardEnd), lease(1, None, at(7)), lease(2, None, at(8))]);
    let lag = LagSample {
        measured_at_millis: NOW,
        behind_millis: 60_000,
        arriving_bytes_per_second: None,
        processed_bytes_per_second: None,
        origin: LagOrigin::Probe,
    };
    look.notes.insert(id(1), ShardNotes { lag: Some(lag), ..ShardNotes::default() });
    let looks = Looks::with(&look, &[]);
    let plan = looks.reset(&ResetTo::Ago { millis: 20_000 }, false);
    let of = |number| plan.effects.iter().find(|effect| effect.shard_id == id(number)).unwrap();
    assert_eq!((of(1).kind, of(1).span_millis), (EffectKind::Skipped, Some(40_000)));
    assert_eq!(of(2).kind, EffectKind::Either, "its lag is not known");
}

#[test]
fn times_are_checked_against_now_and_retention() {
    let looks = Looks::new(&[lease(1, None, at(7)), lease(2, None, at(8))], &[]);
    let to = |at_millis| ResetTo::Time { at_millis, resolved: BTreeMap::new() };
    assert_eq!(looks.reset(&to(NOW + 1), false).refusals, [Refusal::FutureTime { at_millis: NOW + 1 }]);
    let plan = looks.reset(&to(NOW - 90_000_000), false);
    assert!(!plan.is_refused());
    assert!(plan.notes.contains(&Note::BeforeHorizon { millis: 3_600_000 }), "{:?}", plan.notes);
}

#[test]
fn unreadable_tables_are_not_reset() {
    let mut look = stream().look(&[lease(1, None, at(7)), lease(2, None, at(8))]);
    let other = StreamIdentity { creation_epoch_seconds: 8, ..identity() };
    look.leases[0].stream = Some(other.clone());
    look.malformed = vec![MalformedRow {
        key: "x".to_owned(),
        attribute: "checkpoint".to_owned(),
        reason: "odd".to_owned(),
    }];
    look.shards = None;
    let plan = Looks::with(&look, &[]).reset(&ResetTo::TrimHorizon, false);
    let expected = [
        Refusal::ShardsUnknown,
        Refusal::MalformedRow { key: "x".to_owned() },
        Refusal::OtherStream { expected: identity(), found: other },
    ];
    assert_eq!(plan.refusals, expected);
    assert_eq!(plan.changes, []);
}

#[test]
fn unknown_and_gone_shards_are_refused() {
    let looks = Looks::new(&[lease(9, None, at(7))], &[]);
    let scope = Scope::Shards { shards: BTreeSet::from([id(8), id(9)]), with_descendants: true };
    let plan = reset(&looks.situation(), &ResetTo::Latest, &ResetOptions { scope, is_live: false });
    let expected = [Refusal::UnknownShard { shard_id: id(8) }, Refusal::GoneShard { shard_id: id(9) }];
    assert_eq!(plan.refusals, expected);
}

#[test]
fn file_of_another_stream_is_refused() {
    let looks = Looks::new(&[lease(1, None, at(7))], &[]);
    let mut file = PositionsFile::of(&looks.look);
    let found = StreamIdentity { creation_epoch_seconds: 8, ..identity() };
    file.stream = Some(found.clone());
    let plan = looks.reset(&ResetTo::Positions(file.clone()), false);
    assert_eq!(plan.refusals, [Refusal::OtherStream { expected: identity(), found }]);
    file.stream = None;
    assert_eq!(looks.reset(&ResetTo::Positions(file), false).refusals, [Refusal::StreamUnknown]);
}

#[test]
fn file_that_ends_an_open_shard_is_refused() {
    let looks = Looks::new(&[lease(1, None, at(7))], &[]);
    let mut file = PositionsFile::of(&looks.look);
    file.shards[0].position = Position::ShardEnd;
    let plan = looks.reset(&ResetTo::Positions(file), false);
    assert_eq!(plan.refusals, [Refusal::OpenShardCannotEnd { shard_id: id(1) }]);
}

#[test]
fn file_from_before_a_split_rewinds_the_children() {
    let before = Looks::new(&[lease(0, None, at(3))], &[]);
    let file = PositionsFile::of(&before.look);
    let now = [lease(0, None, Position::ShardEnd), lease(1, None, at(7)), lease(2, None, at(8))];
    let plan = Looks::new(&now, &[]).reset(&ResetTo::Positions(file), false);
    assert!(!plan.is_refused());
    assert_eq!(
        kinds(&plan),
        [(0, EffectKind::ReadAgain), (1, EffectKind::ReadAgain), (2, EffectKind::ReadAgain)]
    );
}

#[test]
fn malformed_files_are_refused() {
    let file = PositionsFile::of(&stream().look(&[lease(1, None, at(7))])).to_json().unwrap();
    assert!(PositionsFile::from_json(&file).is_ok());
    let twice = file.replace(
        "\"shards\": [",
        "\"shards\": [ {\"shard_id\": \"shardId-000000000001\", \"position\": \"1\"},",
    );
    for (case, text) in [
        ("no JSON", "x".to_owned()),
        ("another format", file.replace("kinesis-positions/1", "kinesis-positions/2")),
        ("no position", file.replace("\"7\"", "\"seven\"")),
        ("a shard twice", twice),
        ("an unknown field", file.replacen('{', "{\"more\": 1,", 1)),
    ] {
        let error = PositionsFile::from_json(&text).unwrap_err().to_string();
        assert!(error.contains("positions file"), "{case}: {error}");
    }
}

#[test]
fn history_of_another_look_is_refused() {
    let looks = Looks::new(&[lease(1, None, at(7))], &[]);
    let mut look = looks.look.clone();
    look.taken_at_millis += 1;
    let situation = Situation { look: &look, history: &looks.history };
    assert_eq!(release(&situation, None, false).refusals, [Refusal::HistoryOfOtherLook]);
}

#[test]
fn assign_asks_live_owners_and_gives_free_leases() {
    let leases = [ours(lease(1, Some("a"), at(7))), ours(lease(2, Some("dead"), at(8)))];
    let looks = Looks::new(
        &[leases.as_slice(), &[ours(lease(0, Some("b"), Position::TrimHorizon))]].concat(),
        &["a", "b"],
    );
    let options = AssignOptions::default();
    let asked = assign(&looks.situation(), &id(1), &worker("b"), options);
    assert!(!asked.is_refused(), "{:?}", asked.refusals);
    let row = &looks.look.leases[0];
    let write = asked.changes[0].write(Some(row), 7);
    assert!(
        matches!(write.decide(Some(row)), lease_store::Verdict::Applies(Some(row)) if row.requested_by == Some(worker("b")))
    );
    let given = assign(&looks.situation(), &id(2), &worker("b"), options);
    assert_eq!(given.changes[0].change, Change::GiveTo { worker_id: worker("b") });
    let expected = Refusal::UnknownWorker { worker_id: worker("c") };
    assert_eq!(assign(&looks.situation(), &id(1), &worker("c"), options).refusals, [expected]);
    let accepts = AssignOptions { accepts_unknown_worker: true };
    assert!(!assign(&looks.situation(), &id(1), &worker("c"), accepts).is_refused());
}

#[test]
fn assign_respects_leaders_java_and_ends() {
    let leases =
        [lease(0, None, Position::ShardEnd), lease(1, Some("java"), at(7)), ours(lease(2, Some("b"), at(8)))];
    let mut looks = Looks::new(&leases, &["java", "b"]);
    let refusals = |looks: &Looks, number| {
        assign(&looks.situation(), &id(number), &worker("b"), AssignOptions::default()).refusals
    };
    assert_eq!(refusals(&looks, 0), [Refusal::ShardEnded { shard_id: id(0) }]);
    let java = Refusal::OwnerCannotBeAsked { shard_id: id(1), worker_id: worker("java") };
    assert_eq!(refusals(&looks, 1), std::slice::from_ref(&java));
    assert_eq!(refusals(&looks, 2), []);
    assert_eq!(refusals(&looks, 5), [Refusal::UnknownShard { shard_id: id(5) }]);
    looks.look.mode = FleetMode::LeaderAssigns;
    assert_eq!(refusals(&looks, 1), [Refusal::LeaderAssigns, java]);
}

#[test]
fn hand_overs_and_requests_are_not_disturbed() {
    let mut handing_over = lease(1, Some("b"), at(7));
    handing_over.checkpoint_owner = Some(worker("a"));
    let mut look = stream().look(&[handing_over, lease(2, None, at(8))]);
    let request = Some(OperatorRequest::Release);
    look.notes.insert(id(2), ShardNotes { request, ..ShardNotes::default() });
    let plan = Looks::with(&look, &[]).reset(&ResetTo::TrimHorizon, true);
    let expected =
        [Refusal::RequestPending { shard_id: id(2) }, Refusal::HandOverUnderWay { shard_id: id(1) }];
    assert_eq!(plan.refusals, expected);
}

#[test]
fn release_frees_dead_leases_and_asks_live_owners() {
    let leases = [
        lease(0, Some("a"), Position::ShardEnd),
        ours(lease(1, Some("a"), at(7))),
        lease(2, Some("dead"), at(8)),
    ];
    let looks = Looks::new(&leases, &["a"]);
    let plan = release(&looks.situation(), Some(&BTreeSet::from([id(2)])), false);
    assert!(!plan.is_refused());
    let row = &looks.look.leases[2];
    let write = plan.changes[0].write(Some(row), 7);
    assert!(
        matches!(write.decide(Some(row)), lease_store::Verdict::Applies(Some(row)) if row.owner.is_none())
    );
    let plan = release(&looks.situation(), None, false);
    assert_eq!(plan.refusals, [Refusal::WorkerRenews { worker_id: worker("a"), leases: 2 }]);
    let plan = release(&looks.situation(), None, true);
    assert!(!plan.is_refused());
    assert_eq!(plan.changes[0].change, Change::Ask(OperatorRequest::Release));
    assert_eq!(plan.changes.len(), 2, "ended shards are left alone");
}

#[test]
fn pause_warns_of_records_that_are_lost() {
    let looks = Looks::new(&[lease(1, None, at(7)), lease(2, None, at(8))], &[]);
    let until = |until_millis| Pause { until_millis, by: "operator".to_owned() };
    let plan = pause(&looks.situation(), None, &until(Some(NOW + 60_000)));
    assert_eq!((plan.changes.len(), plan.notes.as_slice()), (2, [].as_slice()));
    let plan = pause(&looks.situation(), None, &until(None));
    let lost = |number| Note::PauseOutlastsRetention { shard_id: id(number), lost_in_millis: 86_400_000 };
    assert_eq!(plan.notes, [lost(1), lost(2)]);
    let past = pause(&looks.situation(), None, &until(Some(NOW)));
    assert_eq!(past.refusals, [Refusal::PauseInPast { until_millis: NOW }]);
}

#[test]
fn leases_of_java_cannot_be_paused() {
    let looks =
        Looks::new(&[lease(1, Some("java"), at(7)), ours(lease(2, Some("a"), at(8)))], &["java", "a"]);
    let wanted = Pause { until_millis: None, by: "operator".to_owned() };
    let plan = pause(&looks.situation(), None, &wanted);
    let expected = Refusal::OwnerCannotBeAsked { shard_id: id(1), worker_id: worker("java") };
    assert_eq!(plan.refusals, [expected]);
    assert!(plan.notes.contains(&Note::KclIgnoresPauses));
}

#[test]
fn resume_removes_recorded_pauses_only() {
    let mut look = stream().look(&[lease(1, None, at(7)), lease(2, None, at(8))]);
    let paused = Pause { until_millis: None, by: "operator".to_owned() };
    look.notes.insert(id(2), ShardNotes { pause: Some(paused.clone()), ..ShardNotes::default() });
    let looks = Looks::with(&look, &[]);
    let plan = resume(&looks.situation(), None);
    assert_eq!(plan.changes.len(), 1);
    let expected = Change::Resume { pause: paused };
    assert_eq!((&plan.changes[0].shard_id, &plan.changes[0].change), (&id(2), &expected));
}

/// Two operators at once: the second one looked before the first one acted.
#[test]
fn what_another_operator_left_meanwhile_is_not_replaced() {
    let until = |until_millis| Pause { until_millis: Some(until_millis), by: "operator".to_owned() };
    let paused = |lease: Lease, until_millis: u64| Lease {
        pause_text: Some(format!("until {until_millis} by operator")),
        ..lease
    };
    let held = ours(lease(1, Some("a"), at(7)));
    let leases = [held, paused(lease(2, None, at(8)), NOW + 10)];
    let mut look = stream().look(&leases);
    look.note_operators();
    let looks = Looks::with(&look, &["a"]);
    let situation = looks.situation();
    let (free, present) = (&leases[1], &looks.look.leases[0]);
    // A longer pause stays, whether the second one ends the pause or sets another end.
    let longer = paused(free.clone(), NOW + 20);
    let shards = BTreeSet::from([id(2)]);
    for plan in [resume(&situation, Some(&shards)), pause(&situation, Some(&shards), &until(NOW + 30))] {
        let [change] = plan.changes.as_slice() else { panic!("{plan:?}") };
        assert!(change.is_possible_on(Some(free)), "{change:?}");
        assert!(!change.is_possible_on(Some(&longer)), "{change:?}");
    }
    // A request that the owner has not seen yet stays.
    let asked = Lease { owner_request_text: Some("release #9 to a".to_owned()), ..present.clone() };
    let assigned = AssignOptions { accepts_unknown_worker: true };
    for plan in [
        looks.reset(&ResetTo::Latest, true),
        release(&situation, Some(&BTreeSet::from([id(1)])), true),
        assign(&situation, &id(1), &worker("b"), assigned),
    ] {
        assert!(!plan.is_refused(), "{:?}", plan.refusals);
        let change = plan.changes.iter().find(|change| change.shard_id == id(1)).unwrap();
        assert!(change.is_possible_on(Some(present)), "{change:?}");
        assert!(!change.is_possible_on(Some(&asked)), "{change:?}");
    }
}

/// The worker that read the parent to its end reads a child now, and stays named in the parent's row.
#[test]
fn live_reset_sets_ended_rows_of_a_live_worker() {
    let leases = [ours(lease(0, Some("a"), Position::ShardEnd)), ours(lease(1, Some("a"), at(7)))];
    let mut history = History::new();
    let mut look = stream().look(&leases);
    for before in [4_000, 0] {
        look.taken_at_millis = NOW - before;
        look.leases[1].counter += 1;
        history.add(&look).unwrap();
    }
    let situation = Situation { look: &look, history: &history };
    let scope = Scope::Shards { shards: BTreeSet::from([id(0)]), with_descendants: true };
    let plan =
        reset(&situation, &ResetTo::TrimHorizon, &ResetOptions { scope: scope.clone(), is_live: true });
    assert!(!plan.is_refused(), "{:?}", plan.refusals);
    for change in &plan.changes {
        let row = look.leases.iter().find(|lease| lease.shard_id == change.shard_id);
        assert!(change.is_possible_on(row), "{change:?}");
    }
    let of_parent = plan.changes.iter().find(|change| change.shard_id == id(0)).unwrap();
    assert!(matches!(of_parent.change, Change::SetPosition { .. }), "{of_parent:?}");
    let stopped = reset(&situation, &ResetTo::TrimHorizon, &ResetOptions { scope, is_live: false });
    assert!(stopped.refusals.contains(&Refusal::WorkerRenews { worker_id: worker("a"), leases: 2 }));
}

#[test]
fn delete_is_refused_while_a_worker_renews() {
    let leases =
        vec![lease(0, None, Position::ShardEnd), lease(1, Some("a"), at(7)), lease(2, Some("dead"), at(8))];
    let plan = delete(&Looks::new(&leases, &["a"]).situation());
    assert_eq!(plan.refusals, [Refusal::WorkerRenews { worker_id: worker("a"), leases: 1 }]);
    let plan = delete(&Looks::new(&leases, &[]).situation());
    assert!(!plan.is_refused());
    assert_eq!(plan.summary(), "3 rows change; shards: 3 lose their position");
    assert!(matches!(plan.changes[0].write(None, 7), LeaseWrite::Delete { .. }));
}

#[test]
fn copy_into_a_used_table_is_refused() {
    let from = stream().look(&[lease(1, None, at(7)), lease(2, None, Position::Latest)]);
    let used = Looks::new(&[lease(1, None, at(6))], &[]);
    let plan = copy(&from, &used.situation());
    assert_eq!(plan.refusals, [Refusal::TableInUse { application: "app".to_owned() }]);
    // A copy that was cut short is completed.
    let begun = Looks::new(&[lease(1, None, at(7))], &[]);
    let plan = copy(&from, &begun.situation());
    assert!(!plan.is_refused(), "{:?}", plan.refusals);
    let Change::Create(row) = &plan.changes[0].change else { panic!() };
    let expected = (&Position::AtTimestamp, Some(NOW));
    assert_eq!(
        (&row.position, row.initial_time_millis),
        expected,
        "LATEST without an instant starts at the look"
    );
}

/// Without the row of a child, an ended parent would count as read, and the child would start at the initial position.
#[test]
fn copy_begins_with_the_children() {
    let rows = [lease(0, None, Position::ShardEnd), lease(1, None, at(7)), lease(2, None, at(8))];
    let from = stream().look(&rows);
    let empty = Looks::new(&[], &[]);
    let plan = copy(&from, &empty.situation());
    assert!(!plan.is_refused(), "{:?}", plan.refusals);
    let created: Vec<&ShardId> = plan.changes.iter().map(|change| &change.shard_id).collect();
    assert_eq!(created, [&id(1), &id(2), &id(0)]);
}

#[test]
fn plans_are_data() {
    let leases = [ours(lease(1, Some("a"), at(7))), lease(2, None, Position::AtTimestamp)];
    let plan = Looks::new(&leases, &["a"]).reset(&ResetTo::Ago { millis: 5 }, true);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    assert!(
        serde_json::from_str::<serde_json::Value>(&text).is_ok(),
        "no number is too large for other readers"
    );
}
