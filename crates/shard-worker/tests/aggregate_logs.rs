//! What is left out of aggregates, or malformed, is logged. A program of its own: what is logged where is decided once in
//! a process, and other tests would have a say in it.

#![allow(clippy::unwrap_used)] // a test may

#[path = "support/aggregate_checks.rs"]
mod aggregate_checks;
#[path = "support/reading.rs"]
mod reading;

use std::fmt::{Debug, Write as _};
use std::num::NonZeroUsize;
use std::sync::Mutex;

use aggregate_checks::{check_payload, sealed};
use lease_store::{HashKey, HashKeyRange, Position};
use reading::run;
use shard_worker::{Aggregator, InMemoryStream, ShardOutcome};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Level and fields of all events, as text.
static LOG: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

struct Noting;

impl Subscriber for Noting {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| write!(text, "{field}={value:?} ").unwrap());
        LOG.lock().unwrap().push((*event.metadata().level(), text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn what_is_left_out_or_malformed_is_logged_without_its_content() {
    tracing::subscriber::set_global_default(Noting).unwrap();
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
    });
    let reading = reading.await;
    assert_eq!(reading.outcome, ShardOutcome::Ended);
    assert_eq!((reading.progress.filtered_records, reading.progress.malformed_aggregates), (2, 1));
    assert_eq!(reading.seen.positions().len(), 3);

    let log = LOG.lock().unwrap();
    assert!(log.iter().all(|(_, text)| !text.contains("secret") && !text.contains("data")), "{log:?}");
    for (level, number, expected) in [
        (Level::INFO, &numbers[0], "filtered=1 "),
        (Level::DEBUG, &numbers[1], "filtered=1 "),
        (Level::WARN, &numbers[2], "reason=\"the index of a partition key points nowhere\" "),
    ] {
        let about = format!("shard_id=shardId-000000000000 sequence_number={number} {expected}");
        let found = log.iter().filter(|(logged, text)| *logged == level && text.contains(&about));
        assert_eq!(found.count(), 1, "{level} {about}: {log:?}");
    }
}
