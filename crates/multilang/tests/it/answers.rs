//! What the child may print, and what it is answered: rows 1 to 5, 11 and 16 of the conformance table.

use std::sync::Arc;

use multilang::MultilangErrorKind;
use multilang::child::ChildLimits;
use multilang::protocol::CheckpointFault;
use serde_json::{Value, json};

use crate::support::{Answers, Pipes, Recorded, child, kind_naming, limited_child, process_one, record};

#[tokio::test(start_paused = true)]
async fn lifecycle_is_that_of_the_protocol() {
    let mut child = child(|mut pipes: Pipes| async move {
        let initialize = pipes.serve("initialize").await;
        assert_eq!(initialize["sequenceNumber"], "TRIM_HORIZON");
        let batch = pipes.serve("processRecords").await;
        assert_eq!(batch["records"][0]["data"], "eA==");
        pipes.expect("shutdownRequested").await;
        assert_eq!(pipes.checkpoint("\"sequenceNumber\": null").await["error"], Value::Null);
        pipes.status("shutdownRequested").await;
        pipes.serve("leaseLost").await;
        pipes.until_eof().await;
        "exit status 0"
    });
    child.initialize(Some(("TRIM_HORIZON", 0))).await.unwrap();
    process_one(&mut child).await.unwrap();
    let mut answers = Answers::default();
    child.shutdown_requested(&mut answers).await.unwrap();
    assert_eq!(answers.requests.len(), 1);
    child.lease_lost().await.unwrap();
    assert_eq!(child.stop().await, "exit status 0");
}

#[tokio::test(start_paused = true)]
async fn noise_before_a_status_is_passed_on() {
    let sink = Arc::new(Recorded::default());
    let mut child = limited_child(ChildLimits::default(), sink.clone(), |mut pipes: Pipes| async move {
        pipes.expect("initialize").await;
        pipes.write("null\n[1,2]\r\n42\r{}\n\n\n{\"action\":\"Status\"}\n{\"action\":\"shutdown\"}\n").await;
        pipes.write(b"\xff\xfe\x00binary\n").await;
        pipes.status("initialize").await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let expected = [
        "null",
        "[1,2]",
        "42",
        "{}",
        "{\"action\":\"Status\"}",
        "{\"action\":\"shutdown\"}",
        "\u{fffd}\u{fffd}\0binary",
    ];
    assert_eq!(sink.stdout(), expected);
}

#[tokio::test(start_paused = true)]
async fn early_status_answers_the_next_action() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.status("initialize").await;
        pipes.status("processRecords").await;
        pipes.until_eof().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    process_one(&mut child).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn second_status_fails_the_next_action() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        pipes.status("initialize").await;
        pipes.until_eof().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let error = process_one(&mut child).await.unwrap_err();
    let kind = kind_naming(&error, &["\"initialize\"", "during processRecords"]);
    assert_eq!(kind, MultilangErrorKind::WrongStatus);
}

#[tokio::test(start_paused = true)]
async fn wrong_status_fails_the_action() {
    for status in [
        r#"{"action":"status","responseFor":"processRecords"}"#,
        r#"{"action":"status","responseFor":"Initialize"}"#,
        r#"{"action":"status","responseFor":null}"#,
        r#"{"action":"status"}"#,
    ] {
        let mut child = child(move |mut pipes: Pipes| async move {
            pipes.expect("initialize").await;
            pipes.write(format!("{status}\n")).await;
            pipes.until_eof().await;
            "exit status 0"
        });
        let error = child.initialize(None).await.unwrap_err();
        assert_eq!(kind_naming(&error, &["during initialize"]), MultilangErrorKind::WrongStatus, "{status}");
    }
}

/// Runs a child that checkpoints with these fields during `processRecords`, and returns the answers to it.
async fn answered(fields: &'static [&'static str], faults: Vec<CheckpointFault>) -> (Vec<Value>, Answers) {
    let (sender, mut answers) = tokio::sync::mpsc::channel(16);
    let mut child = child(move |mut pipes: Pipes| {
        let sender = sender.clone();
        async move {
            pipes.serve("initialize").await;
            pipes.expect("processRecords").await;
            for fields in fields {
                sender.send(pipes.checkpoint(fields).await).await.unwrap();
            }
            pipes.status("processRecords").await;
            pipes.until_eof().await;
            "exit status 0"
        }
    });
    child.initialize(None).await.unwrap();
    let mut handler = Answers { faults, ..Answers::default() };
    child.process_records([record(b"x")], None, &mut handler).await.unwrap();
    child.stop().await;
    let mut received = Vec::new();
    while let Ok(answer) = answers.try_recv() {
        received.push(answer);
    }
    (received, handler)
}

