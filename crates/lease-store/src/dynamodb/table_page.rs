//! One page of a scan, with every row in it: leases, malformed rows, and rows that are no leases of this stream.
//!
//! A worker needs the leases alone and lists them with [`list`](crate::LeaseStore::list). A program that watches a table also
//! wants the other rows, a bound on each request, and the read units that it cost.

use std::num::NonZeroU32;

use aws_sdk_dynamodb::types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity};

use super::attributes::{ENTITY_TYPE, Item, LEASE_KEY, STREAM_NAME};
use super::error::CallWatch;
use super::layout::RowLayout;
use super::row_reader::{self, Row};
use super::store::DynamoDbLeaseStore;
use crate::error::StoreError;
use crate::lease::Lease;
use crate::store::{Consistency, MalformedLease};

/// The kind of the rows that a worker of a KCL 3.x fleet writes about itself.
const WORKER_METRICS: &str = "WORKER_METRIC_STATS";

/// N, the time of the last update of such a row, in seconds since 1970.
const LAST_UPDATE: &str = "lut";

/// M, the measurements in such a row: a list of numbers for each metric, the newest last.
const MEASUREMENTS: &str = "sts";

/// S, the worker, in the separate table of KCL 3.0 to 3.4. In the lease table it is the key.
const WORKER_ID: &str = "wid";

/// The measurement that failed.
const FAILED_MEASUREMENT: f64 = -1.0;

/// One page of a scan.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct TablePage {
    /// The leases of this stream.
    pub leases: Vec<Lease>,
    /// The rows that are malformed leases.
    pub malformed: Vec<MalformedLease>,
    /// The rows that are no leases of this stream.
    pub foreign: Vec<ForeignRow>,
    /// The read units that the page cost; `None`: the server does not report them.
    pub read_units: Option<f64>,
    /// Where the next page starts; `None`: this page was the last one.
    pub next: Option<PageStart>,
}

/// The start of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct PageStart(Item);

/// A row that is no lease of this stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ForeignRow {
    /// The key of the row. Empty when the row has none.
    pub key: String,
    /// The kind that the row names, as KCL 3.x does: `LEADER`, `WORKER_METRIC_STATS` and others.
    pub entity_type: Option<String>,
    /// The stream identifier of a lease of another stream, `account:stream:creationEpoch`.
    pub stream_identifier: Option<String>,
    /// What the row reports about a worker of a KCL 3.x fleet.
    pub worker: Option<WorkerReport>,
}

/// What a worker of a KCL 3.x fleet reports about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerReport {
    /// The worker.
    pub worker_id: String,
    /// When it wrote the row, in seconds since 1970, by its own clock.
    pub updated_at_seconds: u64,
    /// Whether its newest measurement failed; the leader then assigns it no more leases.
    pub is_failing: bool,
}

impl DynamoDbLeaseStore {
    /// One page of the table, of at most `limit` rows. In a table of one stream, leases of multi-stream applications are foreign
    /// rows with their stream identifier.
    ///
    /// # Errors
    /// `NotFound` without a table; `Denied` without `dynamodb:Scan`; `Throttled` or `Unavailable`.
    pub async fn scan_page(
        &self,
        consistency: Consistency,
        limit: NonZeroU32,
        start: Option<PageStart>,
    ) -> Result<TablePage, StoreError> {
        let watch = CallWatch::default();
        let answer = self
            .table()
            .client
            .scan()
            .table_name(self.table_name())
            .consistent_read(consistency == Consistency::Strong)
            .limit(i32::try_from(limit.get()).unwrap_or(i32::MAX))
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .set_exclusive_start_key(start.map(|start| start.0))
            .customize()
            .interceptor(watch.clone())
            .send()
            .await
            .map_err(|error| self.table().call("Scan").failed(&error, &watch).error)?;
        let mut page = TablePage {
            read_units: answer.consumed_capacity().and_then(ConsumedCapacity::capacity_units),
            ..TablePage::default()
        };
        for item in answer.items() {
            read_into(item, self.layout(), &mut page);
        }
        page.next = answer.last_evaluated_key.filter(|key| !key.is_empty()).map(PageStart);
        Ok(page)
    }
}

