//! One call of `GetRecords`: which way it goes, and what happens when it fails.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsError;
use fastrand::Rng;
use lease_store::StoreError;
use shard_worker::SourceErrorKind;
use tokio::time::{Instant, sleep};

use super::direct::{Limits, Route};
use super::door::Door;
use super::format::{FormatMemory, GetRecordsFormat};
use super::malformed::Undecoded;
use super::signing::Signer;
use super::{Answer, Encoding, read_answer, reference};
use crate::error::meaning_of;

/// A refusal of the iterator. A repeat of the call changes nothing about it.
const ITERATOR_CODES: [&str; 3] =
    ["ExpiredIteratorException", "InvalidArgumentException", "ResourceNotFoundException"];

/// Refusals that are about the encoding of the request.
const ENCODING_CODES: [&str; 3] =
    ["SerializationException", "UnknownOperationException", "UnsupportedMediaTypeException"];

/// `415 Unsupported Media Type`.
const UNSUPPORTED_MEDIA_TYPE: u16 = 415;

/// Why a call brought no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The request was refused, or there was no sound answer.
    Sdk(Box<SdkError<GetRecordsError>>),
    /// A record has a sequence number that is none.
    SequenceNumber(StoreError),
}

impl From<SdkError<GetRecordsError>> for CallError {
    fn from(error: SdkError<GetRecordsError>) -> Self {
        Self::Sdk(Box::new(error))
    }
}

impl CallError {
    /// Whether the service refuses the iterator, and another one may do.
    pub(crate) fn refused_iterator(&self) -> Option<&str> {
        if !matches!(self, Self::Sdk(error) if matches!(**error, SdkError::ServiceError(_))) {
            return None;
        }
        let code = self.code()?;
        matches!(code, "ExpiredIteratorException" | "InvalidArgumentException").then_some(code)
    }

    fn code(&self) -> Option<&str> {
        match self {
            Self::Sdk(error) => error.code(),
            Self::SequenceNumber(_) => None,
        }
    }

    /// Whether this is about the encoding of the request rather than about what it asks for.
    fn refuses_encoding(&self) -> bool {
        let Self::Sdk(error) = self else { return false };
        let SdkError::ServiceError(refusal) = &**error else { return false };
        let status = refusal.raw().status().as_u16();
        match self.code() {
            _ if status == UNSUPPORTED_MEDIA_TYPE => true,
            Some(code) => ENCODING_CODES.contains(&code),
            // Whoever wrote this is not the service as we know it.
            None => (400..500).contains(&status) && !matches!(status, 401 | 403 | 429),
        }
    }
}

/// Calls `GetRecords` of one stream. Clones share what was learnt.
#[derive(Debug, Clone)]
pub(crate) struct GetRecords(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    stream: String,
    format: FormatMemory,
    /// How to send a request directly; `None`: not known, or not to be done.
    route: RwLock<Option<Arc<Route>>>,
    signer: Signer,
    /// For the waits before a repeat.
    rng: Mutex<Rng>,
}

impl GetRecords {
    pub(crate) fn new(client: Client, stream: &str, format: GetRecordsFormat, rng: Rng) -> Self {
        Self(Arc::new(Shared {
            client,
            stream: stream.to_owned(),
            format: FormatMemory::new(format),
            route: RwLock::default(),
            signer: Signer::default(),
            rng: Mutex::new(rng),
        }))
    }

    /// Reads what the iterator stands for.
    pub(crate) async fn call(&self, iterator: &str) -> Result<Answer, CallError> {
        let shared = &*self.0;
        shared.format.announce(&shared.stream);
        let Some(encoding) = shared.format.encoding() else { return shared.by_the_sdk(iterator).await };
        let result = shared.ask(encoding, iterator).await;
        let Err(refusal) = &result else { return result };
        if encoding == Encoding::Json || !refusal.refuses_encoding() {
            return result;
        }
        let reason = refusal.code().unwrap_or("the request was refused without a code").to_owned();
        let again = shared.ask(Encoding::Json, iterator).await;
        // A server that refuses JSON as well has not said anything about CBOR.
        if !again.as_ref().is_err_and(CallError::refuses_encoding) {
            shared.format.fall_back(&shared.stream, &reason);
        }
        again
    }
}

impl Shared {
    async fn by_the_sdk(&self, iterator: &str) -> Result<Answer, CallError> {
        // Tried once: each attempt counts among the five reads in a second, and whoever asks repeats with growing waits.
        let once = Builder::new().retry_config(RetryConfig::disabled());
        let request = self.client.get_records().shard_iterator(iterator);
        let answer = request.customize().config_override(once).send().await;
        reference::convert(answer.map_err(CallError::from)?).map_err(CallError::SequenceNumber)
    }

