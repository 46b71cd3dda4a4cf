//! Finds, registers, awaits, lists and removes consumers: thin calls around `consumer.rs`.
//!
//! Many processes do this at the same time. Each one checks first and registers only a missing consumer. A refusal because the
//! consumer exists means that another process registered it first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::error::ProvideErrorMetadata as _;
use fastrand::Rng;
use shard_worker::{SourceError, SourceErrorKind};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::consumer::{Step, StreamConsumer, next_step};
use super::settings::ConsumerChoice;
use crate::response_metadata::ResponseMetadata;
use crate::stream_client::StreamClient;

/// How long a consumer may take to become active. AWS needs a few seconds.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(60);

/// The wait before the second check; it doubles with each further one. AWS allows 20 `DescribeStreamConsumer` calls a second
/// for all consumers of a stream.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest wait between two checks.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// How often the wait doubles at most; then it has reached its maximum.
const MAX_DOUBLINGS: u32 = 4;

/// How long the other shards wait while one shard checks.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// The most pages of a listing. AWS allows 50 consumers for a stream, and a page holds 100.
const MAX_PAGES: usize = 100;

/// Whether the consumer can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The consumer is active and has this ARN.
    Ready(String),
    /// The consumer is not active yet; check again at this time.
    NotBefore(Instant),
}

/// The consumer of a stream, as far as this process knows it.
#[derive(Debug)]
pub(crate) struct Registration {
    choice: ConsumerChoice,
    /// The tags of the consumer when it is registered here.
    tags: BTreeMap<String, String>,
    /// Locked by the shard that checks; the others do not wait for the lock.
    checks: Mutex<CheckState>,
    known: SyncMutex<Known>,
}

#[derive(Debug)]
struct CheckState {
    rng: Rng,
    stream_arn: Option<String>,
    /// When the first check found no active consumer.
    since: Option<Instant>,
    /// The number of checks after that one.
    retries: u32,
    not_before: Option<Instant>,
}

#[derive(Debug, Default)]
struct Known {
    consumer: Option<StreamConsumer>,
    /// The ARN of the consumer that this process registered.
    own_arn: Option<String>,
}

impl Registration {
    pub(crate) fn new(choice: ConsumerChoice, tags: BTreeMap<String, String>, rng: Rng) -> Self {
        let state = CheckState { rng, stream_arn: None, since: None, retries: 0, not_before: None };
        Self { choice, tags, checks: Mutex::new(state), known: SyncMutex::default() }
    }

    /// The consumer, once a check found it active.
    pub(crate) fn consumer(&self) -> Option<StreamConsumer> {
        self.known().consumer.clone()
    }

    /// Checks the consumer once, and registers it if it is missing and was chosen by name. Safe to cancel, because it is safe
    /// to repeat.
    ///
    /// # Errors
    /// The errors of the calls; `Invalid` when the consumer of a given ARN does not exist; `Unavailable` when the consumer
    /// does not become active in time.
    pub(crate) async fn check(&self, stream: &StreamClient) -> Result<Readiness, SourceError> {
        if let Some(consumer) = self.consumer() {
            return Ok(Readiness::Ready(consumer.arn));
        }
        let now = Instant::now();
        let Ok(mut state) = self.checks.try_lock() else {
            return Ok(Readiness::NotBefore(now + BUSY_WAIT));
        };
        if let Some(due) = state.not_before.filter(|due| *due > now) {
            return Ok(Readiness::NotBefore(due));
        }
        let found = match &self.choice {
            ConsumerChoice::Arn(arn) => stream.describe_consumer(Some(arn), None).await?,
            ConsumerChoice::Name(name) => {
                let stream_arn = stream_arn(stream, &mut state).await?;
                stream.describe_consumer(None, Some((&stream_arn, name))).await?
            }
        };
        match (next_step(&self.choice, found), &self.choice) {
            (Step::Use(consumer), _) => {
                tracing::info!(
                    consumer = consumer.name, consumer_arn = consumer.arn, retrieval = "fan-out", "the consumer is active"
                );
                (state.since, state.retries, state.not_before) = (None, 0, None);
                let arn = consumer.arn.clone();
                self.known().consumer = Some(consumer);
                Ok(Readiness::Ready(arn))
            }
            (Step::Wait(status), choice) => {
                let fault = format!("consumer {choice} is still {status}");
                state.next_check(now).ok_or_else(|| stream.unavailable(&timed_out(&fault)))
            }
            (Step::Register, ConsumerChoice::Name(name)) => self.register(stream, name, &mut state, now).await,
            (Step::Register | Step::Missing, choice) => Err(stream.invalid(&format!(
                "consumer {choice} does not exist; it may have been deregistered, and registering the name again creates \
                 another ARN: give the current ARN, or give only the name to have it registered"
            ))),
        }
    }

