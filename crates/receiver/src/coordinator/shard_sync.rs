//! Shard sync: lists the shards and creates missing leases, at the start, for a hole, and periodically on the leader.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt as _;
use lease_store::{
    Consistency, HashKeyRange, HeldLease, Lease, LeaseChange, LeaseListing, LeaseStore, LeaseWrite, Position,
    ShardId, WriteOutcome,
};
use shard_worker::{Shard, ShardFilter};
use tokio::time::{Duration, Instant};

use super::scan::scan;
use super::startup_log::unknown_shards;
use super::{Coordinator, MAX_CONCURRENT_WRITES, StreamFacts, jittered};
use crate::assignment::namesakes::OwnerProcess;
use crate::error::{ConsumerError, source_error, store_error};
use crate::shards::absences::{AbsenceView, Absences};
use crate::shards::cleanup::plan_cleanup;
use crate::shards::coverage::{Coverage, coverage};
use crate::shards::forgotten::plan_forgotten;
use crate::shards::initial_position::{InitialPosition, ShardPositions, time_of_millis};
use crate::shards::last_known::{has_begun, restored};
use crate::shards::plan::{StartTime, plan_new_leases};
use crate::shards::table_identity::check_shards;
use crate::shards::unread_parents::missing_parents;
use crate::status::LeaseTableState;

/// A worker that does not lead repairs a hole that has existed for this fraction of the fail-over time.
const PATIENCE_PER_FAILOVER_TIME: u32 = 2;

/// The most leases of ended shards that the leader deletes after one round.
const MAX_CLEAN_UPS_PER_ROUND: usize = 100;

/// The most rows of forgotten shards that one audit deletes.
const MAX_FORGOTTEN_PER_AUDIT: usize = 1000;

/// The state of the shard sync.
#[derive(Debug)]
pub(super) struct ShardSync {
    /// When the leader lists the shards again.
    pub(super) next_audit: Instant,
    /// The hash-key ranges of the shards, as last listed.
    ranges: HashMap<ShardId, HashKeyRange>,
    hole: Option<Hole>,
    absences: Absences,
    /// Parents that need no row: the stream does not list them, or a named position implies that they are read. No child
    /// waits for them.
    accepted_parents: BTreeSet<ShardId>,
    /// Whether unknown shards among the named ones were logged.
    has_reported_unknown: bool,
    /// The pairs that were logged last: a shard at `TRIM_HORIZON`, and its parent that has no row.
    pub(super) reported_left_out: BTreeSet<(ShardId, ShardId)>,
    /// All shards, as last listed; empty unless all were listed.
    pub(super) listed: Vec<Shard>,
    /// Whether the shards have to be listed to place new rows in the history of the stream.
    pub(super) has_unplaced_rows: bool,
    /// The rows that the last audit found to be no longer needed.
    forgotten: BTreeSet<ShardId>,
}

/// The rows that the table lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gap {
    /// A range of the hash-key space that no lease covers.
    range: Option<HashKeyRange>,
    /// Shards whose rows vanished, and parents that a child waits for.
    shards: BTreeSet<ShardId>,
}

/// A gap in the table, and the progress of its repair.
#[derive(Debug, Clone)]
struct Hole {
    gap: Gap,
    since: Instant,
    /// When a shard sync last found no missing lease for this hole. Until the next interval it counts as nothing to repair,
    /// unless that listing did not show all shards yet.
    accepted_at: Option<Instant>,
}

/// The outcome of a shard sync.
#[derive(Debug, Default)]
struct Synced {
    /// The shards whose leases were missing at first.
    missing: Vec<ShardId>,
    /// Whether no missing lease was left to a holder that may be alive.
    is_complete: bool,
}

impl ShardSync {
    pub(super) fn starting_at(now: Instant) -> Self {
        Self {
            next_audit: now,
            ranges: HashMap::new(),
            hole: None,
            absences: Absences::default(),
            accepted_parents: BTreeSet::new(),
            has_reported_unknown: false,
            reported_left_out: BTreeSet::new(),
            listed: Vec::new(),
            has_unplaced_rows: false,
            forgotten: BTreeSet::new(),
        }
    }

    pub(super) fn range_of(&self, shard_id: &ShardId) -> Option<HashKeyRange> {
        self.ranges.get(shard_id).copied()
    }
}

