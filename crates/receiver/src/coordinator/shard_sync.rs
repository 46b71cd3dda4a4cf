//! Shard sync: lists the shards and creates missing leases, at the start, for a hole, and periodically on the leader.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt as _;
use lease_store::{
    Consistency, HashKeyRange, HeldLease, Lease, LeaseListing, LeaseStore, LeaseWrite, Position, ShardId,
    WriteOutcome,
};
use shard_worker::{Shard, ShardFilter};
use tokio::time::{Duration, Instant};

use super::scan::scan;
use super::startup_log::unknown_shards;
use super::{Coordinator, MAX_CONCURRENT_WRITES, StreamFacts, jittered};
use crate::error::{ReceiverError, source_error, store_error};
use crate::shards::cleanup::plan_cleanup;
use crate::shards::coverage::{Coverage, coverage};
use crate::shards::descendants::is_read_beyond;
use crate::shards::forgotten::plan_forgotten;
use crate::shards::initial_position::{InitialPosition, ShardPositions, time_of_millis};
use crate::shards::plan::{StartTime, plan_new_leases};
use crate::shards::table_identity::check_shards;

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
    /// Whether unknown shards among the named ones were logged.
    has_reported_unknown: bool,
    /// The shards at `TRIM_HORIZON`, each with a parent without a row, that were logged last.
    pub(super) reported_left_out: BTreeSet<(ShardId, ShardId)>,
    /// All shards, as last listed; empty unless all were listed.
    listed: Vec<Shard>,
    /// The rows that were of no more use at the last audit.
    forgotten: BTreeSet<ShardId>,
}

/// A range of the hash-key space that no lease covers.
#[derive(Debug, Clone, Copy)]
struct Hole {
    range: HashKeyRange,
    since: Instant,
    /// When a shard sync last found no missing lease for this hole. Until the next interval it counts as nothing to repair,
    /// unless that listing did not show all shards yet.
    accepted_at: Option<Instant>,
}

impl ShardSync {
    pub(super) fn starting_at(now: Instant) -> Self {
        Self {
            next_audit: now,
            ranges: HashMap::new(),
            hole: None,
            has_reported_unknown: false,
            reported_left_out: BTreeSet::new(),
            listed: Vec::new(),
            forgotten: BTreeSet::new(),
        }
    }

    pub(super) fn range_of(&self, shard_id: &ShardId) -> Option<HashKeyRange> {
        self.ranges.get(shard_id).copied()
    }
}

impl Coordinator {
    pub(super) async fn list_all(&self) -> Result<LeaseListing, ReceiverError> {
        let scan = scan(self.receiver.store.clone(), Consistency::Strong, self.list_patience()).await;
        scan.listing.map_err(|error| store_error("listing the leases", error))
    }

    /// The periodic shard sync of the leader.
    pub(super) async fn audit(&mut self, facts: &StreamFacts) {
        self.schedule_audit();
        if !self.rounds.is_leader {
            return;
        }
        let audited = async {
            let listing = self.list_all().await?;
            let (leases, is_readable) = (listing.leases.clone(), listing.malformed.is_empty());
            let missing = self.sync_shards(facts, listing).await?;
            if missing.is_empty() && is_readable {
                self.clean_up_forgotten(&leases).await;
            }
            Ok::<(), ReceiverError>(())
        };
        if let Err(error) = audited.await {
            tracing::warn!(%error, "shard sync failed, trying again after its interval");
        }
    }

    fn schedule_audit(&mut self) {
        let interval = self.receiver.settings.shard_sync_interval;
        self.sync.next_audit = Instant::now() + jittered(interval, &mut self.receiver.rng);
    }

    /// Creates missing leases at the start. It lists the shards only if the table does not prove that all of them have
    /// leases. Returns the shards whose leases were missing.
    pub(super) async fn create_missing_leases(
        &mut self,
        facts: &StreamFacts,
        listing: LeaseListing,
    ) -> Result<Vec<ShardId>, ReceiverError> {
        self.schedule_audit();
        self.report_malformed(&listing);
        let is_complete = listing.malformed.is_empty() && coverage(&listing.leases) == Coverage::Complete;
        if is_complete && !self.may_be_rewound(&listing) {
            return Ok(Vec::new());
        }
        self.sync_shards(facts, listing).await
    }

    /// Lists the shards and creates the missing leases. Any number of workers may do so at the same time. Returns the
    /// shards whose leases were missing at first.
    async fn sync_shards(
        &mut self,
        facts: &StreamFacts,
        mut listing: LeaseListing,
    ) -> Result<Vec<ShardId>, ReceiverError> {
        let (store, source) = (self.receiver.store.clone(), self.receiver.source.clone());
        let settings = &self.receiver.settings;
        let (initial_position, named) = (settings.initial_position, settings.initial_positions.clone());
        let is_first = listing.leases.is_empty() && listing.malformed.is_empty();
        let starts_at_tip = is_first && initial_position == InitialPosition::Latest && named.is_empty();
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
        let restored: Vec<ShardId> = rewound.iter().map(|lease| lease.shard_id.clone()).collect();
        if !rewound.is_empty() {
            self.schedule_strong_scan();
            self.create(rewound).await?;
            listing = self.list_all().await?;
        }
        let mut missing_at_first = None;
        // Each pass creates at least one lease, or others have created it.
        for _ in 0..=shards.len() {
            let missing =
                missing_leases(&shards, &listing, initial_position, start_time.as_ref(), &named, facts);
            missing_at_first.get_or_insert_with(|| {
                missing.iter().map(|lease| lease.shard_id.clone()).collect::<Vec<_>>()
            });
            if missing.is_empty() {
                break;
            }
            self.schedule_strong_scan();
            if self.create(missing).await? {
                break;
            }
            // Other workers create leases too: list again to skip those.
            listing = self.list_all().await?;
        }
        Ok(restored.into_iter().chain(missing_at_first.unwrap_or_default()).collect())
    }

