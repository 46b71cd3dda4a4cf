//! Answers that say nothing, in the middle of a shard: none of them is its end.

use std::sync::atomic::{AtomicUsize, Ordering};

use kinesis_asl::{GetRecordsFormat, KinesisStream};
use lease_store::ShardId;
use serde_json::{Value, json};
use shard_worker::{FetchedBatch, ReadFrom, RecordSource, ShardEnd, SourceErrorKind, StreamSource as _};

use crate::support::fan_out::{
    SHARD, after, default_answer, open, read, records, session, shards, starting_position,
};
use crate::support::scripted::{Answer, Part, ScriptedKinesis, event, record};
use crate::support::{CannedKinesis, STREAM, every_format, ok};

/// The records of the shard, one in each answer.
const RECORDS: u64 = 100;

/// The index of the answer that is odd, from 0.
const ODD: usize = 9;

/// More reads than any of these tests needs.
const MAX_READS: usize = 400;

/// The real state of the shard, which an odd answer contradicts.
#[derive(Debug, Clone, Copy)]
struct ShardModel {
    is_closed: bool,
    names_children: bool,
}

const CLOSED: ShardModel = ShardModel { is_closed: true, names_children: true };
const CLOSED_WITHOUT_CHILDREN: ShardModel = ShardModel { is_closed: true, names_children: false };
const OPEN: ShardModel = ShardModel { is_closed: false, names_children: false };

/// The number of the last record before the position of an iterator request.
fn position_of(request: &Value) -> u64 {
    let number = request["StartingSequenceNumber"].as_str().and_then(|number| number.parse().ok());
    match (request["ShardIteratorType"].as_str(), number) {
        (Some("AFTER_SEQUENCE_NUMBER"), Some(number)) => number,
        (Some("AT_SEQUENCE_NUMBER"), Some(number)) => number - 1,
        _ => 0,
    }
}

fn child() -> Value {
    json!({
        "ShardId": ShardId::numbered(1).as_str(),
        "ParentShards": [SHARD],
        "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "9" },
    })
}

/// The correct answer to a read at an iterator, for a shard with this many records.
fn right_answer(model: ShardModel, records: u64, request: &Value) -> Value {
    let done: u64 = request["ShardIterator"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut answer = json!({ "Records": [], "MillisBehindLatest": 0 });
    let next = (done + 1).min(records);
    if next > done {
        answer["Records"] = json!([record(next)]);
    }
    if next < records || !model.is_closed {
        answer["NextShardIterator"] = json!(next.to_string());
    } else if model.names_children {
        answer["ChildShards"] = json!([child()]);
    }
    answer
}

/// A shard of 100 records whose answers with these indices are replaced.
fn service(
    model: ShardModel,
    odd: impl Fn(usize) -> Option<Answer> + Send + Sync + 'static,
) -> ScriptedKinesis {
    let reads = AtomicUsize::new(0);
    ScriptedKinesis::new(move |operation, request| match operation {
        "GetShardIterator" => Answer::Json(200, json!({ "ShardIterator": position_of(request).to_string() })),
        "GetRecords" => odd(reads.fetch_add(1, Ordering::Relaxed))
            .unwrap_or_else(|| Answer::SameEncoding(right_answer(model, RECORDS, request))),
        "ListShards" => shards(model.is_closed),
        _ => default_answer(operation),
    })
}

async fn reader(server: &ScriptedKinesis, format: GetRecordsFormat) -> Box<dyn RecordSource> {
    let stream = KinesisStream::from_client(server.client(), STREAM).with_get_records_format(format);
    stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap()
}

/// Reads to the end of the shard, or until nothing is left: the records and the end. Errors must be retryable.
async fn read_all(reader: &mut dyn RecordSource, records: u64) -> (Vec<u64>, Option<ShardEnd>) {
    let mut numbers = Vec::new();
    for _ in 0..MAX_READS {
        let batch = match reader.next_batch().await {
            Ok(batch) => batch,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                continue;
            }
        };
        let FetchedBatch { records: read, shard_end, .. } = batch;
        numbers.extend(read.iter().map(|record| record.sequence_number.as_str().parse::<u64>().unwrap()));
        if shard_end.is_some() {
            return (numbers, shard_end);
        }
        if numbers.len() as u64 >= records && read.is_empty() {
            return (numbers, None);
        }
    }
    panic!("neither all records nor the end after {MAX_READS} reads: {numbers:?}");
}

