//! When the next snapshot is due. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// When the next snapshot is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Not before something changes.
    Never,
    /// Now.
    Now,
    /// At this time, unless so many changes come before that it is due at once.
    At(Instant),
}

/// What has happened since the last snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotCadence {
    interval: Duration,
    records: u64,
    /// When the first change came that is in no snapshot.
    changed_at: Option<Instant>,
    changed_records: u64,
    /// After a failure: not before.
    not_before: Option<Instant>,
}

impl SnapshotCadence {
    /// A snapshot is due so long after a change, or after so many records.
    pub fn new(interval: Duration, records: u64) -> Self {
        Self { interval, records, changed_at: None, changed_records: 0, not_before: None }
    }

    /// Takes note of records that went into the state. Returns whether a waiting writer has to look again.
    pub fn changed(&mut self, records: u64, now: Instant) -> bool {
        let was = self.changed_records;
        self.changed_records += records;
        let is_first = self.changed_at.is_none();
        self.changed_at.get_or_insert(now);
        is_first || (was < self.records && self.changed_records >= self.records)
    }

    /// Takes note of a snapshot that holds all but the `records` that came while it was written.
    pub fn written(&mut self, records: u64, now: Instant) {
        self.changed_records = records;
        self.changed_at = (records > 0).then_some(now);
        self.not_before = None;
    }

    /// Takes note of a failure: the next attempt comes after a wait.
    pub fn failed(&mut self, next_attempt: Instant) {
        self.not_before = Some(next_attempt);
    }

    /// The records since the last snapshot.
    pub fn changed_records(&self) -> u64 {
        self.changed_records
    }

    /// When the next one is due.
    pub fn due(&self, now: Instant) -> Due {
        let Some(changed_at) = self.changed_at else { return Due::Never };
        let at = if self.changed_records >= self.records { now } else { changed_at + self.interval };
        let at = self.not_before.map_or(at, |not_before| at.max(not_before));
        if at <= now { Due::Now } else { Due::At(at) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_for_the_interval_or_for_enough_records() {
        let now = Instant::now();
        let mut cadence = SnapshotCadence::new(INTERVAL, 5);
        assert_eq!(cadence.due(now), Due::Never, "an idle shard writes nothing");
        assert!(cadence.changed(1, now));
        assert_eq!(cadence.due(now), Due::At(now + INTERVAL));
        assert!(!cadence.changed(1, now + INTERVAL / 2), "the writer waits for the right time already");
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
        fn whatever_changed_is_written_within_the_interval_of_a_store_that_works(
            steps in prop::collection::vec((0_u64..4, 0_u64..8_000), 1..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let mut cadence = SnapshotCadence::new(INTERVAL, 5);
                let mut now = Instant::now();
                let mut unwritten: Option<(Instant, u64)> = None;
                for (records, millis) in steps {
                    let next = now + Duration::from_millis(millis);
                    // What a waiting writer does until then.
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
