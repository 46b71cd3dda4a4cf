//! A Kinesis server that costs next to nothing: large answers are rendered before they are asked for.
//!
//! It runs in a process of its own, so that its time is not counted with that of its clients. One thread; HTTP/1.1 as far as
//! the clients here speak it.

mod connection;
mod rendered;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use kinesis_streaming::lease_store::{HashKey, HashKeyRange};
use kinesis_streaming::prelude::BoxError;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::measure::cpu_time;
use crate::shape::Shape;
use rendered::{Body, Rendering, find_iterator, iterator, place_of, sequence_number};

/// The time between two records of a paced shard.
const PACE: Duration = Duration::from_millis(100);

/// The most records of a paced answer.
const MAX_PACED_RECORDS: u64 = 1000;

/// What the server is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) shards: u64,
    /// How many answers with records each shard has; after that it is read to its tip.
    pub(crate) answers: u64,
    /// Nothing is there until `/open` is asked for.
    pub(crate) is_closed: bool,
}

/// The stream, and what was asked of it.
#[derive(Debug)]
struct Stream {
    plan: Plan,
    /// For each shard that differs, its answers by place.
    bodies: Vec<Vec<Body>>,
    empty: Body,
    is_open: AtomicBool,
    begun: Instant,
    begun_at: SystemTime,
    asked: Asked,
}

#[derive(Debug, Default)]
struct Asked {
    reads: AtomicU64,
    answers_with_records: AtomicU64,
    wire_bytes: AtomicU64,
    /// Which shards were read.
    shards: Mutex<Vec<bool>>,
    first_read: OnceLock<Instant>,
}

/// What is sent back: a head is put before it.
#[derive(Debug)]
struct Response<'a> {
    content_type: &'static str,
    body: &'a [u8],
    end: Vec<u8>,
}

impl<'a> Response<'a> {
    fn of(content_type: &'static str, text: impl Into<Vec<u8>>) -> Self {
        Self { content_type, body: &[], end: text.into() }
    }
}

const JSON: &str = "application/x-amz-json-1.1";
const CBOR: &str = "application/x-amz-cbor-1.1";

