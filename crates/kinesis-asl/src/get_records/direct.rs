//! One attempt at a call without the SDK's machinery: over its connections, with its credentials, to where it goes.
//!
//! A [`Route`] is learnt from a request that the SDK made and signed by itself, so endpoint, region and service are those of
//! its rules, whatever they are. What cannot be learnt with certainty is not guessed: then there is no route, and every call
//! goes through the SDK.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::config::retry::{RetryConfig, RetryMode};
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{ConfigBag, HttpClient, ResolveCachedIdentity, RuntimeComponents};
use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::operation::get_records::GetRecordsError;
use aws_smithy_runtime_api::client::auth::{AuthScheme, AuthSchemeId};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::{Identity, SharedIdentityResolver};
use aws_smithy_types::body::SdkBody;
use http_body::Body;
use tokio::time::{Instant, timeout};

use super::answer::MAX_BODY_BYTES;
use super::signing::{Signable, Signer, parse_date};
use super::{Encoding, malformed::Malformed, read_refusal};

const TARGET: &str = "Kinesis_20131202.GetRecords";

/// The authentication that is known here.
const SIGV4: AuthSchemeId = AuthSchemeId::new("sigv4");

/// The longest attempt where the client is given no time-outs: as long as the SDK lets a body stand still.
const DEFAULT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// How much room is made for a body of unknown length at first.
const FIRST_ROOM_BYTES: usize = 8 * 1024;

/// How long an identity is used before the SDK's cache is asked again: shorter than the 10 s by which that renews
/// credentials before they expire.
const IDENTITY_HELD_FOR: Duration = Duration::from_secs(5);

/// A clock that differs by less agrees: the date of a request is cut to a second, and signing takes time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3);

/// How the SDK sends a request, as far as it is the same for every one.
#[derive(Debug, Clone)]
pub(super) struct Route {
    components: RuntimeComponents,
    connector: SharedHttpConnector,
    identities: SharedIdentityResolver,
    host: String,
    region: String,
    service: String,
    /// What every request has: method, URL, and the headers that do not change.
    template: Arc<HttpRequest>,
    held: Arc<Mutex<Option<Held>>>,
    /// How far the service's clock is ahead of this machine's or behind it, where the SDK has found it out.
    clock_ahead: Duration,
    clock_behind: Duration,
    /// How long an attempt may take.
    attempt_timeout: Duration,
}

/// An identity, held for a moment beside the SDK's cache.
#[derive(Debug)]
struct Held {
    identity: Identity,
    since: Instant,
}

/// An answer with its body taken out.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) response: HttpResponse,
    pub(super) body: Vec<u8>,
}

impl Route {
    /// From a request that the SDK is about to send.
    pub(super) fn learn(
        request: &HttpRequest,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Option<Self> {
        let timeouts = config.load::<TimeoutConfig>()?;
        let retry = config.load::<RetryConfig>()?;
        // A client that adapts its rate must see every attempt.
        if retry.mode() == RetryMode::Adaptive {
            return None;
        }
        let url = request.uri();
        let host = host_of_root(url)?;
        let authorization = request.headers().get("authorization")?;
        let scope = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?.split(',').next()?;
        let mut scope = scope.rsplit('/');
        if scope.next()? != "aws4_request" {
            return None;
        }
        let (service, region) = (scope.next()?.to_owned(), scope.next()?.to_owned());
        let signed_at = SystemTime::try_from(parse_date(request.headers().get("x-amz-date")?)?).ok()?;
        let now = components.time_source()?.now();
        let beyond = |difference: Duration| {
            if difference > CLOCK_TOLERANCE { difference } else { Duration::ZERO }
        };
        let mut settings = HttpConnectorSettings::builder();
        settings.set_connect_timeout(timeouts.connect_timeout());
        settings.set_read_timeout(timeouts.read_timeout());
        let attempt_timeout = timeouts.operation_attempt_timeout().or(timeouts.operation_timeout());
        Some(Self {
            connector: components.http_client()?.http_connector(&settings.build(), components),
            identities: components.auth_scheme(SIGV4)?.identity_resolver(components)?,
            components: components.clone(),
            template: Arc::new(template(request)?),
            held: Arc::default(),
            host: host.to_owned(),
            region,
            service,
            clock_ahead: signed_at.duration_since(now).map_or(Duration::ZERO, beyond),
            clock_behind: now.duration_since(signed_at).map_or(Duration::ZERO, beyond),
            attempt_timeout: attempt_timeout.unwrap_or(DEFAULT_ATTEMPT_TIMEOUT),
        })
    }

    /// Sends one request and reads its answer. `None`: it could not be made, and nothing was sent.
    pub(super) async fn attempt(
        &self,
        signer: &Signer,
        encoding: Encoding,
        iterator: &str,
    ) -> Option<Result<Attempt, SdkError<GetRecordsError>>> {
        let limit = self.attempt_timeout;
        match timeout(limit, async {
            Some(self.exchange(self.request(signer, encoding, iterator).await?).await)
        })
        .await
        {
            Ok(result) => result,
            Err(elapsed) => Some(Err(SdkError::timeout_error(elapsed))),
        }
    }

    async fn request(&self, signer: &Signer, encoding: Encoding, iterator: &str) -> Option<HttpRequest> {
        let identity = match self.held_identity() {
            Some(identity) => identity,
            None => Box::pin(self.resolved_identity()).await?,
        };
        let credentials = identity.data::<Credentials>()?;
        let now = self.components.time_source()?.now();
        let body = encoding.request(iterator);
        let signable = Signable {
            region: &self.region,
            service: &self.service,
            host: &self.host,
            content_type: encoding.content_type(),
            target: TARGET,
            body: &body,
        };
        let time = now.checked_add(self.clock_ahead)?.checked_sub(self.clock_behind)?;
        let signature = signer.sign(credentials, &signable, time)?;
        let mut request = self.template.try_clone()?;
        // In memory, as the SDK's own are: a client of the user's may want to look at it.
        *request.body_mut() = SdkBody::from(body);
        let headers = request.headers_mut();
        headers.try_insert("content-type", encoding.content_type()).ok()?;
        headers.try_insert("x-amz-date", signature.date).ok()?;
        headers.try_insert("authorization", signature.authorization).ok()?;
        if let Some(token) = credentials.session_token() {
            headers.try_insert("x-amz-security-token", token.to_owned()).ok()?;
        }
        Some(request)
    }

    /// Whose name requests are signed in; renewed by the SDK's cache.
    fn held_identity(&self) -> Option<Identity> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref()
            .filter(|held| held.since.elapsed() < IDENTITY_HELD_FOR)
            .map(|held| held.identity.clone())
    }

