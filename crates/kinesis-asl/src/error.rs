//! The errors of this crate, and the classification of the SDK's errors.

use std::error::Error as StdError;
use std::fmt;
use std::sync::OnceLock;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::RequestId;
use lease_store::{Error, ErrorKind};
use shard_worker::{SourceError, SourceErrorKind};

/// The kinds of errors in creating the AWS clients and publishing metrics. Reading a stream fails with a [`SourceError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AslErrorKind {
    /// A setting is missing or invalid. The message lists all faults.
    InvalidSettings,
    /// Credentials are missing or do not allow the call.
    Denied,
    /// The service throttled the call.
    Throttled,
    /// The service could not be reached, or failed.
    Unavailable,
    /// The service refused the request as invalid.
    Invalid,
}

impl ErrorKind for AslErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error in creating the AWS clients or publishing metrics.
pub type AslError = Error<AslErrorKind>;

/// The codes of throttling: all that the SDK retries as such, and that of the KMS. Their HTTP status is 400.
const THROTTLING_CODES: [&str; 15] = [
    "ProvisionedThroughputExceededException",
    "LimitExceededException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "ThrottledException",
    "RequestThrottledException",
    "RequestThrottled",
    "TransactionInProgressException",
    "BandwidthLimitExceeded",
    "SlowDown",
    "PriorRequestNotComplete",
    "EC2ThrottledException",
    // All users of the stream's KMS key together exceed its request rate.
    "KMSThrottlingException",
];

/// The codes of denied credentials. Codes about the KMS key of the stream are separate, and all begin with `KMS`.
const DENIAL_CODES: [&str; 11] = [
    "AccessDeniedException",
    "AccessDenied",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "IncompleteSignatureException",
    "MissingAuthenticationTokenException",
    "MissingAuthenticationToken",
    "ExpiredTokenException",
    "ExpiredToken",
    "RequestExpired",
];

/// The codes of failures that a retry may resolve: the service failed, the stream is being created or changed, or an iterator
/// or a token expired.
const TRANSIENT_CODES: [&str; 8] = [
    "InternalFailure",
    "InternalFailureException",
    "ServiceUnavailable",
    "RequestTimeout",
    "RequestTimeoutException",
    "ResourceInUseException",
    "ExpiredIteratorException",
    "ExpiredNextTokenException",
];

/// The stream of the calls, as error messages name it.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) stream_name: String,
    pub(crate) region: Option<String>,
    /// The URL of the first call. It is not known before, since it may come from the environment, the profile, or the SDK's
    /// endpoint rules.
    pub(crate) endpoint: OnceLock<String>,
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.as_deref().unwrap_or("not set");
        let endpoint = self.endpoint.get().map_or("not known yet", String::as_str);
        write!(formatter, "stream {:?}, region {region}, endpoint {endpoint}", self.stream_name)
    }
}

/// The error of a failed call to the stream; `action` names the purpose of the call.
pub(crate) fn source_error<E>(action: &str, destination: &Destination, error: SdkError<E>) -> SourceError
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (kind, message) = classify(&error);
    let code = error.code().map(str::to_owned);
    with_hint(action, destination, kind, code.as_deref(), &message).with_source(error)
}

/// An error that the service sent inside a stream of events.
#[derive(Debug)]
pub(crate) struct ServiceError<'a> {
    /// The HTTP status by which the error is classified.
    pub(crate) status: u16,
    pub(crate) code: &'a str,
    pub(crate) text: String,
}

/// The error for an exception inside a stream of events.
pub(crate) fn service_error(
    action: &str,
    destination: &Destination,
    answer: &ServiceError<'_>,
) -> SourceError {
    let kind = classify_answer(answer.status, answer.code);
    with_hint(action, destination, kind, Some(answer.code), &answer.text)
}

fn with_hint(
    action: &str,
    destination: &Destination,
    kind: SourceErrorKind,
    code: Option<&str>,
    message: &str,
) -> SourceError {
    let hint = match kind {
        SourceErrorKind::StreamNotFound => {
            "; check the name of the stream, the region, the endpoint, and the account of the credentials"
        }
        SourceErrorKind::Denied | SourceErrorKind::KeyUnavailable => denial_hint(code),
        _ => "",
    };
    SourceError::new(kind, format!("{action} failed ({destination}): {message}{hint}"))
}

/// The error of a failed call to another service.
pub(crate) fn asl_error<E>(action: &str, error: SdkError<E>) -> AslError
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (kind, message) = classify(&error);
    let (kind, hint) = match kind {
        SourceErrorKind::Denied | SourceErrorKind::KeyUnavailable => {
            (AslErrorKind::Denied, denial_hint(error.code()))
        }
        SourceErrorKind::Throttled => (AslErrorKind::Throttled, ""),
        SourceErrorKind::Unavailable => (AslErrorKind::Unavailable, ""),
        _ => (AslErrorKind::Invalid, ""),
    };
    AslError::new(kind, format!("{action} failed: {message}{hint}")).with_source(error)
}

