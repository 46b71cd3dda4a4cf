//! Lease rounds: scan the leases, plan, then take and request leases as planned.

use std::collections::HashSet;

use lease_store::{Consistency, Lease, LeaseListing, ShardId, StoreError, StoreErrorKind};
use tokio::time::{Duration, Instant};

use super::scan::{LeaseSource, Scan, patience_for, scan};
use super::shard_sync::malformed_shards;
use super::{Coordinator, StreamFacts, jittered};
use crate::assignment::fleet_view::{AssignmentLimits, Holdings};
use crate::assignment::paused::paused_shards;
use crate::assignment::peers::{leads, live_peers};
use crate::assignment::unread::shards_without_worker;
use crate::assignment::{is_sure_of_parents, plan_assignment};
use crate::handle::Shared;
use crate::lease::orders::millis_of;
use crate::status::{LeaseTableState, MAX_SHARDS_WITHOUT_WORKER};
use crate::streams::seat::{Seat, StreamView, Turn};
use crate::streams::table::TableScan;

/// How many lease rounds there are in the fail-over time.
const ROUNDS_PER_FAILOVER_TIME: u32 = 4;

/// The same for a standby, which holds no lease: it exists to take over at once, and has no renewals to pay for.
const STANDBY_ROUNDS_PER_FAILOVER_TIME: u32 = 16;

/// In a larger fleet each worker scans less often, so that the read capacity of all scans together stays constant. The
/// interval grows to at most the fail-over time.
const WORKERS_AT_FULL_PACE: u32 = 16;

/// How many follow-up rounds there are in the time of one round while plans are partial.
const FOLLOW_UPS_PER_ROUND: u32 = 12;

/// The most free leases taken in one round.
const MAX_TAKES_PER_ROUND: usize = 1000;

/// How many times the longest answer time a request of this worker is remembered.
const REQUEST_MEMORY: u32 = 2;

/// The most shards that one log line names.
const MAX_NAMED_SHARDS: usize = 10;

/// A listing that is not answered within this part of the fail-over time is sent again, while the first one stays in
/// flight.
const LIST_PATIENCE_PER_FAILOVER_TIME: u32 = 20;

/// When the next round is due, and the results of the last one.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) next: Instant,
    /// Whether an eventually consistent listing may not show all leases yet.
    pub(super) has_new_leases: bool,
    /// How many other workers were alive in the newest listing.
    pub(super) live_peers: usize,
    pub(super) is_leader: bool,
    was_standby: bool,
    /// When the next round is due at the latest, and whether `next` is an earlier round that completes a partial plan.
    next_regular: Instant,
    is_follow_up: bool,
    /// Whether a write of a round failed since the last regular round: there is no follow-up round until the next one.
    store_fails: bool,
    /// How long the last listing took.
    listing_time: Duration,
}

impl Rounds {
    pub(super) fn starting_at(now: Instant) -> Self {
        Self {
            next: now,
            has_new_leases: true,
            live_peers: 0,
            is_leader: false,
            was_standby: false,
            next_regular: now,
            is_follow_up: false,
            store_fails: false,
            listing_time: Duration::ZERO,
        }
    }

    /// Records that a write to the store failed: the regular round tries again.
    pub(super) fn record_store_failure(&mut self) {
        self.store_fails = true;
        if self.is_follow_up {
            self.is_follow_up = false;
            self.next = self.next_regular;
        }
    }
}

/// The time between two rounds.
fn round_interval(failover_time: Duration, live_workers: usize, is_standby: bool) -> Duration {
    if is_standby {
        return failover_time / STANDBY_ROUNDS_PER_FAILOVER_TIME;
    }
    let live_workers = u32::try_from(live_workers).unwrap_or(u32::MAX);
    let stretched = failover_time.saturating_mul(live_workers.max(WORKERS_AT_FULL_PACE));
    (stretched / WORKERS_AT_FULL_PACE / ROUNDS_PER_FAILOVER_TIME).min(failover_time)
}

/// Publishes and logs the shards that no worker reads.
fn report_without_worker(shared: &Shared, mut unread: Vec<ShardId>, max_leases: usize) {
    let count = unread.len();
    unread.truncate(MAX_SHARDS_WITHOUT_WORKER);
    let before = std::mem::replace(&mut shared.live().shards_without_worker, unread.clone());
    if before == unread {
        return;
    }
    if unread.is_empty() {
        tracing::info!("every shard has a worker, or this worker can take it");
        return;
    }
    let named: Vec<&str> = unread.iter().take(MAX_NAMED_SHARDS).map(ShardId::as_str).collect();
    tracing::warn!(
        count,
        max_leases,
        shards = named.join(", "),
        "no worker reads these shards: this worker holds its max_leases, and no other worker took them; raise max_leases or \
         start more workers"
    );
}

