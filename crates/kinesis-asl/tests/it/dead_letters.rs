//! Dead letters in a stream, with a local Kinesis server.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kinesis_asl::{KinesisDeadLetters, KinesisStream};
use lease_store::ShardId;
use shard_worker::{BoxError, DeadLetter, DeadLetterSink, LetterInJson, ReadFrom, Record, StreamSource};

use crate::support::scripted::{Answer, ScriptedKinesis};
use crate::support::{LocalKinesis, STREAM};

/// More reads than the test needs.
const MAX_READS: usize = 20;

fn letter(partition_key: Option<&'static str>) -> DeadLetter {
    let record = Record::new(17.into(), vec![0xff, 0x00].into())
        .with_sub_sequence_number(2)
        .with_partition_key(partition_key.map(Into::into));
    let mut letter = DeadLetter::new("order-desk", "orders", ShardId::numbered(3), record, "no order");
    letter.attempts = 4;
    letter
}

#[tokio::test]
async fn letters_are_written_with_all_their_fields() {
    let server = LocalKinesis::start().await;
    server.client().create_stream().stream_name("rejected").shard_count(1).send().await.unwrap();
    let sink = KinesisDeadLetters::from_client(server.client(), "rejected");
    // The server creates the stream asynchronously. Until then, retry the letter as a worker does.
    let mut first = sink.put(&letter(Some("customer-1"))).await;
    for _ in 0..1000 {
        if first.is_ok() {
            break;
        }
        first = sink.put(&letter(Some("customer-1"))).await;
    }
    first.unwrap();
    sink.put(&letter(None)).await.unwrap();

    let stream = KinesisStream::from_client(server.client(), "rejected");
    let mut source = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
    let mut records = Vec::new();
    for _ in 0..MAX_READS {
        records.extend(source.next_batch().await.unwrap().records);
        if records.len() == 2 {
            break;
        }
    }
    let keys: Vec<_> = records.iter().map(|record| record.partition_key.as_deref().unwrap()).collect();
    assert_eq!(keys, ["customer-1", "shardId-000000000003"]);
    let (read, payload) = LetterInJson::read_binary(&records[0].data).unwrap();
    assert_eq!((read.id.as_str(), read.attempts), ("orders/shardId-000000000003/17/2", 4));
    assert_eq!((read.error.as_str(), read.data.as_str(), payload), ("no order", "", [0xff, 0x00].as_slice()));
}

#[tokio::test]
async fn missing_dead_letter_stream_is_named() {
    let server = LocalKinesis::start().await;
    let sink = KinesisDeadLetters::from_client(server.client(), "nowhere");
    let error = sink.put(&letter(None)).await.unwrap_err().to_string();
    assert!(error.contains("writing a dead letter") && error.contains("nowhere"), "{error}");
}

/// Remembers the payload sizes of its letters.
#[derive(Debug, Clone, Default)]
struct Overflow(Arc<Mutex<Vec<usize>>>);

#[async_trait]
impl DeadLetterSink for Overflow {
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(letter.record.data.len());
        Ok(())
    }
}

const MIB: usize = 1024 * 1024;

/// A stream that takes records up to this size, as AWS counts it.
fn stream_with_limit(limit: usize) -> ScriptedKinesis {
    ScriptedKinesis::new(move |_, body| {
        let data = base64_simd::STANDARD.decode_to_vec(body["Data"].as_str().unwrap()).unwrap();
        let key = body["PartitionKey"].as_str().unwrap();
        if data.len() + key.len() > limit {
            return Answer::Json(400, serde_json::json!({ "__type": "ValidationException" }));
        }
        Answer::Json(200, serde_json::json!({ "ShardId": "shardId-000000000000", "SequenceNumber": "1" }))
    })
}

/// The poison records are as large as AWS allows, so their letters are larger than any stream takes.
#[tokio::test]
async fn poison_record_of_any_size_is_stored() {
    for (limit, sizes, put, overflowed) in [
        (10 * MIB, [MIB - 1000, 10 * MIB - 1000, 10 * MIB], 2, vec![10 * MIB]),
        (MIB, [MIB - 1000, MIB, 10 * MIB], 2, vec![MIB, 10 * MIB]),
    ] {
        let (server, overflow) = (stream_with_limit(limit), Overflow::default());
        let sink = KinesisDeadLetters::from_client(server.client(), STREAM).with_overflow(overflow.clone());
        for size in sizes {
            let mut poison = letter(Some("customer-1"));
            poison.record.data = vec![7; size].into();
            sink.put(&poison).await.unwrap();
        }
        assert_eq!(*overflow.0.lock().unwrap(), overflowed, "limit {limit}");
        assert_eq!(server.bodies("PutRecord").len(), put, "limit {limit}");
    }
}

#[tokio::test]
async fn other_failures_of_a_large_letter_do_not_overflow() {
    let server = ScriptedKinesis::new(|_, _| {
        Answer::Json(400, serde_json::json!({ "__type": "ProvisionedThroughputExceededException" }))
    });
    let overflow = Overflow::default();
    let sink = KinesisDeadLetters::from_client(server.client(), STREAM).with_overflow(overflow.clone());
    let mut poison = letter(None);
    poison.record.data = vec![7; 2 * MIB].into();
    sink.put(&poison).await.unwrap_err();
    assert!(overflow.0.lock().unwrap().is_empty());
}
