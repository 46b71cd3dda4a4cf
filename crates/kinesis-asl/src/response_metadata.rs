//! Metadata of a call that the SDK's output types leave out: the endpoint and the service's clock.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use lease_store::BoxError;

use crate::service_time::to_system_time;

/// The resolution of the service's clock: the `Date` header has whole seconds, rounded down.
pub(crate) const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// Metadata of one call, filled in as an interceptor. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResponseMetadata(Arc<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    endpoint: OnceLock<String>,
    date: OnceLock<SystemTime>,
}

impl ResponseMetadata {
    /// The endpoint of the request: scheme, host and port. `None`: no request was sent.
    pub(crate) fn endpoint(&self) -> Option<&String> {
        self.0.endpoint.get()
    }

    /// The service's clock at the first answer, rounded down to a second; `None`: the answer had no date.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        self.0.date.get().copied()
    }
}

impl Intercept for ResponseMetadata {
    fn name(&self) -> &'static str {
        "ResponseMetadata"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Every Kinesis call has the path `/`.
        let endpoint = context.request().uri().trim_end_matches('/').to_owned();
        self.0.endpoint.get_or_init(|| endpoint);
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        if let Some(date) = date.and_then(to_system_time) {
            self.0.date.get_or_init(|| date);
        }
        Ok(())
    }
}
