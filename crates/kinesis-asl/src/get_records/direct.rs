//! One direct request: over the SDK's connections with its credentials, but without its request machinery.
//!
//! A [`Route`] is learnt from a request that the SDK built and signed. So it has the endpoint, region and service that the SDK's own
//! rules chose. If a part of it cannot be learnt with certainty, there is no route, and every call goes through the SDK.

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
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::{Identity, SharedIdentityResolver};
use aws_smithy_types::body::SdkBody;
use tokio::time::{Instant, timeout};

use super::answer::MAX_BODY_BYTES;
use super::body::{self, CutOff};
use super::body_buffer::{BodyBuffer, BodyBuffers};
use super::codec::{self, read_refusal};
use super::encoding::Encoding;
use super::signing::{Signable, Signer, parse_date};
use crate::connections;

const TARGET: &str = "Kinesis_20131202.GetRecords";

/// The only authentication scheme with a route.
const SIGV4: AuthSchemeId = AuthSchemeId::new("sigv4");

/// The longest wait for an answer, or for further bytes of it, of a client without time-outs: the grace time of the SDK's stalled-stream protection.
pub(super) const DEFAULT_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// The initial buffer for a body of unknown length, in bytes.
const INITIAL_BODY_CAPACITY: usize = 8 * 1024;

/// How long an identity is used before the SDK's cache is queried again. Shorter than the 10 s before expiry at which the SDK
/// renews credentials.
const IDENTITY_CACHE_TTL: Duration = Duration::from_secs(5);

/// A smaller clock difference is ignored, because the date of a request has whole seconds and signing takes time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3);

/// The parts of a `GetRecords` request that are the same for every call.
#[derive(Debug, Clone)]
pub(super) struct Route {
    components: RuntimeComponents,
    connector: SharedHttpConnector,
    identities: SharedIdentityResolver,
    host: String,
    region: String,
    service: String,
    /// The method, the URL and the constant headers.
    template: Arc<HttpRequest>,
    cached: Arc<Mutex<Option<CachedIdentity>>>,
    buffers: BodyBuffers,
    /// How far the service's clock is ahead of the local clock or behind it, as the SDK has measured.
    clock_ahead: Duration,
    clock_behind: Duration,
    /// The longest wait for an answer, and then for further bytes of it.
    attempt_timeout: Duration,
}

/// An identity from the SDK's cache, kept for a moment.
#[derive(Debug)]
struct CachedIdentity {
    identity: Identity,
    since: Instant,
}

/// The answer to a direct request, with its body moved from `response` to `body`.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) response: HttpResponse,
    pub(super) body: BodyBuffer,
}

impl Route {
    /// Learns the route from a signed request that the SDK is about to send.
    pub(super) fn learn(
        request: &HttpRequest,
        components: &RuntimeComponents,
        config: &ConfigBag,
        attempt_timeout: Duration,
    ) -> Option<Self> {
        let timeouts = config.load::<TimeoutConfig>()?;
        let retry = config.load::<RetryConfig>()?;
        // An adaptive client must see every attempt.
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
        Some(Self {
            connector: components.http_client()?.http_connector(&settings.build(), components),
            identities: components.auth_scheme(SIGV4)?.identity_resolver(components)?,
            components: components.clone(),
            template: Arc::new(template(request)?),
            cached: Arc::default(),
            buffers: BodyBuffers::default(),
            host: host.to_owned(),
            region,
            service,
            clock_ahead: signed_at.duration_since(now).map_or(Duration::ZERO, beyond),
            clock_behind: now.duration_since(signed_at).map_or(Duration::ZERO, beyond),
            attempt_timeout,
        })
    }

    /// Sends one request and reads its answer. `None`: the request could not be built, and none was sent.
    pub(super) async fn attempt(
        &self,
        signer: &Signer,
        encoding: Encoding,
        iterator: &str,
        limit: Option<u32>,
        stream_arn: Option<&str>,
    ) -> Option<Result<Attempt, SdkError<GetRecordsError>>> {
        let body = codec::request(encoding, iterator, limit, stream_arn);
        let request = self.request(signer, encoding, body).await?;
        Some(self.exchange(request).await)
    }

    async fn request(&self, signer: &Signer, encoding: Encoding, body: Vec<u8>) -> Option<HttpRequest> {
        let identity = match self.cached_identity() {
            Some(identity) => identity,
            None => Box::pin(self.resolved_identity()).await?,
        };
        let credentials = identity.data::<Credentials>()?;
        let now = self.components.time_source()?.now();
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
        // An in-memory body, like the SDK's own: the user's HTTP client may inspect it.
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

    /// The identity that signs requests, if the SDK's cache was queried recently.
    fn cached_identity(&self) -> Option<Identity> {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached
            .as_ref()
            .filter(|cached| cached.since.elapsed() < IDENTITY_CACHE_TTL)
            .map(|cached| cached.identity.clone())
    }

    async fn resolved_identity(&self) -> Option<Identity> {
        let now = Instant::now();
        let identities = self.components.identity_cache();
        let config = ConfigBag::base();
        let resolved = identities.resolve_cached_identity(self.identities.clone(), &self.components, &config);
        let identity = timeout(self.attempt_timeout, resolved).await.ok()?.ok()?;
        let cached = CachedIdentity { identity: identity.clone(), since: now };
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(cached);
        Some(identity)
    }

    async fn exchange(&self, mut request: HttpRequest) -> Result<Attempt, SdkError<GetRecordsError>> {
        let connection = CaptureSmithyConnection::new();
        request.add_extension(connection.clone());
        let mut response = match timeout(self.attempt_timeout, self.connector.call(request)).await {
            Ok(answer) => answer.map_err(SdkError::dispatch_failure)?,
            Err(elapsed) => {
                connections::retire(&connection);
                return Err(SdkError::timeout_error(elapsed));
            }
        };
        let length = response.headers().get("content-length").and_then(|length| length.parse::<usize>().ok());
        let mut body = self.buffers.take(length.unwrap_or(INITIAL_BODY_CAPACITY).min(MAX_BODY_BYTES));
        match body::read_whole(response.take_body(), self.attempt_timeout, &mut body.bytes).await {
            Ok(()) => Ok(Attempt { response, body }),
            Err(error) => {
                if error.is::<CutOff>() {
                    connections::retire(&connection);
                }
                Err(SdkError::response_error(error, response))
            }
        }
    }
}

/// A request like the SDK's, with its constant parts.
fn template(of_the_sdk: &HttpRequest) -> Option<HttpRequest> {
    let mut request = HttpRequest::new(SdkBody::empty());
    request.set_method("POST").ok()?;
    request.set_uri(of_the_sdk.uri()).ok()?;
    let headers = request.headers_mut();
    headers.try_insert("x-amz-target", TARGET).ok()?;
    headers.try_insert("amz-sdk-request", "attempt=1; max=1").ok()?;
    // Reserve entries for the headers of each request: a cloned header map has no spare capacity.
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
    /// The error of a refusal.
    pub(super) fn into_error(self) -> SdkError<GetRecordsError> {
        let refusal = read_refusal(code_header(&self.response), self.body.into_vec());
        SdkError::service_error(refusal, self.response)
    }
}

/// The error code of a refusal, if a header has it.
pub(super) fn code_header(response: &HttpResponse) -> Option<&str> {
    response.headers().get("x-amzn-errortype")
}

/// The host of a URL in its signed form, without the default port. `None`: the URL has a path, a query or a user.
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
    fn only_urls_without_path_have_a_route() {
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
