//! Decides when to subscribe to a shard, and when to poll it instead. Pure: time and randomness in, plan out.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

/// AWS refuses a subscription within five seconds of another one of the same consumer to the same shard. After that, a new
/// subscription replaces the old one.
pub(crate) const SUBSCRIPTION_INTERVAL: Duration = Duration::from_secs(5);

/// The least margin added to [`SUBSCRIPTION_INTERVAL`]; the most is twice this. Needed because this side measures from the
/// start of the call, and the service from its arrival.
const INTERVAL_MARGIN: Duration = Duration::from_millis(250);

/// The age at which a subscription is renewed, before the service ends it at 5 min. A random time up to [`RENEWAL_SPREAD`] is
/// subtracted, so that shards that started together do not renew together.
const RENEWAL_AGE: Duration = Duration::from_secs(285);

/// The range of the ages at renewal.
const RENEWAL_SPREAD: Duration = Duration::from_secs(45);

/// The number of failed sessions in a row after which the shard is polled.
pub(crate) const FAILED_SESSIONS_BEFORE_POLLING: u32 = 5;

/// A session that breaks after this time does not count as failed, if it had events.
const STEADY_SESSION: Duration = Duration::from_secs(30);

/// The wait after the first failure; it doubles with each further one. [`SUBSCRIPTION_INTERVAL`] applies as well.
const FIRST_BACKOFF: Duration = Duration::from_secs(2);

/// The longest wait after a failure.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The number of doublings after which the wait has reached its maximum.
const MAX_DOUBLINGS: u32 = 4;

/// How a session ended, or why it never started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The service ended it after five minutes, or it was renewed.
    Over,
    /// Another subscriber has the shard, or had it less than five seconds ago.
    InUse,
    /// Any other failure.
    Failed,
}

/// What to do after a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Subscribe again, after the wait.
    Subscribe,
    /// Subscriptions keep failing: poll until this time.
    PollUntil(Instant),
}

/// Decides about the subscriptions of one shard.
#[derive(Debug)]
pub(crate) struct SubscriptionPolicy {
    rng: Rng,
    /// How long to poll before trying fan-out again; `None`: polling is not allowed.
    poll_for: Option<Duration>,
    /// When the service last accepted a subscription, or may have accepted one.
    subscribed_at: Option<Instant>,
    /// When to renew the current session.
    renew_at: Option<Instant>,
    had_events: bool,
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
            had_events: false,
            not_before: None,
            failures: 0,
        }
    }

    /// How long to wait, from now, before the next subscription.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    /// Records that a subscription was requested. The service may accept it even if no answer arrives. So the next request
    /// keeps the interval even if this one is cancelled.
    pub(crate) fn requested(&mut self, now: Instant) {
        self.accepted(now);
    }

    /// Records that the service accepted the subscription.
    pub(crate) fn accepted(&mut self, now: Instant) {
        self.subscribed_at = Some(now);
        self.had_events = false;
        self.not_before = Some(now + self.interval());
        self.renew_at = Some(now + RENEWAL_AGE - self.up_to(RENEWAL_SPREAD));
    }

    /// Records an event of the session.
    pub(crate) fn event(&mut self) {
        self.had_events = true;
    }

    /// When to renew the current session.
    pub(crate) fn renew_at(&self) -> Option<Instant> {
        self.renew_at
    }

    /// The number of failed sessions in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Decides the next step after a session that ended or was refused.
    pub(crate) fn ended(&mut self, how: SessionEnd, now: Instant) -> Next {
        let age = self.subscribed_at.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let was_good = self.had_events && (how == SessionEnd::Over || age >= STEADY_SESSION);
        self.had_events = false;
        self.renew_at = None;
        let mut due = self.not_before.unwrap_or(now);
        if was_good {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            due = due.max(now + self.backoff());
        }
        if how == SessionEnd::InUse {
            // The other subscriber may have subscribed just now, so wait a whole interval.
            due = due.max(now + self.interval());
        }
        self.not_before = Some(due);
        match self.poll_for {
            Some(poll_for) if self.failures >= FAILED_SESSIONS_BEFORE_POLLING => {
                let until = now + poll_for.mul_f64(0.75 + 0.5 * self.rng.f64());
                self.not_before = Some(due.max(until));
                // One more failure after the return to fan-out leads back to polling.
                self.failures = FAILED_SESSIONS_BEFORE_POLLING - 1;
                Next::PollUntil(until)
            }
            _ => Next::Subscribe,
        }
    }

    fn interval(&mut self) -> Duration {
        SUBSCRIPTION_INTERVAL + INTERVAL_MARGIN + self.up_to(INTERVAL_MARGIN)
    }

    /// A random wait, 0.5 to 1.5 times a nominal wait that doubles with each failure.
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

    /// The lifetime of a subscription on the service.
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

    /// One simulated session: its request and end, and the decision of the policy.
    struct Run {
        requested_at: Instant,
        ended_at: Instant,
        next: Next,
        wait: Duration,
    }

    fn simulate(policy: &mut SubscriptionPolicy, sessions: &[Session]) -> Vec<Run> {
        let mut now = Instant::now();
        let mut runs = Vec::new();
        for session in sessions {
            now += policy.wait(now);
            assert_eq!(policy.wait(now), Duration::ZERO, "due after the wait");
            let requested_at = now;
            policy.requested(now);
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
            runs.push(Run { requested_at, ended_at: now, next, wait: policy.wait(now) });
            if let Next::PollUntil(until) = next {
                now = until;
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn subscriptions_are_more_than_five_seconds_apart(seed: u64, sessions in sessions(), polls: bool) {
            let poll_for = polls.then_some(Duration::from_secs(60));
            let runs = simulate(&mut SubscriptionPolicy::new(Rng::with_seed(seed), poll_for), &sessions);
            for pair in runs.windows(2) {
                prop_assert!(pair[1].requested_at - pair[0].requested_at > SUBSCRIPTION_INTERVAL);
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
        fn normal_session_end_is_followed_without_wait(seed: u64, lasts in 6_000..400_000_u64) {
            let session =
                Session { accepted: true, events: true, lasts: Duration::from_millis(lasts), end: SessionEnd::Over };
            let mut policy = SubscriptionPolicy::new(Rng::with_seed(seed), None);
            for run in simulate(&mut policy, &vec![session; 5]) {
                prop_assert_eq!(run.wait, Duration::ZERO);
            }
            prop_assert_eq!(policy.failures(), 0);
        }

        #[test]
        fn only_consecutive_failures_lead_to_polling(seed: u64, sessions in sessions()) {
            let poll_for = Duration::from_secs(60);
            let mut policy = SubscriptionPolicy::new(Rng::with_seed(seed), Some(poll_for));
            let runs = simulate(&mut policy, &sessions);
            let mut in_a_row = 0;
            let mut has_polled = false;
            for (run, session) in runs.iter().zip(&sessions) {
                let age = run.ended_at - run.requested_at;
                let is_good = session.events && (session.end == SessionEnd::Over || age >= STEADY_SESSION + Duration::from_secs(1));
                // Close to the limit, either decision is right.
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
        fn backoff_grows_and_is_randomised(seed: u64) {
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
