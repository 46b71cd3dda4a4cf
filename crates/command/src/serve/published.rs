//! What the newest look leaves for the readers of the server: bodies that are made once, whatever the number of readers.

use axum::body::Bytes;
use fleet_view::{FleetView, ShardState, ShardVerdict, ShardView, Sign, TimeToLoss, Verdict};
use lease_store::{HashKeyRange, ShardId, WorkerId};
use serde::Serialize;
use tokio::time::Instant;

use crate::load::Load;
use crate::look::gap::Gap;

/// The bodies of the newest look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    /// How many looks were made.
    pub(crate) looks: u64,
    /// The text of `/metrics`.
    pub(crate) metrics: Bytes,
    /// The newest look for the page; empty before the first one.
    pub(crate) state: Bytes,
    /// The past for the page; empty before the first look.
    pub(crate) past: Bytes,
    /// The load for a scaler; empty before the first look.
    pub(crate) load: Bytes,
    /// Why the last look failed; `None`: it did not.
    pub(crate) fault: Option<String>,
    /// When the last look ended, whether it failed or not; `None`: none has.
    pub(crate) attempted_at: Option<Instant>,
}

/// A look for the page.
#[derive(Debug, Serialize)]
struct PageState<'a> {
    application: &'a str,
    taken_at: u64,
    looks: u64,
    stream: Option<&'a str>,
    status: Option<&'a str>,
    retention: Option<u64>,
    verdict: Verdict,
    behind: Option<u64>,
    first_loss: Option<(&'a str, u64)>,
    load: &'a Load,
    shards: Vec<PageShard<'a>>,
    workers: Vec<PageWorker<'a>>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct PageShard<'a> {
    id: &'a str,
    /// The part of the hash keys that it covers, from 0 to 1; `None`: not known.
    keys: Option<[f64; 2]>,
    state: ShardState,
    open: Option<bool>,
    owner: Option<&'a str>,
    hand_over_to: Option<&'a str>,
    counter: Option<u64>,
    position: Option<String>,
    parents: Vec<&'a str>,
    verdict: Verdict,
    alarm: bool,
    reason: String,
    since: u64,
    behind: Option<u64>,
    still: Option<u64>,
    silent: Option<u64>,
    loss_at_rest: Option<u64>,
    loss_at_pace: Option<u64>,
}

#[derive(Debug, Serialize)]
struct PageWorker<'a> {
    id: &'a str,
    shards: usize,
    ended: usize,
    processes: usize,
    failing: bool,
}

/// Something wrong, or not known.
#[derive(Debug, Serialize)]
struct Finding {
    error: bool,
    text: String,
}

/// The body of a look for the page.
pub(crate) fn page_state(view: &FleetView, load: &Load, gaps: &[Gap]) -> serde_json::Result<Bytes> {
    let FleetView { snapshot, verdict } = view;
    let shards = snapshot
        .shards
        .iter()
        .filter_map(|shard| Some(page_shard(shard, verdict.shards.get(&shard.shard_id)?)));
    let workers = snapshot.workers.iter().map(|worker| PageWorker {
        id: worker.worker_id.as_str(),
        shards: worker.shards.len(),
        ended: worker.ended_shards,
        processes: worker.processes.len(),
        failing: worker.is_failing,
    });
    let sign = |sign: &Sign| Finding { error: sign.is_error(), text: sign.to_string() };
    let gap = |gap: &Gap| Finding { error: false, text: gap.to_string() };
    let stream = snapshot.stream.as_ref();
    let state = PageState {
        application: &snapshot.application,
        taken_at: snapshot.taken_at_millis,
        looks: verdict.looks,
        stream: stream.map(|stream| stream.name.as_str()),
        status: stream.map(|stream| stream.status.as_str()),
        retention: stream.map(|stream| stream.retention_millis),
        verdict: verdict.verdict,
        behind: verdict.behind_millis,
        first_loss: verdict.first_loss.as_ref().map(|(shard, left)| (shard.as_str(), *left)),
        load,
        shards: shards.collect(),
        workers: workers.collect(),
        findings: verdict.signs.iter().map(sign).chain(gaps.iter().map(gap)).collect(),
    };
    serde_json::to_vec(&state).map(Bytes::from)
}

fn page_shard<'a>(shard: &'a ShardView, verdict: &ShardVerdict) -> PageShard<'a> {
    let (loss_at_rest, loss_at_pace) = match verdict.time_to_loss {
        TimeToLoss::In { at_rest_millis, at_pace_millis } => (Some(at_rest_millis), at_pace_millis),
        TimeToLoss::Unknown | TimeToLoss::NothingWaits => (None, None),
    };
    PageShard {
        id: shard.shard_id.as_str(),
        keys: shard.hash_key_range.as_ref().map(part_of),
        state: shard.state,
        open: shard.is_open,
        owner: shard.owner.as_ref().map(WorkerId::as_str),
        hand_over_to: shard.hand_over_to.as_ref().map(WorkerId::as_str),
        counter: shard.counter,
        position: shard.position.as_ref().map(ToString::to_string),
        parents: shard.parents.iter().map(ShardId::as_str).collect(),
        verdict: verdict.verdict,
        alarm: verdict.verdict.is_alarm(),
        reason: verdict.reason(),
        since: verdict.since_millis,
        behind: verdict.behind_millis,
        still: verdict.still_millis,
        silent: verdict.silent_millis,
        loss_at_rest,
        loss_at_pace,
    }
}

/// The part of all hash keys that a range covers. Exact enough for a picture.
fn part_of(range: &HashKeyRange) -> [f64; 2] {
    let all = 2_f64.powi(128);
    let number = |text: String| text.parse::<f64>().unwrap_or_default();
    [number(range.start().to_string()) / all, (number(range.end().to_string()) + 1.0) / all]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_of_all_keys() {
        let range =
            |start: &str, end: &str| HashKeyRange::new(start.parse().unwrap(), end.parse().unwrap()).unwrap();
        let all = "340282366920938463463374607431768211455";
        assert_eq!(part_of(&range("0", all)), [0.0, 1.0]);
        assert_eq!(part_of(&range("170141183460469231731687303715884105728", all)), [0.5, 1.0]);
    }
}
