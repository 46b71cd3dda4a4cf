//! Classifies a failed request: the kind of its error, and whether a write may have been applied all the same.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::sync::{Arc, OnceLock};

use aws_sdk_dynamodb::config::interceptors::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::RequestId;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;

use crate::error::{StoreError, StoreErrorKind};
use crate::service_cause::{CredentialFault, ServiceCause};
use crate::store::WriteOutcome;

/// The error text of the HTTP client for a connection that was never established. The error type is not public. If the
/// text changes, such a failure counts as *unknown outcome*, which is safe.
const NEVER_CONNECTED: &str = "client error (Connect)";

/// Records whether a request was sent, for one call.
///
/// The SDK reports every failure between signing and the answer as one kind of error, for example missing credentials
/// and a broken connection. This hook runs on every attempt, right before the request goes to the HTTP client.
///
/// An attempt that times out retires its connection: one whose packets are dropped on the way never breaks, and over HTTP/2 all
/// calls share it. The SDK does not do so, since a timed-out attempt skips its own check.
#[derive(Debug, Clone, Default)]
pub(super) struct CallWatch {
    sent_to: Arc<OnceLock<String>>,
}

impl Intercept for CallWatch {
    fn name(&self) -> &'static str {
        "LeaseStoreCallWatch"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _runtime_components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.sent_to.get_or_init(|| context.request().uri().to_owned());
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _runtime_components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(Err(error)) = context.output_or_error() else { return Ok(()) };
        let timed_out = error.is_timeout_error()
            || error.as_connector_error().is_some_and(aws_sdk_dynamodb::error::ConnectorError::is_timeout);
        let connection = config.load::<CaptureSmithyConnection>().filter(|_| timed_out);
        if let Some(connection) = connection.and_then(CaptureSmithyConnection::get) {
            connection.poison();
        }
        Ok(())
    }
}

/// Describes a call in error messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    pub(super) table_name: &'a str,
    pub(super) region: &'a str,
}

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Whether a write may have been applied, or may still be.
    pub(super) may_be_applied: bool,
}

impl Failure {
    /// The outcome of a write that failed like this.
    pub(super) fn into_outcome(self) -> Result<WriteOutcome, StoreError> {
        if self.may_be_applied { Ok(WriteOutcome::Unknown(self.error)) } else { Err(self.error) }
    }
}

/// The classification of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Classification {
    kind: StoreErrorKind,
    may_be_applied: bool,
}

impl Classification {
    /// A request that was sent and got no answer, or an unreadable one.
    const UNANSWERED: Self = Self { kind: StoreErrorKind::Unavailable, may_be_applied: true };

    /// A failure after which nothing was written.
    const fn refused(kind: StoreErrorKind) -> Self {
        Self { kind, may_be_applied: false }
    }

    /// Classifies an answer of DynamoDB, or of a proxy in front of it.
    fn of_answer(status: u16, code: Option<&str>) -> Self {
        // A server may fail after the write, whatever the error code. An unreadable success is not a refusal either,
        // although the SDK reports it as a service error.
        if !(400..500).contains(&status) || status == 408 {
            return Self::UNANSWERED;
        }
        match code {
            Some(
                "ProvisionedThroughputExceededException"
                | "RequestLimitExceeded"
                | "ThrottlingException"
                | "Throttling"
                | "LimitExceededException"
                | "ThrottledException"
                | "RequestThrottledException"
                | "RequestThrottled"
                | "TooManyRequestsException"
                | "TransactionInProgressException"
                | "BandwidthLimitExceeded"
                | "SlowDown"
                | "PriorRequestNotComplete"
                | "EC2ThrottledException",
            ) => Self::refused(StoreErrorKind::Throttled),
            // The row is part of a transaction, or another Region writes it; the same call may succeed soon.
            Some("TransactionConflictException" | "ReplicatedWriteConflictException") => {
                Self::refused(StoreErrorKind::Unavailable)
            }
            Some("InternalServerError" | "RequestTimeout" | "RequestTimeoutException") => Self::UNANSWERED,
            Some("ResourceNotFoundException") => Self::refused(StoreErrorKind::NotFound),
            _ if status == 429 => Self::refused(StoreErrorKind::Throttled),
            _ if CredentialFault::of_answer(status, code.unwrap_or_default()).is_some() => {
                Self::refused(StoreErrorKind::Denied)
            }
            _ => Self::refused(StoreErrorKind::Invalid),
        }
    }

