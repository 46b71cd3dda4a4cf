//! `doctor` about credentials, and about the permissions that the chosen settings need.

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::bench::{APPLICATION, STREAM, TestBed, finish, lease};

/// A service that gives one answer to every call.
async fn answering(status: StatusCode, body: String) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().route(
        "/",
        post(move || {
            let body = body.clone();
            async move { (status, [("content-type", "text/xml")], body).into_response() }
        }),
    );
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, AbortOnDropHandle::new(serving))
}

fn identity(account: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Arn>arn:aws:iam::{account}:user/alice</Arn><UserId>A</UserId><Account>{account}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
}

fn refusal(code: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>refused by the test</Message></Error>\
         <RequestId>r</RequestId></ErrorResponse>"
    )
}

async fn doctor(bed: &TestBed, sts: Option<&str>, rest: &[&str]) -> (i32, Value) {
    let arguments = ["doctor", APPLICATION, "--stream", STREAM, "--over", "0s", "--json"];
    let mut program = bed.program(&[&arguments[..], rest].concat());
    if let Some(url) = sts {
        program.env("AWS_ENDPOINT_URL_STS", url);
    }
    let finished = finish(program).await;
    let found = serde_json::from_str(&finished.output).unwrap_or_else(|_| panic!("{finished:?}"));
    (finished.code, found)
}

fn of_subject(found: &Value, subject: &str) -> String {
    let findings = found.as_array().unwrap().iter().filter(|finding| finding["subject"] == subject);
    let text = |finding: &Value| format!("{}: {}\n", finding["severity"], finding["text"].as_str().unwrap());
    findings.map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_names_whose_credentials_these_are() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, None)).await;
    let (url, _own) = answering(StatusCode::OK, identity("000000000000")).await;
    let (_, found) = doctor(&bed, Some(&url), &[]).await;
    let text = of_subject(&found, "identity");
    assert_eq!(text, "\"good\": the credentials are those of arn:aws:iam::000000000000:user/alice\n");
    let (url, _other) = answering(StatusCode::OK, identity("111122223333")).await;
    let (_, found) = doctor(&bed, Some(&url), &[]).await;
    let text = of_subject(&found, "identity");
    assert!(text.contains("the account 000000000000, the credentials to 111122223333"), "{text}");
    let (url, _refusing) = answering(StatusCode::FORBIDDEN, refusal("InvalidClientTokenId")).await;
    let (code, found) = doctor(&bed, Some(&url), &[]).await;
    let text = of_subject(&found, "identity");
    assert_eq!(code, 1);
    assert!(text.starts_with("\"error\"") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    // The credentials of an emulator are not sent to AWS.
    let (_, found) = doctor(&bed, None, &[]).await;
    let text = of_subject(&found, "identity");
    assert!(text.contains("those of an emulator"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_asks_for_what_the_settings_need() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, None)).await;
    let settings = ["--fan-out", "desk", "--metrics", "--dead-letters", "rejected"];
    let (_, found) = doctor(&bed, None, &settings).await;
    let text = of_subject(&found, "permission");
    for part in [
        "\"good\": kinesis:DescribeStreamConsumer is allowed",
        "the consumer \"desk\" is not registered",
        "cloudwatch:PutMetricData was not asked for",
        "kinesis:PutRecord was not asked for",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let described = bed.endpoints().kinesis_client().describe_stream_summary().stream_name(STREAM).send();
    let arn = described.await.unwrap().stream_description_summary.unwrap().stream_arn;
    let register = bed.endpoints().kinesis_client().register_stream_consumer();
    register.stream_arn(arn).consumer_name("desk").send().await.unwrap();
    let (_, found) = doctor(&bed, None, &["--fan-out", "desk"]).await;
    let text = of_subject(&found, "permission");
    assert!(text.contains("kinesis:SubscribeToShard was not asked for"), "{text}");
    let (code, found) = doctor(&bed, None, &["--dead-letters", "no valid name"]).await;
    assert!(code == 1 && of_subject(&found, "permission").contains("no valid name"), "{found}");
}
