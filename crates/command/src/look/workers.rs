//! What the workers of a KCL 3.0 to 3.4 fleet report about themselves in a table of their own. Later fleets do so in the lease table.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_view::WorkerRow;
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Consistency, WorkerId};
use tokio::time::Instant;

use crate::look::gap::Gap;
use crate::look::rows::worker_row;

/// How long a reading counts for a display. A plan reads anew.
const READ_INTERVAL: Duration = Duration::from_secs(60);

/// The newest reading of the separate table.
#[derive(Debug, Default)]
pub(crate) struct WorkerReader {
    read_at: Option<Instant>,
    rows: Vec<WorkerRow>,
    pub(crate) gap: Option<Gap>,
}

impl WorkerReader {
    /// Reads the table again, if that is due. Without signs of a KCL 3.x fleet it is not read.
    pub(crate) async fn refresh(
        &mut self,
        store: &DynamoDbLeaseStore,
        is_kcl_3: bool,
        consistency: Consistency,
    ) {
        if !is_kcl_3 {
            *self = Self::default();
            return;
        }
        let is_fresh = self.read_at.is_some_and(|at| at.elapsed() < READ_INTERVAL);
        if is_fresh && consistency == Consistency::Eventual {
            return;
        }
        self.gap = None;
        match store.kcl_worker_reports().await {
            Ok(reports) => self.rows = reports.into_iter().filter_map(worker_row).collect(),
            Err(error) => {
                self.gap = Some(Gap::of_table(
                    "whether workers of the KCL without leases run",
                    "dynamodb:Scan on the table whose name ends in -WorkerMetricStats",
                    &error,
                ));
            }
        }
        self.read_at = Some(Instant::now());
    }

    /// These rows of the lease table, and those of the separate table: the newest of each worker.
    pub(crate) fn with_rows(&self, of_lease_table: Vec<WorkerRow>) -> Vec<WorkerRow> {
        let mut newest: BTreeMap<WorkerId, WorkerRow> = BTreeMap::new();
        for row in of_lease_table.into_iter().chain(self.rows.iter().cloned()) {
            let is_newer = newest
                .get(&row.worker_id)
                .is_none_or(|known| known.updated_at_seconds < row.updated_at_seconds);
            if is_newer {
                newest.insert(row.worker_id.clone(), row);
            }
        }
        newest.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, updated_at_seconds: u64) -> WorkerRow {
        WorkerRow { worker_id: WorkerId::new(name).unwrap(), updated_at_seconds, is_failing: false }
    }

    #[test]
    fn newest_report_of_each_worker_counts() {
        let reader = WorkerReader { rows: vec![row("a", 5), row("b", 7)], ..WorkerReader::default() };
        assert_eq!(reader.with_rows(vec![row("a", 9), row("c", 1)]), [row("a", 9), row("b", 7), row("c", 1)]);
        assert_eq!(reader.with_rows(vec![row("b", 6)]), [row("a", 5), row("b", 7)]);
    }
}
