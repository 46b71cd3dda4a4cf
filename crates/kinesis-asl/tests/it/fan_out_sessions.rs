//! Subscriptions to a shard in virtual time: whatever ends one, the next starts right after the last returned record.

use std::time::Duration;

use aws_sdk_kinesis::config::retry::RetryConfig;
use kinesis_asl::{KinesisStream, RetrievalMode};
use shard_worker::{ReadFrom, ShardEnd, SourceErrorKind, StreamSource as _};
use tokio::time::{Instant, sleep, timeout};

use crate::support::STREAM;
use crate::support::fan_out::{
    CONSUMER_ARN, MAX_READS, SHARD, after, default_answer, heartbeat, numbers_of, open, read, read_error,
    read_records, records, refused, server, session, settings, shard_id, shards, starting_position, stream,
};
use crate::support::scripted::{Answer, EPOCH_SECONDS, Part, ScriptedKinesis, event};

const SECOND: Duration = Duration::from_secs(1);

/// AWS refuses a second subscription within this time.
const SUBSCRIPTION_INTERVAL: Duration = Duration::from_secs(5);

/// The lifetime of a subscription on the service.
const SESSION_LIMIT: Duration = Duration::from_secs(300);

fn intervals(server: &ScriptedKinesis) -> Vec<Duration> {
    let requests = server.requests("SubscribeToShard");
    requests.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
}

#[tokio::test(start_paused = true)]
async fn next_session_starts_after_the_last_event() {
    let server = server(|index| match index {
        0 => session([records(&[1, 2]), heartbeat(5), records(&[7])]),
        1 => session([]),
        _ => session([records(&[8]), Part::Hang]),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 4).await, [1, 2, 7, 8]);
    assert_eq!(starting_position(&server, 0).0, "TRIM_HORIZON");
    assert_eq!(starting_position(&server, 1), after(7));
    assert_eq!(starting_position(&server, 2), after(7));
    let first = &server.bodies("SubscribeToShard")[0];
    assert_eq!(first["ConsumerARN"], CONSUMER_ARN);
    assert_eq!(first["ShardId"], SHARD);
    assert!(intervals(&server).iter().all(|interval| *interval > SUBSCRIPTION_INTERVAL));
}

