//! When a shard may be read again: pure, time in, wait out, but for `turn`, which waits.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The most reads of a shard in one second, over all applications that poll it (AWS: five `GetRecords` calls).
const READS_PER_SECOND_PER_SHARD: u32 = 5;

/// The least time between the beginnings of two reads, if a reader has all of them.
const READ_INTERVAL: Duration = Duration::from_millis(1000 / READS_PER_SECOND_PER_SHARD as u64);

/// By how much the idle time grows with each read that finds a reader caught up and brings nothing.
const IDLE_TIME_GROWTH: u32 = 2;

/// The most bytes of payload that are written to a shard in one second (AWS: 1 MiB), and so what a reader at the tip can
/// find after one.
const WRITTEN_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// The most bytes of payload in one answer (AWS: 10 MiB).
const MAX_ANSWER_BYTES: u64 = 10 * 1024 * 1024;

/// How much memory an answer takes while it is under way, as a fraction of its payload: as Base64 text (4/3), and decoded.
const MEMORY_PER_PAYLOAD: (u64, u64) = (7, 3);

/// How often a shard is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadRate {
    /// The share of the reads that AWS allows for a shard, in percent; the rest is for other applications.
    pub(crate) share_percent: u32,
    /// The time between two reads once a reader is caught up.
    pub(crate) idle_time: Duration,
    /// That time grows up to this while nothing comes.
    pub(crate) max_idle_time: Duration,
}

impl ReadRate {
    /// The least time between the beginnings of two reads.
    fn interval(self) -> Duration {
        READ_INTERVAL * 100 / self.share_percent.clamp(1, 100)
    }
}

/// Paces the reads of one shard: never more than AWS allows, at once while there is more to read, and with idle time in
/// between, which grows, once there is not.
#[derive(Debug, Clone)]
pub(crate) struct ReadPace {
    rate: ReadRate,
    last_read_at: Option<Instant>,
    /// The time that the next read has to wait after the last one; `None`: no idle time.
    idle_time: Option<Duration>,
    /// Everything that was written before this was read.
    at_tip_since: Option<Instant>,
    /// An answer was larger than what is written in its time: there are records beyond the usual size.
    is_bursty: bool,
}

impl ReadPace {
    /// The first read is due at once.
    pub(crate) fn new(rate: ReadRate) -> Self {
        Self { rate, last_read_at: None, idle_time: None, at_tip_since: None, is_bursty: false }
    }