impl Coordinator {
    pub(super) async fn list_all(&self) -> Result<LeaseListing, ConsumerError> {
        let scan = scan(self.lease_source(), Consistency::Strong, self.list_patience()).await;
        scan.listing.map_err(|error| store_error("listing the leases", error))
    }

    /// The periodic shard sync of the leader.
    pub(super) async fn audit(&mut self, facts: &StreamFacts) {
        self.schedule_audit();
        if !self.rounds.is_leader {
            return;
        }
        let audited = async {
            let stream = self.receiver.source.describe().await;
            stream.map_err(|error| source_error("describing the stream again", error))?;
            let listing = self.list_all().await?;
            let (leases, is_readable) = (listing.leases.clone(), listing.malformed.is_empty());
            let synced = self.sync_shards(facts, listing).await?;
            if synced.missing.is_empty() && synced.is_complete && is_readable {
                self.clean_up_forgotten(&leases).await;
            }
            Ok::<(), ConsumerError>(())
        };
        let failure = audited.await.err().and_then(|error| facts.border.cross_if_foreign(error));
        if let Some(error) = failure {
            tracing::warn!(%error, "shard sync failed, trying again after its interval");
        }
    }

    fn schedule_audit(&mut self) {
        let interval = self.receiver.settings.shard_sync_interval;
        let next = Instant::now() + jittered(interval, &mut self.receiver.rng);
        self.sync.next_audit = self.receiver.seat.as_ref().map_or(next, |seat| seat.common_audit(next));
    }

    /// Creates missing leases at the start. It lists the shards only if the table does not prove that all of them have
    /// leases. Returns the shards whose leases were missing.
    pub(super) async fn create_missing_leases(
        &mut self,
        facts: &StreamFacts,
        listing: LeaseListing,
    ) -> Result<Vec<ShardId>, ConsumerError> {
        self.schedule_audit();
        self.report_malformed(&listing);
        let is_complete = listing.malformed.is_empty() && coverage(&listing.leases) == Coverage::Complete;
        if is_complete && !self.may_be_rewound(&listing) {
            return Ok(Vec::new());
        }
        Ok(self.sync_shards(facts, listing).await?.missing)
    }

