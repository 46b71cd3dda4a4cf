//! Runs the checks within the time, and removes what they created.

use std::future::Future;
use std::time::Duration;

use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use tokio::time::{Instant, timeout, timeout_at};

use super::assumption::Findings;
use super::calls::{CALL_LIMIT, Calls, Pace};
use super::fan_out::{self, CheckedConsumer};
use super::reading::{self, Answers};
use super::stream::StreamFacts;
use super::{dry_run, end_of_shard, stream, table};

/// How long all checks together may take. With a consumer that is slow to become active, and with the removal of what was created,
/// it is less than ten minutes.
const RUN_LIMIT: Duration = Duration::from_secs(6 * 60);

/// How long the removal of a consumer or a table may take.
const REMOVAL_LIMIT: Duration = Duration::from_secs(20);

/// The clients of the checks.
#[derive(Debug, Clone)]
pub struct Clients {
    /// Kinesis.
    pub kinesis: aws_sdk_kinesis::Client,
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
}

/// What is checked. By default nothing is written.
#[derive(Debug, Clone)]
pub struct Options {
    /// The stream: its name or its ARN.
    pub stream: String,
    /// The consumer for the checks of fan-out.
    pub consumer: Option<String>,
    /// Whether that consumer may be registered and deregistered.
    pub may_register: bool,
    /// A table that does not exist, to be created and deleted.
    pub table: Option<String>,
    /// Whether the calls keep to the limits of the real service, which local servers do not have.
    pub is_paced: bool,
}

impl Options {
    /// The checks that only read, at the pace that the real service allows.
    pub fn of_stream(stream: impl Into<String>) -> Self {
        Self { stream: stream.into(), consumer: None, may_register: false, table: None, is_paced: true }
    }
}

/// What a run found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was seen of the assumptions.
    pub findings: Findings,
    /// What was created and could not be removed, one line each.
    pub left_behind: Vec<String>,
}

/// Runs all checks.
pub async fn run(clients: &Clients, options: &Options) -> Outcome {
    let deadline = Instant::now() + RUN_LIMIT;
    let mut outcome = Outcome::default();
    let pace = if options.is_paced { Pace::OF_THE_SERVICE } else { Pace::UNLIMITED };
    let calls = Calls::new(&clients.kinesis, &options.stream, pace);
    let timeouts = TimeoutConfig::builder().operation_timeout(CALL_LIMIT).build();
    let dynamodb = clients.dynamodb.config().to_builder().timeout_config(timeouts).build();
    check_table(&aws_sdk_dynamodb::Client::from_conf(dynamodb), options, deadline, &mut outcome).await;
    let findings = &mut outcome.findings;
    let facts = timeout_at(deadline, Box::pin(stream::check(&calls, findings))).await.ok().flatten();
    if let Some(facts) = facts {
        let mut answers = Answers::default();
        within(deadline, reading::check(&calls, &facts, &mut answers, findings)).await;
        within(deadline, end_of_shard::check(&calls, &facts, &mut answers, findings)).await;
        answers.judge(findings);
        check_consumer(&calls, &facts, options, deadline, &mut outcome).await;
    }
    check_headers(&calls, &mut outcome.findings);
    outcome
}

/// Runs a check until the deadline. What it has not judged by then is reported as not tried.
async fn within(deadline: Instant, check: impl Future<Output = ()>) {
    // Boxed because the futures are large.
    let _ = timeout_at(deadline, Box::pin(check)).await;
}

async fn check_table(
    client: &aws_sdk_dynamodb::Client,
    options: &Options,
    deadline: Instant,
    outcome: &mut Outcome,
) {
    let Some(table) = &options.table else {
        outcome.findings.skip(&table::IDS, "not asked for by --table");
        return;
    };
    if !table::create(client, table, &mut outcome.findings).await {
        return;
    }
    within(deadline, table::check(client, table, &mut outcome.findings)).await;
    let deleted = timeout(REMOVAL_LIMIT, table::delete(client, table)).await;
    if let Some(fault) = fault_of(deleted) {
        outcome.left_behind.push(format!("the table {table}: {fault}; delete it"));
    }
}

async fn check_consumer(
    calls: &Calls,
    facts: &StreamFacts,
    options: &Options,
    deadline: Instant,
    outcome: &mut Outcome,
) {
    let findings = &mut outcome.findings;
    let consumer: Option<CheckedConsumer> = match &options.consumer {
        None => {
            findings.skip(&["fan-out.active"], "not asked for by --consumer");
            findings.skip(&fan_out::OF_SUBSCRIPTIONS, "not asked for by --consumer");
            None
        }
        Some(name) => fan_out::consumer(calls, facts, name, options.may_register, findings).await,
    };
    let arn = consumer.as_ref().map(|consumer| consumer.arn.as_str());
    within(deadline, dry_run::check(calls, facts, arn, findings)).await;
    let Some(consumer) = consumer else { return };
    within(deadline, fan_out::check(calls, facts, &consumer.arn, findings)).await;
    if consumer.is_own {
        let deregistered = timeout(REMOVAL_LIMIT, fan_out::deregister(calls, &consumer)).await;
        if let Some(fault) = fault_of(deregistered) {
            outcome.left_behind.push(format!("the consumer {}: {fault}; deregister it", consumer.arn));
        }
    }
}

fn fault_of<T>(removed: Result<Result<(), String>, T>) -> Option<String> {
    match removed {
        Ok(removed) => removed.err(),
        Err(_) => Some("no answer".to_owned()),
    }
}

fn check_headers(calls: &Calls, findings: &mut Findings) {
    let counts = calls.headers.counts();
    if counts.answers == 0 {
        findings.skip(&["answer.date", "answer.ids"], "no call was answered");
        return;
    }
    let answers = counts.answers;
    findings.check("answer.date", counts.dates == answers, format!("{} of {answers} answers", counts.dates));
    let ids = counts.ids.min(counts.extended_ids);
    findings.check("answer.ids", ids == answers, format!("{ids} of {answers} answers with both"));
}
