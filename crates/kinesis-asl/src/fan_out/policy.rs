//! When a shard is subscribed to, and when it is polled instead: pure, time and randomness in, plan out.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

/// AWS refuses a subscription within five seconds after another one of the same consumer to the same shard, and later
/// lets the new one take over.
pub(crate) const SUBSCRIPTION_INTERVAL: Duration = Duration::from_secs(5);

/// Added to [`SUBSCRIPTION_INTERVAL`] at the least, and up to twice as much: the clocks of both sides begin at
/// different ends of the call.
const INTERVAL_MARGIN: Duration = Duration::from_millis(250);

/// How old a subscription gets before it is replaced. The service ends it after 5 min. What is drawn is at most
/// [`RENEWAL_SPREAD`] less, so that shards which started together do not all renew together.
const RENEWAL_AGE: Duration = Duration::from_secs(285);

/// By how much the ages at renewal differ.
const RENEWAL_SPREAD: Duration = Duration::from_secs(45);

/// How many sessions fail in a row before the shard is polled.
pub(crate) const FAILED_SESSIONS_BEFORE_POLLING: u32 = 5;

/// A session that broke after this time, and brought events, counts as a good one.
const STEADY_SESSION: Duration = Duration::from_secs(30);

/// The wait after the first failure; it doubles with each further one. It never undercuts [`SUBSCRIPTION_INTERVAL`].
const FIRST_BACKOFF: Duration = Duration::from_secs(2);

/// The longest wait after a failure.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// How often the wait doubles at the most; by then it is the longest.
const MAX_DOUBLINGS: u32 = 4;

/// How a session came to its end, or that it never began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The service ended it as it does every five minutes, or we did to renew it.
    Over,
    /// Another subscriber has the shard, or had it less than five seconds ago.
    InUse,
    /// Anything else.
    Failed,
}

/// What to do after a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Subscribe again, after the wait.
    Subscribe,
    /// Fan-out does not work here, now: poll until this time.
    PollUntil(Instant),
}

/// Decides over the subscriptions of one shard.
#[derive(Debug)]
pub(crate) struct SubscriptionPolicy {
    rng: Rng,
    /// How long to poll before fan-out is tried again; `None`: polling is not allowed.
    poll_for: Option<Duration>,
    /// When the service last accepted a subscription, or may have.
    subscribed_at: Option<Instant>,
    /// When the running session is to be replaced.
    renew_at: Option<Instant>,
    has_brought_events: bool,
    not_before: Option<Instant>,
    failures: u32,
}

impl SubscriptionPolicy {
    /// The first subscription is due at once.
    pub(crate) fn new(rng: Rng, poll_for: Option<Duration>) -> Self {
        Self {
            rng,
            poll_for,
            subscribed_at: None,
            renew_at: None,
            has_brought_events: false,
            not_before: None,
            failures: 0,
        }
    }

