//! A `GetRecords` call through the whole SDK, but with this crate's encoding: an interceptor rewrites the request before it is
//! signed, and replaces the SDK's parser. From the signed request it also learns the route for later direct requests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::config::http::HttpResponse;
use aws_sdk_kinesis::config::interceptors::{
    BeforeSerializationInterceptorContextMut, BeforeTransmitInterceptorContextMut,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_smithy_runtime_api::client::interceptors::context::{Error, Output};
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;
use aws_smithy_runtime_api::client::ser_de::{DeserializeResponse, SharedResponseDeserializer};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use lease_store::StoreError;

use super::answer::Answer;
use super::codec::{self, read_answer, read_refusal};
use super::decode_error::DecodeError;
use super::direct::{Route, code_header};
use super::encoding::Encoding;

/// The interceptor of one call. Clones share the results.
#[derive(Debug, Clone)]
pub(super) struct ViaSdk {
    encoding: Encoding,
    /// The body to send; `None`: the body that the SDK wrote.
    request: Option<Bytes>,
    /// The time-out of an attempt, for the route.
    attempt_timeout: Duration,
    captured: Arc<Mutex<Captured>>,
}

/// The results of a call, captured by the interceptor.
#[derive(Debug, Default)]
pub(super) struct Captured {
    /// The decoded answer, or the error of an invalid sequence number.
    pub(super) answer: Option<Result<Answer, StoreError>>,
    /// Whether the body of the last successful answer could be decoded; `None`: the last answer was a refusal.
    pub(super) was_decoded: Option<bool>,
    /// The encoding of the last body.
    pub(super) encoding: Option<Encoding>,
    pub(super) route: Option<Route>,
}

impl ViaSdk {
    pub(super) fn new(
        encoding: Encoding,
        iterator: &str,
        limit: Option<u32>,
        stream_arn: Option<&str>,
        attempt_timeout: Duration,
    ) -> Self {
        let request = match encoding {
            Encoding::Cbor => Some(codec::request(encoding, iterator, limit, stream_arn).into()),
            Encoding::Json => None,
        };
        Self { encoding, request, attempt_timeout, captured: Arc::default() }
    }

    /// The results; to be called after the call has returned.
    pub(super) fn captured(&self) -> Captured {
        std::mem::take(&mut *self.captured.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, update: impl FnOnce(&mut Captured)) {
        update(&mut self.captured.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Intercept for ViaSdk {
    fn name(&self) -> &'static str {
        "GetRecordsViaSdk"
    }

    fn modify_before_serialization(
        &self,
        _context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(SharedResponseDeserializer::new(self.clone()));
        Ok(())
    }

    fn modify_before_retry_loop(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Only a CBOR request replaces the SDK's body.
        let Some(body) = self.request.clone() else { return Ok(()) };
        let length = body.len();
        let request = context.request_mut();
        *request.body_mut() = SdkBody::from(body);
        request.headers_mut().try_insert("content-type", self.encoding.content_type())?;
        if request.headers().contains_key("content-length") {
            request.headers_mut().try_insert("content-length", length.to_string())?;
        }
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let route = Route::learn(context.request(), components, config, self.attempt_timeout);
        self.record(|captured| captured.route = route);
        Ok(())
    }
}

impl DeserializeResponse for ViaSdk {
    fn deserialize_nonstreaming_with_config(
        &self,
        response: &HttpResponse,
        _config: &ConfigBag,
    ) -> Result<Output, OrchestratorError<Error>> {
        let body = response.body().bytes().unwrap_or_default().to_vec();
        let encoding = Encoding::of(&body);
        if !response.status().is_success() {
            self.record(|captured| (captured.encoding, captured.was_decoded) = (encoding, None));
            let refusal = read_refusal(code_header(response), body);
            return Err(OrchestratorError::operation(Error::erase(refusal)));
        }
        let answer = match read_answer(body) {
            Ok(answer) => Ok(answer),
            Err(DecodeError::SequenceNumber(error)) => Err(error),
            Err(DecodeError::Malformed(malformed)) => {
                self.record(|captured| (captured.encoding, captured.was_decoded) = (encoding, Some(false)));
                return Err(OrchestratorError::response(Box::new(malformed)));
            }
        };
        self.record(|captured| {
            (captured.encoding, captured.was_decoded) = (encoding, Some(true));
            captured.answer = Some(answer);
        });
        // The SDK requires an output of its own type. The caller takes the captured answer instead.
        let empty = GetRecordsOutput::builder().set_records(Some(Vec::new())).build();
        empty.map(Output::erase).map_err(OrchestratorError::other)
    }
}
