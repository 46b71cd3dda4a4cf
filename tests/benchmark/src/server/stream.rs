//! The stream of the server: its answers to each operation, and the counters of what was read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use kinesis_streaming::lease_store::{HashKey, HashKeyRange};
use kinesis_streaming::prelude::BoxError;
use serde_json::json;
use tokio::time::Instant;

use super::record::Rendering;
use super::rendered::{Body, answer_index_of, find_iterator, iterator, sequence_number};
use crate::measure::cpu_time;
use crate::shape::Shape;

/// Time between two records of a paced shard.
const PACE: Duration = Duration::from_millis(100);

/// Largest number of records of a paced answer.
const MAX_PACED_RECORDS: u64 = 1000;

/// The configuration of the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) shards: u64,
    /// Number of answers with records of each shard, before its tip.
    pub(crate) answers: u64,
    /// Serve no records until `/open` is requested.
    pub(crate) is_closed: bool,
}

/// The stream and its counters.
#[derive(Debug)]
pub(super) struct Stream {
    plan: Plan,
    /// The answers of each shard in order; one list when all shards are alike.
    bodies: Vec<Vec<Body>>,
    empty: Body,
    is_open: AtomicBool,
    started: Instant,
    started_at: SystemTime,
    reads: ReadCounters,
}

#[derive(Debug, Default)]
struct ReadCounters {
    count: AtomicU64,
    answers_with_records: AtomicU64,
    wire_bytes: AtomicU64,
    /// For each shard whether it was read.
    shards: Mutex<Vec<bool>>,
    first_read: OnceLock<Instant>,
}

/// An HTTP response without its head.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    pub(super) end: Vec<u8>,
}

impl Response {
    fn of(content_type: &'static str, text: impl Into<Vec<u8>>) -> Self {
        Self { content_type, body: Bytes::new(), end: text.into() }
    }
}

const JSON: &str = "application/x-amz-json-1.1";
const CBOR: &str = "application/x-amz-cbor-1.1";

/// The ARN of the stream.
const STREAM_ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/words";

/// A sequence number before all others.
const BEFORE_ALL: &str = "0";

/// The only consumer; it is active at once.
fn consumer() -> serde_json::Value {
    json!({
        "ConsumerName": "benchmark", "ConsumerARN": format!("{STREAM_ARN}/consumer/benchmark:1600000000"),
        "ConsumerStatus": "ACTIVE", "ConsumerCreationTimestamp": 1_600_000_000, "StreamARN": STREAM_ARN,
    })
}

/// Returns the number of the shard in a request.
fn shard_of(request: &serde_json::Value) -> u64 {
    let shard = request["ShardId"].as_str().and_then(|shard| shard.strip_prefix("shardId-"));
    shard.and_then(|shard| shard.parse().ok()).unwrap_or(0)
}

fn range_of(shard: u64, shards: u64) -> Result<HashKeyRange, BoxError> {
    let width = u128::MAX / u128::from(shards);
    let start = width * u128::from(shard);
    let end = if shard + 1 == shards { u128::MAX } else { start + width - 1 };
    Ok(HashKeyRange::new(HashKey(start), HashKey(end))?)
}

impl Stream {
    /// Renders all answers.
    #[allow(clippy::disallowed_methods)] // latencies are measured by the time of day
    pub(super) fn new(plan: Plan) -> Result<Self, BoxError> {
        let mut rng = fastrand::Rng::with_seed(1);
        // Only aggregates need keys in the range of their shard, because de-aggregation filters by it.
        let kinds = if plan.shape == Shape::D { plan.shards } else { 1 };
        let everything = HashKeyRange::new(HashKey(0), HashKey::MAX)?;
        let bodies = (0..kinds)
            .map(|shard| {
                let range = if kinds == 1 { everything } else { range_of(shard, plan.shards)? };
                let answers = if plan.shape.records() == 0 { 0 } else { plan.answers };
                (0..answers).map(|index| Body::render(plan.shape, index, range, &mut rng)).collect()
            })
            .collect::<Result<Vec<_>, BoxError>>()?;
        Ok(Self {
            plan,
            bodies,
            empty: Body::of(&[]),
            is_open: AtomicBool::new(!plan.is_closed),
            started: Instant::now(),
            started_at: SystemTime::now(),
            reads: ReadCounters {
                shards: Mutex::new(vec![false; usize::try_from(plan.shards)?]),
                ..ReadCounters::default()
            },
        })
    }

