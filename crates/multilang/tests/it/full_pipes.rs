//! No deadlock on full pipes: row 10 of the conformance table.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::{Answers, Pipes, child, record};

const RECORDS: usize = 10_000;
const OUTPUT_BYTES: usize = 2 * 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn child_may_print_megabytes_before_it_reads() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..OUTPUT_BYTES / line.len() {
            pipes.write(&line).await;
        }
        let batch = pipes.expect("processRecords").await;
        assert_eq!(batch["records"].as_array().unwrap().len(), RECORDS);
        pipes.status("processRecords").await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let payload = [7; 1024];
    let records = std::iter::repeat_n(record(&payload), RECORDS);
    child.process_records(records, None, &mut Answers::default()).await.unwrap();
    assert_eq!(child.stop().await, "exit status 0");
}

#[tokio::test(start_paused = true)]
async fn child_may_checkpoint_in_mid_of_a_large_line() {
    let mut child = child(|mut pipes: Pipes| async move {
        pipes.serve("initialize").await;
        // Out of order: it asks before it has read the line, and more often than the reader may queue.
        pipes.read_exact(&mut [0; 100]).await;
        // Together the requests fill the pipe and the queue behind it.
        let request = format!(
            "{{\"action\":\"checkpoint\",\"sequenceNumber\":\"5\",\"padding\":\"{}\"}}\n",
            "x".repeat(1000)
        );
        for _ in 0..500 {
            pipes.write(&request).await;
        }
        let mut rest = [0; 1];
        while rest != [b'\n'] {
            pipes.read_exact(&mut rest).await;
        }
        for _ in 0..500 {
            pipes.expect("checkpoint").await;
        }
        pipes.status("processRecords").await;
        "exit status 0"
    });
    child.initialize(None).await.unwrap();
    let payload = vec![7; 1024 * 1024];
    let mut answers = Answers::default();
    let call = child.process_records([record(&payload)], None, &mut answers);
    timeout(Duration::from_secs(60), call).await.expect("no deadlock").unwrap();
    assert_eq!(answers.requests.len(), 500);
    assert_eq!(child.stop().await, "exit status 0");
}
