//! The errors of this crate, and the classification of the SDK's errors.

use std::error::Error as StdError;
use std::fmt;
use std::sync::OnceLock;

use aws_sdk_kinesis::config::http::HttpResponse;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use lease_store::{CredentialFault, Error, ErrorKind, ServiceCause};
use shard_worker::{SourceError, SourceErrorKind};

use crate::stream_arn::StreamId;

/// The kinds of errors in creating the AWS clients and publishing metrics. Reading a stream fails with a [`SourceError`].
///
/// ```
/// use kinesis_asl::AslErrorKind;
/// use lease_store::ErrorKind;
///
/// assert!(AslErrorKind::Unavailable.is_retryable());
/// assert!(!AslErrorKind::Invalid.is_retryable());
/// ```
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
///
/// ```
/// use kinesis_asl::{AslErrorKind, AwsSettings};
///
/// let error = AwsSettings::new("").validate().expect_err("a stream has a name");
/// assert_eq!(error.kind(), AslErrorKind::InvalidSettings);
/// ```
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

/// The header with the second id of a request.
const EXTENDED_REQUEST_ID: &str = "x-amz-id-2";

/// The stream of the calls, as error messages name it.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) stream: StreamId,
    /// Why no call can be made: the stream was given by an ARN that is not valid here.
    pub(crate) fault: Option<String>,
    pub(crate) region: Option<String>,
    /// The URL of the first call. It is not known before, since it may come from the environment, the profile, or the SDK's
    /// endpoint rules.
    pub(crate) endpoint: OnceLock<String>,
}

impl Destination {
    /// The stream with this name or ARN, called through a client for this region.
    pub(crate) fn new(stream: String, region: Option<String>) -> Self {
        let (stream, fault) = match StreamId::parse(&stream) {
            Ok(stream) => {
                let other =
                    stream.arn.as_ref().filter(|arn| region.as_ref().is_some_and(|own| *own != arn.region));
                let fault = other.map(|arn| {
                    format!(
                        "\"{arn}\" is not in the region {} of the client; create the client for {}",
                        region.as_deref().unwrap_or_default(),
                        arn.region
                    )
                });
                (stream, fault)
            }
            Err(fault) => (StreamId { name: stream, arn: None }, Some(fault)),
        };
        Self { stream, fault, region, endpoint: OnceLock::new() }
    }

    /// The ARN of a stream that was given by its ARN. Each call has it.
    pub(crate) fn arn(&self) -> Option<String> {
        self.stream.arn.as_ref().map(ToString::to_string)
    }

    /// Refuses a stream whose ARN is not valid, before a call is made.
    pub(crate) fn check(&self) -> Result<(), SourceError> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(SourceError::new(SourceErrorKind::Invalid, format!("the stream {fault}"))),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.as_deref().unwrap_or("not set");
        let endpoint = self.endpoint.get().map_or("not known yet", String::as_str);
        match &self.stream.arn {
            Some(arn) => write!(formatter, "stream {arn}, region {region}, endpoint {endpoint}"),
            None => write!(formatter, "stream {:?}, region {region}, endpoint {endpoint}", self.stream.name),
        }
    }
}

/// The error of a failed call to the stream; `action` names the purpose of the call.
pub(crate) fn source_error<E>(action: &str, destination: &Destination, error: SdkError<E>) -> SourceError
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    source_error_of_call(action, destination, error, &RequestIds::default())
}

/// As [`source_error`], for a call whose ids are known although the SDK's error may lack them.
#[allow(clippy::needless_pass_by_value)] // as `map_err` passes it
pub(crate) fn source_error_of_call<E>(
    action: &str,
    destination: &Destination,
    error: SdkError<E>,
    ids: &RequestIds,
) -> SourceError
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (kind, cause) = classify(&error);
    let has_ids = cause.request_id().or(cause.extended_request_id()).is_some();
    with_hint(action, destination, kind, if has_ids { cause } else { ids.added_to(cause) })
}

/// An error that the service sent inside a stream of events.
#[derive(Debug)]
pub(crate) struct ServiceError<'a> {
    /// The HTTP status by which the error is classified.
    pub(crate) status: u16,
    pub(crate) code: &'a str,
    pub(crate) text: String,
    /// The ids of the call that opened the stream of events.
    pub(crate) ids: RequestIds,
}

