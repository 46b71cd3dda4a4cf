//! Listing and polling over the wire, with a local Kinesis server.

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

use crate::support::{LocalKinesis, REGION, STREAM, Server, client_config, every_format};

/// More polls than the server needs to update a stream.
const MAX_POLLS: usize = 1000;

/// More reads than any test needs: a reader without progress fails the test instead of hanging it.
const MAX_READS: usize = 20;

async fn stream_with_shards(server: &LocalKinesis, shards: i32) -> KinesisStream {
    server.client().create_stream().stream_name(STREAM).shard_count(shards).send().await.unwrap();
    wait_until_active(&server.client()).await;
    stream(server.client())
}

/// Polls until the server, which updates streams asynchronously, reports the stream as active.
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

/// Puts records in order into the shard at the start of the hash-key space.
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

/// Reads until at least this many records have arrived.
async fn read(reader: &mut dyn RecordSource, records: usize) -> Vec<u32> {
    let mut read = Vec::new();
    for _ in 0..MAX_READS {
        read.extend(payloads(&reader.next_batch().await.unwrap()));
        if read.len() >= records {
            return read;
        }
    }
    panic!("only {} of {records} records arrived", read.len());
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
    Shard::new(ShardId::numbered(number), is_closed)
        .with_parents(parents.iter().copied().map(ShardId::numbered).collect())
        .with_hash_key_range(Some(HashKeyRange::new(HashKey(hash_keys.0), HashKey(hash_keys.1)).unwrap()))
}

#[tokio::test]
async fn shards_are_listed_with_parents_after_split_and_merge() {
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
async fn closed_parent_is_read_to_its_end() {
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
        // This server does not report children.
        assert_eq!(end.expect("the shard ends").children, []);
        let read: Vec<_> =
            records.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()).collect();
        assert_eq!(read, (0..300_u32).map(|payload| payload.to_string()).collect::<Vec<_>>());
        assert!(records.windows(2).all(|pair| pair[0].sequence_number < pair[1].sequence_number));
        assert_eq!(records[7].partition_key.as_deref(), Some("key-7"));
        assert_eq!(records[7].sub_sequence_number, 0);
        assert!(records[7].approximate_arrival.unwrap() > SystemTime::UNIX_EPOCH);

        // Further reads report the end without any call.
        server.calls();
        for _ in 0..2 {
            let batch = reader.next_batch().await.unwrap();
            assert!(batch.records.is_empty() && batch.shard_end.is_some());
        }
        assert_eq!(server.calls(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn reading_starts_at_the_given_position() {
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
async fn expired_iterator_is_replaced_without_loss_or_repeat() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream_with_shards(&server, 1).await.with_get_records_format(format);
        put(&server.client(), 0..3).await;

        // Before the first record.
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        server.fail("GetRecords", 1, 400, "ExpiredIteratorException");
        assert_eq!(read(&mut *reader, 3).await, [0, 1, 2]);

        // After some records: two refusals in a row, with both codes.
        put(&server.client(), 3..6).await;
        server.fail("GetRecords", 1, 400, "ExpiredIteratorException");
        server.fail("GetRecords", 1, 400, "InvalidArgumentException");
        server.calls();
        assert_eq!(read(&mut *reader, 3).await, [3, 4, 5]);
        let expected = ["GetRecords", "GetShardIterator", "GetRecords", "GetShardIterator", "GetRecords"];
        assert_eq!(server.calls(), expected);

        // If all iterators are refused, the read fails, and the next one succeeds.
        put(&server.client(), 6..8).await;
        server.fail("GetRecords", 3, 400, "ExpiredIteratorException");
        let error = reader.next_batch().await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        assert!(error.to_string().contains("shardId-000000000000"), "{error}");
        assert_eq!(read(&mut *reader, 2).await, [6, 7]);
        assert!(server.has_no_faults_left());
    }
}

#[tokio::test]
async fn failures_are_classified_and_reading_resumes() {
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
        assert!(server.has_no_faults_left());
    }
}

#[tokio::test]
async fn throttled_listing_is_retried() {
    let server = LocalKinesis::start().await;
    let stream = stream_with_shards(&server, 1).await;
    server.fail("ListShards", 2, 400, "LimitExceededException");
    assert_eq!(stream.list_shards(&ShardFilter::All).await.unwrap().len(), 1);
    assert!(server.has_no_faults_left());

    // Other failures are not retried.
    server.fail("ListShards", 1, 400, "AccessDeniedException");
    assert_eq!(stream.list_shards(&ShardFilter::All).await.unwrap_err().kind(), SourceErrorKind::Denied);
}

#[tokio::test]
async fn unknown_stream_error_names_what_to_check() {
    for format in every_format() {
        let server = LocalKinesis::start().await;
        let stream = stream(server.client()).with_get_records_format(format);
        let error = stream.list_shards(&ShardFilter::All).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::StreamNotFound);
        for part in ["\"words\"", REGION, server.url(), "check the name of the stream", "account"] {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }

        // The same error when reading a shard of it, although the service then reports a missing shard.
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::StreamNotFound);
    }
}

#[tokio::test]
async fn stream_of_another_region_error_names_the_region() {
    let here = LocalKinesis::start().await;
    stream_with_shards(&here, 1).await;
    let elsewhere = LocalKinesis::start_in("eu-central-1").await;
    let client = Client::from_conf(client_config(elsewhere.url(), "eu-central-1").build());
    let error = stream(client).list_shards(&ShardFilter::All).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::StreamNotFound);
    assert!(error.to_string().contains("region eu-central-1"), "{error}");
}

#[tokio::test]
async fn shard_is_not_found_only_if_the_stream_lacks_it() {
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
        // While the listing fails, it is not known whether the shard exists.
        server.fail("GetRecords", 1, 400, "ResourceNotFoundException");
        server.fail("ListShards", 1, 500, "InternalFailure");
        assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Unavailable);
        assert_eq!(read(&mut *reader, 2).await, [0, 1]);
        assert!(server.has_no_faults_left());
    }
}

#[tokio::test]
async fn client_without_credentials_is_denied() {
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
async fn hanging_server_is_unavailable_after_the_timeout() {
    let server = Server::start(Router::new().fallback(std::future::pending::<()>)).await;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(100)).build();
    let client = Client::from_conf(client_config(server.url(), REGION).timeout_config(timeouts).build());
    let mut reader = stream(client).open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(5), reader.next_batch()).await;
    let error = answered.expect("the client's time-out ends the call").unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    assert!(error.to_string().contains(server.url()), "{error}");
}

#[tokio::test]
async fn unreachable_server_is_unavailable() {
    let url = Server::start(Router::new()).await.url().to_owned(); // stopped at once
    let client = Client::from_conf(client_config(&url, REGION).build());
    let error = stream(client).list_shards(&ShardFilter::All).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(&url), "{error}");
}
