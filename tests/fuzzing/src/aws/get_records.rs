//! Answers of `GetRecords`, in CBOR or JSON. They cause no panic, claim memory in proportion to the body, and are
//! refused with a clear error. An accepted answer survives a round trip through JSON, and equals the SDK's reading of
//! the same JSON body.

use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::types::ChildShard;
use base64_simd::STANDARD;
use kinesis_asl::internals::{WholeAnswer, read_whole};
use lease_store::SequenceNumber;
use serde_json::{Value, json};
use shard_worker::Record;

use super::sdk_parser;
use crate::target::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "get_records",
    check,
    tokens: &[
        b"null",
        b"[]",
        b"{}",
        b"\"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"\\u0061",
        b"\\ud83d\\ude00",
        b"1.7E9",
        b"-1",
        b"9223372036854775808",
        b"\"Records\":",
        b"\"Data\":",
        b"\"SequenceNumber\":",
        b"\"PartitionKey\":",
        b"\"ApproximateArrivalTimestamp\":",
        b"\"ChildShards\":",
        b"\x67Records",
        b"\x64Data",
        b"\x6eSequenceNumber",
        b"\x6cPartitionKey",
        b"\xf6",
        b"\xff",
        b"\x9f",
        b"\xbf",
        b"\x5f",
        b"\x7f",
        b"\xc1",
        b"\xfb",
        b"\xa0",
        b"\x80",
        b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
    ],
};

/// Most bytes of memory for each byte of a body: the smallest record is `{}` and a comma.
const MAX_BYTES_PER_BYTE: u64 = 160;

/// Most bytes of memory independent of the body.
const MAX_FIXED_BYTES: u64 = 16 * 1024;

/// Most records of an answer.
const MAX_RECORDS: usize = 1 << 16;

/// Largest difference between the two readings of a time: one rounds to the millisecond, the other keeps a
/// floating-point number.
const TIME_TOLERANCE: Duration = Duration::from_millis(1);

fn check(input: &[u8]) -> Reading {
    let body = input.to_vec();
    let mut read = None;
    let claimed = allocation_counter::measure(|| read = Some(read_whole(body)));
    let bound = input.len() as u64 * MAX_BYTES_PER_BYTE + MAX_FIXED_BYTES;
    assert!(claimed.bytes_max <= bound, "a body of {} bytes allocates {claimed:?}", input.len());
    let answer = match read.expect("the body was not read") {
        Ok(answer) => answer,
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("GetRecords") || message.contains("sequence number"), "{message}");
            return Reading::Refused;
        }
    };
    check_answer(&answer, input.len());
    let again = read_whole(written(&answer)).expect("cannot read the written answer");
    assert_eq!(again, answer, "the answer changes in a round trip");
    if !matches!(input.first(), Some(0xa0..=0xbf))
        && let Some(output) = sdk_parser::read(input)
    {
        compare(&answer, &output);
    }
    Reading::Accepted
}

fn check_answer(answer: &WholeAnswer, body_bytes: usize) {
    assert!(answer.records.len() <= MAX_RECORDS);
    let held = |record: &Record| record.data.len() + record.partition_key.as_ref().map_or(0, |key| key.len());
    assert!(
        answer.records.iter().map(held).sum::<usize>() <= body_bytes,
        "the records hold more bytes than the body"
    );
    for record in &answer.records {
        let number = SequenceNumber::new(record.sequence_number.as_str().to_owned());
        assert_eq!(number.ok().as_ref(), Some(&record.sequence_number));
        assert_eq!(record.sub_sequence_number, 0);
        assert!(
            record.partition_key.as_ref().is_none_or(|key| !key.is_empty()),
            "an absent partition key is read as an empty one"
        );
    }
}

/// Formats the answer as JSON, as AWS does.
fn written(answer: &WholeAnswer) -> Vec<u8> {
    let records: Vec<String> = answer.records.iter().map(record).collect();
    let children: Value = answer.children.iter().map(child).collect();
    let next = json!(answer.next_iterator);
    let behind = json!(answer.millis_behind_latest);
    format!(
        "{{\"Records\":[{}],\"NextShardIterator\":{next},\"MillisBehindLatest\":{behind},\"ChildShards\":{children}}}",
        records.join(",")
    )
    .into_bytes()
}

fn record(record: &Record) -> String {
    let number = json!(record.sequence_number.as_str());
    let data = json!(STANDARD.encode_to_string(&record.data));
    let key = json!(record.partition_key.as_deref());
    let time = record.approximate_arrival.map_or_else(|| "null".to_owned(), seconds);
    format!(
        "{{\"SequenceNumber\":{number},\"Data\":{data},\"PartitionKey\":{key},\"ApproximateArrivalTimestamp\":{time}}}"
    )
}

/// Formats a time as seconds with an exact fraction. A floating-point number would be rounded.
fn seconds(time: SystemTime) -> String {
    let (sign, distance) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => ("", after),
        Err(before) => ("-", before.duration()),
    };
    format!("{sign}{}.{:03}", distance.as_secs(), distance.subsec_millis())
}

fn child(child: &ChildShard) -> Value {
    let range = child.hash_key_range().map(|range| {
        json!({ "StartingHashKey": range.starting_hash_key(), "EndingHashKey": range.ending_hash_key() })
    });
    json!({ "ShardId": child.shard_id(), "ParentShards": child.parent_shards(), "HashKeyRange": range })
}

/// Compares two accepted readings of the same body.
fn compare(ours: &WholeAnswer, sdk: &GetRecordsOutput) {
    assert_eq!(ours.next_iterator.as_deref(), sdk.next_shard_iterator());
    assert_eq!(ours.millis_behind_latest, sdk.millis_behind_latest());
    assert_eq!(ours.children, sdk.child_shards());
    assert_eq!(ours.records.len(), sdk.records().len());
    for (ours, sdk) in ours.records.iter().zip(sdk.records()) {
        assert_eq!(ours.sequence_number.as_str(), sdk.sequence_number());
        assert_eq!(ours.data, sdk.data().as_ref());
        assert_eq!(ours.partition_key.as_deref(), sdk.partition_key().filter(|key| !key.is_empty()));
        let sdk_time = sdk.approximate_arrival_timestamp().and_then(|time| SystemTime::try_from(*time).ok());
        if let (Some(ours), Some(sdk)) = (ours.approximate_arrival, sdk_time) {
            let apart = ours.duration_since(sdk).unwrap_or_else(|error| error.duration());
            assert!(apart <= TIME_TOLERANCE, "{ours:?} and {sdk:?}");
        }
    }
}
