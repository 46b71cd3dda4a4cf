//! Which workers decide about the leases of a table: read again once a minute.

use std::time::Duration;

use fleet_view::FleetMode;
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{LeaseStore as _, StoreError, StoreErrorKind};
use tokio::time::Instant;

use crate::look::gap::Gap;

/// How long a reading of the mode counts.
const MODE_INTERVAL: Duration = Duration::from_secs(60);

/// The newest reading of the mode.
#[derive(Debug, Default)]
pub(crate) struct ModeReader {
    read_at: Option<Instant>,
    pub(crate) mode: FleetMode,
    pub(crate) gap: Option<Gap>,
}

impl ModeReader {
    /// Reads the mode again, if that is due.
    pub(crate) async fn refresh(&mut self, store: &DynamoDbLeaseStore) {
        if self.read_at.is_some_and(|at| at.elapsed() < MODE_INTERVAL) {
            return;
        }
        let (mode, gap) = judge(store.check_fleet_mode().await);
        self.mode = mode;
        self.gap = gap;
        self.read_at = Some(Instant::now());
    }
}

/// A table whose workers may not take leases is one whose leader assigns them.
fn judge(answer: Result<Option<String>, StoreError>) -> (FleetMode, Option<Gap>) {
    let gap = |error: &StoreError| {
        Gap::of_table("who assigns the leases", "dynamodb:DescribeTable and dynamodb:GetItem", error)
    };
    match answer {
        Ok(_) => (FleetMode::WorkersTake, None),
        Err(error) if error.kind() == StoreErrorKind::Invalid => (FleetMode::LeaderAssigns, None),
        Err(error) => (FleetMode::WorkersTake, Some(gap(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_workers_mean_that_a_leader_assigns() {
        assert_eq!(judge(Ok(None)), (FleetMode::WorkersTake, None));
        let refused = StoreError::invalid("the table belongs to a KCL fleet in 3.x mode");
        assert_eq!(judge(Err(refused)).0, FleetMode::LeaderAssigns);
        let (mode, gap) = judge(Err(StoreError::new(StoreErrorKind::Denied, "not allowed")));
        assert_eq!(mode, FleetMode::WorkersTake);
        assert!(gap.unwrap().missing_action.is_some());
    }
}
