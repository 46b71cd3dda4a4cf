//! When a shard may be read again. Pure (time in, wait out), except for `wait_until_due`, which sleeps.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::get_records::read_limit::ReadLimit;

/// The most reads of a shard in one second, over all applications that poll it (AWS: five `GetRecords` calls).
const READS_PER_SECOND_PER_SHARD: u32 = 5;

/// The least time between the starts of two reads when a reader uses the whole allowance.
const READ_INTERVAL: Duration = Duration::from_millis(1000 / READS_PER_SECOND_PER_SHARD as u64);

/// The factor by which the idle time grows with each empty read at the tip.
const IDLE_TIME_GROWTH: u32 = 2;

/// The most payload bytes that producers can write to a shard in one second (AWS: 1 MiB). Bounds the next answer to a
/// reader at the tip.
const WRITTEN_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// The largest record of a stream whose limit was not raised, in bytes (AWS: 1 MiB).
pub(crate) const USUAL_RECORD_BYTES: u64 = 1024 * 1024;

/// The most payload bytes in one answer (AWS: 10 MiB).
const MAX_ANSWER_BYTES: u64 = 10 * 1024 * 1024;

/// The payload bytes that a shard yields in one second (AWS: 2 MB), over all applications that poll it. After a larger answer the
/// service refuses reads until the time is up: for five seconds after 10 MB.
const READ_BYTES_PER_SECOND: u64 = 2_000_000;

/// The most records in one answer (AWS: 10,000). After a full answer there may be more, whatever lag the service reports.
const MAX_ANSWER_RECORDS: usize = 10_000;

/// The memory of an answer in flight, as a fraction of its payload: the Base64 text (4/3) plus the decoded bytes.
const MEMORY_PER_PAYLOAD: (u64, u64) = (7, 3);

/// The same for a read through the SDK: it has the text twice while it joins the frames of the body, and buffers of its own.
const MEMORY_PER_PAYLOAD_VIA_SDK: (u64, u64) = (4, 1);

/// How often a shard may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadRate {
    /// The share of a shard's five reads a second that this reader uses, in percent.
    pub(crate) share_percent: u32,
    /// The time between two reads of a reader at the tip.
    pub(crate) idle_time: Duration,
    /// The idle time grows up to this while reads return no records.
    pub(crate) max_idle_time: Duration,
    /// Whether the bytes of an answer delay the next read as AWS requires.
    pub(crate) counts_bytes: bool,
}

impl ReadRate {
    /// The least time between the starts of two reads.
    fn interval(self) -> Duration {
        READ_INTERVAL * 100 / self.share_percent.clamp(1, 100)
    }
}

/// Paces the reads of one shard: as fast as AWS allows while the reader is behind, and with a growing idle time at the tip.
#[derive(Debug, Clone)]
pub(crate) struct ReadPace {
    rate: ReadRate,
    last_read_at: Option<Instant>,
    /// How long the service refuses reads after the last one because of its bytes.
    byte_wait: Duration,
    /// The idle time between the last read and the next; `None`: the reader is behind.
    idle_time: Option<Duration>,
    /// When the last read started, if it reached the tip: all records written before then were read.
    at_tip_since: Option<Instant>,
    /// The last answer was larger than the write limit allows for its time, so the limit does not bound the next one.
    is_bursty: bool,
    /// How many records the next read asks for.
    pub(crate) limit: ReadLimit,
}

impl ReadPace {
    /// The first read is due at once.
    pub(crate) fn new(rate: ReadRate) -> Self {
        Self {
            rate,
            last_read_at: None,
            byte_wait: Duration::ZERO,
            idle_time: None,
            at_tip_since: None,
            is_bursty: false,
            limit: ReadLimit::default(),
        }
    }

