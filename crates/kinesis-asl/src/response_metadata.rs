//! Metadata of a call that the SDK's output types leave out: the endpoint, the service's clock, and the connection.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
    FinalizerInterceptorContextRef,
};
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use lease_store::BoxError;

use crate::connections;
use crate::error::RequestIds;
use crate::service_time::to_system_time;

/// The resolution of the service's clock: the `Date` header has whole seconds, rounded down.
pub(crate) const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// Metadata of one call, filled in as an interceptor. Clones share it. An attempt that times out retires its connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResponseMetadata(Arc<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    endpoint: OnceLock<String>,
    date: OnceLock<SystemTime>,
    ids: OnceLock<RequestIds>,
    connection: Mutex<Option<CaptureSmithyConnection>>,
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

    /// The ids of the first answer.
    pub(crate) fn ids(&self) -> RequestIds {
        self.0.ids.get().cloned().unwrap_or_default()
    }

    /// Excludes the connection of the last attempt from further calls.
    pub(crate) fn retire_connection(&self) {
        if let Some(connection) = &*self.0.connection.lock().unwrap_or_else(PoisonError::into_inner) {
            connections::retire(connection);
        }
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
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.0.connection.lock().unwrap_or_else(PoisonError::into_inner) = connections::of_attempt(config);
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
        self.0.ids.get_or_init(|| RequestIds::of(context.response()));
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        if let Some(date) = date.and_then(to_system_time) {
            self.0.date.get_or_init(|| date);
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        connections::retire_if_silent(context, config);
        Ok(())
    }
}
