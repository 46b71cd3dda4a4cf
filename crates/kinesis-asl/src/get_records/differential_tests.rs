//! Compares our decoders with the SDK's, field for field: over generated answers in both encodings, via the SDK and directly.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::{Client, Config};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_types::body::SdkBody;
use base64_simd::STANDARD;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::{CallError, GetRecords};
use super::format::GetRecordsFormat;
use crate::polling::read_pace::{ReadPace, ReadRate};
use crate::stream_arn::StreamId;

/// The pace of a reader that makes one call.
fn pace() -> ReadPace {
    ReadPace::new(ReadRate {
        share_percent: 100,
        idle_time: Duration::ZERO,
        max_idle_time: Duration::ZERO,
        counts_bytes: false,
    })
}

/// An in-process server that answers in the encoding of the request.
#[derive(Debug, Clone, Default)]
struct Canned(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cbor: Mutex<Vec<u8>>,
    json: Mutex<Vec<u8>>,
    signed_by_the_sdk: AtomicUsize,
    calls: AtomicUsize,
}

impl HttpConnector for Canned {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let state = &self.0;
        state.calls.fetch_add(1, Ordering::Relaxed);
        if request.headers().contains_key("amz-sdk-invocation-id") {
            state.signed_by_the_sdk.fetch_add(1, Ordering::Relaxed);
        }
        let is_cbor = request.headers().get("content-type") == Some("application/x-amz-cbor-1.1");
        let body = if is_cbor { &state.cbor } else { &state.json }.lock().unwrap().clone();
        HttpConnectorFuture::ready(Ok(HttpResponse::new(200.try_into().unwrap(), SdkBody::from(body))))
    }
}

impl Canned {
    fn reader(&self, format: GetRecordsFormat) -> GetRecords {
        let connector = SharedHttpConnector::new(self.clone());
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build();
        GetRecords::new(Client::from_conf(config), &StreamId::parse("words").unwrap(), format)
    }
}

#[derive(Debug, Clone)]
struct RecordModel {
    sequence_number: String,
    millis: Option<i64>,
    data: Option<Vec<u8>>,
    partition_key: Option<Option<String>>,
    encryption_type: Option<String>,
    unknown: Option<u64>,
    /// Rotates the order of the members.
    rotation: usize,
}

#[derive(Debug, Clone)]
struct AnswerModel {
    records: Vec<RecordModel>,
    next_iterator: Option<String>,
    millis_behind_latest: Option<i64>,
    children: Option<Vec<(String, Vec<String>, String)>>,
    rotation: usize,
    /// Each bit decides whether a CBOR length is indefinite: none, all as in AWS, or a mix.
    indefinite: u64,
    /// Whether texts and bytes of indefinite length occur as well. AWS sends none.
    has_chunks: bool,
    has_exponents: bool,
}

fn records() -> impl Strategy<Value = RecordModel> {
    (
        "[1-9][0-9]{0,60}",
        option::of(100_000_000_000..4_102_444_800_000_i64),
        option::weighted(0.9, vec(any::<u8>(), 0..80)),
        option::of(option::of(any::<String>())),
        option::of("[A-Z]{3,4}"),
        option::of(any::<u64>()),
        0..6_usize,
    )
        .prop_map(
            |(sequence_number, millis, data, partition_key, encryption_type, unknown, rotation)| {
                RecordModel {
                    sequence_number,
                    millis,
                    data,
                    partition_key,
                    encryption_type,
                    unknown,
                    rotation,
                }
            },
        )
}

fn answers() -> impl Strategy<Value = AnswerModel> {
    (
        vec(records(), 0..6),
        option::of(any::<String>()),
        option::of(0..i64::MAX),
        option::of(vec(("[a-z0-9-]{0,9}", vec("[a-z0-9-]{0,9}", 0..3), "[0-9]{0,9}"), 0..3)),
        0..4_usize,
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(records, next_iterator, behind, children, rotation, indefinite, has_chunks, has_exponents)| {
                AnswerModel {
                    records,
                    next_iterator,
                    millis_behind_latest: behind,
                    children,
                    rotation,
                    indefinite,
                    has_chunks,
                    has_exponents,
                }
            },
        )
}