    async fn register(
        &self,
        stream: &StreamClient,
        name: &str,
        state: &mut CheckState,
        now: Instant,
    ) -> Result<Readiness, SourceError> {
        let stream_arn = stream_arn(stream, state).await?;
        let request = stream.sdk().register_stream_consumer().stream_arn(stream_arn).consumer_name(name);
        let tags = self.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let request = request.set_tags((!self.tags.is_empty()).then_some(tags));
        let request = request.customize().interceptor(ResponseMetadata::default());
        let fault = match request.send().await {
            Ok(answer) => {
                if let Some(consumer) = answer.consumer {
                    tracing::info!(
                        consumer = name,
                        consumer_arn = consumer.consumer_arn,
                        "registered the consumer"
                    );
                    self.known().own_arn = Some(consumer.consumer_arn);
                }
                format!("consumer {name:?} was registered but did not become active")
            }
            Err(error) if error.code() == Some("ResourceInUseException") => {
                tracing::debug!(consumer = name, "another process registered the consumer");
                format!("consumer {name:?} was registered by another process but is not listed")
            }
            Err(error) => {
                let error = stream.error(&format!("registering consumer {name:?}"), error);
                if error.kind() != SourceErrorKind::Throttled {
                    return Err(error);
                }
                // One code for three limits: calls a second, five registrations at a time, and consumers of the stream.
                tracing::debug!(%error, "the consumer cannot be registered now");
                format!(
                    "{error}; if the stream has reached its limit of consumers, list them and deregister the unused ones"
                )
            }
        };
        state.next_check(now).ok_or_else(|| stream.unavailable(&timed_out(&fault)))
    }

