//! Listing and polling over the wire, against a Kinesis server in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod support;

use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, StreamStatus};
use aws_sdk_kinesis::{Client, Config};
use axum::Router;
use kinesis_asl::KinesisStream;
use lease_store::{HashKey, HashKeyRange, ShardId};
use shard_worker::{FetchedBatch, ReadFrom, RecordSource, Shard, ShardFilter, SourceErrorKind, StreamSource};
use support::{LocalKinesis, REGION, Server, client_config, every_format};

const STREAM: &str = "words";

/// More polls than the server needs to change a stream.
const MAX_POLLS: usize = 1000;

/// More reads than any of these shards needs: a reader that never gets there fails the test instead of hanging it.
const MAX_READS: usize = 20;

async fn stream_with_shards(server: &LocalKinesis, shards: i32) -> KinesisStream {
    server.client().create_stream().stream_name(STREAM).shard_count(shards).send().await.unwrap();
    wait_until_active(&server.client()).await;
    stream(server.client())
}

/// The server changes a stream in a task of its own, at once.
async fn wait_until_active(client: &Client) {
    for _ in 0..MAX_POLLS {
        let described = client.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        if described.stream_description_summary.unwrap().stream_status == StreamStatus::Active {
            return;
        }
    }
    panic!("the stream is not active after {MAX_POLLS} polls");
}

fn stream(client: Client) -> KinesisStream {
    KinesisStream::from_client(client, STREAM)
        .with_idle_time_between_reads(Duration::ZERO)
        .with_rng(fastrand::Rng::with_seed(1))
}

/// Puts records into the shard that holds the start of the hash-key space, in order.
async fn put(client: &Client, payloads: impl IntoIterator<Item = u32>) {
    let record = |payload: u32| {
        PutRecordsRequestEntry::builder()
            .data(Blob::new(payload.to_string()))
            .partition_key(format!("key-{payload}"))
            .explicit_hash_key("0")
            .build()
            .unwrap()
    };
    let records = payloads.into_iter().map(record).collect();
    let answer = client.put_records().stream_name(STREAM).set_records(Some(records)).send().await.unwrap();
    assert_eq!(answer.failed_record_count, Some(0));
}

fn payloads(batch: &FetchedBatch) -> Vec<u32> {
    batch.records.iter().map(|record| std::str::from_utf8(&record.data).unwrap().parse().unwrap()).collect()
}

/// Reads until so many records are there.
async fn read(reader: &mut dyn RecordSource, records: usize) -> Vec<u32> {
    let mut read = Vec::new();
    for _ in 0..MAX_READS {
        read.extend(payloads(&reader.next_batch().await.unwrap()));
        if read.len() >= records {
            return read;
        }
    }
    panic!("only {} of {records} records came", read.len());
}

async fn split(client: &Client, shard: u64, at: HashKey) {
    let request = client.split_shard().stream_name(STREAM).shard_to_split(ShardId::numbered(shard).as_str());
    request.new_starting_hash_key(at.to_string()).send().await.unwrap();
    wait_until_active(client).await;
}

async fn merge(client: &Client, shard: u64, adjacent: u64) {
    let request = client.merge_shards().stream_name(STREAM).shard_to_merge(ShardId::numbered(shard).as_str());
    request.adjacent_shard_to_merge(ShardId::numbered(adjacent).as_str()).send().await.unwrap();
    wait_until_active(client).await;
}

fn shard(number: u64, parents: &[u64], hash_keys: (u128, u128), is_closed: bool) -> Shard {
    Shard {
        shard_id: ShardId::numbered(number),
        parents: parents.iter().copied().map(ShardId::numbered).collect(),
        hash_key_range: Some(HashKeyRange::new(HashKey(hash_keys.0), HashKey(hash_keys.1)).unwrap()),
        is_closed,
    }
}

