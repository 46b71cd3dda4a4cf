//! One `GetRecords` call: which path it takes, and what happens when it fails.
//!
//! Every attempt counts towards the five reads a second of its shard, even a failed one. So a failed call is not retried here,
//! with one exception: a request refused for its encoding is sent once more in JSON, at the next due time. The caller
//! retries with growing waits.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsError;
use lease_store::StoreError;
use shard_worker::SourceErrorKind;
use tokio::time::Instant;

use super::answer::Answer;
use super::body::{self, CutOff, MAX_BODY_TIME, Patience};
use super::codec::read_answer;
use super::decode_error::DecodeError;
use super::direct::{DEFAULT_ATTEMPT_TIMEOUT, Route};
use super::encoding::Encoding;
use super::format::{CborOutcome, FormatMemory, GetRecordsFormat};
use super::sdk_parser;
use super::signing::Signer;
use super::via_sdk::ViaSdk;
use crate::error::classify;
use crate::polling::read_pace::ReadPace;
use crate::read_counts::{ReadCounters, ReadCounts, ReadEnd};
use crate::stream_arn::StreamId;

/// The codes of a refused iterator. The route is right, since its server has read the request. "Not found" is not among them: it is
/// also the answer of an endpoint that the stream has left.
const ITERATOR_CODES: [&str; 2] = ["ExpiredIteratorException", "InvalidArgumentException"];

/// The codes of a refused encoding.
const ENCODING_CODES: [&str; 3] =
    ["SerializationException", "UnknownOperationException", "UnsupportedMediaTypeException"];

/// `415 Unsupported Media Type`.
const UNSUPPORTED_MEDIA_TYPE: u16 = 415;

/// Why a call returned no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The request was refused, or there was no valid answer.
    Sdk(Box<SdkError<GetRecordsError>>),
    /// A record has an invalid sequence number.
    SequenceNumber(StoreError),
}

impl From<SdkError<GetRecordsError>> for CallError {
    fn from(error: SdkError<GetRecordsError>) -> Self {
        Self::Sdk(Box::new(error))
    }
}

impl CallError {
    /// The code of a refused iterator, if another iterator may work.
    pub(crate) fn refused_iterator(&self) -> Option<&str> {
        if !matches!(self, Self::Sdk(error) if matches!(**error, SdkError::ServiceError(_))) {
            return None;
        }
        let code = self.code()?;
        matches!(code, "ExpiredIteratorException" | "InvalidArgumentException").then_some(code)
    }

    /// How the call counts.
    fn end(&self) -> ReadEnd {
        let Self::Sdk(error) = self else { return ReadEnd::Failed };
        let is_late = match &**error {
            SdkError::TimeoutError(_) => true,
            SdkError::DispatchFailure(failure) => failure.is_timeout(),
            _ => self.cut_off().is_some(),
        };
        match classify(error).0 {
            _ if is_late => ReadEnd::TimedOut,
            SourceErrorKind::Throttled => ReadEnd::Throttled,
            _ => ReadEnd::Failed,
        }
    }

    /// How far the answer had arrived when it was cut off.
    fn cut_off(&self) -> Option<&CutOff> {
        let Self::Sdk(error) = self else { return None };
        body::cut_off(&**error)
    }

    fn code(&self) -> Option<&str> {
        match self {
            Self::Sdk(error) => error.code(),
            Self::SequenceNumber(_) => None,
        }
    }

    /// Whether the server answered with a 5xx status.
    fn is_server_error(&self) -> bool {
        let Self::Sdk(error) = self else { return false };
        matches!(&**error, SdkError::ServiceError(refusal) if refusal.raw().status().is_server_error())
    }

    /// Whether the server refused the encoding of the request rather than the request.
    fn refuses_encoding(&self) -> bool {
        let Self::Sdk(error) = self else { return false };
        let SdkError::ServiceError(refusal) = &**error else { return false };
        let status = refusal.raw().status().as_u16();
        match self.code() {
            _ if status == UNSUPPORTED_MEDIA_TYPE => true,
            Some(code) => ENCODING_CODES.contains(&code),
            // Kinesis always sends a code, so this answer is from a proxy or from another server.
            None => (400..500).contains(&status) && !matches!(status, 401 | 403 | 429),
        }
    }
}

/// Calls `GetRecords` for one stream. Clones share what earlier calls showed about the server.
#[derive(Debug, Clone)]
pub(crate) struct GetRecords(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    stream: String,
    /// The ARN of a stream that was given by its ARN. Each request has it: its policy may be that of another account.
    stream_arn: Option<String>,
    format: FormatMemory,
    /// The route of direct requests; `None`: not known yet, or not allowed.
    route: RwLock<Option<Arc<Route>>>,
    signer: Signer,
    counters: ReadCounters,
}