/// The ids of a call, from the headers of its answer. AWS support asks for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestIds {
    pub(crate) request_id: Option<String>,
    pub(crate) extended_request_id: Option<String>,
}

impl RequestIds {
    /// The ids in the headers of an answer.
    pub(crate) fn of(response: &HttpResponse) -> Self {
        let header = |name: &str| response.headers().get(name).map(str::to_owned);
        Self {
            request_id: header("x-amzn-requestid").or_else(|| header("x-amz-request-id")),
            extended_request_id: header(EXTENDED_REQUEST_ID),
        }
    }

    /// A cause with this text and these ids.
    pub(crate) fn cause(&self, text: &str) -> ServiceCause {
        self.added_to(ServiceCause::new(text))
    }

    fn added_to(&self, cause: ServiceCause) -> ServiceCause {
        cause.with_ids(self.request_id.as_deref(), self.extended_request_id.as_deref())
    }
}

/// The error for an exception inside a stream of events.
pub(crate) fn service_error(
    action: &str,
    destination: &Destination,
    answer: &ServiceError<'_>,
) -> SourceError {
    let kind = classify_answer(answer.status, answer.code);
    let fault = CredentialFault::of_answer(answer.status, answer.code);
    let cause = answer.ids.cause(&answer.text).with_answer(answer.status, Some(answer.code));
    with_hint(action, destination, kind, cause.with_credential_fault(fault))
}

fn with_hint(
    action: &str,
    destination: &Destination,
    kind: SourceErrorKind,
    cause: ServiceCause,
) -> SourceError {
    let hint = match kind {
        SourceErrorKind::StreamNotFound => {
            "; check the name of the stream, the region, the endpoint, and the account of the credentials"
                .to_owned()
        }
        kind => hint(kind, &cause),
    };
    SourceError::new(kind, format!("{action} failed ({destination}): {cause}{hint}")).with_source(cause)
}

/// The error of a failed call to another service.
#[allow(clippy::needless_pass_by_value)] // as `map_err` passes it
pub(crate) fn asl_error<E>(action: &str, error: SdkError<E>) -> AslError
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (kind, cause) = classify(&error);
    let hint = hint(kind, &cause);
    let kind = match kind {
        SourceErrorKind::Denied | SourceErrorKind::KeyUnavailable => AslErrorKind::Denied,
        SourceErrorKind::Throttled => AslErrorKind::Throttled,
        SourceErrorKind::Unavailable => AslErrorKind::Unavailable,
        _ => AslErrorKind::Invalid,
    };
    AslError::new(kind, format!("{action} failed: {cause}{hint}")).with_source(cause)
}

/// Classifies an error of the SDK, and returns it without the bodies of its request and answer. "Not found" is classified as a
/// missing stream; a caller that reads a shard finds out whether the shard is missing instead.
pub(crate) fn classify<E>(error: &SdkError<E>) -> (SourceErrorKind, ServiceCause)
where
    E: StdError + ProvideErrorMetadata + 'static,
{
    let text = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error_chain(error),
    };
    let ids = error.raw_response().map(RequestIds::of).unwrap_or_default();
    let cause = ids.cause(&text);
    if let SdkError::ServiceError(answer) = error {
        let (status, code) = (answer.raw().status().as_u16(), error.code());
        let fault = CredentialFault::of_answer(status, code.unwrap_or_default());
        let kind = classify_answer(status, code.unwrap_or_default());
        return (kind, cause.with_answer(status, code).with_credential_fault(fault));
    }
    // Without an answer: the request was not built, not signed or not sent, or no valid answer arrived.
    match (error.raw_response(), CredentialFault::of_unsent(&text)) {
        (Some(raw), _) => (SourceErrorKind::Unavailable, cause.with_answer(raw.status().as_u16(), None)),
        (None, Some(fault)) => {
            let kind =
                if fault.is_retryable() { SourceErrorKind::Unavailable } else { SourceErrorKind::Denied };
            (kind, cause.with_credential_fault(Some(fault)))
        }
        (None, None) if matches!(error, SdkError::ConstructionFailure(_)) => {
            (SourceErrorKind::Invalid, cause)
        }
        (None, None) => (SourceErrorKind::Unavailable, cause),
    }
}

