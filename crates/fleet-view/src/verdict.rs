//! Verdicts about shards and fleets, as plain data.

use std::collections::BTreeMap;

use lease_store::ShardId;
use serde::{Deserialize, Serialize};

use crate::signs::Sign;
use crate::text::duration_text;

/// How a shard, or a whole fleet, does. Ordered by urgency: the verdict about a fleet is the greatest one of its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Read to its end.
    Ended,
    /// Its records are read as they come.
    Ok,
    /// It waits until its parents are read to their end.
    Waiting,
    /// An operator paused it.
    Paused,
    /// The looks so far do not tell.
    Undecided,
    /// It is behind, and its lag shrinks.
    CatchingUp,
    /// Its lag grows, or is large and does not shrink.
    FallingBehind,
    /// Its position moved back, and it has not reached the old one again.
    Rewound,
    /// It could be read, and no worker has taken its lease for as long as a worker needs.
    Unowned,
    /// A worker owns its lease and does not renew it.
    Stopped,
    /// Records wait, and the position does not move although the lease is renewed.
    Stuck,
}

impl Verdict {
    /// All verdicts, the least urgent first.
    pub const ALL: [Self; 11] = [
        Self::Ended,
        Self::Ok,
        Self::Waiting,
        Self::Paused,
        Self::Undecided,
        Self::CatchingUp,
        Self::FallingBehind,
        Self::Rewound,
        Self::Unowned,
        Self::Stopped,
        Self::Stuck,
    ];

    /// Whether a person should look at it. A lag that grows is one only if records are about to be lost.
    pub fn is_alarm(self) -> bool {
        self >= Self::Rewound
    }

    /// The words for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Ok => "ok",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Undecided => "undecided",
            Self::CatchingUp => "catching up",
            Self::FallingBehind => "falling behind",
            Self::Rewound => "rewound",
            Self::Unowned => "unowned",
            Self::Stopped => "stopped",
            Self::Stuck => "stuck",
        }
    }
}

/// When the stream removes records before they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeToLoss {
    /// The lag or the retention is not known.
    Unknown,
    /// No record waits.
    NothingWaits,
    /// The first waiting record is removed after this time.
    In {
        /// If the position does not move: the retention less the age of the record. 0: it is being removed now.
        at_rest_millis: u64,
        /// If the lag goes on as in the looks so far; `None`: never.
        at_pace_millis: Option<u64>,
    },
}

impl TimeToLoss {
    /// The time that is left at the present pace; `None`: no loss is in sight, or nothing is known.
    pub fn at_pace_millis(self) -> Option<u64> {
        match self {
            Self::In { at_pace_millis, .. } => at_pace_millis,
            Self::Unknown | Self::NothingWaits => None,
        }
    }
}

/// The verdict about one shard, with the facts that it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardVerdict {
    /// How it does.
    pub verdict: Verdict,
    /// The first of the looks that gave this verdict without an interruption, in milliseconds since 1970.
    pub since_millis: u64,
    /// The age of the first waiting record; 0: none waits; `None`: not known.
    pub behind_millis: Option<u64>,
    /// How long records have been waiting without a move of the position; `None`: none is known to wait.
    pub still_millis: Option<u64>,
    /// How long the counter of an owned lease has not changed; `None`: the lease is unowned.
    pub silent_millis: Option<u64>,
    /// When its records are lost.
    pub time_to_loss: TimeToLoss,
}

impl ShardVerdict {
    /// The reason for the verdict, for people. Empty if the verdict says it all.
    pub fn reason(&self) -> String {
        let behind = self.behind_millis.map(|behind| format!("{} behind", duration_text(behind)));
        let or_empty = |text: Option<String>| text.unwrap_or_default();
        match self.verdict {
            Verdict::Stuck => {
                or_empty(self.still_millis.map(|still| format!("no progress for {}", duration_text(still))))
            }
            Verdict::Stopped => or_empty(
                self.silent_millis.map(|silent| format!("not renewed for {}", duration_text(silent))),
            ),
            Verdict::Undecided | Verdict::CatchingUp | Verdict::FallingBehind | Verdict::Rewound => {
                or_empty(behind)
            }
            Verdict::Unowned => behind.unwrap_or_else(|| "no worker takes it".to_owned()),
            Verdict::Ended | Verdict::Ok | Verdict::Waiting | Verdict::Paused => String::new(),
        }
    }
}

/// The verdict about a whole application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetVerdict {
    /// The most urgent verdict of a shard. `Undecided` without shards.
    pub verdict: Verdict,
    /// How many shards have each verdict.
    pub counts: BTreeMap<Verdict, usize>,
    /// The verdict about each shard.
    pub shards: BTreeMap<ShardId, ShardVerdict>,
    /// The shard whose records are lost first at the present pace, and in how many milliseconds.
    pub first_loss: Option<(ShardId, u64)>,
    /// The greatest age of a waiting record; `None`: no lag is known.
    pub behind_millis: Option<u64>,
    /// What is wrong with the table, by the newest look and those before it.
    pub signs: Vec<Sign>,
    /// How many looks it rests on.
    pub looks: u64,
}