fn read_into(item: &Item, layout: &RowLayout, page: &mut TablePage) {
    let text = |attribute: &str| item.get(attribute).and_then(|value| value.as_s().ok()).cloned();
    let foreign = ForeignRow {
        key: text(LEASE_KEY).unwrap_or_default(),
        entity_type: text(ENTITY_TYPE),
        stream_identifier: text(STREAM_NAME),
        worker: worker_report(item),
    };
    let is_of_other_layout = *layout == RowLayout::SingleStream && foreign.stream_identifier.is_some();
    match row_reader::read(item, layout) {
        _ if is_of_other_layout || foreign.key.is_empty() => page.foreign.push(foreign),
        Row::Lease(lease) => page.leases.push(*lease),
        Row::Malformed(malformed) => page.malformed.push(malformed),
        Row::Foreign(_) => page.foreign.push(foreign),
    }
}

/// What a row reports about a worker, in the lease table or in the separate table of KCL 3.0 to 3.4.
pub(super) fn worker_report(item: &Item) -> Option<WorkerReport> {
    let of_lease_table = item.get(ENTITY_TYPE).and_then(|value| value.as_s().ok());
    let key = if of_lease_table.is_some_and(|kind| kind == WORKER_METRICS) { LEASE_KEY } else { WORKER_ID };
    let worker_id = item.get(key)?.as_s().ok()?.clone();
    let updated_at_seconds = item.get(LAST_UPDATE)?.as_n().ok()?.parse().ok()?;
    let measurements = item.get(MEASUREMENTS).and_then(|value| value.as_m().ok());
    let newest = |values: &AttributeValue| values.as_l().ok()?.last()?.as_n().ok()?.parse::<f64>().ok();
    // The KCL writes exactly -1.
    let has_failed = |value: f64| (value - FAILED_MEASUREMENT).abs() < f64::EPSILON;
    let is_failing = measurements.is_some_and(|metrics| metrics.values().filter_map(newest).any(has_failed));
    Some(WorkerReport { worker_id, updated_at_seconds, is_failing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(attributes: &[(&str, AttributeValue)]) -> Item {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn text(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn number(text: &str) -> AttributeValue {
        AttributeValue::N(text.to_owned())
    }

    fn page(rows: &[Item]) -> TablePage {
        let mut page = TablePage::default();
        for item in rows {
            read_into(item, &RowLayout::SingleStream, &mut page);
        }
        page
    }

    #[test]
    fn each_row_is_in_one_of_the_lists() {
        let lease = [
            (LEASE_KEY, text("shardId-000000000000")),
            ("leaseCounter", number("3")),
            ("ownerSwitchesSinceCheckpoint", number("0")),
            ("checkpoint", text("TRIM_HORIZON")),
        ];
        let broken = [(LEASE_KEY, text("shardId-000000000001")), ("checkpoint", text("none"))];
        let leader = [(LEASE_KEY, text("Leader")), (ENTITY_TYPE, text("LEADER"))];
        let other = [
            (LEASE_KEY, text("1:words:2:shardId-000000000000")),
            (STREAM_NAME, text("1:words:2")),
            ("shardId", text("shardId-000000000000")),
        ];
        let unkeyed = [("id", text("x"))];
        let page = page(&[row(&lease), row(&broken), row(&leader), row(&other), row(&unkeyed)]);
        assert_eq!(page.leases.len(), 1);
        assert_eq!(page.malformed.len(), 1);
        let kinds: Vec<_> = page.foreign.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(kinds, ["Leader", "1:words:2:shardId-000000000000", ""]);
        assert_eq!(page.foreign[1].stream_identifier.as_deref(), Some("1:words:2"));
    }

    #[test]
    fn workers_of_the_kcl_report_themselves() {
        let samples = |newest: &str| AttributeValue::L(vec![number("12.5"), number(newest)]);
        for (newest, is_failing) in [("14.0", false), ("-1", true)] {
            let metrics = AttributeValue::M([("C".to_owned(), samples(newest))].into());
            let own = [
                (LEASE_KEY, text("worker-1")),
                (ENTITY_TYPE, text(WORKER_METRICS)),
                (LAST_UPDATE, number("1700000000")),
                (MEASUREMENTS, metrics),
            ];
            let report = page(&[row(&own)]).foreign[0].worker.clone().unwrap();
            assert_eq!(report.worker_id, "worker-1");
            assert_eq!(report.updated_at_seconds, 1_700_000_000);
            assert_eq!(report.is_failing, is_failing);
        }
    }
}
