//! What can go wrong with a subscription: the one place where that gets its meaning.

use std::time::Duration;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardError;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use lease_store::ShardId;
use shard_worker::{SourceError, SourceErrorKind};

use super::policy::SessionEnd;
use crate::error::{Said, chain, said_error};
use crate::stream::KinesisStream;

/// The status that goes with an exception inside a stream of events, which has none of its own.
const STATUS_OF_EVENTS: u16 = 400;

const IN_USE_HINT: &str = "; another subscriber has this shard as the same consumer, or had it less than five seconds ago: \
                           if that is not another process of this application, give each application a consumer of its own";

/// Why a subscription was refused or broke.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) trouble: Trouble,
    pub(crate) error: SourceError,
}

/// What a failure calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Another subscriber has the shard: keep the distance.
    InUse,
    /// The consumer, the shard or the stream is gone: look which.
    NotFound,
    /// Another try may better it.
    Passing,
    /// Somebody has to do something about it.
    NeedsHelp,
}

impl Failure {
    pub(crate) fn new(error: SourceError) -> Self {
        let trouble = match error.kind() {
            SourceErrorKind::Throttled | SourceErrorKind::Unavailable => Trouble::Passing,
            _ => Trouble::NeedsHelp,
        };
        Self { trouble, error }
    }

    /// The call failed.
    pub(crate) fn refused(
        stream: &KinesisStream,
        shard_id: &ShardId,
        error: SdkError<SubscribeToShardError>,
    ) -> Self {
        let code = error.code().unwrap_or_default().to_owned();
        let error = stream.error(&format!("subscribing to {shard_id}"), error);
        Self::of_code(&code, error)
    }

    /// An exception came instead of an event, or the connection broke.
    pub(crate) fn broken<R>(
        stream: &KinesisStream,
        shard_id: &ShardId,
        error: SdkError<SubscribeToShardEventStreamError, R>,
    ) -> Self
    where
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let doing = format!("the subscription to {shard_id}");
        let code = error.as_service_error().and_then(code_of).unwrap_or_default();
        let text = match error.as_service_error().and_then(|error| error.meta().message()) {
            Some(message) if !code.is_empty() => format!("{code}: {message}"),
            _ => chain(&error),
        };
        let error = match error {
            SdkError::ServiceError(_) => {
                let said = Said { status: STATUS_OF_EVENTS, code: &code, text };
                said_error(&doing, stream.destination(), &said).with_source(error)
            }
            // Torn, cut short or garbled on its way: the next session reads it again.
            _ => stream.unavailable(&format!("{doing} broke: {text}")).with_source(error),
        };
        Self::of_code(&code, error)
    }

    /// No event came for so long.
    pub(crate) fn silent(stream: &KinesisStream, shard_id: &ShardId, silence: Duration) -> Self {
        Self::new(stream.unavailable(&format!(
            "the subscription to {shard_id} brought no event for {silence:?}, not even an empty one, and counts as dead"
        )))
    }

    fn of_code(code: &str, error: SourceError) -> Self {
        match code {
            "ResourceInUseException" => {
                let error =
                    SourceError::new(error.kind(), format!("{error}{IN_USE_HINT}")).with_source(error);
                Self { trouble: Trouble::InUse, error }
            }
            "ResourceNotFoundException" => Self { trouble: Trouble::NotFound, error },
            _ => Self::new(error),
        }
    }

    pub(crate) fn session_end(&self) -> SessionEnd {
        match self.trouble {
            Trouble::InUse => SessionEnd::InUse,
            Trouble::NotFound | Trouble::Passing | Trouble::NeedsHelp => SessionEnd::Failed,
        }
    }
}

/// Inside a stream of events the code is the kind of the event; it is repeated in the content at best.
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
