//! The verdict about one shard, from its newest look and its track. Pure.
//!
//! No threshold is a setting. The times below are the least that is remarkable for any consumer; a shard whose steps were seen
//! to take longer is given several times as long.

use lease_store::Position;

use crate::pace::Trend;
use crate::shard_view::{ShardState, ShardView};
use crate::track::{FACTOR, LookTime, Track};
use crate::verdict::{TimeToLoss, Verdict};

/// A lease without an owner for a shorter time is about to be taken, in milliseconds: leaders of KCL 3.x need 50 s.
const MIN_UNOWNED_MILLIS: u64 = 60_000;

/// The verdict about a shard. `waits` says whether a parent of a shard without a row is not read to its end.
pub(crate) fn judge(shard: &ShardView, track: &Track, waits: bool, time: LookTime) -> Verdict {
    match shard.state {
        ShardState::Ended => return Verdict::Ended,
        ShardState::MalformedRow => return Verdict::Undecided,
        ShardState::NotBegun => {
            return if track.is_silent(time) { Verdict::Stopped } else { Verdict::Waiting };
        }
        ShardState::NoRow if waits => return Verdict::Waiting,
        _ if is_paused(shard, time) => return Verdict::Paused,
        ShardState::NoRow | ShardState::Owned | ShardState::Unowned | ShardState::RowWithoutShard => {}
    }
    if is_left(track, time) {
        return Verdict::Unowned;
    }
    if track.is_silent(time) {
        return Verdict::Stopped;
    }
    if track.is_still_for_long(time) {
        return Verdict::Stuck;
    }
    if track.is_rewound() {
        return Verdict::Rewound;
    }
    progress(track, time)
}

/// Whether an operator paused the shard.
fn is_paused(shard: &ShardView, time: LookTime) -> bool {
    shard.pause.as_ref().is_some_and(|pause| pause.is_in_force(time.now_millis))
}

/// Whether no worker can read the shard for a reason that is no fault.
pub(crate) fn is_held_up(shard: &ShardView, time: LookTime) -> bool {
    shard.state == ShardState::NotBegun || is_paused(shard, time)
}

/// Whether each look for long showed the shard without an owner.
fn is_left(track: &Track, time: LookTime) -> bool {
    let limit = MIN_UNOWNED_MILLIS.max(time.interval_millis().saturating_mul(FACTOR));
    track.unowned_since_millis.is_some_and(|since| time.now_millis.saturating_sub(since) >= limit)
}

/// The verdict about a shard that is read.
fn progress(track: &Track, time: LookTime) -> Verdict {
    match (track.behind_millis, track.trend) {
        (Some(0), _) => Verdict::Ok,
        (Some(behind), Some(trend)) if behind > track.usual_lag_millis(time) => match trend {
            Trend::Growing => Verdict::FallingBehind,
            Trend::Shrinking => Verdict::CatchingUp,
        },
        (Some(behind), None) if behind > track.usual_lag_millis(time) => Verdict::Undecided,
        (Some(_), _) => Verdict::Ok,
        (None, Some(Trend::Growing)) => Verdict::FallingBehind,
        (None, Some(Trend::Shrinking)) => Verdict::CatchingUp,
        (None, None) if track.has_moved_lately(time) => Verdict::Ok,
        (None, None) => Verdict::Undecided,
    }
}

/// When the first waiting record of a shard is lost.
pub(crate) fn time_to_loss(
    shard: &ShardView,
    track: &Track,
    verdict: Verdict,
    retention_millis: Option<u64>,
) -> TimeToLoss {
    if shard.state == ShardState::Ended || shard.position == Some(Position::ShardEnd) {
        return TimeToLoss::NothingWaits;
    }
    let (Some(retention), Some(behind)) = (retention_millis, track.behind_millis) else {
        return TimeToLoss::Unknown;
    };
    if behind == 0 {
        return TimeToLoss::NothingWaits;
    }
    let at_rest_millis = retention.saturating_sub(behind);
    let is_at_rest = matches!(
        verdict,
        Verdict::Stuck | Verdict::Stopped | Verdict::Unowned | Verdict::Paused | Verdict::Waiting
    );
    let at_pace_millis = match is_at_rest || at_rest_millis == 0 {
        true => Some(at_rest_millis),
        false => track.lag_points.reaches(retention, behind),
    };
    TimeToLoss::In { at_rest_millis, at_pace_millis }
}
