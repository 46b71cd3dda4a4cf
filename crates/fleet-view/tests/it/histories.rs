//! Histories of fleets, each with the verdicts about its first shard and the looks at which they come.

use fleet_view::{LagOrigin, LagSample, Pause, Sign, TimeToLoss, Verdict};
use lease_store::ShardId;

use crate::model::{Fleet, Measured, START_MILLIS, Shard};

/// The changes of the verdict about shard 0 over some looks, as `look:verdict`. `event` is called before each look, with the
/// seconds since the first one at which the look is taken.
fn verdicts(fleet: &mut Fleet, looks: u64, mut event: impl FnMut(u64, &mut Vec<Shard>)) -> String {
    let mut changes = Vec::new();
    for _ in 0..looks {
        let at = fleet.passed();
        event(at, &mut fleet.shards);
        let verdict = fleet.next_verdict();
        let look = fleet.looks();
        for (shard_id, verdict) in fleet.changed(&verdict) {
            if shard_id == ShardId::numbered(0) {
                changes.push(format!("{look}:{}", verdict.text()));
            }
        }
    }
    changes.join(" ")
}

fn run(fleet: Fleet, looks: u64, event: impl FnMut(u64, &mut Vec<Shard>)) -> String {
    let mut fleet = fleet;
    verdicts(&mut fleet, looks, event)
}

fn one(change: impl FnOnce(&mut Shard)) -> Fleet {
    let mut shard = Shard::new(0);
    change(&mut shard);
    Fleet::new([shard])
}

const CALM: fn(u64, &mut Vec<Shard>) = |_, _| {};

#[test]
fn steady_consumer_is_ok() {
    assert_eq!(run(one(|_| {}), 120, CALM), "1:undecided 2:ok");
}

#[test]
fn handler_that_hangs_is_stuck() {
    let seen = run(one(|_| {}), 60, |at, shards| shards[0].hangs = at >= 300);
    assert_eq!(seen, "1:undecided 2:ok 38:undecided 44:stuck");
}

#[test]
fn poison_record_at_the_start_is_stuck() {
    assert_eq!(run(one(|shard| shard.hangs = true), 60, CALM), "1:undecided 2:ok 8:undecided 32:stuck");
}

#[test]
fn handler_that_recovers_catches_up() {
    let event = |at, shards: &mut Vec<Shard>| shards[0].hangs = (300..900).contains(&at);
    assert_eq!(
        run(one(|_| {}), 200, event),
        "1:undecided 2:ok 38:undecided 44:stuck 92:undecided 97:catching up 145:ok"
    );
}

#[test]
fn hang_is_found_by_looks_a_minute_apart() {
    let fleet = one(|_| {}).every(60);
    assert_eq!(run(fleet, 30, |at, shards| shards[0].hangs = at >= 600), "1:undecided 2:ok 15:stuck");
}

#[test]
fn hang_is_found_by_probes_of_java_rows() {
    let fleet = one(|shard| shard.measured = Measured::ByProbe);
    assert_eq!(
        run(fleet, 60, |at, shards| shards[0].hangs = at >= 300),
        "1:undecided 2:ok 38:undecided 45:stuck"
    );
}

#[test]
fn probe_that_finds_no_record_ends_the_wait() {
    // The probe at 300 s read the record that the worker was about to store.
    let fleet = one(|shard| {
        shard.arriving = 0;
        shard.measured = Measured::Never;
    });
    let event = |at, shards: &mut Vec<Shard>| {
        let second = at / 60 * 60;
        shards[0].lag = Some(LagSample {
            measured_at_millis: START_MILLIS + second * 1_000,
            behind_millis: if second == 300 { 1_000 } else { 0 },
            arriving_bytes_per_second: None,
            processed_bytes_per_second: None,
            origin: LagOrigin::Probe,
        });
    };
    assert_eq!(run(fleet, 100, event), "1:ok 37:undecided 38:ok");
}

#[test]
fn slow_handler_falls_behind() {
    assert_eq!(run(one(|shard| shard.capacity = 500), 120, CALM), "1:undecided 2:ok 14:falling behind");
}

#[test]
fn slightly_slow_handler_falls_behind() {
    assert_eq!(run(one(|shard| shard.capacity = 900), 240, CALM), "1:undecided 2:ok 63:falling behind");
}

#[test]
fn slow_handler_of_long_batches_falls_behind() {
    let fleet = one(|shard| {
        shard.capacity = 500;
        shard.batch_seconds = 45;
    });
    assert_eq!(
        run(fleet, 240, CALM),
        "1:undecided 2:ok 10:undecided 11:ok 28:undecided 29:ok 30:undecided 33:falling behind"
    );
}