impl GetRecords {
    pub(crate) fn new(client: Client, stream: &StreamId, format: GetRecordsFormat) -> Self {
        Self(Arc::new(Shared {
            client,
            stream: stream.name.clone(),
            stream_arn: stream.arn.as_ref().map(ToString::to_string),
            format: FormatMemory::new(format),
            route: RwLock::default(),
            signer: Signer::default(),
            counters: ReadCounters::default(),
        }))
    }

    /// The calls so far, of all clones.
    pub(crate) fn counts(&self) -> ReadCounts {
        self.0.counters.get()
    }

    /// Whether the next read will probably not go through the SDK.
    pub(crate) fn is_direct(&self) -> bool {
        self.0.route.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Reads the records at an iterator, at once. Each attempt is noted in the pace, so a second attempt is delayed too. After
    /// an answer that was cut off, the next one has fewer records.
    pub(crate) async fn call(&self, iterator: &str, pace: &mut ReadPace) -> Result<Answer, CallError> {
        let result = self.read(iterator, pace).await;
        self.0.counters.add(result.as_ref().map_or_else(CallError::end, |_| ReadEnd::Answered));
        match &result {
            Ok(_) => pace.limit.answered(),
            Err(error) => {
                if let Some(cut_off) = error.cut_off() {
                    pace.limit.cut_off(cut_off.records);
                    tracing::info!(
                        stream = self.0.stream,
                        %cut_off,
                        limit = pace.limit.get(),
                        "an answer was cut off, the next read asks for fewer records"
                    );
                }
            }
        }
        result
    }

    async fn read(&self, iterator: &str, pace: &mut ReadPace) -> Result<Answer, CallError> {
        let shared = &*self.0;
        let limit = pace.limit.get();
        shared.format.log_once(&shared.stream);
        pace.started(Instant::now());
        // Box the rare branches: this future is built for every call, and would contain them otherwise.
        let Some(encoding) = shared.format.encoding() else {
            return Box::pin(shared.with_sdk_parser(iterator, limit)).await;
        };
        let result = shared.attempt(encoding, iterator, limit).await;
        let Err(refusal) = &result else { return result };
        if encoding == Encoding::Json {
            return result;
        }
        if refusal.is_server_error() {
            shared.format.record_cbor_outcome(&shared.stream, CborOutcome::Failed);
        }
        if !refusal.refuses_encoding() {
            return result;
        }
        let reason = refusal.code().unwrap_or("the request was refused without a code").to_owned();
        pace.wait_until_due().await;
        pace.started(Instant::now());
        let in_json = Box::pin(shared.attempt(Encoding::Json, iterator, limit)).await;
        // A server that refuses JSON as well may still accept CBOR later.
        if !in_json.as_ref().is_err_and(CallError::refuses_encoding) {
            shared.format.fall_back(&shared.stream, &reason);
        }
        in_json
    }
}

impl Shared {
    /// The client's settings, but with one attempt. The retry mode stays, so that an adaptive client keeps its rate limit. The
    /// time-outs bound only the whole call; [`Patience`] bounds the waits within it.
    fn once(&self) -> Builder {
        let retry = self.client.config().retry_config().cloned().unwrap_or_else(RetryConfig::standard);
        let longest = self.attempt_timeout().saturating_add(MAX_BODY_TIME);
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(longest).operation_timeout(longest);
        Builder::new().retry_config(retry.with_max_attempts(1)).timeout_config(timeouts.build())
    }

    /// The longest wait for an answer, and then for further bytes of it.
    fn attempt_timeout(&self) -> Duration {
        let timeouts = self.client.config().timeout_config();
        let own = timeouts.and_then(|own| own.operation_attempt_timeout().or(own.operation_timeout()));
        own.unwrap_or(DEFAULT_ATTEMPT_TIMEOUT)
    }

    async fn with_sdk_parser(&self, iterator: &str, limit: Option<u32>) -> Result<Answer, CallError> {
        let patience = Patience::new(self.attempt_timeout());
        let request = self.client.get_records().shard_iterator(iterator).set_limit(sdk_limit(limit));
        let request = request.set_stream_arn(self.stream_arn.clone());
        let request = request.customize().interceptor(patience.clone()).interceptor(sdk_parser::NeedsRecords);
        let request = request.config_override(self.once());
        let answer = patience.wait(request.send()).await;
        sdk_parser::convert(answer.map_err(CallError::from)?).map_err(CallError::SequenceNumber)
    }

    /// One attempt in this encoding: directly where a route is known, through the SDK otherwise.
    async fn attempt(
        &self,
        encoding: Encoding,
        iterator: &str,
        limit: Option<u32>,
    ) -> Result<Answer, CallError> {
        let route = self.route.read().unwrap_or_else(PoisonError::into_inner).clone();
        let result = match &route {
            Some(route) => self.directly(route, encoding, iterator, limit).await,
            None => None,
        };
        let Some(result) = result else { return Box::pin(self.via_sdk(encoding, iterator, limit)).await };
        if let Err(CallError::Sdk(error)) = &result {
            let is_about_the_request = error.code().is_some_and(|code| ITERATOR_CODES.contains(&code));
            if !is_about_the_request && classify(error).0 != SourceErrorKind::Throttled {
                // The SDK handles clock skew, expired credentials and broken connections. Its next call teaches a new route.
                // The SDK's error would show the body of the answer.
                tracing::debug!(
                    stream = self.stream,
                    error = %classify(error).1,
                    "a direct request failed, the next one goes through the SDK"
                );
                self.set_route(None);
            }
        }
        result
    }