    /// How long to wait, from now, before the next subscription.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    /// The request goes out. From here on the service may have accepted it, whether or not an answer arrives; so the
    /// next one keeps its distance even if this one is cancelled.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.accepted(now);
    }

    /// The service accepted it.
    pub(crate) fn accepted(&mut self, now: Instant) {
        self.subscribed_at = Some(now);
        self.has_brought_events = false;
        self.not_before = Some(now + self.interval());
        self.renew_at = Some(now + RENEWAL_AGE - self.up_to(RENEWAL_SPREAD));
    }

    /// The session brought an event.
    pub(crate) fn event(&mut self) {
        self.has_brought_events = true;
    }

    /// When the session is to be replaced.
    pub(crate) fn renew_at(&self) -> Option<Instant> {
        self.renew_at
    }

    /// How many sessions failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// A session is over, or was refused.
    pub(crate) fn ended(&mut self, how: SessionEnd, now: Instant) -> Next {
        let age = self.subscribed_at.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let was_good = self.has_brought_events && (how == SessionEnd::Over || age >= STEADY_SESSION);
        self.has_brought_events = false;
        self.renew_at = None;
        let mut due = self.not_before.unwrap_or(now);
        if was_good {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            due = due.max(now + self.backoff());
        }
        if how == SessionEnd::InUse {
            // Whoever has it got it at an unknown time, just now at the latest.
            due = due.max(now + self.interval());
        }
        self.not_before = Some(due);
        match self.poll_for {
            Some(poll_for) if self.failures >= FAILED_SESSIONS_BEFORE_POLLING => {
                let until = now + poll_for.mul_f64(0.75 + 0.5 * self.rng.f64());
                self.not_before = Some(due.max(until));
                // The next failure alone sends it back to polling.
                self.failures = FAILED_SESSIONS_BEFORE_POLLING - 1;
                Next::PollUntil(until)
            }
            _ => Next::Subscribe,
        }
    }

    fn interval(&mut self) -> Duration {
        SUBSCRIPTION_INTERVAL + INTERVAL_MARGIN + self.up_to(INTERVAL_MARGIN)
    }

    /// From half to one and a half times a length that doubles with each failure.
    fn backoff(&mut self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(MAX_DOUBLINGS);
        let nominal = FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF);
        nominal.mul_f64(0.5 + self.rng.f64())
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    /// The life of a subscription on the service.
    const SERVICE_LIMIT: Duration = Duration::from_secs(300);

    #[derive(Debug, Clone)]
    struct Session {
        accepted: bool,
        events: bool,
        lasts: Duration,
        end: SessionEnd,
    }

    fn sessions() -> impl Strategy<Value = Vec<Session>> {
        let end = prop_oneof![Just(SessionEnd::Over), Just(SessionEnd::InUse), Just(SessionEnd::Failed)];
        let session = (any::<bool>(), any::<bool>(), 0..400_000_u64, end);
        let session = session.prop_map(|(accepted, events, lasts, end)| Session {
            accepted,
            events: accepted && events,
            lasts: Duration::from_millis(lasts),
            end,
        });
        prop::collection::vec(session, 1..80)
    }

    /// One session as it went: when it was asked for, and what came after it.
    struct Run {
        asked_at: Instant,
        ended_at: Instant,
        next: Next,
        wait: Duration,
    }

    fn simulate(policy: &mut SubscriptionPolicy, sessions: &[Session]) -> Vec<Run> {
        let mut now = Instant::now();
        let mut runs = Vec::new();
        for session in sessions {
            now += policy.wait(now);
            assert_eq!(policy.wait(now), Duration::ZERO, "after the wait it is due");
            let asked_at = now;
            policy.asked(now);
            if session.accepted {
                now += Duration::from_millis(50);
                policy.accepted(now);
                if session.events {
                    policy.event();
                }
                let left = policy.renew_at().unwrap() - now;
                assert!(left + Duration::from_secs(10) <= SERVICE_LIMIT && left >= Duration::from_secs(200));
                now += session.lasts.min(left);
            }
            let next = policy.ended(session.end, now);
            runs.push(Run { asked_at, ended_at: now, next, wait: policy.wait(now) });
            if let Next::PollUntil(until) = next {
                now = until;
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn two_subscriptions_are_never_within_five_seconds(seed: u64, sessions in sessions(), polls: bool) {
            let poll_for = polls.then_some(Duration::from_secs(60));
            let runs = simulate(&mut SubscriptionPolicy::new(Rng::with_seed(seed), poll_for), &sessions);
            for pair in runs.windows(2) {
                prop_assert!(pair[1].asked_at - pair[0].asked_at > SUBSCRIPTION_INTERVAL);
            }
            for (run, session) in runs.iter().zip(&sessions) {
                if session.end == SessionEnd::InUse {
                    prop_assert!(run.wait > SUBSCRIPTION_INTERVAL, "{:?}", run.wait);
                }
            }
        }

        #[test]
        fn every_wait_is_bounded(seed: u64, sessions in sessions()) {
            let runs = simulate(&mut SubscriptionPolicy::new(Rng::with_seed(seed), None), &sessions);
            for run in runs {
                prop_assert!(run.wait <= LONGEST_BACKOFF.mul_f64(1.5) + SUBSCRIPTION_INTERVAL);
                prop_assert_eq!(run.next, Next::Subscribe, "polling is not allowed");
            }
        }

        #[test]
        fn a_session_that_ran_its_course_is_followed_at_once(seed: u64, lasts in 6_000..400_000_u64) {
            let session =
                Session { accepted: true, events: true, lasts: Duration::from_millis(lasts), end: SessionEnd::Over };
            let mut policy = SubscriptionPolicy::new(Rng::with_seed(seed), None);
            for run in simulate(&mut policy, &vec![session; 5]) {
                prop_assert_eq!(run.wait, Duration::ZERO);
            }
            prop_assert_eq!(policy.failures(), 0);
        }

        #[test]
        fn only_failures_in_a_row_lead_to_polling_and_it_ends(seed: u64, sessions in sessions()) {
            let poll_for = Duration::from_secs(60);
            let mut policy = SubscriptionPolicy::new(Rng::with_seed(seed), Some(poll_for));
            let runs = simulate(&mut policy, &sessions);
            let mut in_a_row = 0;
            let mut has_polled = false;
            for (run, session) in runs.iter().zip(&sessions) {
                let age = run.ended_at - run.asked_at;
                let is_good = session.events && (session.end == SessionEnd::Over || age >= STEADY_SESSION + Duration::from_secs(1));
                // Close to the border either is right.
                if session.events && age.abs_diff(STEADY_SESSION) <= Duration::from_secs(1) {
                    return Ok(());
                }
                in_a_row = if is_good { 0 } else { in_a_row + 1 };
                has_polled &= !is_good;
                let expected = in_a_row >= FAILED_SESSIONS_BEFORE_POLLING || (has_polled && in_a_row > 0);
                match run.next {
                    Next::PollUntil(until) => {
                        prop_assert!(expected);
                        let polls = until - run.ended_at;
                        prop_assert!(polls >= poll_for.mul_f64(0.75) && polls <= poll_for.mul_f64(1.25));
                        has_polled = true;
                    }
                    Next::Subscribe => prop_assert!(!expected),
                }
            }
        }

        #[test]
        fn failures_are_spread_and_grow(seed: u64) {
            let failed =
                Session { accepted: false, events: false, lasts: Duration::ZERO, end: SessionEnd::Failed };
            let runs = simulate(&mut SubscriptionPolicy::new(Rng::with_seed(seed), None), &vec![failed; 12]);
            prop_assert!(runs.last().unwrap().wait >= LONGEST_BACKOFF / 2);
            prop_assert!(runs[0].wait <= SUBSCRIPTION_INTERVAL + 2 * INTERVAL_MARGIN);
            let other = &mut SubscriptionPolicy::new(Rng::with_seed(!seed), None);
            let others = simulate(other, &vec![Session { accepted: false, events: false, lasts: Duration::ZERO, end: SessionEnd::Failed }; 12]);
            prop_assert!(runs.last().unwrap().wait != others.last().unwrap().wait);
        }
    }
}
