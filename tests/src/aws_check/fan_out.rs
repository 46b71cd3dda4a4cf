//! The checks of enhanced fan-out, with a consumer that exists or that the options allow to register.

use std::time::Duration;

use aws_sdk_kinesis::types::{
    ConsumerStatus, ShardIteratorType, StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream,
};
use tokio::time::{Instant, sleep, timeout};

use super::assumption::{Findings, Verdict};
use super::calls::{Calls, Refusal};
use super::listing;
use super::stream::StreamFacts;

/// How long a consumer may take to become active.
const ACTIVE_LIMIT: Duration = Duration::from_secs(60);

/// The wait between two looks at the consumer.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// How long the first event of a subscription may take.
const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// How many events are awaited for the end of a closed shard.
const MAX_EVENTS: usize = 20;

/// The checks with a subscription.
pub(super) const OF_SUBSCRIPTIONS: [&str; 3] = ["fan-out.event", "fan-out.refusal", "fan-out.end"];

/// A consumer for the checks.
#[derive(Debug)]
pub(super) struct CheckedConsumer {
    pub(super) arn: String,
    /// Whether it was registered here, and is to be deregistered.
    pub(super) is_own: bool,
}

/// Finds the consumer, or registers it if that is allowed, and waits until it is active.
pub(super) async fn consumer(
    calls: &Calls,
    facts: &StreamFacts,
    name: &str,
    may_register: bool,
    findings: &mut Findings,
) -> Option<CheckedConsumer> {
    let described = calls.client.describe_stream_consumer().stream_arn(&facts.arn).consumer_name(name);
    let known = match described.send().await {
        Ok(answer) => answer.consumer_description.map(|consumer| consumer.consumer_arn),
        Err(error) => {
            let refusal = Refusal::of(&error);
            if refusal.code != "ResourceNotFoundException" || !may_register {
                let why =
                    format!("the consumer cannot be used: {refusal}; --register registers a missing one");
                findings.skip(&["fan-out.active"], &why);
                findings.skip(&OF_SUBSCRIPTIONS, &why);
                return None;
            }
            None
        }
    };
    let consumer = match known {
        Some(arn) => CheckedConsumer { arn, is_own: false },
        None => {
            let registered =
                calls.client.register_stream_consumer().stream_arn(&facts.arn).consumer_name(name);
            let registered = registered.send().await.map_err(|error| Refusal::of(&error));
            match registered.map(|answer| answer.consumer) {
                Ok(Some(consumer)) => CheckedConsumer { arn: consumer.consumer_arn, is_own: true },
                Ok(None) => {
                    findings.check("fan-out.active", false, "registered without a description");
                    return None;
                }
                Err(refusal) => {
                    let why = format!("registration was refused: {refusal}");
                    findings.skip(&["fan-out.active"], &why);
                    findings.skip(&OF_SUBSCRIPTIONS, &why);
                    return None;
                }
            }
        }
    };
    let started_at = Instant::now();
    while started_at.elapsed() < ACTIVE_LIMIT {
        let described = calls.client.describe_stream_consumer().consumer_arn(&consumer.arn).send().await;
        let status = described.ok().and_then(|answer| answer.consumer_description);
        if status.is_some_and(|consumer| consumer.consumer_status == ConsumerStatus::Active) {
            let seen = format!("active after {} s", started_at.elapsed().as_secs());
            if consumer.is_own {
                findings.check("fan-out.active", true, seen);
            } else {
                findings.skip(&["fan-out.active"], "the consumer existed");
            }
            return Some(consumer);
        }
        sleep(BETWEEN_LOOKS).await;
    }
    findings.check("fan-out.active", false, format!("not active after {} s", ACTIVE_LIMIT.as_secs()));
    // Returned, so that it is deregistered.
    Some(consumer)
}

/// Removes the consumer that was registered here. Returns the fault.
pub(super) async fn deregister(calls: &Calls, consumer: &CheckedConsumer) -> Result<(), String> {
    let removed = calls.client.deregister_stream_consumer().consumer_arn(&consumer.arn).send().await;
    removed.map(drop).map_err(|error| Refusal::of(&error).to_string())
}

