//! What an event of a subscription says: pure.

use aws_sdk_kinesis::types::SubscribeToShardEvent;
use lease_store::{SequenceNumber, ShardId};
use shard_worker::{Record, ShardEnd, SourceError};

use crate::stream::KinesisStream;

/// An event, converted as a whole.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) records: Vec<Record>,
    /// How far the records lie behind the tip, in milliseconds.
    pub(crate) millis_behind_latest: u64,
    /// After which number to go on; `None`: only at the end.
    pub(crate) after: Option<SequenceNumber>,
    pub(crate) ending: Ending,
}

/// What an event says about the end of the shard. AWS names children in the last event only, and gives it no number to
/// go on after; other servers name them early and always give a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It goes on.
    Open,
    /// The shard is closed, but records may still come: it has ended if the session now ends by itself.
    Near(ShardEnd),
    /// This was the last event.
    Reached(ShardEnd),
    /// There is no number to go on after, but no children either: only a listing can tell.
    Unclear,
}

impl Arrival {
    /// Converts an event.
    ///
    /// # Errors
    /// `Invalid` when a part of it is not what it must be.
    pub(crate) fn new(
        event: SubscribeToShardEvent,
        stream: &KinesisStream,
        shard_id: &ShardId,
    ) -> Result<Self, SourceError> {
        let records = event
            .records
            .into_iter()
            .map(|record| stream.record(shard_id, record))
            .collect::<Result<Vec<_>, _>>()?;
        let continuation = Some(event.continuation_sequence_number).filter(|number| !number.is_empty());
        let continuation = continuation.map(SequenceNumber::new).transpose().map_err(|error| {
            stream.invalid(&format!("the continuation of {shard_id}: {error}")).with_source(error)
        })?;
        let end = stream.shard_end(event.child_shards.unwrap_or_default())?;
        let ending = match (&continuation, end.children.is_empty()) {
            (Some(_), true) => Ending::Open,
            // With records more may follow.
            (Some(_), false) if !records.is_empty() => Ending::Open,
            (Some(_), false) => Ending::Near(end),
            (None, false) => Ending::Reached(end),
            (None, true) => Ending::Unclear,
        };
        // What is handed over is never asked for again, whatever the continuation says.
        let last = records.last().map(|record| record.sequence_number.clone());
        Ok(Self {
            records,
            millis_behind_latest: u64::try_from(event.millis_behind_latest).unwrap_or(0),
            after: continuation.max(last),
            ending,
        })
    }
}
