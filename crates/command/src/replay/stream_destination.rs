//! Puts replayed records into a stream: those of one key one after another, so that their order is kept.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kinesis_asl::RecordWriter;
use lease_store::ErrorKind as _;
use shard_worker::RetryPolicy;
use tokio::time::sleep;

use super::item::Item;
use crate::connection::ConnectionArguments;
use crate::exit_code::{CommandError, settings_error, stream_error};

/// The most keys whose records are put at the same time.
const MAX_KEYS_AT_ONCE: usize = 16;

/// How often one record is tried, each time after a longer wait. The client tries some times by itself, too.
const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(5);

/// The waits between the attempts.
const RETRY: RetryPolicy = RetryPolicy::exponential(Duration::from_millis(250), Duration::from_secs(5))
    .with_max_attempts(MAX_ATTEMPTS);

/// Stands for the source in the settings of the clients; no call is made with it.
const NO_STREAM: &str = "not-known-yet";

/// A stream that gets records.
#[derive(Debug)]
pub(crate) struct StreamDestination {
    writer: RecordWriter,
}

impl StreamDestination {
    /// Opens the stream. Makes no call.
    pub(crate) async fn open(stream: &str, connection: &ConnectionArguments) -> Result<Self, CommandError> {
        let of_region = if stream.starts_with("arn:") { stream } else { NO_STREAM };
        let aws = connection.connect(of_region, None).await?;
        Ok(Self { writer: aws.record_writer(stream).map_err(settings_error)? })
    }

    /// Puts a batch. After an error the stream may have a part of it.
    pub(crate) async fn write(&self, items: &[Item]) -> Result<(), CommandError> {
        stream::iter(by_key(items))
            .map(|records| self.put_in_order(records))
            .buffer_unordered(MAX_KEYS_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    async fn put_in_order(&self, records: Vec<&Item>) -> Result<(), CommandError> {
        for record in records {
            self.put(record).await?;
        }
        Ok(())
    }

    async fn put(&self, record: &Item) -> Result<(), CommandError> {
        // Two replays at a time must not wait in step, and no simulation runs this.
        #[allow(clippy::disallowed_methods)]
        let mut waits = RETRY.delays(fastrand::Rng::new());
        loop {
            let error = match self.writer.put(&record.partition_key, &record.data).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let Some(wait) = waits.next().filter(|_| error.kind().is_retryable()) else {
                let failure = stream_error(error);
                let message = format!("the record at {} was not put: {failure}", record.position);
                return Err(CommandError::new(failure.kind(), message).caused_by(failure));
            };
            sleep(wait).await;
        }
    }
}

/// The records of each key, in their order. The keys come in the order of their first records.
fn by_key(items: &[Item]) -> Vec<Vec<&Item>> {
    let mut groups: Vec<Vec<&Item>> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for item in items {
        let place = *places.entry(&item.partition_key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_key_keep_their_order() {
        let item = |key: &str, position: &str| Item {
            position: position.to_owned(),
            partition_key: key.to_owned(),
            data: bytes::Bytes::new(),
            line: Vec::new(),
        };
        let items = [item("a", "1"), item("b", "2"), item("a", "3"), item("c", "4"), item("b", "5")];
        let positions: Vec<Vec<&str>> = by_key(&items)
            .iter()
            .map(|group| group.iter().map(|item| item.position.as_str()).collect())
            .collect();
        assert_eq!(positions, [vec!["1", "3"], vec!["2", "5"], vec!["4"]]);
    }
}
