//! Consumers: registered once for many processes, awaited, registered again after removal, listed, removed only on request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kinesis_asl::{ConsumerStatus, FanOutSettings, KinesisStream, RetrievalMode};
use serde_json::{Value, json};
use shard_worker::{ReadFrom, SourceErrorKind, StreamSource as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::STREAM;
use crate::support::fan_out::{
    CONSUMER_ARN, STREAM_ARN, after, consumer, default_answer, described, open, read_error, read_records,
    records, refused, server, session, settings, shard_id, starting_position, stream,
};
use crate::support::scripted::{Answer, Part, ScriptedKinesis};

/// The time from registration until the scripted consumer is active.
const BECOMES_ACTIVE_AFTER: Duration = Duration::from_secs(3);

/// The service's state of the one consumer of the stream.
#[derive(Debug, Default)]
struct Registry {
    arn: Option<String>,
    registered_at: Option<Instant>,
    registrations: usize,
}

impl Registry {
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
                self.registrations += 1;
                let arn = format!("{STREAM_ARN}/consumer/count:{}", self.registrations);
                found["ConsumerARN"] = json!(arn);
                found["ConsumerStatus"] = json!("CREATING");
                (self.arn, self.registered_at) = (Some(arn), Some(Instant::now()));
                Answer::Json(200, json!({ "Consumer": found }))
            }
            ("DeregisterStreamConsumer", Some(_)) => {
                self.arn = None;
                Answer::Json(200, json!({}))
            }
            _ => default_answer(operation),
        }
    }
}

fn server_with(
    registry: &Arc<Mutex<Registry>>,
    subscribe: impl Fn(usize, &Value) -> Answer + Send + Sync + 'static,
) -> ScriptedKinesis {
    let (registry, count) = (registry.clone(), AtomicUsize::new(0));
    ScriptedKinesis::new(move |operation, body| match operation {
        "SubscribeToShard" => subscribe(count.fetch_add(1, Ordering::Relaxed), body),
        _ => registry.lock().unwrap().answer(operation),
    })
}

#[tokio::test(start_paused = true)]
async fn existing_consumer_is_used() {
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
async fn many_processes_register_one_consumer_and_await_it() {
    let registry = Arc::new(Mutex::new(Registry::default()));
    let server = server_with(&registry, |_, _| session([records(&[1]), Part::Hang]));
    let mut processes = JoinSet::new();
    for seed in 0..16 {
        let stream = KinesisStream::from_client(server.client(), STREAM)
            .with_rng(fastrand::Rng::with_seed(seed))
            .with_retrieval(RetrievalMode::FanOut(settings()));
        processes.spawn(async move {
            let started = Instant::now();
            let consumer = stream.ensure_consumer().await.unwrap().unwrap();
            // The shards of the process use the consumer without further checks.
            let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
            read_records(&mut *source, 1).await;
            (consumer.arn, started.elapsed())
        });
    }
    for (arn, took) in processes.join_all().await {
        assert_eq!(arn, format!("{STREAM_ARN}/consumer/count:1"));
        assert!(took >= BECOMES_ACTIVE_AFTER && took < BECOMES_ACTIVE_AFTER * 3, "{took:?}");
    }
    assert_eq!(registry.lock().unwrap().registrations, 1);
    let checks = server.requests("DescribeStreamConsumer").len();
    assert!(checks <= 16 * 8, "{checks} checks");
}

#[tokio::test(start_paused = true)]
async fn shards_of_a_process_check_one_at_a_time() {
    let registry = Arc::new(Mutex::new(Registry::default()));
    let server = server_with(&registry, |_, _| session([records(&[1]), Part::Hang]));
    let stream = stream(&server, settings());
    let mut shards = JoinSet::new();
    for _ in 0..50 {
        let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
        shards.spawn(async move { read_records(&mut *source, 1).await });
    }
    assert_eq!(shards.join_all().await.len(), 50);
    let checks = server.requests("DescribeStreamConsumer").len();
    assert!(checks <= 8, "{checks} checks");
    assert_eq!(server.requests("SubscribeToShard").len(), 50);
}

#[tokio::test(start_paused = true)]
async fn consumer_that_never_becomes_active_is_an_error() {
    for (description, registration, hint) in [
        (described("CREATING"), None, "CREATING"),
        (described("DELETING"), None, "DELETING"),
        (
            refused("ResourceNotFoundException"),
            Some(refused("LimitExceededException")),
            "list them and deregister",
        ),
        (refused("ResourceNotFoundException"), Some(refused("ResourceInUseException")), "another process"),
    ] {
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "DescribeStreamConsumer" => description.clone(),
            "RegisterStreamConsumer" => registration.clone().expect("no registration is expected"),
            _ => default_answer(operation),
        });
        let stream = stream(&server, settings());
        let started = Instant::now();
        let error = timeout(Duration::from_secs(90), stream.ensure_consumer()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        assert!(error.to_string().contains(hint) && error.to_string().contains("count"), "{error}");
        assert!(started.elapsed() >= Duration::from_secs(60));
        assert!(server.requests("DescribeStreamConsumer").len() <= 40);
    }
}

