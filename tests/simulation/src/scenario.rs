//! The named scenarios. Their order is part of the meaning of a seed.

use std::fmt;
use std::str::FromStr;

/// A named scenario: which faults a plan draws from, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// No faults.
    Calm,
    /// Splits and merges, hidden children, retention.
    ReshardStorm,
    /// Processes are killed and come back.
    CrashStorm,
    /// Processes are cut off from one service or both.
    Partition,
    /// The table answers late, wrongly or not at all.
    UnknownOutcomes,
    /// Processes are paused for longer than the fail-over time.
    Pauses,
    /// Workers join and leave.
    Scale,
    /// All workers are replaced, one after another.
    RollingDeploy,
    /// Workers of the KCL 2.x share the table with ours.
    MixedKcl,
    /// Handlers that fail, panic, hang or are slow.
    Handlers,
    /// A mix of all faults, including rows that an outsider deletes.
    Everything,
    /// Applications that acknowledge each record late and out of order, and drop a few acknowledgements, during
    /// crashes, pauses and moves.
    LateAcknowledgement,
    /// Applications that start at `LATEST` or at a time, with crashes and reshards in their first seconds.
    FirstStart,
    /// Workers of the KCL 2.x that are paused, slowed down or cut off from the table.
    KclFaults,
    /// The readers of `kinesis-asl` read the shards, most of them by fan-out. Needs the feature `fan-out`.
    FanOut,
    /// Several live processes under one worker name, as when all replicas of a deployment are named alike.
    Clones,
    /// An outsider deletes rows of the lease table, all of them, or the table itself for a while.
    VanishingRows,
    /// The stream is deleted and created again under the fleet, and the operator follows the advice of the errors.
    RecreatedStream,
    /// Calls take up to 250 ms at the 99th percentile, and 5 s for one of a hundred, while processes crash.
    LongTails,
    /// A large fleet starts at once under the limits of its account, while a service is away.
    SlowStart,
    /// Operators set positions back and forward, delete rows and rewind all of them, while workers run and crash.
    Operators,
    /// The stream answers without content, with another body, or not at all. Needs the feature `fan-out`.
    OddAnswers,
    /// An operator resets, releases, assigns and pauses shards of live workers by plans, during crashes and reshards.
    Operations,
    /// An operator adopts the table of a KCL fleet while its last worker renews or dies, and our workers start meanwhile.
    Adoption,
}

impl Scenario {
    /// All scenarios, in the order that seeds rely on.
    pub const ALL: [Self; 24] = [
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
        Self::Clones,
        Self::VanishingRows,
        Self::RecreatedStream,
        Self::LongTails,
        Self::SlowStart,
        Self::Operators,
        Self::OddAnswers,
        Self::Operations,
        Self::Adoption,
    ];

    /// The scenarios of this build. Those over the AWS SDK need its feature.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|scenario| scenario.is_available())
    }

    /// Whether this build can run it.
    pub fn is_available(self) -> bool {
        cfg!(feature = "fan-out") || !matches!(self, Self::FanOut | Self::OddAnswers)
    }

    /// Its name on the command line.
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
            Self::Clones => "clones",
            Self::VanishingRows => "vanishing-rows",
            Self::RecreatedStream => "recreated-stream",
            Self::LongTails => "long-tails",
            Self::SlowStart => "slow-start",
            Self::Operators => "operators",
            Self::OddAnswers => "odd-answers",
            Self::Operations => "operations",
            Self::Adoption => "adoption",
        }
    }
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
            Some(_) => Err(format!("scenario {text:?} is not in this build; build with --features fan-out")),
            None => {
                let names = Self::ALL.map(Self::name).join(", ");
                Err(format!("unknown scenario {text:?}; use one of: {names}"))
            }
        }
    }
}
