//! The checks of dry runs: what the credentials may do, by a call that does nothing.
//!
//! No dry run of a write is sent: a server that does not know dry runs would carry it out.

use aws_sdk_kinesis::types::{ShardIteratorType, StartingPosition};
use tokio::time::sleep;

use super::assumption::Findings;
use super::calls::{Calls, Refusal, Start, record_refusal};
use super::stream::StreamFacts;

/// The code of a dry run that would be allowed.
const ALLOWED: &str = "DryRunOperationException";

/// Sends the dry runs. `consumer_arn`: of an active consumer.
pub(super) async fn check(
    calls: &Calls,
    facts: &StreamFacts,
    consumer_arn: Option<&str>,
    findings: &mut Findings,
) {
    let Some(shard) = facts.shards.iter().find(|shard| !shard.is_closed) else {
        findings.skip(&["dry-run.iterator", "dry-run.records", "dry-run.subscribe"], "no shard is open");
        return;
    };
    sleep(calls.pace.before_dry_run).await;
    let request = calls.client.get_shard_iterator().shard_id(&shard.id).dry_run(true);
    let request = request.set_stream_name(calls.name()).set_stream_arn(calls.arn());
    let answer = request.shard_iterator_type(ShardIteratorType::Latest).send().await;
    judge("dry-run.iterator", answer.map(drop).map_err(|error| Refusal::of(&error)), findings);

    match calls.iterator(&shard.id, Start::Latest).await {
        Ok(iterator) => {
            sleep(calls.pace.before_dry_run).await;
            let request = calls.client.get_records().shard_iterator(iterator).limit(1).dry_run(true);
            let answer = request.set_stream_arn(calls.arn()).send().await;
            judge("dry-run.records", answer.map(drop).map_err(|error| Refusal::of(&error)), findings);
        }
        Err(refusal) => findings.skip(&["dry-run.records"], &format!("no iterator: {refusal}")),
    }

    let Some(consumer_arn) = consumer_arn else {
        findings.skip(&["dry-run.subscribe"], "no consumer was given");
        return;
    };
    sleep(calls.pace.before_dry_run).await;
    let latest = StartingPosition::builder().r#type(ShardIteratorType::Latest).build().ok();
    let request = calls.client.subscribe_to_shard().consumer_arn(consumer_arn).shard_id(&shard.id);
    let answer = request.set_starting_position(latest).dry_run(true).send().await;
    judge("dry-run.subscribe", answer.map(drop).map_err(|error| Refusal::of(&error)), findings);
}

fn judge(id: &'static str, answer: Result<(), Refusal>, findings: &mut Findings) {
    match answer {
        Ok(()) => findings.check(id, false, "carried out instead: the service ignores `DryRun`"),
        Err(refusal) if refusal.code == ALLOWED => findings.check(id, true, "allowed"),
        Err(refusal) if refusal.is_denied() => findings.check(id, true, "denied by a policy"),
        Err(refusal) => record_refusal(id, &refusal, findings),
    }
}
