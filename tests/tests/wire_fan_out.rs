//! Enhanced fan-out over real sockets, against servers in this process: subscriptions that end, a split in between, a crash and
//! a restart; and three processes over TLS and HTTP/2, one of which is killed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, StreamStatus};
use end_to_end_tests::fleet::Member;
use end_to_end_tests::interop::java_daemon::Application;
use end_to_end_tests::interop::test_run::{TestRun, Volume};
use end_to_end_tests::interop::verdict::Verdict;
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::interop::workers::Kind;
use end_to_end_tests::local_servers::{Endpoints, ServersWithTls};
use kinesis_streaming::ConsumerMetrics;
use kinesis_streaming::kinesis_asl::{ConsumerStatus, KinesisStream};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{AggregateFilter, Aggregator, KPL_PARTITION_KEY, hash_key_of};
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Consistency, Lease};
use test_support::Journal;
use tokio::time::{Instant, sleep};

const STREAM: &str = "words";
const APPLICATION: &str = "fan-out-test";

const FAILOVER_TIME: Duration = Duration::from_secs(3);

/// The limit for each step.
const LIMIT: Duration = Duration::from_secs(60);

/// The lifetime of a subscription on the local server. It is 5 min on AWS. Here a run spans several subscriptions, and each is
/// longer than the five seconds that must lie between two.
const SUBSCRIPTION: Duration = Duration::from_secs(7);

fn stream(endpoints: &Endpoints, deregister_at_end: bool) -> KinesisStream {
    let mut settings = FanOutSettings::with_consumer_name(APPLICATION);
    settings.deregister_at_end = deregister_at_end;
    // A fall-back would hide failures.
    settings.fall_back_to_polling = false;
    KinesisStream::from_client(endpoints.kinesis_client(), STREAM)
        .with_retrieval(RetrievalMode::FanOut(settings))
}

fn leases(endpoints: &Endpoints) -> DynamoDbLeaseStore {
    DynamoDbLeaseStore::new(endpoints.dynamodb_client(), APPLICATION).unwrap()
}

fn member(endpoints: &Endpoints, source: &KinesisStream, journal: &Journal) -> Member {
    let journal = journal.clone();
    let builder = Consumer::builder()
        .application(APPLICATION)
        .worker_id("counter")
        .source(source.clone())
        .lease_store(leases(endpoints))
        .failover_time(FAILOVER_TIME)
        .processors(batch_handler(move |shard: ShardContext, batch| {
            journal.record(&shard, &batch);
            async { Ok(()) }
        }));
    Member::start(builder)
}

async fn create_stream(endpoints: &Endpoints) {
    endpoints.kinesis_client().create_stream().stream_name(STREAM).shard_count(2).send().await.unwrap();
    wait_until_active(endpoints).await;
}

async fn wait_until_active(endpoints: &Endpoints) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let described =
            endpoints.kinesis_client().describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        if described.stream_description_summary.unwrap().stream_status == StreamStatus::Active {
            return;
        }
        assert!(Instant::now() < deadline, "the stream does not become active");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn put(endpoints: &Endpoints, numbers: std::ops::Range<usize>) {
    let entry = |number: usize| {
        PutRecordsRequestEntry::builder()
            .data(Blob::new(number.to_string()))
            .partition_key(format!("key-{number}"))
            .build()
            .unwrap()
    };
    let entries = numbers.map(entry).collect();
    let answer = endpoints
        .kinesis_client()
        .put_records()
        .stream_name(STREAM)
        .set_records(Some(entries))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.failed_record_count.unwrap_or(0), 0);
}

async fn split_first_shard(endpoints: &Endpoints) {
    let client = endpoints.kinesis_client();
    let shards = client.list_shards().stream_name(STREAM).send().await.unwrap().shards.unwrap();
    let range = shards[0].hash_key_range.as_ref().unwrap();
    let (start, end): (u128, u128) =
        (range.starting_hash_key.parse().unwrap(), range.ending_hash_key.parse().unwrap());
    client
        .split_shard()
        .stream_name(STREAM)
        .shard_to_split(&shards[0].shard_id)
        .new_starting_hash_key((start + (end - start) / 2 + 1).to_string())
        .send()
        .await
        .unwrap();
    wait_until_active(endpoints).await;
}

