//! Adds a report of the lag to the writes of a held lease that carry one.

use std::fmt;
use std::sync::OnceLock;

use crate::lag_report::LagReport;
use crate::write::LeaseChange;

/// Measures the lag of a held lease, if it was set.
#[derive(Default)]
pub(crate) struct LagReporter(OnceLock<Measure>);

type Measure = Box<dyn Fn() -> Option<LagReport> + Send + Sync>;

impl fmt::Debug for LagReporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LagReporter").field("is_set", &self.0.get().is_some()).finish()
    }
}

impl LagReporter {
    /// Sets how the lag is measured. Only the first call has an effect.
    pub(crate) fn set(&self, measure: impl Fn() -> Option<LagReport> + Send + Sync + 'static) {
        // A measurement that is set stays.
        let _ = self.0.set(Box::new(measure));
    }

    /// The change, with a report if it is a renewal or a checkpoint. The end of a shard and an offer come without: the shard has no
    /// lag any more, or soon another owner.
    pub(crate) fn with_report(&self, change: LeaseChange) -> LeaseChange {
        let carries = match &change {
            LeaseChange::Renew | LeaseChange::PrepareCheckpoint(_) => true,
            LeaseChange::Checkpoint { position, .. } => !position.is_shard_end(),
            _ => false,
        };
        match self.0.get().filter(|_| carries).and_then(|measure| measure()) {
            Some(report) => LeaseChange::Reported { change: Box::new(change), report },
            None => change,
        }
    }
}