    /// Lists the shards and creates the missing leases, except those that a live holder may still restore. Any number of
    /// workers may do so at the same time.
    async fn sync_shards(
        &mut self,
        facts: &StreamFacts,
        mut listing: LeaseListing,
    ) -> Result<Synced, ConsumerError> {
        let (store, source) = (self.receiver.store.clone(), self.receiver.source.clone());
        let settings = &self.receiver.settings;
        let (initial_position, named) = (settings.initial_position, settings.initial_positions.clone());
        let is_first = listing.leases.is_empty() && listing.malformed.is_empty();
        let is_unknown = self.known.rows().next().is_none();
        let starts_at_tip =
            is_first && is_unknown && initial_position == InitialPosition::Latest && named.is_empty();
        let filter = match facts.initial_time_millis.and_then(time_of_millis) {
            _ if !starts_at_tip => ShardFilter::All,
            // A shard may have closed since then and hold records from between.
            Some(instant) => ShardFilter::OpenSince(instant),
            None => ShardFilter::Open,
        };
        let shards = source.list_shards(&filter).await;
        let shards = shards.map_err(|error| source_error("listing the shards of the stream", error))?;
        check_shards(store.name(), &listing.leases, &shards, &facts.identity)?;
        self.sync.listed = if filter == ShardFilter::All { shards.clone() } else { Vec::new() };
        self.sync.ranges =
            shards.iter().filter_map(|shard| Some((shard.shard_id.clone(), shard.hash_key_range?))).collect();
        if !std::mem::replace(&mut self.sync.has_reported_unknown, true)
            && let Some(warning) = unknown_shards(&named, &shards, &listing.leases)
        {
            tracing::warn!("{warning}");
        }
        let start_time = match facts.initial_time_millis {
            Some(millis) if filter == ShardFilter::All => {
                Some(self.start_time(facts, millis, &shards, &listing).await?)
            }
            millis => millis.map(StartTime::at_millis),
        };
        let rewound = self.rewound_ancestors(facts, &shards, &listing).await?;
        let rewound_ids: Vec<ShardId> = rewound.iter().map(|lease| lease.shard_id.clone()).collect();
        if !rewound.is_empty() {
            self.schedule_strong_scan();
            self.create(rewound).await?;
            listing = self.list_all().await?;
        }
        self.known.forget_ended(&listing.leases, &shards);
        if filter == ShardFilter::All {
            self.known.keep_listed(&shards, &listing.leases);
            self.forget_unneeded(&shards, &listing);
        }
        let mut synced: Option<Synced> = None;
        let held = self.held_shards();
        let process = self.receiver.process.clone();
        let is_of_namesake = |lease: &Lease| process.owner_of(lease) == OwnerProcess::Other;
        let mut is_empty_table = is_first;
        // Each pass creates at least one lease, or others have created it. One more pass claims an empty table.
        for _ in 0..=shards.len() + 1 {
            let vanished = self.known.vanished(&listing.leases, &malformed_shards(&listing));
            let floor = self.counter_floor(facts);
            let restore = |known: &Lease| {
                let counter = counter_of_restored(known.counter, Duration::ZERO, floor);
                restored(known, &facts.identity, counter)
            };
            let vanished: Vec<Lease> = vanished.into_iter().map(restore).collect();
            let mut all = listing.clone();
            all.leases.extend(vanished.iter().cloned());
            let planned = missing_leases(&shards, &all, initial_position, start_time.as_ref(), &named, facts);
            let missing: Vec<Lease> = vanished.into_iter().chain(planned).collect();
            let is_missing = |parent: &ShardId| missing.iter().any(|lease| lease.shard_id == *parent);
            let parents = missing_parents(&listing.leases).into_values().flatten();
            self.sync.accepted_parents = parents.filter(|parent| !is_missing(parent)).collect();
            let missing_ids = || missing.iter().map(|lease| lease.shard_id.clone()).collect();
            let missing_at_first = synced.take().map_or_else(missing_ids, |synced| synced.missing);
            let view = AbsenceView {
                worker_id: &self.receiver.worker_id,
                is_of_namesake: &is_of_namesake,
                held: &held,
                known: &self.known,
                leases: &listing.leases,
                failover_time: self.receiver.settings.failover_time,
            };
            let (mut due, later) = self.sync.absences.split(missing, &view, Instant::now());
            synced = Some(Synced { missing: missing_at_first, is_complete: later.is_empty() });
            if due.is_empty() {
                break;
            }
            self.schedule_strong_scan();
            let claim = is_empty_table.then(|| due[..1].to_vec());
            if claim.is_some() {
                due.truncate(1);
            }
            let is_created = self.create(due).await?;
            if is_created && claim.is_none() {
                break;
            }
            // Other workers create leases too: list again to skip those.
            listing = self.list_all().await?;
            let foreign = facts.check_rows(store.name(), &listing.leases);
            if let Err(error) = foreign {
                if let Some(claim) = claim.filter(|_| is_created) {
                    self.withdraw_claim(&claim).await;
                }
                return Err(error);
            }
            is_empty_table = false;
        }
        let mut synced = synced.unwrap_or_default();
        synced.missing.splice(0..0, rewound_ids);
        Ok(synced)
    }

    /// Forgets the known rows whose deletion was no loss: the clean-up deletes them.
    fn forget_unneeded(&mut self, shards: &[Shard], listing: &LeaseListing) {
        let malformed = malformed_shards(listing);
        let listed: BTreeSet<&ShardId> = listing.leases.iter().map(|lease| &lease.shard_id).collect();
        // Once a parent is forgotten, its child may be unneeded too.
        loop {
            let vanished = self.known.vanished(&listing.leases, &malformed);
            if vanished.is_empty() {
                return;
            }
            let all: Vec<Lease> = listing.leases.iter().chain(vanished).cloned().collect();
            let unneeded = plan_forgotten(&all, shards, |_| false).into_iter();
            let unneeded: Vec<&ShardId> =
                unneeded.map(|lease| &lease.shard_id).filter(|shard_id| !listed.contains(shard_id)).collect();
            if unneeded.is_empty() {
                return;
            }
            for shard_id in unneeded {
                self.known.forget(shard_id);
            }
        }
    }

    /// Deletes the first row of a table that another stream claimed at the same moment.
    async fn withdraw_claim(&self, claim: &[Lease]) {
        for lease in claim {
            let delete = LeaseWrite::Delete { shard_id: lease.shard_id.clone(), expected: lease.version() };
            if let Err(error) = self.receiver.store.write(&delete).await {
                tracing::warn!(shard_id = %lease.shard_id, %error, "the row of this stream was not deleted; delete it");
            }
        }
    }

