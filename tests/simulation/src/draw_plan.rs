//! Draws the plan of a scenario from a seed.
//!
//! Each seed must keep its run. Do not change the order or the bounds of the draws.

use fastrand::Rng;

use crate::draw_adoption::draw_adoption;
use crate::plan::{Fault, FaultKind, FaultRates, HandlerFault, Operation, Plan, ResetKind, RowEdit, Start};
use crate::scenario::Scenario;

impl Plan {
    /// Draws the plan of a scenario for a seed.
    pub fn of(scenario: Scenario, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ (scenario as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let quiet_from = rng.u64(180_000..480_000);
        let mut plan = Self {
            seed,
            scenario,
            workers: rng.u64(2..=5),
            kcl_workers: 0,
            shards: rng.u64(1..=8),
            record_interval: rng.u64(100..1500),
            aggregates: *rng.choice([0, 0, 20, 60].iter()).unwrap_or(&0),
            clock_spread: 0,
            quiet_from,
            faults: Vec::new(),
            start: Start::TrimHorizon,
            workers_from: 0,
            workers_within: 3_000,
            is_fan_out: matches!(scenario, Scenario::FanOut | Scenario::OddAnswers),
            kcl_can_fail: scenario == Scenario::KclFaults,
            acknowledges_late: scenario == Scenario::LateAcknowledgement,
            has_long_tails: scenario == Scenario::LongTails,
            back_at: None,
            former_fleet: None,
            has_second_stream: false,
            defect: None,
        };
        if matches!(scenario, Scenario::Pauses | Scenario::CrashStorm | Scenario::Everything) {
            plan.clock_spread = *rng.choice([0, 20, 100].iter()).unwrap_or(&0);
        }
        if scenario == Scenario::FirstStart {
            plan.workers_from = rng.u64(15_000..60_000);
            plan.workers_within = *rng.choice([1, 300, 3_000].iter()).unwrap_or(&1);
            plan.start = match rng.u64(..10) {
                0 => Start::TrimHorizon,
                1..6 => Start::Latest,
                _ => Start::AtTimestamp(rng.u64(..plan.workers_from + 60_000)),
            };
        }
        if matches!(scenario, Scenario::MixedKcl | Scenario::KclFaults) {
            plan.kcl_workers = rng.u64(1..=3);
        }
        if scenario == Scenario::LongTails {
            plan.workers = rng.u64(3..=6);
        }
        if scenario == Scenario::SlowStart {
            plan.workers = rng.u64(30..=100);
            let away_for = rng.u64(60_000..300_000);
            let rates = FaultRates { unavailable: 1000, ..FaultRates::default() };
            if rng.u64(..4) > 0 {
                let kind = FaultKind::StreamFaults { for_millis: away_for, rates };
                plan.faults.push(Fault { at: 0, kind });
            } else {
                let kind = FaultKind::TableFaults { for_millis: away_for, rates };
                plan.faults.push(Fault { at: 0, kind });
            }
            plan.back_at = Some(away_for);
            plan.workers_within = *rng.choice([1, 300, 3_000].iter()).unwrap_or(&1);
            plan.quiet_from = away_for + 90_000;
        }
        if scenario == Scenario::Adoption {
            draw_adoption(&mut plan, &mut rng);
        }
        let count = match scenario {
            Scenario::Calm | Scenario::SlowStart | Scenario::Adoption => 0,
            Scenario::RollingDeploy => plan.workers,
            Scenario::ReshardStorm => rng.u64(4..25),
            Scenario::Everything | Scenario::FirstStart => rng.u64(6..22),
            _ => rng.u64(2..10),
        };
        if scenario == Scenario::RecreatedStream {
            for _ in 0..rng.u64(1..=2) {
                let at = rng.u64(20_000..quiet_from - 5_000);
                let gone_for = if rng.bool() { 0 } else { rng.u64(1_000..60_000) };
                let kind = FaultKind::RecreateStream {
                    gone_for,
                    shards: rng.u64(1..=6),
                    operator_after: rng.u64(1_000..90_000),
                };
                plan.faults.push(Fault { at, kind });
                if rng.bool() {
                    let worker = rng.u64(..);
                    let kind = FaultKind::Pause { worker, for_millis: rng.u64(20_000..150_000) };
                    // The worker that everybody forgot.
                    plan.faults.push(Fault { at: at - rng.u64(1..10_000), kind });
                }
            }
        }
        if scenario == Scenario::RollingDeploy {
            let step = rng.u64(20_000..60_000);
            let same_name = rng.bool();
            for index in 0..count {
                let kind = FaultKind::Replace { worker: 0, after: rng.u64(0..20_000), same_name };
                plan.faults.push(Fault { at: 40_000 + index * step, kind });
            }
            plan.quiet_from = 40_000 + count * step + 30_000;
        }
        for _ in 0..if scenario == Scenario::RollingDeploy { 0 } else { count } {
            let arrived_before_start = scenario == Scenario::FirstStart && rng.u64(..3) > 0;
            let at = if arrived_before_start {
                rng.u64(plan.workers_from - 10_000..plan.workers_from + 12_000)
            } else {
                rng.u64(5_000..quiet_from - 5_000)
            };
            plan.faults.push(Fault { at, kind: draw_fault(scenario, &mut rng) });
        }
        plan.faults.sort_by_key(|fault| fault.at);
        plan
    }
}

fn draw_fault(scenario: Scenario, rng: &mut Rng) -> FaultKind {
    match scenario {
        Scenario::Calm | Scenario::RollingDeploy | Scenario::SlowStart | Scenario::Adoption => {
            FaultKind::Join
        }
        Scenario::ReshardStorm => match rng.u64(..12) {
            0 => trim(rng),
            1 => stream_faults(rng),
            _ => reshard(rng),
        },
        Scenario::CrashStorm => match rng.u64(..6) {
            0 => reshard(rng),
            _ => crash(rng),
        },
        Scenario::Partition => match rng.u64(..6) {
            0 => reshard(rng),
            _ => partition(rng),
        },
        Scenario::UnknownOutcomes => match rng.u64(..8) {
            0 => reshard(rng),
            1 => crash(rng),
            _ => table_faults(rng),
        },
        Scenario::Pauses => match rng.u64(..6) {
            0 => reshard(rng),
            _ => pause(rng),
        },
        Scenario::Scale => match rng.u64(..7) {
            0 => reshard(rng),
            1..4 => FaultKind::Leave { worker: rng.u64(..) },
            _ => FaultKind::Join,
        },
        Scenario::MixedKcl => match rng.u64(..8) {
            0 => crash(rng),
            1 => FaultKind::Join,
            2 => FaultKind::Leave { worker: rng.u64(..) },
            3 | 4 => FaultKind::KclJoin,
            5 => FaultKind::KclLeave { worker: rng.u64(..) },
            _ => reshard(rng),
        },
        Scenario::Handlers => match rng.u64(..8) {
            0 => reshard(rng),
            1 => FaultKind::Leave { worker: rng.u64(..) },
            2 => FaultKind::Join,
            _ => handler(rng),
        },
        Scenario::LateAcknowledgement => match rng.u64(..8) {
            0 => crash(rng),
            1 => pause(rng),
            2 => partition(rng),
            3 | 4 => reshard(rng),
            5 => FaultKind::Join,
            6 => FaultKind::Leave { worker: rng.u64(..) },
            _ => FaultKind::Replace { worker: rng.u64(..), after: rng.u64(0..20_000), same_name: rng.bool() },
        },
        Scenario::FirstStart => match rng.u64(..12) {
            0..4 => reshard(rng),
            4..7 => FaultKind::Crash {
                worker: rng.u64(..),
                back_after: rng.u64(0..20_000),
                same_name: rng.bool(),
            },
            7 => pause(rng),
            8 => partition(rng),
            9 => table_faults(rng),
            10 => stream_faults(rng),
            _ => FaultKind::Join,
        },
        Scenario::KclFaults => match rng.u64(..12) {
            0 => crash(rng),
            1 => FaultKind::KclJoin,
            2 => FaultKind::KclLeave { worker: rng.u64(..) },
            3..6 => pause(rng),
            6 | 7 => FaultKind::Partition {
                worker: rng.u64(..),
                for_millis: rng.u64(2_000..60_000),
                table: true,
                stream: rng.bool(),
                is_one_way: rng.u64(..3) == 0,
            },
            8 | 9 => table_faults(rng),
            _ => reshard(rng),
        },
        Scenario::FanOut => match rng.u64(..14) {
            0 => crash(rng),
            1 => pause(rng),
            2 | 3 => FaultKind::Partition {
                worker: rng.u64(..),
                for_millis: rng.u64(2_000..60_000),
                table: rng.u64(..4) == 0,
                stream: true,
                is_one_way: rng.u64(..4) == 0,
            },
            4 | 5 => stream_faults(rng),
            6 => table_faults(rng),
            7..10 => reshard(rng),
            10 => FaultKind::Deregister,
            11 => FaultKind::Join,
            12 => FaultKind::Leave { worker: rng.u64(..) },
            _ => match rng.bool() {
                true => handler(rng),
                false => trim(rng),
            },
        },
        Scenario::Clones => match rng.u64(..12) {
            0 => FaultKind::Crash { worker: rng.u64(..), back_after: rng.u64(0..20_000), same_name: true },
            1 => crash(rng),
            2 => pause(rng),
            3 => reshard(rng),
            4 => table_faults(rng),
            5..7 => FaultKind::Leave { worker: rng.u64(..) },
            _ => FaultKind::Clone { worker: rng.u64(..) },
        },
        Scenario::RecreatedStream => match rng.u64(..8) {
            0 | 1 => crash(rng),
            2 => pause(rng),
            3 | 4 => reshard(rng),
            5 => FaultKind::Leave { worker: rng.u64(..) },
            _ => FaultKind::Join,
        },
        Scenario::LongTails => match rng.u64(..8) {
            0..5 => crash(rng),
            5 => reshard(rng),
            6 => FaultKind::Leave { worker: rng.u64(..) },
            _ => FaultKind::Join,
        },
        Scenario::VanishingRows => match rng.u64(..14) {
            0..3 => FaultKind::DeleteRow { row: rng.u64(..) },
            3..5 => FaultKind::DeleteRows { first: rng.u64(..), count: rng.u64(2..7) },
            5 => FaultKind::DeleteRows { first: 0, count: u64::MAX },
            6 | 7 => FaultKind::RemoveTable { for_millis: rng.u64(1_000..90_000) },
            8 | 9 => crash(rng),
            10 | 11 => reshard(rng),
            12 => FaultKind::Join,
            _ => FaultKind::Leave { worker: rng.u64(..) },
        },
        Scenario::Operators => match rng.u64(..16) {
            0..6 => edit_row(rng),
            6 => FaultKind::RewindAll,
            7 | 8 => FaultKind::DeleteRow { row: rng.u64(..) },
            9 => FaultKind::DeleteRows { first: rng.u64(..), count: rng.u64(2..7) },
            10 | 11 => crash(rng),
            12 | 13 => reshard(rng),
            14 => FaultKind::Join,
            _ => FaultKind::Leave { worker: rng.u64(..) },
        },
        Scenario::OddAnswers => match rng.u64(..10) {
            0..6 => odd_answers(rng),
            6 | 7 => reshard(rng),
            8 => crash(rng),
            _ => match rng.bool() {
                true => FaultKind::Join,
                false => FaultKind::Leave { worker: rng.u64(..) },
            },
        },
        Scenario::Operations => match rng.u64(..14) {
            0 | 1 => crash(rng),
            2 => pause(rng),
            3 | 4 => reshard(rng),
            5 => FaultKind::Join,
            6 => FaultKind::Leave { worker: rng.u64(..) },
            _ => FaultKind::Operate { row: rng.u64(..), operation: operation(rng) },
        },
        Scenario::Everything => match rng.u64(..14) {
            0 => crash(rng),
            1 => pause(rng),
            2 => partition(rng),
            3 | 4 => table_faults(rng),
            5 => stream_faults(rng),
            6 | 7 => reshard(rng),
            8 => trim(rng),
            9 => FaultKind::DeleteRow { row: rng.u64(..) },
            10 => handler(rng),
            11 => FaultKind::Join,
            12 => FaultKind::Leave { worker: rng.u64(..) },
            _ => FaultKind::Replace { worker: rng.u64(..), after: rng.u64(0..20_000), same_name: rng.bool() },
        },
    }
}

fn crash(rng: &mut Rng) -> FaultKind {
    FaultKind::Crash { worker: rng.u64(..), back_after: rng.u64(0..40_000), same_name: rng.bool() }
}

fn pause(rng: &mut Rng) -> FaultKind {
    FaultKind::Pause { worker: rng.u64(..), for_millis: rng.u64(2_000..45_000) }
}

fn partition(rng: &mut Rng) -> FaultKind {
    let table = rng.u64(..3) > 0;
    FaultKind::Partition {
        worker: rng.u64(..),
        for_millis: rng.u64(2_000..60_000),
        table,
        stream: !table || rng.bool(),
        is_one_way: rng.u64(..4) == 0,
    }
}

fn rates(rng: &mut Rng) -> FaultRates {
    let share = |rng: &mut Rng| if rng.bool() { rng.u64(1..250) } else { 0 };
    FaultRates {
        throttled: share(rng),
        unavailable: share(rng),
        answer_lost: share(rng),
        request_lost: share(rng),
        delayed: share(rng),
        slow: share(rng),
        odd: 0,
    }
}

fn edit_row(rng: &mut Rng) -> FaultKind {
    let edit = match rng.u64(..5) {
        0 | 1 => RowEdit::Back(rng.u64(1..60)),
        2 | 3 => RowEdit::Forward(rng.u64(1..60)),
        _ => RowEdit::Start,
    };
    FaultKind::EditRow { row: rng.u64(..), edit, raises_counter: rng.u64(..3) == 0 }
}

fn operation(rng: &mut Rng) -> Operation {
    match rng.u64(..10) {
        0..4 => Operation::Reset {
            kind: match rng.u64(..6) {
                0 => ResetKind::TrimHorizon,
                1 | 2 => ResetKind::Latest,
                3 => ResetKind::Ago(rng.u64(1_000..120_000)),
                _ => ResetKind::Moved { records: rng.u64(1..60), is_forward: rng.bool() },
            },
            all: rng.u64(..3) == 0,
        },
        4 | 5 => Operation::Release,
        6 => Operation::Assign { worker: rng.u64(..4) },
        7 | 8 => Operation::PauseShard { for_millis: rng.u64(10_000..90_000), all: rng.u64(..3) == 0 },
        _ => Operation::Resume,
    }
}

/// Answers that say nothing, and some that never arrive.
fn odd_answers(rng: &mut Rng) -> FaultKind {
    let lost = if rng.bool() { rng.u64(1..200) } else { 0 };
    let rates = FaultRates { odd: rng.u64(50..600), request_lost: lost, ..FaultRates::default() };
    FaultKind::StreamFaults { for_millis: rng.u64(5_000..60_000), rates }
}

fn table_faults(rng: &mut Rng) -> FaultKind {
    FaultKind::TableFaults { for_millis: rng.u64(5_000..60_000), rates: rates(rng) }
}

fn stream_faults(rng: &mut Rng) -> FaultKind {
    FaultKind::StreamFaults { for_millis: rng.u64(5_000..60_000), rates: rates(rng) }
}

fn reshard(rng: &mut Rng) -> FaultKind {
    FaultKind::Reshard {
        shard: rng.u64(..),
        is_merge: rng.u64(..5) < 2,
        hidden_for: if rng.u64(..4) == 0 { rng.u64(1_000..30_000) } else { 0 },
    }
}

fn trim(rng: &mut Rng) -> FaultKind {
    FaultKind::Trim { older_than: rng.u64(30_000..240_000) }
}

fn handler(rng: &mut Rng) -> FaultKind {
    let handler_fault = match rng.u64(..4) {
        0 => HandlerFault::Errors,
        1 => HandlerFault::Panics,
        2 => HandlerFault::Slow(rng.u64(500..15_000)),
        _ => HandlerFault::Hangs,
    };
    FaultKind::Handler { worker: rng.u64(..), for_millis: rng.u64(5_000..60_000), handler_fault }
}