    /// Classifies a call that failed before its request was sent.
    fn of_unsent(reason: &str) -> Self {
        // The error type of the credentials is not public either. The text only selects the kind: it is certain that
        // nothing was sent.
        Self::refused(match CredentialFault::of_unsent(reason) {
            Some(fault) if fault.is_retryable() => StoreErrorKind::Unavailable,
            Some(_) => StoreErrorKind::Denied,
            None if reason.contains("timed out") => StoreErrorKind::Unavailable,
            None => StoreErrorKind::Invalid,
        })
    }

    fn of<E: Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>, sent: bool) -> Self {
        match error {
            SdkError::ServiceError(answer) => {
                Self::of_answer(answer.raw().status().as_u16(), answer.err().code())
            }
            _ if !sent => Self::of_unsent(&chain(error)),
            SdkError::DispatchFailure(failure) => {
                let connected =
                    failure.as_connector_error().is_some_and(|error| error.connection_metadata().is_some());
                if !connected && sources(error).any(shows_no_connection) {
                    Self::refused(StoreErrorKind::Unavailable)
                } else {
                    Self::UNANSWERED
                }
            }
            // Timeouts, unreadable answers, and variants that later versions of the SDK may add.
            _ => Self::UNANSWERED,
        }
    }
}

impl Call<'_> {
    /// Classifies an error of the SDK for this call.
    pub(super) fn failed<E>(self, error: &SdkError<E>, watch: &CallWatch) -> Failure
    where
        E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let sent_to = watch.sent_to.get();
        let classification = Classification::of(error, sent_to.is_some());
        let cause = cause(error, sent_to.is_some());
        let message = self.message(&cause, classification, sent_to.map(String::as_str));
        Failure {
            error: StoreError::new(classification.kind, message).with_source(cause),
            may_be_applied: classification.may_be_applied,
        }
    }

    fn message(self, reason: &ServiceCause, classification: Classification, sent_to: Option<&str>) -> String {
        let Self { operation, table_name, region } = self;
        let place = match sent_to {
            Some(endpoint) => format!("region {region}, endpoint {endpoint}"),
            None => format!("region {region}"),
        };
        if classification.kind == StoreErrorKind::NotFound {
            return format!(
                "the table {table_name:?} does not exist in {place}; prepare() creates it; if it should be there, \
                 check its name, the region and the endpoint ({reason})"
            );
        }
        if let Some(fault) = reason.credential_fault() {
            let remedy = fault.remedy(&reason.to_string());
            return format!(
                "{operation} on table {table_name:?} in {place} failed: {reason}; nothing was written; the credentials do \
                 not work for the table: {remedy}"
            );
        }
        let remedy = match classification.kind {
            StoreErrorKind::Throttled => {
                "nothing was written; try again later, or give the table more capacity or on-demand billing"
            }
            StoreErrorKind::Denied => {
                "nothing was written; check the credentials, their permissions on the table, and this machine's clock"
            }
            StoreErrorKind::Unavailable if classification.may_be_applied => {
                "a write may have been applied all the same; read the row again before deciding"
            }
            StoreErrorKind::Unavailable => {
                "nothing was written; check the endpoint and the network, or try again"
            }
            _ => "nothing was written, and trying again will not help; check the configuration of the client",
        };
        format!("{operation} on table {table_name:?} in {place} failed: {reason}; {remedy}")
    }
}

/// The failure without the bodies of its request and answer.
fn cause<E: Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>, sent: bool) -> ServiceCause {
    let text = reason(error);
    let raw = error.raw_response();
    let extended = raw.and_then(|raw| raw.headers().get("x-amz-id-2"));
    let cause = ServiceCause::new(&text).with_ids(error.request_id(), extended);
    match error {
        SdkError::ServiceError(answer) => {
            let (status, code) = (answer.raw().status().as_u16(), answer.err().code());
            let fault = CredentialFault::of_answer(status, code.unwrap_or_default());
            cause.with_answer(status, code).with_credential_fault(fault)
        }
        _ if !sent => cause.with_credential_fault(CredentialFault::of_unsent(&text)),
        _ => match raw {
            Some(raw) => cause.with_answer(raw.status().as_u16(), None),
            None => cause,
        },
    }
}

/// The cause of the failure, in one line.
fn reason<E: Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>) -> String {
    let SdkError::ServiceError(answer) = error else { return chain(error) };
    let status = answer.raw().status().as_u16();
    match (answer.err().code(), answer.err().message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => format!("HTTP status {status}, {}", chain(answer.err())),
    }
}