/// Subscribes to an open and to a closed shard.
pub(super) async fn check(calls: &Calls, facts: &StreamFacts, consumer_arn: &str, findings: &mut Findings) {
    // One subscription a second of a consumer and shard, after the dry run.
    sleep(calls.pace.before_dry_run).await;
    match facts.shards.iter().find(|shard| !shard.is_closed) {
        Some(shard) => check_open_shard(calls, consumer_arn, &shard.id, findings).await,
        None => findings.skip(&OF_SUBSCRIPTIONS[..2], "no shard is open"),
    }
    let is_parent = |id: &str| !listing::children(&facts.shards, id).is_empty();
    match facts.shards.iter().rev().find(|shard| shard.is_closed && is_parent(&shard.id)) {
        Some(shard) => check_closed_shard(calls, consumer_arn, &shard.id, findings).await,
        None => findings.skip(&["fan-out.end"], "no closed shard has listed children"),
    }
}

type Events = aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;

async fn subscribe(calls: &Calls, consumer_arn: &str, shard_id: &str) -> Result<Events, Refusal> {
    let latest = StartingPosition::builder().r#type(ShardIteratorType::Latest).build().ok();
    let request = calls.client.subscribe_to_shard().consumer_arn(consumer_arn).shard_id(shard_id);
    request.set_starting_position(latest).send().await.map_err(|error| Refusal::of(&error))
}

/// The next event. `None`: the stream of events has ended.
async fn next(events: &mut Events) -> Result<Option<SubscribeToShardEvent>, String> {
    let limit = format!("no event within {} s", EVENT_LIMIT.as_secs());
    match timeout(EVENT_LIMIT, events.event_stream.recv()).await {
        Err(_) => Err(limit),
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)))) => Ok(Some(event)),
        Ok(Ok(Some(_))) => Err("an event of another kind".to_owned()),
        Ok(Err(error)) => {
            use aws_sdk_kinesis::error::ProvideErrorMetadata as _;
            Err(error.code().unwrap_or("the stream of events broke off").to_owned())
        }
    }
}

async fn check_open_shard(calls: &Calls, consumer_arn: &str, shard_id: &str, findings: &mut Findings) {
    let mut events = match subscribe(calls, consumer_arn, shard_id).await {
        Ok(events) => events,
        Err(refusal) => {
            findings.skip(&OF_SUBSCRIPTIONS[..2], &format!("the subscription was refused: {refusal}"));
            return;
        }
    };
    // At once: after five seconds the second one replaces the first one.
    let seen = match subscribe(calls, consumer_arn, shard_id).await {
        Err(refusal) => refusal.code,
        // Some servers refuse in the stream of events.
        Ok(mut second) => match next(&mut second).await {
            Err(fault) => fault,
            Ok(_) => "accepted".to_owned(),
        },
    };
    findings.check("fan-out.refusal", seen == "ResourceInUseException", seen);
    match next(&mut events).await {
        Ok(Some(event)) => {
            let has_continuation = !event.continuation_sequence_number.is_empty();
            let seen = if has_continuation { "with a continuation" } else { "without a continuation" };
            findings.check("fan-out.event", has_continuation, seen);
        }
        Ok(None) => findings.check("fan-out.event", false, "the subscription ended before its first event"),
        Err(fault) => findings.check("fan-out.event", false, fault),
    }
}

async fn check_closed_shard(calls: &Calls, consumer_arn: &str, shard_id: &str, findings: &mut Findings) {
    const ID: &str = "fan-out.end";
    let mut events = match subscribe(calls, consumer_arn, shard_id).await {
        Ok(events) => events,
        Err(refusal) => {
            findings.skip(&[ID], &format!("the subscription was refused: {refusal}"));
            return;
        }
    };
    let mut last: Option<SubscribeToShardEvent> = None;
    for _ in 0..MAX_EVENTS {
        match next(&mut events).await {
            Ok(Some(event)) => {
                let is_last = event.continuation_sequence_number.is_empty();
                last = Some(event);
                if is_last {
                    break;
                }
            }
            Ok(None) => break,
            Err(fault) => {
                findings.record(ID, Verdict::Broken, fault);
                return;
            }
        }
    }
    let Some(last) = last else {
        findings.check(ID, false, "the subscription ended before its first event");
        return;
    };
    let (children, has_continuation) =
        (last.child_shards().len(), !last.continuation_sequence_number.is_empty());
    let continuation = if has_continuation { "with" } else { "without" };
    let seen = format!("{children} children, {continuation} a continuation");
    findings.check(ID, children > 0 && !has_continuation, seen);
}
