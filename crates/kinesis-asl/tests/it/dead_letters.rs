//! Dead letters in a stream, with a local Kinesis server.

use kinesis_asl::{KinesisDeadLetters, KinesisStream};
use lease_store::ShardId;
use shard_worker::{DeadLetter, DeadLetterSink, LetterInJson, ReadFrom, Record, StreamSource};

use crate::support::LocalKinesis;

/// More reads than the test needs.
const MAX_READS: usize = 20;

fn letter(partition_key: Option<&'static str>) -> DeadLetter {
    DeadLetter {
        application: "order-desk".into(),
        stream: "orders".into(),
        shard_id: ShardId::numbered(3),
        record: Record {
            sequence_number: 17.into(),
            sub_sequence_number: 2,
            partition_key: partition_key.map(Into::into),
            data: vec![0xff, 0x00].into(),
            approximate_arrival: None,
        },
        attempts: 4,
        error: "no order".to_owned(),
    }
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
    let read: LetterInJson = records[0].json().unwrap();
    assert_eq!((read.id.as_str(), read.attempts), ("orders/shardId-000000000003/17/2", 4));
    assert_eq!((read.error.as_str(), read.data.as_str()), ("no order", "/wA="));
}

#[tokio::test]
async fn missing_dead_letter_stream_is_named() {
    let server = LocalKinesis::start().await;
    let sink = KinesisDeadLetters::from_client(server.client(), "nowhere");
    let error = sink.put(&letter(None)).await.unwrap_err().to_string();
    assert!(error.contains("writing a dead letter") && error.contains("nowhere"), "{error}");
}