fn each_once(count: usize) -> BTreeMap<String, usize> {
    (0..count).map(|number| (number.to_string(), 1)).collect()
}

/// Waits until every shard is checkpointed at its last delivery.
async fn wait_until_checkpointed(endpoints: &Endpoints, journal: &Journal) {
    let store = leases(endpoints);
    let mut delivered = BTreeMap::new();
    for delivery in journal.all() {
        delivered.insert(delivery.shard_id, delivery.position);
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = store.list(Consistency::Strong).await.unwrap().leases;
        let is_done = |lease: &Lease| {
            delivered.get(&lease.shard_id).is_none_or(|position| lease.checkpoint >= *position)
        };
        if found.iter().all(is_done) {
            return;
        }
        assert!(Instant::now() < deadline, "not checkpointed: {found:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fan_out_delivers_once_through_renewals_and_a_split() {
    let servers = ServersWithTls::start(SUBSCRIPTION, None).await.unwrap();
    let endpoints = servers.endpoints();
    create_stream(endpoints).await;
    put(endpoints, 0..300).await;
    let (source, journal) = (stream(endpoints, true), Journal::default());
    let running = member(endpoints, &source, &journal);
    journal.wait_for(300, LIMIT).await;
    let subscribed_at = Instant::now();

    split_first_shard(endpoints).await;
    put(endpoints, 300..600).await;
    journal.wait_for(600, LIMIT).await;
    // Records keep coming while subscriptions end and others begin.
    let mut count = 600;
    // Two shards, two children, and at least one renewal for three of them.
    while source.fan_out_status().unwrap().sessions < 7 {
        assert!(subscribed_at.elapsed() < LIMIT, "{:?}", source.fan_out_status());
        put(endpoints, count..count + 10).await;
        count += 10;
        journal.wait_for(count, LIMIT).await;
    }

    let status = source.fan_out_status().unwrap();
    assert_eq!((status.failed_sessions, status.polled_shards), (0, 0), "{status:?}");
    assert_eq!(status.subscribed_shards, 3, "the parent is read to its end: {status:?}");
    let metrics = ConsumerMetrics::new(APPLICATION, running.handle.clone()).with_stream(source.clone());
    let labels = format!("{{application=\"{APPLICATION}\",worker=\"counter\"");
    let (shown, sessions) = (metrics.exposition(), status.sessions);
    for line in [
        format!("kinesis_consumer_fan_out_shards{labels},by=\"subscription\"}} 3\n"),
        format!("kinesis_consumer_fan_out_subscriptions_total{labels}}} {sessions}\n"),
        format!("kinesis_consumer_fan_out_failed_subscriptions_total{labels}}} 0\n"),
        format!("kinesis_consumer_stream_timed_out_reads_total{labels}}} 0\n"),
    ] {
        assert!(shown.contains(&line), "{line} is missing in {shown}");
    }
    assert!(running.stop().await.is_drained());

    assert_eq!(journal.times(), each_once(count));
    journal.check_order();
    let parents: BTreeMap<ShardId, BTreeSet<ShardId>> = source
        .list_shards(&ShardFilter::All)
        .await
        .unwrap()
        .into_iter()
        .map(|shard| (shard.shard_id, shard.parents))
        .collect();
    assert!(parents.values().any(|parents| !parents.is_empty()));
    journal.check_parents_first(&parents);

    let consumers = source.list_consumers().await.unwrap();
    assert_eq!(consumers.len(), 1);
    assert_eq!((consumers[0].name.as_str(), consumers[0].status), (APPLICATION, ConsumerStatus::Active));
    assert_eq!(Some(&consumers[0].arn), status.consumer_arn.as_ref());
    assert!(source.end_retrieval().await.unwrap(), "this process registered the consumer");
    let deadline = Instant::now() + LIMIT;
    while !source.list_consumers().await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the consumer is still there");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fan_out_resumes_from_the_checkpoint_after_a_crash() {
    let servers = ServersWithTls::start(SUBSCRIPTION, None).await.unwrap();
    let endpoints = servers.endpoints();
    create_stream(endpoints).await;
    put(endpoints, 0..200).await;
    let journal = Journal::default();
    let first = stream(endpoints, false);
    let running = member(endpoints, &first, &journal);
    journal.wait_for(200, LIMIT).await;
    wait_until_checkpointed(endpoints, &journal).await;
    running.crash().await;

    put(endpoints, 200..400).await;
    // A new process knows the consumer by its name only.
    let second = stream(endpoints, true);
    let running = member(endpoints, &second, &journal);
    journal.wait_for(400, LIMIT).await;
    assert!(running.stop().await.is_drained());
    assert_eq!(journal.times(), each_once(400));
    let arn = |stream: &KinesisStream| stream.fan_out_status().unwrap().consumer_arn.unwrap();
    assert_eq!(arn(&first), arn(&second));
    assert!(!second.end_retrieval().await.unwrap(), "another process registered the consumer");
    assert_eq!(second.list_consumers().await.unwrap().len(), 1);
}

/// Three processes share a stream by fan-out, over TLS and HTTP/2. The stream is resharded and a process is killed while records
/// flow, and nothing is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fan_out_in_three_processes_survives_a_kill_and_a_split() {
    let servers = ServersWithTls::start(SUBSCRIPTION, None).await.unwrap();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wire-fan-out");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let application = Application {
        name: APPLICATION.to_owned(),
        stream: STREAM.to_owned(),
        endpoints: servers.endpoints().clone(),
        failover_time: FAILOVER_TIME,
        directory,
    };
    let volume = Volume { records: 8000, records_per_second: 150, shards: 4 };
    let mut run = TestRun::new(application, PathBuf::new(), volume).await;
    let workers = run.workers().through(&servers.tls_endpoints()).with_variable(ServersWithTls::trust());
    workers.by_fan_out(Some(APPLICATION));
    let [first, second, third] = [(); 3].map(|()| run.start(Kind::Rust));
    run.wait_for_shares("all three have a share", &[&first, &second, &third], 1).await;
    run.reshard("a shard is split and two are merged").await;
    run.wait_for_shares("all three have a share", &[&first, &second, &third], 1).await;
    wait_for("four shards, their three children and four renewals are subscribed to", LIMIT, async || {
        let (accepted, _) = servers.kinesis().subscriptions();
        if accepted >= 11 { Ok(()) } else { Err(format!("{accepted} subscriptions")) }
    })
    .await;
    run.kill(first, "one is killed").await;
    run.wait_for_shares("two have all shards", &[&second, &third], 1).await;
    run.put_the_rest().await;
    run.stop(second).await;
    run.stop(third).await;

    let deliveries = run.deliveries().to_vec();
    let verdict = Verdict::new(&deliveries, volume.records, &run.history, &run.ended);
    let ((accepted, refused), logs) = (servers.kinesis().subscriptions(), run.directory().display());
    println!(
        "   {} deliveries of {} records; {accepted} subscriptions, {refused} refused",
        deliveries.len(),
        verdict.records
    );
    assert!(verdict.faults.is_empty(), "{:#?}; logs are in {logs}", verdict.faults);
    assert!(verdict.missing.is_empty(), "{:?} are missing; logs are in {logs}", verdict.missing);
    assert!(accepted > 11, "no heir subscribed to the shards of the killed process; logs are in {logs}");
    for entry in fs::read_dir(run.directory()).unwrap() {
        let path = entry.unwrap().path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        assert!(
            !is_log || !fs::read_to_string(&path).unwrap().contains("polling the shard"),
            "see {}",
            path.display()
        );
    }
}

