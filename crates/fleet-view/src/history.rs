//! Several looks at one application, as far as they matter: a bounded track of each shard, and the verdict of the newest look.
//! Pure: time comes with the looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lease_store::{ShardId, StreamIdentity, WorkerId};
use serde::{Deserialize, Serialize};

use crate::judge::{is_held_up, judge, time_to_loss};
use crate::look::Look;
use crate::owner_process::OwnerProcess;
use crate::shard_view::{ShardState, ShardView};
use crate::signs::Sign;
use crate::snapshot::FleetSnapshot;
use crate::track::{LookTime, Track};
use crate::verdict::{FleetVerdict, ShardVerdict, TimeToLoss, Verdict};

/// The most shards of an application that a history follows.
pub const MAX_SHARDS: usize = 50_000;

/// How often the position of a shard must have moved back to show that two applications write it.
const SEVERAL_REWINDS: u32 = 3;

/// In how many intervals in a row two processes must have renewed leases to show that both live.
const MIN_SHARED_INTERVALS: u32 = 2;

/// What the looks at one application tell so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    application: String,
    stream: Option<StreamIdentity>,
    looks: u64,
    now_millis: u64,
    previous_millis: u64,
    tracks: BTreeMap<ShardId, Track>,
    verdicts: BTreeMap<ShardId, (Verdict, u64)>,
    /// In how many intervals up to now several processes of one worker renewed.
    shared_names: BTreeMap<WorkerId, u32>,
    snapshot: Option<FleetSnapshot>,
}

/// Why a look was not added.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookRefusal {
    /// It is not newer than the one before it.
    NotNewer,
    /// It belongs to another application, or another stream. Begin a new history.
    OfAnother,
    /// It has more shards than a history follows.
    TooLarge,
}

impl fmt::Display for LookRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNewer => formatter.write_str("the look is not newer than the one before it; look again"),
            Self::OfAnother => {
                formatter.write_str("the look is at another application or stream; begin a new history")
            }
            Self::TooLarge => write!(formatter, "the look has more than {MAX_SHARDS} shards"),
        }
    }
}

impl std::error::Error for LookRefusal {}

/// Whether the owner of a lease renews it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Renewal {
    /// The lease has no owner, or no row.
    Unowned,
    /// It was renewed lately.
    Renewing,
    /// It was not renewed for several times as long as a renewal takes.
    Silent,
    /// The looks so far do not tell. The owner may be alive.
    Unknown,
}

impl History {
    /// A history without a look.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the newest look.
    ///
    /// # Errors
    /// When it is not newer than the look before it, or a look at something else; the history is then unchanged.
    pub fn add(&mut self, look: &Look) -> Result<(), LookRefusal> {
        self.check(look)?;
        let snapshot = FleetSnapshot::of(look);
        if snapshot.shards.len() > MAX_SHARDS {
            return Err(LookRefusal::TooLarge);
        }
        let now_millis = look.taken_at_millis;
        self.previous_millis = if self.looks == 0 { now_millis } else { self.now_millis };
        self.now_millis = now_millis;
        self.looks += 1;
        self.application.clone_from(&look.application);
        self.stream = look.identity().cloned().or(self.stream.take());
        let time = self.time();
        let mut before = std::mem::take(&mut self.tracks);
        for shard in &snapshot.shards {
            let mut track = before.remove(&shard.shard_id).unwrap_or_else(|| Track::new(now_millis));
            track.add(shard, snapshot.behind_millis(shard), is_held_up(shard, time), time);
            self.tracks.insert(shard.shard_id.clone(), track);
        }
        self.note_shared_names(&snapshot);
        let mut verdicts = BTreeMap::new();
        for shard in &snapshot.shards {
            let Some(track) = self.tracks.get(&shard.shard_id) else { continue };
            let verdict = judge(shard, track, has_unfinished_parent(&snapshot, shard), time);
            let since = match self.verdicts.get(&shard.shard_id) {
                Some((before, since)) if *before == verdict => *since,
                _ => now_millis,
            };
            verdicts.insert(shard.shard_id.clone(), (verdict, since));
        }
        self.verdicts = verdicts;
        self.snapshot = Some(snapshot);
        Ok(())
    }

    /// The newest look; `None` before the first one.
    pub fn snapshot(&self) -> Option<&FleetSnapshot> {
        self.snapshot.as_ref()
    }

    /// How many looks were added.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// The verdict of the newest look, in the light of those before it.
    pub fn verdict(&self) -> FleetVerdict {
        let mut fleet = FleetVerdict {
            verdict: Verdict::Undecided,
            counts: BTreeMap::new(),
            shards: BTreeMap::new(),
            first_loss: None,
            behind_millis: None,
            signs: self.signs(),
            looks: self.looks,
        };
        let shards = self.snapshot.iter().flat_map(|snapshot| &snapshot.shards);
        for shard in shards {
            let Some(verdict) = self.shard_verdict(shard) else { continue };
            *fleet.counts.entry(verdict.verdict).or_default() += 1;
            fleet.behind_millis = fleet.behind_millis.max(verdict.behind_millis);
            if let Some(left) = verdict.time_to_loss.at_pace_millis()
                && fleet.first_loss.as_ref().is_none_or(|(_, first)| left < *first)
            {
                fleet.first_loss = Some((shard.shard_id.clone(), left));
            }
            fleet.shards.insert(shard.shard_id.clone(), verdict);
        }
        if let Some((worst, _)) = fleet.counts.last_key_value() {
            fleet.verdict = *worst;
        }
        fleet
    }

