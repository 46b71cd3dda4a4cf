//! The rows of the table: a scan in bounded pages, with every row in it.

use std::num::NonZeroU32;

use fleet_view::{ForeignKind, ForeignRow, MAX_SHARDS, MalformedRow, WorkerRow};
use lease_store::dynamodb::{self, DynamoDbLeaseStore};
use lease_store::{Consistency, Lease, WorkerId};

use crate::exit_code::{CommandError, CommandErrorKind, table_error};

/// The most rows of one page of a scan. A row has about 600 bytes, so a page stays below the service's limit of 1 MB.
const PAGE_ROWS: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);

/// The most pages of one scan: as many rows as a history follows shards, twice.
const MAX_PAGES: usize = 2 * MAX_SHARDS / 1_000;

/// The kinds of the rows by which a KCL 3.x fleet coordinates.
const COORDINATION: [&str; 5] =
    ["LEADER", "CLIENT_VERSION_MIGRATION", "TABLE_MIGRATION", "STREAM", "WORKER_METRIC_STATS"];

/// All rows of a table.
#[derive(Debug, Default)]
pub(crate) struct TableRows {
    pub(crate) leases: Vec<Lease>,
    pub(crate) malformed: Vec<MalformedRow>,
    pub(crate) foreign: Vec<ForeignRow>,
    /// What the workers of a KCL 3.x fleet report about themselves.
    pub(crate) workers: Vec<WorkerRow>,
    /// The streams of the leases of multi-stream applications, as `account:stream:creationEpoch`.
    pub(crate) streams: Vec<String>,
    /// The read units of the scan.
    pub(crate) read_units: f64,
}

impl TableRows {
    /// How many rows there are.
    pub(crate) fn count(&self) -> usize {
        self.leases.len() + self.malformed.len() + self.foreign.len()
    }

    fn add(&mut self, page: dynamodb::TablePage) {
        self.read_units += page.read_units.unwrap_or_default();
        self.leases.extend(page.leases);
        self.malformed.extend(page.malformed.into_iter().map(MalformedRow::from));
        for row in page.foreign {
            let kind = match (&row.stream_identifier, row.entity_type.as_deref()) {
                (_, Some(kind)) if COORDINATION.contains(&kind) => ForeignKind::Coordination,
                (Some(_), _) => ForeignKind::OtherStream,
                _ => ForeignKind::Unknown,
            };
            if kind == ForeignKind::OtherStream {
                self.streams.extend(row.stream_identifier.filter(|stream| !self.streams.contains(stream)));
            }
            self.workers.extend(row.worker.and_then(worker_row));
            self.foreign.push(ForeignRow { key: row.key, kind });
        }
    }
}

pub(crate) fn worker_row(report: dynamodb::WorkerReport) -> Option<WorkerRow> {
    Some(WorkerRow {
        worker_id: WorkerId::new(report.worker_id).ok()?,
        updated_at_seconds: report.updated_at_seconds,
        is_failing: report.is_failing,
    })
}

/// Reads all rows of a table.
///
/// # Errors
/// `NotFound`, `Denied` or `Unavailable` by the scan; `Invalid` when it does not end.
pub(crate) async fn scan(
    store: &DynamoDbLeaseStore,
    consistency: Consistency,
) -> Result<TableRows, CommandError> {
    let mut rows = TableRows::default();
    let mut start = None;
    for _ in 0..MAX_PAGES {
        let mut page = store.scan_page(consistency, PAGE_ROWS, start).await.map_err(table_error)?;
        let next = page.next.take();
        rows.add(page);
        let Some(next) = next else { return Ok(rows) };
        start = Some(next);
    }
    let message = format!(
        "the scan of table {:?} did not end after {MAX_PAGES} pages; name a lease table of at most {MAX_SHARDS} shards",
        store.table_name()
    );
    Err(CommandError::new(CommandErrorKind::Invalid, message))
}
