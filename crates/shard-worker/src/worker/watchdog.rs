//! When a shard without progress is restarted or given up, and how a worker is commanded to do so.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a shard may make no progress, and how many restarts it gets.
///
/// Progress is an answered read, with records or without, an acknowledgement, and any other step that succeeds. So a quiet
/// shard makes progress. A shard whose application hangs, or fails again and again, does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchdogLimits {
    /// The watchdog acts after this time without progress, and again after each further one.
    pub no_progress_time: Duration,
    /// The number of restarts before the watchdog gives the shard up.
    pub max_restarts: u32,
}

impl WatchdogLimits {
    /// These limits.
    pub const fn new(no_progress_time: Duration, max_restarts: u32) -> Self {
        Self { no_progress_time, max_restarts }
    }
}

/// What to do about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogAct {
    /// Nothing; check again at this time.
    CheckAgainAt(Instant),
    /// Restart the work on the shard.
    Restart,
    /// Release the lease without progress.
    GiveUp,
}

/// Watches the progress of one shard: data and time in, a decision out.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog {
    limits: WatchdogLimits,
    /// The newest known progress.
    progressed_at: Instant,
    acted_at: Instant,
    restarts: u32,
}

impl Watchdog {
    /// Starts to watch.
    pub fn new(limits: WatchdogLimits, now: Instant) -> Self {
        Self { limits, progressed_at: now, acted_at: now, restarts: 0 }
    }

    /// Decides what to do; `progressed_at` is the newest progress of the shard.
    pub fn check(&mut self, now: Instant, progressed_at: Option<Instant>) -> WatchdogAct {
        if let Some(progressed_at) = progressed_at
            && progressed_at > self.progressed_at
        {
            // A restart reads and delivers again, which looks like progress for a moment. The restarts are forgotten only
            // when there is progress later than a full `no_progress_time` after the last one.
            if progressed_at >= self.acted_at + self.limits.no_progress_time {
                self.restarts = 0;
            }
            self.progressed_at = progressed_at;
        }
        let due_at = self.progressed_at.max(self.acted_at) + self.limits.no_progress_time;
        if now < due_at {
            return WatchdogAct::CheckAgainAt(due_at);
        }
        self.acted_at = now;
        if self.restarts >= self.limits.max_restarts {
            return WatchdogAct::GiveUp;
        }
        self.restarts += 1;
        WatchdogAct::Restart
    }
}

/// Commands of a watchdog to a running shard worker. Clones command the same worker.
#[derive(Debug, Clone, Default)]
pub struct WatchdogCommands {
    restart: Arc<Notify>,
    give_up: CancellationToken,
}

impl WatchdogCommands {
    /// Makes the worker restart at the acknowledged position, with a new processor.
    pub fn restart(&self) {
        self.restart.notify_one();
    }

    /// Makes the worker checkpoint the acknowledged position and end with
    /// [`ShardOutcome::GivenUp`](crate::ShardOutcome::GivenUp).
    pub fn give_up(&self) {
        self.give_up.cancel();
    }

    pub(crate) async fn restart_requested(&self) {
        self.restart.notified().await;
    }

    /// Completes when [`give_up`](Self::give_up) is called, or at once if that was before.
    pub async fn give_up_requested(&self) {
        self.give_up.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: WatchdogLimits =
        WatchdogLimits { no_progress_time: Duration::from_secs(60), max_restarts: 2 };

    #[test]
    fn a_shard_without_progress_is_restarted_then_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new(LIMITS, start);
        assert_eq!(watchdog.check(at(0), None), WatchdogAct::CheckAgainAt(at(60)));
        assert_eq!(watchdog.check(at(59), Some(at(0))), WatchdogAct::CheckAgainAt(at(60)));
        assert_eq!(watchdog.check(at(60), Some(at(0))), WatchdogAct::Restart);
        // The restarted worker reads and delivers, then hangs again.
        assert_eq!(watchdog.check(at(61), Some(at(60))), WatchdogAct::CheckAgainAt(at(120)));
        assert_eq!(watchdog.check(at(121), Some(at(61))), WatchdogAct::Restart);
        assert_eq!(watchdog.check(at(181), Some(at(121))), WatchdogAct::GiveUp);
    }

    #[test]
    fn lasting_progress_resets_the_restarts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new(LIMITS, start);
        assert_eq!(watchdog.check(at(60), None), WatchdogAct::Restart);
        for seconds in (70..200).step_by(10) {
            assert_eq!(
                watchdog.check(at(seconds), Some(at(seconds))),
                WatchdogAct::CheckAgainAt(at(seconds + 60))
            );
        }
        assert_eq!(watchdog.check(at(260), Some(at(190))), WatchdogAct::Restart);
        assert_eq!(watchdog.check(at(320), Some(at(190))), WatchdogAct::Restart);
        assert_eq!(watchdog.check(at(380), Some(at(190))), WatchdogAct::GiveUp);
    }
}
