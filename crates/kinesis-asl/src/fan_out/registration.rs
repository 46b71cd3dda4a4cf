//! Finds, registers, awaits, lists and removes consumers: thin calls around `consumer.rs`.
//!
//! Many processes do this at the same time. Each looks first, registers only what is absent, and takes a refusal because
//! there is one already for what it is: somebody else was faster.

use std::collections::BTreeSet;
use std::sync::{Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::error::ProvideErrorMetadata as _;
use fastrand::Rng;
use shard_worker::{SourceError, SourceErrorKind};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::consumer::{Step, StreamConsumer, next_step};
use super::settings::ConsumerChoice;
use crate::stream::KinesisStream;

/// How long a consumer may take to become active. AWS needs some seconds.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(60);

/// The wait before the second look; it doubles with each further one. All consumers of a stream share 20 looks in a second.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest wait between two looks.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// How often the wait doubles at the most; by then it is the longest.
const MAX_DOUBLINGS: u32 = 4;

/// How long others wait while one shard looks.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// The most pages of consumers. AWS allows 50 consumers a stream, and a page holds 100.
const MAX_PAGES: usize = 100;

/// Whether the consumer can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It can, under this ARN.
    Ready(String),
    /// Not yet; look again then.
    NotBefore(Instant),
}

/// The consumer of a stream, as far as this process knows it.
#[derive(Debug)]
pub(crate) struct Registration {
    choice: ConsumerChoice,
    /// Held by who looks; the others need not wait for it.
    looking: Mutex<Looking>,
    known: SyncMutex<Known>,
}

#[derive(Debug)]
struct Looking {
    rng: Rng,
    stream_arn: Option<String>,
    /// Since when it is awaited, and how often it was looked at.
    since: Option<Instant>,
    looks: u32,
    not_before: Option<Instant>,
}

#[derive(Debug, Default)]
struct Known {
    consumer: Option<StreamConsumer>,
    /// The one that was registered from here.
    own_arn: Option<String>,
}

impl Registration {
    pub(crate) fn new(choice: ConsumerChoice, rng: Rng) -> Self {
        let looking = Looking { rng, stream_arn: None, since: None, looks: 0, not_before: None };
        Self { choice, looking: Mutex::new(looking), known: SyncMutex::default() }
    }

    /// The consumer, once it was active.
    pub(crate) fn consumer(&self) -> Option<StreamConsumer> {
        self.known().consumer.clone()
    }

    /// Looks once, and registers the consumer if it is absent and ours. Safe to cancel, since it is safe to repeat.
    ///
    /// # Errors
    /// Those of the calls; `Invalid` when the consumer of a given ARN does not exist; `Unavailable` when it does not become
    /// active in time.
    pub(crate) async fn look(&self, stream: &KinesisStream) -> Result<Readiness, SourceError> {
        if let Some(consumer) = self.consumer() {
            return Ok(Readiness::Ready(consumer.arn));
        }
        let now = Instant::now();
        let Ok(mut looking) = self.looking.try_lock() else {
            return Ok(Readiness::NotBefore(now + BUSY_WAIT));
        };
        if let Some(due) = looking.not_before.filter(|due| *due > now) {
            return Ok(Readiness::NotBefore(due));
        }
        let found = match &self.choice {
            ConsumerChoice::Arn(arn) => stream.describe_consumer(Some(arn), None).await?,
            ConsumerChoice::Name(name) => {
                let stream_arn = stream_arn(stream, &mut looking).await?;
                stream.describe_consumer(None, Some((&stream_arn, name))).await?
            }
        };
        match (next_step(&self.choice, found), &self.choice) {
            (Step::Use(consumer), _) => {
                tracing::info!(
                    consumer = consumer.name, consumer_arn = consumer.arn, retrieval = "fan-out", "the consumer is active"
                );
                (looking.since, looking.looks, looking.not_before) = (None, 0, None);
                let arn = consumer.arn.clone();
                self.known().consumer = Some(consumer);
                Ok(Readiness::Ready(arn))
            }
            (Step::Wait(status), choice) => {
                let what = format!("consumer {choice} is still {status}");
                looking.again(now).ok_or_else(|| stream.unavailable(&late(&what)))
            }
            (Step::Register, ConsumerChoice::Name(name)) => self.register(stream, name, &mut looking, now).await,
            (Step::Register | Step::Missing, choice) => Err(stream.invalid(&format!(
                "consumer {choice} does not exist; it may have been deregistered, and another one of the same name has \
                 another ARN: give its ARN, or give the name alone so that it is registered"
            ))),
        }
    }

