//! What an operator may cause who adopts the table of a KCL fleet: nothing while a worker is alive, and no other position.

use super::facts::{Checks, FAILOVER_MILLIS};
use super::leases::Write;
use super::promise::{Promise, Verdict};
use crate::event::{Row, WriteKind, Writer};
use crate::plan::FormerFleet;

/// How long a process of a led fleet may take until its first report is seen, in milliseconds.
const FIRST_REPORT_MILLIS: u64 = 20_000;

/// A report counts for this long, in milliseconds: a process that was disturbed for less must be noticed too.
const REPORT_MILLIS: u64 = 120_000;

impl Checks {
    /// The same checks for a table of a KCL fleet.
    #[must_use]
    pub fn with_former_fleet(self, former_fleet: Option<FormerFleet>) -> Self {
        Self { former_fleet, ..self }
    }

    /// Checks that an adoption is refused while a worker renews, or reports about itself.
    pub(super) fn check_adoption_allowed(&self) -> Verdict {
        for (shard, facts) in &self.shards {
            let Some(row) = facts.row.filter(|row| row.row.owner.is_some()) else { continue };
            if row.changed_at + FAILOVER_MILLIS > self.now {
                let why = format!(
                    "the adoption is allowed, but the lease of s{shard} was renewed at {} ms",
                    row.changed_at
                );
                return self.broken(Promise::OneOwner, why);
            }
        }
        if !self.former_fleet.is_some_and(|fleet| fleet.is_led) {
            return Ok(());
        }
        for (process, facts) in (0..).zip(&self.processes) {
            let is_alive = facts.is_kcl && !facts.is_over;
            let had_time = facts.started_at + FIRST_REPORT_MILLIS <= self.now;
            let seen_from = self.now.saturating_sub(REPORT_MILLIS);
            if is_alive && had_time && !self.is_disturbed(process, seen_from, self.now) {
                let why = format!("the adoption is allowed, but process {process} of the KCL reports");
                return self.broken(Promise::OneOwner, why);
            }
        }
        Ok(())
    }

    /// Checks that an adoption keeps the position of a row, and the instant unless there was none.
    pub(super) fn check_adopted(&self, write: &Write, before: Row, after: Row) -> Verdict {
        let is_adoption = self.former_fleet.is_some() && write.by == Writer::Operator;
        if !is_adoption || write.kind != WriteKind::Reset {
            return Ok(());
        }
        let keeps_instant = before.starts_at.is_none() || before.starts_at == after.starts_at;
        if before.checkpoint == after.checkpoint && keeps_instant {
            return Ok(());
        }
        let why = format!("s{}: the adoption changes {before:?} into {after:?}", write.shard);
        self.broken(Promise::NothingSkipped, why)
    }
}
