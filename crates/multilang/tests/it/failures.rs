//! Children that exit, hang, flood or ignore the end of their input: rows 6, 8 and 9 of the conformance table.

use std::sync::Arc;
use std::time::Duration;

use multilang::MultilangErrorKind;
use multilang::child::ChildLimits;
use multilang::conversation::MAX_PENDING_MESSAGES;
use tokio::time::{Instant, sleep};

use crate::support::{Pipes, Recorded, answers_within, child, kind_naming, limited_child, process_one};

const LIMIT: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn exit_during_initialize_names_status_and_action() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.expect("initialize").await;
        "exit status 3"
    });
    let error = child.initialize(None).await.unwrap_err();
    assert_eq!(kind_naming(&error, &["during initialize", "exit status 3"]), MultilangErrorKind::ChildExited);
}

#[tokio::test(start_paused = true)]
async fn exit_during_process_records_names_the_action() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        pipes.expect("processRecords").await;
        pipes.write("partial line").await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let error = process_one(&mut child).await.unwrap_err();
    let kind = kind_naming(&error, &["during processRecords", "exit status 0"]);
    assert_eq!(kind, MultilangErrorKind::ChildExited);
}

#[tokio::test(start_paused = true)]
async fn exit_between_actions_is_noticed_at_once() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        sleep(Duration::from_secs(60)).await;
        "ended by signal 9"
    });
    child.initialize(None).await.unwrap();
    let started_at = Instant::now();
    let error = child.failed().await;
    assert!(started_at.elapsed() < Duration::from_secs(61));
    let kind = kind_naming(&error, &["between two actions", "signal 9"]);
    assert_eq!(kind, MultilangErrorKind::ChildExited);
    assert_eq!(process_one(&mut child).await.unwrap_err().kind(), MultilangErrorKind::OutOfOrder);
}

#[tokio::test(start_paused = true)]
async fn silence_is_limited_for_each_message() {
    // Four checkpoints, each within the limit, take longer than the limit together.
    let mut child = limited_child(answers_within(LIMIT), Arc::default(), |mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        pipes.expect("processRecords").await;
        for _ in 0..4 {
            sleep(LIMIT * 3 / 4).await;
            pipes.checkpoint(r#""sequenceNumber": "5""#).await;
        }
        pipes.status("processRecords").await;
        pipes.expect("processRecords").await;
        pipes.until_eof().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    assert_eq!(process_one(&mut child).await.unwrap().requests.len(), 4);
    let started_at = Instant::now();
    let error = process_one(&mut child).await.unwrap_err();
    assert_eq!(started_at.elapsed(), LIMIT);
    let kind = kind_naming(&error, &["2s", "during processRecords", "timeoutInSeconds"]);
    assert_eq!(kind, MultilangErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn noise_does_not_extend_the_time_limit() {
    let mut child = limited_child(answers_within(LIMIT), Arc::default(), |mut pipes: Pipes| async move {
        pipes.expect("initialize").await;
        loop {
            sleep(LIMIT / 4).await;
            pipes.write("still working\n").await;
        }
    });
    let started_at = Instant::now();
    assert_eq!(child.initialize(None).await.unwrap_err().kind(), MultilangErrorKind::TimedOut);
    assert_eq!(started_at.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn child_that_does_not_read_hits_the_time_limit() {
    let mut child = limited_child(answers_within(LIMIT), Arc::default(), |mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        std::future::pending::<()>().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let payload = vec![7; 1024 * 1024];
    let record = crate::support::record(&payload);
    let mut answers = crate::support::Answers::default();
    let error = child.process_records([record], None, &mut answers).await.unwrap_err();
    assert_eq!(kind_naming(&error, &["during processRecords"]), MultilangErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn flood_of_messages_without_reading_is_a_failure() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        loop {
            pipes.write("{\"action\":\"checkpoint\",\"sequenceNumber\":\"5\"}\n").await;
        }
    });
    child.initialize(None).await.unwrap();
    let error = child.failed().await;
    let limit = MAX_PENDING_MESSAGES.to_string();
    assert_eq!(kind_naming(&error, &[&limit, "between two actions"]), MultilangErrorKind::TooManyMessages);
}

#[tokio::test(start_paused = true)]
async fn megabytes_without_a_line_end_stay_bounded() {
    let sink = Arc::new(Recorded::default());
    let mut child = limited_child(ChildLimits::default(), sink.clone(), |mut pipes: Pipes| async move {
        pipes.expect("initialize").await;
        for _ in 0..64 {
            pipes.write(vec![b'x'; 64 * 1024]).await;
        }
        pipes.write("\n").await;
        pipes.status("initialize").await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let lengths: Vec<usize> = sink.stdout().iter().map(String::len).collect();
    assert_eq!(lengths, [multilang::protocol::MAX_LINE_BYTES]);
}

#[tokio::test(start_paused = true)]
async fn child_that_ignores_the_end_of_input_is_killed() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        pipes.serve("leaseLost").await;
        std::future::pending::<()>().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    child.lease_lost().await.unwrap();
    let started_at = Instant::now();
    assert_eq!(child.stop().await, "ended by signal 9");
    assert_eq!(
        started_at.elapsed(),
        Duration::from_secs(35),
        "30 s to exit, 5 s after the signal to terminate"
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_call_in_mid_line_breaks_the_conversation() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        std::future::pending::<()>().await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let payload = vec![7; 1024 * 1024];
    let mut answers = crate::support::Answers::default();
    let call = child.process_records([crate::support::record(&payload)], None, &mut answers);
    assert!(tokio::time::timeout(LIMIT, call).await.is_err());
    let error = child.lease_lost().await.unwrap_err();
    assert_eq!(kind_naming(&error, &["part of a line"]), MultilangErrorKind::OutOfOrder);
}
