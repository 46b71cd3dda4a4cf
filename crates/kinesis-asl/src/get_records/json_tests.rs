//! JSON bodies: recorded, unusual, malformed and random ones.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

/// An answer with spaces, a different member order in each record, and times in both notations.
const RECORDED: &str = r#"{
  "MillisBehindLatest" : 1500, "Odd": [1, {"a": [null, true, -1.5e3, "\u00e9\""]}],
  "Records": [
    {"SequenceNumber":"1","ApproximateArrivalTimestamp":1700000000.123,"Data":"aGVsbG8=","PartitionKey":"key"},
    {"Data": "aGVs\/GFs", "PartitionKey": "\u00e9\ud83d\ude00\n\"", "ApproximateArrivalTimestamp": 1.441215410867E9,
     "SequenceNumber": "2", "EncryptionType": "KMS"},
    {"EncryptionType":null,"PartitionKey":null,"Data":"","SequenceNumber":"3","New":{}}
  ],
  "NextShardIterator": "a\/b", "ChildShards": null }"#;

fn decoded(body: &[u8]) -> Result<Answer, DecodeError> {
    decode(body.to_vec())
}

fn fault(body: &[u8]) -> Malformed {
    match decoded(body) {
        Err(DecodeError::Malformed(malformed)) => malformed,
        other => panic!("{other:?}"),
    }
}

fn since_1970(millis: u64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

#[test]
fn recorded_answer_is_decoded_in_any_member_order() {
    let answer = decoded(RECORDED.as_bytes()).unwrap();
    assert_eq!(answer.millis_behind_latest, Some(1500));
    assert_eq!(answer.next_iterator.as_deref(), Some("a/b"));
    let [first, second, third] = answer.records.as_slice() else { panic!("three records") };
    assert_eq!((first.sequence_number.as_str(), &first.data[..]), ("1", &b"hello"[..]));
    assert_eq!(
        (first.partition_key.as_deref(), first.approximate_arrival),
        (Some("key"), since_1970(1_700_000_000_123))
    );
    assert_eq!((second.sequence_number.as_str(), &second.data[..]), ("2", &b"hel\xfcal"[..]));
    assert_eq!(second.partition_key.as_deref(), Some("é😀\n\""));
    assert_eq!(second.approximate_arrival, since_1970(1_441_215_410_867));
    assert_eq!((third.partition_key.clone(), third.data.len(), third.approximate_arrival), (None, 0, None));
}

#[test]
fn every_truncation_is_malformed_with_its_offset() {
    for length in 0..RECORDED.len() {
        let malformed = fault(&RECORDED.as_bytes()[..length]);
        assert!(malformed.offset <= length, "{malformed}");
    }
    assert!(
        fault(b"{\"Records\":[{]}").to_string().contains("GetRecords answer in JSON is malformed at byte 13")
    );
}

#[test]
fn invalid_bodies_are_malformed() {
    for body in [
        &b"null"[..],
        b"[]",
        b"{}",
        b"{\"Record\":[]}",
        b"{\"Records\":[]} x",
        b"{\"Records\":{}}",
        b"{\"Records\":[null]}",
        b"{\"Records\":[{\"Data\":\"a\"}]}",
        b"{\"Records\":[{\"Data\":\"a*==\"}]}",
        b"{\"Records\":[{\"Data\":5}]}",
        b"{\"Records\":[{\"SequenceNumber\":\"1\",\"PartitionKey\":\"\\ud83d\"}]}",
        b"{\"Records\":[{\"SequenceNumber\":\"1\",\"PartitionKey\":\"\\ud83d\\u0041\"}]}",
        b"{\"Records\":[{\"SequenceNumber\":\"1\",\"PartitionKey\":\"\\x\"}]}",
        b"{\"Records\":[{\"SequenceNumber\":\"1\",\"PartitionKey\":\"\xff\"}]}",
        b"{\"MillisBehindLatest\":\"1\"}",
        b"{\"a\":tru}",
    ] {
        fault(body);
    }
    let deep = format!("{{\"a\":{}", "[".repeat(100));
    assert!(fault(deep.as_bytes()).fault.contains("too deeply"));
    assert!(matches!(
        decoded(b"{\"Records\":[{\"SequenceNumber\":\"0x2\"}]}"),
        Err(DecodeError::SequenceNumber(_))
    ));
}

#[test]
fn number_of_records_is_bounded() {
    let body = format!("{{\"Records\":[{}{{}}]}}", "{},".repeat(MAX_RECORDS));
    assert_eq!(fault(body.as_bytes()).fault, "too many records");
}

#[test]
fn iterator_is_escaped_in_requests() {
    assert_eq!(request("a\"b\\c\n", None, None), br#"{"ShardIterator":"a\"b\\c\u000a"}"#);
    assert_eq!(
        request("ab", Some(5000), Some("arn:x")),
        br#"{"ShardIterator":"ab","Limit":5000,"StreamARN":"arn:x"}"#
    );
    assert_eq!(request("ab", Some(5000), None), br#"{"ShardIterator":"ab","Limit":5000}"#);
}

#[test]
fn refusal_is_decoded() {
    let body = br#"{"__type":"com.amazonaws.kinesis#ExpiredIteratorException","message":"old","x":1}"#;
    let (code, message) = refusal(body.to_vec()).unwrap();
    assert_eq!(code.as_deref(), Some("com.amazonaws.kinesis#ExpiredIteratorException"));
    assert_eq!(message.as_deref(), Some("old"));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_panic(body: Vec<u8>) {
        let _ = decoded(&body);
        let _ = refusal(body);
    }

    #[test]
    fn mutated_answers_are_decoded_without_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut body = RECORDED.as_bytes().to_vec();
        for (index, byte) in changes {
            let index = index.index(body.len());
            body[index] = byte;
        }
        let _ = decoded(&body);
    }

    #[test]
    fn strings_survive_any_escaping(text: String, mask: u64) {
        let mut written = String::new();
        for (index, character) in text.chars().enumerate() {
            if mask >> (index % 64) & 1 == 1 || matches!(character, '"' | '\\') {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    written += &format!("\\u{unit:04X}");
                }
            } else {
                written.push(character);
            }
        }
        let answer = decoded(format!("{{\"Records\":[],\"NextShardIterator\":\"{written}\"}}").as_bytes()).unwrap();
        prop_assert_eq!(answer.next_iterator, Some(text));
    }
}