#[test]
fn long_batches_that_keep_up_are_ok() {
    let fleet = one(|shard| shard.batch_seconds = 150);
    assert_eq!(run(fleet, 240, CALM), "1:undecided 2:ok 8:undecided 17:ok 23:undecided 32:ok");
}

#[test]
fn rare_checkpoints_are_ok() {
    let fleet = one(|shard| shard.checkpoint_seconds = 150);
    assert_eq!(run(fleet, 240, CALM), "1:undecided 2:ok 13:undecided 21:ok");
}

#[test]
fn long_burst_falls_behind_and_catches_up() {
    let event = |at, shards: &mut Vec<Shard>| {
        shards[0].arriving = if (300..900).contains(&at) { 6_000 } else { 1_000 };
    };
    assert_eq!(
        run(one(|shard| shard.capacity = 3_000), 240, event),
        "1:undecided 2:ok 44:falling behind 154:catching up 178:ok"
    );
}

#[test]
fn short_burst_is_ok() {
    let event = |at, shards: &mut Vec<Shard>| {
        shards[0].arriving = if (300..330).contains(&at) { 4_000 } else { 1_000 };
    };
    assert_eq!(run(one(|_| {}), 120, event), "1:undecided 2:ok");
}

#[test]
fn empty_shard_is_ok() {
    assert_eq!(run(one(|shard| shard.arriving = 0), 120, CALM), "1:undecided 2:ok");
}

#[test]
fn stream_whose_producers_pause_is_ok() {
    let event =
        |at, shards: &mut Vec<Shard>| shards[0].arriving = if (300..900).contains(&at) { 0 } else { 1_000 };
    assert_eq!(run(one(|_| {}), 200, event), "1:undecided 2:ok");
}

#[test]
fn rare_records_are_ok() {
    assert_eq!(run(one(|shard| shard.arriving = 2), 400, CALM), "1:undecided 2:ok");
}

#[test]
fn paused_shard_is_paused_until_its_end() {
    let until_millis = Some(START_MILLIS + 900_000);
    let event = move |at, shards: &mut Vec<Shard>| {
        shards[0].pause = (at >= 300).then(|| Pause { until_millis, by: "operator".to_owned() });
    };
    assert_eq!(run(one(|_| {}), 200, event), "1:undecided 2:ok 32:paused 91:undecided 96:catching up 145:ok");
}

#[test]
fn dead_worker_is_stopped() {
    assert_eq!(
        run(one(|_| {}), 60, |at, shards| shards[0].is_dead = at >= 300),
        "1:undecided 2:ok 34:stopped"
    );
}

#[test]
fn table_that_was_dead_before_is_stopped() {
    assert_eq!(run(one(|shard| shard.is_dead = true), 20, CALM), "1:undecided 7:stopped");
}

#[test]
fn dying_fleet_is_stopped_shard_by_shard() {
    let mut fleet = Fleet::new((0..4).map(Shard::new));
    let mut seen = Vec::new();
    for _ in 0..60 {
        let at = fleet.passed();
        for shard in &mut fleet.shards {
            shard.is_dead = at >= 300 - 60 * shard.id;
        }
        let verdict = fleet.next_verdict();
        let stopped = verdict.counts.get(&Verdict::Stopped).copied().unwrap_or_default();
        if seen.last().is_none_or(|(before, _)| *before != stopped) {
            seen.push((stopped, fleet.looks()));
        }
        assert_eq!(verdict.verdict == Verdict::Stopped, stopped > 0);
    }
    assert_eq!(seen, [(0, 1), (1, 16), (2, 22), (3, 28), (4, 34)]);
}

#[test]
fn crash_with_a_quick_fail_over_is_ok() {
    let mut is_taken = false;
    let event = move |at, shards: &mut Vec<Shard>| {
        if at == 300 {
            shards[0].is_dead = true;
        } else if at >= 320 && !std::mem::replace(&mut is_taken, true) {
            shards[0].take("worker-b");
        }
    };
    assert_eq!(run(one(|_| {}), 120, event), "1:undecided 2:ok");
}

#[test]
fn crash_loop_without_progress_is_stuck() {
    let event = |at: u64, shards: &mut Vec<Shard>| {
        shards[0].hangs = at >= 300;
        if at >= 300 && at.is_multiple_of(40) {
            shards[0].take(&format!("worker-{at}"));
        }
    };
    assert_eq!(run(one(|_| {}), 60, event), "1:undecided 2:ok 38:undecided 44:stuck");
}

#[test]
fn released_lease_without_takers_is_unowned() {
    let event = |at, shards: &mut Vec<Shard>| {
        if at >= 300 {
            shards[0].owner = None;
        }
    };
    assert_eq!(run(one(|_| {}), 60, event), "1:undecided 2:ok 38:unowned");
}

