//! A model of DynamoDB: the rows, their recent history for stale reads, and the writes applied to them.
//!
//! [`LeaseWrite::decide`] decides the result of a write, as in every store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lease_store::{Lease, LeaseChange, LeaseWrite, Position, ShardId, Verdict, WorkerId, WriteOutcome};
use tokio::time::{Duration, Instant};

use crate::event::{
    EventKind, FIRST_CREATION_EPOCH, ShardNumber, WriteKind, Writer, record_number, sequence_number,
    shard_number, shard_of,
};
use crate::network::CurrentRates;
use crate::observer::Observer;
use crate::plan::{Defect, RowEdit};

/// Largest staleness of an eventually consistent read.
pub const MAX_STALENESS: Duration = Duration::from_millis(1500);

/// The defect [`Defect::CountersGoBack`] hits every n-th write.
const COUNTERS_GO_BACK_EVERY: u64 = 40;

/// How far beyond the newest record [`Defect::EditsSpill`] moves the other rows.
const SPILLED_RECORDS: u64 = 1_000;

/// The table. Clones share it.
#[derive(Debug, Clone)]
pub struct Table {
    state: Arc<Mutex<State>>,
    /// Records the events.
    pub observer: Observer,
    /// The fault rates of the service.
    pub fault_rates: CurrentRates,
    defect: Option<Defect>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<ShardId, Lease>,
    /// Earlier versions of each row, with the time until which they were current.
    before: BTreeMap<ShardId, VecDeque<(Instant, Option<Lease>)>>,
    writes: u64,
    /// Whether an outsider has deleted the table.
    is_missing: bool,
    /// Whether the leader of a KCL fleet assigns the leases.
    is_led: bool,
    /// When each worker of a led KCL fleet reported about itself.
    reports: BTreeMap<String, u64>,
}

/// The position after a record; 0 is the beginning.
fn position_after(record: u64) -> Position {
    match record {
        0 => Position::TrimHorizon,
        record => Position::after(sequence_number(record), 0),
    }
}

/// The number of a row's shard. Rows of the KCL name no stream.
fn shard_of_row(row: Option<&Lease>, shard_id: &ShardId) -> ShardNumber {
    shard_of(row.and_then(|row| row.stream.as_ref()), shard_id)
}

impl Table {
    /// Creates an empty table.
    pub fn new(observer: Observer, defect: Option<Defect>) -> Self {
        Self { state: Arc::default(), observer, fault_rates: CurrentRates::default(), defect }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all rows.
    pub fn rows(&self) -> Vec<Lease> {
        self.state().rows.values().cloned().map(|row| self.shown(row)).collect()
    }

    /// Returns one row.
    pub fn row(&self, shard_id: &ShardId) -> Option<Lease> {
        self.state().rows.get(shard_id).cloned()
    }

    /// Returns the rows of an eventually consistent listing: each at an age that `draw` chooses.
    pub fn stale_rows(&self, mut draw: impl FnMut(u64) -> u64) -> Vec<Lease> {
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
            rows.extend(row.cloned().map(|row| self.shown(row)));
        }
        rows
    }

    /// The row as a reader sees it.
    fn shown(&self, mut row: Lease) -> Lease {
        if self.defect == Some(Defect::PausesHidden) {
            row.pause_text = None;
        }
        row
    }

    /// Whether an outsider has deleted the table.
    pub fn is_missing(&self) -> bool {
        self.state().is_missing
    }

    /// Applies a write. Returns `None` while there is no table.
    pub fn apply(&self, by: Writer, write: &LeaseWrite, sent_at: u64) -> Option<WriteOutcome> {
        if self.is_missing() {
            return None;
        }
        let shard_id = write.shard_id().clone();
        let before = self.row(&shard_id);
        if self.defect == Some(Defect::TablePanics) && self.state().writes > 30 {
            // The seeded defect.
            #[allow(clippy::panic)]
            std::panic::panic_any("a defect panic");
        }
        let after = match self.decide(write, before.as_ref()) {
            Verdict::Applies(after) => after.map(|lease| *lease),
            Verdict::Refused => {
                self.observer.record(EventKind::WriteRefused {
                    by,
                    shard: shard_of_row(before.as_ref(), &shard_id),
                    kind: WriteKind::of(write),
                });
                return Some(WriteOutcome::Lost { lease: before });
            }
        };
        let claimed = after.clone().map(|row| self.shown(row));
        let after = self.apply_defect(write, before.as_ref(), after);
        self.put(by, WriteKind::of(write), &shard_id, before, after, sent_at);
        Some(WriteOutcome::Applied { lease: claimed })
    }

