//! What is done about a shard that makes no progress.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a shard may make no progress, and how often it is tried to help it.
///
/// There is progress when a read is answered, with records or without, when records are acknowledged, and when any other
/// step succeeds. So a quiet shard makes progress, and one whose application hangs, or fails again and again, does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchdogLimits {
    /// After so long without progress something is done, and again after as long.
    pub no_progress_time: Duration,
    /// How often the work on the shard is started anew before it is given up.
    pub max_restarts: u32,
}

/// What to do about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogAct {
    /// Nothing; look again at this time.
    LookAgainAt(Instant),
    /// Start the work on the shard anew.
    Restart,
    /// Give the lease up.
    GiveUp,
}

/// Watches one shard: data and time in, what to do out.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog {
    limits: WatchdogLimits,
    /// The newest progress that is known.
    progressed_at: Instant,
    acted_at: Instant,
    restarts: u32,
}

impl Watchdog {
    /// Begins to watch.
    pub fn new(limits: WatchdogLimits, now: Instant) -> Self {
        Self { limits, progressed_at: now, acted_at: now, restarts: 0 }
    }

    /// What to do, given when there was progress the last time.
    pub fn look(&mut self, now: Instant, progressed_at: Option<Instant>) -> WatchdogAct {
        if let Some(progressed_at) = progressed_at
            && progressed_at > self.progressed_at
        {
            // A restart itself reads and delivers, which is progress only when something is acknowledged by it: so the
            // count is forgotten only after as long a time as it takes to notice that there is none.
            if progressed_at >= self.acted_at + self.limits.no_progress_time {
                self.restarts = 0;
            }
            self.progressed_at = progressed_at;
        }
        let due_at = self.progressed_at.max(self.acted_at) + self.limits.no_progress_time;
        if now < due_at {
            return WatchdogAct::LookAgainAt(due_at);
        }
        self.acted_at = now;
        if self.restarts >= self.limits.max_restarts {
            return WatchdogAct::GiveUp;
        }
        self.restarts += 1;
        WatchdogAct::Restart
    }
}

/// How somebody interferes with a running shard worker. Clones mean the same worker.
#[derive(Debug, Clone, Default)]
pub struct Interventions {
    restart: Arc<Notify>,
    give_up: CancellationToken,
}

impl Interventions {
    /// Makes the worker start anew: with a new processor, at what is acknowledged.
    pub fn restart(&self) {
        self.restart.notify_one();
    }

    /// Makes the worker checkpoint what is acknowledged and leave the shard.
    pub fn give_up(&self) {
        self.give_up.cancel();
    }

    pub(crate) async fn restart_asked(&self) {
        self.restart.notified().await;
    }

    /// Ends when [`give_up`](Self::give_up) is called.
    pub async fn given_up(&self) {
        self.give_up.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: WatchdogLimits =
        WatchdogLimits { no_progress_time: Duration::from_secs(60), max_restarts: 2 };

    #[test]
    fn a_shard_without_progress_is_restarted_and_given_up_in_the_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new(LIMITS, start);
        assert_eq!(watchdog.look(at(0), None), WatchdogAct::LookAgainAt(at(60)));
        assert_eq!(watchdog.look(at(59), Some(at(0))), WatchdogAct::LookAgainAt(at(60)));
        assert_eq!(watchdog.look(at(60), Some(at(0))), WatchdogAct::Restart);
        // The restart reads and delivers, and hangs again.
        assert_eq!(watchdog.look(at(61), Some(at(60))), WatchdogAct::LookAgainAt(at(120)));
        assert_eq!(watchdog.look(at(121), Some(at(61))), WatchdogAct::Restart);
        assert_eq!(watchdog.look(at(181), Some(at(121))), WatchdogAct::GiveUp);
    }

    #[test]
    fn progress_for_long_enough_is_a_new_start() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new(LIMITS, start);
        assert_eq!(watchdog.look(at(60), None), WatchdogAct::Restart);
        for seconds in (70..200).step_by(10) {
            assert_eq!(
                watchdog.look(at(seconds), Some(at(seconds))),
                WatchdogAct::LookAgainAt(at(seconds + 60))
            );
        }
        assert_eq!(watchdog.look(at(260), Some(at(190))), WatchdogAct::Restart);
        assert_eq!(watchdog.look(at(320), Some(at(190))), WatchdogAct::Restart);
        assert_eq!(watchdog.look(at(380), Some(at(190))), WatchdogAct::GiveUp);
    }
}
