//! A model of DynamoDB: the rows, what stood in them a moment ago, and writes that are still on their way.
//!
//! What a write does is decided by [`LeaseWrite::decide`], as in every store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lease_store::{Lease, LeaseChange, LeaseWrite, Position, ShardId, Verdict, WriteOutcome};
use tokio::time::{Duration, Instant};

use crate::event::{What, WriteKind, Writer, shard_number};
use crate::network::Sky;
use crate::observer::Observer;
use crate::plan::Planted;

/// How far behind an eventually consistent read may be.
pub const MAX_STALENESS: Duration = Duration::from_millis(1500);

/// Every so many writes the planted defect of [`Planted::RowsGoBack`] strikes.
const ROWS_GO_BACK_EVERY: u64 = 40;

/// The table. Clones are the same.
#[derive(Debug, Clone)]
pub struct Table {
    state: Arc<Mutex<State>>,
    /// What is seen.
    pub observer: Observer,
    /// How it behaves.
    pub sky: Sky,
    planted: Option<Planted>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<ShardId, Lease>,
    /// What stood in a row until when.
    before: BTreeMap<ShardId, VecDeque<(Instant, Option<Lease>)>>,
    writes: u64,
}

impl Table {
    /// An empty table.
    pub fn new(observer: Observer, planted: Option<Planted>) -> Self {
        Self { state: Arc::default(), observer, sky: Sky::default(), planted }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All rows as they stand.
    pub fn rows(&self) -> Vec<Lease> {
        self.state().rows.values().cloned().collect()
    }

    /// One row as it stands.
    pub fn row(&self, shard_id: &ShardId) -> Option<Lease> {
        self.state().rows.get(shard_id).cloned()
    }

    /// All rows as an eventually consistent listing may show them: each as it stood some time ago, by `draw`.
    pub fn rows_of_late(&self, mut draw: impl FnMut(u64) -> u64) -> Vec<Lease> {
        let now = Instant::now();
        let bound = u64::try_from(MAX_STALENESS.as_millis()).unwrap_or(u64::MAX);
        let state = &*self.state();
        let known = state.before.keys().chain(state.rows.keys()).collect::<std::collections::BTreeSet<_>>();
        let mut rows = Vec::with_capacity(known.len());
        for shard_id in known {
            let age = Duration::from_millis(draw(bound));
            let older = state
                .before
                .get(shard_id)
                .and_then(|before| before.iter().find(|(until, _)| now.duration_since(*until) < age));
            let row = match older {
                Some((_, row)) => row.as_ref(),
                None => state.rows.get(shard_id),
            };
            rows.extend(row.cloned());
        }
        rows
    }

    /// A write arrives.
    pub fn apply(&self, by: Writer, write: &LeaseWrite, asked_at: u64) -> WriteOutcome {
        let shard_id = write.shard_id().clone();
        let before = self.row(&shard_id);
        if self.planted == Some(Planted::TablePanics) && self.state().writes > 30 {
            // A defect that is asked for.
            #[allow(clippy::panic)]
            std::panic::panic_any("a planted panic");
        }
        let after = match self.decide(write, before.as_ref()) {
            Verdict::Applies(after) => after.map(|lease| *lease),
            Verdict::Refused => {
                self.observer.note(What::Lost {
                    by,
                    shard: shard_number(&shard_id),
                    kind: WriteKind::of(write),
                });
                return WriteOutcome::Lost { lease: before };
            }
        };
        let claimed = after.clone();
        let after = self.spoil(write, before.as_ref(), after);
        self.put(by, WriteKind::of(write), &shard_id, before, after, asked_at);
        WriteOutcome::Applied { lease: claimed }
    }

    fn decide(&self, write: &LeaseWrite, row: Option<&Lease>) -> Verdict {
        match (write, row) {
            (LeaseWrite::Update { change, .. }, Some(row))
                if self.planted == Some(Planted::Unconditional) =>
            {
                Verdict::Applies(Some(Box::new(change.apply(row))))
            }
            _ => write.decide(row),
        }
    }

    /// What a planted defect makes of a write.
    fn spoil(&self, write: &LeaseWrite, before: Option<&Lease>, after: Option<Lease>) -> Option<Lease> {
        let writes = {
            let state = &mut *self.state();
            state.writes += 1;
            state.writes
        };
        match (self.planted, write, before, after) {
            (Some(Planted::InstantsDiffer), LeaseWrite::Create(_), _, Some(mut after)) => {
                if !shard_number(&after.shard_id).is_multiple_of(2) {
                    after.initial_time_millis = after.initial_time_millis.map(|millis| millis + 15_000);
                }
                Some(after)
            }
            (Some(Planted::ChildrenForgotten), LeaseWrite::Create(lease), ..)
                if !lease.parents.is_empty() =>
            {
                None
            }
            (Some(Planted::CheckpointsForgotten), LeaseWrite::Update { change, .. }, Some(before), after) => {
                match change {
                    LeaseChange::Checkpoint { position, .. } if *position != Position::ShardEnd => {
                        Some(LeaseChange::Renew.apply(before))
                    }
                    _ => after,
                }
            }
            (Some(Planted::RowsGoBack), _, Some(before), Some(mut after))
                if writes.is_multiple_of(ROWS_GO_BACK_EVERY) =>
            {
                after.counter = before.counter.saturating_sub(1);
                Some(after)
            }
            (_, _, _, after) => after,
        }
    }

    fn put(
        &self,
        by: Writer,
        kind: WriteKind,
        shard_id: &ShardId,
        before: Option<Lease>,
        after: Option<Lease>,
        asked_at: u64,
    ) {
        let row = |lease: &Option<Lease>| lease.as_ref().map(|lease| self.observer.row(lease));
        let what = What::Written {
            by,
            shard: shard_number(shard_id),
            kind,
            before: row(&before),
            after: row(&after),
            asked_at,
        };
        {
            let state = &mut *self.state();
            match after {
                Some(after) => state.rows.insert(shard_id.clone(), after),
                None => state.rows.remove(shard_id),
            };
            let now = Instant::now();
            let history = state.before.entry(shard_id.clone()).or_default();
            while history.front().is_some_and(|(until, _)| now.duration_since(*until) > MAX_STALENESS) {
                history.pop_front();
            }
            history.push_back((now, before));
        }
        self.observer.note(what);
    }

    /// What a KCL worker writes: on the condition that the counter stands, whatever it makes of the row; no
    /// attribute that it does not know is changed. The row after it, or `None` when the counter moved.
    pub fn kcl_write(
        &self,
        by: Writer,
        kind: WriteKind,
        shard_id: &ShardId,
        counter: u64,
        change: impl FnOnce(&mut Lease),
    ) -> Option<Lease> {
        let before = self.row(shard_id).filter(|row| row.counter == counter)?;
        let mut after = before.clone();
        change(&mut after);
        let asked_at = self.observer.now();
        self.put(by, kind, shard_id, Some(before), Some(after.clone()), asked_at);
        Some(after)
    }

    /// Gives one lease of a live worker to another name, for the defect of [`Planted::Restless`].
    pub fn give_away(&self) {
        let Some(before) = self.rows().into_iter().find(|row| row.owner.is_some() && !row.is_finished())
        else {
            return;
        };
        let Ok(thief) = lease_store::WorkerId::new("thief") else { return };
        let after = LeaseChange::take(thief).apply(&before);
        let now = self.observer.now();
        let shard_id = before.shard_id.clone();
        self.put(Writer::Stranger, WriteKind::Take, &shard_id, Some(before), Some(after), now);
    }

    /// Somebody deletes a row that is there.
    pub fn delete_behind_our_back(&self, index: u64) {
        let chosen = {
            let state = &*self.state();
            let count = state.rows.len() as u64;
            let index = index.checked_rem(count).unwrap_or(0);
            state.rows.keys().nth(usize::try_from(index).unwrap_or(0)).cloned()
        };
        if let Some(shard_id) = chosen {
            let before = self.row(&shard_id);
            let now = self.observer.now();
            self.put(Writer::Stranger, WriteKind::Delete, &shard_id, before, None, now);
        }
    }
}
