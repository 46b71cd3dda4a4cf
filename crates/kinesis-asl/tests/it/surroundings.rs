//! The surroundings of the AWS SDK: environment variables, profiles, and clients of the user's own.
//!
//! A test runs itself again in a process with the variables of its case, since variables of the test process are shared.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::config::http::HttpRequest;
use aws_sdk_kinesis::error::ConnectorError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use kinesis_asl::{AwsSettings, FanOutSettings, KinesisAsl, RetrievalMode};
use lease_store::{CredentialFault, ShardId};
use serde_json::json;
use shard_worker::{ReadFrom, ShardFilter, SourceError, SourceErrorKind, StreamSource as _};
use tokio::time::timeout;

use crate::support::fan_out::consumer;
use crate::support::scripted::{Events, Part, event};
use crate::support::tls::ProxiedServer;
use crate::support::{STREAM, Server, credentials, ok, operation_of};

/// Set in the process of a case.
const IN_CHILD: &str = "KINESIS_ASL_TEST_CHILD";

/// The directory of a case.
const DIRECTORY: &str = "KINESIS_ASL_TEST_DIRECTORY";

pub(crate) const REGION: &str = "eu-west-1";

/// Runs a test of this file again with these variables alone. `false`: this is that process, and the case is to be checked.
async fn runs_in_child(test: &str, variables: &[(&'static str, &str)]) -> bool {
    runs_test_in_child(&format!("surroundings::{test}"), variables).await
}

/// The same for a test of any file, by its path. An empty variable is not set.
pub(crate) async fn runs_test_in_child(test: &str, variables: &[(&'static str, &str)]) -> bool {
    if std::env::var_os(IN_CHILD).is_some() {
        return false;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env_clear();
    // No service of the machine takes part.
    command.envs([("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_REGION", REGION), (IN_CHILD, "true")]);
    command.env("HOME", "/nowhere").envs(variables.iter().copied());
    for (name, _) in variables.iter().filter(|(_, value)| value.is_empty()) {
        command.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let shown =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && shown.contains("1 passed"), "{variables:?}: {shown}");
    true
}

/// A server that records the `authorization` header and the URI of each request, and answers with this.
pub(crate) async fn recording(
    status: u16,
    body: &'static str,
) -> (Server, Arc<Mutex<Vec<(String, String)>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorded = seen.clone();
    let app = Router::new().fallback(move |request: Request| {
        let authorization =
            request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        recorded.lock().unwrap().push((authorization.unwrap_or_default(), request.uri().to_string()));
        async move { (StatusCode::from_u16(status).unwrap(), body) }
    });
    (Server::start(app).await, seen)
}

pub(crate) const NO_SHARDS: &str = r#"{"Shards": []}"#;

pub(crate) async fn list_shards(endpoint: Option<&str>) -> Result<(), SourceError> {
    let mut settings = AwsSettings::new(STREAM);
    settings.kinesis_endpoint_url = endpoint.map(str::to_owned);
    let stream = KinesisAsl::connect(settings).await.unwrap().stream();
    stream.list_shards(&ShardFilter::All).await.map(|_| ())
}

/// The endpoint of the case, given by the parent in the variable of the SDK.
pub(crate) fn assert_credential(seen: &Mutex<Vec<(String, String)>>, key: &str) {
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].0.contains(&format!("Credential={key}/")), "{seen:?}");
}

#[tokio::test]
async fn older_names_of_credentials_are_read() {
    const TEST: &str = "older_names_of_credentials_are_read";
    for (key_name, secret_name) in [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_KEY"),
        ("AWS_ACCESS_KEY", "AWS_SECRET_KEY"),
        ("AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
    ] {
        let (server, seen) = recording(200, NO_SHARDS).await;
        let variables =
            [(key_name, "SOMEKEY"), (secret_name, "secret"), ("AWS_ENDPOINT_URL_KINESIS", server.url())];
        if !runs_in_child(TEST, &variables).await {
            return list_shards(None).await.unwrap();
        }
        assert_credential(&seen, "SOMEKEY");
    }
}

#[tokio::test]
async fn the_number_of_attempts_is_read() {
    let (server, seen) = recording(500, "").await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", "SOMEKEY"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_MAX_ATTEMPTS", "1"),
        ("AWS_ENDPOINT_URL_KINESIS", server.url()),
    ];
    if !runs_in_child("the_number_of_attempts_is_read", &variables).await {
        assert_eq!(list_shards(None).await.unwrap_err().kind(), SourceErrorKind::Unavailable);
        return;
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_used() {
    let (proxy, seen) = recording(200, NO_SHARDS).await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", "SOMEKEY"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("HTTP_PROXY", proxy.url()),
        ("AWS_ENDPOINT_URL_KINESIS", "http://kinesis.test"),
    ];
    if !runs_in_child("a_proxy_of_the_environment_is_used", &variables).await {
        return list_shards(None).await.unwrap();
    }
    assert_eq!(seen.lock().unwrap()[0].1, "http://kinesis.test/");
}

#[tokio::test]
async fn a_ca_bundle_of_the_environment_is_trusted() {
    const TEST: &str = "a_ca_bundle_of_the_environment_is_trusted";
    let certificate = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/tls/certificate.pem");
    let server = ProxiedServer::start(Router::new().fallback(|| async { NO_SHARDS })).await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", "SOMEKEY"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL_KINESIS", server.url()),
        ("AWS_CA_BUNDLE", certificate.to_str().unwrap()),
    ];
    if !runs_in_child(TEST, &variables).await {
        list_shards(None).await.unwrap();
    }
}

/// Subscriptions, each with some large events at once.
async fn subscriptions(request: Request) -> Response {
    if operation_of(&request) == "DescribeStreamConsumer" {
        return ok(&json!({ "ConsumerDescription": consumer("ACTIVE") }));
    }
    let mut large = event(&[1], Some(1), &[]);
    large["Records"][0]["Data"] = "A".repeat(1024 * 1024 / 3 * 4).into();
    let events = std::iter::repeat_n(Part::Event(large), LARGE_EVENTS);
    let parts = std::iter::once(Part::Accepted).chain(events).chain([Part::Hang]).collect();
    let answer = Response::builder().header("content-type", "application/vnd.amazon.eventstream");
    answer.body(Body::new(Events::new(parts, Arc::default()))).unwrap()
}

/// More bytes than the window of a stream, and with a few streams more than that of a connection.
const LARGE_EVENTS: usize = 4;

/// Each subscription has a connection of its own, so events that are not read use up no other window.
#[tokio::test]
async fn unread_subscriptions_do_not_block_others() {
    const TEST: &str = "unread_subscriptions_do_not_block_others";
    const UNREAD: u64 = 4;
    let certificate = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/tls/certificate.pem");
    let server = ProxiedServer::start(Router::new().fallback(subscriptions)).await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", "SOMEKEY"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL_KINESIS", server.url()),
        ("AWS_CA_BUNDLE", certificate.to_str().unwrap()),
    ];
    if runs_in_child(TEST, &variables).await {
        return;
    }
    let mut settings = AwsSettings::new(STREAM);
    let arn = "arn:aws:kinesis:eu-west-1:000000000000:stream/words/consumer/count:1700000000";
    settings.retrieval = RetrievalMode::FanOut(FanOutSettings::with_consumer_arn(arn));
    let stream = KinesisAsl::connect(settings).await.unwrap().stream();
    let subscribe = async |number| {
        let mut source = stream.open(&ShardId::numbered(number), &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(source.ready().await, 0);
        assert_eq!(source.next_batch().await.unwrap().records.len(), 0, "the shard is subscribed to");
        source
    };
    let mut unread = Vec::new();
    for number in 0..UNREAD {
        let mut source = subscribe(number).await;
        assert!(source.ready().await > 0, "an event has begun to arrive");
        unread.push(source);
    }
    let mut source = subscribe(UNREAD).await;
    for _ in 0..LARGE_EVENTS {
        assert!(source.ready().await > 0);
        let read = timeout(Duration::from_secs(10), source.next_batch()).await;
        assert_eq!(read.expect("the event arrives").unwrap().records.len(), 1);
    }
}