    /// How long to wait, from now, before the next read may start.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let Some(last_read_at) = self.last_read_at else { return Duration::ZERO };
        let interval = self.idle_time.unwrap_or_default().max(self.rate.interval()).max(self.byte_wait);
        interval.saturating_sub(now.saturating_duration_since(last_read_at))
    }

    /// Waits until the next read may start.
    pub(crate) async fn wait_until_due(&self) {
        let wait = self.wait(Instant::now());
        // Skip the timer when the read is due: a zero sleep still costs a wake-up of the runtime and up to a millisecond.
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Records the start of a read. A read that fails or is cancelled counts too, since the service may have received it.
    pub(crate) fn started(&mut self, now: Instant) {
        self.last_read_at = Some(now);
    }

    /// Records the answer of a read: its records, their payload bytes, and the lag if the service reported it.
    pub(crate) fn answered(&mut self, records: usize, payload_bytes: u64, millis_behind_latest: Option<u64>) {
        self.is_bursty = self.last_read_at.zip(self.at_tip_since).is_some_and(|(read_at, since)| {
            payload_bytes > written_bytes(read_at.saturating_duration_since(since))
        });
        self.byte_wait = match self.rate.counts_bytes {
            true => Duration::from_millis(payload_bytes.saturating_mul(1000) / READ_BYTES_PER_SECOND),
            false => Duration::ZERO,
        };
        let is_caught_up = match millis_behind_latest {
            Some(millis) => millis == 0 && !self.is_full(records),
            None => records == 0,
        };
        let longer = match self.idle_time {
            Some(idle_time) if records == 0 => idle_time * IDLE_TIME_GROWTH,
            _ => self.rate.idle_time,
        };
        let longest = self.rate.max_idle_time.max(self.rate.idle_time);
        self.idle_time = is_caught_up.then(|| longer.min(longest));
        self.at_tip_since = self.last_read_at.filter(|_| millis_behind_latest == Some(0));
    }

    /// Whether an answer has as many records as it can have, so that there may be more, whatever lag it reports.
    pub(crate) fn is_full(&self, records: usize) -> bool {
        let asked_for = self.limit.get().and_then(|limit| usize::try_from(limit).ok());
        records >= asked_for.unwrap_or(MAX_ANSWER_RECORDS)
    }

    /// The most memory that the next answer takes, in bytes, in flight and decoded. A record of the largest size that the stream
    /// accepts may have been written at once, whatever the shard accepts in a second.
    pub(crate) fn max_memory_bytes(&self, now: Instant, largest_record: u64, is_direct: bool) -> u64 {
        let (times, over) = if is_direct { MEMORY_PER_PAYLOAD } else { MEMORY_PER_PAYLOAD_VIA_SDK };
        let at_once = largest_record.saturating_sub(USUAL_RECORD_BYTES);
        self.max_payload_bytes(now).saturating_add(at_once).min(MAX_ANSWER_BYTES) * times / over
    }

    /// The most payload bytes that can have been written since the last read; `u64::MAX`: not known.
    fn max_payload_bytes(&self, now: Instant) -> u64 {
        let Some(since) = self.at_tip_since.filter(|_| !self.is_bursty) else { return u64::MAX };
        written_bytes(now.saturating_duration_since(since))
    }
}