/// Classifies an error of the SDK, and returns its message. "Not found" is classified as a missing stream; a caller that reads a
/// shard finds out whether the shard is missing instead.
pub(crate) fn classify<E>(error: &SdkError<E>) -> (SourceErrorKind, String)
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let kind = match error {
        SdkError::ServiceError(answer) => {
            classify_answer(answer.raw().status().as_u16(), error.code().unwrap_or_default())
        }
        _ => classify_no_answer(error),
    };
    let mut text = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error_chain(error),
    };
    if let Some(request_id) = error.request_id() {
        text += &format!(" (request id {request_id})");
    }
    (kind, text)
}

fn classify_answer(status: u16, code: &str) -> SourceErrorKind {
    if THROTTLING_CODES.contains(&code) || status == 429 {
        SourceErrorKind::Throttled
    } else if code.starts_with("KMS") {
        SourceErrorKind::KeyUnavailable
    } else if DENIAL_CODES.contains(&code) || matches!(status, 401 | 403) {
        SourceErrorKind::Denied
    } else if TRANSIENT_CODES.contains(&code) || status == 408 || !(400..500).contains(&status) {
        SourceErrorKind::Unavailable
    } else if code == "ResourceNotFoundException" {
        SourceErrorKind::StreamNotFound
    } else {
        SourceErrorKind::Invalid
    }
}

/// Classifies a call without an answer: its request was not built, not signed or not sent, or no answer arrived.
fn classify_no_answer<E: StdError + 'static>(error: &SdkError<E>) -> SourceErrorKind {
    for cause in causes(error) {
        match cause.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::ProviderTimedOut(_)) => return SourceErrorKind::Unavailable,
            Some(_) => return SourceErrorKind::Denied,
            // The client has no credentials provider. The SDK's type of this error is private, so match its text.
            None if cause.to_string().contains("no identity resolver") => return SourceErrorKind::Denied,
            None => {}
        }
    }
    match error {
        SdkError::ConstructionFailure(_) => SourceErrorKind::Invalid,
        _ => SourceErrorKind::Unavailable,
    }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The messages of an error and its causes in one line, without repetitions.