/// Members by name, in the order of writing.
type Members = Vec<(&'static str, Node)>;

/// A value that both encodings can write.
#[derive(Debug, Clone)]
enum Node {
    Null,
    Integer(i64),
    Unsigned(u64),
    Millis(i64),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Node>),
    Map(Members),
}

fn rotated(mut members: Members, rotation: usize) -> Node {
    let length = members.len().max(1);
    members.rotate_left(rotation % length);
    Node::Map(members)
}

fn record_node(record: &RecordModel) -> Node {
    let mut members = vec![("SequenceNumber", Node::Text(record.sequence_number.clone()))];
    members.extend(record.millis.map(|millis| ("ApproximateArrivalTimestamp", Node::Millis(millis))));
    members.extend(record.data.clone().map(|data| ("Data", Node::Bytes(data))));
    let key = record.partition_key.clone();
    members.extend(key.map(|key| ("PartitionKey", key.map_or(Node::Null, Node::Text))));
    members.extend(record.encryption_type.clone().map(|kind| ("EncryptionType", Node::Text(kind))));
    members.extend(record.unknown.map(|unknown| {
        let nested = Node::Map(vec![("Nested", Node::Array(vec![Node::Null, Node::Unsigned(unknown)]))]);
        ("Unknown", nested)
    }));
    rotated(members, record.rotation)
}

fn node(answer: &AnswerModel) -> Node {
    let mut members = vec![("Records", Node::Array(answer.records.iter().map(record_node).collect()))];
    members.extend(answer.next_iterator.clone().map(|next| ("NextShardIterator", Node::Text(next))));
    members.extend(answer.millis_behind_latest.map(|millis| ("MillisBehindLatest", Node::Integer(millis))));
    members.extend(answer.children.as_ref().map(|children| {
        let child = |(shard_id, parents, hash_key): &(String, Vec<String>, String)| {
            let range = vec![
                ("EndingHashKey", Node::Text(hash_key.clone())),
                ("StartingHashKey", Node::Text("0".into())),
            ];
            Node::Map(vec![
                ("ParentShards", Node::Array(parents.iter().cloned().map(Node::Text).collect())),
                ("HashKeyRange", Node::Map(range)),
                ("ShardId", Node::Text(shard_id.clone())),
            ])
        };
        ("ChildShards", Node::Array(children.iter().map(child).collect()))
    }));
    rotated(members, answer.rotation)
}

fn to_json(node: &Node, has_exponents: bool) -> String {
    match node {
        Node::Null => "null".to_owned(),
        Node::Integer(number) => number.to_string(),
        Node::Unsigned(number) => number.to_string(),
        Node::Millis(millis) if has_exponents => {
            let digits = millis.to_string();
            format!("{}.{}E{}", &digits[..1], &digits[1..], digits.len() - 4)
        }
        Node::Millis(millis) => format!("{}.{:03}", millis / 1000, millis % 1000),
        Node::Text(text) => Value::from(text.as_str()).to_string(),
        Node::Bytes(bytes) => format!("\"{}\"", STANDARD.encode_to_string(bytes)),
        Node::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| to_json(item, has_exponents)).collect();
            format!("[{}]", items.join(","))
        }
        Node::Map(members) => {
            let member =
                |(name, value): &(&str, Node)| format!("\"{name}\":{}", to_json(value, has_exponents));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
    }
}

/// Writes CBOR; each bit of `indefinite` in turn decides whether a length is indefinite.
struct CborWriter {
    out: Vec<u8>,
    indefinite: u64,
    has_chunks: bool,
}

