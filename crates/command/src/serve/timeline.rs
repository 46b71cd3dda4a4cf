//! The past of a fleet for the page: lag and owner of each shard on one time axis, and events. Bounded. Pure.
//!
//! When the axis is full, each pair of points becomes one, so a longer past has a coarser axis.

use std::collections::{BTreeMap, VecDeque};

use fleet_view::{FleetView, ShardState};
use lease_store::ShardId;
use serde::Serialize;

use super::changes::{Event, changes};

/// The most points of the time axis.
pub(crate) const MAX_POINTS: usize = 240;

/// The most events that are kept.
pub(crate) const MAX_EVENTS: usize = 2_000;

/// The most shards that are followed, those that ended first leave first.
const MAX_TRACKS: usize = 5_000;

/// The most workers that are told apart by number.
const MAX_WORKERS: usize = 10_000;

/// The past of a fleet.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Timeline {
    /// The time of each point, in milliseconds since 1970.
    times: Vec<u64>,
    /// The workers, by the numbers of the owners.
    workers: Vec<String>,
    shards: BTreeMap<ShardId, ShardTrack>,
    events: VecDeque<Event>,
    #[serde(skip)]
    numbers: BTreeMap<String, u32>,
    #[serde(skip)]
    newest: Option<FleetView>,
}

/// The past of one shard.
#[derive(Debug, Clone, Default, Serialize)]
struct ShardTrack {
    /// The point at which the shard was first seen.
    first: usize,
    /// The lag at each point since then, in seconds; -1: not known.
    lag: Vec<i64>,
    /// The owner at each point since then: a number of a worker; -1: none; -2: the shard is ended or waits for its parents.
    owner: Vec<i32>,
}

/// The owner of a shard without one.
const NO_OWNER: i32 = -1;

/// The owner of a shard that is not read: ended, or not begun.
const NOT_READ: i32 = -2;

impl Timeline {
    /// Adds the newest look.
    pub(crate) fn add(&mut self, view: &FleetView) {
        if self.times.len() >= MAX_POINTS {
            self.thin();
        }
        if let Some(before) = &self.newest {
            self.events.extend(changes(before, view));
            let over = self.events.len().saturating_sub(MAX_EVENTS);
            self.events.drain(..over);
        }
        let point = self.times.len();
        self.times.push(view.snapshot.taken_at_millis);
        for shard in &view.snapshot.shards {
            let owner = match &shard.owner {
                _ if matches!(shard.state, ShardState::Ended | ShardState::NotBegun) => NOT_READ,
                Some(owner) => self.number(owner.as_str()),
                None => NO_OWNER,
            };
            let behind = view.verdict.shards.get(&shard.shard_id).and_then(|verdict| verdict.behind_millis);
            let lag = behind.and_then(|millis| i64::try_from(millis.div_ceil(1_000)).ok()).unwrap_or(-1);
            if self.shards.len() >= MAX_TRACKS && !self.shards.contains_key(&shard.shard_id) {
                continue;
            }
            let track = self
                .shards
                .entry(shard.shard_id.clone())
                .or_insert_with(|| ShardTrack { first: point, ..ShardTrack::default() });
            track.lag.resize(point - track.first, -1);
            track.owner.resize(point - track.first, NO_OWNER);
            track.lag.push(lag);
            track.owner.push(owner);
        }
        // A shard that neither the stream nor the table lists any more.
        if self.shards.len() > view.snapshot.shards.len() {
            let is_listed = |shard_id: &ShardId| view.snapshot.shard(shard_id).is_some();
            let len = self.times.len();
            self.shards
                .retain(|shard_id, track| is_listed(shard_id) || track.first + track.lag.len() * 2 > len);
        }
        self.newest = Some(view.clone());
    }

    fn number(&mut self, worker: &str) -> i32 {
        if let Some(number) = self.numbers.get(worker) {
            return i32::try_from(*number).unwrap_or(NO_OWNER);
        }
        if self.workers.len() >= MAX_WORKERS {
            return NO_OWNER;
        }
        let number = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        self.workers.push(worker.to_owned());
        self.numbers.insert(worker.to_owned(), number);
        i32::try_from(number).unwrap_or(NO_OWNER)
    }

