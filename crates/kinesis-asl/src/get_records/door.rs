//! A call through all of the SDK, with our encoding at both ends of it: an interceptor rewrites the request before it is
//! signed, and puts our reader in place of the SDK's. On the way it learns how to send the next request directly.

use std::sync::{Arc, Mutex, PoisonError};

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

use super::direct::Route;
use super::malformed::Undecoded;
use super::{Answer, Encoding, direct, read_answer, read_refusal};

/// The interceptor of one call. Clones share what comes in.
#[derive(Debug, Clone)]
pub(super) struct Door {
    encoding: Encoding,
    /// What to send; `None`: what the SDK wrote.
    request: Option<Bytes>,
    found: Arc<Mutex<Found>>,
}

/// What came in through the door.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The answer, or a sequence number that is none.
    pub(super) answer: Option<Result<Answer, StoreError>>,
    /// Whether the last answer was a good one whose body was sound.
    pub(super) was_sound: Option<bool>,
    /// The encoding of the last body.
    pub(super) encoding: Option<Encoding>,
    pub(super) route: Option<Route>,
}

impl Door {
    pub(super) fn new(encoding: Encoding, iterator: &str) -> Self {
        let request = match encoding {
            Encoding::Cbor => Some(encoding.request(iterator).into()),
            Encoding::Json => None,
        };
        Self { encoding, request, found: Arc::default() }
    }

    /// What came in, once the call is over.
    pub(super) fn found(&self) -> Found {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: impl FnOnce(&mut Found)) {
        note(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Intercept for Door {
    fn name(&self) -> &'static str {
        "GetRecordsDoor"
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
        // JSON is written by the SDK as we would.
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
        let route = Route::learn(context.request(), components, config);
        self.note(|found| found.route = route);
        Ok(())
    }
}

impl DeserializeResponse for Door {
    fn deserialize_nonstreaming_with_config(
        &self,
        response: &HttpResponse,
        _config: &ConfigBag,
    ) -> Result<Output, OrchestratorError<Error>> {
        let body = response.body().bytes().unwrap_or_default().to_vec();
        let encoding = Encoding::of(&body);
        if !response.status().is_success() {
            self.note(|found| (found.encoding, found.was_sound) = (encoding, None));
            let refusal = read_refusal(direct::code_header(response), body);
            return Err(OrchestratorError::operation(Error::erase(refusal)));
        }
        let answer = match read_answer(body) {
            Ok(answer) => Ok(answer),
            Err(Undecoded::SequenceNumber(error)) => Err(error),
            Err(Undecoded::Malformed(malformed)) => {
                self.note(|found| (found.encoding, found.was_sound) = (encoding, Some(false)));
                return Err(OrchestratorError::response(Box::new(malformed)));
            }
        };
        self.note(|found| {
            (found.encoding, found.was_sound) = (encoding, Some(true));
            found.answer = Some(answer);
        });
        // The SDK wants something of its own type to hand back; what counts came in through the door.
        let empty = GetRecordsOutput::builder().set_records(Some(Vec::new())).build();
        empty.map(Output::erase).map_err(OrchestratorError::other)
    }
}