    /// The children that wait for a parent whose row vanished.
    pub(super) fn waiting_children(&self, listing: &LeaseListing) -> BTreeSet<ShardId> {
        let vanished = self.known.vanished(&listing.leases, &malformed_shards(listing));
        let vanished: BTreeSet<&ShardId> = vanished.into_iter().map(|lease| &lease.shard_id).collect();
        let unread = missing_parents(&listing.leases);
        let waits = |lease: &&Lease| {
            let is_unread = |parent: &ShardId| !self.sync.accepted_parents.contains(parent);
            unread.get(&lease.shard_id).is_some_and(|parents| parents.iter().any(is_unread))
                || !has_begun(lease) && lease.parents.iter().any(|parent| vanished.contains(parent))
        };
        listing.leases.iter().filter(waits).map(|lease| lease.shard_id.clone()).collect()
    }

    /// Moves rows that were deleted and created again before their last known positions to those. Returns the
    /// shards of these rows.
    pub(super) async fn repair_rows_set_back(
        &mut self,
        listing: &LeaseListing,
        consistency: Consistency,
    ) -> BTreeSet<ShardId> {
        let set_back: Vec<(Lease, Lease)> = self
            .known
            .set_back(&listing.leases)
            .into_iter()
            .map(|(row, known)| (row.clone(), known.clone()))
            .collect();
        let shards = set_back.iter().map(|(row, _)| row.shard_id.clone()).collect();
        if set_back.is_empty() {
            return shards;
        }
        self.schedule_strong_scan();
        if consistency == Consistency::Eventual {
            return shards;
        }
        let store = &self.receiver.store;
        futures::stream::iter(set_back)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |(row, known)| async move {
                let shard_id = row.shard_id.clone();
                let change = LeaseChange::Checkpoint {
                    position: known.checkpoint.clone(),
                    children: known.children.clone(),
                };
                let write = LeaseWrite::Update { shard_id, expected: row.version(), change };
                match store.write(&write).await {
                    Ok(WriteOutcome::Applied { .. }) => tracing::warn!(
                        shard_id = %row.shard_id,
                        position = %row.checkpoint,
                        checkpoint = %known.checkpoint,
                        "the row of the lease was deleted and created again, its last known position is restored"
                    ),
                    // The next round lists the row again.
                    Ok(WriteOutcome::Lost { .. } | WriteOutcome::Unknown(_)) => {}
                    Err(error) => {
                        tracing::warn!(shard_id = %row.shard_id, %error, "the last known position was not restored");
                    }
                }
            })
            .await;
        shards
    }

    /// The start time, and, where a lineage without leases starts at `LATEST`, the shards that were open at that time.
    async fn start_time(
        &self,
        facts: &StreamFacts,
        millis: u64,
        shards: &[Shard],
        listing: &LeaseListing,
    ) -> Result<StartTime, ConsumerError> {
        let (source, settings) = (&self.receiver.source, &self.receiver.settings);
        let (initial_position, named) = (settings.initial_position, &settings.initial_positions);
        let mut start_time = StartTime::at_millis(millis);
        let starts_lineages =
            || !missing_leases(shards, listing, initial_position, Some(&start_time), named, facts).is_empty();
        if initial_position == InitialPosition::Latest
            && let Some(instant) = time_of_millis(millis)
            && starts_lineages()
        {
            let open_since = source.list_shards(&ShardFilter::OpenSince(instant)).await;
            let open_since = open_since
                .map_err(|error| source_error("listing the shards since the application started", error))?;
            start_time.open_since = Some(open_since.into_iter().map(|shard| shard.shard_id).collect());
        }
        Ok(start_time)
    }

    /// Creates leases, parents before children. Returns `false` when another worker created some of them first: the rest
    /// needs a new listing.
    async fn create(&mut self, mut leases: Vec<Lease>) -> Result<bool, ConsumerError> {
        // Workers that start together create different ones.
        self.receiver.rng.shuffle(&mut leases);
        while !leases.is_empty() {
            let waiting: BTreeSet<ShardId> = leases.iter().map(|lease| lease.shard_id.clone()).collect();
            let (mut ready, mut later): (Vec<Lease>, Vec<Lease>) =
                leases.into_iter().partition(|lease| lease.parents.is_disjoint(&waiting));
            let rest = ready.split_off(ready.len().min(MAX_CONCURRENT_WRITES));
            if ready.is_empty() {
                // Parents that form a cycle are no shard history: do not wait for them.
                ready.append(&mut later);
            }
            let store = &self.receiver.store;
            let outcomes: Vec<_> = futures::stream::iter(ready)
                .map(|lease| async {
                    let outcome = store.write(&LeaseWrite::Create(lease.clone())).await;
                    (lease, outcome)
                })
                .buffer_unordered(MAX_CONCURRENT_WRITES)
                .collect()
                .await;
            self.ignore_started_scans();
            let mut others_create_too = false;
            for (lease, outcome) in outcomes {
                match outcome.map_err(|error| store_error("creating a lease", error))? {
                    WriteOutcome::Applied { .. } => {
                        tracing::info!(shard_id = %lease.shard_id, checkpoint = %lease.checkpoint, "lease created");
                    }
                    WriteOutcome::Lost { .. } => others_create_too = true,
                    WriteOutcome::Unknown(error) => return Err(store_error("creating a lease", error)),
                }
            }
            if others_create_too {
                return Ok(false);
            }
            leases = rest.into_iter().chain(later).collect();
        }
        Ok(true)
    }

    /// Deletes the leases of ended shards that are no longer needed, even those that another worker owns. KCL workers count
    /// such leases as work, take and renew them, and delete them only every five minutes.
    ///
    /// Only the leader does so, a bounded number after each round, in a task of its own: no round waits for it.
    pub(super) fn start_clean_up(&mut self, leases: &[Lease]) {
        while self.clean_up.try_join_next().is_some() {}
        if !self.rounds.is_leader || !self.clean_up.is_empty() {
            return;
        }
        let planned = plan_cleanup(leases).into_iter().take(MAX_CLEAN_UPS_PER_ROUND);
        let deletes: Vec<(ShardId, LeaseWrite)> = planned
            .map(|lease| {
                let shard_id = lease.shard_id.clone();
                (shard_id.clone(), LeaseWrite::Delete { shard_id, expected: lease.version() })
            })
            .collect();
        if !deletes.is_empty() {
            self.clean_up.spawn(delete_all(self.receiver.store.clone(), deletes));
        }
    }

    /// Deletes rows that are no longer needed according to the shards that the stream lists, if the audit before agreed:
    /// one listing may be outdated. Each deletion is conditional on the row as it was listed.
    async fn clean_up_forgotten(&mut self, leases: &[Lease]) {
        let failover_time = self.receiver.settings.failover_time;
        self.observations.observe(leases, Instant::now());
        let observed = self.observations.of(leases, Instant::now());
        let held: BTreeSet<&ShardId> = observed
            .iter()
            .filter(|observed| observed.lease.owner.is_some() && observed.unchanged_for < failover_time)
            .map(|observed| &observed.lease.shard_id)
            .collect();
        let shards = std::mem::take(&mut self.sync.listed);
        let forgotten = plan_forgotten(leases, &shards, |lease| held.contains(&lease.shard_id));
        let ids = forgotten.iter().map(|lease| lease.shard_id.clone()).collect();
        let before = std::mem::replace(&mut self.sync.forgotten, ids);
        self.sync.listed = shards;
        let confirmed = forgotten.into_iter().filter(|lease| before.contains(&lease.shard_id));
        let confirmed: Vec<&Lease> = confirmed.take(MAX_FORGOTTEN_PER_AUDIT).collect();
        for lease in &confirmed {
            self.known.forget(&lease.shard_id);
        }
        let store = &self.receiver.store;
        futures::stream::iter(confirmed)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |lease| async move {
                let shard_id = &lease.shard_id;
                let delete = LeaseWrite::Delete { shard_id: shard_id.clone(), expected: lease.version() };
                match store.write(&delete).await {
                    Ok(WriteOutcome::Applied { .. }) => {
                        tracing::info!(%shard_id, checkpoint = %lease.checkpoint, "lease of a forgotten shard deleted");
                    }
                    // The row has changed, or the next audit deletes it.
                    Ok(WriteOutcome::Lost { .. } | WriteOutcome::Unknown(_)) => {}
                    Err(error) => tracing::debug!(%shard_id, %error, "lease of a forgotten shard not deleted"),
                }
            })
            .await;
    }

    /// Repairs a hole in the hash-key space: the leader as soon as a strongly consistent listing shows it, the others when
    /// the leader evidently does not.
    pub(super) async fn repair_holes(
        &mut self,
        facts: &StreamFacts,
        listing: &LeaseListing,
        consistency: Consistency,
    ) {
        self.sync.absences.end(&listing.leases);
        let gap = self.find_gap(listing);
        if gap.shards.is_empty() {
            self.report_table(LeaseTableState::Available);
        }
        if gap.range.is_none() && gap.shards.is_empty() {
            self.sync.hole = None;
            return;
        }
        let known = self.sync.hole.take().filter(|hole| hole.gap == gap);
        let is_new = known.is_none();
        let hole = known.unwrap_or_else(|| Hole { gap, since: Instant::now(), accepted_at: None });
        self.sync.hole = Some(hole.clone());
        let patience = self.receiver.settings.failover_time / PATIENCE_PER_FAILOVER_TIME;
        let listed_again_after = self.receiver.settings.shard_sync_interval;
        let is_accepted = hole.accepted_at.is_some_and(|at| at.elapsed() < listed_again_after);
        let held = self.held_shards();
        // The last holder of a row knows its newest position.
        let is_last_holder = hole.gap.shards.iter().any(|shard_id| {
            let known = self.known.get(shard_id);
            known.is_some_and(|known| {
                known.is_owned_by(&self.receiver.worker_id)
                    && self.receiver.process.owner_of(known) != OwnerProcess::Other
            }) && !held.contains(shard_id)
        });
        if is_accepted || !(self.rounds.is_leader || is_last_holder || hole.since.elapsed() >= patience) {
            return;
        }
        if consistency == Consistency::Eventual {
            // It may not show leases that have just been created.
            self.schedule_strong_scan();
            return;
        }
        if is_new {
            tracing::warn!(
                hash_keys = ?hole.gap.range,
                shards = ?hole.gap.shards,
                "rows of the lease table are missing, listing the shards to create them"
            );
        }
        let synced = self.sync_shards(facts, listing.clone()).await;
        // The clean-up of the leader deletes rows too: only those that have to be created again are missing.
        if synced.as_ref().is_ok_and(|synced| !synced.missing.is_empty()) && !hole.gap.shards.is_empty() {
            self.report_table(LeaseTableState::RowsMissing);
        }
        match synced {
            // The next round sees the created leases. If there were none, there is nothing to repair.
            Ok(synced) if synced.is_complete => {
                self.sync.hole = Some(Hole { accepted_at: Some(Instant::now()), ..hole });
            }
            // A live holder may restore its row first.
            Ok(_) => {}
            Err(error) => {
                if let Some(error) = facts.border.cross_if_foreign(error) {
                    tracing::warn!(%error, "creating the missing leases failed, trying again");
                }
            }
        }
    }

    /// The gap in the table, as far as the table alone shows it.
    fn find_gap(&self, listing: &LeaseListing) -> Gap {
        // The shard of a malformed row may cover the rest.
        let found = if listing.malformed.is_empty() { coverage(&listing.leases) } else { Coverage::Unknown };
        let range = if let Coverage::Hole(range) = found { Some(range) } else { None };
        let vanished = self.known.vanished(&listing.leases, &malformed_shards(listing));
        let vanished = vanished.into_iter().map(|lease| lease.shard_id.clone());
        let unread = missing_parents(&listing.leases).into_values().flatten();
        let unread = unread.filter(|parent| !self.sync.accepted_parents.contains(parent));
        Gap { range, shards: vanished.chain(unread).collect() }
    }

    /// Restores a row, at its last position, that was deleted while this worker held the lease.
    ///
    /// A holder that could not write for the fail-over time leaves that to the audit of the table: others may have taken the
    /// lease and read on, or read the shard to its end, whose row the clean-up deleted.
    pub(super) async fn restore_row(
        &mut self,
        facts: &StreamFacts,
        held: &HeldLease,
        vanished_after: Duration,
    ) {
        let last_known = held.last_known().await;
        if held.has_ended() || last_known.is_finished() {
            return;
        }
        if vanished_after >= self.receiver.settings.failover_time {
            self.schedule_strong_scan();
            return;
        }
        let shard_id = last_known.shard_id.clone();
        let counter = counter_of_restored(last_known.counter, vanished_after, self.counter_floor(facts));
        let lease = restored(&last_known, &facts.identity, counter);
        match self.recreate(facts, &lease).await {
            Ok(true) => {
                tracing::warn!(%shard_id, checkpoint = %lease.checkpoint, "the row of the lease was deleted and is restored");
            }
            Ok(false) => {
                tracing::debug!(%shard_id, "the row of the lease was deleted, and another worker restored it");
            }
            Err(error) => {
                if let Some(error) = facts.border.cross_if_foreign(error) {
                    tracing::warn!(%shard_id, %error, "restoring the row failed, trying again in the next round");
                }
            }
        }
        self.schedule_strong_scan();
    }

    /// Creates the row again. Returns `false` if it exists.
    async fn recreate(&self, facts: &StreamFacts, lease: &Lease) -> Result<bool, ConsumerError> {
        // The table may have been created again for another stream.
        let listing = self.list_all().await?;
        facts.check_rows(self.receiver.store.name(), &listing.leases)?;
        let outcome = self.receiver.store.write(&LeaseWrite::Create(lease.clone())).await;
        self.ignore_started_scans();
        match outcome.map_err(|error| store_error("restoring a lease", error))? {
            WriteOutcome::Applied { .. } => Ok(true),
            WriteOutcome::Lost { .. } => Ok(false),
            WriteOutcome::Unknown(error) => Err(store_error("restoring a lease", error)),
        }
    }
}