#[tokio::test(start_paused = true)]
async fn first_session_starts_at_the_checkpoint() {
    let server = server(|_| session([records(&[12]), Part::Hang]));
    let number = lease_store::SequenceNumber::new("12".to_owned()).unwrap();
    let mut source = open(&server, ReadFrom::At(number)).await;
    assert_eq!(read_records(&mut *source, 1).await, [12]);
    assert_eq!(starting_position(&server, 0), ("AT_SEQUENCE_NUMBER".to_owned(), "12".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn event_without_records_moves_the_position() {
    let server = server(|index| if index == 0 { session([heartbeat(40)]) } else { session([Part::Hang]) });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    while server.requests("SubscribeToShard").len() < 2 {
        read(&mut *source).await.unwrap();
    }
    assert_eq!(starting_position(&server, 1), after(40));
}

#[tokio::test(start_paused = true)]
async fn silent_session_is_replaced_and_reports_no_lag() {
    let server = server(|index| match index {
        0 => session([records(&[1]), Part::Hang]),
        _ => session([records(&[2]), Part::Hang]),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    let silent_since = Instant::now();
    let mut empty = 0;
    loop {
        let batch = read(&mut *source).await.unwrap();
        if !batch.records.is_empty() {
            assert_eq!(numbers_of(&batch), [2]);
            break;
        }
        assert_eq!(batch.millis_behind_latest, None, "the lag of a silent shard is not known");
        assert_eq!(batch.shard_end, None);
        empty += 1;
    }
    let inactivity = settings().inactivity_timeout;
    let noticed_after = server.requests("SubscribeToShard")[1].at - silent_since;
    assert!(noticed_after >= inactivity && noticed_after < inactivity + 5 * SECOND, "{noticed_after:?}");
    assert!(empty >= 5, "reads return during the silence: {empty}");
    assert_eq!(starting_position(&server, 1), after(1));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_a_quiet_session_alive() {
    let quiet = (0..50).flat_map(|number| [Part::Wait(5 * SECOND), heartbeat(number)]);
    let parts: Vec<Part> = quiet.collect();
    let server = server(move |_| session(parts.clone()));
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let until = Instant::now() + 200 * SECOND;
    let mut current = 0;
    while Instant::now() < until {
        current += usize::from(read(&mut *source).await.unwrap().millis_behind_latest == Some(0));
    }
    assert_eq!(server.requests("SubscribeToShard").len(), 1);
    assert!(current >= 39, "{current}");
}

#[tokio::test(start_paused = true)]
async fn time_of_a_busy_caller_is_not_silence() {
    let server = server(|_| session([records(&[1]), Part::Wait(20 * SECOND), records(&[2]), Part::Hang]));
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    sleep(80 * SECOND).await;
    assert_eq!(read_records(&mut *source, 1).await, [2]);
    assert_eq!(server.requests("SubscribeToShard").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn next_event_is_not_read_before_the_next_read() {
    let server = server(|_| session((1..=20).map(|number| records(&[number])).chain([Part::Hang])));
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    for number in 1..=20 {
        assert_eq!(read_records(&mut *source, 1).await, [number]);
        sleep(SECOND).await;
        assert_eq!(server.frames_read() as u64, 1 + number, "the acceptance, and the returned events");
    }
}

#[tokio::test(start_paused = true)]
async fn session_is_renewed_without_loss_or_repeat() {
    let server = server(|index| {
        let first = index as u64 * 1000;
        let parts = (1..=150).flat_map(move |number| {
            let number = first + number;
            [
                Part::Wait(2 * SECOND),
                if number.is_multiple_of(3) { heartbeat(number) } else { records(&[number]) },
            ]
        });
        session(parts)
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let mut last = (0, 0);
    for _ in 0..MAX_READS {
        let batch = read(&mut *source).await.unwrap();
        for number in numbers_of(&batch) {
            let expected_start = if last.0 == number / 1000 { None } else { Some(last.1) };
            if let Some(previous) = expected_start {
                let (kind, from) = starting_position(&server, usize::try_from(number / 1000).unwrap());
                // A heartbeat may have followed the last record.
                let from: u64 = from.parse().unwrap();
                assert!(kind == "AFTER_SEQUENCE_NUMBER" && (previous..=previous + 1).contains(&from));
            }
            assert!(number > last.1);
            last = (number / 1000, number);
        }
        if server.requests("SubscribeToShard").len() == 4 {
            break;
        }
    }
    for interval in intervals(&server) {
        assert!(interval < SESSION_LIMIT - 10 * SECOND && interval > 200 * SECOND, "{interval:?}");
    }
    let intervals = intervals(&server);
    assert!(intervals.len() == 3 && intervals[0] != intervals[1], "renewals are spread: {intervals:?}");
}

#[tokio::test(start_paused = true)]
async fn expired_session_is_not_read_after_a_long_pause() {
    let server = server(|index| match index {
        0 => session([records(&[1]), records(&[2]), Part::Tear]),
        _ => session([records(&[2]), Part::Hang]),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    sleep(2 * SESSION_LIMIT).await;
    assert_eq!(read_records(&mut *source, 1).await, [2]);
    assert_eq!(starting_position(&server, 1), after(1));
}

#[tokio::test(start_paused = true)]
async fn broken_session_is_resumed_after_five_seconds() {
    for part in [
        Part::Exception("InternalFailureException"),
        Part::Exception("ResourceInUseException"),
        Part::Exception("KMSThrottlingException"),
        Part::HalfAnEvent,
        Part::Tear,
    ] {
        let broken_by = part.clone();
        let server = server(move |index| match index {
            0 => session([records(&[1, 2]), part.clone()]),
            _ => session([records(&[3]), Part::Hang]),
        });
        let mut source = open(&server, ReadFrom::TrimHorizon).await;
        assert_eq!(read_records(&mut *source, 3).await, [1, 2, 3], "{broken_by:?}");
        assert_eq!(starting_position(&server, 1), after(2));
        assert!(intervals(&server)[0] > SUBSCRIPTION_INTERVAL, "{broken_by:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn key_errors_are_reported_until_they_are_fixed() {
    for (kind, hint) in [
        ("KMSDisabledException", "kms:Decrypt"),
        ("KMSAccessDeniedException", "kms:Decrypt"),
        ("KMSInvalidStateException", "kms:Decrypt"),
        ("KMSNotFoundException", "kms:Decrypt"),
        ("KMSOptInRequired", "kms:Decrypt"),
    ] {
        let server = server(move |index| match index {
            0 => session([records(&[1]), Part::Exception(kind)]),
            1 => refused(kind),
            _ => session([records(&[2]), Part::Hang]),
        });
        let mut source = open(&server, ReadFrom::TrimHorizon).await;
        assert_eq!(read_records(&mut *source, 1).await, [1]);
        let error = read_error(&mut *source).await;
        assert_eq!(error.kind(), SourceErrorKind::KeyUnavailable, "{error}");
        for part in [kind, hint, SHARD, "scripted by the test"] {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
        // Until the next subscription, reads must not look like a quiet shard.
        while server.requests("SubscribeToShard").len() < 3 {
            if let Ok(batch) = read(&mut *source).await {
                assert_eq!(numbers_of(&batch), [2]);
                break;
            }
        }
        assert_eq!(starting_position(&server, 2), after(1));
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_in_use_is_retried_after_five_seconds() {
    let server = server(|index| match index {
        0 => refused("ResourceInUseException"),
        1 => session([Part::Exception("ResourceInUseException")]),
        _ => session([records(&[1]), Part::Hang]),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    assert!(intervals(&server).iter().all(|interval| *interval > SUBSCRIPTION_INTERVAL));
    assert_eq!(starting_position(&server, 2).0, "TRIM_HORIZON");
}

#[tokio::test(start_paused = true)]
async fn sdk_retries_are_off_for_subscriptions() {
    let server = server(|index| match index {
        0 => Answer::Json(500, serde_json::json!({ "__type": "InternalFailure" })),
        1 => Answer::Broken,
        _ => session([Part::Wait(25 * SECOND), records(&[1]), Part::Hang]),
    });
    let config = server.client().config().to_builder().retry_config(RetryConfig::standard()).build();
    let stream = KinesisStream::from_client(aws_sdk_kinesis::Client::from_conf(config), STREAM)
        .with_rng(fastrand::Rng::with_seed(7))
        .with_retrieval(RetrievalMode::FanOut(settings()));
    let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    let intervals = intervals(&server);
    assert_eq!(intervals.len(), 2, "silence shorter than the time-out is not a failure");
    assert!(intervals.iter().all(|interval| *interval > SUBSCRIPTION_INTERVAL), "{intervals:?}");
}

#[tokio::test(start_paused = true)]
async fn call_without_an_answer_times_out() {
    let server =
        server(|index| if index == 0 { Answer::Silence } else { session([records(&[1]), Part::Hang]) });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let started = Instant::now();
    while source.next_batch().await.unwrap().records.is_empty() {
        assert!(started.elapsed() < 60 * SECOND, "the read hangs");
    }
}

#[tokio::test(start_paused = true)]
async fn call_without_its_first_message_times_out() {
    let hung = Answer::Events(vec![Part::Hang]);
    let server =
        server(move |index| if index == 0 { hung.clone() } else { session([records(&[1]), Part::Hang]) });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let started = Instant::now();
    while source.next_batch().await.unwrap().records.is_empty() {
        assert!(started.elapsed() < 60 * SECOND, "the read hangs");
    }
}

#[tokio::test(start_paused = true)]
async fn last_event_is_returned_and_the_end_repeated() {
    let server = server(|_| {
        session([
            records(&[1]),
            Part::Event(event(&[2], None, &["shardId-000000000001", "shardId-000000000002"])),
        ])
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    let last = read(&mut *source).await.unwrap();
    assert_eq!(numbers_of(&last), [2]);
    let children: Vec<String> =
        last.shard_end.as_ref().unwrap().children.iter().map(|child| child.shard_id.to_string()).collect();
    assert_eq!(children, ["shardId-000000000001", "shardId-000000000002"]);
    for _ in 0..5 {
        let again = read(&mut *source).await.unwrap();
        assert_eq!(numbers_of(&again), Vec::<u64>::new());
        assert_eq!(again.shard_end, last.shard_end);
        sleep(SESSION_LIMIT).await;
    }
    assert_eq!(server.requests("SubscribeToShard").len(), 1, "an ended shard is not subscribed to");
}

#[tokio::test(start_paused = true)]
async fn end_without_children_needs_a_closed_shard() {
    // The proof is another subscription that finds nothing.
    for is_closed in [true, false] {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "ListShards" => shards(is_closed),
            "SubscribeToShard" if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
                session([records(&[1]), Part::Event(event(&[2], None, &[]))])
            }
            "SubscribeToShard" if is_closed => session([Part::Event(event(&[], None, &[]))]),
            "SubscribeToShard" => session([records(&[3]), Part::Hang]),
            _ => default_answer(operation),
        });
        let mut source = open(&server, ReadFrom::TrimHorizon).await;
        assert_eq!(read_records(&mut *source, 2).await, [1, 2]);
        let batch = loop {
            let batch = read(&mut *source).await.unwrap();
            if batch.shard_end.is_some() || !batch.records.is_empty() {
                break batch;
            }
        };
        assert_eq!(batch.shard_end, is_closed.then(|| ShardEnd::new(Vec::new())));
        assert_eq!(numbers_of(&batch), if is_closed { vec![] } else { vec![3] });
        assert_eq!(starting_position(&server, 1), after(2));
    }
}

#[tokio::test(start_paused = true)]
async fn children_named_early_do_not_end_the_shard() {
    const CHILD: &[&str] = &["shardId-000000000001"];
    let server = server(|index| match index {
        // A closed shard with a backlog; the session ends in the middle of it.
        0 => session([Part::Event(event(&[1], Some(1), CHILD)), Part::Event(event(&[2], Some(2), CHILD))]),
        // An empty event before a broken connection is not the end.
        1 => session([Part::Event(event(&[], Some(2), CHILD)), Part::Tear]),
        2 => session([Part::Event(event(&[], Some(2), CHILD)), Part::Event(event(&[3], Some(3), CHILD))]),
        _ => session([Part::Event(event(&[], Some(3), CHILD))]),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let mut numbers = Vec::new();
    let end = loop {
        let batch = read(&mut *source).await.unwrap();
        numbers.extend(numbers_of(&batch));
        if let Some(end) = batch.shard_end {
            break end;
        }
    };
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(end.children.len(), 1);
    assert_eq!(server.requests("SubscribeToShard").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn latest_resumes_from_the_first_answer() {
    for first in [
        session([Part::Wait(20 * SECOND), Part::Tear]),
        refused("ResourceInUseException"),
        refused("LimitExceededException"),
    ] {
        let server = server(move |index| match index {
            0 => first.clone(),
            1 => session([Part::Tear]),
            _ => session([records(&[1]), Part::Hang]),
        });
        let mut source = open(&server, ReadFrom::Latest).await;
        assert_eq!(read_records(&mut *source, 1).await, [1]);
        assert_eq!(starting_position(&server, 0).0, "LATEST");
        for index in [1, 2] {
            let position = &server.bodies("SubscribeToShard")[index]["StartingPosition"];
            assert_eq!(position["Type"], "AT_TIMESTAMP");
            let seconds = position["Timestamp"].as_f64().unwrap() - EPOCH_SECONDS as f64;
            assert!((-3.0..=0.0).contains(&seconds), "{seconds}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn latest_without_a_date_resumes_from_the_tip() {
    let server = server(|index| if index == 0 { session([]) } else { session([records(&[1]), Part::Hang]) });
    let mut source = open(&server.clone().without_date(), ReadFrom::Latest).await;
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    assert_eq!(starting_position(&server, 1).0, "LATEST");
}

#[tokio::test(start_paused = true)]
async fn cancelled_read_loses_nothing() {
    let server = server(|index| match index {
        0 => Answer::Silence,
        1 => session([Part::Wait(3 * SECOND), records(&[1]), Part::Wait(3 * SECOND), records(&[2])]),
        _ => session([Part::Wait(3 * SECOND), records(&[3]), Part::Hang]),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    let mut numbers = Vec::new();
    for _ in 0..MAX_READS {
        if let Ok(batch) = timeout(Duration::from_millis(700), source.next_batch()).await {
            numbers.extend(numbers_of(&batch.unwrap()));
        }
        if numbers.len() == 3 {
            break;
        }
    }
    assert_eq!(numbers, [1, 2, 3]);
    assert!(intervals(&server).iter().all(|interval| *interval > SUBSCRIPTION_INTERVAL));
}

#[tokio::test(start_paused = true)]
async fn read_cancelled_during_the_end_check_loses_nothing() {
    let listings = std::sync::atomic::AtomicUsize::new(0);
    let server = ScriptedKinesis::new(move |operation, body| match operation {
        "ListShards" if listings.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => Answer::Silence,
        "ListShards" => shards(true),
        "SubscribeToShard" if body["StartingPosition"]["Type"] == "TRIM_HORIZON" => {
            session([records(&[1]), Part::Event(event(&[2], None, &[])), records(&[9])])
        }
        "SubscribeToShard" => session([records(&[3]), Part::Hang]),
        _ => default_answer(operation),
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 2).await, [1, 2]);
    while server.requests("ListShards").is_empty() {
        let _ = timeout(7 * SECOND, source.next_batch()).await;
    }
    assert_eq!(read_records(&mut *source, 1).await, [3]);
    assert_eq!(starting_position(&server, 1), after(2));
}

#[tokio::test(start_paused = true)]
async fn invalid_record_is_reported_and_not_skipped() {
    let server = server(|index| {
        let mut faulty = event(&[2], Some(2), &[]);
        faulty["Records"][0]["SequenceNumber"] = "two".into();
        match index {
            0 => session([records(&[1]), Part::Event(faulty), records(&[3])]),
            _ => session([records(&[2, 3]), Part::Hang]),
        }
    });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    assert_eq!(read_error(&mut *source).await.kind(), SourceErrorKind::Invalid);
    loop {
        if let Ok(batch) = read(&mut *source).await {
            assert_eq!(numbers_of(&batch), [2, 3]);
            break;
        }
    }
    assert_eq!(starting_position(&server, 1), after(1));
}

#[tokio::test(start_paused = true)]
async fn status_counts_sessions_and_failures() {
    let server = server(|index| match index {
        0 => refused("ResourceInUseException"),
        _ => session([records(&[1]), Part::Hang]),
    });
    let stream = stream(&server, settings());
    assert_eq!(stream.fan_out_status().unwrap().consumer_arn, None);
    let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    read_records(&mut *source, 1).await;
    let status = stream.fan_out_status().unwrap();
    assert_eq!(status.consumer_arn.as_deref(), Some(CONSUMER_ARN));
    assert_eq!((status.subscribed_shards, status.polled_shards), (1, 0));
    assert_eq!((status.sessions, status.failed_sessions), (1, 1));
    drop(source);
    assert_eq!(stream.fan_out_status().unwrap().subscribed_shards, 0);
}
