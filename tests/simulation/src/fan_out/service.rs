//! The registered consumer, and its newest subscription to each shard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use tokio::time::{Duration, Instant};

use crate::event::{EventKind, Process, ShardNumber, SubscriptionStep};
use crate::kinesis::Kinesis;
use crate::network::Link;
use crate::plan::{Defect, Plan};

/// Name of the consumer.
pub(super) const CONSUMER: &str = "simulated";

/// The stream of the consumer.
pub(super) const STREAM_ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/simulated";

/// After a subscription to a shard the service refuses another one of the same consumer for this long.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// Longest time until a consumer is active, in milliseconds.
const LONGEST_CREATION_MILLIS: u64 = 8_000;

/// Percentage of subscriptions that are refused without a reason, while there are faults.
const REFUSED_PERCENT: u64 = 6;

/// The fan-out service of the stream. Clones share it.
#[derive(Debug, Clone)]
pub struct Service {
    state: Arc<Mutex<State>>,
    /// The stream.
    pub(super) kinesis: Kinesis,
    started_at: Instant,
    /// From this time on there are no faults.
    last_fault_end: Instant,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    consumer: Option<Consumer>,
    consumers: u64,
    sessions: u64,
    /// The newest subscription to each shard, with the time of its acceptance.
    newest: BTreeMap<ShardNumber, (u64, Instant)>,
}

/// The connection of one process to the service.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) service: Service,
    pub(super) link: Link,
    pub(super) process: Process,
    pub(super) defect: Option<Defect>,
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

/// An accepted subscription.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) session: u64,
    pub(super) arn: String,
    /// Generator of its faults.
    pub(super) rng: Rng,
}

impl Service {
    /// Creates the service without a consumer.
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
            last_fault_end: started_at + Duration::from_millis(plan.last_fault_end()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the faults are over.
    pub(super) fn are_faults_over(&self) -> bool {
        Instant::now() >= self.last_fault_end
    }

    pub(super) fn consumer(&self) -> Option<Consumer> {
        self.state().consumer.clone()
    }

    /// Registers the consumer; `None` when it already exists.
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

    /// Deregisters the consumer, which ends its subscriptions.
    pub fn deregister(&self) {
        let state = &mut *self.state();
        state.consumer = None;
        state.newest.clear();
    }

    /// Accepts or refuses a subscription.
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
        self.record(process, shard, session, step);
        answer
    }

    fn decide(&self, shard: ShardNumber, arn: &str) -> Result<Accepted, &'static str> {
        let now = Instant::now();
        let has_shard = self.kinesis.changes(shard).is_some();
        let are_faults_over = self.are_faults_over();
        let state = &mut *self.state();
        let is_ours =
            state.consumer.as_ref().is_some_and(|consumer| consumer.arn == arn && now >= consumer.active_at);
        if !is_ours || !has_shard {
            return Err("ResourceNotFoundException");
        }
        if state.newest.get(&shard).is_some_and(|(_, since)| now.duration_since(*since) < REFUSED_FOR) {
            return Err("ResourceInUseException");
        }
        if !are_faults_over && state.rng.u64(..100) < REFUSED_PERCENT {
            return Err("LimitExceededException");
        }
        state.sessions += 1;
        let session = state.sessions;
        state.newest.insert(shard, (session, now));
        Ok(Accepted { session, arn: arn.to_owned(), rng: state.rng.fork() })
    }

    /// Returns the status of a subscription.
    pub(super) fn status(&self, shard: ShardNumber, session: u64, arn: &str) -> SessionStatus {
        let state = self.state();
        if state.consumer.as_ref().is_none_or(|consumer| consumer.arn != arn) {
            SessionStatus::Deregistered
        } else if state.newest.get(&shard).is_none_or(|(newest, _)| *newest != session) {
            SessionStatus::Replaced
        } else {
            SessionStatus::Active
        }
    }

    pub(super) fn record(&self, process: Process, shard: ShardNumber, session: u64, step: SubscriptionStep) {
        self.kinesis.observer.record(EventKind::Subscription { process, shard, session, step });
    }

    /// Milliseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The status of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionStatus {
    Active,
    Replaced,
    Deregistered,
}