/// Serves until the process is ended. Prints where.
#[allow(clippy::disallowed_methods)] // the time of day is what a latency is measured by
pub(crate) async fn serve(plan: Plan) -> Result<(), BoxError> {
    let mut rng = fastrand::Rng::with_seed(1);
    // Only keys of an aggregate must lie in the range of its shard: whoever takes it apart looks at them.
    let kinds = if plan.shape == Shape::D { plan.shards } else { 1 };
    let everything = HashKeyRange::new(HashKey(0), HashKey::MAX)?;
    let bodies = (0..kinds)
        .map(|shard| {
            let range = if kinds == 1 { everything } else { range_of(shard, plan.shards)? };
            let places = if plan.shape.records() == 0 { 0 } else { plan.answers };
            Ok((0..places).map(|place| Body::render(plan.shape, place, range, &mut rng)).collect())
        })
        .collect::<Result<Vec<_>, BoxError>>()?;
    let stream = Arc::new(Stream {
        plan,
        bodies,
        empty: Body::of(&[]),
        is_open: AtomicBool::new(!plan.is_closed),
        begun: Instant::now(),
        begun_at: SystemTime::now(),
        asked: Asked { shards: Mutex::new(vec![false; usize::try_from(plan.shards)?]), ..Asked::default() },
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let stream = stream.clone();
        // A client that hangs up is done.
        tokio::spawn(async move { drop(connection::answer_all(socket, &stream).await) });
    }
}

fn range_of(shard: u64, shards: u64) -> Result<HashKeyRange, BoxError> {
    let width = u128::MAX / u128::from(shards);
    let start = width * u128::from(shard);
    let end = if shard + 1 == shards { u128::MAX } else { start + width - 1 };
    Ok(HashKeyRange::new(HashKey(start), HashKey(end))?)
}

impl Stream {
    fn answer(&self, path: &str, operation: &str, is_cbor: bool, body: &[u8]) -> Response<'_> {
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
                    "StreamName": "words", "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/words",
                    "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1_600_000_000,
                    "EnhancedMonitoring": [], "OpenShardCount": self.plan.shards,
                } })
                .to_string(),
            ),
            (_, "DescribeStream") => Response::of(
                JSON,
                json!({ "StreamDescription": {
                    "StreamName": "words", "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/words",
                    "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1_600_000_000,
                    "EnhancedMonitoring": [], "HasMoreShards": false, "Shards": self.shards(),
                } })
                .to_string(),
            ),
            // Metrics, of whoever publishes them.
            _ if is_cbor || path.contains("operation/") => Response::of("application/cbor", [0xa0]),
            _ => Response::of(JSON, "{}"),
        }
    }

    /// Lines of a name and a number.
    fn stats(&self) -> String {
        let asked = &self.asked;
        let shards = asked.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let since_first = asked.first_read.get().map_or(Duration::ZERO, Instant::elapsed);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "reads {}\nanswers {}\nwire_bytes {}\nshards {}\nmillis_since_first_read {}\ncpu_micros {}\n",
            of(&asked.reads),
            of(&asked.answers_with_records),
            of(&asked.wire_bytes),
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
        let text = |name: &str| request.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let shard =
            text("ShardId").strip_prefix("shardId-").and_then(|shard| shard.parse().ok()).unwrap_or(0);
        let place = place_of(text("StartingSequenceNumber")).unwrap_or(0);
        let place = match text("ShardIteratorType") {
            _ if self.plan.shape == Shape::Paced => self.paced_until(shard),
            "AT_SEQUENCE_NUMBER" => place,
            "AFTER_SEQUENCE_NUMBER" => place + 1,
            _ => 0,
        };
        iterator(shard, place)
    }

    fn records(&self, is_cbor: bool, request: &[u8]) -> Response<'_> {
        let (shard, place) = find_iterator(request).unwrap_or_default();
        self.asked.reads.fetch_add(1, Ordering::Relaxed);
        self.asked.first_read.get_or_init(Instant::now);
        let index = usize::try_from(shard).unwrap_or(0);
        if let Some(is_read) = self.asked.shards.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index)
        {
            *is_read = true;
        }
        if self.plan.shape == Shape::Paced {
            return self.paced(is_cbor, shard, place);
        }
        let places = self.bodies.get(if self.bodies.len() == 1 { 0 } else { index });
        let body = places.and_then(|places| places.get(usize::try_from(place).ok()?));
        let body = body.filter(|_| self.is_open.load(Ordering::Relaxed));
        // Every answer of the empty shape moves on, as iterators do.
        let next = place + u64::from(body.is_some() || self.plan.shape == Shape::E);
        let is_behind = body.is_some() && next < self.plan.answers;
        self.asked.answers_with_records.fetch_add(u64::from(body.is_some()), Ordering::Relaxed);
        self.whole(is_cbor, body.unwrap_or(&self.empty), &iterator(shard, next), u64::from(is_behind) * 1000)
    }

    fn whole<'a>(&'a self, is_cbor: bool, body: &'a Body, iterator: &str, behind: u64) -> Response<'a> {
        let (content_type, body) = if is_cbor { (CBOR, &body.cbor) } else { (JSON, &body.json) };
        let end = Body::end(is_cbor, iterator, behind);
        self.asked.wire_bytes.fetch_add((body.len() + end.len()) as u64, Ordering::Relaxed);
        Response { content_type, body, end }
    }

    /// How many records of a paced shard were put until now: each shard has its own phase.
    fn paced_until(&self, shard: u64) -> u64 {
        let pace = u64::try_from(PACE.as_millis()).unwrap_or(1);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(0);
        (now + pace - shard * 37 % pace) / pace
    }

    fn paced(&self, is_cbor: bool, shard: u64, place: u64) -> Response<'_> {
        let until = self.paced_until(shard).min(place + MAX_PACED_RECORDS);
        let pace = u64::try_from(PACE.as_millis()).unwrap_or(1);
        let begun_at = self.begun_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let data = [b'x'; 100];
        let records = (place..until).map(|number| Rendering {
            sequence_number: sequence_number(number, 0),
            arrival_millis: u64::try_from(begun_at.as_millis()).unwrap_or(0)
                + number * pace
                + shard * 37 % pace,
            key: "partition-key",
            data: &data,
        });
        let body = Body::of(&records.collect::<Vec<_>>());
        let (content_type, mut whole) = if is_cbor { (CBOR, body.cbor) } else { (JSON, body.json) };
        whole.extend(Body::end(is_cbor, &iterator(shard, until.max(place)), 0));
        Response { content_type, body: &[], end: whole }
    }
}