    fn decide(&self, write: &LeaseWrite, row: Option<&Lease>) -> Verdict {
        match (write, row) {
            (LeaseWrite::Update { change, .. }, Some(row))
                if self.defect == Some(Defect::ConditionsIgnored) =>
            {
                Verdict::Applies(Some(Box::new(change.apply(row))))
            }
            _ => write.decide(row),
        }
    }

    /// Applies the seeded defect to a write.
    fn apply_defect(
        &self,
        write: &LeaseWrite,
        before: Option<&Lease>,
        after: Option<Lease>,
    ) -> Option<Lease> {
        let writes = {
            let state = &mut *self.state();
            state.writes += 1;
            state.writes
        };
        match (self.defect, write, before, after) {
            (Some(Defect::StartTimesDiffer), LeaseWrite::Create(_), _, Some(mut after)) => {
                if !shard_number(&after.shard_id).is_multiple_of(2) {
                    after.initial_time_millis = after.initial_time_millis.map(|millis| millis + 15_000);
                }
                Some(after)
            }
            (Some(Defect::ChildrenNotStored), LeaseWrite::Create(lease), ..) if !lease.parents.is_empty() => {
                None
            }
            (Some(Defect::CheckpointsNotStored), LeaseWrite::Update { change, .. }, Some(before), after) => {
                match change.without_report() {
                    LeaseChange::Checkpoint { position, .. } if *position != Position::ShardEnd => {
                        Some(LeaseChange::Renew.apply(before))
                    }
                    _ => after,
                }
            }
            (
                Some(Defect::ResetsSpill),
                LeaseWrite::Update { change: LeaseChange::Reset { .. }, .. },
                _,
                after,
            ) => after.map(|mut after| {
                if let Position::After(at) = &after.checkpoint {
                    after.checkpoint = position_after(record_number(&at.sequence_number) + 1);
                }
                after
            }),
            (Some(Defect::CountersGoBack), _, Some(before), Some(mut after))
                if writes.is_multiple_of(COUNTERS_GO_BACK_EVERY) =>
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
        sent_at: u64,
    ) {
        let row = |lease: &Option<Lease>| lease.as_ref().map(|lease| self.observer.row(lease));
        let event = EventKind::LeaseWritten {
            by,
            shard: shard_of_row(after.as_ref().or(before.as_ref()), shard_id),
            kind,
            before: row(&before),
            after: row(&after),
            sent_at,
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
        self.observer.record(event);
    }

    /// Applies a write of a KCL worker on condition that the counter is unchanged, and preserves attributes that it
    /// does not know. Returns the new row, or `None` when the counter has moved.
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
        let sent_at = self.observer.now();
        self.put(by, kind, shard_id, Some(before), Some(after.clone()), sent_at);
        Some(after)
    }

    /// Whether a row belongs to another stream than the one of this number.
    pub fn has_rows_of_others(&self, life: u32) -> bool {
        let created = FIRST_CREATION_EPOCH + u64::from(life);
        let is_of_other =
            |row: &Lease| row.stream.as_ref().is_some_and(|stream| stream.creation_epoch_seconds != created);
        self.rows().iter().any(is_of_other)
    }

    /// Moves one lease of a live worker to another name, for [`Defect::LeasesStolen`].
    pub fn steal_lease(&self) {
        let Some(before) = self.rows().into_iter().find(|row| row.owner.is_some() && !row.is_finished())
        else {
            return;
        };
        let Ok(thief) = WorkerId::new("thief") else { return };
        let after = LeaseChange::take(thief).apply(&before);
        let now = self.observer.now();
        let shard_id = before.shard_id.clone();
        self.put(Writer::Outsider, WriteKind::Take, &shard_id, Some(before), Some(after), now);
    }

    /// The leader of a KCL fleet assigns the leases: no worker of ours may start.
    pub fn lead(&self) {
        self.state().is_led = true;
    }

    /// Each worker may take leases.
    pub fn pin(&self) {
        self.state().is_led = false;
    }

    /// Whether the leader of a KCL fleet assigns the leases.
    pub fn is_led(&self) -> bool {
        self.state().is_led
    }

    /// A worker of a led KCL fleet reports about itself.
    pub fn report(&self, worker: &str) {
        let now = self.observer.now();
        self.state().reports.insert(worker.to_owned(), now);
    }

    /// When each worker of a led KCL fleet reported about itself.
    pub fn reports(&self) -> BTreeMap<String, u64> {
        self.state().reports.clone()
    }

    /// Writes a row that a KCL fleet left.
    pub fn leave_row(&self, row: Lease) {
        let (now, shard_id) = (self.observer.now(), row.shard_id.clone());
        self.put(Writer::Outsider, WriteKind::Create, &shard_id, None, Some(row), now);
    }

    /// Begins the hand-over of an owned lease, as the leader of a KCL fleet does: the counter stays, and the former owner goes
    /// on until it has stored its position.
    pub fn begin_hand_over(&self, choice: u64, to: &WorkerId) {
        let is_fit =
            |row: &Lease| row.owner.is_some() && row.checkpoint_owner.is_none() && !row.is_finished();
        let owned: Vec<Lease> = self.rows().into_iter().filter(is_fit).collect();
        let index = choice.checked_rem(owned.len() as u64).and_then(|index| usize::try_from(index).ok());
        let Some(before) = index.map(|index| owned[index].clone()) else { return };
        let after =
            Lease { owner: Some(to.clone()), checkpoint_owner: before.owner.clone(), ..before.clone() };
        let (now, shard_id) = (self.observer.now(), before.shard_id.clone());
        self.put(Writer::Outsider, WriteKind::Other, &shard_id, Some(before), Some(after), now);
    }

    /// Deletes existing rows as an outsider, beginning with one that `first` selects.
    pub fn delete_rows_as_outsider(&self, first: u64, count: u64) {
        let chosen: Vec<ShardId> = {
            let state = &*self.state();
            let first = first.checked_rem(state.rows.len() as u64).unwrap_or(0);
            let keys = state.rows.keys().cycle().skip(usize::try_from(first).unwrap_or(0));
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(state.rows.len());
            keys.take(count).cloned().collect()
        };
        for shard_id in chosen {
            let before = self.row(&shard_id);
            let now = self.observer.now();
            self.put(Writer::Outsider, WriteKind::Delete, &shard_id, before, None, now);
        }
    }

    /// Changes the position in an existing row as an operator, unless the shard is finished.
    pub fn edit_row_as_outsider(&self, choice: u64, edit: RowEdit, raises_counter: bool, newest: u64) {
        let unfinished: Vec<Lease> = self.rows().into_iter().filter(|row| !row.is_finished()).collect();
        let index = choice.checked_rem(unfinished.len() as u64).and_then(|index| usize::try_from(index).ok());
        let Some(row) = index.map(|index| unfinished[index].clone()) else { return };
        let record = match &row.checkpoint {
            Position::After(at) => record_number(&at.sequence_number),
            _ => 0,
        };
        let moved = match edit {
            RowEdit::Back(records) => record.saturating_sub(records),
            RowEdit::Forward(records) => record.saturating_add(records).min(newest),
            RowEdit::Start => 0,
        };
        self.edit_as_outsider(&row, moved, raises_counter);
        if self.defect == Some(Defect::EditsSpill) {
            let state = &mut *self.state();
            for other in
                state.rows.values_mut().filter(|other| other.shard_id != row.shard_id && !other.is_finished())
            {
                other.checkpoint = position_after(newest + SPILLED_RECORDS);
            }
        }
    }

    /// Sets all rows back to `TRIM_HORIZON` as an operator.
    pub fn rewind_as_outsider(&self) {
        for row in self.rows() {
            self.edit_as_outsider(&row, 0, false);
        }
    }

    fn edit_as_outsider(&self, row: &Lease, record: u64, raises_counter: bool) {
        let counter = row.counter + u64::from(raises_counter);
        let edited = Lease { checkpoint: position_after(record), counter, ..row.clone() };
        let now = self.observer.now();
        let shard_id = row.shard_id.clone();
        self.put(Writer::Outsider, WriteKind::Other, &shard_id, Some(row.clone()), Some(edited), now);
    }

    /// Deletes the table as an outsider.
    pub fn remove_as_outsider(&self) {
        self.delete_rows_as_outsider(0, u64::MAX);
        {
            let state = &mut *self.state();
            // No read of another table shows these rows.
            state.before.clear();
            state.is_missing = true;
        }
        self.observer.record(EventKind::TableRemoved);
    }

    /// Creates the table if it is missing.
    pub fn create(&self) {
        if std::mem::replace(&mut self.state().is_missing, false) {
            self.observer.record(EventKind::TableCreated);
        }
    }
}
