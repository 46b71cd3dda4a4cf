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
    /// Whether a KCL 3.x fleet uses the table, or may.
    pub(crate) is_kcl_3: bool,
    pub(crate) gap: Option<Gap>,
}

impl ModeReader {
    /// Reads the mode again, if that is due.
    pub(crate) async fn refresh(&mut self, store: &DynamoDbLeaseStore) {
        if self.read_at.is_some_and(|at| at.elapsed() < MODE_INTERVAL) {
            return;
        }
        let answer = store.check_fleet_mode().await;
        self.is_kcl_3 = is_kcl_3(&answer);
        let (mode, gap) = judge(answer);
        self.mode = mode;
        self.gap = gap;
        self.read_at = Some(Instant::now());
    }
}

/// Whether the mode is that of a KCL 3.x fleet, or leads to it, or is not known although there are signs of such a fleet.
fn is_kcl_3(answer: &Result<Option<String>, StoreError>) -> bool {
    match answer {
        Ok(warning) => warning.is_some(),
        Err(error) => error.kind() == StoreErrorKind::Invalid,
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

    #[test]
    fn only_signs_of_kcl_3_lead_to_its_tables() {
        assert!(!is_kcl_3(&Ok(None)));
        assert!(is_kcl_3(&Ok(Some("the fleet moves itself to 3.x mode".to_owned()))));
        assert!(is_kcl_3(&Err(StoreError::invalid("the table belongs to a KCL fleet in 3.x mode"))));
        assert!(!is_kcl_3(&Err(StoreError::new(StoreErrorKind::Unavailable, "away"))));
    }
}
