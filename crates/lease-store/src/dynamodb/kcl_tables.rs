//! The tables that a fleet of the KCL 3.0 to 3.4 has beside its lease table. Nothing is created or changed.

use aws_sdk_dynamodb::operation::scan::ScanError;

use super::error::CallWatch;
use super::kcl_mode::COORDINATOR_TABLE_SUFFIX;
use super::store::DynamoDbLeaseStore;
use super::table::{self, Table};
use super::table_page::{WorkerReport, worker_report};
use crate::error::StoreError;

/// The suffix that KCL 3.0 to 3.4 append to the application name for the table in which their workers report, with the key `wid`.
const METRICS_TABLE_SUFFIX: &str = "-WorkerMetricStats";

/// The most rows of one page of the reports. A row has less than 1 KB.
const PAGE_ROWS: i32 = 1_000;

/// The most pages of the reports that are read. The KCL removes the rows of workers that are gone after a day.
const MAX_PAGES: usize = 10;

impl DynamoDbLeaseStore {
    /// What the workers of a KCL 3.0 to 3.4 fleet report about themselves, in the table `<application>-WorkerMetricStats`. Empty
    /// without that table: later fleets report in the lease table.
    ///
    /// # Errors
    /// `Denied` without `dynamodb:Scan` on that table; `Throttled` or `Unavailable`; `Invalid` when the scan does not end.
    pub async fn kcl_worker_reports(&self) -> Result<Vec<WorkerReport>, StoreError> {
        let Some(table) = beside(self.table(), METRICS_TABLE_SUFFIX) else { return Ok(Vec::new()) };
        let (mut reports, mut start) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let watch = CallWatch::default();
            let scan = table.client.scan().table_name(&*table.name).limit(PAGE_ROWS);
            let scan = scan.set_exclusive_start_key(start).customize().interceptor(watch.clone());
            let page = match scan.send().await {
                Ok(page) => page,
                Err(error)
                    if error.as_service_error().is_some_and(ScanError::is_resource_not_found_exception) =>
                {
                    return Ok(Vec::new());
                }
                Err(error) => return Err(table.call("Scan").failed(&error, &watch).error),
            };
            reports.extend(page.items().iter().filter_map(worker_report));
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(reports);
            }
        }
        Err(StoreError::invalid(format!(
            "the table {:?} has more than {MAX_PAGES} pages of reports of workers; check that it belongs to a fleet of the KCL",
            table.name
        )))
    }

    /// The names of the existing tables that a KCL 3.0 to 3.4 fleet of this application has beside its lease table.
    ///
    /// # Errors
    /// `Denied` without `dynamodb:DescribeTable` on them; `Throttled` or `Unavailable`.
    pub async fn kcl_tables(&self) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        for suffix in [COORDINATOR_TABLE_SUFFIX, METRICS_TABLE_SUFFIX] {
            if let Some(table) = beside(self.table(), suffix)
                && table::describe(&table).await?.is_some()
            {
                names.push(table.name.to_string());
            }
        }
        Ok(names)
    }
}

/// The table with this suffix. `None`: its name would not be valid, so that the KCL cannot have created it.
fn beside(table: &Table, suffix: &str) -> Option<Table> {
    let name = format!("{}{suffix}", table.application);
    table::check_name(&name).ok()?;
    Some(Table { name: name.into(), ..table.clone() })
}
