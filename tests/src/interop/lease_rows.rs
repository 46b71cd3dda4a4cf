//! The rows of the lease table as they are stored, read without the crate under test.

#![allow(clippy::unwrap_used)] // only tests call it

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;

/// A position in a shard, or a sentinel, with the order of the KCL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KclPosition {
    sequence_number: String,
    sub_sequence_number: u64,
}

impl KclPosition {
    /// From the two values as the table, the child protocol and the delivery files have them.
    pub fn new(sequence_number: &str, sub_sequence_number: u64) -> Self {
        Self { sequence_number: sequence_number.to_owned(), sub_sequence_number }
    }

    /// The two values.
    pub fn parts(&self) -> (&str, u64) {
        (&self.sequence_number, self.sub_sequence_number)
    }

    /// Whether it is the sentinel for the end of the shard.
    pub fn is_shard_end(&self) -> bool {
        self.sequence_number == "SHARD_END"
    }

    /// Initial positions come first, then sequence numbers by value, then the end. Sequence numbers have no leading zeros,
    /// so the longer one is larger.
    fn rank(&self) -> (u8, usize, &str, u64) {
        let kind = match self.sequence_number.as_str() {
            "AT_TIMESTAMP" => 0,
            "TRIM_HORIZON" => 1,
            "LATEST" => 2,
            "SHARD_END" => 4,
            _ => 3,
        };
        (kind, self.sequence_number.len(), &self.sequence_number, self.sub_sequence_number)
    }
}

impl Ord for KclPosition {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for KclPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for KclPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.sequence_number, self.sub_sequence_number)
    }
}

/// A lease, with the attributes that the tests check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The owner.
    pub owner: Option<String>,
    /// Rises with every write of an owner.
    pub counter: u64,
    /// How far its shard is read.
    pub checkpoint: KclPosition,
    /// The shards that its shard was split or merged into, known once it was read to its end.
    pub children: BTreeSet<String>,
    /// The shards that its shard was split or merged from.
    pub parents: BTreeSet<String>,
}

/// All leases by shard.
pub type LeaseRows = BTreeMap<String, LeaseRow>;

/// The type of each attribute that both the KCL and we write, and whether it is mandatory.
const ATTRIBUTES: [(&str, &str, bool); 10] = [
    ("leaseKey", "S", true),
    ("leaseCounter", "N", true),
    ("ownerSwitchesSinceCheckpoint", "N", true),
    ("checkpoint", "S", true),
    ("checkpointSubSequenceNumber", "N", true),
    ("leaseOwner", "S", false),
    ("parentShardId", "SS", false),
    ("childShardIds", "SS", false),
    ("startingHashKey", "S", false),
    ("endingHashKey", "S", false),
];

/// Reads the whole table, strongly consistent.
///
/// # Errors
/// When the table cannot be read, for example because it does not exist yet.
///
/// # Panics
/// When a row is not a lease that the Java KCL can read.
pub async fn lease_rows(client: &aws_sdk_dynamodb::Client, table: &str) -> Result<LeaseRows, String> {
    let scanned = client.scan().table_name(table).consistent_read(true).send().await;
    let scanned =
        scanned.map_err(|error| format!("{table} cannot be read: {:?}", error.into_service_error()))?;
    // A few dozen rows fit into one page.
    assert!(scanned.last_evaluated_key.is_none(), "the table has more than one page");
    Ok(scanned.items.unwrap_or_default().iter().map(lease_row).collect())
}

fn lease_row(item: &HashMap<String, AttributeValue>) -> (String, LeaseRow) {
    for (name, kind, is_mandatory) in ATTRIBUTES {
        let found = item.get(name).map(kind_of);
        assert!(found == Some(kind) || (found.is_none() && !is_mandatory), "{name} must be {kind}: {item:?}");
    }
    let key = item["leaseKey"].as_s().unwrap().clone();
    // The Java workers' scan would fail on any other row.
    assert!(key.starts_with("shardId-"), "a row that is no lease: {item:?}");
    let number = |name: &str| item[name].as_n().unwrap().parse().unwrap();
    let set = |name: &str| {
        item.get(name).map(|value| value.as_ss().unwrap().iter().cloned().collect()).unwrap_or_default()
    };
    let row = LeaseRow {
        owner: item.get("leaseOwner").map(|owner| owner.as_s().unwrap().clone()),
        counter: number("leaseCounter"),
        checkpoint: KclPosition::new(
            item["checkpoint"].as_s().unwrap(),
            number("checkpointSubSequenceNumber"),
        ),
        children: set("childShardIds"),
        parents: set("parentShardId"),
    };
    (key, row)
}

fn kind_of(value: &AttributeValue) -> &'static str {
    match value {
        AttributeValue::S(_) => "S",
        AttributeValue::N(_) => "N",
        AttributeValue::Ss(_) => "SS",
        _ => "of another kind",
    }
}

/// The names of the attributes in the rows that not every KCL writes.
///
/// # Errors
/// When the table cannot be read.
pub async fn further_attributes(
    client: &aws_sdk_dynamodb::Client,
    table: &str,
) -> Result<BTreeSet<String>, String> {
    let scanned = client.scan().table_name(table).consistent_read(true).send().await;
    let items =
        scanned.map_err(|error| format!("{:?}", error.into_service_error()))?.items.unwrap_or_default();
    let names = items.into_iter().flat_map(HashMap::into_keys);
    Ok(names.filter(|name| ATTRIBUTES.iter().all(|(known, ..)| known != name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_the_order_of_the_kcl() {
        let ascending = [
            KclPosition::new("AT_TIMESTAMP", 0),
            KclPosition::new("TRIM_HORIZON", 0),
            KclPosition::new("LATEST", 0),
            KclPosition::new("9", 0),
            KclPosition::new("10", 0),
            KclPosition::new("10", 1),
            KclPosition::new("SHARD_END", 0),
        ];
        assert!(ascending.is_sorted() && ascending.iter().all(|position| position == position));
        assert!(ascending.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    #[should_panic(expected = "checkpoint must be S")]
    fn a_row_without_a_checkpoint_is_a_fault() {
        let number = || AttributeValue::N("1".to_owned());
        let item = HashMap::from([
            ("leaseKey".to_owned(), AttributeValue::S("shardId-0".to_owned())),
            ("leaseCounter".to_owned(), number()),
            ("ownerSwitchesSinceCheckpoint".to_owned(), number()),
        ]);
        lease_row(&item);
    }
}