    fn set_route(&self, route: Option<Route>) {
        *self.route.write().unwrap_or_else(PoisonError::into_inner) = route.map(Arc::new);
    }

    /// One attempt without the SDK; `None`: the request could not be built, and none was sent.
    async fn directly(
        &self,
        route: &Route,
        encoding: Encoding,
        iterator: &str,
        limit: Option<u32>,
    ) -> Option<Result<Answer, CallError>> {
        let attempt =
            match route.attempt(&self.signer, encoding, iterator, limit, self.stream_arn.as_deref()).await? {
                Ok(attempt) => attempt,
                Err(error) => return Some(Err(error.into())),
            };
        if !attempt.response.status().is_success() {
            return Some(Err(attempt.into_error().into()));
        }
        let received = Encoding::of(attempt.body.as_ref());
        let decoded = read_answer(attempt.body);
        let outcome = match &decoded {
            Ok(answer) if answer.records.is_empty() => CborOutcome::NoRecords,
            Ok(_) | Err(DecodeError::SequenceNumber(_)) => CborOutcome::Records,
            Err(DecodeError::Malformed(_)) => CborOutcome::Malformed,
        };
        self.record_encoding(encoding, received, outcome);
        Some(match decoded {
            Ok(answer) => Ok(answer),
            Err(DecodeError::SequenceNumber(error)) => Err(CallError::SequenceNumber(error)),
            Err(DecodeError::Malformed(malformed)) => {
                Err(SdkError::response_error(malformed, attempt.response).into())
            }
        })
    }

    /// One attempt through the whole SDK.
    async fn via_sdk(
        &self,
        encoding: Encoding,
        iterator: &str,
        limit: Option<u32>,
    ) -> Result<Answer, CallError> {
        let attempt_timeout = self.attempt_timeout();
        let stream_arn = self.stream_arn.as_deref();
        let via_sdk = ViaSdk::new(encoding, iterator, limit, stream_arn, attempt_timeout);
        let patience = Patience::new(attempt_timeout);
        let request = self.client.get_records().shard_iterator(iterator).set_limit(sdk_limit(limit));
        // Also for CBOR, whose body replaces the SDK's: the ARN chooses the endpoint.
        let request = request.set_stream_arn(self.stream_arn.clone()).customize();
        let request = request.interceptor(via_sdk.clone()).interceptor(patience.clone());
        let result = patience.wait(request.config_override(self.once()).send()).await;
        let captured = via_sdk.captured();
        // A client with interceptors of its own must see every request.
        if self.client.config().interceptors().next().is_none() {
            // Keep the route only if the service processed the request and accepted the credentials.
            let is_answered = match &result {
                Ok(_) | Err(SdkError::ResponseError(_)) => true,
                Err(SdkError::ServiceError(refusal)) => !refusal.raw().status().is_server_error(),
                Err(_) => false,
            };
            let is_denied = result.as_ref().is_err_and(|error| classify(error).0 == SourceErrorKind::Denied);
            self.set_route(captured.route.filter(|_| is_answered && !is_denied));
        }
        match (captured.was_decoded, &captured.answer) {
            (Some(false), _) => self.record_encoding(encoding, captured.encoding, CborOutcome::Malformed),
            (Some(true), Some(Ok(answer))) if answer.records.is_empty() => {
                self.record_encoding(encoding, captured.encoding, CborOutcome::NoRecords);
            }
            (Some(true), _) => self.record_encoding(encoding, captured.encoding, CborOutcome::Records),
            (None, _) => {}
        }
        result.map_err(CallError::from)?;
        match captured.answer {
            Some(answer) => answer.map_err(CallError::SequenceNumber),
            // The SDK returned an output without calling our decoder.
            None => Err(SdkError::construction_failure("the answer was not decoded").into()),
        }
    }

    /// Records whether the server supports CBOR, from the body of a successful answer.
    fn record_encoding(&self, requested: Encoding, received: Option<Encoding>, outcome: CborOutcome) {
        match (requested, received) {
            (Encoding::Json, _) => {}
            (Encoding::Cbor, Some(Encoding::Json)) if outcome != CborOutcome::Malformed => {
                self.format.fall_back(&self.stream, "the answer was in JSON");
            }
            (Encoding::Cbor, _) => self.format.record_cbor_outcome(&self.stream, outcome),
        }
    }
}

fn sdk_limit(limit: Option<u32>) -> Option<i32> {
    limit.and_then(|limit| i32::try_from(limit).ok())
}