/// The most payload bytes that can be written to a shard in a time.
fn written_bytes(time: Duration) -> u64 {
    // Round up, and add a second: the service's one-second windows start at any time.
    time.as_secs().saturating_add(2).saturating_mul(WRITTEN_BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use proptest::prelude::*;

    use super::*;

    const IDLE: Duration = Duration::from_secs(1);
    const MAX_IDLE: Duration = Duration::from_secs(5);
    const RATE: ReadRate =
        ReadRate { share_percent: 100, idle_time: IDLE, max_idle_time: MAX_IDLE, counts_bytes: true };

    #[tokio::test(start_paused = true)]
    async fn due_read_does_not_sleep() {
        let mut pace = ReadPace::new(RATE);
        // Timers have whole milliseconds: between two of them, even a zero sleep waits.
        tokio::time::advance(Duration::from_micros(1500)).await;
        let is_ready = |pace: &ReadPace| {
            let wait = std::pin::pin!(pace.wait_until_due());
            wait.poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        assert!(is_ready(&pace), "the first read is due at once");
        pace.started(Instant::now());
        assert!(!is_ready(&pace));
        pace.wait_until_due().await;
        assert!(is_ready(&pace), "the interval has passed");
    }

    /// One read: the duration of the call, its answer (records and lag), and how long the caller was busy afterwards.
    /// `answer` is `None` when the read failed or was cancelled.
    #[derive(Debug, Clone)]
    struct Read {
        took: Duration,
        answer: Option<(usize, Option<u64>)>,
        busy: Duration,
    }

    /// Some readers are fast throughout, others slow.
    fn reads() -> impl Strategy<Value = Vec<Read>> {
        (1..1500_u64).prop_flat_map(|slowest| {
            let millis = move || (0..slowest).prop_map(Duration::from_millis);
            let answer = prop::option::of((0..3_usize, prop::option::of(0..3_u64)));
            let read =
                (millis(), answer, millis()).prop_map(|(took, answer, busy)| Read { took, answer, busy });
            prop::collection::vec(read, 1..60)
        })
    }

    /// Runs the reads, and returns for each the wait before it and its start.
    fn simulate(reads: &[Read], rate: ReadRate) -> Vec<(Duration, Instant)> {
        let (mut now, mut pace) = (Instant::now(), ReadPace::new(rate));
        let mut started = Vec::new();
        for read in reads {
            let wait = pace.wait(now);
            now += wait;
            assert_eq!(pace.wait(now), Duration::ZERO, "due after the wait");
            pace.started(now);
            started.push((wait, now));
            now += read.took;
            if let Some((records, millis_behind_latest)) = read.answer {
                pace.answered(records, 0, millis_behind_latest);
            }
            now += read.busy;
        }
        started
    }

    proptest! {
        #[test]
        fn reads_never_exceed_five_a_second(reads in reads()) {
            let started = simulate(&reads, RATE);
            for window in started.windows(READS_PER_SECOND_PER_SHARD as usize + 1) {
                let first = window[0].1;
                let next_after_limit = window[READS_PER_SECOND_PER_SHARD as usize].1;
                prop_assert!(next_after_limit - first >= Duration::from_secs(1));
            }
        }

        /// 40 percent of five reads are two a second.
        #[test]
        fn reads_never_exceed_the_share(reads in reads()) {
            let started = simulate(&reads, ReadRate { share_percent: 40, ..RATE });
            for window in started.windows(3) {
                prop_assert!(window[2].1 - window[0].1 >= Duration::from_secs(1));
            }
        }

        #[test]
        fn reader_that_is_behind_has_no_idle_time(reads in reads()) {
            let started = simulate(&reads, RATE);
            for (read, (wait, _)) in reads.iter().zip(started.iter().skip(1)) {
                let is_behind = matches!(read.answer, Some((1.., None) | (_, Some(1..))));
                if is_behind {
                    prop_assert!(*wait <= READ_INTERVAL.saturating_sub(read.took));
                }
            }
        }

        /// The idle time doubles up to its maximum, and restarts after a read with records; a failed read changes nothing. A reader
        /// without lag is caught up, even if its reads have records.
        #[test]
        fn idle_time_grows_at_the_tip(reads in reads()) {
            let started = simulate(&reads, RATE);
            let mut idle_time = Duration::ZERO;
            for (index, pair) in started.windows(2).enumerate() {
                match reads[index].answer {
                    Some((0, None | Some(0))) => idle_time = (idle_time * 2).clamp(IDLE, MAX_IDLE),
                    Some((1.., Some(0))) => idle_time = IDLE,
                    Some(_) => idle_time = Duration::ZERO,
                    None => {}
                }
                prop_assert!(pair[1].1 - pair[0].1 >= idle_time);
                // The wait is not longer than that, since the time since the read counts.
                prop_assert!(pair[1].0 <= idle_time.max(READ_INTERVAL).saturating_sub(reads[index].took));
            }
        }
    }

    #[test]
    fn first_read_is_due_at_once() {
        assert_eq!(ReadPace::new(RATE).wait(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn idle_time_below_the_aws_limit_has_no_effect() {
        let (now, mut pace) = (
            Instant::now(),
            ReadPace::new(ReadRate { idle_time: Duration::ZERO, max_idle_time: Duration::ZERO, ..RATE }),
        );
        pace.started(now);
        pace.answered(0, 0, Some(0));
        assert_eq!(pace.wait(now), READ_INTERVAL);
    }

    #[test]
    fn memory_bound_is_the_write_limit_or_the_largest_answer() {
        const MIB: u64 = 1024 * 1024;
        const DIRECT: bool = true;
        let (start, mut pace) = (Instant::now(), ReadPace::new(RATE));
        let after = |seconds| start + Duration::from_secs(seconds);
        let largest = 10 * MIB * 7 / 3;
        assert_eq!(pace.max_memory_bytes(start, MIB, DIRECT), largest, "unknown before the first answer");
        pace.started(start);
        pace.answered(1, MIB, Some(7));
        assert_eq!(pace.max_memory_bytes(start, MIB, DIRECT), largest, "the reader is behind");
        pace.started(start);
        pace.answered(1, MIB, Some(0));
        assert_eq!(pace.max_memory_bytes(after(1), MIB, DIRECT), 3 * MIB * 7 / 3);
        assert_eq!(pace.max_memory_bytes(after(1000), MIB, DIRECT), largest);
        // A failed read changes nothing.
        pace.started(after(2));
        assert_eq!(pace.max_memory_bytes(after(2), MIB, DIRECT), 4 * MIB * 7 / 3);
        pace.answered(1, 9 * MIB, Some(0));
        assert_eq!(
            pace.max_memory_bytes(after(3), MIB, DIRECT),
            largest,
            "after an answer above the write limit"
        );
        pace.started(after(8));
        pace.answered(1, MIB, Some(0));
        assert_eq!(
            pace.max_memory_bytes(after(8), MIB, DIRECT),
            2 * MIB * 7 / 3,
            "one burst is not remembered"
        );
        assert_eq!(
            pace.max_memory_bytes(after(8), 3 * MIB, DIRECT),
            4 * MIB * 7 / 3,
            "a large record comes at once"
        );
        assert_eq!(pace.max_memory_bytes(after(8), 10 * MIB, DIRECT), largest);
        assert_eq!(pace.max_memory_bytes(after(8), MIB, !DIRECT), 2 * MIB * 4, "the SDK copies the text");
    }

    /// AWS refuses a shard for five seconds after 10 MB.
    #[test]
    fn large_answer_delays_the_next_read() {
        const MIB: u64 = 1024 * 1024;
        let (start, mut pace) = (Instant::now(), ReadPace::new(RATE));
        pace.started(start);
        pace.answered(1000, 10 * MIB, Some(60_000));
        assert!(pace.wait(start) >= Duration::from_secs(5), "{:?}", pace.wait(start));
        assert!(pace.wait(start) < Duration::from_secs(6), "{:?}", pace.wait(start));
        // After a small answer five reads a second are still allowed.
        pace.started(start);
        pace.answered(1000, MIB / 4, Some(60_000));
        assert_eq!(pace.wait(start), READ_INTERVAL);
        let mut unlimited = ReadPace::new(ReadRate { counts_bytes: false, ..RATE });
        unlimited.started(start);
        unlimited.answered(1000, 10 * MIB, Some(60_000));
        assert_eq!(unlimited.wait(start), READ_INTERVAL);
    }

    proptest! {
        /// Whatever the answers are, the bytes stay within the rate of the shard.
        #[test]
        fn bytes_never_exceed_the_rate(answers in prop::collection::vec(0..10_485_760_u64, 1..40)) {
            let (start, mut pace) = (Instant::now(), ReadPace::new(RATE));
            let (mut now, mut before) = (start, 0);
            for bytes in answers {
                now += pace.wait(now);
                prop_assert!(before <= u64::try_from((now - start).as_millis()).unwrap() * READ_BYTES_PER_SECOND / 1000 + 40 * READ_BYTES_PER_SECOND / 1000);
                pace.started(now);
                pace.answered(10, bytes, Some(1000));
                before += bytes;
            }
        }
    }
}