#[tokio::test]
async fn a_faulty_ca_bundle_is_named() {
    const TEST: &str = "a_faulty_ca_bundle_is_named";
    // The second file exists and holds no certificate.
    for path in ["/nowhere/ca.pem", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")] {
        if !runs_in_child(TEST, &[("AWS_CA_BUNDLE", path)]).await {
            let path = std::env::var("AWS_CA_BUNDLE").unwrap();
            let error = KinesisAsl::connect(AwsSettings::new(STREAM)).await.unwrap_err().to_string();
            assert!(error.contains("AWS_CA_BUNDLE") && error.contains(&path), "{error}");
            return;
        }
    }
}

/// Records requests and sends none.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl HttpConnector for Recorder {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.0.lock().unwrap().push(request.uri().to_owned());
        HttpConnectorFuture::ready(Err(ConnectorError::user("recorded".into())))
    }
}

/// The URL of a call to a stream, with the HTTP client of the test.
async fn url_for(stream: &str) -> String {
    let recorder = Recorder::default();
    let connector = SharedHttpConnector::new(recorder.clone());
    let config: SdkConfig = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client_fn(move |_, _| connector.clone()))
        .credentials_provider(credentials())
        .region(Region::new(REGION))
        .load()
        .await;
    let aws = KinesisAsl::from_sdk_config(&AwsSettings::new(stream), &config).unwrap();
    aws.stream().list_shards(&ShardFilter::All).await.unwrap_err();
    let urls = recorder.0.lock().unwrap().clone();
    assert_eq!(urls.len(), 1, "{urls:?}");
    urls[0].clone()
}