/// The state of the lease table after a listing failed.
fn table_state_after(error: &StoreError) -> LeaseTableState {
    match error.kind() {
        StoreErrorKind::NotFound => LeaseTableState::Missing,
        _ => LeaseTableState::Unavailable,
    }
}

impl Coordinator {
    /// Makes the next round due now, with a strongly consistent scan.
    pub(super) fn schedule_strong_scan(&mut self) {
        self.rounds.next = Instant::now();
        self.rounds.is_follow_up = false;
        self.rounds.has_new_leases = true;
    }

    /// Starts the scan of a lease round. The loop does not wait for it: the answer arrives as an event.
    pub(super) fn start_round(&mut self) {
        let now = Instant::now();
        let failover_time = self.receiver.settings.failover_time;
        let follow_up = failover_time / ROUNDS_PER_FAILOVER_TIME / FOLLOW_UPS_PER_ROUND;
        if self.rounds.is_follow_up && now < self.rounds.next_regular {
            // Most writes of the last plan are not answered yet, so the other workers cannot act on them.
            let unanswered = self.takes_in_flight() + self.requests.unanswered_writes();
            if 2 * unanswered > self.tasks.len() + self.requests.len() {
                self.rounds.next = self.rounds.next_regular.min(now + follow_up);
                return;
            }
        } else {
            self.rounds.store_fails = false;
        }
        self.schedule_round(now);
        let consistency =
            if self.rounds.has_new_leases { Consistency::Strong } else { Consistency::Eventual };
        self.rounds.has_new_leases = false;
        self.scans.spawn(scan(self.lease_source(), consistency, self.list_patience()));
    }

    /// Schedules the next regular round, as seen at `now`.
    fn schedule_round(&mut self, now: Instant) {
        let failover_time = self.receiver.settings.failover_time;
        let interval = round_interval(failover_time, self.rounds.live_peers + 1, self.holds_nothing());
        self.rounds.next = now + jittered(interval, &mut self.receiver.rng);
        self.rounds.next_regular = self.rounds.next;
        self.rounds.is_follow_up = false;
    }

    /// Whether this worker holds and takes no lease, of any of its streams.
    fn holds_nothing(&self) -> bool {
        self.tasks.is_empty() && self.receiver.seat.as_ref().is_none_or(Seat::others_hold_nothing)
    }

    /// A round that another stream of this worker started: its scan of the table is that of all streams.
    pub(super) async fn shared_round(&mut self, facts: &StreamFacts, scan: Scan) {
        // A strongly consistent scan that is due takes place anyway.
        if !self.rounds.has_new_leases {
            self.rounds.store_fails = false;
            self.schedule_round(Instant::now());
        }
        self.lease_round(facts, scan).await;
    }

    /// Where the leases are listed.
    pub(super) fn lease_source(&self) -> LeaseSource {
        match &self.receiver.seat {
            None => LeaseSource::Store(self.receiver.store.clone()),
            Some(seat) => LeaseSource::Stream(seat.leases()),
        }
    }

    /// How long to wait for a listing before it is repeated.
    pub(super) fn list_patience(&self) -> Duration {
        let shortest = self.receiver.settings.failover_time / LIST_PATIENCE_PER_FAILOVER_TIME;
        patience_for(shortest, self.rounds.listing_time)
    }

