//! Messages to the child, in the field order and the spelling of the Java daemon.
//!
//! A message is appended to a buffer that the caller reuses. Payloads are encoded in place, so each one is copied once, by
//! the encoder. Children decode each JSON object by its `action`, so no message has another object inside it except records,
//! and each key is present even when its value is `null`.

use std::io::Write as _;

use base64_simd::STANDARD;

use super::checkpoint::{CheckpointFault, CheckpointRequest};
use super::json_text::{push_optional_string, push_string};

/// A message to the child other than `processRecords`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToChild<'a> {
    /// The first message: the shard, and the position where it starts.
    Initialize {
        /// The shard.
        shard_id: &'a str,
        /// A sequence number or the name of a sentinel, and the sub-sequence number. `None`: no position is known.
        position: Option<(&'a str, u64)>,
    },
    /// Another worker owns the shard, or this worker stops.
    LeaseLost,
    /// The shard was read to its end; the child must checkpoint.
    ShardEnded,
    /// This worker is about to stop; the child may checkpoint.
    ShutdownRequested,
    /// The answer to a checkpoint request.
    Checkpoint {
        /// The request, which is repeated.
        request: &'a CheckpointRequest,
        /// `None`: the checkpoint succeeded.
        error: Option<CheckpointFault>,
    },
}

