//! The schedule of snapshots: after an interval or a number of records. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// When the next snapshot is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Not before the next change.
    Never,
    /// Now.
    Now,
    /// At this time, or earlier after enough records.
    At(Instant),
}

/// The changes since the last snapshot.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotCadence {
    interval: Duration,
    records: u64,
    /// The time of the first change that is in no snapshot.
    changed_at: Option<Instant>,
    changed_records: u64,
    /// After a failure, the time of the next attempt.
    not_before: Option<Instant>,
}

impl SnapshotCadence {
    /// A snapshot is due `interval` after a change, or after `records` changed records.
    pub(crate) fn new(interval: Duration, records: u64) -> Self {
        Self { interval, records, changed_at: None, changed_records: 0, not_before: None }
    }

    /// Counts records that were applied to the state. Returns whether a waiting writer must check the due time again.
    pub(crate) fn changed(&mut self, records: u64, now: Instant) -> bool {
        let was = self.changed_records;
        self.changed_records += records;
        let is_first = self.changed_at.is_none();
        self.changed_at.get_or_insert(now);
        is_first || (was < self.records && self.changed_records >= self.records)
    }

    /// Records a snapshot that holds all but the `records` applied while it was written.
    pub(crate) fn written(&mut self, records: u64, now: Instant) {
        self.changed_records = records;
        self.changed_at = (records > 0).then_some(now);
        self.not_before = None;
    }

    /// Records a failed attempt.
    pub(crate) fn failed(&mut self, next_attempt: Instant) {
        self.not_before = Some(next_attempt);
    }

    /// The number of records since the last snapshot.
    pub(crate) fn changed_records(&self) -> u64 {
        self.changed_records
    }

    /// When the next snapshot is due.
    pub(crate) fn due(&self, now: Instant) -> Due {
        let Some(changed_at) = self.changed_at else { return Due::Never };
        let at = if self.changed_records >= self.records { now } else { changed_at + self.interval };
        let at = self.not_before.map_or(at, |not_before| at.max(not_before));
        if at <= now { Due::Now } else { Due::At(at) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use test_support::run_with_paused_clock;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_due_after_the_interval_or_enough_records() {
        let now = Instant::now();
        let mut cadence = SnapshotCadence::new(INTERVAL, 5);
        assert_eq!(cadence.due(now), Due::Never, "an idle shard writes nothing");
        assert!(cadence.changed(1, now));
        assert_eq!(cadence.due(now), Due::At(now + INTERVAL));
        assert!(!cadence.changed(1, now + INTERVAL / 2), "the writer already waits for the right time");
        assert_eq!(cadence.due(now + INTERVAL), Due::Now);
        assert!(cadence.changed(3, now));
        assert_eq!(cadence.due(now), Due::Now);
        cadence.failed(now + Duration::from_secs(1));
        assert_eq!(cadence.due(now), Due::At(now + Duration::from_secs(1)));
        cadence.written(0, now);
        assert_eq!(cadence.due(now), Due::Never);
    }

    proptest! {
        #[test]
        fn a_change_is_written_within_the_interval(
            steps in prop::collection::vec((0_u64..4, 0_u64..8_000), 1..60),
        ) {
            run_with_paused_clock(async {
                let mut cadence = SnapshotCadence::new(INTERVAL, 5);
                let mut now = Instant::now();
                let mut unwritten: Option<(Instant, u64)> = None;
                for (records, millis) in steps {
                    let next = now + Duration::from_millis(millis);
                    // A waiting writer writes until then.
                    match cadence.due(now) {
                        Due::Now => { cadence.written(0, now); unwritten = None; }
                        Due::At(at) if at <= next => { cadence.written(0, at); unwritten = None; }
                        _ => {}
                    }
                    now = next;
                    if records > 0 {
                        cadence.changed(records, now);
                        unwritten = Some(unwritten.map_or((now, records), |(since, count)| (since, count + records)));
                    }
                    if let Some((since, count)) = unwritten {
                        prop_assert!(since + INTERVAL >= now, "too late");
                        prop_assert_eq!(cadence.due(now) == Due::Now, count >= 5 || since + INTERVAL == now);
                    }
                }
                Ok(())
            })?;
        }
    }
}