#[tokio::test(start_paused = true)]
async fn denied_calls_fail_at_once() {
    for operation in ["DescribeStreamConsumer", "RegisterStreamConsumer"] {
        let server = ScriptedKinesis::new(move |called, _| match called {
            _ if called == operation => refused("AccessDeniedException"),
            "DescribeStreamConsumer" => refused("ResourceNotFoundException"),
            _ => default_answer(called),
        });
        let stream = stream(&server, settings());
        assert_eq!(stream.ensure_consumer().await.unwrap_err().kind(), SourceErrorKind::Denied);
        let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(read_error(&mut *source).await.kind(), SourceErrorKind::Denied);
    }
}

#[tokio::test(start_paused = true)]
async fn missing_consumer_arn_is_named_and_not_registered() {
    for found in [refused("ResourceNotFoundException"), described("DELETING")] {
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "DescribeStreamConsumer" => found.clone(),
            _ => default_answer(operation),
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
async fn removed_consumer_is_registered_again_without_loss() {
    let registry = Arc::new(Mutex::new(Registry::default()));
    let remover = registry.clone();
    let server =
        server_with(&registry, move |index, body| match (index, body["ConsumerARN"].as_str().unwrap()) {
            (0, _) => {
                remover.lock().unwrap().arn = None;
                session([records(&[1]), Part::Exception("ResourceNotFoundException")])
            }
            (_, arn) if arn.ends_with(":2") => session([records(&[2]), Part::Hang]),
            _ => refused("ResourceNotFoundException"),
        });
    let mut source = open(&server, ReadFrom::TrimHorizon).await;
    assert_eq!(read_records(&mut *source, 2).await, [1, 2]);
    assert_eq!(starting_position(&server, 1), after(1));
    assert_eq!(registry.lock().unwrap().registrations, 2);
}

#[tokio::test(start_paused = true)]
async fn removed_consumer_given_by_arn_is_an_error() {
    let count = AtomicUsize::new(0);
    let server = ScriptedKinesis::new(move |operation, _| match operation {
        "DescribeStreamConsumer" if count.fetch_add(1, Ordering::Relaxed) > 0 => {
            refused("ResourceNotFoundException")
        }
        "SubscribeToShard" => refused("ResourceNotFoundException"),
        _ => default_answer(operation),
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
async fn shard_is_not_found_only_if_the_listing_lacks_it() {
    for is_listed in [true, false] {
        let server = ScriptedKinesis::new(move |operation, _| match operation {
            "SubscribeToShard" => refused("ResourceNotFoundException"),
            "ListShards" if !is_listed => Answer::Json(200, json!({ "Shards": [] })),
            _ => default_answer(operation),
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
async fn only_the_registrant_deregisters_and_only_on_request() {
    for (deregister_at_end, is_there_before) in [(true, false), (true, true), (false, false)] {
        let registry = Arc::new(Mutex::new(Registry::default()));
        if is_there_before {
            registry.lock().unwrap().arn = Some(CONSUMER_ARN.to_owned());
        }
        let server = server_with(&registry, |_, _| session([Part::Hang]));
        let mut settings = settings();
        settings.deregister_at_end = deregister_at_end;
        let stream = stream(&server, settings);
        stream.ensure_consumer().await.unwrap();
        let expected = deregister_at_end && !is_there_before;
        assert_eq!(stream.clone().end_retrieval().await.unwrap(), expected);
        assert_eq!(registry.lock().unwrap().arn.is_none(), expected);
        let removals = server.bodies("DeregisterStreamConsumer");
        assert_eq!(removals.len(), usize::from(expected));
        for removal in removals {
            assert_eq!(removal["ConsumerARN"], format!("{STREAM_ARN}/consumer/count:1"));
        }
        assert!(!stream.end_retrieval().await.unwrap(), "the second call removes nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn consumers_of_all_pages_are_listed() {
    let server = ScriptedKinesis::new(|operation, body| match (operation, body["NextToken"].as_str()) {
        ("ListStreamConsumers", None) => Answer::Json(
            200,
            json!({ "Consumers": [consumer("ACTIVE"), consumer("CREATING")], "NextToken": "more" }),
        ),
        ("ListStreamConsumers", Some("more")) => {
            Answer::Json(200, json!({ "Consumers": [consumer("DELETING"), consumer("NEW")] }))
        }
        _ => default_answer(operation),
    });
    let consumers = stream(&server, settings()).list_consumers().await.unwrap();
    let statuses: Vec<ConsumerStatus> = consumers.iter().map(|consumer| consumer.status).collect();
    use ConsumerStatus::{Active, Creating, Deleting, Unknown};
    assert_eq!(statuses, [Active, Creating, Deleting, Unknown]);
    assert!(consumers.iter().all(|consumer| consumer.created_at.is_some() && consumer.arn == CONSUMER_ARN));

    let endless = ScriptedKinesis::new(|operation, _| match operation {
        "ListStreamConsumers" => Answer::Json(200, json!({ "Consumers": [], "NextToken": "more" })),
        _ => default_answer(operation),
    });
    let error = stream(&endless, settings()).list_consumers().await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
}