    /// Whether the owner of a lease renews it.
    pub fn renewal(&self, shard_id: &ShardId) -> Renewal {
        let shard = self.snapshot.as_ref().and_then(|snapshot| snapshot.shard(shard_id));
        let Some((shard, track)) = shard.zip(self.tracks.get(shard_id)) else { return Renewal::Unowned };
        let time = self.time();
        match shard.owner {
            None => Renewal::Unowned,
            Some(_) if track.is_silent(time) => Renewal::Silent,
            Some(_) if track.is_renewal_seen => Renewal::Renewing,
            Some(_) => Renewal::Unknown,
        }
    }

    fn shard_verdict(&self, shard: &ShardView) -> Option<ShardVerdict> {
        let track = self.tracks.get(&shard.shard_id)?;
        let (verdict, since_millis) = *self.verdicts.get(&shard.shard_id)?;
        let retention = self.snapshot.as_ref()?.stream.as_ref().map(|stream| stream.retention_millis);
        let time_to_loss = match shard.state {
            ShardState::RowWithoutShard | ShardState::MalformedRow => TimeToLoss::Unknown,
            _ => time_to_loss(shard, track, verdict, retention),
        };
        let since = |millis: u64| self.now_millis.saturating_sub(millis);
        Some(ShardVerdict {
            verdict,
            since_millis,
            behind_millis: if verdict == Verdict::Ended { Some(0) } else { track.behind_millis },
            still_millis: track.still_since_millis().map(since),
            silent_millis: shard.owner.as_ref().map(|_| since(track.renewed_millis)),
            time_to_loss,
        })
    }

    fn time(&self) -> LookTime {
        LookTime { now_millis: self.now_millis, previous_millis: self.previous_millis }
    }

    fn check(&self, look: &Look) -> Result<(), LookRefusal> {
        if self.looks == 0 {
            return Ok(());
        }
        let is_same_stream = match (&self.stream, look.identity()) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        };
        if self.application != look.application || !is_same_stream {
            return Err(LookRefusal::OfAnother);
        }
        if look.taken_at_millis <= self.now_millis {
            return Err(LookRefusal::NotNewer);
        }
        Ok(())
    }

    /// Notes workers of which several processes renewed leases since the look before. A restarted process takes over the
    /// leases of its predecessor, whose rows then no longer change.
    fn note_shared_names(&mut self, snapshot: &FleetSnapshot) {
        let mut renewing: BTreeMap<&WorkerId, BTreeSet<&OwnerProcess>> = BTreeMap::new();
        let time = self.time();
        for shard in &snapshot.shards {
            let is_renewed =
                self.tracks.get(&shard.shard_id).is_some_and(|track| track.was_just_renewed(time));
            if let (Some(owner), Some(process), true) = (&shard.owner, &shard.owner_process, is_renewed) {
                renewing.entry(owner).or_default().insert(process);
            }
        }
        let mut shared = BTreeMap::new();
        for (worker_id, processes) in renewing {
            if processes.len() > 1 {
                let intervals = self.shared_names.get(worker_id).copied().unwrap_or_default();
                shared.insert(worker_id.clone(), intervals.saturating_add(1));
            }
        }
        self.shared_names = shared;
    }

    fn signs(&self) -> Vec<Sign> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let mut signs = snapshot.signs.clone();
        let shared = self.shared_names.iter().filter(|(_, intervals)| **intervals >= MIN_SHARED_INTERVALS);
        for (worker_id, _) in shared {
            let worker = snapshot.workers.iter().find(|worker| worker.worker_id == *worker_id);
            let processes = worker.map(|worker| worker.processes.clone()).unwrap_or_default();
            signs.push(Sign::WorkerIdUsedTwice { worker_id: worker_id.clone(), processes });
        }
        let rewound = self.tracks.iter().filter(|(_, track)| track.rewinds >= SEVERAL_REWINDS);
        let shards: Vec<ShardId> = rewound.map(|(shard_id, _)| shard_id.clone()).collect();
        if !shards.is_empty() {
            signs.push(Sign::SeveralApplications { shards });
        }
        signs
    }
}

/// Whether a parent of a shard is not read to its end.
fn has_unfinished_parent(snapshot: &FleetSnapshot, shard: &ShardView) -> bool {
    shard.parents.iter().any(|parent| {
        snapshot
            .shard(parent)
            .is_some_and(|parent| !matches!(parent.state, ShardState::Ended | ShardState::RowWithoutShard))
    })
}