    /// The rest of a lease round: repair holes, plan, take, request, clean up.
    pub(super) async fn lease_round(&mut self, facts: &StreamFacts, scan: Scan) {
        let failover_time = self.receiver.settings.failover_time;
        let Scan { consistency, requested_at, duration, listing, table } = scan;
        if let (Some(seat), Some(table)) = (&mut self.receiver.seat, &table) {
            match seat.turn(table) {
                Turn::First => {}
                Turn::Again => return,
                Turn::Late => {
                    // The newer scan may have been an eventually consistent one.
                    if consistency == Consistency::Strong {
                        self.schedule_strong_scan();
                    }
                    return;
                }
            }
        }
        let mut listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, "listing the leases failed, trying again in the next round");
                self.rounds.has_new_leases |= consistency == Consistency::Strong;
                self.report_failed_listing(&error);
                return;
            }
        };
        if let Err(error) = facts.check_rows(self.receiver.store.name(), &listing.leases) {
            facts.border.cross(error);
            return;
        }
        self.rounds.listing_time = duration;
        self.receiver.shared.live().lease_table_error = None;
        // A row recorded while the listing was in flight may be newer than the listed one.
        let is_newest = self.known_since.is_none_or(|recorded_at| recorded_at <= requested_at);
        let is_strong = consistency == Consistency::Strong && is_newest;
        self.known.observe(&listing.leases, is_strong, requested_at);
        self.observations.observe(&listing.leases, Instant::now());
        self.observations.set_paused(paused_shards(&listing.leases, millis_of(facts.clock)));
        self.look_for_namesakes(&listing.leases);
        self.unwritten.settle(&listing.leases, &self.receiver.worker_id);
        self.token_floor.observe(&listing.leases);
        self.report_malformed(&listing);
        self.report_edits(&listing.leases);
        self.record_fleet(&listing.leases, requested_at, table.as_deref());
        let set_back = self.repair_rows_set_back(&listing, consistency).await;
        let read_again = self.end_rows_read_again(facts, &listing, consistency).await;
        self.repair_holes(facts, &listing, consistency).await;
        // The children of a shard with a malformed row have to wait: the shard may not be finished.
        let malformed = malformed_shards(&listing);
        listing.leases.retain(|lease| lease.parents.is_disjoint(&malformed));
        // A child that has not begun waits for a parent whose row vanished.
        let waiting = self.waiting_children(&listing);
        // No worker takes a row before its known position while it is being restored.
        listing.leases.retain(|lease| {
            let shard_id = &lease.shard_id;
            !waiting.contains(shard_id) && !set_back.contains(shard_id) && !read_again.contains(shard_id)
        });
        let is_partial = self.carry_out_plan(facts, &listing, consistency, requested_at, table.as_deref());
        self.stop_if_run_is_over(&listing, consistency, requested_at);
        if is_partial {
            self.rounds.has_new_leases = true;
            let follow_up = failover_time / ROUNDS_PER_FAILOVER_TIME / FOLLOW_UPS_PER_ROUND;
            self.rounds.next = requested_at + jittered(follow_up, &mut self.receiver.rng);
            self.rounds.is_follow_up = true;
        }
        self.start_clean_up(&listing.leases);
        let of_others: Vec<&ShardId> = listing
            .leases
            .iter()
            .filter(|lease| !lease.is_finished() && !self.tasks.contains_key(&lease.shard_id))
            .map(|lease| &lease.shard_id)
            .collect();
        // A lease that expired while the listing was in flight is not in this plan, so the next round is due at once.
        let next_expiry = self.observations.next_expiry(of_others, failover_time, requested_at);
        self.rounds.next = next_expiry.map_or(self.rounds.next, |expiry| expiry.min(self.rounds.next));
        self.receiver.shared.live().has_scanned = true;
        let is_standby =
            self.holds_nothing() && self.receiver.shared.live().lease_table == LeaseTableState::Available;
        if is_standby && !self.rounds.was_standby {
            tracing::info!("standby: no shard is free, taking over when another worker leaves or fails");
        }
        self.rounds.was_standby = is_standby;
    }

    /// Reports positions that an operator stored in the rows of held leases. They have no effect here: adopting one would
    /// move the shard without its application, which may hold state for the old position.
    fn report_edits(&self, leases: &[Lease]) {
        let mut live = self.receiver.shared.live();
        for row in leases {
            let Some(shard) = live.shards.get_mut(&row.shard_id) else { continue };
            shard.held.compare_listed(row);
            let edited = shard.held.edited_position();
            if edited.is_some() && edited != shard.reported_edit {
                if let Some(edited) = &edited {
                    tracing::warn!(
                        shard_id = %row.shard_id, stored = %edited.stored, found = %edited.found,
                        "the position in the row was changed by hand while this worker holds the lease, and has no \
                         effect: the next checkpoint replaces it; to move the shard, stop all workers, edit the row, and \
                         start them again"
                    );
                }
                shard.reported_edit = edited;
            }
        }
    }

    /// Publishes why the leases could not be listed, and logs it if an operator has to act.
    fn report_failed_listing(&mut self, error: &StoreError) {
        let text = error.to_string();
        let before = self.receiver.shared.live().lease_table_error.replace(text.clone());
        if error.kind() == StoreErrorKind::Denied && before.as_ref() != Some(&text) {
            tracing::error!(
                table = self.receiver.store.name(),
                %error,
                "the lease table denies access; shards are read until their leases expire. Restore the permissions of this \
                 worker, or the key of the table"
            );
        }
        self.report_table(table_state_after(error));
    }

    /// Publishes and logs the state of the lease table.
    pub(super) fn report_table(&mut self, state: LeaseTableState) {
        let before = std::mem::replace(&mut self.receiver.shared.live().lease_table, state);
        if before == state {
            return;
        }
        let table = self.receiver.store.name();
        match state {
            LeaseTableState::Missing => tracing::error!(
                table,
                "the lease table does not exist; create it again or stop the workers. Positions are kept in memory and \
                 restored when the table exists"
            ),
            LeaseTableState::RowsMissing => tracing::error!(
                table,
                "rows of the lease table were deleted; they are restored at their last known positions"
            ),
            LeaseTableState::Available => tracing::info!(table, "the lease table is complete"),
            LeaseTableState::Unavailable => {}
        }
    }

    fn record_fleet(&mut self, leases: &[Lease], requested_at: Instant, table: Option<&TableScan>) {
        let failover_time = self.receiver.settings.failover_time;
        let observed = self.observations.of(leases, requested_at);
        let me = &self.receiver.worker_id;
        let (live_peers, is_leader) = match table {
            Some(table) => (table.live_peers(), table.is_led_by_this_worker()),
            None => (live_peers(&observed, me, failover_time), leads(&observed, me, failover_time)),
        };
        self.rounds.live_peers = live_peers;
        if is_leader != self.rounds.is_leader {
            tracing::debug!(is_leader, "the leader that lists the shards has changed");
            self.rounds.is_leader = is_leader;
        }
        self.receiver.shared.live().is_leader = is_leader;
    }

    /// Plans, takes and requests. Returns whether to plan again soon.
    fn carry_out_plan(
        &mut self,
        facts: &StreamFacts,
        listing: &LeaseListing,
        consistency: Consistency,
        requested_at: Instant,
        table: Option<&TableScan>,
    ) -> bool {
        if self.receiver.shared.live().takes_refused.is_some() {
            return false;
        }
        let settings = &self.receiver.settings;
        let longest_answer = settings.hand_over_time.max(settings.drain_time);
        self.requests.forget_older_than(longest_answer * REQUEST_MEMORY);
        let observed = self.without_done(self.observations.of(&listing.leases, requested_at));
        let held: HashSet<ShardId> = self.tasks.keys().cloned().collect();
        let requested = self.requests.shards();
        let holdings = Holdings { worker_id: &self.receiver.worker_id, held: &held, requested: &requested };
        let limits = AssignmentLimits {
            failover_time: settings.failover_time,
            hand_over_time: settings.hand_over_time,
            drain_time: settings.drain_time,
            max_leases: settings.max_leases,
            max_moves: settings.max_lease_moves,
            max_takes: MAX_TAKES_PER_ROUND,
        };
        let (plan, unread) = match (&self.receiver.seat, table) {
            (Some(seat), Some(table)) => {
                let view = StreamView { observed: &observed, held: &held, requested: &requested };
                // A newer scan of the table has arrived, and its round follows.
                let Some(plan) = seat.plan(table, &view, limits) else { return false };
                plan
            }
            _ => {
                let unread = shards_without_worker(&observed, &holdings, &limits);
                (plan_assignment(&observed, &holdings, limits, &mut self.receiver.rng), unread)
            }
        };
        report_without_worker(&self.receiver.shared, unread, limits.max_leases);
        let listed: HashSet<&ShardId> = listing.leases.iter().map(|lease| &lease.shard_id).collect();
        let is_sure = |lease: &&Lease| is_sure_of_parents(lease, &listed, consistency);
        // During a cool-down other workers take the shard once it counts as abandoned.
        let (planned_takes, planned_requests) = (plan.take.into_iter(), plan.request.into_iter());
        let may_have = |lease: &&Lease| !self.cooldowns.is_cooling_down(&lease.shard_id, requested_at);
        let (may_take, may_request): (Vec<&Lease>, Vec<&Lease>) =
            (planned_takes.filter(may_have).collect(), planned_requests.filter(may_have).collect());
        let planned = may_take.len() + may_request.len();
        let take: Vec<Lease> = may_take.into_iter().filter(is_sure).cloned().collect();
        let request: Vec<Lease> = may_request.into_iter().filter(is_sure).cloned().collect();
        // The next listing is strongly consistent, so it shows the leases skipped here.
        let is_partial = plan.is_partial || take.len() + request.len() < planned;
        self.take(facts, take);
        self.request(request);
        // After a failure of the store, wait for the regular round.
        is_partial && !self.rounds.store_fails
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_slow_down_only_in_large_fleets() {
        let seconds = |live_workers, is_standby| {
            round_interval(Duration::from_secs(10), live_workers, is_standby).as_secs_f64()
        };
        assert!((seconds(1, false) - 2.5).abs() < 1e-9);
        assert!((seconds(16, false) - 2.5).abs() < 1e-9);
        assert!((seconds(32, false) - 5.0).abs() < 1e-9);
        assert!((seconds(1_000_000, false) - 10.0).abs() < 1e-9, "at most the fail-over time");
        assert!((seconds(200, true) - 0.625).abs() < 1e-9);
    }
}
