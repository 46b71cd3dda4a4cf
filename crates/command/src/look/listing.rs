//! The stream of a look: its shards and its description, listed again once a minute.

use std::time::Duration;

use fleet_view::{ShardInfo, StreamSummary};
use kinesis_asl::KinesisStream;
use shard_worker::{Shard, ShardFilter, StreamSource as _};
use tokio::time::Instant;

use crate::look::clock::StreamTime;
use crate::look::gap::Gap;

/// How long a listing of the stream counts.
pub(crate) const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// The retention period of a stream that reports none: that of a new stream.
const DEFAULT_RETENTION_MILLIS: u64 = 86_400_000;

/// The newest listing of a stream.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    listed_at: Option<Instant>,
    pub(crate) shards: Option<Vec<ShardInfo>>,
    pub(crate) summary: Option<StreamSummary>,
    pub(crate) gaps: Vec<Gap>,
    /// The newest reading of the stream's clock.
    pub(crate) time: Option<StreamTime>,
}

impl Listing {
    /// Lists the stream again, if that is due. A failed call leaves a gap, and is made again at the next look.
    pub(crate) async fn refresh(&mut self, stream: &KinesisStream) {
        let is_current = self.listed_at.is_some_and(|at| at.elapsed() < LISTING_INTERVAL);
        if is_current && self.gaps.is_empty() {
            return;
        }
        self.gaps.clear();
        let (summary, shards) = tokio::join!(stream.summary(), stream.list_shards(&ShardFilter::All));
        match summary {
            Ok(summary) => {
                let now = summary.description.now;
                self.time = now.map(|now| StreamTime::new(now, Instant::now())).or(self.time);
                self.summary = Some(summary_of(summary));
            }
            Err(error) => {
                self.summary = None;
                let unknown = "status, retention and identity of the stream";
                self.gaps.push(Gap::of_stream(unknown, "kinesis:DescribeStreamSummary", &error));
            }
        }
        match shards {
            Ok(shards) => self.shards = Some(shards.into_iter().map(shard_of).collect()),
            Err(error) => {
                self.shards = None;
                self.gaps.push(Gap::of_stream("the shards of the stream", "kinesis:ListShards", &error));
            }
        }
        self.listed_at = Some(Instant::now());
    }
}

fn summary_of(summary: kinesis_asl::StreamSummary) -> StreamSummary {
    let retention = summary.description.retention.map(|retention| retention.as_millis());
    StreamSummary {
        name: summary.name,
        identity: summary.description.identity,
        status: summary.status,
        retention_millis: retention
            .and_then(|millis| u64::try_from(millis).ok())
            .unwrap_or(DEFAULT_RETENTION_MILLIS),
    }
}

fn shard_of(shard: Shard) -> ShardInfo {
    ShardInfo {
        shard_id: shard.shard_id,
        parents: shard.parents,
        hash_key_range: shard.hash_key_range,
        is_open: !shard.is_closed,
    }
}