fn classify_answer(status: u16, code: &str) -> SourceErrorKind {
    if THROTTLING_CODES.contains(&code) || status == 429 {
        SourceErrorKind::Throttled
    } else if code.starts_with("KMS") {
        SourceErrorKind::KeyUnavailable
    } else if CredentialFault::of_answer(status, code).is_some() {
        SourceErrorKind::Denied
    } else if TRANSIENT_CODES.contains(&code) || status == 408 || !(400..500).contains(&status) {
        SourceErrorKind::Unavailable
    } else if code == "ResourceNotFoundException" {
        SourceErrorKind::StreamNotFound
    } else {
        SourceErrorKind::Invalid
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

/// What to do about a failure; empty: nothing special.
fn hint(kind: SourceErrorKind, cause: &ServiceCause) -> String {
    match (kind, cause.credential_fault()) {
        (SourceErrorKind::KeyUnavailable, _) => {
            "; check that the key of the stream is enabled and that the credentials allow kms:Decrypt with it"
                .to_owned()
        }
        (_, Some(fault)) => format!("; {}", fault.remedy(&cause.to_string())),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::error::CredentialsError;
    use aws_sdk_kinesis::error::{ConnectorError, ErrorMetadata};
    use aws_sdk_kinesis::operation::get_records::GetRecordsError;

    use super::*;

    fn destination() -> Destination {
        let endpoint = OnceLock::from("https://kinesis.test".to_owned());
        Destination { endpoint, ..Destination::new("words".to_owned(), Some("eu-west-1".to_owned())) }
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
    fn no_error_shows_the_body_of_an_answer() {
        const MARKER: &str = "PAYLOAD-MARKER";
        let errors = || {
            let response = || HttpResponse::new(400.try_into().unwrap(), MARKER.into());
            let refusal =
                GetRecordsError::generic(ErrorMetadata::builder().code("ValidationException").build());
            [
                SdkError::service_error(refusal, response()),
                SdkError::<GetRecordsError>::response_error("unreadable", response()),
            ]
        };
        for error in errors() {
            assert!(format!("{error:?}").contains(MARKER), "the SDK's error shows the body");
            let error = source_error("reading", &destination(), error);
            assert!(!format!("{error} {error:?}").contains(MARKER), "{error:?}");
        }
        for error in errors() {
            let error = asl_error("publishing", error);
            assert!(!format!("{error} {error:?}").contains(MARKER), "{error:?}");
        }
    }

    #[test]
    fn faults_of_credentials_are_told_apart() {
        let unsent = |cause: CredentialsError| {
            let dispatch = ConnectorError::other(cause.into(), None);
            source_error("reading", &destination(), SdkError::<GetRecordsError>::dispatch_failure(dispatch))
        };
        let refused = |status, code| source_error("reading", &destination(), answer(status, code));
        for (error, fault, remedy) in [
            (refused(400, "AccessDeniedException"), CredentialFault::Denied, "policy allows the call"),
            (refused(400, "ExpiredTokenException"), CredentialFault::Expired, "log in again"),
            (refused(400, "UnrecognizedClientException"), CredentialFault::Unknown, "AWS_ACCESS_KEY_ID"),
            (refused(400, "InvalidSignatureException"), CredentialFault::Unknown, "secret key"),
            (
                unsent(CredentialsError::provider_error("the SSO token has expired and cannot be refreshed")),
                CredentialFault::Expired,
                "aws sso login",
            ),
            (
                unsent(CredentialsError::unhandled("cached Login token is expired")),
                CredentialFault::Expired,
                "again with aws login",
            ),
            (unsent(CredentialsError::not_loaded_no_source()), CredentialFault::Unknown, "AWS_ACCESS_KEY_ID"),
            (
                unsent(CredentialsError::provider_error("dispatch failure: io error")),
                CredentialFault::Unreachable,
                "try again",
            ),
            (
                unsent(CredentialsError::provider_timed_out(std::time::Duration::from_secs(5))),
                CredentialFault::Unreachable,
                "try again",
            ),
        ] {
            assert_eq!(error.service_cause().unwrap().credential_fault(), Some(fault), "{error}");
            assert!(error.to_string().contains(remedy), "{error}");
            assert_eq!(error.is_retryable(), fault == CredentialFault::Unreachable, "{error}");
            let kind =
                if fault.is_retryable() { SourceErrorKind::Unavailable } else { SourceErrorKind::Denied };
            assert_eq!(error.kind(), kind, "{error}");
        }
        assert_eq!(refused(400, "ValidationException").service_cause().unwrap().credential_fault(), None);
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
