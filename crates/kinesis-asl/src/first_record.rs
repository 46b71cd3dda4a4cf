//! The first record after a stored position: how far a worker of any library is behind, for the price of one record.

use std::time::SystemTime;

use aws_sdk_kinesis::config::Config;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::types::ShardIteratorType;
use lease_store::{Position, ShardId};
use shard_worker::SourceError;

use crate::response_metadata::ResponseMetadata;
use crate::service_time::{from_system_time, to_system_time};
use crate::stream_client::StreamClient;

/// How many reads one probe may use. A range of a shard without records is passed by further reads of the same iterator.
pub const MAX_READS_PER_PROBE: usize = 3;

/// The first record after a position, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirstRecord {
    /// When the record arrived; `None`: no record was found.
    pub arrived_at: Option<SystemTime>,
    /// How far the end of the read lies behind the tip of the shard, in milliseconds; `None`: not reported.
    pub millis_behind_latest: Option<u64>,
    /// The time of the answer by the clock of the service, rounded down to a second; `None`: the answer had no date.
    pub answered_at: Option<SystemTime>,
}

impl FirstRecord {
    /// The age of the first record in milliseconds, at least 1 if there is one; 0: no record waits. `now` is used if the answer had
    /// no date.
    ///
    /// Without a record, the reported distance to the tip counts: the reads may have ended in a range without records.
    pub fn behind_millis(&self, now: SystemTime) -> u64 {
        let Some(arrived_at) = self.arrived_at else { return self.millis_behind_latest.unwrap_or(0) };
        // The service's clock stamped the record. Its date has whole seconds, so the later of both is nearer.
        let now = self.answered_at.map_or(now, |answered_at| answered_at.max(arrived_at));
        let age = now.duration_since(arrived_at).unwrap_or_default();
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// Reads at most one record after a position. `None`: the position names no place in the shard.
pub(crate) async fn after(
    client: &StreamClient,
    shard_id: &ShardId,
    position: &Position,
    instant: Option<SystemTime>,
) -> Result<Option<FirstRecord>, SourceError> {
    client.destination().check()?;
    let request = client.sdk().get_shard_iterator().shard_id(shard_id.as_str());
    let request = request.stream_name(client.stream_name()).set_stream_arn(client.stream_arn());
    let request = match position {
        Position::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
        Position::After(record) => request
            .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
            .starting_sequence_number(record.sequence_number.as_str()),
        Position::AtTimestamp | Position::Latest => {
            let Some(timestamp) = instant.and_then(from_system_time) else { return Ok(None) };
            request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(timestamp)
        }
        Position::ShardEnd => return Ok(None),
    };
    let once = || Config::builder().retry_config(RetryConfig::disabled());
    let metadata = ResponseMetadata::default();
    let answer = request.customize().config_override(once()).interceptor(metadata.clone()).send().await;
    client.record_endpoint(&metadata);
    let answer =
        answer.map_err(|error| client.error(&format!("getting an iterator of {shard_id}"), error))?;
    let mut iterator = answer.shard_iterator.filter(|iterator| !iterator.is_empty());
    let mut first = FirstRecord { arrived_at: None, millis_behind_latest: None, answered_at: None };
    for _ in 0..MAX_READS_PER_PROBE {
        let Some(start) = iterator.take() else { break };
        let metadata = ResponseMetadata::default();
        let request = client.sdk().get_records().shard_iterator(start).limit(1);
        let request = request.set_stream_arn(client.stream_arn());
        let answer = request.customize().config_override(once()).interceptor(metadata.clone()).send().await;
        let answer =
            answer.map_err(|error| client.error(&format!("reading one record of {shard_id}"), error))?;
        first.answered_at = metadata.date();
        first.millis_behind_latest =
            answer.millis_behind_latest.and_then(|millis| u64::try_from(millis).ok());
        if let Some(record) = answer.records.into_iter().next() {
            first.arrived_at = record.approximate_arrival_timestamp.and_then(to_system_time);
            break;
        }
        if first.millis_behind_latest.is_none_or(|behind| behind == 0) {
            break;
        }
        iterator = answer.next_shard_iterator;
    }
    Ok(Some(first))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn first(arrived: Option<Duration>, answered: Option<Duration>, behind: Option<u64>) -> FirstRecord {
        let at = |since: Duration| SystemTime::UNIX_EPOCH + since;
        FirstRecord {
            arrived_at: arrived.map(at),
            millis_behind_latest: behind,
            answered_at: answered.map(at),
        }
    }

    #[test]
    fn the_clock_of_the_service_tells_the_age() {
        let now = SystemTime::UNIX_EPOCH + NOW;
        let hour = Duration::from_secs(3600);
        let behind = |record: FirstRecord| record.behind_millis(now);
        assert_eq!(behind(first(Some(NOW - hour), Some(NOW), Some(5))), 3_600_000);
        assert_eq!(behind(first(Some(NOW - hour), Some(NOW + hour), None)), 7_200_000);
        assert_eq!(behind(first(Some(NOW - hour), None, None)), 3_600_000);
        // A record in the second of the answer waits, whatever its age.
        assert_eq!(behind(first(Some(NOW + Duration::from_millis(300)), Some(NOW), Some(0))), 1);
        assert_eq!(behind(first(None, Some(NOW), Some(0))), 0);
        assert_eq!(behind(first(None, Some(NOW), Some(900))), 900);
    }
}
