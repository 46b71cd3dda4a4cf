//! The cause of a failed call to a service: codes, ids and text, without the bodies of request and answer. Pure.
//!
//! The errors of an SDK contain the whole answer, and their `Debug` prints it, with the payload of records. So no error of these
//! crates keeps one as its source; it keeps this instead.

use std::fmt;

/// The longest text of a cause, in characters. A service may repeat parts of a request in its message.
const MAX_TEXT_CHARS: usize = 1000;

/// The codes of expired credentials.
const EXPIRED_CODES: [&str; 4] =
    ["ExpiredTokenException", "ExpiredToken", "RequestExpired", "TokenRefreshRequired"];

/// The codes of credentials that the service does not know, or whose secret is wrong.
const UNKNOWN_CODES: [&str; 9] = [
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "AuthFailure",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignatureException",
    "MissingAuthenticationTokenException",
    "MissingAuthenticationToken",
];

/// The codes of a call that the credentials do not allow.
const DENIED_CODES: [&str; 4] =
    ["AccessDeniedException", "AccessDenied", "NotAuthorizedException", "OptInRequired"];

/// Words of an error about credentials, in the texts of the SDK. Its own types of these errors are private.
const CREDENTIAL_WORDS: [&str; 4] = ["credential", "identity resolver", "SSO token", "Login token"];

/// Words of a session that is over: of IAM Identity Center (SSO), of `aws login`, or of a role's own token.
const EXPIRED_WORDS: [&str; 8] = [
    "expired",
    "Expired",
    "UnauthorizedException",
    "InvalidGrantException",
    "cached SSO token",
    "cached Login token",
    "/sso/cache/",
    "/login/cache/",
];

/// Words of a provider that refused to give credentials.
const DENIED_WORDS: [&str; 3] = ["AccessDenied", "ForbiddenException", "not authorized"];

/// Words of a provider that could not be reached or failed.
const UNREACHABLE_WORDS: [&str; 2] = ["timed out", "while loading credentials"];

/// Why credentials do not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialFault {
    /// The credentials are valid, and their policy does not allow the call.
    Denied,
    /// The session of the credentials is over. A new session is used without a restart.
    Expired,
    /// There are no credentials, or the service does not know them, or their secret is wrong.
    Unknown,
    /// The provider of the credentials could not be reached, or failed. A later call may succeed.
    Unreachable,
}

impl CredentialFault {
    /// Whether the same call may succeed when it is made again later, without anybody acting.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable)
    }

    /// The fault in the answer of a service, by its code and HTTP status. `None`: the answer is not about credentials.
    pub fn of_answer(status: u16, code: &str) -> Option<Self> {
        if EXPIRED_CODES.contains(&code) {
            Some(Self::Expired)
        } else if UNKNOWN_CODES.contains(&code) {
            Some(Self::Unknown)
        } else if DENIED_CODES.contains(&code) || matches!(status, 401 | 403) {
            Some(Self::Denied)
        } else {
            None
        }
    }

    /// The fault of a call that was not sent, by the texts of its error and all causes. `None`: it is not about credentials.
    pub fn of_unsent(texts: &str) -> Option<Self> {
        let has = |words: &[&str]| words.iter().any(|word| texts.contains(word));
        if !has(&CREDENTIAL_WORDS) {
            None
        } else if has(&EXPIRED_WORDS) {
            Some(Self::Expired)
        } else if has(&DENIED_WORDS) {
            Some(Self::Denied)
        } else if has(&UNREACHABLE_WORDS) {
            Some(Self::Unreachable)
        } else {
            Some(Self::Unknown)
        }
    }

    /// What to do. `text` is the text of the error.
    pub fn remedy(self, text: &str) -> &'static str {
        let is_answer_about_signature = text.contains("Signature");
        match self {
            Self::Denied => "check which credentials are in use and that their policy allows the call",
            Self::Expired if text.contains("Login token") || text.contains("/login/cache/") => {
                "the session is over: log in again with aws login"
            }
            Self::Expired
                if ["SSO", "/sso/", "UnauthorizedException"].iter().any(|word| text.contains(word)) =>
            {
                "the session is over: log in again with aws sso login, for the profile in use"
            }
            Self::Expired => {
                "the session is over: renew it, or log in again with aws sso login or aws login, and check the clock of \
                 this machine"
            }
            Self::Unknown if text.contains("credentials-login") => {
                "profiles of aws login are not built in: use a profile with credential_process = aws configure \
                 export-credentials --profile <name> --format process"
            }
            Self::Unknown if is_answer_about_signature => {
                "check the secret key, the region, and the clock of this machine"
            }
            Self::Unknown => {
                "configure valid credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the \
                 container or instance"
            }
            Self::Unreachable => {
                "the credentials could not be loaded: check the network to the provider of the credentials, or try again"
            }
        }
    }
}

/// What a service answered to a failed call, as the source of an error. It holds no part of a body but the message.
///
/// AWS support asks for both ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceCause {
    text: String,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    extended_request_id: Option<String>,
    credential_fault: Option<CredentialFault>,
}

impl ServiceCause {
    /// A cause with this text, which is cut after 1000 characters.
    pub fn new(text: &str) -> Self {
        Self { text: shortened(text), ..Self::default() }
    }

    /// The same cause with the HTTP status and the error code of an answer.
    #[must_use]
    pub fn with_answer(mut self, status: u16, code: Option<&str>) -> Self {
        self.status = Some(status);
        self.code = code.map(shortened);
        self
    }

