//! What `doctor` finds about a stream: whether it exists, is active, keeps records long enough, and can be read.

use std::time::{Duration, SystemTime};

use kinesis_asl::{KinesisStream, StreamSummary};
use lease_store::Position;
use shard_worker::{ShardFilter, SourceError, SourceErrorKind, StreamSource as _};

use super::finding::Finding;
use crate::wall_clock::{now_millis, time_of};

const STREAM: &str = "stream";
const PERMISSION: &str = "permission";
const CLOCK: &str = "clock";

/// A retention below this leaves little time after a failure on a weekend.
const SHORT_RETENTION: Duration = Duration::from_secs(48 * 3600);

/// A clock that is this far off is worth knowing: times that people see are wrong.
const LARGE_SKEW: Duration = Duration::from_secs(30);

/// A clock that is this far off makes AWS refuse the signatures.
const REFUSED_SKEW: Duration = Duration::from_secs(5 * 60);

/// All findings about a stream.
pub(crate) async fn findings(stream: &KinesisStream) -> Vec<Finding> {
    let mut findings = match stream.summary().await {
        Ok(summary) => {
            let mut findings = of_summary(&summary);
            findings.push(Finding::good(PERMISSION, "kinesis:DescribeStreamSummary is allowed"));
            let now = time_of(now_millis()).zip(summary.description.now);
            findings.extend(now.map(|(own, of_service)| of_clock(own, of_service)));
            findings
        }
        Err(error) => vec![of_failure("kinesis:DescribeStreamSummary", &error)],
    };
    match stream.list_shards(&ShardFilter::Open).await {
        Ok(shards) => {
            findings.push(Finding::good(PERMISSION, "kinesis:ListShards is allowed"));
            if let Some(shard) = shards.first() {
                let read = stream.first_record(&shard.shard_id, &Position::TrimHorizon, None).await;
                findings.push(match read {
                    Ok(_) => Finding::good(
                        PERMISSION,
                        "kinesis:GetShardIterator and kinesis:GetRecords are allowed",
                    ),
                    Err(error) => of_failure("kinesis:GetShardIterator or kinesis:GetRecords", &error),
                });
            }
        }
        Err(error) => findings.push(of_failure("kinesis:ListShards", &error)),
    }
    match stream.list_consumers().await {
        Ok(consumers) => {
            let names: Vec<&str> = consumers.iter().map(|consumer| consumer.name.as_str()).collect();
            if !names.is_empty() {
                let text = format!("the fan-out consumers {} are registered; each one costs money", names.join(", "));
                findings.push(Finding::good(STREAM, text));
            }
        }
        Err(error) if error.kind() == SourceErrorKind::Denied => findings.push(Finding::warning(
            PERMISSION,
            "kinesis:ListStreamConsumers is not allowed, so fan-out consumers are not known; polling does not need it",
        )),
        Err(error) => findings.push(Finding::warning(STREAM, format!("fan-out consumers are not known: {error}"))),
    }
    findings
}

/// The finding about a failed call.
fn of_failure(action: &str, error: &SourceError) -> Finding {
    match error.kind() {
        SourceErrorKind::Denied => Finding::error(PERMISSION, format!("allow {action}: {error}")),
        SourceErrorKind::KeyUnavailable => Finding::error(
            STREAM,
            format!(
                "the key that encrypts the records cannot be used; allow kms:Decrypt and enable the key: {error}"
            ),
        ),
        SourceErrorKind::StreamNotFound => {
            Finding::error(STREAM, format!("there is no such stream; correct --stream or --region: {error}"))
        }
        _ => Finding::error(STREAM, format!("{action} failed: {error}")),
    }
}

fn of_summary(summary: &StreamSummary) -> Vec<Finding> {
    let name = &summary.name;
    let mut findings = vec![match summary.status.as_str() {
        "ACTIVE" => Finding::good(STREAM, format!("{name} is ACTIVE")),
        "UPDATING" => Finding::good(STREAM, format!("{name} is UPDATING, and can be read meanwhile")),
        status => {
            Finding::error(STREAM, format!("{name} is {status}; wait until it is ACTIVE, or create it"))
        }
    }];
    if let Some(retention) = summary.description.retention {
        let hours = retention.as_secs() / 3600;
        findings.push(if retention < SHORT_RETENTION {
            let text = format!(
                "records are kept for {hours} h; a consumer that fails on a weekend loses records; keep them for 168 h"
            );
            Finding::warning(STREAM, text)
        } else {
            Finding::good(STREAM, format!("records are kept for {hours} h"))
        });
    }
    if let Some(distribution) = summary.description.distribution {
        findings.push(Finding::good(STREAM, format!("records are distributed: {distribution:?}")));
    }
    findings
}

fn of_clock(own: SystemTime, of_service: SystemTime) -> Finding {
    let skew = own.duration_since(of_service).unwrap_or_else(|behind| behind.duration());
    let seconds = skew.as_secs();
    if skew >= REFUSED_SKEW {
        let text = format!(
            "the clock is {seconds} s off; AWS refuses signatures from 300 s on; set the clock by NTP"
        );
        Finding::error(CLOCK, text)
    } else if skew >= LARGE_SKEW {
        Finding::warning(CLOCK, format!("the clock is {seconds} s off; set the clock by NTP"))
    } else {
        Finding::good(CLOCK, "the clock agrees with the service's")
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn clocks_are_judged_by_their_distance() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (seconds, severity) in [(2, Severity::Good), (40, Severity::Warning), (400, Severity::Error)] {
            let distance = Duration::from_secs(seconds);
            assert_eq!(of_clock(now, now + distance).severity, severity);
            assert_eq!(of_clock(now, now - distance).severity, severity);
        }
    }

    #[test]
    fn failures_name_the_action() {
        let denied = SourceError::new(SourceErrorKind::Denied, "not authorized");
        assert!(of_failure("kinesis:ListShards", &denied).text.starts_with("allow kinesis:ListShards"));
        let key = SourceError::new(SourceErrorKind::KeyUnavailable, "disabled");
        assert!(of_failure("kinesis:GetRecords", &key).text.contains("kms:Decrypt"));
    }
}