impl CborWriter {
    fn is_indefinite(&mut self) -> bool {
        self.indefinite = self.indefinite.rotate_right(1);
        self.indefinite & 1 == 1
    }

    fn head(&mut self, major: u8, number: u64) {
        let major = major << 5;
        if let Ok(small @ 0..24) = u8::try_from(number) {
            self.out.push(major | small);
        } else if let Ok(number) = u8::try_from(number) {
            self.out.extend([major | 24, number]);
        } else if let Ok(number) = u16::try_from(number) {
            self.out.push(major | 25);
            self.out.extend(number.to_be_bytes());
        } else if let Ok(number) = u32::try_from(number) {
            self.out.push(major | 26);
            self.out.extend(number.to_be_bytes());
        } else {
            self.out.push(major | 27);
            self.out.extend(number.to_be_bytes());
        }
    }

    fn string(&mut self, major: u8, bytes: &[u8]) {
        // Chunks of text must end between characters, so split only ASCII.
        if self.has_chunks && bytes.is_ascii() && self.is_indefinite() {
            self.out.push(major << 5 | 31);
            for chunk in bytes.chunks(3) {
                self.head(major, chunk.len() as u64);
                self.out.extend(chunk);
            }
            self.out.push(0xff);
        } else {
            self.head(major, bytes.len() as u64);
            self.out.extend(bytes);
        }
    }

    /// Writes the head of an array or map, and returns whether it needs a break at the end.
    fn open(&mut self, major: u8, length: usize) -> bool {
        let is_indefinite = self.is_indefinite();
        if is_indefinite {
            self.out.push(major << 5 | 31);
        } else {
            self.head(major, length as u64);
        }
        is_indefinite
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Null => self.out.push(0xf6),
            Node::Integer(number) => self.head(0, number.unsigned_abs()),
            Node::Unsigned(number) => self.head(0, *number),
            Node::Millis(millis) => {
                self.head(6, 1);
                self.head(0, millis.unsigned_abs());
            }
            Node::Text(text) => self.string(3, text.as_bytes()),
            Node::Bytes(bytes) => self.string(2, bytes),
            Node::Array(items) => {
                let is_open = self.open(4, items.len());
                items.iter().for_each(|item| self.node(item));
                self.out.extend(is_open.then_some(0xff));
            }
            Node::Map(members) => {
                let is_open = self.open(5, members.len());
                for (name, value) in members {
                    self.head(3, name.len() as u64);
                    self.out.extend(name.as_bytes());
                    self.node(value);
                }
                self.out.extend(is_open.then_some(0xff));
            }
        }
    }
}

fn to_cbor(node: &Node, indefinite: u64, has_chunks: bool) -> Vec<u8> {
    let mut writer = CborWriter { out: Vec::new(), indefinite, has_chunks };
    writer.node(node);
    writer.out
}

