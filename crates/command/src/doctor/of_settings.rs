//! What `doctor` finds about the credentials and about the calls that the chosen settings need: fan-out, metrics, dead letters.

use clap::Args;
use kinesis_asl::{AslErrorKind, KinesisAsl, KinesisStream, Permission};
use lease_store::ShardId;
use shard_worker::{ShardFilter, StreamSource as _};

use super::finding::Finding;
use crate::connection::ApplicationArguments;

const IDENTITY: &str = "identity";
const PERMISSION: &str = "permission";

/// The action by which metrics are published.
const PUT_METRICS: &str = "cloudwatch:PutMetricData";

/// Stands for the stream while only the account matters; no call is made with it.
const NO_STREAM: &str = "not-known-yet";

/// The settings of the workers that decide about their permissions. They have the names of those of `iam-policy`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings of the workers")]
pub(crate) struct SettingsArguments {
    /// The workers read by enhanced fan-out, with the consumer of this name
    #[arg(long, value_name = "CONSUMER")]
    fan_out: Option<String>,

    /// The workers send metrics to CloudWatch
    #[arg(long)]
    metrics: bool,

    /// The stream for dead letters
    #[arg(long, value_name = "STREAM")]
    dead_letters: Option<String>,
}

/// The findings about credentials and settings.
pub(crate) async fn findings(
    application: &ApplicationArguments,
    settings: &SettingsArguments,
    stream: Option<&KinesisStream>,
) -> Vec<Finding> {
    let name = stream.map_or(NO_STREAM, |stream| stream.stream_name());
    let asked = application.stream.as_deref().filter(|asked| asked.starts_with("arn:")).unwrap_or(name);
    let aws = match application.connection.connect(asked, application.table.as_deref()).await {
        Ok(aws) => aws,
        Err(error) => return vec![Finding::error(IDENTITY, error.to_string())],
    };
    let mut findings = of_identity(&aws, application.connection.endpoint_url.as_deref(), stream).await;
    if let Some(consumer) = &settings.fan_out {
        findings.extend(of_fan_out(&aws, consumer, stream).await);
    }
    if settings.metrics {
        findings.push(match application.connection.is_emulator_of_kinesis() {
            true => of_permission(PUT_METRICS, &Permission::NotAsked),
            false => of_metrics(&aws, &application.application).await,
        });
    }
    if let Some(stream) = &settings.dead_letters {
        findings.push(match aws.may_put_records(stream).await {
            Ok(answer) => of_permission("kinesis:PutRecord", &answer),
            Err(error) => Finding::error(PERMISSION, error.to_string()),
        });
    }
    findings
}

async fn of_identity(
    aws: &KinesisAsl,
    endpoint_url: Option<&str>,
    stream: Option<&KinesisStream>,
) -> Vec<Finding> {
    let identity = match aws.caller_identity(endpoint_url).await {
        Ok(Some(identity)) => identity,
        Ok(None) => {
            let text = "the credentials are those of an emulator; set AWS_ENDPOINT_URL_STS to ask it";
            return vec![Finding::good(IDENTITY, text)];
        }
        // An emulator of all services may lack this one.
        Err(error) if endpoint_url.is_some() && error.kind() != AslErrorKind::Denied => {
            return vec![Finding::warning(IDENTITY, error.to_string())];
        }
        Err(error) => return vec![Finding::error(IDENTITY, error.to_string())],
    };
    let mut findings =
        vec![Finding::good(IDENTITY, format!("the credentials are those of {}", identity.arn))];
    let described = match stream {
        Some(stream) => stream.describe().await.ok(),
        None => None,
    };
    let of_stream = described.and_then(|stream| stream.identity.arn.split(':').nth(4).map(str::to_owned));
    if let Some(account) = of_stream.filter(|account| *account != identity.account) {
        findings.push(Finding::warning(
            IDENTITY,
            format!(
                "the stream belongs to the account {account}, the credentials to {}; the stream needs a policy for them, and all \
                 workers must name it by its ARN",
                identity.account
            ),
        ));
    }
    findings
}

async fn of_fan_out(aws: &KinesisAsl, consumer: &str, stream: Option<&KinesisStream>) -> Vec<Finding> {
    let Some(stream) = stream else { return Vec::new() };
    let described = match stream.describe().await {
        Ok(described) => described,
        Err(error) => {
            let text = format!("the consumer {consumer:?} was not asked for: {error}");
            return vec![Finding::warning(PERMISSION, text)];
        }
    };
    let (answer, arn) = aws.may_describe_consumer(&described.identity.arn, consumer).await;
    let mut findings = vec![of_permission("kinesis:DescribeStreamConsumer", &answer)];
    let Some(arn) = arn else {
        if let Permission::Allowed = answer {
            let text = format!(
                "the consumer {consumer:?} is not registered; the first worker registers it and needs \
                 kinesis:RegisterStreamConsumer, which cannot be asked for"
            );
            findings.push(Finding::warning(PERMISSION, text));
        }
        return findings;
    };
    if let Some(shard_id) = first_open_shard(stream).await {
        findings.push(of_permission("kinesis:SubscribeToShard", &aws.may_subscribe(&arn, &shard_id).await));
    }
    findings
}

async fn first_open_shard(stream: &KinesisStream) -> Option<ShardId> {
    // A failed listing is a finding about the stream already.
    let shards = stream.list_shards(&ShardFilter::Open).await.ok()?;
    shards.into_iter().find(|shard| !shard.is_closed).map(|shard| shard.shard_id)
}

async fn of_metrics(aws: &KinesisAsl, namespace: &str) -> Finding {
    let publisher = match aws.cloudwatch(namespace) {
        Ok(publisher) => publisher,
        Err(error) => return Finding::error(PERMISSION, error.to_string()),
    };
    match publisher.ask_permission().await {
        Ok(()) => allowed(PUT_METRICS),
        Err(error) if error.kind() == AslErrorKind::Denied => denied(PUT_METRICS, &error.to_string()),
        Err(error) => Finding::warning(PERMISSION, format!("{PUT_METRICS} could not be asked for: {error}")),
    }
}

fn of_permission(action: &str, answer: &Permission) -> Finding {
    match answer {
        Permission::Allowed => allowed(action),
        Permission::Denied(error) => denied(action, &error.to_string()),
        Permission::Unknown(error) => {
            Finding::warning(PERMISSION, format!("{action} could not be asked for: {error}"))
        }
        _ => Finding::good(
            PERMISSION,
            format!("{action} was not asked for: an emulator may carry out what AWS only checks"),
        ),
    }
}

fn allowed(action: &str) -> Finding {
    Finding::good(PERMISSION, format!("{action} is allowed"))
}

fn denied(action: &str, error: &str) -> Finding {
    Finding::error(PERMISSION, format!("the settings need {action}; allow it: {error}"))
}
