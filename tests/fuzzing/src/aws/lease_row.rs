//! Rows of a lease table with any attributes and types. A row is a lease, or a fault that names row and attribute. A
//! write gives the row that the lease model predicts, and preserves unknown attributes.
//!
//! An input is an item in DynamoDB's JSON.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use lease_store::dynamodb::MultiStreamKey;
use lease_store::internals::{Item, Rows};
use lease_store::{
    HashKeyRange, LagReport, Lease, LeaseChange, LeaseFacts, LeaseWrite, MalformedLease, PendingCheckpoint,
    Position, ShardId, StreamIdentity, Verdict, WorkerId,
};

use super::{dynamodb_json, expression};
use crate::target::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "lease_row",
    check,
    tokens: &[
        b"\"S\"",
        b"\"N\"",
        b"\"B\"",
        b"\"SS\"",
        b"\"NULL\"",
        b"\"BOOL\"",
        b"\"L\"",
        b"\"M\"",
        b"true",
        b"[]",
        b"{}",
        b"\"\"",
        b"0",
        b"-1",
        b"1.5",
        b"18446744073709551615",
        b"SHARD_END",
        b"LATEST",
        b"TRIM_HORIZON",
        b"LEASE",
        b"\"entityType\"",
        b"\"leaseOwner\"",
        b"\"checkpointOwner\"",
        b"\"streamName\"",
        b"\"shardId\"",
        b"\"handOverRequestedBy\"",
        b"\"throughputKBps\"",
        b"\"pendingCheckpoint\"",
        b"\"leaseCounter\"",
        b"\"leaseOwnerProcess\"",
    ],
};

/// The attributes of a lease with their types. A row with another type for one of them is malformed.
const STRICT: [(&str, &str); 22] = [
    ("leaseKey", "S"),
    ("leaseApplication", "S"),
    ("leaseRowId", "N"),
    ("leaseOwner", "S"),
    ("leaseCounter", "N"),
    ("ownerSwitchesSinceCheckpoint", "N"),
    ("checkpoint", "S"),
    ("checkpointSubSequenceNumber", "N"),
    ("pendingCheckpoint", "S"),
    ("parentShardId", "SS"),
    ("childShardIds", "SS"),
    ("startingHashKey", "S"),
    ("endingHashKey", "S"),
    ("checkpointOwner", "S"),
    ("handOverRequestedBy", "S"),
    ("handOverOfferedBy", "S"),
    ("streamArn", "S"),
    ("streamCreationEpoch", "N"),
    ("initialTimeMillis", "N"),
    ("operatorRequest", "S"),
    ("operatorResetId", "N"),
    ("operatorPause", "S"),
];

/// The other attributes: read only together with another one, or ignored if they make no sense.
const LENIENT: [&str; 7] = [
    "ownerLag",
    "pendingCheckpointSubSequenceNumber",
    "pendingCheckpointState",
    "throughputKBps",
    "leaseOwnerProcess",
    "streamName",
    "shardId",
];

/// The largest number of the KCL.
const LAST_COUNT: u64 = i64::MAX.unsigned_abs();

/// The mandatory attributes of a lease.
const MANDATORY: [&str; 4] = ["leaseKey", "leaseCounter", "ownerSwitchesSinceCheckpoint", "checkpoint"];

fn check(input: &[u8]) -> Reading {
    let Some(item) = dynamodb_json::item(input) else { return Reading::Ignored };
    let orders = MultiStreamKey::new("123456789012", "orders", 1_700_000_000).expect("a valid value");
    let of_one_stream = check_rows(&Rows::new(None), &item);
    let of_many = check_rows(&Rows::new(Some(orders)), &item);
    match (of_one_stream, of_many) {
        (Reading::Accepted, Reading::Accepted) => {
            panic!("two kinds of applications accept the row: {item:?}")
        }
        (Reading::Accepted, _) | (_, Reading::Accepted) => Reading::Accepted,
        (Reading::Refused, Reading::Refused) => Reading::Refused,
        _ => Reading::Ignored,
    }
}

fn check_rows(rows: &Rows, item: &Item) -> Reading {
    match rows.read(item) {
        Ok(Some(lease)) => {
            check_lease(rows, item, &lease);
            Reading::Accepted
        }
        Ok(None) => {
            let is_text = |name: &str| matches!(item.get(name), Some(AttributeValue::S(_)));
            assert!(
                is_text("entityType") || is_text("streamName"),
                "the row is ignored without a mark of another kind: {item:?}"
            );
            Reading::Ignored
        }
        Err(malformed) => {
            check_fault(item, &malformed);
            Reading::Refused
        }
    }
}

/// A fault names the row and the attribute, and shows none of the application's own bytes.
fn check_fault(item: &Item, malformed: &MalformedLease) {
    if let Some(AttributeValue::S(key)) = item.get("leaseKey") {
        assert_eq!(&malformed.key, key);
    }
    let attribute = malformed.attribute.as_str();
    let is_known = STRICT.iter().any(|(name, _)| *name == attribute) || LENIENT.contains(&attribute);
    assert!(is_known || attribute == "entityType", "{malformed}");
    let message = malformed.to_string();
    assert!(message.contains(&format!("{:?}", malformed.key)) && message.contains(attribute), "{message}");
    assert!(!malformed.reason.is_empty());
}