/// Reads the answer with the SDK's parser, and with each of our decoders, first via the SDK and then directly.
async fn read_in_all_ways(cbor: Vec<u8>, json: Vec<u8>) -> [(&'static str, Result<Answer, CallError>); 5] {
    let server = Canned::default();
    *server.0.cbor.lock().unwrap() = cbor;
    *server.0.json.lock().unwrap() = json;
    let by_the_sdk = server.reader(GetRecordsFormat::Sdk).call("iterator", &mut pace()).await;
    let (in_json, in_cbor) = (server.reader(GetRecordsFormat::Json), server.reader(GetRecordsFormat::Cbor));
    let ways = [
        ("the SDK", by_the_sdk),
        ("JSON via the SDK", in_json.call("iterator", &mut pace()).await),
        ("JSON directly", in_json.call("iterator", &mut pace()).await),
        ("CBOR via the SDK", in_cbor.call("iterator", &mut pace()).await),
        ("CBOR directly", in_cbor.call("iterator", &mut pace()).await),
    ];
    assert_eq!(server.0.calls.load(Ordering::Relaxed), 5);
    assert_eq!(server.0.signed_by_the_sdk.load(Ordering::Relaxed), 3, "two of the calls are direct");
    ways
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn all_decoders_agree_on_generated_answers(model in answers()) {
        let node = node(&model);
        let cbor = to_cbor(&node, model.indefinite, model.has_chunks);
        let json = to_json(&node, model.has_exponents).into_bytes();
        let [(_, reference), ours @ ..] = block_on(read_in_all_ways(cbor, json));
        let reference = reference.unwrap();
        prop_assert_eq!(reference.records.len(), model.records.len());
        for (way, answer) in ours {
            prop_assert_eq!(&answer.unwrap(), &reference, "{}", way);
        }
    }
}

/// Bodies seen from servers or allowed by the format; the SDK's result is the expected one.
#[test]
fn all_decoders_agree_on_unusual_json() {
    let record = |members: Value| {
        let mut record = json!({ "SequenceNumber": "5", "Data": "aGVsbG8=", "PartitionKey": "k" });
        record.as_object_mut().unwrap().extend(members.as_object().cloned().unwrap_or_else(Map::new));
        json!({ "Records": [record], "NextShardIterator": "next", "MillisBehindLatest": 0 }).to_string()
    };
    for body in [
        record(json!({})),
        record(json!({ "PartitionKey": "" })),
        record(json!({ "PartitionKey": null })),
        record(json!({ "PartitionKey": "\u{1F600} \"quoted\" \\ \u{0}" })),
        record(json!({ "EncryptionType": "KMS" })),
        record(json!({ "EncryptionType": null, "New": { "deep": [[[1]]] } })),
        record(json!({ "ApproximateArrivalTimestamp": 1_700_000_000 })),
        record(json!({ "ApproximateArrivalTimestamp": 1_700_000_000.999 })),
        record(json!({ "ApproximateArrivalTimestamp": null })),
        record(json!({ "Data": "" })),
        r#"{"Records":[]}"#.to_owned(),
        r#"{"Records":[],"NextShardIterator":null,"MillisBehindLatest":0,"ChildShards":[]}"#.to_owned(),
        r#" { "Records" : [ ] , "NextShardIterator" : "\/\u0041" } "#.to_owned(),
        r#"{"Records":[{"Data":"aGVsbG8=","SequenceNumber":"1","SequenceNumber":"2"}]}"#.to_owned(),
        r#"{"Records":[{"Data":"\u0061GVs\/G8=","SequenceNumber":"1"}]}"#.to_owned(),
    ] {
        let [(_, reference), (_, via_sdk), (_, directly), ..] =
            block_on(read_in_all_ways(vec![0xa0], body.clone().into_bytes()));
        let reference = reference.unwrap();
        assert_eq!(via_sdk.unwrap(), reference, "{body}");
        assert_eq!(directly.unwrap(), reference, "{body}");
    }
}

#[test]
fn all_decoders_refuse_malformed_bodies() {
    for (cbor, json) in [
        (&b"\xa1\x67Records\x81\xa1"[..], &br#"{"Records":[{"#[..]),
        (b"\xa1\x67Records\x81\xa1\x6eSequenceNumber\x07", br#"{"Records":[{"SequenceNumber":7}]}"#),
        (b"\xa1\x67Records\x07", br#"{"Records":7}"#),
        (b"\xa0", b"{}"),
        (b"\xbf\xff", br#"{"NextShardIterator":"next"}"#),
        (b"\xa1\x67Records\x81\xa1\x6eSequenceNumber\x6201", br#"{"Records":[{"SequenceNumber":"01"}]}"#),
        (b"\xa1\x67Records\x81\xa0", br#"{"Records":[{}]}"#),
    ] {
        for (way, answer) in block_on(read_in_all_ways(cbor.to_vec(), json.to_vec())) {
            assert!(answer.is_err(), "{way}: {answer:?}");
        }
    }
}