    /// How long to wait, from now, before the next read may begin.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let Some(last_read_at) = self.last_read_at else { return Duration::ZERO };
        let interval = self.idle_time.unwrap_or_default().max(self.rate.interval());
        interval.saturating_sub(now.saturating_duration_since(last_read_at))
    }

    /// Waits until the next read may begin.
    pub(crate) async fn turn(&self) {
        let wait = self.wait(Instant::now());
        // No time is not free to wait for: it is a timer, a wake-up of the runtime and up to a millisecond.
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// A read begins. It counts even if it fails or is cancelled: the service may have seen it.
    pub(crate) fn started(&mut self, now: Instant) {
        self.last_read_at = Some(now);
    }

    /// A read was answered: with so many records of so many bytes, and this far behind the tip where the service says so.
    pub(crate) fn answered(&mut self, records: usize, payload_bytes: u64, millis_behind_latest: Option<u64>) {
        self.is_bursty |=
            self.last_read_at.is_some_and(|read_at| payload_bytes > self.payload_at_most(read_at));
        let is_caught_up = records == 0 && millis_behind_latest.unwrap_or(0) == 0;
        let longer = self.idle_time.map_or(self.rate.idle_time, |idle_time| idle_time * IDLE_TIME_GROWTH);
        let longest = self.rate.max_idle_time.max(self.rate.idle_time);
        self.idle_time = is_caught_up.then(|| longer.min(longest));
        self.at_tip_since = self.last_read_at.filter(|_| millis_behind_latest == Some(0));
    }

    /// The most memory that the next answer takes, in bytes, while it is under way and afterwards.
    pub(crate) fn memory_at_most(&self, now: Instant) -> u64 {
        let (times, over) = MEMORY_PER_PAYLOAD;
        self.payload_at_most(now).min(MAX_ANSWER_BYTES) * times / over
    }

    /// What can have been written since the last read; where that is not known, there is no limit to it.
    fn payload_at_most(&self, now: Instant) -> u64 {
        let Some(since) = self.at_tip_since.filter(|_| !self.is_bursty) else { return u64::MAX };
        // One second more: what the service counts as one second may begin at any time, and so may a record.
        let seconds = now.saturating_duration_since(since).as_secs().saturating_add(2);
        seconds.saturating_mul(WRITTEN_BYTES_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use proptest::prelude::*;

    use super::*;

    const IDLE: Duration = Duration::from_secs(1);
    const MAX_IDLE: Duration = Duration::from_secs(5);
    const RATE: ReadRate = ReadRate { share_percent: 100, idle_time: IDLE, max_idle_time: MAX_IDLE };

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_has_come_is_not_waited_for() {
        let mut pace = ReadPace::new(RATE);
        // Timers go by whole milliseconds, and between two of them even no time has to be waited for.
        tokio::time::advance(Duration::from_micros(1500)).await;
        let is_ready = |pace: &ReadPace| {
            let turn = std::pin::pin!(pace.turn());
            turn.poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        assert!(is_ready(&pace), "nothing was read yet");
        pace.started(Instant::now());
        assert!(!is_ready(&pace));
        pace.turn().await;
        assert!(is_ready(&pace), "the wait is over");
    }

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
    fn simulate(reads: &[Read], rate: ReadRate) -> Vec<(Duration, Instant)> {
        let (mut now, mut pace) = (Instant::now(), ReadPace::new(rate));
        let mut begun = Vec::new();
        for read in reads {
            let wait = pace.wait(now);
            now += wait;
            assert_eq!(pace.wait(now), Duration::ZERO, "after the wait it is due");
            pace.started(now);
            begun.push((wait, now));
            now += read.took;
            if let Some((records, millis_behind_latest)) = read.answer {
                pace.answered(records, 0, millis_behind_latest);
            }
            now += read.busy;
        }
        begun
    }

    proptest! {
        #[test]
        fn never_more_reads_in_a_second_than_aws_allows(reads in reads()) {
            let begun = simulate(&reads, RATE);
            for window in begun.windows(READS_PER_SECOND_PER_SHARD as usize + 1) {
                let first = window[0].1;
                let next_after_limit = window[READS_PER_SECOND_PER_SHARD as usize].1;
                prop_assert!(next_after_limit - first >= Duration::from_secs(1));
            }
        }

        /// At 40 percent of five reads, two in a second.
        #[test]
        fn never_more_reads_than_its_share(reads in reads()) {
            let begun = simulate(&reads, ReadRate { share_percent: 40, ..RATE });
            for window in begun.windows(3) {
                prop_assert!(window[2].1 - window[0].1 >= Duration::from_secs(1));
            }
        }

        #[test]
        fn no_idle_time_while_behind(reads in reads()) {
            let begun = simulate(&reads, RATE);
            for (read, (wait, _)) in reads.iter().zip(begun.iter().skip(1)) {
                let is_behind = matches!(read.answer, Some((1.., _) | (_, Some(1..))));
                if is_behind {
                    prop_assert!(*wait <= READ_INTERVAL.saturating_sub(read.took));
                }
            }
        }

        /// It doubles up to the longest, and begins anew after anything that came; a failed read changes nothing.
        #[test]
        fn idle_time_that_grows_once_caught_up(reads in reads()) {
            let begun = simulate(&reads, RATE);
            let mut idle_time = Duration::ZERO;
            for (index, pair) in begun.windows(2).enumerate() {
                match reads[index].answer {
                    Some((0, None | Some(0))) => idle_time = (idle_time * 2).clamp(IDLE, MAX_IDLE),
                    Some(_) => idle_time = Duration::ZERO,
                    None => {}
                }
                prop_assert!(pair[1].1 - pair[0].1 >= idle_time);
                // And not more than that: the time since the read counts.
                prop_assert!(pair[1].0 <= idle_time.max(READ_INTERVAL).saturating_sub(reads[index].took));
            }
        }
    }

    #[test]
    fn the_first_read_is_due_at_once() {
        assert_eq!(ReadPace::new(RATE).wait(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn an_idle_time_below_the_limit_of_aws_does_not_undercut_it() {
        let (now, mut pace) = (
            Instant::now(),
            ReadPace::new(ReadRate { idle_time: Duration::ZERO, max_idle_time: Duration::ZERO, ..RATE }),
        );
        pace.started(now);
        pace.answered(0, 0, Some(0));
        assert_eq!(pace.wait(now), READ_INTERVAL);
    }

    #[test]
    fn an_answer_takes_what_was_written_since_or_all_there_can_be() {
        const MIB: u64 = 1024 * 1024;
        let (start, mut pace) = (Instant::now(), ReadPace::new(RATE));
        let after = |seconds| start + Duration::from_secs(seconds);
        let largest = 10 * MIB * 7 / 3;
        assert_eq!(pace.memory_at_most(start), largest, "nothing is known before the first answer");
        pace.started(start);
        pace.answered(1, MIB, Some(7));
        assert_eq!(pace.memory_at_most(start), largest, "behind");
        pace.started(start);
        pace.answered(1, MIB, Some(0));
        assert_eq!(pace.memory_at_most(after(1)), 3 * MIB * 7 / 3);
        assert_eq!(pace.memory_at_most(after(1000)), largest);
        // A failed read tells nothing new.
        pace.started(after(2));
        assert_eq!(pace.memory_at_most(after(2)), 4 * MIB * 7 / 3);
        pace.answered(1, 9 * MIB, Some(0));
        assert_eq!(pace.memory_at_most(after(3)), largest, "records of an unusual size are remembered");
    }
}
