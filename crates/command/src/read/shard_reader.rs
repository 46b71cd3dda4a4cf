//! Reads one shard to its end, to its tip or for ever, and sends what happens to the writer of the output.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kinesis_asl::KinesisStream;
use lease_store::{ErrorKind as _, RecordPosition, ShardId};
use shard_worker::{
    FetchedBatch, ReadFrom, Record, RecordSource, Shard, ShardFilter, SourceError, StreamSource as _,
    deaggregate,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use super::start::Start;

/// The first wait after a failed read; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after a failed read.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Which records are shown.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// The partition keys; empty: all.
    pub(crate) keys: BTreeSet<String>,
    /// Ends at the tip of the shard.
    pub(crate) ends_at_tip: bool,
    /// Ends before the first record that arrived at this time or later.
    pub(crate) until: Option<SystemTime>,
    /// Ends after this record.
    pub(crate) until_record: Option<RecordPosition>,
    /// Whether records are de-aggregated.
    pub(crate) unpacks: bool,
    /// Leaves out the records before it.
    pub(crate) start: Start,
}

/// What happened in a shard.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Records to show.
    Records { shard_id: ShardId, records: Vec<Record> },
    /// The shard has ended, or is read as far as it was asked for. `is_at_bound`: a record behind the bound was seen.
    Ended { shard_id: ShardId, children: Vec<Shard>, is_at_bound: bool },
    /// A read failed and is made again.
    Delayed { shard_id: ShardId, error: SourceError },
    /// A read failed for good.
    Failed(SourceError),
}

/// How the reading of a shard ended.
struct Ending {
    /// The children of the shard; none when it was read as far as it was asked for.
    children: Vec<Shard>,
    is_at_bound: bool,
}

/// Reads one shard.
pub(crate) struct ShardReader {
    pub(crate) stream: KinesisStream,
    pub(crate) shard_id: ShardId,
    /// Whether the stream lists the shard as closed.
    pub(crate) is_closed: bool,
    pub(crate) bounds: Bounds,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) happened: mpsc::Sender<Happening>,
}

impl ShardReader {
    /// Reads until the end, or until the receiver is gone.
    pub(crate) async fn run(self, from: ReadFrom) {
        let happening = match self.read(from).await {
            Ok(Some(Ending { children, is_at_bound })) => {
                Happening::Ended { shard_id: self.shard_id, children, is_at_bound }
            }
            // The receiver is gone.
            Ok(None) => return,
            Err(error) => Happening::Failed(error),
        };
        // Without a receiver the program is about to end.
        let _ = self.happened.send(happening).await;
    }

    /// Reads the shard. `None`: the receiver is gone.
    async fn read(&self, from: ReadFrom) -> Result<Option<Ending>, SourceError> {
        let mut source = self.stream.open(&self.shard_id, &from).await?;
        let mut wait = FIRST_WAIT;
        loop {
            let batch = match self.next(&mut *source).await {
                Ok(batch) => batch,
                Err(error) if error.kind().is_retryable() => {
                    let delayed = Happening::Delayed { shard_id: self.shard_id.clone(), error };
                    if self.happened.send(delayed).await.is_err() {
                        return Ok(None);
                    }
                    sleep(wait).await;
                    wait = (wait * 2).min(MAX_WAIT);
                    continue;
                }
                Err(error) => return Err(error),
            };
            wait = FIRST_WAIT;
            // Some servers report no distance with the last records before the tip, either.
            let is_at_tip = batch.millis_behind_latest == Some(0) && batch.records.is_empty();
            let (records, is_past_bound) = self.bounds.shown(batch.records);
            if !records.is_empty() {
                let shown = Happening::Records { shard_id: self.shard_id.clone(), records };
                if self.happened.send(shown).await.is_err() {
                    return Ok(None);
                }
            }
            if is_past_bound {
                return Ok(Some(Ending { children: Vec::new(), is_at_bound: true }));
            }
            if let Some(end) = batch.shard_end {
                let children = self.children(end.children).await?;
                return Ok(Some(Ending { children, is_at_bound: false }));
            }
            // A closed shard is read to its end: its children come after it.
            if is_at_tip && self.bounds.ends_at_tip && !self.is_closed {
                return Ok(Some(Ending { children: Vec::new(), is_at_bound: false }));
            }
        }
    }

    /// Waits until a read is due, and then for one of the few reads at a time.
    async fn next(&self, source: &mut dyn RecordSource) -> Result<FetchedBatch, SourceError> {
        source.ready().await;
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.ok();
        source.next_batch().await
    }