/// Bodies without records, iterator and children, in JSON and in CBOR.
fn silent_bodies() -> [&'static [u8]; 5] {
    [
        b"{}",
        br#"{"TableNames":["orders"],"LastEvaluatedTableName":"orders"}"#,
        b"\xa0",
        b"\xbf\xff",
        b"\xa1\x72MillisBehindLatest\x00",
    ]
}

fn children_of(end: Option<ShardEnd>) -> Option<Vec<String>> {
    let end = end?;
    Some(end.children.iter().map(|child| child.shard_id.to_string()).collect())
}

#[tokio::test(start_paused = true)]
async fn body_without_records_does_not_end_a_closed_shard() {
    for format in every_format() {
        for body in silent_bodies() {
            let is_json = body.starts_with(b"{");
            if format == GetRecordsFormat::Sdk && !is_json {
                continue;
            }
            let server = service(CLOSED, move |read| (read == ODD).then(|| Answer::Bytes(body.to_vec())));
            let mut reader = reader(&server, format).await;
            let (numbers, end) = read_all(&mut *reader, RECORDS).await;
            assert_eq!(numbers, (1..=RECORDS).collect::<Vec<_>>(), "{body:?}");
            assert_eq!(children_of(end), Some(vec!["shardId-000000000001".to_owned()]));
            assert_eq!(server.requests("ListShards").len(), 0, "children name the end");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn body_without_records_is_malformed_in_every_format() {
    for format in every_format() {
        let server = service(OPEN, |_| Some(Answer::Bytes(b"{\"NextShardIterator\":\"1\"}".to_vec())));
        let error = reader(&server, format).await.next_batch().await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        let chain = format!("{error}");
        assert!(chain.contains("Records"), "{chain}");
    }
}

#[tokio::test(start_paused = true)]
async fn answer_without_continuation_does_not_end_a_shard() {
    for format in every_format() {
        for model in [CLOSED, CLOSED_WITHOUT_CHILDREN, OPEN] {
            // Two answers are odd: the proof after the first one must not count for the second one.
            let server = service(model, |read| {
                [ODD, 40].contains(&read).then(|| Answer::SameEncoding(json!({ "Records": [] })))
            });
            let mut reader = reader(&server, format).await;
            let (numbers, end) = read_all(&mut *reader, RECORDS).await;
            assert_eq!(numbers, (1..=RECORDS).collect::<Vec<_>>(), "{model:?}");
            assert_eq!(end.is_some(), model.is_closed);
            let children = end.map_or(0, |end| end.children.len());
            assert_eq!(children, usize::from(model.names_children));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn end_without_children_is_proven_by_listing_and_read() {
    for format in every_format() {
        let server = service(CLOSED_WITHOUT_CHILDREN, |_| None);
        let mut reader = reader(&server, format).await;
        let (numbers, end) = read_all(&mut *reader, RECORDS).await;
        assert_eq!((numbers.len() as u64, end), (RECORDS, Some(ShardEnd::new(Vec::new()))));
        // The listing comes first: a read after it cannot miss a record that is added before the shard is closed.
        let (listed, read) = (server.requests("ListShards"), server.requests("GetRecords"));
        assert_eq!((listed.len(), read.len() as u64), (1, RECORDS + 1));
        assert!(listed[0].at <= read[read.len() - 1].at && listed[0].at >= read[read.len() - 2].at);
        let again = reader.next_batch().await.unwrap();
        assert_eq!(again.shard_end, Some(ShardEnd::new(Vec::new())));
        assert_eq!(server.requests("ListShards").len(), 1);
    }
}

/// As seen in hampsterx/async-kinesis#29: the member is absent, and the lag is above an hour.
#[tokio::test(start_paused = true)]
async fn lag_of_the_last_answers_does_not_hide_the_end() {
    for format in every_format() {
        let server = ScriptedKinesis::new(|operation, request| match operation {
            "GetRecords" => {
                let mut answer = right_answer(CLOSED_WITHOUT_CHILDREN, 3, request);
                answer["MillisBehindLatest"] = json!(4_358_000);
                Answer::SameEncoding(answer)
            }
            "GetShardIterator" => {
                Answer::Json(200, json!({ "ShardIterator": position_of(request).to_string() }))
            }
            "ListShards" => shards(true),
            _ => default_answer(operation),
        });
        let mut reader = reader(&server, format).await;
        let (numbers, end) = read_all(&mut *reader, 3).await;
        assert_eq!((numbers, children_of(end)), (vec![1, 2, 3], Some(Vec::new())));
    }
}

#[tokio::test(start_paused = true)]
async fn records_without_continuation_are_kept_on_an_open_shard() {
    for format in every_format() {
        let server = service(OPEN, |read| {
            (read == ODD).then(|| Answer::SameEncoding(json!({ "Records": [record(10)] })))
        });
        let mut reader = reader(&server, format).await;
        let (numbers, end) = read_all(&mut *reader, RECORDS).await;
        assert_eq!((numbers, end), ((1..=RECORDS).collect::<Vec<_>>(), None));
    }
}

/// The same over a real socket, with fewer records since the pace is real.
#[tokio::test]
async fn odd_answer_over_the_wire_loses_nothing() {
    const FEW: u64 = 6;
    for format in every_format() {
        let reads = std::sync::Arc::new(AtomicUsize::new(0));
        let server = CannedKinesis::start(move |operation, request| match operation {
            "GetShardIterator" => ok(&json!({ "ShardIterator": position_of(request).to_string() })),
            "ListShards" => {
                let range = json!({ "StartingHashKey": "0", "EndingHashKey": "9" });
                let numbers = json!({ "StartingSequenceNumber": "1", "EndingSequenceNumber": "9" });
                ok(&json!({ "Shards": [{ "ShardId": SHARD, "HashKeyRange": range, "SequenceNumberRange": numbers }] }))
            }
            _ => match reads.fetch_add(1, Ordering::Relaxed) {
                2 => ok(&json!({})),
                4 => ok(&json!({ "Records": [] })),
                _ => ok(&right_answer(CLOSED, FEW, request)),
            },
        })
        .await;
        let stream = KinesisStream::from_client(server.client(), STREAM).with_get_records_format(format);
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        let (numbers, end) = read_all(&mut *reader, FEW).await;
        assert_eq!(numbers, (1..=FEW).collect::<Vec<_>>());
        assert_eq!(children_of(end), Some(vec!["shardId-000000000001".to_owned()]));
    }
}

/// A subscription to a closed shard of three records, whose first event has neither continuation nor children.
#[tokio::test(start_paused = true)]
async fn event_without_continuation_does_not_end_a_shard() {
    for with_record in [true, false] {
        let count = AtomicUsize::new(0);
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "ListShards" => shards(true),
            "SubscribeToShard" => match (count.fetch_add(1, Ordering::Relaxed), with_record) {
                (0, true) => session([Part::Event(event(&[1], None, &[])), Part::Hang]),
                (0, false) => session([records(&[1]), Part::Event(event(&[], None, &[])), Part::Hang]),
                _ => session([
                    records(&[2]),
                    Part::Event(event(&[3], None, &["shardId-000000000001"])),
                    Part::Hang,
                ]),
            },
            _ => default_answer(operation),
        });
        let mut source = open(&server, ReadFrom::TrimHorizon).await;
        let (numbers, end) = read_all(&mut *source, 3).await;
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(children_of(end), Some(vec!["shardId-000000000001".to_owned()]));
        assert_eq!(starting_position(&server, 1), after(1));
    }
}

#[tokio::test(start_paused = true)]
async fn fan_out_end_without_children_is_proven_twice() {
    let count = AtomicUsize::new(0);
    let server = ScriptedKinesis::new(move |operation, _| match operation {
        "ListShards" => shards(true),
        "SubscribeToShard" => match count.fetch_add(1, Ordering::Relaxed) {
            0 => session([records(&[1]), Part::Event(event(&[2], None, &[])), Part::Hang]),
            _ => session([Part::Event(event(&[], None, &[])), Part::Hang]),
        },
        _ => default_answer(operation),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let (numbers, end) = read_all(&mut *source, 2).await;
    assert_eq!((numbers, end), (vec![1, 2], None), "the listing comes before the end");
    let end = loop {
        if let Some(end) = read(&mut *source).await.unwrap().shard_end {
            break end;
        }
    };
    assert_eq!(end, ShardEnd::new(Vec::new()));
    assert_eq!((server.requests("ListShards").len(), server.requests("SubscribeToShard").len()), (1, 2));
    assert_eq!(starting_position(&server, 1), after(2));
}
