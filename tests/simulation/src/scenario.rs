//! The named scenarios: which faults a plan draws from, and how many.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

use crate::fan_out;
use crate::plan::{Fault, FaultKind, Mood, Plan, Start, Weather};

/// A named scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Nothing goes wrong.
    Calm,
    /// Splits and merges, hidden children, retention.
    ReshardStorm,
    /// Processes are killed and come back.
    CrashStorm,
    /// Processes lose the way to a service or to both.
    Partition,
    /// The table answers late, wrongly or not at all.
    UnknownOutcomes,
    /// Processes stand still for longer than the fail-over time.
    Pauses,
    /// Workers come and go.
    Scale,
    /// All workers are replaced, one after another.
    RollingDeploy,
    /// Workers of the KCL 2.x beside ours.
    MixedKcl,
    /// Applications that fail, panic, hang and are slow.
    Handlers,
    /// Of everything a little, rows that are deleted behind our back included.
    Everything,
    /// Applications that acknowledge late, record by record and out of order, and now and then drop one, through crashes,
    /// pauses and moves.
    LateAcknowledgement,
    /// Applications that start at the tip or at a time, through crashes and reshards in their first seconds.
    FirstStart,
    /// Workers of the KCL 2.x that stand still, lose the way to the table, and are slowed down.
    KclFaults,
    /// Shards read by the readers of `kinesis-asl`, most of them by fan-out. Only with the feature `fan-out`.
    FanOut,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Calm,
        Self::ReshardStorm,
        Self::CrashStorm,
        Self::Partition,
        Self::UnknownOutcomes,
        Self::Pauses,
        Self::Scale,
        Self::RollingDeploy,
        Self::MixedKcl,
        Self::Handlers,
        Self::Everything,
        Self::LateAcknowledgement,
        Self::FirstStart,
        Self::KclFaults,
        Self::FanOut,
    ];

    /// Those that can be run: without its feature, all but the one over the AWS SDK.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|scenario| scenario.is_available())
    }

    /// Whether it can be run.
    pub fn is_available(self) -> bool {
        fan_out::IS_AVAILABLE || self != Self::FanOut
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::ReshardStorm => "reshard-storm",
            Self::CrashStorm => "crash-storm",
            Self::Partition => "partition",
            Self::UnknownOutcomes => "unknown-outcomes",
            Self::Pauses => "pauses",
            Self::Scale => "scale",
            Self::RollingDeploy => "rolling-deploy",
            Self::MixedKcl => "mixed-kcl",
            Self::Handlers => "handlers",
            Self::Everything => "everything",
            Self::LateAcknowledgement => "late-acknowledgement",
            Self::FirstStart => "first-start",
            Self::KclFaults => "kcl-faults",
            Self::FanOut => "fan-out",
        }
    }

    /// Makes the plan for a seed.
    pub fn plan(self, seed: u64) -> Plan {
        let mut rng = Rng::with_seed(seed ^ (self as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let quiet_at = rng.u64(180_000..480_000);
        let mut plan = Plan {
            seed,
            scenario: self,
            workers: rng.u64(2..=5),
            kcl_workers: 0,
            shards: rng.u64(1..=8),
            record_interval: rng.u64(100..1500),
            aggregates: *rng.choice([0, 0, 20, 60].iter()).unwrap_or(&0),
            clock_spread: 0,
            quiet_at,
            faults: Vec::new(),
            start: Start::TrimHorizon,
            workers_from: 0,
            workers_within: 3_000,
            is_fan_out: self == Self::FanOut,
            kcl_can_fail: self == Self::KclFaults,
            acknowledges_late: self == Self::LateAcknowledgement,
            planted: None,
        };
        if matches!(self, Self::Pauses | Self::CrashStorm | Self::Everything) {
            plan.clock_spread = *rng.choice([0, 20, 100].iter()).unwrap_or(&0);
        }
        if self == Self::FirstStart {
            plan.workers_from = rng.u64(15_000..60_000);
            plan.workers_within = *rng.choice([1, 300, 3_000].iter()).unwrap_or(&1);
            plan.start = match rng.u64(..10) {
                0 => Start::TrimHorizon,
                1..6 => Start::Latest,
                _ => Start::AtTimestamp(rng.u64(..plan.workers_from + 60_000)),
            };
        }
        if matches!(self, Self::MixedKcl | Self::KclFaults) {
            plan.kcl_workers = rng.u64(1..=3);
        }
        let count = match self {
            Self::Calm => 0,
            Self::RollingDeploy => plan.workers,
            Self::ReshardStorm => rng.u64(4..25),
            Self::Everything | Self::FirstStart => rng.u64(6..22),
            _ => rng.u64(2..10),
        };
        if self == Self::RollingDeploy {
            let step = rng.u64(20_000..60_000);
            let same_name = rng.bool();
            for index in 0..count {
                let kind = FaultKind::Replace { worker: 0, after: rng.u64(0..20_000), same_name };
                plan.faults.push(Fault { at: 40_000 + index * step, kind });
            }
            plan.quiet_at = 40_000 + count * step + 30_000;
        }
        for _ in 0..if self == Self::RollingDeploy { 0 } else { count } {
            let is_early = self == Self::FirstStart && rng.u64(..3) > 0;
            let at = if is_early {
                rng.u64(plan.workers_from - 10_000..plan.workers_from + 12_000)
            } else {
                rng.u64(5_000..quiet_at - 5_000)
            };
            plan.faults.push(Fault { at, kind: self.draw(&mut rng) });
        }
        plan.faults.sort_by_key(|fault| fault.at);
        plan
    }

    fn draw(self, rng: &mut Rng) -> FaultKind {
        match self {
            Self::Calm | Self::RollingDeploy => FaultKind::Join,
            Self::ReshardStorm => match rng.u64(..12) {
                0 => trim(rng),
                1 => stream_storm(rng),
                _ => reshard(rng),
            },
            Self::CrashStorm => match rng.u64(..6) {
                0 => reshard(rng),
                _ => crash(rng),
            },
            Self::Partition => match rng.u64(..6) {
                0 => reshard(rng),
                _ => partition(rng),
            },
            Self::UnknownOutcomes => match rng.u64(..8) {
                0 => reshard(rng),
                1 => crash(rng),
                _ => table_storm(rng),
            },
            Self::Pauses => match rng.u64(..6) {
                0 => reshard(rng),
                _ => pause(rng),
            },
            Self::Scale => match rng.u64(..7) {
                0 => reshard(rng),
                1..4 => FaultKind::Leave { worker: rng.u64(..) },
                _ => FaultKind::Join,
            },
            Self::MixedKcl => match rng.u64(..8) {
                0 => crash(rng),
                1 => FaultKind::Join,
                2 => FaultKind::Leave { worker: rng.u64(..) },
                3 | 4 => FaultKind::KclJoin,
                5 => FaultKind::KclLeave { worker: rng.u64(..) },
                _ => reshard(rng),
            },
            Self::Handlers => match rng.u64(..8) {
                0 => reshard(rng),
                1 => FaultKind::Leave { worker: rng.u64(..) },
                2 => FaultKind::Join,
                _ => handler(rng),
            },
            Self::LateAcknowledgement => match rng.u64(..8) {
                0 => crash(rng),
                1 => pause(rng),
                2 => partition(rng),
                3 | 4 => reshard(rng),
                5 => FaultKind::Join,
                6 => FaultKind::Leave { worker: rng.u64(..) },
                _ => FaultKind::Replace {
                    worker: rng.u64(..),
                    after: rng.u64(0..20_000),
                    same_name: rng.bool(),
                },
            },
            Self::FirstStart => match rng.u64(..12) {
                0..4 => reshard(rng),
                4..7 => FaultKind::Crash {
                    worker: rng.u64(..),
                    back_after: rng.u64(0..20_000),
                    same_name: rng.bool(),
                },
                7 => pause(rng),
                8 => partition(rng),
                9 => table_storm(rng),
                10 => stream_storm(rng),
                _ => FaultKind::Join,
            },
            Self::KclFaults => match rng.u64(..12) {
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
                8 | 9 => table_storm(rng),
                _ => reshard(rng),
            },
            Self::FanOut => match rng.u64(..14) {
                0 => crash(rng),
                1 => pause(rng),
                2 | 3 => FaultKind::Partition {
                    worker: rng.u64(..),
                    for_millis: rng.u64(2_000..60_000),
                    table: rng.u64(..4) == 0,
                    stream: true,
                    is_one_way: rng.u64(..4) == 0,
                },
                4 | 5 => stream_storm(rng),
                6 => table_storm(rng),
                7..10 => reshard(rng),
                10 => FaultKind::Deregister,
                11 => FaultKind::Join,
                12 => FaultKind::Leave { worker: rng.u64(..) },
                _ => match rng.bool() {
                    true => handler(rng),
                    false => trim(rng),
                },
            },
            Self::Everything => match rng.u64(..14) {
                0 => crash(rng),
                1 => pause(rng),
                2 => partition(rng),
                3 | 4 => table_storm(rng),
                5 => stream_storm(rng),
                6 | 7 => reshard(rng),
                8 => trim(rng),
                9 => FaultKind::DeleteRow { row: rng.u64(..) },
                10 => handler(rng),
                11 => FaultKind::Join,
                12 => FaultKind::Leave { worker: rng.u64(..) },
                _ => FaultKind::Replace {
                    worker: rng.u64(..),
                    after: rng.u64(0..20_000),
                    same_name: rng.bool(),
                },
            },
        }
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

fn weather(rng: &mut Rng) -> Weather {
    let share = |rng: &mut Rng| if rng.bool() { rng.u64(1..250) } else { 0 };
    Weather {
        throttled: share(rng),
        unavailable: share(rng),
        applied: share(rng),
        dropped: share(rng),
        late: share(rng),
        slow: share(rng),
    }
}

fn table_storm(rng: &mut Rng) -> FaultKind {
    FaultKind::TableStorm { for_millis: rng.u64(5_000..60_000), weather: weather(rng) }
}

fn stream_storm(rng: &mut Rng) -> FaultKind {
    FaultKind::StreamStorm { for_millis: rng.u64(5_000..60_000), weather: weather(rng) }
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
    let mood = match rng.u64(..4) {
        0 => Mood::Errors,
        1 => Mood::Panics,
        2 => Mood::Slow(rng.u64(500..15_000)),
        _ => Mood::Hangs,
    };
    FaultKind::Handler { worker: rng.u64(..), for_millis: rng.u64(5_000..60_000), mood }
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Self::ALL.into_iter().find(|scenario| scenario.name() == text) {
            Some(scenario) if scenario.is_available() => Ok(scenario),
            Some(_) => Err(format!("the scenario {text:?} needs the feature {text:?} of the package")),
            None => {
                let names = Self::ALL.map(Self::name).join(", ");
                Err(format!("there is no scenario {text:?}; there are: {names}"))
            }
        }
    }
}