    /// The start time, and, where a lineage without leases starts at `LATEST`, the shards that were open at that time.
    async fn start_time(
        &self,
        facts: &StreamFacts,
        millis: u64,
        shards: &[Shard],
        listing: &LeaseListing,
    ) -> Result<StartTime, ReceiverError> {
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
    async fn create(&mut self, mut leases: Vec<Lease>) -> Result<bool, ReceiverError> {
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

    /// Deletes rows that are of no more use by what the stream lists, if the audit before found the same: one listing may
    /// lag behind. Each deletion is conditional on the row as it was listed.
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
        let confirmed = forgotten.into_iter().filter(|lease| before.contains(&lease.shard_id));
        let store = &self.receiver.store;
        futures::stream::iter(confirmed.take(MAX_FORGOTTEN_PER_AUDIT))
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |lease| async move {
                let shard_id = &lease.shard_id;
                let delete = LeaseWrite::Delete { shard_id: shard_id.clone(), expected: lease.version() };
                match store.write(&delete).await {
                    Ok(WriteOutcome::Applied { .. }) => {
                        tracing::info!(%shard_id, checkpoint = %lease.checkpoint, "lease of a forgotten shard deleted");
                    }
                    // It has changed, or the next audit deletes it.
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
        // The shard of a malformed row may cover the rest.
        let found = if listing.malformed.is_empty() { coverage(&listing.leases) } else { Coverage::Unknown };
        let Coverage::Hole(range) = found else {
            self.sync.hole = None;
            return;
        };
        let known = self.sync.hole.filter(|hole| hole.range == range);
        let hole = known.unwrap_or_else(|| Hole { range, since: Instant::now(), accepted_at: None });
        self.sync.hole = Some(hole);
        let patience = self.receiver.settings.failover_time / PATIENCE_PER_FAILOVER_TIME;
        let listed_again_after = self.receiver.settings.shard_sync_interval;
        let is_accepted = hole.accepted_at.is_some_and(|at| at.elapsed() < listed_again_after);
        if is_accepted || !(self.rounds.is_leader || hole.since.elapsed() >= patience) {
            return;
        }
        if consistency == Consistency::Eventual {
            // It may not show leases that have just been created.
            self.schedule_strong_scan();
            return;
        }
        tracing::warn!(
            from = %range.start(),
            to = %range.end(),
            "no lease covers these hash keys, listing the shards to create the missing leases"
        );
        match self.sync_shards(facts, listing.clone()).await {
            // The next round sees the created leases. If there were none, there is nothing to repair.
            Ok(_) => self.sync.hole = Some(Hole { accepted_at: Some(Instant::now()), ..hole }),
            Err(error) => tracing::warn!(%error, "creating the missing leases failed, trying again"),
        }
    }

    /// Restores a row, at its last position, that was deleted while this worker held the lease.
    ///
    /// The clean-up deletes the rows of ended shards too. The holder may not know that its own shard has ended: the answer
    /// to its last write was lost, or another worker took the lease while this one was paused.
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
        let may_be_read_by_others = vanished_after >= self.receiver.settings.failover_time;
        let shard_id = last_known.shard_id.clone();
        let lease = Lease {
            owner: None,
            counter: counter_of_restored(last_known.counter, vanished_after, self.counter_floor(facts)),
            checkpoint_owner: None,
            requested_by: None,
            offered_by: None,
            owner_process: None,
            stream: Some(facts.identity.clone()),
            ..last_known
        };
        match self.recreate(&lease, may_be_read_by_others).await {
            Ok(true) => {
                tracing::warn!(%shard_id, checkpoint = %lease.checkpoint, "the row of the lease was deleted and is restored");
            }
            Ok(false) => {
                tracing::debug!(%shard_id, "the row of the lease was deleted, and others have read further or restored it");
            }
            Err(error) => {
                tracing::warn!(%shard_id, %error, "restoring the row failed, the shard starts again when its hole is repaired");
            }
        }
        self.schedule_strong_scan();
    }

    /// Creates the row again. Returns `false` if it exists or the shard was read to its end.
    async fn recreate(&self, lease: &Lease, may_be_read_by_others: bool) -> Result<bool, ReceiverError> {
        if may_be_read_by_others {
            let shards = self.receiver.source.list_shards(&ShardFilter::All).await;
            let shards = shards.map_err(|error| source_error("listing the shards of the stream", error))?;
            let listing = self.list_all().await?;
            if is_read_beyond(&lease.shard_id, &shards, &listing.leases) {
                return Ok(false);
            }
        }
        let outcome = self.receiver.store.write(&LeaseWrite::Create(lease.clone())).await;
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
            // Another worker deleted it, or a later round does.
            Ok(WriteOutcome::Lost { .. } | WriteOutcome::Unknown(_)) => {}
            Err(error) => tracing::debug!(%shard_id, %error, "lease of an ended shard not deleted"),
        }
    };
    futures::stream::iter(deletes).for_each_concurrent(MAX_CONCURRENT_WRITES, delete).await;
}

/// The counter of a restored row: greater than that of any holder since the newest write that this one knows of, so that no
/// fencing token comes again. Each write of a holder waits for the answer to the one before it, which takes longer than a
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
