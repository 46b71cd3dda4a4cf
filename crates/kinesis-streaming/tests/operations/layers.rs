//! The metrics of layers that are no part of a consumer's status: the stream, the state and the storage buffer.
#![cfg(all(feature = "kinesis-asl", feature = "state", feature = "storage"))]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use kinesis_streaming::prelude::*;
use kinesis_streaming::state::{StateSchema, StateSettings, StateStore, stateful, update_state_by_key};
use kinesis_streaming::storage::{BlockStores, StorageBuffer, StorageLevel, StorageSettings};
use kinesis_streaming::{ConsumerMetrics, METRICS};

use crate::bed::{A_WHILE, APPLICATION, is_of_layer};

#[tokio::test(start_paused = true)]
async fn state_and_storage_show_their_documented_metrics() {
    let stream = InMemoryStream::new("words", NonZeroUsize::MIN);
    let settings = StorageSettings::new(APPLICATION, StorageLevel::MemoryOnly);
    let buffer = StorageBuffer::new(stream.clone(), settings, BlockStores::none()).unwrap();
    let counts = update_state_by_key(
        StateSchema::new("words", 1),
        |record| Ok(vec![(String::from_utf8(record.data.to_vec())?, 1)]),
        |count: Option<u64>, one: u64| Some(count.unwrap_or(0) + one),
        |one, other| one + other,
    );
    let settings = StateSettings { accepts_loss_at_restart: true, ..StateSettings::default() };
    let processors = stateful(counts, StateStore::volatile(), settings).unwrap();
    let consumer = Consumer::builder()
        .application(APPLICATION)
        .worker_id("worker-1")
        .source(buffer.clone())
        .lease_store(InMemoryLeaseStore::new())
        .seed(1)
        .processors(processors.clone())
        .build()
        .unwrap();
    let metrics = ConsumerMetrics::new(APPLICATION, consumer.handle());
    let metrics = metrics.with_storage(buffer).with_state(processors);
    let running = tokio::spawn(consumer.run());
    for word in ["one", "two", "one"] {
        stream.put("key", word).unwrap();
    }
    tokio::time::sleep(A_WHILE).await;
    let shown = metrics.exposition();
    let names: BTreeSet<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .filter(|name| is_of_layer(name))
        .collect();
    let documented = METRICS.iter().map(|metric| metric.name).filter(|name| is_of_layer(name));
    let of_others = ["kinesis_consumer_stream_", "kinesis_consumer_fan_out_"];
    let documented = documented.filter(|name| !of_others.iter().any(|layer| name.starts_with(layer)));
    assert_eq!(names, documented.collect(), "{shown}");
    for line in [
        "kinesis_consumer_keyed_state_keys{application=\"word-count\",worker=\"worker-1\",shard=\"shardId-000000000000\"} 2",
        "kinesis_consumer_storage_received_records_total{application=\"word-count\",worker=\"worker-1\"} 3",
        "kinesis_consumer_storage_bytes{application=\"word-count\",worker=\"worker-1\",place=\"local\"} 0",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is missing in {shown}");
    }
    running.abort();
}
