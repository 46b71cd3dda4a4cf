//! A consumer of two shards that fails with each record of the text `bad`, and never ends with `endless`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use kinesis_streaming::lease_store::CountingLeaseStore;
use kinesis_streaming::prelude::*;
use kinesis_streaming::{ConsumerMetrics, METRICS};
use tokio::task::JoinHandle;

pub(crate) const APPLICATION: &str = "word-count";

/// The metrics that only a consumer of several streams has.
pub(crate) const OF_SEVERAL_STREAMS: [&str; 2] =
    ["kinesis_consumer_streams", "kinesis_consumer_stream_failed"];

/// The documented metrics of a consumer of one stream, without those of layers.
pub(crate) fn documented() -> BTreeSet<&'static str> {
    let names = METRICS.iter().map(|metric| metric.name);
    names.filter(|name| !OF_SEVERAL_STREAMS.contains(name) && !is_of_layer(name)).collect()
}

/// Longer than a start, a read and a checkpoint take, in virtual time.
pub(crate) const A_WHILE: Duration = Duration::from_secs(30);

/// How the names of the metrics of layers begin.
const LAYERS: [&str; 4] = [
    "kinesis_consumer_stream_",
    "kinesis_consumer_fan_out_",
    "kinesis_consumer_keyed_state_",
    "kinesis_consumer_storage_",
];

/// Whether a metric is that of a layer.
pub(crate) fn is_of_layer(name: &str) -> bool {
    LAYERS.iter().any(|layer| name.starts_with(layer)) && !OF_SEVERAL_STREAMS.contains(&name)
}

pub(crate) struct Bed {
    pub(crate) stream: InMemoryStream,
    pub(crate) table: InMemoryLeaseStore,
    pub(crate) metrics: ConsumerMetrics,
    pub(crate) handle: ConsumerHandle,
    consumer: Option<Consumer>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let stream = InMemoryStream::new("words", NonZeroUsize::new(2).unwrap());
        Self::with("worker-1", stream, InMemoryLeaseStore::new())
    }

    /// A worker of an application.
    pub(crate) fn with(worker_id: &str, stream: InMemoryStream, table: InMemoryLeaseStore) -> Self {
        let store = CountingLeaseStore::new(table.clone());
        let consumer = Consumer::builder()
            .application(APPLICATION)
            .worker_id(worker_id)
            .source(stream.clone())
            .lease_store(store.clone())
            .seed(1)
            .checkpoint_interval(Duration::from_secs(1))
            .processors(batch_handler(async |_, batch| {
                let has = |text: &[u8]| batch.records().iter().any(|record| record.data.as_ref() == text);
                if has(b"endless") {
                    std::future::pending::<()>().await;
                }
                if has(b"bad") { Err("a bad record".into()) } else { Ok(()) }
            }))
            .build()
            .unwrap();
        let handle = consumer.handle();
        let metrics =
            ConsumerMetrics::new(APPLICATION, handle.clone()).with_lease_calls(move || store.calls());
        Self { stream, table, metrics, handle, consumer: Some(consumer) }
    }

    /// Runs the consumer in a task.
    pub(crate) fn run(&mut self) -> JoinHandle<Result<StopReport, ConsumerError>> {
        tokio::spawn(self.consumer.take().expect("it runs once").run())
    }

    /// Puts records until each shard has one.
    pub(crate) fn put_into_each_shard(&self, text: &'static str) {
        for number in 0..16 {
            self.stream.put(format!("key-{number}"), text).unwrap();
        }
    }
}