    pub(super) fn answer(&self, path: &str, operation: &str, is_cbor: bool, body: &[u8]) -> Response {
        match (path, operation) {
            ("/stats", _) => Response::of("text/plain", self.stats()),
            ("/open", _) => {
                self.is_open.store(true, Ordering::Relaxed);
                Response::of("text/plain", "open")
            }
            (_, "GetRecords") => self.records(is_cbor, body),
            (_, "GetShardIterator") => {
                Response::of(JSON, json!({ "ShardIterator": self.first_iterator(body) }).to_string())
            }
            (_, "ListShards") => Response::of(JSON, json!({ "Shards": self.shards() }).to_string()),
            (_, "DescribeStreamSummary") => Response::of(
                JSON,
                json!({ "StreamDescriptionSummary": {
                    "StreamName": "words", "StreamARN": STREAM_ARN,
                    "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1_600_000_000,
                    "EnhancedMonitoring": [], "OpenShardCount": self.plan.shards,
                } })
                .to_string(),
            ),
            (_, "DescribeStream") => Response::of(
                JSON,
                json!({ "StreamDescription": {
                    "StreamName": "words", "StreamARN": STREAM_ARN,
                    "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1_600_000_000,
                    "EnhancedMonitoring": [], "HasMoreShards": false, "Shards": self.shards(),
                } })
                .to_string(),
            ),
            (_, "RegisterStreamConsumer") => {
                Response::of(JSON, json!({ "Consumer": consumer() }).to_string())
            }
            (_, "DescribeStreamConsumer") => {
                Response::of(JSON, json!({ "ConsumerDescription": consumer() }).to_string())
            }
            // Metrics of any client.
            _ if is_cbor || path.contains("operation/") => Response::of("application/cbor", [0xa0]),
            _ => Response::of(JSON, "{}"),
        }
    }