/// All errors of a chain in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for source in sources(error) {
        let separator = if text.is_empty() { "" } else { ": " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{source}");
    }
    text
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn shows_no_connection(error: &(dyn Error + 'static)) -> bool {
    let refused = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    refused || error.to_string() == NEVER_CONNECTED
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::error::ConnectorError;
    use aws_sdk_dynamodb::operation::update_item::UpdateItemError;

    use super::*;

    fn refused(kind: StoreErrorKind) -> Classification {
        Classification::refused(kind)
    }

    #[test]
    fn answers_are_classified_by_status_and_code() {
        let cases = [
            (400, Some("ProvisionedThroughputExceededException"), refused(StoreErrorKind::Throttled)),
            (400, Some("RequestLimitExceeded"), refused(StoreErrorKind::Throttled)),
            (400, Some("ThrottlingException"), refused(StoreErrorKind::Throttled)),
            (400, Some("LimitExceededException"), refused(StoreErrorKind::Throttled)),
            (429, None, refused(StoreErrorKind::Throttled)),
            // The SDK's lists of throttling and transient codes.
            (400, Some("Throttling"), refused(StoreErrorKind::Throttled)),
            (400, Some("ThrottledException"), refused(StoreErrorKind::Throttled)),
            (400, Some("RequestThrottledException"), refused(StoreErrorKind::Throttled)),
            (400, Some("RequestThrottled"), refused(StoreErrorKind::Throttled)),
            (400, Some("TooManyRequestsException"), refused(StoreErrorKind::Throttled)),
            (400, Some("TransactionInProgressException"), refused(StoreErrorKind::Throttled)),
            (400, Some("BandwidthLimitExceeded"), refused(StoreErrorKind::Throttled)),
            (400, Some("SlowDown"), refused(StoreErrorKind::Throttled)),
            (400, Some("PriorRequestNotComplete"), refused(StoreErrorKind::Throttled)),
            (400, Some("EC2ThrottledException"), refused(StoreErrorKind::Throttled)),
            (400, Some("RequestTimeout"), Classification::UNANSWERED),
            (400, Some("RequestTimeoutException"), Classification::UNANSWERED),
            (400, Some("TransactionConflictException"), refused(StoreErrorKind::Unavailable)),
            (400, Some("ResourceNotFoundException"), refused(StoreErrorKind::NotFound)),
            (400, Some("AccessDeniedException"), refused(StoreErrorKind::Denied)),
            (400, Some("UnrecognizedClientException"), refused(StoreErrorKind::Denied)),
            (400, Some("ExpiredTokenException"), refused(StoreErrorKind::Denied)),
            (403, None, refused(StoreErrorKind::Denied)),
            (400, Some("ValidationException"), refused(StoreErrorKind::Invalid)),
            (400, Some("SerializationException"), refused(StoreErrorKind::Invalid)),
            (404, None, refused(StoreErrorKind::Invalid)),
            (400, Some("InternalServerError"), Classification::UNANSWERED),
            (500, Some("InternalServerError"), Classification::UNANSWERED),
            (500, Some("ThrottlingException"), Classification::UNANSWERED),
            (503, None, Classification::UNANSWERED),
            (408, None, Classification::UNANSWERED),
            (200, None, Classification::UNANSWERED),
            (302, None, Classification::UNANSWERED),
        ];
        for (status, code, classification) in cases {
            assert_eq!(Classification::of_answer(status, code), classification, "{status} {code:?}");
        }
    }

    #[test]
    fn only_a_request_that_was_surely_not_sent_is_refused() {
        type Error = SdkError<UpdateItemError>;
        let io_error = |kind: io::ErrorKind| ConnectorError::io(Box::new(io::Error::from(kind)));
        let torn = || Error::dispatch_failure(io_error(io::ErrorKind::ConnectionReset));
        let unconnected = || Error::dispatch_failure(io_error(io::ErrorKind::ConnectionRefused));
        let unnamed = || Error::dispatch_failure(ConnectorError::io(NEVER_CONNECTED.into()));
        let late = || Error::timeout_error("no answer");
        let slow = || Error::dispatch_failure(ConnectorError::timeout("no answer".into()));
        let other = |text: &str| Error::dispatch_failure(ConnectorError::other(text.into(), None));
        assert_eq!(Classification::of(&torn(), true), Classification::UNANSWERED);
        assert_eq!(Classification::of(&late(), true), Classification::UNANSWERED);
        assert_eq!(Classification::of(&slow(), true), Classification::UNANSWERED);
        assert_eq!(Classification::of(&other("no credentials"), true), Classification::UNANSWERED);
        assert_eq!(Classification::of(&unconnected(), true), refused(StoreErrorKind::Unavailable));
        assert_eq!(Classification::of(&unnamed(), true), refused(StoreErrorKind::Unavailable));
        for (error, kind) in [
            (other("the credential provider was not enabled"), StoreErrorKind::Denied),
            (other("Be sure to set an identity, such as credentials"), StoreErrorKind::Denied),
            (other("credentials provider timed out after 5 seconds"), StoreErrorKind::Unavailable),
            (other("an error occurred while loading credentials"), StoreErrorKind::Unavailable),
            (other("Invalid Configuration: Missing Region"), StoreErrorKind::Invalid),
            (Error::construction_failure("key must be set"), StoreErrorKind::Invalid),
        ] {
            assert_eq!(Classification::of(&error, false), refused(kind), "{error:?}");
        }
    }

    #[test]
    fn no_error_shows_the_body_of_an_answer() {
        use aws_sdk_dynamodb::config::http::HttpResponse;
        use aws_sdk_dynamodb::error::ErrorMetadata;
        const MARKER: &str = "PAYLOAD-MARKER";
        let response = |status: u16| {
            let mut response = HttpResponse::new(status.try_into().unwrap(), MARKER.into());
            response.headers_mut().insert("x-amzn-requestid", "id-1");
            response.headers_mut().insert("x-amz-id-2", "id-2");
            response
        };
        let refusal = |code: &str| {
            UpdateItemError::generic(ErrorMetadata::builder().code(code).message("some reason").build())
        };
        for (status, code) in [
            (400, "ValidationException"),
            (400, "ExpiredTokenException"),
            (500, ""),
            (404, "ResourceNotFoundException"),
        ] {
            let watch = CallWatch::default();
            watch.sent_to.set("https://dynamodb.test".to_owned()).unwrap();
            let call = Call { operation: "UpdateItem", table_name: "orders", region: "eu-west-1" };
            for error in [
                SdkError::service_error(refusal(code), response(status)),
                SdkError::response_error("unreadable", response(status)),
            ] {
                assert!(format!("{error:?}").contains(MARKER), "the SDK's error shows the body");
                let error = call.failed(&error, &watch).error;
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains(MARKER), "{shown}");
                assert!(error.to_string().contains("(request id id-1, extended request id id-2)"), "{error}");
                let cause = error.service_cause().unwrap();
                assert_eq!((cause.request_id(), cause.extended_request_id()), (Some("id-1"), Some("id-2")));
                assert_eq!(cause.status(), Some(status));
            }
        }
    }

    #[test]
    fn faults_of_credentials_are_told_apart() {
        type Error = SdkError<UpdateItemError>;
        let call = Call { operation: "UpdateItem", table_name: "orders", region: "eu-west-1" };
        let unsent = |text: &str| {
            let error = Error::dispatch_failure(ConnectorError::other(text.into(), None));
            call.failed(&error, &CallWatch::default()).error
        };
        for (text, kind, fault, remedy) in [
            (
                "an error occurred while loading credentials: the SSO token has expired and cannot be refreshed",
                StoreErrorKind::Denied,
                CredentialFault::Expired,
                "aws sso login",
            ),
            (
                "an error occurred while loading credentials: dispatch failure",
                StoreErrorKind::Unavailable,
                CredentialFault::Unreachable,
                "try again",
            ),
            (
                "the credential provider was not enabled",
                StoreErrorKind::Denied,
                CredentialFault::Unknown,
                "AWS_ACCESS_KEY_ID",
            ),
        ] {
            let error = unsent(text);
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(error.service_cause().unwrap().credential_fault(), Some(fault), "{error}");
            let message = error.to_string();
            assert!(message.contains(remedy) && message.contains("nothing was written"), "{message}");
        }
    }

    #[test]
    fn messages_name_the_table_the_cause_and_the_remedy() {
        let call = Call { operation: "UpdateItem", table_name: "orders", region: "eu-west-1" };
        let message_for = |kind, may_be_applied| {
            call.message(
                &ServiceCause::new("the cause"),
                Classification { kind, may_be_applied },
                Some("http://localhost:8000/"),
            )
        };
        for (kind, may_be_applied, remedy) in [
            (StoreErrorKind::Throttled, false, "more capacity"),
            (StoreErrorKind::Denied, false, "credentials"),
            (StoreErrorKind::NotFound, false, "prepare() creates it"),
            (StoreErrorKind::Unavailable, false, "the network"),
            (StoreErrorKind::Unavailable, true, "read the row again"),
            (StoreErrorKind::Invalid, false, "will not help"),
        ] {
            let message = message_for(kind, may_be_applied);
            for part in ["\"orders\"", "eu-west-1", "http://localhost:8000/", "the cause", remedy] {
                assert!(message.contains(part), "{part} in {message}");
            }
        }
    }
}
