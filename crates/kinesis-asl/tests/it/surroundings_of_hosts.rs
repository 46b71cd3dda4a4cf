//! More surroundings of the AWS SDK: roles of hosts, a session of IAM Identity Center, regions, retries and proxies.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::{get, put};

use crate::support::Server;
use crate::surroundings::{
    NO_SHARDS, REGION, assert_credential, directory, list_shards, recording, runs_test_in_child,
};

/// Credentials in the form of containers and instances, which are valid for years.
const ROLE: &str = r#"{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ROLEKEY", "SecretAccessKey": "secret",
    "Token": "token", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2100-01-01T00:00:00Z"}"#;

/// Own credentials, for cases about other variables.
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "SOMEKEY"), ("AWS_SECRET_ACCESS_KEY", "secret")];

async fn runs_in_child(test: &str, variables: &[(&'static str, &str)]) -> bool {
    runs_test_in_child(&format!("surroundings_of_hosts::{test}"), variables).await
}

#[tokio::test]
async fn the_role_of_a_container_is_read() {
    const TEST: &str = "the_role_of_a_container_is_read";
    let token = directory(TEST).join("token");
    std::fs::write(&token, "own-token").unwrap();
    let token = token.to_str().unwrap().to_owned();
    // ECS sets the token, and EKS the file of the token.
    for (name, value) in [
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "own-token"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
    ] {
        let (host, asked) = recording(200, ROLE).await;
        let (kinesis, seen) = recording(200, NO_SHARDS).await;
        let uri = format!("{}/role", host.url());
        let variables = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
            (name, value),
            ("AWS_ENDPOINT_URL_KINESIS", kinesis.url()),
        ];
        if !runs_in_child(TEST, &variables).await {
            return list_shards(None).await.unwrap();
        }
        assert_credential(&seen, "ROLEKEY");
        assert_eq!(asked.lock().unwrap()[0], ("own-token".to_owned(), "/role".to_owned()));
    }
}

#[tokio::test]
async fn the_role_of_an_instance_is_read() {
    const LISTED: &str = "/latest/meta-data/iam/security-credentials/";
    let metadata = Router::new()
        .route(
            "/latest/api/token",
            put(|| async { ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "token") }),
        )
        .route(LISTED, get(|| async { "reader" }))
        .route(&format!("{LISTED}reader"), get(|| async { ROLE }));
    let metadata = Server::start(metadata).await;
    let (kinesis, seen) = recording(200, NO_SHARDS).await;
    let variables = [
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url()),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.url()),
    ];
    if !runs_in_child("the_role_of_an_instance_is_read", &variables).await {
        return list_shards(None).await.unwrap();
    }
    assert_credential(&seen, "ROLEKEY");
}

#[tokio::test]
async fn a_valid_sso_session_gives_credentials() {
    const TEST: &str = "a_valid_sso_session_gives_credentials";
    const CONFIG: &str = "[default]\nsso_session = work\nsso_account_id = 111122223333\nsso_role_name = reader\n\
                          [sso-session work]\nsso_region = eu-west-1\nsso_start_url = https://work.awsapps.com/start\n";
    /// The name of the cached token: the SHA-1 of the session's name.
    const TOKEN: &str = "e274eeff768c6396088ec6eb091f4bf4d47ab1e0.json";
    const ROLE: &str = r#"{"roleCredentials": {"accessKeyId": "SSOKEY", "secretAccessKey": "secret",
        "sessionToken": "token", "expiration": 4102444800000}}"#;
    let directory = directory(TEST);
    let (config, cache) = (directory.join("config"), directory.join(".aws/sso/cache"));
    std::fs::write(&config, CONFIG).unwrap();
    std::fs::create_dir_all(&cache).unwrap();
    let token = r#"{"accessToken": "t", "expiresAt": "2100-01-01T00:00:00Z", "region": "eu-west-1"}"#;
    std::fs::write(cache.join(TOKEN), token).unwrap();
    let (sso, _) = recording(200, ROLE).await;
    let (kinesis, seen) = recording(200, NO_SHARDS).await;
    let variables = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("HOME", directory.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_SSO", sso.url()),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.url()),
    ];
    if !runs_in_child(TEST, &variables).await {
        return list_shards(None).await.unwrap();
    }
    assert_credential(&seen, "SSOKEY");
}