    async fn register(
        &self,
        stream: &KinesisStream,
        name: &str,
        looking: &mut Looking,
        now: Instant,
    ) -> Result<Readiness, SourceError> {
        let stream_arn = stream_arn(stream, looking).await?;
        let request = stream.client().register_stream_consumer().stream_arn(stream_arn).consumer_name(name);
        let what = match request.send().await {
            Ok(answer) => {
                if let Some(consumer) = answer.consumer {
                    tracing::info!(
                        consumer = name,
                        consumer_arn = consumer.consumer_arn,
                        "registered the consumer"
                    );
                    self.known().own_arn = Some(consumer.consumer_arn);
                }
                format!("consumer {name:?} was registered and never became active")
            }
            Err(error) if error.code() == Some("ResourceInUseException") => {
                tracing::debug!(consumer = name, "somebody else registered the consumer");
                format!("consumer {name:?} is registered by somebody else and never appeared")
            }
            Err(error) => {
                let error = stream.error(&format!("registering consumer {name:?}"), error);
                if error.kind() != SourceErrorKind::Throttled {
                    return Err(error);
                }
                // Too many calls, five being registered at a time, or the stream has all the consumers it may have.
                tracing::debug!(%error, "the consumer cannot be registered now");
                format!(
                    "{error}; if the stream has all the consumers it may have, list them and deregister those that \
                     nobody uses"
                )
            }
        };
        looking.again(now).ok_or_else(|| stream.unavailable(&late(&what)))
    }

    /// Looks until the consumer is active.
    ///
    /// # Errors
    /// Those of [`look`](Self::look).
    pub(crate) async fn ensure(&self, stream: &KinesisStream) -> Result<StreamConsumer, SourceError> {
        loop {
            // Bounded: `look` fails when the consumer does not become active in time.
            let readiness = self.look(stream).await?;
            match (readiness, self.consumer()) {
                (Readiness::NotBefore(due), _) => sleep_until(due).await,
                (Readiness::Ready(_), Some(consumer)) => return Ok(consumer),
                (Readiness::Ready(_), None) => {}
            }
        }
    }

    /// The consumer was refused as unknown: whether it is really gone. If so it is forgotten, and one that is ours is
    /// registered again with the next look.
    ///
    /// # Errors
    /// Those of the call.
    pub(crate) async fn is_gone(&self, stream: &KinesisStream, arn: &str) -> Result<bool, SourceError> {
        let found = stream.describe_consumer(Some(arn), None).await?;
        let is_gone =
            !matches!(next_step(&ConsumerChoice::Arn(arn.to_owned()), found), Step::Use(_) | Step::Wait(_));
        if is_gone {
            let mut known = self.known();
            // Another shard may have been here before, and know the next one already.
            if known.consumer.as_ref().is_some_and(|consumer| consumer.arn == arn) {
                known.consumer = None;
            }
        }
        Ok(is_gone)
    }