#[tokio::test(start_paused = true)]
async fn answer_repeats_the_request_of_each_client() {
    let (answers, handler) = answered(
        &[
            r#""sequenceNumber": "5", "subSequenceNumber": 1"#,
            r#""sequenceNumber": "5""#,
            r#""error":null,"sequenceNumber":null"#,
            r#""checkpoint":"4""#,
            r#""sequenceNumber": 49590338271490256608559692538361571095921575989136588898"#,
            r#""sequenceNumber": true"#,
        ],
        Vec::new(),
    )
    .await;
    let answer = |number: Value, sub: Value, error: Value| json!({"action": "checkpoint", "sequenceNumber": number, "subSequenceNumber": sub, "error": error});
    let expected = [
        answer(json!("5"), json!(1), Value::Null),
        answer(json!("5"), Value::Null, Value::Null),
        answer(Value::Null, Value::Null, Value::Null),
        answer(json!("4"), Value::Null, Value::Null),
        answer(json!("49590338271490256608559692538361571095921575989136588898"), Value::Null, Value::Null),
        answer(Value::Null, Value::Null, json!("IllegalArgumentException")),
    ];
    assert_eq!(answers, expected);
    assert_eq!(handler.requests.len(), 5, "the malformed request is not executed");
}

#[tokio::test(start_paused = true)]
async fn each_fault_has_its_word_and_the_child_continues() {
    let words = [
        (CheckpointFault::Shutdown, "ShutdownException"),
        (CheckpointFault::Throttling, "ThrottlingException"),
        (CheckpointFault::InvalidState, "InvalidStateException"),
        (CheckpointFault::Dependency, "KinesisClientLibDependencyException"),
        (CheckpointFault::IllegalArgument, "IllegalArgumentException"),
    ];
    let (answers, _) =
        answered(&[r#""sequenceNumber": "5""#; 5], words.map(|(fault, _)| fault).to_vec()).await;
    assert_eq!(
        answers.iter().map(|answer| &answer["error"]).collect::<Vec<_>>(),
        words.map(|(_, word)| word)
    );
}

#[tokio::test(start_paused = true)]
async fn checkpoints_without_a_checkpointer_are_refused() {
    let mut child = child(|mut pipes: Pipes| async move {
        for action in ["initialize", "leaseLost"] {
            pipes.expect(action).await;
            let answer = pipes.checkpoint(r#""sequenceNumber": "5""#).await;
            assert_eq!(answer["error"], "InvalidStateException");
            pipes.status(action).await;
        }
        pipes.until_eof().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    child.lease_lost().await.unwrap();
    assert_eq!(child.stop().await, "exit status 0");
}

#[tokio::test(start_paused = true)]
async fn late_checkpoint_is_answered_with_the_next_action() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        pipes.serve("processRecords").await;
        pipes.write("{\"action\":\"checkpoint\",\"sequenceNumber\":\"5\"}\n").await;
        pipes.expect("processRecords").await;
        pipes.expect("checkpoint").await;
        pipes.status("processRecords").await;
        pipes.until_eof().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    assert_eq!(process_one(&mut child).await.unwrap().requests.len(), 0);
    assert_eq!(process_one(&mut child).await.unwrap().requests.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn odd_partition_keys_and_aggregates_arrive_intact() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        let batch = pipes.serve("processRecords").await;
        let records = batch["records"].as_array().unwrap();
        let keys: Vec<_> = records.iter().map(|record| record["partitionKey"].as_str().unwrap()).collect();
        assert_eq!(keys, ["é☃😀", "a\u{2028}b", "\u{1}\t\n\0", ""]);
        let subs: Vec<_> =
            records.iter().map(|record| record["subSequenceNumber"].as_u64().unwrap()).collect();
        assert_eq!(subs, [0, 1, 2, 3]);
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let keys = ["é☃😀", "a\u{2028}b", "\u{1}\t\n\0", ""];
    let records = (0..).zip(keys).map(|(sub_sequence_number, key)| {
        let mut record = record(b"");
        record.partition_key = Some(key);
        record.sub_sequence_number = sub_sequence_number;
        record
    });
    child.process_records(records, None, &mut Answers::default()).await.unwrap();
    assert_eq!(child.stop().await, "exit status 0", "the script found no difference");
}