    /// Formats the counters: lines of a name and a number.
    fn stats(&self) -> String {
        let counters = &self.reads;
        let shards = counters.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let since_first = counters.first_read.get().map_or(Duration::ZERO, Instant::elapsed);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "reads {}\nanswers {}\nwire_bytes {}\nshards {}\nmillis_since_first_read {}\ncpu_micros {}\n",
            of(&counters.count),
            of(&counters.answers_with_records),
            of(&counters.wire_bytes),
            shards.iter().filter(|&&is_read| is_read).count(),
            since_first.as_millis(),
            cpu_time().map_or(0, |time| time.as_micros()),
        )
    }

    fn shards(&self) -> serde_json::Value {
        let shards = (0..self.plan.shards).filter_map(|shard| {
            let range = range_of(shard, self.plan.shards).ok()?;
            let (HashKey(start), HashKey(end)) = (range.start(), range.end());
            Some(json!({
                "ShardId": format!("shardId-{shard:012}"),
                "HashKeyRange": { "StartingHashKey": start.to_string(), "EndingHashKey": end.to_string() },
                "SequenceNumberRange": { "StartingSequenceNumber": sequence_number(0, 0) },
            }))
        });
        shards.collect()
    }

    fn first_iterator(&self, body: &[u8]) -> String {
        let request: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| request[name].as_str().unwrap_or_default();
        let shard = shard_of(&request);
        let index = answer_index_of(text("StartingSequenceNumber")).unwrap_or(0);
        let index = match text("ShardIteratorType") {
            _ if self.plan.shape == Shape::Paced => self.paced_until(shard),
            "AT_SEQUENCE_NUMBER" => index,
            "AFTER_SEQUENCE_NUMBER" => index + 1,
            _ => 0,
        };
        iterator(shard, index)
    }

    /// Returns the shard of a subscription, and the sequence number that it continues from.
    pub(super) fn subscribed(&self, body: &[u8]) -> (u64, String) {
        let request: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let after = request["StartingPosition"]["SequenceNumber"].as_str().unwrap_or(BEFORE_ALL);
        (shard_of(&request), after.to_owned())
    }

    /// Returns the answers of a shard, in order.
    pub(super) fn bodies(&self, shard: u64) -> &[Body] {
        let kind = if self.bodies.len() == 1 { 0 } else { usize::try_from(shard).unwrap_or(usize::MAX) };
        self.bodies.get(kind).map_or(&[], Vec::as_slice)
    }

    /// Counts an answer or an event of a shard.
    pub(super) fn count_read(&self, shard: u64) {
        self.reads.count.fetch_add(1, Ordering::Relaxed);
        self.reads.first_read.get_or_init(Instant::now);
        let mut shards = self.reads.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(is_read) = usize::try_from(shard).ok().and_then(|shard| shards.get_mut(shard)) {
            *is_read = true;
        }
    }

    fn records(&self, is_cbor: bool, request: &[u8]) -> Response {
        let (shard, index) = find_iterator(request).unwrap_or_default();
        self.count_read(shard);
        if self.plan.shape == Shape::Paced {
            return self.paced(is_cbor, shard, index);
        }
        let body = usize::try_from(index).ok().and_then(|index| self.bodies(shard).get(index));
        let body = body.filter(|_| self.is_open.load(Ordering::Relaxed));
        // Every answer of the empty shape advances the iterator, as in AWS.
        let next = index + u64::from(body.is_some() || self.plan.shape == Shape::E);
        let is_behind = body.is_some() && next < self.plan.answers;
        self.reads.answers_with_records.fetch_add(u64::from(body.is_some()), Ordering::Relaxed);
        self.whole(is_cbor, body.unwrap_or(&self.empty), &iterator(shard, next), u64::from(is_behind) * 1000)
    }

    fn whole(&self, is_cbor: bool, body: &Body, iterator: &str, behind: u64) -> Response {
        let (content_type, body) = if is_cbor { (CBOR, &body.cbor) } else { (JSON, &body.json) };
        let end = Body::end(is_cbor, iterator, behind);
        self.reads.wire_bytes.fetch_add((body.len() + end.len()) as u64, Ordering::Relaxed);
        Response { content_type, body: body.clone(), end }
    }

    /// Returns how many records a paced shard has so far. Each shard has its own phase.
    fn paced_until(&self, shard: u64) -> u64 {
        let pace = u64::try_from(PACE.as_millis()).unwrap_or(1);
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0);
        (now + pace - shard * 37 % pace) / pace
    }

    fn paced(&self, is_cbor: bool, shard: u64, index: u64) -> Response {
        let until = self.paced_until(shard).min(index + MAX_PACED_RECORDS);
        let pace = u64::try_from(PACE.as_millis()).unwrap_or(1);
        let started_at = self.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let data = [b'x'; 100];
        let records = (index..until).map(|number| Rendering {
            sequence_number: sequence_number(number, 0),
            arrival_millis: u64::try_from(started_at.as_millis()).unwrap_or(0)
                + number * pace
                + shard * 37 % pace,
            key: "partition-key",
            data: &data,
        });
        let body = Body::of(&records.collect::<Vec<_>>());
        let (content_type, body) = if is_cbor { (CBOR, body.cbor) } else { (JSON, body.json) };
        Response { content_type, body, end: Body::end(is_cbor, &iterator(shard, until.max(index)), 0) }
    }
}