    /// The same cause with the ids of the headers `x-amzn-requestid` and `x-amz-id-2`.
    #[must_use]
    pub fn with_ids(mut self, request_id: Option<&str>, extended_request_id: Option<&str>) -> Self {
        self.request_id = request_id.map(shortened);
        self.extended_request_id = extended_request_id.map(shortened);
        self
    }

    /// The same cause with a fault of the credentials.
    #[must_use]
    pub fn with_credential_fault(mut self, fault: Option<CredentialFault>) -> Self {
        self.credential_fault = fault;
        self
    }

    /// The HTTP status; `None`: there was no answer.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The error code of the service, such as `AccessDeniedException`.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The id of the request, from the header `x-amzn-requestid`.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// The second id of the request, from the header `x-amz-id-2`.
    pub fn extended_request_id(&self) -> Option<&str> {
        self.extended_request_id.as_deref()
    }

    /// Why the credentials did not work; `None`: the failure is not about credentials.
    pub fn credential_fault(&self) -> Option<CredentialFault> {
        self.credential_fault
    }
}

/// The text, and the ids in parentheses.
impl fmt::Display for ServiceCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)?;
        match (&self.request_id, &self.extended_request_id) {
            (Some(id), Some(extended)) => {
                write!(formatter, " (request id {id}, extended request id {extended})")
            }
            (Some(id), None) => write!(formatter, " (request id {id})"),
            (None, Some(extended)) => write!(formatter, " (extended request id {extended})"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for ServiceCause {}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} …", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_answers_are_told_apart() {
        for (status, code, expected) in [
            (400, "ExpiredTokenException", Some(CredentialFault::Expired)),
            (403, "ExpiredToken", Some(CredentialFault::Expired)),
            (403, "RequestExpired", Some(CredentialFault::Expired)),
            (400, "UnrecognizedClientException", Some(CredentialFault::Unknown)),
            (403, "InvalidClientTokenId", Some(CredentialFault::Unknown)),
            (403, "SignatureDoesNotMatch", Some(CredentialFault::Unknown)),
            (400, "MissingAuthenticationTokenException", Some(CredentialFault::Unknown)),
            (400, "AccessDeniedException", Some(CredentialFault::Denied)),
            (403, "", Some(CredentialFault::Denied)),
            (401, "SomethingNew", Some(CredentialFault::Denied)),
            (400, "ValidationException", None),
            (500, "InternalFailure", None),
        ] {
            assert_eq!(CredentialFault::of_answer(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn faults_of_unsent_calls_are_told_apart() {
        const LOADING: &str = "dispatch failure: other: an error occurred while loading credentials: ";
        for (texts, expected, remedy) in [
            ("the SSO token has expired and cannot be refreshed", CredentialFault::Expired, "aws sso login"),
            ("failed to load the cached SSO token", CredentialFault::Expired, "aws sso login"),
            ("failed to read `/home/u/.aws/sso/cache/ab.json`", CredentialFault::Expired, "aws sso login"),
            (
                "service error: UnauthorizedException: Session token not found or invalid",
                CredentialFault::Expired,
                "aws sso login",
            ),
            ("cached Login token is expired", CredentialFault::Expired, "aws login"),
            ("service error: ExpiredTokenException: Token expired", CredentialFault::Expired, "renew it"),
            ("service error: AccessDenied: Not authorized to assume", CredentialFault::Denied, "policy"),
            ("dispatch failure: io error: connection refused", CredentialFault::Unreachable, "network"),
            ("service error: unhandled error (503)", CredentialFault::Unreachable, "network"),
        ] {
            let texts = format!("{LOADING}{texts}");
            let fault = CredentialFault::of_unsent(&texts);
            assert_eq!(fault, Some(expected), "{texts}");
            let given = expected.remedy(&texts);
            assert!(given.contains(remedy), "{texts}: {given}");
            assert_eq!(expected.is_retryable(), expected == CredentialFault::Unreachable);
        }
        for texts in ["there was no identity resolver", "the credential provider was not enabled"] {
            assert_eq!(CredentialFault::of_unsent(texts), Some(CredentialFault::Unknown), "{texts}");
        }
        let slow = "credentials provider timed out after 5 seconds";
        assert_eq!(CredentialFault::of_unsent(slow), Some(CredentialFault::Unreachable));
        for texts in ["Invalid Configuration: Missing Region", "dispatch failure: io error", "timed out"] {
            assert_eq!(CredentialFault::of_unsent(texts), None, "{texts}");
        }
    }

    #[test]
    fn a_cause_shows_its_ids_and_is_bounded() {
        let cause = ServiceCause::new(&"ü".repeat(MAX_TEXT_CHARS + 1))
            .with_answer(400, Some("ValidationException"))
            .with_ids(Some("id-1"), Some("id-2"));
        let shown = cause.to_string();
        assert!(shown.ends_with("ü … (request id id-1, extended request id id-2)"), "{shown}");
        assert_eq!(shown.matches('ü').count(), MAX_TEXT_CHARS);
        assert_eq!((cause.status(), cause.code()), (Some(400), Some("ValidationException")));
        assert_eq!((cause.request_id(), cause.extended_request_id()), (Some("id-1"), Some("id-2")));
        assert_eq!(ServiceCause::new("a").with_ids(None, Some("b")).to_string(), "a (extended request id b)");
        assert_eq!(ServiceCause::new("a").to_string(), "a");
    }
}
