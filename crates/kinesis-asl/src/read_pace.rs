//! When a shard may be read again: pure, time in, wait out.

use std::time::Duration;

use tokio::time::Instant;

/// The most reads of a shard in one second, over all applications that poll it (AWS: five `GetRecords` calls).
const READS_PER_SECOND_PER_SHARD: u32 = 5;

/// The least time between the beginnings of two reads.
const READ_INTERVAL: Duration = Duration::from_millis(1000 / READS_PER_SECOND_PER_SHARD as u64);

/// Paces the reads of one shard: never more than AWS allows, at once while there is more to read, and with idle time in
/// between once there is not.
#[derive(Debug, Clone)]
pub(crate) struct ReadPace {
    idle_time: Duration,
    last_read_at: Option<Instant>,
    is_caught_up: bool,
}

impl ReadPace {
    /// The first read is due at once.
    pub(crate) fn new(idle_time: Duration) -> Self {
        Self { idle_time, last_read_at: None, is_caught_up: false }
    }

    /// How long to wait, from now, before the next read may begin.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let Some(last_read_at) = self.last_read_at else { return Duration::ZERO };
        let interval = if self.is_caught_up { self.idle_time.max(READ_INTERVAL) } else { READ_INTERVAL };
        interval.saturating_sub(now.saturating_duration_since(last_read_at))
    }

    /// A read begins. It counts even if it fails or is cancelled: the service may have seen it.
    pub(crate) fn started(&mut self, now: Instant) {
        self.last_read_at = Some(now);
    }

    /// A read was answered: with this many records, and this far behind the tip where the service says so.
    pub(crate) fn answered(&mut self, records: usize, millis_behind_latest: Option<u64>) {
        self.is_caught_up = records == 0 && millis_behind_latest.unwrap_or(0) == 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: Duration = Duration::from_secs(1);

    /// One read: how long its answer took, what it held, and how long the caller was busy afterwards. `None`: it failed
    /// or was cancelled.
    #[derive(Debug, Clone)]
    struct Read {
        took: Duration,
        answer: Option<(usize, Option<u64>)>,
        busy: Duration,
    }

    /// Some readers are quick throughout, others slow.
    fn reads() -> impl Strategy<Value = Vec<Read>> {
        (1..1500_u64).prop_flat_map(|slowest| {
            let millis = move || (0..slowest).prop_map(Duration::from_millis);
            let answer = prop::option::of((0..3_usize, prop::option::of(0..3_u64)));
            let read =
                (millis(), answer, millis()).prop_map(|(took, answer, busy)| Read { took, answer, busy });
            prop::collection::vec(read, 1..60)
        })
    }

    /// Carries the reads out and gives the wait before each, and when it began.
    fn simulate(reads: &[Read]) -> Vec<(Duration, Instant)> {
        let (mut now, mut pace) = (Instant::now(), ReadPace::new(IDLE));
        let mut begun = Vec::new();
        for read in reads {
            let wait = pace.wait(now);
            now += wait;
            assert_eq!(pace.wait(now), Duration::ZERO, "after the wait it is due");
            pace.started(now);
            begun.push((wait, now));
            now += read.took;
            if let Some((records, millis_behind_latest)) = read.answer {
                pace.answered(records, millis_behind_latest);
            }
            now += read.busy;
        }
        begun
    }

    proptest! {
        #[test]
        fn never_more_reads_in_a_second_than_aws_allows(reads in reads()) {
            let begun = simulate(&reads);
            for window in begun.windows(READS_PER_SECOND_PER_SHARD as usize + 1) {
                let first = window[0].1;
                let next_after_limit = window[READS_PER_SECOND_PER_SHARD as usize].1;
                prop_assert!(next_after_limit - first >= Duration::from_secs(1));
            }
        }

        #[test]
        fn no_idle_time_while_behind(reads in reads()) {
            let begun = simulate(&reads);
            for (read, (wait, _)) in reads.iter().zip(begun.iter().skip(1)) {
                let is_behind = matches!(read.answer, Some((1.., _) | (_, Some(1..))));
                if is_behind {
                    prop_assert!(*wait <= READ_INTERVAL.saturating_sub(read.took));
                }
            }
        }

        #[test]
        fn idle_time_once_caught_up(reads in reads()) {
            let begun = simulate(&reads);
            for (index, pair) in begun.windows(2).enumerate() {
                if matches!(reads[index].answer, Some((0, None | Some(0)))) {
                    prop_assert!(pair[1].1 - pair[0].1 >= IDLE);
                    // And not more than that: the time since the read counts.
                    prop_assert!(pair[1].0 <= IDLE.saturating_sub(reads[index].took));
                }
            }
        }
    }

    #[test]
    fn the_first_read_is_due_at_once() {
        assert_eq!(ReadPace::new(IDLE).wait(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn an_idle_time_below_the_limit_of_aws_does_not_undercut_it() {
        let (now, mut pace) = (Instant::now(), ReadPace::new(Duration::ZERO));
        pace.started(now);
        pace.answered(0, Some(0));
        assert_eq!(pace.wait(now), READ_INTERVAL);
    }
}
