//! What the looks so far tell of one shard. Pure.

use lease_store::{Position, WorkerId};
use serde::{Deserialize, Serialize};

use crate::look::{LagOrigin, LagSample};
use crate::pace::{Gaps, LagPoints, Trend};
use crate::shard_view::ShardView;

/// How many times as long as any time before a time must be to be remarkable.
pub(crate) const FACTOR: u64 = 3;

/// A lease without a renewal for a shorter time is not stopped, in milliseconds: three usual fail-over times.
const MIN_SILENCE_MILLIS: u64 = 30_000;

/// The time between renewals that is assumed before one was seen, in milliseconds: a third of a fail-over time of a minute.
const ASSUMED_RENEWAL_MILLIS: u64 = 20_000;

/// A position that does not move for a shorter time is not stuck, in milliseconds.
const MIN_STILL_MILLIS: u64 = 120_000;

/// The time between checkpoints that is assumed before one was seen, in milliseconds.
const ASSUMED_STEP_MILLIS: u64 = 100_000;

/// A lag up to this is usual for any consumer, in milliseconds: some checkpoint once a minute.
const USUAL_LAG_MILLIS: u64 = 60_000;

/// When the looks were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LookTime {
    /// The newest one.
    pub(crate) now_millis: u64,
    /// The one before it; the newest one if there is none.
    pub(crate) previous_millis: u64,
}

impl LookTime {
    pub(crate) fn interval_millis(self) -> u64 {
        self.now_millis.saturating_sub(self.previous_millis)
    }
}

/// What the looks so far tell of one shard. All times are those of looks: nothing is known between two looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Track {
    /// The looks that showed this shard.
    pub(crate) looks: u64,
    /// Since when each look showed it without an owner, or without a row.
    pub(crate) unowned_since_millis: Option<u64>,
    owner: Option<WorkerId>,
    counter: Option<u64>,
    /// The newest look at which the counter had changed; the first look, if it never has.
    pub(crate) renewed_millis: u64,
    /// Whether the counter was ever seen to change under this owner.
    pub(crate) is_renewal_seen: bool,
    renewals: Gaps,
    #[serde(with = "crate::text::optional_position_text")]
    position: Option<Position>,
    /// The newest look at which the position had changed; the first look, if it never has.
    pub(crate) moved_millis: u64,
    /// The look before that one: the change came after it.
    moved_after_millis: u64,
    /// The furthest position so far.
    #[serde(with = "crate::text::optional_position_text")]
    furthest: Option<Position>,
    /// How often the position was seen to move back.
    pub(crate) rewinds: u32,
    /// Since when each look showed records waiting at this position.
    waiting_since_millis: Option<u64>,
    /// The latest time at which the present step can have begun: the step before it ended, or no record waited, or no worker
    /// could read the shard. `None`: before the first look.
    step_from_millis: Option<u64>,
    /// The steps of the position, each from the first look at which records waited.
    steps: Gaps,
    /// Whether the newest step took so long that it was taken for none. If the next one does too, such steps are usual.
    was_step_long: bool,
    pub(crate) lag_points: LagPoints,
    is_point_due: bool,
    pub(crate) trend: Option<Trend>,
    /// The age of the first waiting record at the newest look; `None`: not known.
    pub(crate) behind_millis: Option<u64>,
}

impl Track {
    /// Begins with the first look at a shard.
    pub(crate) fn new(now_millis: u64) -> Self {
        Self {
            looks: 0,
            unowned_since_millis: None,
            owner: None,
            counter: None,
            renewed_millis: now_millis,
            is_renewal_seen: false,
            renewals: Gaps::default(),
            position: None,
            moved_millis: now_millis,
            moved_after_millis: 0,
            furthest: None,
            rewinds: 0,
            waiting_since_millis: None,
            step_from_millis: None,
            steps: Gaps::default(),
            was_step_long: false,
            lag_points: LagPoints::default(),
            is_point_due: true,
            trend: None,
            behind_millis: None,
        }
    }

    /// Adds the newest look. `behind_millis` is the age of its first waiting record. `is_held_up`: no worker can read the
    /// shard, because it is paused or waits for its parents.
    pub(crate) fn add(
        &mut self,
        shard: &ShardView,
        behind_millis: Option<u64>,
        is_held_up: bool,
        time: LookTime,
    ) {
        self.add_owner(shard, time);
        self.add_position(shard, time);
        self.add_lag(shard, behind_millis, time);
        if is_held_up || shard.owner.is_none() || self.is_silent(time) {
            // A worker that begins now is given the full time.
            self.waiting_since_millis = None;
            self.step_from_millis = Some(time.now_millis);
            self.forget_pace();
        }
        self.looks += 1;
    }

    /// What was measured before a break says nothing about the pace after it.
    fn forget_pace(&mut self) {
        self.lag_points.clear();
        self.trend = None;
    }

