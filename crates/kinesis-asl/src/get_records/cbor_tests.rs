//! CBOR bodies: recorded, unusual, malformed and random ones.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

/// A hand-written answer in the form of AWS: indefinite maps and arrays, tagged times, byte strings.
fn recorded() -> Vec<u8> {
    let mut body = vec![0xbf];
    body.extend(b"\x67Records\x9f\xbf");
    body.extend(b"\x6eSequenceNumber\x62\x34\x32");
    body.extend(b"\x78\x1bApproximateArrivalTimestamp\xc1\x1b\x00\x00\x01\x8b\xcf\xe5\x68\x7b");
    body.extend(b"\x64Data\x45hello");
    body.extend(b"\x6cPartitionKey\x63key");
    body.extend(b"\x6eEncryptionType\x64NONE\xff\xff");
    body.extend(b"\x71NextShardIterator\x64next");
    body.extend(b"\x72MillisBehindLatest\x19\x05\xdc\xff");
    body
}

fn decoded(body: &[u8]) -> Result<Answer, DecodeError> {
    decode(&Bytes::copy_from_slice(body))
}

fn fault(body: &[u8]) -> Malformed {
    match decoded(body) {
        Err(DecodeError::Malformed(malformed)) => malformed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn recorded_answer_is_decoded_without_copies() {
    let body = Bytes::from(recorded());
    let answer = decode(&body).unwrap();
    assert_eq!(answer.next_iterator.as_deref(), Some("next"));
    assert_eq!(answer.millis_behind_latest, Some(1500));
    let record = &answer.records[0];
    assert_eq!(record.sequence_number.as_str(), "42");
    assert_eq!(record.partition_key.as_deref(), Some("key"));
    let arrival = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    assert_eq!(record.approximate_arrival, Some(arrival));
    assert_eq!(&record.data[..], b"hello");
    assert!(body.as_ptr_range().contains(&record.data.as_ptr()), "the payload was copied");
    assert!(body.as_ptr_range().contains(&record.sequence_number.as_str().as_ptr()));
}

#[test]
fn common_record_reads_the_form_of_aws() {
    let body = Bytes::from(recorded());
    let mut reader = Reader { body: &body, at: b"\xbf\x67Records\x9f".len() };
    let (common, end) = common_record(&body, reader.at).expect("the record has the form of AWS");
    assert_eq!(reader.general_record().unwrap(), common);
    assert_eq!(reader.at, end);
}

/// The members of a record in any order and number, with lengths and heads of any width.
fn written_records() -> impl Strategy<Value = Vec<u8>> {
    fn string(major: u8, bytes: &[u8], width: usize) -> Vec<u8> {
        let mut out = match (width, u8::try_from(bytes.len())) {
            (0, Ok(length @ 0..=23)) => vec![major | length],
            (0 | 1, Ok(length)) => vec![major | 24, length],
            (0..=2, _) => [&[major | 25][..], &u16::try_from(bytes.len()).unwrap().to_be_bytes()].concat(),
            _ => [&[major | 26][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes()].concat(),
        };
        out.extend(bytes);
        out
    }
    let member = (0..5_usize, 0..4_usize, "[0-9a-z]{0,40}", 0..4_000_000_000_000_u64).prop_map(
        |(name, width, text, millis)| match name {
            0 => [b"\x6eSequenceNumber", &string(0x60, text.as_bytes(), width)[..]].concat(),
            1 => [&b"\x64Data"[..], &string(0x40, text.as_bytes(), width)].concat(),
            2 => [&b"\x6cPartitionKey"[..], &string(0x60, text.as_bytes(), width)].concat(),
            3 => [&b"\x6eEncryptionType"[..], &string(0x60, text.as_bytes(), width)].concat(),
            _ => [&b"\x78\x1bApproximateArrivalTimestamp\xc1\x1b"[..], &millis.to_be_bytes()].concat(),
        },
    );
    (proptest::collection::vec(member, 0..8), any::<bool>()).prop_map(|(members, is_indefinite)| {
        let head = if is_indefinite { 0xbf } else { 0xa0 | u8::try_from(members.len()).unwrap() };
        let mut out = vec![head];
        members.iter().for_each(|member| out.extend(member));
        out.extend(is_indefinite.then_some(BREAK));
        out
    })
}

#[test]
fn every_truncation_is_malformed_with_its_offset() {
    let body = recorded();
    for length in 0..body.len() {
        let malformed = fault(&body[..length]);
        assert!(malformed.offset <= length, "{malformed}");
        assert_eq!(malformed.encoding, Some(Encoding::Cbor));
    }
    assert!(fault(&body[..40]).to_string().contains("GetRecords answer in CBOR is malformed at byte"));
}

#[test]
fn unknown_members_are_skipped() {
    // Unknown members of every type, a name that is not text, nulls, and a chunked payload.
    let body = b"\xa4\
        \x67Unknown\xbf\x01\x9f\x02\xf9\x3c\x00\xff\x61a\xc1\xa1\x61b\xf4\xff\
        \x05\x82\x41x\xf6\
        \x67Records\x81\xa6\
            \x63Odd\x7f\x61a\x61b\xff\
            \x64Data\x5f\x42he\x43llo\xff\
            \x6cPartitionKey\xf6\
            \x6eSequenceNumber\x617\
            \x6eEncryptionType\x63KMS\
            \x78\x1bApproximateArrivalTimestamp\xc1\xfb\x41\xd9\x54\xfc\x40\x07\xdf\x3b\
        \x71NextShardIterator\xf6";
    let answer = decoded(body).unwrap();
    assert_eq!(&answer.records[0].data[..], b"hello");
    assert_eq!(answer.records[0].partition_key, None);
    assert_eq!(answer.next_iterator, None);
    // A floating-point time is in seconds, as in standard CBOR.
    let arrival = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    assert_eq!(answer.records[0].approximate_arrival, Some(arrival));
}

#[test]
fn integer_times_in_seconds_are_accepted() {
    let arrival = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for time in [&b"\x1a\x65\x53\xf1\x00"[..], b"\xc1\x1b\x00\x00\x00\x00\x65\x53\xf1\x00"] {
        let head = b"\xa1\x67Records\x81\xa2\x6eSequenceNumber\x617\x78\x1bApproximateArrivalTimestamp";
        let body = [&head[..], time].concat();
        assert_eq!(decoded(&body).unwrap().records[0].approximate_arrival, Some(arrival));
    }
}

#[test]
fn floating_point_times_are_seconds_or_milliseconds() {
    let arrival = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    for number in [1_700_000_000.123_f64, 1_700_000_000_123.0] {
        let head =
            b"\xa1\x67Records\x81\xa2\x6eSequenceNumber\x617\x78\x1bApproximateArrivalTimestamp\xc1\xfb";
        let body = [&head[..], &number.to_be_bytes()].concat();
        assert_eq!(decoded(&body).unwrap().records[0].approximate_arrival, Some(arrival), "{number}");
    }
}

#[test]
fn invalid_lengths_and_types_are_malformed() {
    for (body, what) in [
        (&b"\xa1\x67Records\x9b\xff\xff\xff\xff\xff\xff\xff\xff"[..], "an array without items"),
        (b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", "a map without members"),
        (b"\xa1\x61a\x5b\xff\xff\xff\xff\xff\xff\xff\xff", "bytes longer than the body"),
        (b"\xa1\x61a\x9f", "an array without break"),
        (b"\xa1\x67Records\x81\xa1\x64Data\x5f\x5f\xff\xff", "nested chunks"),
        (b"\xa1\x67Records\x05", "a number instead of an array"),
        (b"\xf6", "null"),
        (b"\xa1\x67Records\x80\x00", "bytes after the answer"),
        (b"\xa0", "an answer that says nothing"),
        (b"\xbf\xff", "an indefinite answer that says nothing"),
        (b"\xa1\x1c", "not a data item"),
        (b"\xa1\x71NextShardIterator\x62\xff\xfe", "not UTF-8"),
    ] {
        fault(body);
        assert!(decoded(body).is_err(), "{what}");
    }
    let mut deep = b"\xa1\x61a".to_vec();
    deep.extend([0x81; 100]);
    deep.push(0xf6);
    assert!(fault(&deep).fault.contains("too deeply"));
}

#[test]
fn invalid_sequence_number_is_not_malformed() {
    let body = b"\xa1\x67Records\x81\xa1\x6eSequenceNumber\x630x2";
    assert!(matches!(decoded(body), Err(DecodeError::SequenceNumber(_))));
}

#[test]
fn refusal_is_decoded() {
    let body = b"\xa2\x66__type\x78\x18ExpiredIteratorException\x67message\x63old";
    let (code, message) = refusal(&Bytes::from_static(body)).unwrap();
    assert_eq!((code.as_deref(), message.as_deref()), (Some("ExpiredIteratorException"), Some("old")));
}

#[test]
fn requests_use_the_shortest_length_encoding() {
    assert_eq!(request("ab", None, None), b"\xa1\x6dShardIterator\x62ab");
    assert_eq!(
        request("ab", Some(5000), Some("arn:x")),
        b"\xa3\x6dShardIterator\x62ab\x65Limit\x1a\x00\x00\x13\x88\x69StreamARN\x65arn:x"
    );
    assert_eq!(request("ab", Some(5000), None), b"\xa2\x6dShardIterator\x62ab\x65Limit\x1a\x00\x00\x13\x88");
    for length in [23, 24, 255, 256, 70_000] {
        let iterator = "i".repeat(length);
        let body = Bytes::from(request(&iterator, None, None));
        let mut read = None;
        let mut reader = Reader::new(&body);
        reader
            .map(|reader, name| {
                assert_eq!(name, b"ShardIterator");
                read = reader.string()?;
                Ok(())
            })
            .unwrap();
        assert_eq!((read, reader.at), (Some(iterator), body.len()));
    }
}

proptest! {
    #[test]
    fn common_record_reads_what_the_general_code_reads(written in written_records(), rest: Vec<u8>, change: Option<(prop::sample::Index, u8)>) {
        let mut body = [&written[..], &rest].concat();
        if let Some((index, byte)) = change {
            let index = index.index(body.len());
            body[index] = byte;
        }
        let body = Bytes::from(body);
        let common = common_record(&body, 0);
        prop_assert!(common.is_some() || change.is_some(), "neither form may need the general code");
        if let Some((parts, end)) = common {
            let mut reader = Reader::new(&body);
            prop_assert_eq!(reader.general_record().unwrap(), parts);
            prop_assert_eq!(reader.at, end);
        }
        // A truncated record is left to the general code, which reports the offset.
        if change.is_none() {
            for length in 0..written.len() {
                prop_assert!(common_record(&Bytes::copy_from_slice(&written[..length]), 0).is_none());
            }
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(body: Vec<u8>) {
        let _ = decoded(&body);
        let _ = refusal(&Bytes::from(body));
    }

    #[test]
    fn mutated_answers_are_decoded_without_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut body = recorded();
        for (index, byte) in changes {
            let index = index.index(body.len());
            body[index] = byte;
        }
        if let Ok(answer) = decoded(&body) {
            prop_assert!(answer.records.len() <= body.len() / RecordParts::MIN_BYTES);
        }
    }
}