    /// Asks in this encoding: directly where a route is known, and through the SDK where not, or where that failed.
    async fn ask(&self, encoding: Encoding, iterator: &str) -> Result<Answer, CallError> {
        let route = self.route.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(route) = route else { return self.through_the_door(encoding, iterator, None).await };
        let begun = Instant::now();
        let Some(result) = self.directly(&route, encoding, iterator).await else {
            return self.through_the_door(encoding, iterator, None).await;
        };
        let error = match result {
            Err(CallError::Sdk(error)) => error,
            done => return done,
        };
        let (kind, _) = meaning_of(&error);
        if kind == SourceErrorKind::Denied {
            // The SDK finds out about clocks and credentials; then the route is learnt anew.
            self.set_route(None);
        }
        let error = CallError::Sdk(error);
        let Limits { retry, operation_timeout, .. } = &route.limits;
        let attempts = retry.max_attempts().saturating_sub(1);
        let is_final =
            error.code().is_some_and(|code| ITERATOR_CODES.contains(&code)) || error.refuses_encoding();
        if attempts == 0 || is_final {
            return Err(error);
        }
        tracing::debug!(stream = self.stream, ?error, "a direct call failed; the SDK repeats it");
        if kind != SourceErrorKind::Denied {
            sleep(self.backoff(retry.initial_backoff())).await;
        }
        let left = operation_timeout.map(|limit| limit.saturating_sub(begun.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(error);
        }
        let rest = Rest { limits: route.limits.clone(), attempts, left };
        self.through_the_door(encoding, iterator, Some(rest)).await
    }

    /// A random part of the first wait, as the SDK does it.
    fn backoff(&self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.lock().unwrap_or_else(PoisonError::into_inner).f64())
    }

    fn set_route(&self, route: Option<Route>) {
        *self.route.write().unwrap_or_else(PoisonError::into_inner) = route.map(Arc::new);
    }

    async fn directly(
        &self,
        route: &Route,
        encoding: Encoding,
        iterator: &str,
    ) -> Option<Result<Answer, CallError>> {
        let attempt = match route.attempt(&self.signer, encoding, iterator).await? {
            Ok(attempt) => attempt,
            Err(error) => return Some(Err(error.into())),
        };
        if !attempt.response.status().is_success() {
            return Some(Err(attempt.into_error().into()));
        }
        let came_in = Encoding::of(&attempt.body);
        let read = read_answer(attempt.body);
        self.note_encoding(encoding, came_in, !matches!(read, Err(Undecoded::Malformed(_))));
        Some(match read {
            Ok(answer) => Ok(answer),
            Err(Undecoded::SequenceNumber(error)) => Err(CallError::SequenceNumber(error)),
            Err(Undecoded::Malformed(malformed)) => {
                Err(SdkError::response_error(malformed, attempt.response).into())
            }
        })
    }

    /// Through the SDK: from the beginning, or for the rest of a call that was begun directly.
    async fn through_the_door(
        &self,
        encoding: Encoding,
        iterator: &str,
        rest: Option<Rest>,
    ) -> Result<Answer, CallError> {
        let door = Door::new(encoding, iterator);
        let request =
            self.client.get_records().shard_iterator(iterator).customize().interceptor(door.clone());
        let request = match &rest {
            Some(rest) => request.config_override(rest.config()),
            None => request,
        };
        let result = Box::pin(request.send()).await;
        let found = door.found();
        // A client with interceptors of its own must see every request.
        if self.client.config().interceptors().next().is_none()
            && !result.as_ref().is_err_and(|error| meaning_of(error).0 == SourceErrorKind::Denied)
        {
            let limits = rest.map(|rest| rest.limits);
            self.set_route(found.route.map(|route| match limits {
                Some(limits) => route.with_limits(limits),
                None => route,
            }));
        }
        if let Some(is_sound) = found.was_sound {
            self.note_encoding(encoding, found.encoding, is_sound);
        }
        result.map_err(CallError::from)?;
        match found.answer {
            Some(answer) => answer.map_err(CallError::SequenceNumber),
            // The SDK has handed back an answer that our reader never saw.
            None => Err(SdkError::construction_failure("the answer was not read").into()),
        }
    }

    /// What the body of a good answer tells about the server.
    fn note_encoding(&self, asked: Encoding, came_in: Option<Encoding>, is_sound: bool) {
        match (asked, came_in) {
            (Encoding::Json, _) => {}
            (Encoding::Cbor, Some(Encoding::Json)) if is_sound => {
                self.format.fall_back(&self.stream, "the answer came in JSON");
            }
            (Encoding::Cbor, _) => self.format.note_cbor(&self.stream, is_sound),
        }
    }
}

/// What is left of a call.
#[derive(Debug)]
struct Rest {
    limits: Limits,
    attempts: u32,
    left: Option<Duration>,
}

impl Rest {
    fn config(&self) -> Builder {
        let mut timeouts = TimeoutConfig::builder();
        timeouts.set_operation_timeout(self.left);
        Builder::new()
            .retry_config(self.limits.retry.clone().with_max_attempts(self.attempts))
            .timeout_config(timeouts.build())
    }
}