/// Two applications share one registered consumer (lifion/lifion-kinesis#153). Each takes the subscriptions of the other after five
/// seconds, and none misses a record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fan_out_two_applications_on_one_consumer_miss_nothing() {
    let servers = ServersWithTls::start(LIMIT, None).await.unwrap();
    let endpoints = servers.endpoints();
    create_stream(endpoints).await;
    let mut settings = FanOutSettings::with_consumer_name(APPLICATION);
    settings.deregister_at_end = false;
    let members: Vec<(Member, Journal)> = ["one", "other"]
        .into_iter()
        .map(|application| {
            let journal = Journal::default();
            let recorded = journal.clone();
            let builder = Consumer::builder()
                .application(application)
                .source(
                    KinesisStream::from_client(endpoints.kinesis_client(), STREAM)
                        .with_retrieval(RetrievalMode::FanOut(settings.clone())),
                )
                .lease_store(DynamoDbLeaseStore::new(endpoints.dynamodb_client(), application).unwrap())
                .processors(batch_handler(move |shard: ShardContext, batch| {
                    recorded.record(&shard, &batch);
                    async { Ok(()) }
                }));
            (Member::start(builder), journal)
        })
        .collect();
    let mut count = 0;
    let started_at = Instant::now();
    while started_at.elapsed() < Duration::from_secs(20) {
        put(endpoints, count..count + 20).await;
        count += 20;
        sleep(Duration::from_millis(500)).await;
    }
    for (_, journal) in &members {
        journal.wait_for(count, LIMIT).await;
    }
    for (member, journal) in members {
        assert!(member.stop().await.is_drained());
        assert_eq!(journal.times(), each_once(count));
        journal.check_order();
    }
    let (accepted, refused) = servers.kinesis().subscriptions();
    assert!(accepted >= 6 && refused >= 1, "{accepted} subscriptions, {refused} refused");
}

