//! `doctor`: findings with their remedy.

use aws_sdk_dynamodb::types::AttributeValue;
use lease_store::{Consistency, LeaseStore as _};
use serde_json::Value;

use crate::bench::{APPLICATION, STREAM, TestBed, lease};

fn texts(findings: &Value, severity: &str) -> String {
    let of_severity = findings.as_array().unwrap().iter().filter(|finding| finding["severity"] == severity);
    of_severity.map(|finding| format!("{}\n", finding["text"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_application_has_no_error() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a"]).await;
    let mut whole = lease(0, Some("worker-1"));
    whole.hash_key_range = Some(lease_store::HashKeyRange::FULL);
    bed.put_lease(whole).await;
    let before = bed.store().list(Consistency::Strong).await.unwrap();
    let arguments = ["doctor", APPLICATION, "--stream", STREAM, "--over", "0s"];
    let found = bed.json(&[&arguments[..], &["--json"]].concat()).await;
    assert_eq!(texts(&found, "error"), "", "{found}");
    let good = texts(&found, "good");
    for part in
        ["words is ACTIVE", "kinesis:GetRecords are allowed", "dynamodb:UpdateItem is allowed", "PutItem"]
    {
        assert!(good.contains(part), "{part} is not in {good}");
    }
    assert!(texts(&found, "warning").contains("168 h"), "{found}");
    // The writes that ask for permissions change nothing.
    assert_eq!(bed.store().list(Consistency::Strong).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_end_with_exit_code_one() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let broken = vec![("leaseKey", AttributeValue::S("shardId-000000000007".to_owned()))];
    bed.put_rows(APPLICATION, vec![broken]).await;
    let finished = bed.run(&["doctor", APPLICATION, "--stream", "deleted", "--over", "0s"]).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    for part in ["there is no such stream", "malformed", "! error: "] {
        assert!(finished.output.contains(part), "{part} is not in {}", finished.output);
    }
}