    /// Makes one point of each pair: its later time and owner, and its greater lag.
    fn thin(&mut self) {
        let last_of = |pair: &[u64]| pair.last().copied().unwrap_or_default();
        self.times = self.times.chunks(2).map(last_of).collect();
        for track in self.shards.values_mut() {
            // A track that starts at the second point of a pair has half a pair first.
            let head = track.first % 2;
            track.first /= 2;
            track.lag = pairs(&track.lag, head, |pair| pair.iter().copied().max().unwrap_or(-1));
            track.owner = pairs(&track.owner, head, |pair| pair.last().copied().unwrap_or(NO_OWNER));
        }
    }
}

/// One value for each pair of values, of which the first `head` ones are the rest of a pair.
fn pairs<T: Copy>(values: &[T], head: usize, one_of: impl Fn(&[T]) -> T) -> Vec<T> {
    let (head, rest) = values.split_at(head.min(values.len()));
    let head = (!head.is_empty()).then(|| one_of(head));
    head.into_iter().chain(rest.chunks(2).map(&one_of)).collect()
}

#[cfg(test)]
mod tests {
    use fleet_view::{History, LagOrigin, LagSample, Look, ShardNotes};
    use lease_store::{Lease, Position};

    use super::*;

    const START: u64 = 1_700_000_000_000;

    fn id(number: u64) -> ShardId {
        ShardId::new(format!("shardId-{number:012}")).unwrap()
    }

    /// A timeline after this many looks, ten seconds apart; the second shard appears at a later look.
    fn after(looks: u64, second_from: u64) -> Timeline {
        let mut timeline = Timeline::default();
        let mut history = History::new();
        for look in 0..looks {
            let at = START + look * 10_000;
            let shards = if look >= second_from { vec![1, 2] } else { vec![1] };
            let note = |_| {
                let lag = LagSample {
                    measured_at_millis: at,
                    behind_millis: look * 1_000,
                    arriving_bytes_per_second: None,
                    processed_bytes_per_second: None,
                    origin: LagOrigin::Probe,
                };
                ShardNotes { lag: Some(lag), ..ShardNotes::default() }
            };
            let look = Look {
                taken_at_millis: at,
                application: "words".to_owned(),
                leases: shards.iter().map(|n| Lease::unowned(id(*n), Position::TrimHorizon)).collect(),
                notes: shards.iter().map(|n| (id(*n), note(n))).collect(),
                ..Look::default()
            };
            history.add(&look).unwrap();
            timeline.add(&FleetView::of(&history).unwrap());
        }
        timeline
    }

    #[test]
    fn a_long_past_keeps_its_ends_and_its_bound() {
        let looks = 5 * MAX_POINTS as u64;
        for second_from in [0, 1, 2, 239, 240, 241, 700] {
            let timeline = after(looks, second_from);
            assert!(timeline.times.len() <= MAX_POINTS);
            assert_eq!(timeline.times.last(), Some(&(START + (looks - 1) * 10_000)));
            for track in timeline.shards.values() {
                assert_eq!(track.first + track.lag.len(), timeline.times.len(), "from {second_from}");
                assert_eq!(track.lag.len(), track.owner.len());
                assert_eq!(track.lag.last(), Some(&i64::try_from(looks - 1).unwrap()));
            }
        }
    }

    #[test]
    fn the_greater_lag_of_a_pair_remains() {
        assert_eq!(pairs(&[1, 5, 2, 3, 4], 1, |pair| *pair.iter().max().unwrap()), [1, 5, 4]);
        assert_eq!(pairs(&[1, 5, 2], 0, |pair| *pair.last().unwrap()), [5, 2]);
        assert!(pairs(&[] as &[i32], 1, |pair| pair[0]).is_empty());
    }
}