#[tokio::test]
async fn an_http_client_of_the_user_is_used() {
    if !runs_in_child("an_http_client_of_the_user_is_used", &[]).await {
        assert_eq!(url_for(STREAM).await, "https://kinesis.eu-west-1.amazonaws.com/");
    }
}

#[tokio::test]
async fn an_arn_selects_the_endpoint_of_its_account() {
    if !runs_in_child("an_arn_selects_the_endpoint_of_its_account", &[]).await {
        let url = url_for("arn:aws:kinesis:eu-west-1:111122223333:stream/words").await;
        assert_eq!(url, "https://111122223333.control-kinesis.eu-west-1.amazonaws.com/");
    }
}

#[tokio::test]
async fn fips_and_dual_stack_select_the_endpoint() {
    const TEST: &str = "fips_and_dual_stack_select_the_endpoint";
    const FIPS: &str = "AWS_USE_FIPS_ENDPOINT";
    const DUAL_STACK: &str = "AWS_USE_DUALSTACK_ENDPOINT";
    for (fips, dual_stack, host) in [
        ("true", "false", "kinesis-fips.eu-west-1.amazonaws.com"),
        ("false", "true", "kinesis.eu-west-1.api.aws"),
        ("true", "true", "kinesis-fips.eu-west-1.api.aws"),
    ] {
        if !runs_in_child(TEST, &[(FIPS, fips), (DUAL_STACK, dual_stack), (DIRECTORY, host)]).await {
            assert_eq!(url_for(STREAM).await, format!("https://{}/", std::env::var(DIRECTORY).unwrap()));
            return;
        }
    }
}

/// A new directory for the files of a case.
pub(crate) fn directory(test: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

#[tokio::test]
async fn an_expired_sso_session_says_to_log_in_again() {
    const TEST: &str = "an_expired_sso_session_says_to_log_in_again";
    const CONFIG: &str = "[default]\nsso_session = work\nsso_account_id = 111122223333\nsso_role_name = reader\n\
                          [sso-session work]\nsso_region = eu-west-1\nsso_start_url = https://work.awsapps.com/start\n";
    /// The name of the cached token: the SHA-1 of the session's name.
    const TOKEN: &str = "e274eeff768c6396088ec6eb091f4bf4d47ab1e0.json";
    for has_token in [false, true] {
        let directory = directory(&format!("{TEST}_{has_token}"));
        let (config, cache) = (directory.join("config"), directory.join(".aws/sso/cache"));
        std::fs::write(&config, CONFIG).unwrap();
        std::fs::create_dir_all(&cache).unwrap();
        if has_token {
            let token = r#"{"accessToken": "t", "expiresAt": "2020-01-01T00:00:00Z", "region": "eu-west-1"}"#;
            std::fs::write(cache.join(TOKEN), token).unwrap();
        }
        let variables =
            [("AWS_CONFIG_FILE", config.to_str().unwrap()), ("HOME", directory.to_str().unwrap())];
        if !runs_in_child(TEST, &variables).await {
            let error = list_shards(Some("http://127.0.0.1:9")).await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Denied, "{error}");
            let fault = error.service_cause().unwrap().credential_fault();
            assert_eq!(fault, Some(CredentialFault::Expired), "{error}");
            assert!(error.to_string().contains("log in again with aws sso login"), "{error}");
            return;
        }
    }
}

