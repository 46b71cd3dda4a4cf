//! Classifies the errors of a subscription: of its call, and of its stream of events.

use std::time::Duration;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardError;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use lease_store::ShardId;
use shard_worker::{SourceError, SourceErrorKind};

use super::policy::SessionEnd;
use crate::error::{RequestIds, ServiceError, error_chain, service_error, source_error_of_call};
use crate::stream_client::StreamClient;

/// The HTTP status by which an exception inside a stream of events is classified; it has none of its own.
const STATUS_OF_EVENTS: u16 = 400;

const IN_USE_HINT: &str = "; another subscriber of the same consumer has this shard, or had it less than five seconds ago: \
                           if it is another application, give each application a consumer of its own";

/// The error of a subscription that was refused or broke.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) error: SourceError,
}

/// How to react to a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Another subscriber has the shard: wait at least five seconds.
    InUse,
    /// The consumer, the shard or the stream is gone: find out which.
    NotFound,
    /// A retry may succeed.
    Transient,
    /// A retry fails until an operator fixes the cause.
    NeedsOperator,
}

impl Failure {
    pub(crate) fn new(error: SourceError) -> Self {
        let kind = match error.kind() {
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable => FailureKind::Transient,
            _ => FailureKind::NeedsOperator,
        };
        Self { kind, error }
    }

    /// The failure of the call.
    pub(crate) fn refused(
        stream: &StreamClient,
        shard_id: &ShardId,
        error: SdkError<SubscribeToShardError>,
        ids: &RequestIds,
    ) -> Self {
        let code = error.code().unwrap_or_default().to_owned();
        let action = format!("subscribing to {shard_id}");
        let error = source_error_of_call(&action, stream.destination(), error, ids);
        Self::of_code(&code, error)
    }

    /// The failure of an open subscription: an exception instead of an event, or a broken connection.
    #[allow(clippy::needless_pass_by_value)] // as `map_err` passes it
    pub(crate) fn broken<R>(
        stream: &StreamClient,
        shard_id: &ShardId,
        error: SdkError<SubscribeToShardEventStreamError, R>,
        ids: RequestIds,
    ) -> Self
    where
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let action = format!("the subscription to {shard_id}");
        let code = error.as_service_error().and_then(code_of).unwrap_or_default();
        let text = match error.as_service_error().and_then(|error| error.meta().message()) {
            Some(message) if !code.is_empty() => format!("{code}: {message}"),
            _ => error_chain(&error),
        };
        let error = match error {
            SdkError::ServiceError(_) => {
                let answer = ServiceError { status: STATUS_OF_EVENTS, code: &code, text, ids };
                service_error(&action, stream.destination(), &answer)
            }
            // The connection broke, or an event is truncated or corrupt: the next session reads the event again.
            _ => {
                let cause = ids.cause(&text);
                stream.unavailable(&format!("{action} broke: {cause}")).with_source(cause)
            }
        };
        Self::of_code(&code, error)
    }

    /// The failure of a subscription with an event that cannot be decoded. The next session reads the event again.
    pub(crate) fn undecodable(
        stream: &StreamClient,
        shard_id: &ShardId,
        fault: &str,
        ids: &RequestIds,
    ) -> Self {
        let cause = ids.cause(fault);
        let text = format!("the subscription to {shard_id} broke: {cause}");
        Self::new(stream.unavailable(&text).with_source(cause))
    }

    /// The failure of a subscription without an event for this time.
    pub(crate) fn silent(stream: &StreamClient, shard_id: &ShardId, silence: Duration) -> Self {
        Self::new(stream.unavailable(&format!(
            "the subscription to {shard_id} had no event for {silence:?}, not even an empty one"
        )))
    }

    fn of_code(code: &str, error: SourceError) -> Self {
        match code {
            "ResourceInUseException" => {
                let error = SourceError::new(error.kind(), format!("{error}{IN_USE_HINT}")).caused_by(error);
                Self { kind: FailureKind::InUse, error }
            }
            "ResourceNotFoundException" => Self { kind: FailureKind::NotFound, error },
            _ => Self::new(error),
        }
    }

    pub(crate) fn session_end(&self) -> SessionEnd {
        match self.kind {
            FailureKind::InUse => SessionEnd::InUse,
            FailureKind::NotFound | FailureKind::Transient | FailureKind::NeedsOperator => SessionEnd::Failed,
        }
    }
}

/// The error code of an exception inside a stream of events. The event type names it; its content need not.
fn code_of(error: &SubscribeToShardEventStreamError) -> Option<String> {
    use SubscribeToShardEventStreamError as Error;
    let code = match error {
        Error::ResourceNotFoundException(_) => "ResourceNotFoundException",
        Error::ResourceInUseException(_) => "ResourceInUseException",
        Error::KmsDisabledException(_) => "KMSDisabledException",
        Error::KmsInvalidStateException(_) => "KMSInvalidStateException",
        Error::KmsAccessDeniedException(_) => "KMSAccessDeniedException",
        Error::KmsNotFoundException(_) => "KMSNotFoundException",
        Error::KmsOptInRequired(_) => "KMSOptInRequired",
        Error::KmsThrottlingException(_) => "KMSThrottlingException",
        Error::InternalFailureException(_) => "InternalFailureException",
        other => return other.meta().code().map(str::to_owned),
    };
    Some(code.to_owned())
}