#[tokio::test]
async fn regions_of_environment_and_profile_are_read() {
    const TEST: &str = "regions_of_environment_and_profile_are_read";
    let config = directory(TEST).join("config");
    std::fs::write(&config, "[default]\nregion = ap-south-1\n").unwrap();
    let config = config.to_str().unwrap().to_owned();
    // The environment comes before the profile.
    for (of_environment, of_other_tools, of_profile, region) in [
        ("us-east-2", "us-west-2", config.as_str(), "us-east-2"),
        ("", "us-west-2", config.as_str(), "us-west-2"),
        ("", "", config.as_str(), "ap-south-1"),
    ] {
        let (kinesis, seen) = recording(200, NO_SHARDS).await;
        let variables = [
            KEYS[0],
            KEYS[1],
            ("AWS_REGION", of_environment),
            ("AWS_DEFAULT_REGION", of_other_tools),
            ("AWS_CONFIG_FILE", of_profile),
            ("AWS_ENDPOINT_URL_KINESIS", kinesis.url()),
        ];
        if !runs_in_child(TEST, &variables).await {
            return list_shards(None).await.unwrap();
        }
        let seen = seen.lock().unwrap();
        assert!(seen[0].0.contains(&format!("/{region}/kinesis/")), "{region}: {seen:?}");
    }
}

/// The SDK names its retry mode in a header: `E` is the standard mode, `F` the adaptive one.
#[tokio::test]
async fn the_retry_mode_is_read() {
    for (mode, metric) in [("standard", "E"), ("adaptive", "F")] {
        let agents = Arc::new(Mutex::new(Vec::new()));
        let recorded = agents.clone();
        let app = Router::new().fallback(move |request: Request| {
            let agent = request.headers().get("user-agent").map(|agent| agent.to_str().unwrap().to_owned());
            recorded.lock().unwrap().push(agent.unwrap_or_default());
            async { NO_SHARDS }
        });
        let kinesis = Server::start(app).await;
        let variables =
            [KEYS[0], KEYS[1], ("AWS_RETRY_MODE", mode), ("AWS_ENDPOINT_URL_KINESIS", kinesis.url())];
        if !runs_in_child("the_retry_mode_is_read", &variables).await {
            return list_shards(None).await.unwrap();
        }
        let agents = agents.lock().unwrap();
        let metrics = agents[0].split(' ').find_map(|part| part.strip_prefix("m/")).unwrap();
        assert!(metrics.split(',').any(|other| other == metric), "{mode}: {agents:?}");
    }
}

#[tokio::test]
async fn an_excepted_host_is_called_without_the_proxy() {
    let (proxy, by_proxy) = recording(200, NO_SHARDS).await;
    let (kinesis, seen) = recording(200, NO_SHARDS).await;
    let variables = [
        KEYS[0],
        KEYS[1],
        ("HTTP_PROXY", proxy.url()),
        ("NO_PROXY", "localhost,127.0.0.1"),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.url()),
    ];
    if !runs_in_child("an_excepted_host_is_called_without_the_proxy", &variables).await {
        return list_shards(None).await.unwrap();
    }
    assert_eq!((by_proxy.lock().unwrap().len(), seen.lock().unwrap().len()), (0, 1));
}

/// The proxy refuses the tunnel, so the call fails; what it was asked for is what counts.
#[tokio::test]
async fn a_proxy_for_tls_is_asked_for_a_tunnel() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let recorded = asked.clone();
    let app = Router::new().fallback(move |request: Request| {
        recorded.lock().unwrap().push((request.method().to_string(), request.uri().to_string()));
        async { StatusCode::FORBIDDEN }
    });
    let proxy = Server::start(app).await;
    let variables = [
        KEYS[0],
        KEYS[1],
        ("HTTPS_PROXY", proxy.url()),
        ("AWS_MAX_ATTEMPTS", "1"),
        ("AWS_ENDPOINT_URL_KINESIS", "https://kinesis.test"),
    ];
    if !runs_in_child("a_proxy_for_tls_is_asked_for_a_tunnel", &variables).await {
        list_shards(None).await.unwrap_err();
        return;
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0], ("CONNECT".to_owned(), "kinesis.test:443".to_owned()));
}

#[tokio::test]
async fn the_ca_bundle_of_a_profile_is_ignored() {
    const TEST: &str = "the_ca_bundle_of_a_profile_is_ignored";
    let config = directory(TEST).join("config");
    std::fs::write(&config, format!("[default]\nregion = {REGION}\nca_bundle = /nowhere/ca.pem\n")).unwrap();
    let (kinesis, seen) = recording(200, NO_SHARDS).await;
    let variables = [
        KEYS[0],
        KEYS[1],
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_KINESIS", kinesis.url()),
    ];
    if !runs_in_child(TEST, &variables).await {
        return list_shards(None).await.unwrap();
    }
    assert_credential(&seen, "SOMEKEY");
}
