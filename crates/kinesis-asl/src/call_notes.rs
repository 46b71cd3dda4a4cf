//! What a call tells besides its answer: where it went, and what time it was at the service.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_sdk_kinesis::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use lease_store::BoxError;

use crate::service_time::to_system_time;

/// Notes of one call. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallNotes(Arc<Notes>);

#[derive(Debug, Default)]
struct Notes {
    endpoint: OnceLock<String>,
    date: OnceLock<SystemTime>,
}

impl CallNotes {
    /// Where the request went: scheme, host and port. `None`: it was never sent.
    pub(crate) fn endpoint(&self) -> Option<&String> {
        self.0.endpoint.get()
    }

    /// The time of the (first) answer by the service's clock, cut to a second; `None`: it did not say.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        self.0.date.get().copied()
    }
}

impl Intercept for CallNotes {
    fn name(&self) -> &'static str {
        "CallNotes"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // The path of every call is the same and says nothing.
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