#[test]
fn hand_over_is_ok() {
    let event = |at, shards: &mut Vec<Shard>| match at {
        300 => shards[0].owner = None,
        310 => shards[0].take("worker-b"),
        _ => {}
    };
    assert_eq!(run(one(|_| {}), 60, event), "1:undecided 2:ok");
}

#[test]
fn missing_row_is_unowned() {
    assert_eq!(run(one(|shard| shard.has_row = false), 30, CALM), "1:undecided 7:unowned");
}

#[test]
fn rewound_shard_is_rewound_until_its_old_position() {
    let event = |at, shards: &mut Vec<Shard>| {
        if at == 600 {
            shards[0].rewind(400);
        }
    };
    assert_eq!(run(one(|_| {}), 200, event), "1:undecided 2:ok 62:rewound 81:catching up 95:ok");
}

#[test]
fn two_applications_on_one_table_are_a_sign() {
    let mut fleet = one(|_| {});
    let seen = verdicts(&mut fleet, 60, |at, shards| {
        if at >= 300 && at % 50 == 0 {
            shards[0].rewind(100);
        }
    });
    assert_eq!(
        seen,
        "1:undecided 2:ok 32:rewound 36:ok 37:rewound 41:undecided 42:rewound 46:undecided 47:rewound 51:undecided 52:rewound 56:undecided 57:rewound"
    );
    let sign = Sign::SeveralApplications { shards: vec![ShardId::numbered(0)] };
    assert!(fleet.history().verdict().signs.contains(&sign));
}

#[test]
fn large_backlog_at_the_start_is_caught_up() {
    let shard = Shard::new(0).with_backlog(3_600);
    assert_eq!(run(Fleet::new([shard]), 420, CALM), "1:undecided 7:catching up 355:ok");
}

#[test]
fn ended_shard_is_ended() {
    let event = |at, shards: &mut Vec<Shard>| shards[0].is_open = at < 300;
    assert_eq!(run(Fleet::new([Shard::new(0), Shard::new(1)]), 60, event), "1:undecided 2:ok 32:ended");
}

#[test]
fn child_waits_for_its_parent() {
    let mut child = Shard::new(0);
    child.parents = vec![1];
    child.hangs = true;
    let mut parent = Shard::new(1);
    parent.is_open = false;
    parent.hangs = true;
    let parent = parent.with_backlog(300);
    let event = |at, shards: &mut Vec<Shard>| {
        shards[1].hangs = at < 300;
        shards[0].hangs = !shards[1].is_ended;
    };
    assert_eq!(run(Fleet::new([child, parent]), 120, event), "1:waiting 47:undecided 53:catching up 87:ok");
}

#[test]
fn java_rows_without_a_lag_are_ok_while_they_move() {
    let fleet = one(|shard| shard.measured = Measured::Never);
    let event = |at, shards: &mut Vec<Shard>| shards[0].hangs = at >= 300;
    assert_eq!(run(fleet, 80, event), "1:undecided 2:ok 61:undecided");
}

#[test]
fn resting_java_rows_without_a_lag_are_undecided() {
    let fleet = one(|shard| {
        shard.measured = Measured::Never;
        shard.arriving = 0;
    });
    assert_eq!(run(fleet, 60, CALM), "1:undecided");
}

#[test]
fn retention_cut_shows_the_loss_at_once() {
    let mut fleet = one(|shard| shard.capacity = 500);
    fleet.next_verdict();
    let loss = |fleet: &mut Fleet| fleet.next_verdict().shards[&ShardId::numbered(0)].time_to_loss;
    for _ in 0..120 {
        loss(&mut fleet);
    }
    // It is 604 s behind, and falls behind by a second every two.
    let expected = TimeToLoss::In { at_rest_millis: 85_796_000, at_pace_millis: Some(171_592_000) };
    assert_eq!(loss(&mut fleet), expected);
    fleet.retention_seconds = 300;
    let after = loss(&mut fleet);
    assert!(matches!(after, TimeToLoss::In { at_rest_millis: 0, at_pace_millis: Some(0) }));
}

#[test]
fn time_to_loss_of_a_stuck_shard_falls_to_zero() {
    let mut fleet = one(|shard| shard.hangs = true);
    fleet.retention_seconds = 900;
    let mut left = Vec::new();
    for _ in 0..100 {
        let verdict = fleet.next_verdict();
        left.extend(verdict.first_loss.map(|(_, left)| left / 1_000));
    }
    assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
    assert_eq!((left.first(), left.last()), (Some(&591), Some(&0)));
}