pub(crate) fn error_chain(error: &(dyn StdError + 'static)) -> String {
    let mut messages = Vec::<String>::new();
    for cause in causes(error).map(ToString::to_string) {
        if !messages.iter().any(|known| known.contains(&cause)) {
            messages.push(cause);
        }
    }
    messages.join(": ")
}

fn denial_hint(code: Option<&str>) -> &'static str {
    match code {
        None => {
            "; configure credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the \
             container or instance"
        }
        Some(code) if code.starts_with("KMS") => {
            "; check that the key of the stream is enabled and that the credentials allow kms:Decrypt with it"
        }
        Some("ExpiredTokenException" | "ExpiredToken" | "RequestExpired") => {
            "; renew the session, and check the clock of this machine"
        }
        Some("InvalidSignatureException" | "SignatureDoesNotMatch") => {
            "; check the secret key, the region, and the clock of this machine"
        }
        Some(_) => "; check which credentials are in use and that their policy allows the call",
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::config::http::HttpResponse;
    use aws_sdk_kinesis::error::{ConnectorError, ErrorMetadata};
    use aws_sdk_kinesis::operation::get_records::GetRecordsError;

    use super::*;

    fn destination() -> Destination {
        Destination {
            stream_name: "words".to_owned(),
            region: Some("eu-west-1".to_owned()),
            endpoint: OnceLock::from("https://kinesis.test".to_owned()),
        }
    }

    fn answer(status: u16, code: &str) -> SdkError<GetRecordsError> {
        let error =
            GetRecordsError::generic(ErrorMetadata::builder().code(code).message("some reason").build());
        SdkError::service_error(error, HttpResponse::new(status.try_into().unwrap(), "".into()))
    }

    fn no_answer(cause: &'static str) -> SdkError<GetRecordsError> {
        SdkError::dispatch_failure(ConnectorError::other(cause.into(), None))
    }

    #[test]
    fn answers_are_classified_by_code_and_status() {
        for (status, code, expected) in [
            (400, "ProvisionedThroughputExceededException", SourceErrorKind::Throttled),
            (400, "LimitExceededException", SourceErrorKind::Throttled),
            (400, "ThrottlingException", SourceErrorKind::Throttled),
            (400, "KMSThrottlingException", SourceErrorKind::Throttled),
            // The SDK's lists of throttling and transient codes.
            (400, "Throttling", SourceErrorKind::Throttled),
            (400, "ThrottledException", SourceErrorKind::Throttled),
            (400, "RequestThrottledException", SourceErrorKind::Throttled),
            (400, "TooManyRequestsException", SourceErrorKind::Throttled),
            (400, "TransactionInProgressException", SourceErrorKind::Throttled),
            (400, "RequestLimitExceeded", SourceErrorKind::Throttled),
            (400, "BandwidthLimitExceeded", SourceErrorKind::Throttled),
            (400, "RequestThrottled", SourceErrorKind::Throttled),
            (503, "SlowDown", SourceErrorKind::Throttled),
            (400, "PriorRequestNotComplete", SourceErrorKind::Throttled),
            (400, "EC2ThrottledException", SourceErrorKind::Throttled),
            (400, "RequestTimeout", SourceErrorKind::Unavailable),
            (400, "RequestTimeoutException", SourceErrorKind::Unavailable),
            (408, "SomethingNew", SourceErrorKind::Unavailable),
            (400, "KMSDisabledException", SourceErrorKind::KeyUnavailable),
            (400, "KMSAccessDeniedException", SourceErrorKind::KeyUnavailable),
            (400, "KMSInvalidStateException", SourceErrorKind::KeyUnavailable),
            (400, "KMSNotFoundException", SourceErrorKind::KeyUnavailable),
            (400, "KMSOptInRequired", SourceErrorKind::KeyUnavailable),
            (400, "AccessDeniedException", SourceErrorKind::Denied),
            (400, "UnrecognizedClientException", SourceErrorKind::Denied),
            (400, "ExpiredTokenException", SourceErrorKind::Denied),
            (403, "SomethingNew", SourceErrorKind::Denied),
            (400, "ResourceNotFoundException", SourceErrorKind::StreamNotFound),
            (400, "ResourceInUseException", SourceErrorKind::Unavailable),
            (400, "ExpiredIteratorException", SourceErrorKind::Unavailable),
            (400, "ExpiredNextTokenException", SourceErrorKind::Unavailable),
            (500, "InternalFailure", SourceErrorKind::Unavailable),
            (503, "ServiceUnavailable", SourceErrorKind::Unavailable),
            (400, "InvalidArgumentException", SourceErrorKind::Invalid),
            (400, "ValidationException", SourceErrorKind::Invalid),
        ] {
            let error = source_error("reading", &destination(), answer(status, code));
            assert_eq!(error.kind(), expected, "{status} {code}");
            let message = error.to_string();
            for part in
                ["reading failed", "\"words\"", "eu-west-1", "https://kinesis.test", code, "some reason"]
            {
                assert!(message.contains(part), "{part} is not in {message}");
            }
        }
    }

    #[test]
    fn missing_answer_is_unavailable_missing_credentials_denied() {
        let error = source_error("reading", &destination(), no_answer("the connection broke"));
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        assert!(error.to_string().contains("the connection broke"), "{error}");

        let error =
            source_error("reading", &destination(), no_answer("there was no identity resolver for it"));
        assert_eq!(error.kind(), SourceErrorKind::Denied);
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");

        let error = |cause: CredentialsError| {
            let dispatch = ConnectorError::other(cause.into(), None);
            source_error("reading", &destination(), SdkError::<GetRecordsError>::dispatch_failure(dispatch))
        };
        let missing = error(CredentialsError::not_loaded("the session has expired"));
        assert_eq!(missing.kind(), SourceErrorKind::Denied);
        assert!(missing.to_string().contains("the session has expired"), "{missing}");
        let slow = error(CredentialsError::provider_timed_out(std::time::Duration::from_secs(5)));
        assert_eq!(slow.kind(), SourceErrorKind::Unavailable);

        let timeout = SdkError::<GetRecordsError>::timeout_error("took too long");
        assert_eq!(source_error("reading", &destination(), timeout).kind(), SourceErrorKind::Unavailable);
        let unfinished = SdkError::<GetRecordsError>::construction_failure("a member is missing");
        assert_eq!(source_error("reading", &destination(), unfinished).kind(), SourceErrorKind::Invalid);
    }

    #[test]
    fn errors_of_other_services_are_classified_alike() {
        for (status, code, expected) in [
            (400, "Throttling", AslErrorKind::Throttled),
            (403, "AccessDenied", AslErrorKind::Denied),
            (500, "InternalServiceFault", AslErrorKind::Unavailable),
            (400, "InvalidParameterValue", AslErrorKind::Invalid),
        ] {
            let error = asl_error("publishing", answer(status, code));
            assert_eq!(error.kind(), expected, "{status} {code}");
            assert_eq!(error.is_retryable(), matches!(status, 500) || code == "Throttling");
        }
    }
}