    /// Checks until the consumer is active.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub(crate) async fn ensure(&self, stream: &StreamClient) -> Result<StreamConsumer, SourceError> {
        loop {
            // Bounded: `check` fails when the consumer does not become active in time.
            let readiness = self.check(stream).await?;
            match (readiness, self.consumer()) {
                (Readiness::NotBefore(due), _) => sleep_until(due).await,
                (Readiness::Ready(_), Some(consumer)) => return Ok(consumer),
                (Readiness::Ready(_), None) => {}
            }
        }
    }

    /// Whether a consumer that the service refused as unknown was deregistered. If so, it is forgotten, and the next check
    /// registers a consumer chosen by name again.
    ///
    /// # Errors
    /// Those of the call.
    pub(crate) async fn is_gone(&self, stream: &StreamClient, arn: &str) -> Result<bool, SourceError> {
        let found = stream.describe_consumer(Some(arn), None).await?;
        let is_gone =
            !matches!(next_step(&ConsumerChoice::Arn(arn.to_owned()), found), Step::Use(_) | Step::Wait(_));
        if is_gone {
            let mut known = self.known();
            // Another shard may have replaced it already.
            if known.consumer.as_ref().is_some_and(|consumer| consumer.arn == arn) {
                known.consumer = None;
            }
        }
        Ok(is_gone)
    }

    /// Removes the consumer that this process registered; `false`: it registered none, or the consumer was gone.
    ///
    /// # Errors
    /// Those of the call.
    pub(crate) async fn deregister(&self, stream: &StreamClient) -> Result<bool, SourceError> {
        let Some(arn) = self.known().own_arn.clone() else { return Ok(false) };
        let is_removed = stream.deregister_consumer(&arn).await?;
        let mut known = self.known();
        known.own_arn = None;
        known.consumer = None;
        Ok(is_removed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckState {
    /// Schedules the next check; `None`: the time limit has passed, and the next check starts a new one.
    fn next_check(&mut self, now: Instant) -> Option<Readiness> {
        let since = *self.since.get_or_insert(now);
        if now - since >= REGISTRATION_LIMIT {
            (self.since, self.retries) = (None, 0);
            return None;
        }
        let nominal = FIRST_WAIT.saturating_mul(1 << self.retries.min(MAX_DOUBLINGS)).min(LONGEST_WAIT);
        self.retries = self.retries.saturating_add(1);
        let due = now + nominal.mul_f64(0.5 + self.rng.f64());
        self.not_before = Some(due);
        Some(Readiness::NotBefore(due))
    }
}

fn timed_out(fault: &str) -> String {
    format!("no active consumer within {REGISTRATION_LIMIT:?}: {fault}")
}

async fn stream_arn(stream: &StreamClient, state: &mut CheckState) -> Result<String, SourceError> {
    if let Some(arn) = &state.stream_arn {
        return Ok(arn.clone());
    }
    let arn = stream.known_arn().await?;
    Ok(state.stream_arn.insert(arn).clone())
}

impl StreamClient {
    /// The ARN of the stream: as given, or as the service describes it.
    async fn known_arn(&self) -> Result<String, SourceError> {
        self.destination().check()?;
        match self.stream_arn() {
            Some(arn) => Ok(arn),
            None => Ok(self.describe().await?.identity.arn),
        }
    }

    /// The consumer with this ARN, or with this name on this stream; `None`: it does not exist.
    async fn describe_consumer(
        &self,
        arn: Option<&str>,
        stream_and_name: Option<(&str, &str)>,
    ) -> Result<Option<StreamConsumer>, SourceError> {
        let (stream_arn, name) = stream_and_name.unzip();
        let request = self
            .sdk()
            .describe_stream_consumer()
            .set_consumer_arn(arn.map(str::to_owned))
            .set_stream_arn(stream_arn.map(str::to_owned))
            .set_consumer_name(name.map(str::to_owned))
            .customize()
            .interceptor(ResponseMetadata::default());
        match request.send().await {
            Ok(answer) => Ok(answer.consumer_description.map(Into::into)),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(self.error("describing the consumer", error)),
        }
    }

    async fn deregister_consumer(&self, arn: &str) -> Result<bool, SourceError> {
        let request = self.sdk().deregister_stream_consumer().consumer_arn(arn).customize();
        match request.interceptor(ResponseMetadata::default()).send().await {
            Ok(_) => {
                tracing::info!(consumer_arn = arn, "deregistered the consumer");
                Ok(true)
            }
            // Another process deregistered it first.
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(false),
            Err(error) => Err(self.error("deregistering the consumer", error)),
        }
    }

    pub(crate) async fn list_consumers(&self) -> Result<Vec<StreamConsumer>, SourceError> {
        let stream_arn = self.known_arn().await?;
        let (mut consumers, mut tokens, mut token) = (Vec::new(), BTreeSet::new(), None);
        for _ in 0..MAX_PAGES {
            let request =
                self.sdk().list_stream_consumers().stream_arn(&stream_arn).set_next_token(token.take());
            let request = request.customize().interceptor(ResponseMetadata::default());
            let page = request.send().await.map_err(|error| self.error("listing the consumers", error))?;
            consumers.extend(page.consumers.unwrap_or_default().into_iter().map(StreamConsumer::from));
            let Some(next) = page.next_token.filter(|next| !next.is_empty()) else { return Ok(consumers) };
            if !tokens.insert(next.clone()) {
                return Err(self.invalid("ListStreamConsumers returned the same NextToken twice"));
            }
            token = Some(next);
        }
        Err(self.invalid(&format!("ListStreamConsumers returned more than {MAX_PAGES} pages")))
    }
}
