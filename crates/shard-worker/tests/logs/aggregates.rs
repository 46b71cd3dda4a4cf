//! The log messages about filtered records and malformed aggregates.

use std::num::NonZeroUsize;

use lease_store::{HashKey, HashKeyRange, Position};
use shard_worker::{AggregateFilter, Aggregator, InMemoryStream, ShardOutcome};
use test_support::LogCapture;
use tracing::Level;

use crate::support::aggregate_checks::{check_payload, sealed};
use crate::support::reading::run;

#[tokio::test(start_paused = true)]
async fn filtering_and_malformed_aggregates_log_no_content() {
    let log = LogCapture::install();
    let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
    let malformed = sealed(b"\x0a\x06secret\x1a\x08\x08\x01\x1a\x04data");
    check_payload(&malformed);
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    for hash_key in [10, 20] {
        aggregator.add("secret", Some(HashKey(hash_key)), b"data").unwrap();
    }
    let straddling = aggregator.finish().unwrap().data;
    let mut numbers = Vec::new();
    for payload in [&straddling, &straddling, &malformed] {
        numbers.push(stream.put("k", payload.clone()).unwrap().1);
    }
    stream.split(&stream.open_shards()[0]).unwrap();
    let reading = run(&stream, Position::TrimHorizon, None, |worker| {
        worker.context.hash_key_range = HashKeyRange::new(HashKey(10), HashKey(19)).ok();
        worker.options.aggregate_filter = AggregateFilter::Always;
    });
    let reading = reading.await;
    assert_eq!(reading.outcome, ShardOutcome::Ended);
    assert_eq!((reading.progress.filtered_records, reading.progress.malformed_aggregates), (2, 1));
    assert_eq!(reading.seen.positions().len(), 3);

    let log = log.take();
    let is_content = |text: &str| text.contains("secret") || text.contains("data");
    assert!(!log.iter().any(|event| is_content(&event.text)), "{log:?}");
    for (level, number, expected) in [
        (Level::INFO, &numbers[0], "filtered=1 "),
        (Level::DEBUG, &numbers[1], "filtered=1 "),
        (Level::WARN, &numbers[2], "reason=\"the index of a partition key points nowhere\" "),
    ] {
        let about = format!("shard_id=shardId-000000000000 sequence_number={number} {expected}");
        let found = log.iter().filter(|event| event.level == level && event.text.contains(&about));
        assert_eq!(found.count(), 1, "{level} {about}: {log:?}");
    }
}