impl ToChild<'_> {
    /// Appends the message and the end of its line.
    pub fn write(&self, line: &mut Vec<u8>) {
        match self {
            Self::Initialize { shard_id, position } => {
                line.extend_from_slice(br#"{"action":"initialize","shardId":"#);
                push_string(line, shard_id);
                line.extend_from_slice(br#","sequenceNumber":"#);
                push_optional_string(line, position.map(|(number, _)| number));
                line.extend_from_slice(br#","subSequenceNumber":"#);
                push_optional_integer(line, position.map(|(_, sub)| i128::from(sub)));
                line.push(b'}');
            }
            Self::LeaseLost => line.extend_from_slice(br#"{"action":"leaseLost"}"#),
            Self::ShardEnded => line.extend_from_slice(br#"{"action":"shardEnded"}"#),
            Self::ShutdownRequested => line.extend_from_slice(br#"{"action":"shutdownRequested"}"#),
            Self::Checkpoint { request, error } => {
                line.extend_from_slice(br#"{"action":"checkpoint","sequenceNumber":"#);
                push_optional_string(line, request.sequence_number.as_deref());
                line.extend_from_slice(br#","subSequenceNumber":"#);
                push_optional_integer(line, request.sub_sequence_number.map(i128::from));
                line.extend_from_slice(br#","error":"#);
                push_optional_string(line, error.map(CheckpointFault::word));
                line.push(b'}');
            }
        }
        line.push(b'\n');
    }
}

/// A record as the protocol transmits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildRecord<'a> {
    /// The payload.
    pub data: &'a [u8],
    /// The partition key; `None` in streams that distribute records by themselves.
    pub partition_key: Option<&'a str>,
    /// The sequence number, the same for all records of an aggregate.
    pub sequence_number: &'a str,
    /// Milliseconds since 1970. Python children cannot read `null`, so there is no way to leave it out.
    pub arrival_millis: i64,
    /// The index inside an aggregate, 0 for a plain record.
    pub sub_sequence_number: u64,
}

/// Appends a `processRecords` message and the end of its line.
pub fn write_process_records<'a>(
    line: &mut Vec<u8>,
    records: impl IntoIterator<Item = ChildRecord<'a>, IntoIter: Clone>,
    millis_behind_latest: Option<u64>,
) {
    let records = records.into_iter();
    // A buffer that grows on the way would copy the encoded payloads again.
    line.reserve(BATCH_BYTES + records.clone().map(|record| record_bytes(&record)).sum::<usize>());
    line.extend_from_slice(br#"{"action":"processRecords","records":["#);
    for (index, record) in records.enumerate() {
        if index > 0 {
            line.push(b',');
        }
        write_record(line, &record);
    }
    line.extend_from_slice(br#"],"millisBehindLatest":"#);
    push_optional_integer(line, millis_behind_latest.map(i128::from));
    line.extend_from_slice(b"}\n");
}

/// The bytes of a batch without its records, at most.
const BATCH_BYTES: usize = 96;

/// The bytes of a record without its payload, partition key and sequence number, at most.
const RECORD_BYTES: usize = 192;

/// The bytes of a record; more if its partition key has characters that are escaped.
fn record_bytes(record: &ChildRecord<'_>) -> usize {
    let key = record.partition_key.map_or(0, str::len);
    STANDARD.encoded_length(record.data.len()) + key + record.sequence_number.len() + RECORD_BYTES
}

fn write_record(line: &mut Vec<u8>, record: &ChildRecord<'_>) {
    line.extend_from_slice(br#"{"data":""#);
    STANDARD.encode_append(record.data, line);
    line.extend_from_slice(br#"","partitionKey":"#);
    push_optional_string(line, record.partition_key);
    line.extend_from_slice(br#","sequenceNumber":"#);
    push_string(line, record.sequence_number);
    line.extend_from_slice(br#","approximateArrivalTimestamp":"#);
    push_integer(line, i128::from(record.arrival_millis));
    line.extend_from_slice(br#","subSequenceNumber":"#);
    push_integer(line, i128::from(record.sub_sequence_number));
    line.extend_from_slice(br#","action":"record"}"#);
}

fn push_integer(line: &mut Vec<u8>, integer: i128) {
    // Writing to a vector does not fail.
    let _ = write!(line, "{integer}");
}

fn push_optional_integer(line: &mut Vec<u8>, integer: Option<i128>) {
    match integer {
        Some(integer) => push_integer(line, integer),
        None => line.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &ToChild<'_>) -> String {
        let mut line = Vec::new();
        message.write(&mut line);
        String::from_utf8(line).unwrap()
    }

    fn request(sequence_number: &str, sub_sequence_number: Option<i64>) -> CheckpointRequest {
        CheckpointRequest { sequence_number: Some(sequence_number.to_owned()), sub_sequence_number }
    }

    #[test]
    fn messages_equal_those_of_the_java_daemon() {
        let shard_id = "shardId-000000000000";
        let lines = [
            (
                line(&ToChild::Initialize { shard_id, position: Some(("TRIM_HORIZON", 0)) }),
                r#"{"action":"initialize","shardId":"shardId-000000000000","sequenceNumber":"TRIM_HORIZON","subSequenceNumber":0}"#,
            ),
            (
                line(&ToChild::Initialize { shard_id, position: None }),
                r#"{"action":"initialize","shardId":"shardId-000000000000","sequenceNumber":null,"subSequenceNumber":null}"#,
            ),
            (
                line(&ToChild::Checkpoint { request: &request("2", Some(0)), error: None }),
                r#"{"action":"checkpoint","sequenceNumber":"2","subSequenceNumber":0,"error":null}"#,
            ),
            (
                line(&ToChild::Checkpoint {
                    request: &request("S", None),
                    error: Some(CheckpointFault::Shutdown),
                }),
                r#"{"action":"checkpoint","sequenceNumber":"S","subSequenceNumber":null,"error":"ShutdownException"}"#,
            ),
            (line(&ToChild::ShutdownRequested), r#"{"action":"shutdownRequested"}"#),
            (line(&ToChild::LeaseLost), r#"{"action":"leaseLost"}"#),
            (line(&ToChild::ShardEnded), r#"{"action":"shardEnded"}"#),
        ];
        for (written, expected) in lines {
            assert_eq!(written, format!("{expected}\n"));
        }
    }

    #[test]
    fn records_equal_those_of_the_java_daemon() {
        let number = "49590338271490256608559692538361571095921575989136588898";
        let record = ChildRecord {
            data: &[0x00, 0xFF, 0x68, 0x69, 0x0A],
            partition_key: Some("k1"),
            sequence_number: number,
            arrival_millis: 1_476_889_707_123,
            sub_sequence_number: 2,
        };
        let mut line = Vec::new();
        write_process_records(&mut line, [record], Some(1234));
        let expected = r#"{"action":"processRecords","records":[{"data":"AP9oaQo=","partitionKey":"k1","sequenceNumber":"49590338271490256608559692538361571095921575989136588898","approximateArrivalTimestamp":1476889707123,"subSequenceNumber":2,"action":"record"}],"millisBehindLatest":1234}"#;
        assert_eq!(String::from_utf8(line).unwrap(), format!("{expected}\n"));

        let mut empty = Vec::new();
        write_process_records(&mut empty, [], None);
        assert_eq!(empty, b"{\"action\":\"processRecords\",\"records\":[],\"millisBehindLatest\":null}\n");
    }

    #[test]
    fn buffer_of_a_batch_is_allocated_once() {
        let payload = [7; 1000];
        let record = ChildRecord {
            data: &payload,
            partition_key: Some("a partition key"),
            sequence_number: "49590338271490256608559692538361571095921575989136588898",
            arrival_millis: i64::MIN,
            sub_sequence_number: u64::MAX,
        };
        let records = [record; 50];
        let mut line = Vec::with_capacity(BATCH_BYTES + records.iter().map(record_bytes).sum::<usize>());
        let (address, capacity) = (line.as_ptr(), line.capacity());
        write_process_records(&mut line, records, Some(u64::MAX));
        assert_eq!((line.as_ptr(), line.capacity()), (address, capacity));
        assert!(line.len() > 50 * 1334);
    }

    #[test]
    fn empty_payload_is_an_empty_string() {
        let record = ChildRecord {
            data: b"",
            partition_key: None,
            sequence_number: "1",
            arrival_millis: 0,
            sub_sequence_number: 0,
        };
        let mut line = Vec::new();
        write_process_records(&mut line, [record, record], Some(0));
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["records"][1]["data"], "");
        assert_eq!(json["records"][1]["partitionKey"], serde_json::Value::Null);
    }
}