#[tokio::test]
async fn lists_open_and_closed_shards_with_their_parents_after_a_split_and_a_merge() {
    let server = LocalKinesis::start().await;
    let stream = stream_with_shards(&server, 1).await;
    assert_eq!(stream.stream_name(), STREAM);
    assert_eq!(stream.list_shards(&ShardFilter::All).await.unwrap(), [shard(0, &[], (0, u128::MAX), false)]);

    let middle = u128::MAX / 2;
    split(&server.client(), 0, HashKey(middle)).await;
    let children = [shard(1, &[0], (0, middle - 1), false), shard(2, &[0], (middle, u128::MAX), false)];
    let mut expected = vec![shard(0, &[], (0, u128::MAX), true)];
    expected.extend(children);
    assert_eq!(stream.list_shards(&ShardFilter::All).await.unwrap(), expected);

    merge(&server.client(), 1, 2).await;
    expected.iter_mut().for_each(|shard| shard.is_closed = true);
    expected.push(shard(3, &[1, 2], (0, u128::MAX), false));
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for filter in [ShardFilter::All, ShardFilter::OpenSince(long_ago)] {
        assert_eq!(stream.list_shards(&filter).await.unwrap(), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn reads_a_closed_parent_from_its_oldest_record_to_its_end() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream_with_shards(&server, 1).await.with_get_records_format(format);
        put(&server.client(), 0..250).await;
        put(&server.client(), 250..300).await;
        split(&server.client(), 0, HashKey(u128::MAX / 2)).await;
        put(&server.client(), 300..310).await; // into a child

        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        let mut records = Vec::new();
        let mut end = None;
        for _ in 0..MAX_READS {
            let batch = reader.next_batch().await.unwrap();
            records.extend(batch.records);
            end = batch.shard_end;
            if end.is_some() {
                break;
            }
        }
        // This server does not name the children.
        assert_eq!(end.expect("the end comes").children, []);
        let read: Vec<_> =
            records.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()).collect();
        assert_eq!(read, (0..300_u32).map(|payload| payload.to_string()).collect::<Vec<_>>());
        assert!(records.windows(2).all(|pair| pair[0].sequence_number < pair[1].sequence_number));
        assert_eq!(records[7].partition_key.as_deref(), Some("key-7"));
        assert_eq!(records[7].sub_sequence_number, 0);
        assert!(records[7].approximate_arrival.unwrap() > SystemTime::UNIX_EPOCH);

        // Every further call reports the end, and asks nobody.
        server.calls();
        for _ in 0..2 {
            let batch = reader.next_batch().await.unwrap();
            assert!(batch.records.is_empty() && batch.shard_end.is_some());
        }
        assert_eq!(server.calls(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn starts_where_it_is_told_to() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream_with_shards(&server, 1).await.with_get_records_format(format);
        put(&server.client(), 0..5).await;
        let shard_id = ShardId::numbered(0);
        let mut reader = stream.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        let all = reader.next_batch().await.unwrap().records;

        let at = ReadFrom::At(all[3].sequence_number.clone());
        let mut reader = stream.open(&shard_id, &at).await.unwrap();
        assert_eq!(read(&mut *reader, 2).await, [3, 4]);

        let since = ReadFrom::AtTimestamp(all[0].approximate_arrival.unwrap());
        let mut reader = stream.open(&shard_id, &since).await.unwrap();
        assert_eq!(read(&mut *reader, 5).await, [0, 1, 2, 3, 4]);

        let mut reader = stream.open(&shard_id, &ReadFrom::Latest).await.unwrap();
        assert_eq!(payloads(&reader.next_batch().await.unwrap()), Vec::<u32>::new());
        put(&server.client(), 5..7).await;
        assert_eq!(read(&mut *reader, 2).await, [5, 6]);
    }
}

#[tokio::test]
async fn an_expired_iterator_is_replaced_without_loss_or_repeat() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream_with_shards(&server, 1).await.with_get_records_format(format);
        put(&server.client(), 0..3).await;

        // Before the first record.
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        server.fail("GetRecords", 1, 400, "ExpiredIteratorException");
        assert_eq!(read(&mut *reader, 3).await, [0, 1, 2]);

        // Behind one, twice in a row, and for the other reason.
        put(&server.client(), 3..6).await;
        server.fail("GetRecords", 1, 400, "ExpiredIteratorException");
        server.fail("GetRecords", 1, 400, "InvalidArgumentException");
        server.calls();
        assert_eq!(read(&mut *reader, 3).await, [3, 4, 5]);
        let expected = ["GetRecords", "GetShardIterator", "GetRecords", "GetShardIterator", "GetRecords"];
        assert_eq!(server.calls(), expected);

        // A service that takes none is an error in the end, and not the end of reading.
        put(&server.client(), 6..8).await;
        server.fail("GetRecords", 3, 400, "ExpiredIteratorException");
        let error = reader.next_batch().await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        assert!(error.to_string().contains("shardId-000000000000"), "{error}");
        assert_eq!(read(&mut *reader, 2).await, [6, 7]);
        assert!(server.is_sound());
    }
}

