//! How far the shards are behind: one read of one record per shard and minute, where no worker reports its lag.
//!
//! A shard answers five reads a second to all its readers together. A probe uses at most [`MAX_READS_PER_PROBE`] of the 300 reads
//! of a minute, so at most one in a hundred.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_view::{LagOrigin, LagSample};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kinesis_asl::{FirstRecord, KinesisStream, MAX_READS_PER_PROBE};
use lease_store::{Lease, Position, ShardId};
use shard_worker::{SourceError, SourceErrorKind};
use tokio::time::{Instant, timeout_at};

use crate::look::gap::Gap;
use crate::wall_clock::{now_millis, time_of};

/// How long a measurement of a shard counts; it is measured again after that.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// The most probes under way at a time.
const MAX_PROBES_AT_ONCE: usize = 16;

/// The reads of a shard in one probe interval, for all its readers together.
const READS_PER_INTERVAL: usize = 300;

// The documented share: one read in a hundred.
const _: () = assert!(MAX_READS_PER_PROBE * 100 <= READS_PER_INTERVAL);

/// What the probes measured so far.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    samples: BTreeMap<ShardId, (Instant, Option<LagSample>)>,
    /// Until when no shard is probed, because all would fail alike; `None`: they may be probed.
    blocked_until: Option<Instant>,
    /// Why the last round ended early.
    last_gap: Option<Gap>,
}

/// The result of a round of probes.
#[derive(Debug, Default)]
pub(crate) struct ProbeRound {
    /// How many shards were measured.
    pub(crate) measured: usize,
    /// How many are due and were not measured, because the time was over or a probe failed.
    pub(crate) left: usize,
    /// Why probes failed.
    pub(crate) gap: Option<Gap>,
}

impl Probes {
    /// Measures the shards that are due, those that waited longest first, until the deadline.
    pub(crate) async fn run(
        &mut self,
        stream: &KinesisStream,
        leases: &[&Lease],
        deadline: Instant,
    ) -> ProbeRound {
        let now = Instant::now();
        self.samples
            .retain(|shard_id, _| leases.binary_search_by(|lease| lease.shard_id.cmp(shard_id)).is_ok());
        let due = due(leases, &self.samples, now);
        let mut round = ProbeRound { left: due.len(), ..ProbeRound::default() };
        let mut waiting = due.into_iter();
        let mut running = FuturesUnordered::new();
        running.extend(waiting.by_ref().take(MAX_PROBES_AT_ONCE).map(|lease| probe(stream, lease)));
        while let Ok(Some((shard_id, result))) = timeout_at(deadline, running.next()).await {
            match result {
                Ok(first) => {
                    let sample = first.map(sample_of);
                    self.samples.insert(shard_id.clone(), (Instant::now(), sample));
                    round.measured += 1;
                    round.left = round.left.saturating_sub(1);
                }
                Err(error) => {
                    let is_final =
                        matches!(error.kind(), SourceErrorKind::Denied | SourceErrorKind::StreamNotFound);
                    // A failed probe is a read too: the shard is due again after a whole interval.
                    let older = self.samples.remove(&shard_id).and_then(|(_, sample)| sample);
                    self.samples.insert(shard_id.clone(), (Instant::now(), older));
                    let gap = || Gap::of_stream("the lag of shards", action_of(&error), &error);
                    round.gap.get_or_insert_with(gap);
                    if is_final {
                        // Every other shard would answer the same.
                        self.blocked_until = Some(Instant::now() + PROBE_INTERVAL);
                        self.last_gap.clone_from(&round.gap);
                        break;
                    }
                }
            }
            running.extend(waiting.next().map(|lease| probe(stream, lease)));
        }
        round
    }

    /// The newest measurement of a shard.
    pub(crate) fn sample(&self, shard_id: &ShardId) -> Option<&LagSample> {
        self.samples.get(shard_id)?.1.as_ref()
    }
}

/// The action that a probe lacks, by the call that failed.
fn action_of(error: &SourceError) -> &'static str {
    if error.to_string().contains("getting an iterator") {
        "kinesis:GetShardIterator"
    } else {
        "kinesis:GetRecords"
    }
}

/// The leases whose shards are due, the one that was measured longest ago first.
fn due<'a>(
    leases: &[&'a Lease],
    samples: &BTreeMap<ShardId, (Instant, Option<LagSample>)>,
    now: Instant,
) -> Vec<&'a Lease> {
    let measured_at = |lease: &Lease| samples.get(&lease.shard_id).map(|(at, _)| *at);
    let is_due = |lease: &&&Lease| {
        measured_at(lease).is_none_or(|at| now.duration_since(at) >= PROBE_INTERVAL) && names_a_place(lease)
    };
    let mut due: Vec<&Lease> = leases.iter().filter(is_due).copied().collect();
    due.sort_by_key(|lease| measured_at(lease));
    due
}

/// Whether the position of a lease is one from which the stream can be read.
fn names_a_place(lease: &Lease) -> bool {
    match lease.checkpoint {
        Position::TrimHorizon | Position::After(_) => true,
        Position::Latest | Position::AtTimestamp => lease.initial_time_millis.is_some(),
        Position::ShardEnd => false,
    }
}

async fn probe(stream: &KinesisStream, lease: &Lease) -> (ShardId, Result<Option<FirstRecord>, SourceError>) {
    let instant = lease.initial_time_millis.and_then(time_of);
    (lease.shard_id.clone(), stream.first_record(&lease.shard_id, &lease.checkpoint, instant).await)
}

fn sample_of(first: FirstRecord) -> LagSample {
    let now_millis = now_millis();
    LagSample {
        measured_at_millis: now_millis,
        behind_millis: first.behind_millis(time_of(now_millis).unwrap_or(std::time::UNIX_EPOCH)),
        arriving_bytes_per_second: None,
        processed_bytes_per_second: None,
        origin: LagOrigin::Probe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(number: u64, checkpoint: Position) -> Lease {
        let shard_id = ShardId::new(format!("shardId-{number:012}")).unwrap();
        Lease::unowned(shard_id, checkpoint)
    }

    #[tokio::test(start_paused = true)]
    async fn each_shard_is_probed_once_a_minute() {
        let leases = [lease(1, Position::TrimHorizon), lease(2, Position::TrimHorizon)];
        let leases: Vec<&Lease> = leases.iter().collect();
        let mut samples = BTreeMap::new();
        let start = Instant::now();
        assert_eq!(due(&leases, &samples, start).len(), 2);
        samples.insert(leases[0].shard_id.clone(), (start, None));
        assert_eq!(due(&leases, &samples, start + PROBE_INTERVAL / 2), [leases[1]]);
        let later = due(&leases, &samples, start + PROBE_INTERVAL);
        assert_eq!(later, [leases[1], leases[0]], "the one without a measurement first");
    }

    #[test]
    fn only_positions_in_the_shard_are_probed() {
        assert!(!names_a_place(&lease(1, Position::ShardEnd)));
        assert!(!names_a_place(&lease(1, Position::Latest)));
        let with_instant = Lease { initial_time_millis: Some(5), ..lease(1, Position::Latest) };
        assert!(names_a_place(&with_instant));
    }
}
