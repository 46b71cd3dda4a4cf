//! Interceptors that see what the SDK's output types leave out: the body of an answer as it came, and the headers of all answers.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kinesis::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextMut,
};
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};

/// The content type of requests and answers in CBOR.
pub(super) const CBOR: &str = "application/x-amz-cbor-1.1";

/// An answer as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct RawAnswer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// One call: replaces the body of the request, and keeps that of the answer. Clones share the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange {
    /// A body in CBOR. `None`: the body that the SDK wrote.
    request: Option<Vec<u8>>,
    answer: Arc<Mutex<Option<RawAnswer>>>,
}

impl Exchange {
    pub(super) fn new(request: Option<Vec<u8>>) -> Self {
        Self { request, answer: Arc::default() }
    }

    /// The answer. `None`: none arrived.
    pub(super) fn answer(&self) -> Option<RawAnswer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Intercept for Exchange {
    fn name(&self) -> &'static str {
        "Exchange"
    }

    fn modify_before_retry_loop(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(body) = self.request.clone() else { return Ok(()) };
        let length = body.len();
        let request = context.request_mut();
        *request.body_mut() = body.into();
        request.headers_mut().try_insert("content-type", CBOR)?;
        if request.headers().contains_key("content-length") {
            request.headers_mut().try_insert("content-length", length.to_string())?;
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let body = response.body().bytes().unwrap_or_default().to_vec();
        let answer = RawAnswer { status: response.status().as_u16(), body };
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        Ok(())
    }
}

/// How many answers had which header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HeaderCounts {
    pub(super) answers: u32,
    pub(super) dates: u32,
    pub(super) ids: u32,
    pub(super) extended_ids: u32,
    /// The clock of the service at the last answer with a date, in seconds since 1970.
    pub(super) last_date: Option<i64>,
}

/// Counts the headers of all answers of a client. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct HeaderTally(Arc<Mutex<HeaderCounts>>);

impl HeaderTally {
    pub(super) fn counts(&self) -> HeaderCounts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for HeaderTally {
    fn name(&self) -> &'static str {
        "HeaderTally"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.answers += 1;
        let date = headers.get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        counts.dates += u32::from(date.is_some());
        counts.last_date = date.map(|date| date.secs()).or(counts.last_date);
        counts.ids += u32::from(headers.contains_key("x-amzn-requestid"));
        counts.extended_ids += u32::from(headers.contains_key("x-amz-id-2"));
        Ok(())
    }
}