    /// The children that the end of the shard names, or that the stream lists.
    async fn children(&self, named: Vec<Shard>) -> Result<Vec<Shard>, SourceError> {
        if !named.is_empty() {
            return Ok(named);
        }
        let listed = self.stream.list_shards(&ShardFilter::All).await?;
        Ok(listed.into_iter().filter(|shard| shard.parents.contains(&self.shard_id)).collect())
    }
}

impl Bounds {
    /// The records that are shown, de-aggregated, and whether the bound lies before one of them.
    fn shown(&self, records: Vec<Record>) -> (Vec<Record>, bool) {
        let mut shown = Vec::new();
        for record in records {
            let is_past = self.until.zip(record.approximate_arrival).is_some_and(|(until, at)| at >= until);
            if is_past {
                return (shown, true);
            }
            let mut unpacked = Vec::new();
            if self.unpacks {
                // Without a range nothing is filtered: what is in the shard is shown.
                deaggregate(record, None, &mut unpacked);
            } else {
                unpacked.push(record);
            }
            for record in unpacked {
                let position = position_of(&record);
                if self.until_record.as_ref().is_some_and(|until| position > *until) {
                    return (shown, true);
                }
                if self.shows(&record, &position) {
                    shown.push(record);
                }
            }
        }
        (shown, false)
    }

    fn shows(&self, record: &Record, position: &RecordPosition) -> bool {
        let has_key = || record.partition_key.as_deref().is_some_and(|key| self.keys.contains(key));
        !self.start.is_before(position) && (self.keys.is_empty() || has_key())
    }
}

fn position_of(record: &Record) -> RecordPosition {
    RecordPosition {
        sequence_number: record.sequence_number.clone(),
        sub_sequence_number: record.sub_sequence_number,
    }
}

#[cfg(test)]
mod tests {
    use shard_worker::Aggregator;

    use super::*;

    fn record(number: u64, key: &str, second: u64) -> Record {
        Record::new(number.to_string().parse().unwrap(), bytes_of(key))
            .with_partition_key(Some(key.into()))
            .with_arrival(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second)))
    }

    fn bytes_of(text: &str) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(text.as_bytes())
    }

    fn bounds(keys: &[&str], until: Option<u64>, start: Start) -> Bounds {
        Bounds {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            ends_at_tip: false,
            until: until.map(|second| SystemTime::UNIX_EPOCH + Duration::from_secs(second)),
            until_record: None,
            unpacks: true,
            start,
        }
    }

    fn keys(shown: &[Record]) -> Vec<&str> {
        shown.iter().map(|record| record.partition_key.as_deref().unwrap()).collect()
    }

    #[test]
    fn keys_and_the_time_bound_the_records() {
        let records = || vec![record(1, "a", 1), record(2, "b", 2), record(3, "a", 3)];
        let (shown, is_past) = bounds(&["a"], None, Start::TrimHorizon).shown(records());
        assert_eq!((keys(&shown), is_past), (vec!["a", "a"], false));
        let (shown, is_past) = bounds(&[], Some(3), Start::TrimHorizon).shown(records());
        assert_eq!((keys(&shown), is_past), (vec!["a", "b"], true));
        let until_record = Some(position_of(&record(2, "b", 2)));
        let to_record =
            Bounds { until_record, ..bounds(&[], None, Start::After(position_of(&record(1, "a", 1)))) };
        let (shown, is_past) = to_record.shown(records());
        assert_eq!((keys(&shown), is_past), (vec!["b"], true));
    }

    #[test]
    fn records_of_an_aggregate_are_filtered_one_by_one() {
        let mut aggregator = Aggregator::new(1_000);
        for key in ["a", "b", "c"] {
            assert!(aggregator.add(key, None, key.as_bytes()).unwrap().is_none());
        }
        let aggregate = aggregator.finish().unwrap();
        let mut whole = record(10_000_000_000_000_000_005, "a", 1);
        whole.data = aggregate.data;
        let start = Start::parse("10000000000000000005/1", 0).unwrap();
        let (shown, _) = bounds(&[], None, start).shown(vec![whole.clone()]);
        assert_eq!(keys(&shown), ["b", "c"]);
        let (shown, _) = bounds(&["c"], None, Start::Tip).shown(vec![whole]);
        assert_eq!(keys(&shown), ["c"]);
        assert_eq!(shown[0].sub_sequence_number, 2);
    }
}