/// Deletes leases of ended shards.
async fn delete_all(store: Arc<dyn LeaseStore>, deletes: Vec<(ShardId, LeaseWrite)>) {
    let store = &store;
    let delete = |(shard_id, delete): (ShardId, LeaseWrite)| async move {
        match store.write(&delete).await {
            Ok(WriteOutcome::Applied { .. }) => {
                tracing::info!(%shard_id, "lease of an ended shard deleted");
            }
            // Another worker deleted the row, or a later round deletes it.
            Ok(WriteOutcome::Lost { .. } | WriteOutcome::Unknown(_)) => {}
            Err(error) => tracing::debug!(%shard_id, %error, "lease of an ended shard not deleted"),
        }
    };
    futures::stream::iter(deletes).for_each_concurrent(MAX_CONCURRENT_WRITES, delete).await;
}

/// The counter of a restored row: greater than that of any holder since the newest write that this one knows of, so that no
/// fencing token is used twice. Each write of a holder waits for the answer to the one before it, which takes longer than a
/// microsecond. It is at least the floor of a take at this time.
fn counter_of_restored(last_known: u64, vanished_after: Duration, floor: u64) -> u64 {
    let unseen_writes = u64::try_from(vanished_after.as_micros()).unwrap_or(u64::MAX);
    last_known.saturating_add(unseen_writes).saturating_add(1).max(floor)
}

