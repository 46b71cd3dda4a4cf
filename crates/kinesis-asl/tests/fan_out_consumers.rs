//! Consumers: registered once by many, awaited, replaced when they are gone, listed, removed only on request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinesis_asl::{ConsumerStatus, FanOutSettings, KinesisStream, RetrievalMode};
use serde_json::{Value, json};
use shard_worker::{ReadFrom, SourceErrorKind, StreamSource as _};
use support::fan_out::{
    CONSUMER_ARN, STREAM, STREAM_ARN, after, consumer, described, open, read_error, read_records, records,
    refused, server, session, settings, shard_id, start, stream, usual,
};
use support::scripted::{Answer, Part, ScriptedKinesis};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long after its registration a consumer here becomes active.
const BECOMES_ACTIVE_AFTER: Duration = Duration::from_secs(3);

/// The registered consumer of a stream, as the service keeps it.
#[derive(Debug, Default)]
struct Register {
    arn: Option<String>,
    registered_at: Option<Instant>,
    times: usize,
}

impl Register {
    fn answer(&mut self, operation: &str) -> Answer {
        let status = match self.registered_at {
            Some(since) if since.elapsed() < BECOMES_ACTIVE_AFTER => "CREATING",
            _ => "ACTIVE",
        };
        let mut found = consumer(status);
        match (operation, &self.arn) {
            ("DescribeStreamConsumer", None) | ("DeregisterStreamConsumer", None) => {
                refused("ResourceNotFoundException")
            }
            ("DescribeStreamConsumer", Some(arn)) => {
                found["ConsumerARN"] = json!(arn);
                Answer::Json(200, json!({ "ConsumerDescription": found }))
            }
            ("RegisterStreamConsumer", Some(_)) => refused("ResourceInUseException"),
            ("RegisterStreamConsumer", None) => {
                self.times += 1;
                let arn = format!("{STREAM_ARN}/consumer/count:{}", self.times);
                found["ConsumerARN"] = json!(arn);
                found["ConsumerStatus"] = json!("CREATING");
                (self.arn, self.registered_at) = (Some(arn), Some(Instant::now()));
                Answer::Json(200, json!({ "Consumer": found }))
            }
            ("DeregisterStreamConsumer", Some(_)) => {
                self.arn = None;
                Answer::Json(200, json!({}))
            }
            _ => usual(operation),
        }
    }
}

