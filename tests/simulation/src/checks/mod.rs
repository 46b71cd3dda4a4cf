//! Checks the promises while the simulation runs. The checks see events only and know nothing of the crates.

mod adoption;
mod edits;
mod facts;
mod failover;
mod fleet;
mod leases;
mod operations;
mod promise;
mod records;
mod streams;
mod subscriptions;
mod vanished;

pub use facts::Checks;
pub use fleet::SETTLE_MILLIS;
pub use promise::{Promise, Violation};

use crate::event::{Event, EventKind, RecordPosition};
use facts::AFTERMATH_MILLIS;
use promise::Verdict;

impl Checks {
    /// Updates the facts with an event and checks the promises about it.
    ///
    /// # Errors
    /// The broken promise.
    pub fn observe(&mut self, event: &Event) -> Verdict {
        self.now = event.at;
        match &event.kind {
            EventKind::ShardCreated { shard, parents, range, visible_at } => {
                self.add_shard(*shard, parents.clone(), *range, *visible_at);
                Ok(())
            }
            EventKind::ShardClosed { shard } => {
                if let Some(facts) = self.shard(*shard) {
                    facts.is_closed = true;
                    facts.closed_at = event.at;
                }
                Ok(())
            }
            EventKind::RecordPut { shard, record, subs } => {
                if let Some(facts) = self.shard(*shard) {
                    facts.log.extend(subs.iter().map(|sub| RecordPosition { record: *record, sub: *sub }));
                    facts.acknowledged.resize(facts.log.len(), None);
                    facts.arrived.resize(facts.log.len(), event.at);
                    facts.advance();
                }
                Ok(())
            }
            EventKind::RecordsTrimmed { shard, before } => {
                if let Some(facts) = self.shard(*shard) {
                    facts.trimmed_before = *before;
                    facts.is_removed = *before == u64::MAX;
                    facts.advance();
                }
                Ok(())
            }
            EventKind::ShardStarted { process, shard, token, start } => {
                self.shard_started(*process, *shard, *token, *start)
            }
            EventKind::Delivered(batch) => self.delivered(batch),
            EventKind::Acknowledged(batch) => self.acknowledged(batch),
            EventKind::BatchFailed(batch, _) => {
                self.batch_failed(batch);
                Ok(())
            }
            EventKind::ReaderOpened { process, shard } => {
                self.subscriptions.opened(*process, *shard);
                Ok(())
            }
            EventKind::Subscription { process, shard, session, step } => {
                self.subscription(*process, *shard, *session, *step)
            }
            EventKind::LeaseWritten { by, shard, kind, before, after, sent_at } => {
                self.record_start(*after);
                self.check_taken_over(*by, *shard, *kind, *before, *after)?;
                let write = leases::Write { by: *by, shard: *shard, kind: *kind, sent_at: *sent_at };
                self.lease_written(&write, *before, *after)
            }
            EventKind::StreamDescribed { process, life } => {
                self.stream_described(*process, *life);
                Ok(())
            }
            EventKind::StreamCreated { life } => {
                self.streams.created(*life, event.at);
                Ok(())
            }
            EventKind::SlowCall { process, shard } => {
                if let Some(facts) = self.shard(*shard) {
                    facts.slow_calls.push((*process, event.at));
                }
                Ok(())
            }
            EventKind::TableRemoved => {
                self.table_removed();
                Ok(())
            }
            EventKind::TableCreated => {
                self.table_created();
                Ok(())
            }
            EventKind::Disturbed { process, for_millis, .. } => {
                let time = (event.at, event.at + for_millis + AFTERMATH_MILLIS);
                match process.and_then(|process| self.processes.get_mut(process as usize)) {
                    Some(facts) => facts.disturbed.push(time),
                    None => self.disturbances.push(time),
                }
                Ok(())
            }
            EventKind::ProcessCrashed { process } => {
                self.leases_orphaned(*process);
                self.observe_fleet(event)
            }
            EventKind::ProcessEnded { process, is_drained, .. } => {
                self.check_report(*process, *is_drained)?;
                self.observe_fleet(event)
            }
            EventKind::StopRequested { .. } => {
                self.orphans.clear();
                self.observe_fleet(event)
            }
            EventKind::AdoptionAllowed => self.check_adoption_allowed(),
            _ => self.observe_fleet(event),
        }
    }
}
