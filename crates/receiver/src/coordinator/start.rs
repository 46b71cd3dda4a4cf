//! The start of a worker: it prepares the lease store, describes the stream and creates the first leases. Calls that a
//! throttled or unavailable service did not answer are repeated, and so are calls with expired credentials.

use std::sync::Arc;

use fastrand::Rng;
use shard_worker::{StreamClock, StreamDescription, StreamRetention};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::startup_log::{overridden_positions, too_old_timestamps};
use super::{Coordinator, RetentionInfo, StreamFacts};
use crate::error::{ConsumerError, ConsumerErrorKind, is_cured_by_waiting, source_error, store_error};
use crate::shards::border::Border;
use crate::shards::table_identity::{ApplicationNames, check_identity};

/// The mean wait after the first failed attempt. It doubles with each one, up to [`STORM_WAIT`] or [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest mean wait during the first [`STORM_TIME`] of a start. It is short enough that a large fleet uses all
/// requests that its account has per second (20 descriptions), until only 40 workers are left.
const STORM_WAIT: Duration = Duration::from_secs(2);

/// How long a start counts as one of many at the same time. It begins anew when a service that was away answers again.
const STORM_TIME: Duration = Duration::from_secs(120);

/// The longest mean wait after that time, when a service is probably unavailable. A worker that waits when the service is back has
/// three quarters of a minute left to come up with all others.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The wait after a number of failed attempts: exponential, and half of it to one and a half times at random, so that
/// workers which started together do not ask together.
fn start_wait(failures: u32, elapsed: Duration, rng: &mut Rng) -> Duration {
    let longest = if elapsed < STORM_TIME { STORM_WAIT } else { LONGEST_WAIT };
    let doubled = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(longest).mul_f64(0.5 + rng.f64())
}

/// How long a start trusts its description of the stream. In a start that waits longer, the stream may be deleted and created
/// again.
const DESCRIBED_FOR: Duration = STORM_TIME;

/// The steps that a start has completed. They are not repeated, since the requests of an account are limited.
#[derive(Debug, Default)]
struct Done {
    is_prepared: bool,
    described: Option<Described>,
}

/// The stream as a start described it.
#[derive(Debug, Clone)]
struct Described {
    /// When the stream was last described.
    at: Instant,
    /// The first description of this stream. `LATEST` means the time of this description.
    stream: StreamDescription,
    clock: Option<StreamClock>,
}

impl Coordinator {
    /// Prepares the lease store and creates the first leases. Calls that fail because a service is throttled or unavailable,
    /// or because the credentials are expired, are repeated without an end, or until the `start_timeout`. All workers of a fleet may do this at the same time.
    pub(super) async fn start(&mut self) -> Result<StreamFacts, ConsumerError> {
        let begun_at = Instant::now();
        let deadline = self.receiver.settings.start_timeout.map(|limit| begun_at + limit);
        let (mut done, mut failures) = (Done::default(), 0_u32);
        let mut throttled_since = None;
        loop {
            let attempt = self.try_start(&mut done);
            let attempted = match deadline {
                Some(deadline) => timeout_at(deadline, attempt).await.unwrap_or_else(|_| {
                    let message = "the stream or the lease store did not answer within start_timeout";
                    Err(ConsumerError::new(ConsumerErrorKind::Unavailable, message))
                }),
                None => attempt.await,
            };
            let error = match attempted {
                Ok(facts) => {
                    self.receiver.shared.live().start_error = None;
                    return Ok(facts);
                }
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            // A service that throttles is back, and the workers that waited for it ask together.
            let storm_since = if error.kind() == ConsumerErrorKind::Throttled {
                *throttled_since.get_or_insert_with(Instant::now)
            } else {
                throttled_since = None;
                begun_at
            };
            let delay = start_wait(failures, storm_since.elapsed(), &mut self.receiver.rng);
            let is_too_late = deadline.is_some_and(|deadline| Instant::now() + delay >= deadline);
            if !is_cured_by_waiting(&error) || is_too_late {
                return Err(error);
            }
            self.receiver.shared.live().start_error = Some(error.to_string());
            tracing::warn!(%error, ?delay, failures, "start failed, trying again");
            sleep(delay).await;
        }
    }

    async fn try_start(&mut self, done: &mut Done) -> Result<StreamFacts, ConsumerError> {
        let (store, source) = (self.receiver.store.clone(), self.receiver.source.clone());
        if !done.is_prepared {
            store.prepare().await.map_err(|error| store_error("preparing the lease store", error))?;
            done.is_prepared = true;
        }
        if done.described.as_ref().is_none_or(|described| described.at.elapsed() >= DESCRIBED_FOR) {
            let at = Instant::now();
            let stream = source.describe().await;
            let stream = stream.map_err(|error| source_error("describing the stream", error))?;
            match &mut done.described {
                Some(described) if described.stream.identity == stream.identity => described.at = at,
                described => {
                    // The reported time is that of the call or earlier, so the clock is never fast.
                    let clock = stream.now.map(|now| StreamClock::new(now, Instant::now()));
                    *described = Some(Described { at, stream, clock });
                }
            }
        }
        // The stream was described above.
        let Some(Described { at, stream, clock }) = done.described.clone() else {
            let message = "the stream was not described";
            return Err(ConsumerError::new(ConsumerErrorKind::Unavailable, message));
        };
        if let Some(seat) = &self.receiver.seat {
            seat.identify(&stream.identity, clock)?;
        }
        let listing = self.list_all().await?;
        check_identity(store.name(), &listing.leases, &stream.identity)?;
        let settings = &self.receiver.settings;
        let application =
            ApplicationNames::new(&settings.application, settings.former_application.as_deref());
        application.check(store.name(), &listing.leases)?;
        self.token_floor.observe(&listing.leases);
        let shared = StreamRetention::described(stream.retention);
        self.retention =
            RetentionInfo { clock, period: stream.retention, distribution: stream.distribution, shared };
        self.check_bound()?;
        let settings = self.receiver.settings.clone();
        let named = &settings.initial_positions;
        let initial_time_millis = settings.initial_position.frozen_millis(&listing.leases, named, stream.now);
        let border = Arc::new(Border::new(store.name(), stream.identity.clone(), at));
        let application = Arc::new(application);
        let facts =
            StreamFacts { identity: stream.identity, application, border, initial_time_millis, clock };
        let leases = listing.leases.clone();
        let new_leases = self.create_missing_leases(&facts, listing).await?;
        match overridden_positions(&settings, &leases, &new_leases) {
            Some(notice) if notice.is_warning => tracing::warn!("{}", notice.text),
            Some(notice) => tracing::info!("{}", notice.text),
            None => {}
        }
        if !new_leases.is_empty()
            && let Some(warning) = too_old_timestamps(&settings, stream.now, stream.retention)
        {
            tracing::warn!("{warning}");
        }
        tracing::info!(settings = ?self.receiver.settings, stream = %facts.identity, "receiver started");
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_random_within_their_bounds() {
        let mut rng = Rng::with_seed(14);
        for failures in 1..200 {
            for (elapsed, longest) in [(Duration::ZERO, STORM_WAIT), (STORM_TIME, LONGEST_WAIT)] {
                let wait = start_wait(failures, elapsed, &mut rng);
                let mean = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failures - 1)).min(longest);
                assert!(wait >= mean / 2 && wait <= mean * 3 / 2, "{failures}: {wait:?}");
            }
        }
        let waits: std::collections::BTreeSet<Duration> =
            (0..100).map(|_| start_wait(9, Duration::ZERO, &mut rng)).collect();
        assert_eq!(waits.len(), 100);
    }
}
