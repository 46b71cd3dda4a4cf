//! The fault modes of a proxy.

use std::fmt;

/// How a proxy treats connections. The [module](super) explains each mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // named in the module's table
pub enum FaultMode {
    Clear,
    Slow,
    Throttled,
    CutAtOnce,
    CutInRequests,
    CutInAnswers,
    LostAnswers,
    SwallowedAnswers,
    HalfClosedUp,
    HalfClosedDown,
    Silent,
    Refused,
    BlackHole,
    SlowLink,
}

impl FaultMode {
    /// All but [`Clear`](Self::Clear).
    pub const FAULTS: [Self; 13] = [
        Self::Slow,
        Self::Throttled,
        Self::CutAtOnce,
        Self::CutInRequests,
        Self::CutInAnswers,
        Self::LostAnswers,
        Self::SwallowedAnswers,
        Self::HalfClosedUp,
        Self::HalfClosedDown,
        Self::Silent,
        Self::Refused,
        Self::BlackHole,
        Self::SlowLink,
    ];

    /// Whether the mode may last longer than others: it blocks all bytes or answers, or has little effect within seconds.
    pub(super) fn may_last_long(self) -> bool {
        matches!(self, Self::SwallowedAnswers | Self::Silent | Self::Refused | Self::SlowLink)
    }
}

impl fmt::Display for FaultMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Clear => "clear",
            Self::Slow => "slow",
            Self::Throttled => "throttled",
            Self::CutAtOnce => "cut at once",
            Self::CutInRequests => "cut in requests",
            Self::CutInAnswers => "cut in answers",
            Self::LostAnswers => "lost answers",
            Self::SwallowedAnswers => "swallowed answers",
            Self::HalfClosedUp => "half closed up",
            Self::HalfClosedDown => "half closed down",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::BlackHole => "black hole",
            Self::SlowLink => "slow link",
        })
    }
}