/// The leases that the table lacks.
fn missing_leases(
    shards: &[Shard],
    listing: &LeaseListing,
    initial_position: InitialPosition,
    start_time: Option<&StartTime>,
    named: &ShardPositions,
    facts: &StreamFacts,
) -> Vec<Lease> {
    // A malformed row may still be a lease: it counts as one that is not finished.
    let malformed = malformed_shards(listing).into_iter().map(|id| Lease::unowned(id, Position::TrimHorizon));
    let known: Vec<Lease> = listing.leases.iter().cloned().chain(malformed).collect();
    let mut missing = plan_new_leases(shards, &known, &initial_position, start_time, named);
    for lease in &mut missing {
        lease.stream = Some(facts.identity.clone());
        lease.application = Some(facts.application.recorded().to_owned());
        if let Some(named) = named.get(&lease.shard_id).filter(|named| named.position() == lease.checkpoint) {
            lease.initial_time_millis = named.millis(facts.clock.map(|clock| clock.read()));
        }
    }
    missing
}

/// The shards whose rows are malformed.
pub(super) fn malformed_shards(listing: &LeaseListing) -> BTreeSet<ShardId> {
    listing.malformed.iter().filter_map(|row| ShardId::new(row.key.clone()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_counter_is_above_unseen_writes_and_the_floor() {
        let after = Duration::from_micros(500);
        assert_eq!(counter_of_restored(7, after, 0), 508);
        assert_eq!(counter_of_restored(7, after, 508), 508);
        assert_eq!(counter_of_restored(7, after, 1_700), 1_700);
        assert_eq!(counter_of_restored(u64::MAX, after, 0), u64::MAX);
    }
}
