//! Looks for other live processes under the id of this worker, and reports them.

use std::collections::BTreeSet;

use lease_store::Lease;
use tokio::time::{Duration, Instant};

use super::Coordinator;

/// The most other processes that are remembered, so that each is logged once.
const MAX_LOGGED: usize = 64;

/// The sightings of other processes under this worker's id that were reported.
#[derive(Debug, Default)]
pub(super) struct NamesakeReports {
    last_seen: Option<Instant>,
    logged: BTreeSet<String>,
}

impl NamesakeReports {
    /// Records a sighting. Returns whether to log it.
    fn record(&mut self, process: &str, now: Instant) -> bool {
        self.last_seen = Some(now);
        if self.logged.len() >= MAX_LOGGED {
            self.logged.clear();
        }
        self.logged.insert(process.to_owned())
    }

    /// Forgets the others when none was seen for this time. Returns whether it did.
    fn forget_after(&mut self, time: Duration, now: Instant) -> bool {
        let is_over = self.last_seen.is_some_and(|last_seen| now.duration_since(last_seen) >= time);
        if is_over {
            *self = Self::default();
        }
        is_over
    }
}

impl Coordinator {
    /// Finds the leases of other live processes under this worker's id.
    pub(super) fn look_for_namesakes(&mut self, leases: &[Lease]) {
        let (tasks, process) = (&self.tasks, &self.receiver.process);
        let look = self.namesakes.look(
            leases,
            &self.receiver.worker_id,
            |shard_id| tasks.contains_key(shard_id),
            |lease| process.owner_of(lease),
        );
        self.observations.set_of_namesakes(look.shards);
        for lease in look.renewed {
            self.report_namesake(lease);
        }
        let failover_time = self.receiver.settings.failover_time;
        if self.namesake_reports.forget_after(failover_time, Instant::now()) {
            tracing::info!("no other process uses the worker id of this one any more");
            self.receiver.shared.live().namesake = None;
        }
    }

    /// Records that another process under this worker's id took a lease from this one.
    pub(super) fn record_loss_to_namesake(&mut self, row: &Lease) {
        self.namesakes.record_loss(&row.shard_id);
        self.report_namesake(row);
    }

    fn report_namesake(&mut self, lease: &Lease) {
        let other = lease.owner_process.as_deref().unwrap_or("a process that leaves no identity");
        {
            let mut live = self.receiver.shared.live();
            live.namesake_sightings += 1;
            live.namesake = Some(other.to_owned());
        }
        if self.namesake_reports.record(other, Instant::now()) {
            tracing::error!(
                this_process = self.receiver.process.text(),
                other_process = other,
                shard_id = %lease.shard_id,
                "another live process uses the worker id of this one, its leases are left alone; give each process a \
                 worker id of its own"
            );
        }
    }
}
