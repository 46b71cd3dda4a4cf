//! The history of each shard for people: owners, reads, acknowledgements and checkpoints, with their times.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::event::{Event, EventKind, ShardNumber, WriteKind};
use crate::run::Outcome;

/// Time before the broken promise that is shown of each shard, in milliseconds.
const SHOWN_MILLIS: u64 = 400_000;

/// Most lines shown of each shard: the last ones.
const SHOWN_LINES: usize = 60;

/// Returns the shard of an event.
pub fn shard_of(kind: &EventKind) -> Option<ShardNumber> {
    match kind {
        EventKind::ShardCreated { shard, .. }
        | EventKind::ShardClosed { shard }
        | EventKind::RecordPut { shard, .. }
        | EventKind::RecordsTrimmed { shard, .. }
        | EventKind::ShardStarted { shard, .. }
        | EventKind::ReaderOpened { shard, .. }
        | EventKind::Subscription { shard, .. }
        | EventKind::RecordsRead { shard, .. }
        | EventKind::LeaseLost { shard, .. }
        | EventKind::LeaseWritten { shard, .. }
        | EventKind::WriteRefused { shard, .. } => Some(*shard),
        EventKind::Delivered(batch)
        | EventKind::Acknowledged(batch)
        | EventKind::BatchFailed(batch, _)
        | EventKind::BatchCancelled(batch) => Some(batch.shard),
        _ => None,
    }
}

/// Whether an event is too frequent to be shown.
fn is_noise(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::RecordPut { .. }
            | EventKind::RecordsRead { .. }
            | EventKind::LeaseWritten { kind: WriteKind::Renew, .. }
    )
}

/// Renders the plan, the broken promise, and the last part of the history of each shard.
pub fn timeline(outcome: &Outcome) -> String {
    let mut text = String::new();
    let plan = &outcome.plan;
    let _ = writeln!(
        text,
        "plan: scenario {}, seed {}, {} workers, {} KCL workers, {} shards, a record every {} ms, {} % aggregates, \
         clocks within {} permille",
        plan.scenario,
        plan.seed,
        plan.workers,
        plan.kcl_workers,
        plan.shards,
        plan.record_interval,
        plan.aggregates,
        plan.clock_spread
    );
    for fault in &plan.faults {
        let _ = writeln!(text, "{:>9} {:?}", fault.at, fault.kind);
    }
    let end = outcome.violation.as_ref().map_or(0, |violation| violation.at);
    let from = end.saturating_sub(SHOWN_MILLIS);
    let shown: Vec<&Event> =
        outcome.events.iter().filter(|event| event.at >= from && !is_noise(&event.kind)).collect();
    let shards: BTreeSet<ShardNumber> = shown.iter().filter_map(|event| shard_of(&event.kind)).collect();
    let mut by_shard: BTreeMap<ShardNumber, String> = BTreeMap::new();
    for shard in shards {
        let lines = by_shard.entry(shard).or_default();
        // Includes the events of the whole fleet.
        let of_shard: Vec<&&Event> =
            shown.iter().filter(|event| shard_of(&event.kind).is_none_or(|other| other == shard)).collect();
        for event in of_shard.iter().skip(of_shard.len().saturating_sub(SHOWN_LINES)) {
            let _ = writeln!(lines, "{}", outcome.names.line(event));
        }
    }
    for (shard, lines) in by_shard {
        let _ = write!(text, "\nshard {shard}\n{lines}");
    }
    match &outcome.violation {
        Some(violation) => {
            let _ = writeln!(text, "\nBROKEN {violation}");
        }
        None => text.push_str("\nall promises hold\n"),
    }
    text
}
