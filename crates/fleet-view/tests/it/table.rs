//! A table that a plan is carried out on, and what the workers read from it afterwards.

use std::collections::{BTreeMap, BTreeSet};

use fleet_view::plan::{Change, Plan};
use fleet_view::{Lineage, Look, ShardInfo, StreamSummary};
use lease_store::{Lease, LeaseWrite, Position, ShardId, StreamIdentity, Verdict};

/// The present, in milliseconds since 1970.
pub(crate) const NOW: u64 = 1_796_000_000_000;

/// A record: its shard, the number by which shards and their descendants order it, and its arrival.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) shard_id: ShardId,
    pub(crate) number: u128,
    pub(crate) arrived: u64,
}

/// A stream with its retained records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    pub(crate) shards: Vec<ShardInfo>,
    pub(crate) records: Vec<Record>,
}

pub(crate) fn identity() -> StreamIdentity {
    StreamIdentity { arn: "arn:events".to_owned(), creation_epoch_seconds: 7 }
}

impl Stream {
    pub(crate) fn look(&self, leases: &[Lease]) -> Look {
        Look {
            taken_at_millis: NOW,
            application: "app".to_owned(),
            leases: leases.to_vec(),
            shards: Some(self.shards.clone()),
            stream: Some(StreamSummary {
                name: "events".to_owned(),
                identity: identity(),
                status: "ACTIVE".to_owned(),
                retention_millis: 86_400_000,
            }),
            ..Look::default()
        }
    }

    /// What workers read from a table before they come to rest. They start missing shards at `LATEST`, as workers with that
    /// initial position do, unless a parent has a row: then the shard is read from its beginning, after its parents. A shard
    /// whose descendant has a row counts as read.
    pub(crate) fn read_from(&self, leases: &[Lease]) -> BTreeSet<Record> {
        let rows: BTreeMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard_id, lease)).collect();
        let listed: BTreeMap<&ShardId, &ShardInfo> =
            self.shards.iter().map(|shard| (&shard.shard_id, shard)).collect();
        let lineage = Lineage::of(&self.look(leases));
        let mut read = BTreeSet::new();
        let mut begun: BTreeSet<&ShardId> = BTreeSet::new();
        loop {
            let ready = self.shards.iter().find(|shard| {
                let is_ready = |parent: &ShardId| match rows.get(parent) {
                    Some(row) => row.is_finished() || begun.contains(parent) || !listed.contains_key(parent),
                    // It has no row: it is forgotten, or not of this stream.
                    None => true,
                };
                !begun.contains(&shard.shard_id) && shard.parents.iter().all(is_ready)
            });
            let Some(shard) = ready else { break };
            begun.insert(&shard.shard_id);
            let records = self.records.iter().filter(|record| record.shard_id == shard.shard_id);
            let has_parent_row = shard.parents.iter().any(|parent| rows.contains_key(parent))
                && !lineage
                    .descendants(&shard.shard_id)
                    .iter()
                    .any(|descendant| rows.contains_key(descendant));
            match rows.get(&shard.shard_id) {
                Some(row) => read.extend(records.filter(|record| is_read(row, record)).cloned()),
                None if has_parent_row => read.extend(records.cloned()),
                None => {}
            }
        }
        read
    }
}

/// Whether a record is read from a row.
fn is_read(row: &Lease, record: &Record) -> bool {
    let since = |default: u64| record.arrived >= row.initial_time_millis.unwrap_or(default);
    match &row.checkpoint {
        Position::TrimHorizon => since(0),
        Position::Latest | Position::AtTimestamp => since(NOW),
        Position::After(position) => {
            lease_store::SequenceNumber::from(record.number) > position.sequence_number
        }
        Position::ShardEnd => false,
    }
}

/// Carries the first changes of a plan out. All must apply.
pub(crate) fn carry_out(plan: &Plan, leases: &[Lease], count: usize) -> Vec<Lease> {
    let mut rows: BTreeMap<ShardId, Lease> =
        leases.iter().map(|lease| (lease.shard_id.clone(), lease.clone())).collect();
    for change in plan.changes.iter().take(count) {
        let row = rows.get(&change.shard_id);
        assert!(change.expected.matches(row), "{change:?} does not apply to {row:?}");
        match &change.change {
            Change::SetPosition { position, initial_time_millis, children, .. } => {
                let row = rows.get_mut(&change.shard_id).unwrap();
                row.checkpoint = position.clone();
                row.initial_time_millis = *initial_time_millis;
                row.children.extend(children.clone());
                row.counter += 1;
            }
            _ => {
                let write = change.write(row, 7);
                match write.decide(row) {
                    Verdict::Applies(Some(lease)) => _ = rows.insert(change.shard_id.clone(), *lease),
                    Verdict::Applies(None) => _ = rows.remove(&change.shard_id),
                    Verdict::Refused => panic!("{write:?} is refused by {row:?}"),
                }
                assert!(matches!(
                    write,
                    LeaseWrite::Create(_) | LeaseWrite::Update { .. } | LeaseWrite::Delete { .. }
                ));
            }
        }
    }
    rows.into_values().collect()
}
