//! One call of `GetRecords`: which way it goes, and what happens when it fails.
//!
//! Each attempt counts among the five reads in a second that a shard allows, whatever comes of it. So nothing is repeated
//! here but in another encoding, and that in its turn: whoever asks repeats, with growing waits.

use std::sync::{Arc, PoisonError, RwLock};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsError;
use lease_store::StoreError;
use shard_worker::SourceErrorKind;
use tokio::time::Instant;

use super::direct::Route;
use super::door::Door;
use super::format::{Attempted, FormatMemory, GetRecordsFormat};
use super::malformed::Undecoded;
use super::signing::Signer;
use super::{Answer, Encoding, read_answer, reference};
use crate::error::meaning_of;
use crate::read_pace::ReadPace;

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

    /// Whether the server says that it failed.
    fn is_of_the_server(&self) -> bool {
        let Self::Sdk(error) = self else { return false };
        matches!(&**error, SdkError::ServiceError(refusal) if refusal.raw().status().is_server_error())
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
}

impl GetRecords {
    pub(crate) fn new(client: Client, stream: &str, format: GetRecordsFormat) -> Self {
        Self(Arc::new(Shared {
            client,
            stream: stream.to_owned(),
            format: FormatMemory::new(format),
            route: RwLock::default(),
            signer: Signer::default(),
        }))
    }

    /// Reads what the iterator stands for, at once. The pace hears of each attempt, and says when a second one may begin.
    pub(crate) async fn call(&self, iterator: &str, pace: &mut ReadPace) -> Result<Answer, CallError> {
        let shared = &*self.0;
        shared.format.announce(&shared.stream);
        pace.started(Instant::now());
        // What is rare is kept out of these futures, which are made anew for each call.
        let Some(encoding) = shared.format.encoding() else {
            return Box::pin(shared.by_the_sdk(iterator)).await;
        };
        let result = shared.ask(encoding, iterator).await;
        let Err(refusal) = &result else { return result };
        if encoding == Encoding::Json {
            return result;
        }
        if refusal.is_of_the_server() {
            shared.format.note_cbor(&shared.stream, Attempted::Failed);
        }
        if !refusal.refuses_encoding() {
            return result;
        }
        let reason = refusal.code().unwrap_or("the request was refused without a code").to_owned();
        pace.turn().await;
        pace.started(Instant::now());
        let again = Box::pin(shared.ask(Encoding::Json, iterator)).await;
        // A server that refuses JSON as well has not said anything about CBOR.
        if !again.as_ref().is_err_and(CallError::refuses_encoding) {
            shared.format.fall_back(&shared.stream, &reason);
        }
        again
    }
}

impl Shared {
    /// The client's settings but for one attempt. The mode stays: a client that adapts its rate goes on doing so.
    fn once(&self) -> Builder {
        let retry = self.client.config().retry_config().cloned().unwrap_or_else(RetryConfig::standard);
        Builder::new().retry_config(retry.with_max_attempts(1))
    }

    async fn by_the_sdk(&self, iterator: &str) -> Result<Answer, CallError> {
        let request = self.client.get_records().shard_iterator(iterator);
        let answer = request.customize().config_override(self.once()).send().await;
        reference::convert(answer.map_err(CallError::from)?).map_err(CallError::SequenceNumber)
    }

    /// Asks in this encoding: directly where a route is known, and through the SDK where not.
    async fn ask(&self, encoding: Encoding, iterator: &str) -> Result<Answer, CallError> {
        let route = self.route.read().unwrap_or_else(PoisonError::into_inner).clone();
        let result = match &route {
            Some(route) => self.directly(route, encoding, iterator).await,
            None => None,
        };
        let Some(result) = result else { return Box::pin(self.through_the_door(encoding, iterator)).await };
        if let Err(CallError::Sdk(error)) = &result {
            let is_about_the_request = error
                .code()
                .is_some_and(|code| ITERATOR_CODES.contains(&code) || ENCODING_CODES.contains(&code));
            if !is_about_the_request && meaning_of(error).0 != SourceErrorKind::Throttled {
                // The next read is the SDK's, with all it knows about clocks, credentials and connections; then the route is
                // learnt anew.
                tracing::debug!(
                    stream = self.stream,
                    ?error,
                    "a direct call failed; the SDK makes the next one"
                );
                self.set_route(None);
            }
        }
        result
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
        let attempted = match &read {
            Ok(answer) if answer.records.is_empty() => Attempted::Nothing,
            Ok(_) | Err(Undecoded::SequenceNumber(_)) => Attempted::Records,
            Err(Undecoded::Malformed(_)) => Attempted::Malformed,
        };
        self.note_encoding(encoding, came_in, attempted);
        Some(match read {
            Ok(answer) => Ok(answer),
            Err(Undecoded::SequenceNumber(error)) => Err(CallError::SequenceNumber(error)),
            Err(Undecoded::Malformed(malformed)) => {
                Err(SdkError::response_error(malformed, attempt.response).into())
            }
        })
    }

    /// Through the SDK.
    async fn through_the_door(&self, encoding: Encoding, iterator: &str) -> Result<Answer, CallError> {
        let door = Door::new(encoding, iterator);
        let request = self.client.get_records().shard_iterator(iterator).customize();
        let request = request.interceptor(door.clone()).config_override(self.once());
        let result = request.send().await;
        let found = door.found();
        // A client with interceptors of its own must see every request.
        if self.client.config().interceptors().next().is_none() {
            // Only along the way of a request that the service looked into, whatever it said.
            let is_answered = match &result {
                Ok(_) | Err(SdkError::ResponseError(_)) => true,
                Err(SdkError::ServiceError(refusal)) => !refusal.raw().status().is_server_error(),
                Err(_) => false,
            };
            let is_denied =
                result.as_ref().is_err_and(|error| meaning_of(error).0 == SourceErrorKind::Denied);
            self.set_route(found.route.filter(|_| is_answered && !is_denied));
        }
        match (found.was_sound, &found.answer) {
            (Some(false), _) => self.note_encoding(encoding, found.encoding, Attempted::Malformed),
            (Some(true), Some(Ok(answer))) if answer.records.is_empty() => {
                self.note_encoding(encoding, found.encoding, Attempted::Nothing);
            }
            (Some(true), _) => self.note_encoding(encoding, found.encoding, Attempted::Records),
            (None, _) => {}
        }
        result.map_err(CallError::from)?;
        match found.answer {
            Some(answer) => answer.map_err(CallError::SequenceNumber),
            // The SDK has handed back an answer that our reader never saw.
            None => Err(SdkError::construction_failure("the answer was not read").into()),
        }
    }

    /// What the body of a good answer tells about the server.
    fn note_encoding(&self, asked: Encoding, came_in: Option<Encoding>, attempted: Attempted) {
        match (asked, came_in) {
            (Encoding::Json, _) => {}
            (Encoding::Cbor, Some(Encoding::Json)) if attempted != Attempted::Malformed => {
                self.format.fall_back(&self.stream, "the answer came in JSON");
            }
            (Encoding::Cbor, _) => self.format.note_cbor(&self.stream, attempted),
        }
    }
}