    /// Removes the consumer that was registered from here; `false`: none was.
    ///
    /// # Errors
    /// Those of the call.
    pub(crate) async fn deregister(&self, stream: &KinesisStream) -> Result<bool, SourceError> {
        let Some(arn) = self.known().own_arn.clone() else { return Ok(false) };
        let is_removed = stream.deregister_consumer(&arn).await?;
        let mut known = self.known();
        known.own_arn = None;
        known.consumer = None;
        Ok(is_removed)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Looking {
    /// When to look again; `None`: it has taken too long, and the next look begins anew.
    fn again(&mut self, now: Instant) -> Option<Readiness> {
        let since = *self.since.get_or_insert(now);
        if now - since >= REGISTRATION_LIMIT {
            (self.since, self.looks) = (None, 0);
            return None;
        }
        let nominal = FIRST_WAIT.saturating_mul(1 << self.looks.min(MAX_DOUBLINGS)).min(LONGEST_WAIT);
        self.looks = self.looks.saturating_add(1);
        let due = now + nominal.mul_f64(0.5 + self.rng.f64());
        self.not_before = Some(due);
        Some(Readiness::NotBefore(due))
    }
}

fn late(what: &str) -> String {
    format!("{what}, for {REGISTRATION_LIMIT:?}")
}

async fn stream_arn(stream: &KinesisStream, looking: &mut Looking) -> Result<String, SourceError> {
    if let Some(arn) = &looking.stream_arn {
        return Ok(arn.clone());
    }
    let arn = stream.arn().await?;
    Ok(looking.stream_arn.insert(arn).clone())
}

impl KinesisStream {
    async fn arn(&self) -> Result<String, SourceError> {
        use shard_worker::StreamSource as _;
        Ok(self.describe().await?.identity.arn)
    }

    /// The consumer with this ARN, or of this stream and name; `None`: there is none.
    async fn describe_consumer(
        &self,
        arn: Option<&str>,
        stream_and_name: Option<(&str, &str)>,
    ) -> Result<Option<StreamConsumer>, SourceError> {
        let (stream_arn, name) = stream_and_name.unzip();
        let request = self
            .client()
            .describe_stream_consumer()
            .set_consumer_arn(arn.map(str::to_owned))
            .set_stream_arn(stream_arn.map(str::to_owned))
            .set_consumer_name(name.map(str::to_owned));
        match request.send().await {
            Ok(answer) => Ok(answer.consumer_description.map(Into::into)),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(None),
            Err(error) => Err(self.error("describing the consumer", error)),
        }
    }

    async fn deregister_consumer(&self, arn: &str) -> Result<bool, SourceError> {
        match self.client().deregister_stream_consumer().consumer_arn(arn).send().await {
            Ok(_) => {
                tracing::info!(consumer_arn = arn, "deregistered the consumer");
                Ok(true)
            }
            // Somebody else did it.
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(false),
            Err(error) => Err(self.error("deregistering the consumer", error)),
        }
    }

    /// All registered consumers of the stream, over all pages, whoever registered them. Those that nobody uses any more
    /// still cost money and count towards the limit of the stream.
    ///
    /// # Errors
    /// `StreamNotFound`, `Denied`, `Throttled` or `Unavailable`; `Invalid` for an answer that goes in a circle.
    pub async fn list_consumers(&self) -> Result<Vec<StreamConsumer>, SourceError> {
        let stream_arn = self.arn().await?;
        let (mut consumers, mut tokens, mut token) = (Vec::new(), BTreeSet::new(), None);
        for _ in 0..MAX_PAGES {
            let request =
                self.client().list_stream_consumers().stream_arn(&stream_arn).set_next_token(token.take());
            let page = request.send().await.map_err(|error| self.error("listing the consumers", error))?;
            consumers.extend(page.consumers.unwrap_or_default().into_iter().map(StreamConsumer::from));
            let Some(next) = page.next_token.filter(|next| !next.is_empty()) else { return Ok(consumers) };
            if !tokens.insert(next.clone()) {
                return Err(
                    self.invalid("the listing of the consumers goes in a circle: a NextToken came twice")
                );
            }
            token = Some(next);
        }
        Err(self.invalid(&format!("the listing of the consumers does not end after {MAX_PAGES} pages")))
    }
}