/// All records of the first aggregate at the start time belong to another shard (apache/flink#20945, where nothing was left of it).
/// They exist nowhere else, so they are delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fan_out_at_a_time_delivers_a_foreign_aggregate() {
    let servers = ServersWithTls::start(SUBSCRIPTION, None).await.unwrap();
    let endpoints = servers.endpoints();
    create_stream(endpoints).await;
    let mut aggregator = Aggregator::new(100_000);
    let mut expected = each_once(100);
    let keys = (1000..1100).map(|number| format!("key-{number}"));
    // The first of the two shards has the lower half of the hash keys.
    let is_of_first = |key: &String| hash_key_of(key).0 < u128::MAX / 2;
    for key in keys.filter(is_of_first) {
        let number = key.trim_start_matches("key-").to_owned();
        assert!(aggregator.add(key, None, number.as_bytes()).unwrap().is_none());
        expected.insert(number, 1);
    }
    let aggregate = aggregator.finish().unwrap();
    let call = endpoints.kinesis_client().put_records().stream_name(STREAM);
    let record = PutRecordsRequestEntry::builder()
        .data(Blob::new(aggregate.data.to_vec()))
        .partition_key(KPL_PARTITION_KEY)
        .explicit_hash_key(u128::MAX.to_string());
    call.records(record.build().unwrap()).send().await.unwrap();
    put(endpoints, 0..50).await;

    let journal = Journal::default();
    let recorded = journal.clone();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let builder = Consumer::builder()
        .application(APPLICATION)
        .source(stream(endpoints, false))
        .lease_store(leases(endpoints))
        .initial_position(InitialPosition::AtTimestamp(long_ago))
        .aggregate_filter(AggregateFilter::Always)
        .processors(batch_handler(move |shard: ShardContext, batch| {
            recorded.record(&shard, &batch);
            async { Ok(()) }
        }));
    let running = Member::start(builder);
    journal.wait_for(expected.len() - 50, LIMIT).await;
    // Also in the sessions after the first one.
    sleep(SUBSCRIPTION).await;
    put(endpoints, 50..100).await;
    journal.wait_for(expected.len(), LIMIT).await;
    assert!(running.stop().await.is_drained());
    assert_eq!(journal.times(), expected);
}