fn with_register(
    register: &Arc<Mutex<Register>>,
    subscribe: impl Fn(usize, &Value) -> Answer + Send + Sync + 'static,
) -> ScriptedKinesis {
    let (register, count) = (register.clone(), AtomicUsize::new(0));
    ScriptedKinesis::new(move |operation, body| match operation {
        "SubscribeToShard" => subscribe(count.fetch_add(1, Ordering::Relaxed), body),
        _ => register.lock().unwrap().answer(operation),
    })
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_there_is_used_again() {
    let server = server(|_| session([records(&[1]), Part::Hang]));
    let consumer = stream(&server, settings()).ensure_consumer().await.unwrap().unwrap();
    assert_eq!((consumer.arn.as_str(), consumer.status), (CONSUMER_ARN, ConsumerStatus::Active));
    assert!(server.requests("RegisterStreamConsumer").is_empty());
    let asked = &server.bodies("DescribeStreamConsumer")[0];
    assert_eq!((&asked["StreamARN"], &asked["ConsumerName"]), (&json!(STREAM_ARN), &json!("count")));
    let polled = KinesisStream::from_client(server.client(), STREAM);
    assert_eq!(polled.ensure_consumer().await.unwrap(), None);
    assert_eq!(polled.retrieval(), RetrievalMode::Polling);
}

#[tokio::test(start_paused = true)]
async fn many_processes_register_one_consumer_and_wait_until_it_is_active() {
    let register = Arc::new(Mutex::new(Register::default()));
    let server = with_register(&register, |_, _| session([records(&[1]), Part::Hang]));
    let mut processes = JoinSet::new();
    for seed in 0..16 {
        let stream = KinesisStream::from_client(server.client(), STREAM)
            .with_rng(fastrand::Rng::with_seed(seed))
            .with_retrieval(RetrievalMode::FanOut(settings()));
        processes.spawn(async move {
            let begun = Instant::now();
            let consumer = stream.ensure_consumer().await.unwrap().unwrap();
            // Each has several shards, which look no further.
            let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
            read_records(&mut *source, 1).await;
            (consumer.arn, begun.elapsed())
        });
    }
    for (arn, took) in processes.join_all().await {
        assert_eq!(arn, format!("{STREAM_ARN}/consumer/count:1"));
        assert!(took >= BECOMES_ACTIVE_AFTER && took < BECOMES_ACTIVE_AFTER * 3, "{took:?}");
    }
    assert_eq!(register.lock().unwrap().times, 1);
    let looks = server.requests("DescribeStreamConsumer").len();
    assert!(looks <= 16 * 8, "{looks} looks");
}

#[tokio::test(start_paused = true)]
async fn shards_that_start_together_look_one_at_a_time() {
    let register = Arc::new(Mutex::new(Register::default()));
    let server = with_register(&register, |_, _| session([records(&[1]), Part::Hang]));
    let stream = stream(&server, settings());
    let mut shards = JoinSet::new();
    for _ in 0..50 {
        let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
        shards.spawn(async move { read_records(&mut *source, 1).await });
    }
    assert_eq!(shards.join_all().await.len(), 50);
    let looks = server.requests("DescribeStreamConsumer").len();
    assert!(looks <= 8, "{looks} looks");
    assert_eq!(server.requests("SubscribeToShard").len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_cannot_be_had_is_given_up_in_time_with_a_remedy() {
    for (description, registration, said) in [
        (described("CREATING"), None, "CREATING"),
        (described("DELETING"), None, "DELETING"),
        (
            refused("ResourceNotFoundException"),
            Some(refused("LimitExceededException")),
            "list them and deregister",
        ),
        (refused("ResourceNotFoundException"), Some(refused("ResourceInUseException")), "somebody else"),
    ] {
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "DescribeStreamConsumer" => description.clone(),
            "RegisterStreamConsumer" => registration.clone().expect("nothing is to be registered"),
            _ => usual(operation),
        });
        let stream = stream(&server, settings());
        let begun = Instant::now();
        let error = timeout(Duration::from_secs(90), stream.ensure_consumer()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        assert!(error.to_string().contains(said) && error.to_string().contains("count"), "{error}");
        assert!(begun.elapsed() >= Duration::from_secs(60));
        assert!(server.requests("DescribeStreamConsumer").len() <= 40);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_is_said_at_once() {
    for operation in ["DescribeStreamConsumer", "RegisterStreamConsumer"] {
        let server = ScriptedKinesis::new(move |called, _| match called {
            _ if called == operation => refused("AccessDeniedException"),
            "DescribeStreamConsumer" => refused("ResourceNotFoundException"),
            _ => usual(called),
        });
        let stream = stream(&server, settings());
        assert_eq!(stream.ensure_consumer().await.unwrap_err().kind(), SourceErrorKind::Denied);
        let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(read_error(&mut *source).await.kind(), SourceErrorKind::Denied);
    }
}

#[tokio::test(start_paused = true)]
async fn a_given_arn_is_never_registered_and_named_when_it_does_not_exist() {
    for found in [refused("ResourceNotFoundException"), described("DELETING")] {
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "DescribeStreamConsumer" => found.clone(),
            _ => usual(operation),
        });
        let stream = stream(&server, FanOutSettings::with_consumer_arn(CONSUMER_ARN));
        let error = stream.ensure_consumer().await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid);
        assert!(error.to_string().contains(CONSUMER_ARN), "{error}");
        assert_eq!(server.bodies("DescribeStreamConsumer")[0]["ConsumerARN"], CONSUMER_ARN);
        assert!(server.requests("RegisterStreamConsumer").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_somebody_removed_is_registered_again_and_nothing_is_lost() {
    let register = Arc::new(Mutex::new(Register::default()));
    let remover = register.clone();
    let server =
        with_register(&register, move |index, body| match (index, body["ConsumerARN"].as_str().unwrap()) {
            (0, _) => {
                remover.lock().unwrap().arn = None;
                session([records(&[1]), Part::Exception("ResourceNotFoundException")])
            }
            (_, arn) if arn.ends_with(":2") => session([records(&[2]), Part::Hang]),
            _ => refused("ResourceNotFoundException"),
        });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 2).await, [1, 2]);
    assert_eq!(start(&server, 1), after(1));
    assert_eq!(register.lock().unwrap().times, 2);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_of_somebody_else_that_is_gone_is_an_error() {
    let count = AtomicUsize::new(0);
    let server = ScriptedKinesis::new(move |operation, _| match operation {
        "DescribeStreamConsumer" if count.fetch_add(1, Ordering::Relaxed) > 0 => {
            refused("ResourceNotFoundException")
        }
        "SubscribeToShard" => refused("ResourceNotFoundException"),
        _ => usual(operation),
    });
    let stream = stream(&server, FanOutSettings::with_consumer_arn(CONSUMER_ARN));
    let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    let error = read_error(&mut *source).await;
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(
        error.to_string().contains("deregistered") && error.to_string().contains(CONSUMER_ARN),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn only_a_listing_without_the_shard_says_that_it_is_gone() {
    for is_listed in [true, false] {
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "SubscribeToShard" => refused("ResourceNotFoundException"),
            "ListShards" if !is_listed => Answer::Json(200, json!({ "Shards": [] })),
            _ => usual(operation),
        });
        let mut settings = settings();
        settings.fall_back_to_polling = false;
        let mut source = stream(&server, settings).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
        let error = read_error(&mut *source).await;
        let expected = if is_listed { SourceErrorKind::Unavailable } else { SourceErrorKind::ShardNotFound };
        assert_eq!(error.kind(), expected, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_removed_only_on_request_and_only_by_who_registered_it() {
    for (deregister_at_end, is_there_before) in [(true, false), (true, true), (false, false)] {
        let register = Arc::new(Mutex::new(Register::default()));
        if is_there_before {
            register.lock().unwrap().arn = Some(CONSUMER_ARN.to_owned());
        }
        let server = with_register(&register, |_, _| session([Part::Hang]));
        let mut settings = settings();
        settings.deregister_at_end = deregister_at_end;
        let stream = stream(&server, settings);
        stream.ensure_consumer().await.unwrap();
        let expected = deregister_at_end && !is_there_before;
        assert_eq!(stream.clone().end_retrieval().await.unwrap(), expected);
        assert_eq!(register.lock().unwrap().arn.is_none(), expected);
        let removals = server.bodies("DeregisterStreamConsumer");
        assert_eq!(removals.len(), usize::from(expected));
        for removal in removals {
            assert_eq!(removal["ConsumerARN"], format!("{STREAM_ARN}/consumer/count:1"));
        }
        assert!(!stream.end_retrieval().await.unwrap(), "once is enough");
    }
}

#[tokio::test(start_paused = true)]
async fn all_consumers_are_listed_over_all_pages() {
    let server = ScriptedKinesis::new(|operation, body| match (operation, body["NextToken"].as_str()) {
        ("ListStreamConsumers", None) => Answer::Json(
            200,
            json!({ "Consumers": [consumer("ACTIVE"), consumer("CREATING")], "NextToken": "more" }),
        ),
        ("ListStreamConsumers", Some("more")) => {
            Answer::Json(200, json!({ "Consumers": [consumer("DELETING"), consumer("NEW")] }))
        }
        _ => usual(operation),
    });
    let consumers = stream(&server, settings()).list_consumers().await.unwrap();
    let statuses: Vec<ConsumerStatus> = consumers.iter().map(|consumer| consumer.status).collect();
    use ConsumerStatus::{Active, Creating, Deleting, Unknown};
    assert_eq!(statuses, [Active, Creating, Deleting, Unknown]);
    assert!(consumers.iter().all(|consumer| consumer.created_at.is_some() && consumer.arn == CONSUMER_ARN));

    let circle = ScriptedKinesis::new(|operation, _| match operation {
        "ListStreamConsumers" => Answer::Json(200, json!({ "Consumers": [], "NextToken": "more" })),
        _ => usual(operation),
    });
    let error = stream(&circle, settings()).list_consumers().await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
}