fn check_lease(rows: &Rows, item: &Item, lease: &Lease) {
    for name in MANDATORY {
        assert!(item.contains_key(name), "a lease without {name}: {item:?}");
    }
    for (name, kind) in STRICT {
        let is_sound = item.get(name).is_none_or(|value| is_of_kind(value, kind));
        assert!(is_sound, "the type of {name} must be {kind}: {item:?}");
    }
    assert!(matches!(item.get("entityType"), None | Some(AttributeValue::S(_))), "{item:?}");

    // A written lease reads back the same, except for values that only other workers measure.
    let written = rows.write(lease);
    let mut expected = lease.clone();
    expected.throughput_bytes_per_second = None;
    assert_eq!(rows.read(&written), Ok(Some(expected)));

    // The largest number has no successor.
    if lease.counter.max(lease.owner_switches_since_checkpoint) == LAST_COUNT {
        return;
    }
    for change in changes(lease) {
        check_change(rows, item, lease, &change);
    }
}

/// An update applies exactly where the model allows it, gives the row that the model predicts, and preserves all
/// attributes that it does not name.
fn check_change(rows: &Rows, item: &Item, lease: &Lease, change: &LeaseChange) {
    let (shard_id, expected) = (lease.shard_id.clone(), lease.version());
    let update = rows.update(&shard_id, &expected, change);
    let write =
        LeaseWrite::Update { shard_id: shard_id.clone(), expected: expected.clone(), change: change.clone() };
    let verdict = write.decide(Some(lease));
    assert_eq!(expression::holds(&update, item), verdict != Verdict::Refused, "{change:?} of {item:?}");

    let mut stale = expected;
    stale.counter = stale.counter.wrapping_sub(1);
    assert!(
        !expression::holds(&rows.update(&shard_id, &stale, change), item),
        "{change:?} applies to another version"
    );

    let Verdict::Applies(Some(next)) = verdict else { return };
    let after = expression::apply(&update, item);
    assert_eq!(rows.read(&after), Ok(Some(*next)), "{change:?} of {item:?}");
    let named: BTreeSet<&str> = expression::named(&update).collect();
    for (name, value) in item.iter().filter(|(name, _)| !named.contains(name.as_str())) {
        assert_eq!(after.get(name), Some(value), "{change:?} changes {name}");
    }
    let is_ours = |name: &str| STRICT.iter().any(|(known, _)| *known == name) || LENIENT.contains(&name);
    assert!(named.iter().all(|name| is_ours(name)), "{change:?} names {named:?}");
}

fn is_of_kind(value: &AttributeValue, kind: &str) -> bool {
    matches!(
        (kind, value),
        ("S", AttributeValue::S(_)) | ("N", AttributeValue::N(_)) | ("SS", AttributeValue::Ss(_))
    )
}

/// Returns every change of a lease, by workers named in the row and by others.
fn changes(lease: &Lease) -> Vec<LeaseChange> {
    let worker = |name: &'static str| WorkerId::new(name).expect("a valid value");
    let position = Position::after(4959.into(), 3);
    let facts = LeaseFacts {
        stream: Some(StreamIdentity { arn: "arn".to_owned(), creation_epoch_seconds: 17 }),
        application: Some("orders".to_owned()),
        row_id: Some(99),
        initial_time_millis: Some(42),
        hash_key_range: Some(HashKeyRange::FULL),
        owner_process: Some("host-1 17".to_owned()),
        counter_floor: 1_700_000_000_000_000,
    };
    let mut changes = vec![
        LeaseChange::Renew,
        LeaseChange::Checkpoint { position: position.clone(), children: BTreeSet::new() },
        LeaseChange::Checkpoint {
            position: Position::ShardEnd,
            children: BTreeSet::from([ShardId::numbered(8), ShardId::numbered(9)]),
        },
        LeaseChange::PrepareCheckpoint(PendingCheckpoint::new(position.clone(), Some(vec![1]))),
        LeaseChange::PrepareCheckpoint(PendingCheckpoint::new(position, None)),
        LeaseChange::take(worker("another")),
        LeaseChange::Take { owner: worker("another"), facts },
        LeaseChange::Request { by: worker("another"), instead_of: None },
        LeaseChange::Request { by: worker("another"), instead_of: lease.requested_by.clone() },
        LeaseChange::Withdraw { by: worker("another") },
        LeaseChange::HandOver { to: worker("another") },
        LeaseChange::Offer,
        LeaseChange::Release,
        LeaseChange::Reported {
            change: Box::new(LeaseChange::Renew),
            report: LagReport {
                behind_millis: u64::MAX,
                measured_at_millis: 0,
                processed_bytes_per_second: Some(7),
            },
        },
    ];
    let seen = [None, lease.owner_request_text.clone(), lease.pause_text.clone()];
    for (text, instead_of) in [None, Some("release #7 to a".to_owned())].into_iter().zip(seen.iter().cycle())
    {
        changes.push(LeaseChange::AskOwner { text: text.clone(), instead_of: instead_of.clone() });
        changes.push(LeaseChange::Pause { text, instead_of: instead_of.clone() });
    }
    for owner_request in seen {
        changes.push(LeaseChange::Reset {
            position: Position::Latest,
            initial_time_millis: owner_request.as_ref().map(|_| 42),
            children: BTreeSet::new(),
            reset_id: 7,
            owner_request,
        });
    }
    changes.extend(lease.owner.clone().map(LeaseChange::take));
    changes.extend(lease.checkpoint_owner.clone().map(LeaseChange::take));
    changes.extend(lease.requested_by.clone().map(|by| LeaseChange::Withdraw { by }));
    changes.extend(lease.hand_over_target().cloned().map(|to| LeaseChange::HandOver { to }));
    changes
}
