//! What `doctor` finds about a lease table: what several looks show, and whether its rows may be written.

use std::collections::BTreeMap;

use fleet_view::{FleetView, Look, Verdict, row_faults};
use kinesis_asl::KinesisStream;
use lease_store::dynamodb::{BillingMode, DynamoDbLeaseStore, TableReport};
use lease_store::{
    Lease, LeaseChange, LeaseStore as _, LeaseWrite, Position, ShardId, StoreError, StoreErrorKind, WorkerId,
};

use super::finding::Finding;
use crate::wall_clock::millis_of;

const TABLE: &str = "table";
const PERMISSION: &str = "permission";

/// The most shards that a finding names.
const MAX_NAMED: usize = 3;

/// The key of a row that no fleet has: no shard of Kinesis has such an id.
const NO_SHARD: &str = "no-shard-doctor-asks-for-permissions";

/// The findings about the table itself: its key, its billing, and who decides about its leases.
pub(crate) async fn of_description(store: &DynamoDbLeaseStore) -> Vec<Finding> {
    let mut findings = match store.table_report().await {
        Ok(report) => of_report(&report),
        Err(error) => return vec![of_call("dynamodb:DescribeTable", Some(error))],
    };
    findings.push(match store.check_fleet_mode().await {
        Ok(None) => Finding::good(TABLE, "every worker takes leases"),
        Ok(Some(warning)) => Finding::warning(TABLE, warning),
        Err(error) if error.kind() == StoreErrorKind::Invalid => Finding::warning(
            TABLE,
            format!("workers of this library refuse it; once no worker of the KCL runs, adopt changes that: {error}"),
        ),
        Err(error) => Finding::warning(PERMISSION, format!("who assigns the leases is not known: {error}")),
    });
    findings
}

fn of_report(report: &TableReport) -> Vec<Finding> {
    let mut findings = vec![match &report.layout_fault {
        None => Finding::good(TABLE, "its key is that of a lease table"),
        Some(fault) => Finding::error(TABLE, fault.clone()),
    }];
    if report.status != "ACTIVE" {
        findings.push(Finding::warning(TABLE, format!("it is {}; wait until it is ACTIVE", report.status)));
    }
    findings.push(match report.billing_mode {
        Some(BillingMode::Provisioned { read_capacity_units, write_capacity_units }) => Finding::good(
            TABLE,
            format!(
                "{read_capacity_units} read and {write_capacity_units} write units a second are reserved; each renewal and \
                 checkpoint costs one write unit"
            ),
        ),
        Some(_) => Finding::good(TABLE, "it is billed on demand"),
        None => Finding::good(TABLE, "its billing is not reported"),
    });
    findings
}

/// What the stream contradicts, row by row.
pub(crate) fn of_rows(look: &Look, stream: Option<&KinesisStream>) -> Vec<Finding> {
    let arrival = |lease: &Lease| match &lease.checkpoint {
        Position::After(record) => stream?.arrived_at(&record.sequence_number).map(millis_of),
        _ => None,
    };
    let times: BTreeMap<ShardId, u64> =
        look.leases.iter().filter_map(|lease| Some((lease.shard_id.clone(), arrival(lease)?))).collect();
    let faults = row_faults(look, &times);
    if faults.is_empty() {
        return vec![Finding::good(TABLE, "positions, lineage and hash keys agree with the stream")];
    }
    let finding = |fault: &fleet_view::RowFault| match fault.is_error() {
        true => Finding::error(TABLE, fault.to_string()),
        false => Finding::warning(TABLE, fault.to_string()),
    };
    faults.iter().map(finding).collect()
}

/// The findings that the looks show.
pub(crate) fn of_looks(view: &FleetView) -> Vec<Finding> {
    let mut findings = Vec::new();
    let rows = view.snapshot.shards.iter().filter(|shard| shard.counter.is_some()).count();
    findings.push(if rows == 0 {
        Finding::warning(TABLE, "the table has no leases; start a worker, which creates them")
    } else {
        Finding::good(TABLE, format!("{rows} leases, {} workers", view.snapshot.workers.len()))
    });
    for sign in &view.verdict.signs {
        let text = sign.to_string();
        let is_error = sign.is_error();
        findings.push(if is_error { Finding::error(TABLE, text) } else { Finding::warning(TABLE, text) });
    }
    for (verdict, remedy) in [
        (Verdict::Stuck, "look at the log of the owner"),
        (
            Verdict::Stopped,
            "their leases are not renewed; start workers, or look at why they do not take over",
        ),
        (Verdict::Unowned, "no worker takes their leases; start workers, or raise max_leases"),
    ] {
        let shards = view.verdict.shards.iter().filter(|(_, one)| one.verdict == verdict);
        let shards: Vec<&str> = shards.map(|(shard_id, _)| shard_id.as_str()).collect();
        if !shards.is_empty() {
            let text = format!("{} {}; {remedy}", verdict.text(), named(&shards));
            findings.push(Finding::error(TABLE, text));
        }
    }
    findings
}

fn named(shards: &[&str]) -> String {
    let shown = shards.get(..MAX_NAMED.min(shards.len())).unwrap_or_default().join(", ");
    match shards.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The findings about the calls that a worker makes. Each write has a condition that cannot hold, so none changes the table.
pub(crate) async fn permissions(store: &DynamoDbLeaseStore, existing: Option<&Lease>) -> Vec<Finding> {
    let Ok(no_shard) = ShardId::new(NO_SHARD) else { return Vec::new() };
    let Ok(no_worker) = WorkerId::new(NO_SHARD.to_owned()) else { return Vec::new() };
    let version = Lease::unowned(no_shard.clone(), Position::TrimHorizon).version();
    let mut findings = vec![of_call("dynamodb:GetItem", store.get(&no_shard).await.err())];
    let update = LeaseWrite::Update {
        shard_id: no_shard.clone(),
        expected: version.clone(),
        change: LeaseChange::take(no_worker),
    };
    findings.push(of_call("dynamodb:UpdateItem", store.write(&update).await.err()));
    let delete = LeaseWrite::Delete { shard_id: no_shard, expected: version };
    findings.push(of_call("dynamodb:DeleteItem", store.write(&delete).await.err()));
    // A creation fails only where a row exists.
    if let Some(lease) = existing {
        let create = LeaseWrite::Create(lease.clone());
        findings.push(of_call("dynamodb:PutItem", store.write(&create).await.err()));
    }
    findings
}

fn of_call(action: &str, error: Option<StoreError>) -> Finding {
    match error {
        None => Finding::good(PERMISSION, format!("{action} is allowed")),
        Some(error) if error.kind() == StoreErrorKind::Denied => {
            Finding::error(PERMISSION, format!("workers cannot run without {action}; allow it: {error}"))
        }
        Some(error) => Finding::warning(PERMISSION, format!("{action} failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_shards_are_counted() {
        assert_eq!(named(&["a", "b"]), "a, b");
        assert_eq!(named(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }
}