    fn add_owner(&mut self, shard: &ShardView, time: LookTime) {
        if shard.owner.is_some() {
            self.unowned_since_millis = None;
        } else {
            self.unowned_since_millis.get_or_insert(time.now_millis);
        }
        let is_first = self.looks == 0;
        let (is_same_owner, is_same_counter) = (self.owner == shard.owner, self.counter == shard.counter);
        if !(is_first || is_same_owner && is_same_counter) {
            if is_same_owner && shard.owner.is_some() {
                // When the first one seen began is not known.
                if self.is_renewal_seen {
                    self.renewals.push(time.now_millis.saturating_sub(self.renewed_millis));
                }
                self.is_renewal_seen = true;
            } else {
                self.is_renewal_seen = false;
            }
            self.renewed_millis = time.now_millis;
        }
        self.owner.clone_from(&shard.owner);
        self.counter = shard.counter;
    }

    fn add_position(&mut self, shard: &ShardView, time: LookTime) {
        let Some(position) = &shard.position else { return };
        let before = self.position.replace(position.clone());
        self.furthest = self.furthest.take().max(Some(position.clone()));
        let Some(before) = before.filter(|before| before != position) else { return };
        if *position < before {
            self.rewinds = self.rewinds.saturating_add(1);
            self.forget_pace();
        } else {
            self.add_step(time);
        }
        self.step_from_millis = Some(time.now_millis);
        self.moved_millis = time.now_millis;
        self.moved_after_millis = time.previous_millis;
        self.waiting_since_millis = None;
        self.is_point_due = true;
    }

    fn add_step(&mut self, time: LookTime) {
        let is_long = self.is_still_for_long(time);
        let was_long = std::mem::replace(&mut self.was_step_long, is_long);
        if is_long {
            self.forget_pace();
        }
        // A step that was under way at the first look began at an unknown time.
        let Some(from) = self.step_from_millis else { return };
        if was_long || !is_long {
            self.steps.push(time.now_millis.saturating_sub(from));
        }
    }

    fn add_lag(&mut self, shard: &ShardView, behind_millis: Option<u64>, time: LookTime) {
        // A measurement of an earlier position says nothing about this one. A worker measures with the write of the row, so its
        // report belongs to the position in it, whatever its clock says.
        let is_of_position = |lag: &&LagSample| {
            lag.origin == LagOrigin::Worker || lag.measured_at_millis >= self.moved_after_millis
        };
        let sample = shard.lag.as_ref().filter(is_of_position);
        self.behind_millis = behind_millis.filter(|_| sample.is_some());
        if let Some(idle) = sample.filter(|lag| lag.behind_millis == 0) {
            self.step_from_millis = self.step_from_millis.max(Some(idle.measured_at_millis));
        }
        match self.behind_millis {
            Some(0) => self.waiting_since_millis = None,
            Some(_) => _ = self.waiting_since_millis.get_or_insert(time.now_millis),
            None => {}
        }
        let Some(sample) = sample else { return };
        // One point for each position: while a position does not move, its lag grows with time alone.
        if std::mem::take(&mut self.is_point_due) {
            self.lag_points.push(sample.measured_at_millis, sample.behind_millis);
        }
        self.trend = self.lag_points.trend(self.usual_lag_millis(time), self.trend);
    }

    /// A lag that is usual for this shard: that of a few steps.
    pub(crate) fn usual_lag_millis(&self, time: LookTime) -> u64 {
        let step = self.steps.longest().unwrap_or_default().max(time.interval_millis());
        USUAL_LAG_MILLIS.max(step.saturating_mul(FACTOR))
    }

    /// Since when records wait and the position does not move; `None`: no record is known to wait.
    pub(crate) fn still_since_millis(&self) -> Option<u64> {
        self.waiting_since_millis.map(|since| since.max(self.moved_millis))
    }

    /// Whether records have been waiting, without a move of the position, for several times as long as a step takes.
    pub(crate) fn is_still_for_long(&self, time: LookTime) -> bool {
        let usual = self.steps.longest().unwrap_or(ASSUMED_STEP_MILLIS).max(time.interval_millis());
        let limit = MIN_STILL_MILLIS.max(usual.saturating_mul(FACTOR));
        self.still_since_millis().is_some_and(|since| time.now_millis.saturating_sub(since) >= limit)
    }

    /// Whether the lease has an owner, who does not renew it.
    pub(crate) fn is_silent(&self, time: LookTime) -> bool {
        let usual = self.renewals.longest().unwrap_or(ASSUMED_RENEWAL_MILLIS).max(time.interval_millis());
        let limit = MIN_SILENCE_MILLIS.max(usual.saturating_mul(FACTOR));
        self.owner.is_some() && time.now_millis.saturating_sub(self.renewed_millis) >= limit
    }

    /// Whether the position is behind an earlier one.
    pub(crate) fn is_rewound(&self) -> bool {
        self.position < self.furthest
    }

    /// Whether the position was ever seen to move.
    fn has_moved(&self) -> bool {
        self.moved_after_millis != 0
    }

    /// Whether the position was seen to move lately.
    pub(crate) fn has_moved_lately(&self, time: LookTime) -> bool {
        let limit = ASSUMED_STEP_MILLIS.max(time.interval_millis()).saturating_mul(FACTOR);
        self.has_moved() && time.now_millis.saturating_sub(self.moved_millis) < limit
    }

    /// Whether the lease was renewed between the two newest looks.
    pub(crate) fn was_just_renewed(&self, time: LookTime) -> bool {
        self.is_renewal_seen && self.renewed_millis == time.now_millis
    }
}