    async fn resolved_identity(&self) -> Option<Identity> {
        let now = Instant::now();
        let identities = self.components.identity_cache();
        let config = ConfigBag::base();
        let resolved = identities.resolve_cached_identity(self.identities.clone(), &self.components, &config);
        let identity = resolved.await.ok()?;
        let held = Held { identity: identity.clone(), since: now };
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Some(identity)
    }

    async fn exchange(&self, request: HttpRequest) -> Result<Attempt, SdkError<GetRecordsError>> {
        let mut response = self.connector.call(request).await.map_err(SdkError::dispatch_failure)?;
        match whole_body(&mut response).await {
            Ok(body) => Ok(Attempt { response, body }),
            Err(error) => Err(SdkError::response_error(error, response)),
        }
    }
}

/// A request like the SDK's, with what does not change.
fn template(of_the_sdk: &HttpRequest) -> Option<HttpRequest> {
    let mut request = HttpRequest::new(SdkBody::empty());
    request.set_method("POST").ok()?;
    request.set_uri(of_the_sdk.uri()).ok()?;
    let headers = request.headers_mut();
    headers.try_insert("x-amz-target", TARGET).ok()?;
    headers.try_insert("amz-sdk-request", "attempt=1; max=1").ok()?;
    // Places for what each request puts in: a map that is copied as it is has no room to grow.
    for name in ["content-type", "x-amz-date", "authorization"] {
        headers.try_insert(name, "").ok()?;
    }
    for name in ["user-agent", "x-amz-user-agent"] {
        if let Some(value) = of_the_sdk.headers().get(name) {
            headers.try_insert(name, value.to_owned()).ok()?;
        }
    }
    Some(request)
}

impl Attempt {
    /// The error that a refusal stands for.
    pub(super) fn into_error(self) -> SdkError<GetRecordsError> {
        let refusal = read_refusal(code_header(&self.response), self.body);
        SdkError::service_error(refusal, self.response)
    }
}

/// The code of a refusal, where a header names it.
pub(super) fn code_header(response: &HttpResponse) -> Option<&str> {
    response.headers().get("x-amzn-errortype")
}

/// The body in one buffer: the bytes are copied once, from where the connection put them.
async fn whole_body(response: &mut HttpResponse) -> Result<Vec<u8>, aws_sdk_kinesis::error::BoxError> {
    let length = response.headers().get("content-length").and_then(|length| length.parse::<usize>().ok());
    let mut body = response.take_body();
    let mut whole = Vec::with_capacity(length.unwrap_or(FIRST_ROOM_BYTES).min(MAX_BODY_BYTES));
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if data.len() > MAX_BODY_BYTES - whole.len() {
            let malformed = Malformed { encoding: None, offset: MAX_BODY_BYTES, what: "it is too long" };
            return Err(malformed.into());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// The host of a URL without path and query, as it is signed: without the port that goes without saying.
fn host_of_root(url: &str) -> Option<&str> {
    let (rest, default_port) = match url.strip_prefix("https://") {
        Some(rest) => (rest, ":443"),
        None => (url.strip_prefix("http://")?, ":80"),
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let is_plain = !host.is_empty() && !host.contains(['/', '?', '#', '@']);
    is_plain.then(|| host.strip_suffix(default_port).unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_have_a_route() {
        for (url, expected) in [
            ("https://kinesis.eu-west-1.amazonaws.com/", Some("kinesis.eu-west-1.amazonaws.com")),
            ("https://kinesis.test:443", Some("kinesis.test")),
            ("https://kinesis.test:80/", Some("kinesis.test:80")),
            ("http://127.0.0.1:4567/", Some("127.0.0.1:4567")),
            ("http://[::1]:80/", Some("[::1]")),
            ("http://host/path", None),
            ("http://host/?query", None),
            ("http://user@host/", None),
            ("http://", None),
            ("ftp://host/", None),
        ] {
            assert_eq!(host_of_root(url), expected, "{url}");
        }
    }
}