#[tokio::test]
async fn failures_say_what_they_are_and_reading_goes_on() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream_with_shards(&server, 1).await.with_get_records_format(format);
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        let mut next = 0;
        for (status, code, expected) in [
            (400, "ProvisionedThroughputExceededException", SourceErrorKind::Throttled),
            (400, "LimitExceededException", SourceErrorKind::Throttled),
            (400, "KMSThrottlingException", SourceErrorKind::Throttled),
            (400, "KMSDisabledException", SourceErrorKind::KeyUnavailable),
            (400, "AccessDeniedException", SourceErrorKind::Denied),
            (400, "ExpiredTokenException", SourceErrorKind::Denied),
            (500, "InternalFailure", SourceErrorKind::Unavailable),
            (400, "ValidationException", SourceErrorKind::Invalid),
        ] {
            for operation in ["GetRecords", "GetShardIterator"] {
                put(&server.client(), next..next + 2).await;
                if operation == "GetShardIterator" {
                    server.fail("GetRecords", 1, 400, "ExpiredIteratorException");
                }
                server.fail(operation, 1, status, code);
                let error = reader.next_batch().await.unwrap_err();
                assert_eq!(error.kind(), expected, "{operation} {code}");
                for part in [STREAM, "shardId-000000000000", REGION, server.url(), code] {
                    assert!(error.to_string().contains(part), "{part} is not in {error}");
                }
                assert_eq!(read(&mut *reader, 2).await, [next, next + 1], "{operation} {code}");
                next += 2;
            }
        }
        assert!(server.is_sound());
    }
}

#[tokio::test]
async fn a_refused_listing_is_repeated() {
    let server = LocalKinesis::start().await;
    let stream = stream_with_shards(&server, 1).await;
    server.fail("ListShards", 2, 400, "LimitExceededException");
    assert_eq!(stream.list_shards(&ShardFilter::All).await.unwrap().len(), 1);
    assert!(server.is_sound());

    // Anything else is not repeated here.
    server.fail("ListShards", 1, 400, "AccessDeniedException");
    assert_eq!(stream.list_shards(&ShardFilter::All).await.unwrap_err().kind(), SourceErrorKind::Denied);
}

#[tokio::test]
async fn an_unknown_stream_is_named_with_all_that_may_be_wrong() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream(server.client()).with_get_records_format(format);
        let error = stream.list_shards(&ShardFilter::All).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::StreamNotFound);
        for part in ["\"words\"", REGION, server.url(), "check the name of the stream", "account"] {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }

        // The same when a shard of it is read, although the service then speaks of a missing shard.
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::StreamNotFound);
    }
}

#[tokio::test]
async fn a_stream_of_another_region_is_unknown_and_the_region_is_named() {
    let here = LocalKinesis::start().await;
    stream_with_shards(&here, 1).await;
    let elsewhere = LocalKinesis::start_in("eu-central-1").await;
    let client = Client::from_conf(client_config(elsewhere.url(), "eu-central-1").build());
    let error = stream(client).list_shards(&ShardFilter::All).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::StreamNotFound);
    assert!(error.to_string().contains("region eu-central-1"), "{error}");
}

#[tokio::test]
async fn a_shard_counts_as_gone_only_when_the_stream_no_longer_lists_it() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream_with_shards(&server, 1).await.with_get_records_format(format);
        let mut reader = stream.open(&ShardId::numbered(7), &ReadFrom::TrimHorizon).await.unwrap();
        let error = reader.next_batch().await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::ShardNotFound);
        assert!(error.to_string().contains("shardId-000000000007"), "{error}");

        put(&server.client(), 0..2).await;
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        server.fail("GetRecords", 1, 400, "ResourceNotFoundException");
        assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Unavailable);
        // Whether it is gone is not known while the listing fails.
        server.fail("GetRecords", 1, 400, "ResourceNotFoundException");
        server.fail("ListShards", 1, 500, "InternalFailure");
        assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Unavailable);
        assert_eq!(read(&mut *reader, 2).await, [0, 1]);
        assert!(server.is_sound());
    }
}

#[tokio::test]
async fn a_client_without_credentials_is_denied() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(server.url())
            .build();
        let stream = stream(Client::from_conf(config)).with_get_records_format(format);
        let error = stream.list_shards(&ShardFilter::All).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Denied, "{error}");
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Denied);
        assert_eq!(server.calls(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_unavailable_within_the_time_out() {
    let server = Server::start(Router::new().fallback(std::future::pending::<()>)).await;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(100)).build();
    let client = Client::from_conf(client_config(server.url(), REGION).timeout_config(timeouts).build());
    let mut reader = stream(client).open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(5), reader.next_batch()).await;
    let error = answered.expect("the time-out of the client ends it").unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    assert!(error.to_string().contains(server.url()), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let url = Server::start(Router::new()).await.url().to_owned(); // and gone again
    let client = Client::from_conf(client_config(&url, REGION).build());
    let error = stream(client).list_shards(&ShardFilter::All).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(&url), "{error}");
}
