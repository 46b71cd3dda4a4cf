//! Converts an event of a subscription: pure.

use lease_store::{SequenceNumber, ShardId};
use shard_worker::{Record, ShardEnd, SourceError};

use crate::get_records::answer::Answer;
use crate::stream_client::StreamClient;

/// A whole event, converted.
#[derive(Debug)]
pub(crate) struct ConvertedEvent {
    pub(crate) records: Vec<Record>,
    /// How far the records are behind the tip, in milliseconds.
    pub(crate) millis_behind_latest: u64,
    /// The sequence number after which the next subscription starts; `None` only for the last event of a shard.
    pub(crate) continue_after: Option<SequenceNumber>,
    pub(crate) ending: Ending,
}

/// The end of the shard as an event reports it. AWS names children only in the last event, which has no continuation
/// number. Other servers name them earlier and always send a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The shard continues.
    Open,
    /// The shard is closed, but may have more records: if the session now ends by itself, the shard has ended.
    Announced(ShardEnd),
    /// This was the last event.
    Reached(ShardEnd),
    /// The event has neither a continuation number nor children: only a listing and another subscription can confirm the end.
    Unconfirmed,
}

impl ConvertedEvent {
    /// Converts an event.
    ///
    /// # Errors
    /// `Invalid` when a part of it cannot be converted.
    pub(crate) fn new(event: Answer, stream: &StreamClient, shard_id: &ShardId) -> Result<Self, SourceError> {
        let records = event.records;
        let continuation = event.next_iterator.filter(|number| !number.is_empty());
        let continuation = continuation.map(SequenceNumber::new).transpose().map_err(|error| {
            stream.invalid(&format!("the continuation of {shard_id}: {error}")).with_source(error)
        })?;
        let end = stream.shard_end(event.children)?;
        let ending = match (&continuation, end.children.is_empty()) {
            (Some(_), true) => Ending::Open,
            // More records may follow an event with records.
            (Some(_), false) if !records.is_empty() => Ending::Open,
            (Some(_), false) => Ending::Announced(end),
            (None, false) => Ending::Reached(end),
            (None, true) => Ending::Unconfirmed,
        };
        // Never request a returned record again, even if the continuation number is too small.
        let last = records.last().map(|record| record.sequence_number.clone());
        Ok(Self {
            records,
            millis_behind_latest: u64::try_from(event.millis_behind_latest.unwrap_or(0)).unwrap_or(0),
            continue_after: continuation.max(last),
            ending,
        })
    }
}
