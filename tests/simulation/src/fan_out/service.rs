//! The registered consumer, and who has a subscription to which shard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use tokio::time::{Duration, Instant};

use crate::event::{Process, ShardNumber, SubscriptionStep, What};
use crate::kinesis::Kinesis;
use crate::plan::Plan;

/// The name of the consumer.
pub(super) const CONSUMER: &str = "simulated";

/// The stream that it belongs to.
pub(super) const STREAM_ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/simulated";

/// How soon after one subscription to a shard the service refuses another of the same consumer.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// The longest that a consumer takes to become active, in milliseconds.
const LONGEST_CREATION_MILLIS: u64 = 8_000;

/// How many of a hundred subscriptions are refused for no reason of the shard, while there are faults.
const REFUSED_PERCENT: u64 = 6;

/// What all processes subscribe at. Clones are the same.
#[derive(Debug, Clone)]
pub struct Service {
    state: Arc<Mutex<State>>,
    /// The stream.
    pub(super) kinesis: Kinesis,
    started_at: Instant,
    /// From when on nothing goes wrong any more.
    calm_at: Instant,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    consumer: Option<Consumer>,
    consumers: u64,
    sessions: u64,
    /// The newest subscription to each shard, and when it was accepted.
    newest: BTreeMap<ShardNumber, (u64, Instant)>,
}

/// A registered consumer.
#[derive(Debug, Clone)]
pub(super) struct Consumer {
    pub(super) arn: String,
    pub(super) created_at: u64,
    pub(super) active_at: Instant,
}

impl Consumer {
    pub(super) fn status(&self) -> &'static str {
        if Instant::now() < self.active_at { "CREATING" } else { "ACTIVE" }
    }
}

/// What was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) session: u64,
    pub(super) arn: String,
    /// The generator of what goes wrong with it.
    pub(super) rng: Rng,
}

impl Service {
    /// Nobody has registered a consumer.
    pub fn new(kinesis: &Kinesis, plan: &Plan) -> Self {
        let state = State {
            rng: plan.rng("fan-out", 0),
            consumer: None,
            consumers: 0,
            sessions: 0,
            newest: BTreeMap::new(),
        };
        let started_at = Instant::now();
        Self {
            state: Arc::new(Mutex::new(state)),
            kinesis: kinesis.clone(),
            started_at,
            calm_at: started_at + Duration::from_millis(plan.calm_at()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the faults are over.
    pub(super) fn is_calm(&self) -> bool {
        Instant::now() >= self.calm_at
    }

    pub(super) fn consumer(&self) -> Option<Consumer> {
        self.state().consumer.clone()
    }

    /// Registers the consumer; `None`: there is one.
    pub(super) fn register(&self) -> Option<Consumer> {
        let now = Instant::now();
        let state = &mut *self.state();
        if state.consumer.is_some() {
            return None;
        }
        state.consumers += 1;
        let created_at = 1_767_225_600 + state.consumers;
        let creation = Duration::from_millis(state.rng.u64(..LONGEST_CREATION_MILLIS));
        let consumer = Consumer {
            arn: format!("{STREAM_ARN}/consumer/{CONSUMER}:{created_at}"),
            created_at,
            active_at: now + creation,
        };
        state.consumer = Some(consumer.clone());
        Some(consumer)
    }

    /// Somebody deregisters the consumer. Its subscriptions end.
    pub fn deregister(&self) {
        let state = &mut *self.state();
        state.consumer = None;
        state.newest.clear();
    }

    /// Asks for a subscription.
    ///
    /// # Errors
    /// The code of the refusal.
    pub(super) fn subscribe(
        &self,
        process: Process,
        shard: ShardNumber,
        arn: &str,
    ) -> Result<Accepted, &'static str> {
        let answer = self.decide(shard, arn);
        let (session, step) = match &answer {
            Ok(accepted) => (accepted.session, SubscriptionStep::Accepted),
            Err(code) => (0, SubscriptionStep::Refused(code)),
        };
        self.note(process, shard, session, step);
        answer
    }

    fn decide(&self, shard: ShardNumber, arn: &str) -> Result<Accepted, &'static str> {
        let now = Instant::now();
        let has_shard = self.kinesis.changes(shard).is_some();
        let is_calm = self.is_calm();
        let state = &mut *self.state();
        let is_ours =
            state.consumer.as_ref().is_some_and(|consumer| consumer.arn == arn && now >= consumer.active_at);
        if !is_ours || !has_shard {
            return Err("ResourceNotFoundException");
        }
        if state.newest.get(&shard).is_some_and(|(_, since)| now.duration_since(*since) < REFUSED_FOR) {
            return Err("ResourceInUseException");
        }
        if !is_calm && state.rng.u64(..100) < REFUSED_PERCENT {
            return Err("LimitExceededException");
        }
        state.sessions += 1;
        let session = state.sessions;
        state.newest.insert(shard, (session, now));
        Ok(Accepted { session, arn: arn.to_owned(), rng: state.rng.fork() })
    }

    /// Whether a subscription is the newest of its shard, and its consumer is there.
    pub(super) fn standing(&self, shard: ShardNumber, session: u64, arn: &str) -> Standing {
        let state = self.state();
        if state.consumer.as_ref().is_none_or(|consumer| consumer.arn != arn) {
            Standing::Deregistered
        } else if state.newest.get(&shard).is_none_or(|(newest, _)| *newest != session) {
            Standing::Replaced
        } else {
            Standing::Good
        }
    }

    pub(super) fn note(&self, process: Process, shard: ShardNumber, session: u64, step: SubscriptionStep) {
        self.kinesis.observer.note(What::Subscription { process, shard, session, step });
    }

    /// Milliseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    Replaced,
    Deregistered,
}