#[tokio::test]
async fn a_profile_of_aws_login_names_the_way_around() {
    const TEST: &str = "a_profile_of_aws_login_names_the_way_around";
    let config = directory(TEST).join("config");
    std::fs::write(&config, "[default]\nlogin_session = arn:aws:iam::111122223333:user/reader\n").unwrap();
    if !runs_in_child(TEST, &[("AWS_CONFIG_FILE", config.to_str().unwrap())]).await {
        let error = list_shards(Some("http://127.0.0.1:9")).await.unwrap_err();
        let fault = error.service_cause().unwrap().credential_fault();
        assert_eq!(fault, Some(CredentialFault::Unknown), "{error}");
        assert!(error.to_string().contains("aws configure export-credentials"), "{error}");
    }
}

#[tokio::test]
async fn a_credential_process_is_run() {
    const TEST: &str = "a_credential_process_is_run";
    const OUTPUT: &str = r#"{"Version": 1, "AccessKeyId": "PROCESSKEY", "SecretAccessKey": "secret"}"#;
    let directory = directory(TEST);
    let (config, output) = (directory.join("config"), directory.join("output.json"));
    std::fs::write(&output, OUTPUT).unwrap();
    let process = format!("[default]\ncredential_process = /bin/cat {}\n", output.display());
    std::fs::write(&config, process).unwrap();
    let (server, seen) = recording(200, NO_SHARDS).await;
    let variables =
        [("AWS_CONFIG_FILE", config.to_str().unwrap()), ("AWS_ENDPOINT_URL_KINESIS", server.url())];
    if !runs_in_child(TEST, &variables).await {
        return list_shards(None).await.unwrap();
    }
    assert_credential(&seen, "PROCESSKEY");
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_credentials() {
    const TEST: &str = "a_web_identity_is_exchanged_for_credentials";
    const ANSWER: &str = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>WEBKEY</AccessKeyId>\
         <SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>";
    let token = directory(TEST).join("token");
    std::fs::write(&token, "identity").unwrap();
    let (sts, _) = recording(200, ANSWER).await;
    let (kinesis, seen) = recording(200, NO_SHARDS).await;
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/reader"),
        ("AWS_ENDPOINT_URL_STS", sts.url()),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.url()),
    ];
    if !runs_in_child(TEST, &variables).await {
        return list_shards(None).await.unwrap();
    }
    assert_credential(&seen, "WEBKEY");
}

#[tokio::test]
async fn a_refused_web_identity_is_told_apart() {
    const TEST: &str = "a_refused_web_identity_is_told_apart";
    const EXPIRED: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                           <Code>ExpiredTokenException</Code><Message>Token expired</Message></Error></ErrorResponse>";
    const DENIED: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                          <Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
    for (answer, fault) in [(EXPIRED, "Expired"), (DENIED, "Denied")] {
        let token = directory(TEST).join("token");
        std::fs::write(&token, "identity").unwrap();
        let (sts, _) = recording(400, answer).await;
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/reader"),
            ("AWS_ENDPOINT_URL_STS", sts.url()),
            (DIRECTORY, fault),
        ];
        if !runs_in_child(TEST, &variables).await {
            let error = list_shards(Some("http://127.0.0.1:9")).await.unwrap_err();
            let fault = error.service_cause().unwrap().credential_fault();
            let expected = std::env::var(DIRECTORY).unwrap();
            assert_eq!(fault.map(|fault| format!("{fault:?}")), Some(expected), "{error}");
            assert!(!error.is_retryable(), "{error}");
            return;
        }
    }
}
