//! What happened to each shard, for people: who owned it, read, acknowledged and checkpointed, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::event::{Event, ShardNumber, What, WriteKind};
use crate::run::Outcome;

/// So many milliseconds before the broken promise are shown of each shard.
const SHOWN_MILLIS: u64 = 400_000;

/// The most lines that are shown of each shard: the last ones.
const SHOWN_LINES: usize = 60;

/// The shard an event is about.
pub fn shard_of(what: &What) -> Option<ShardNumber> {
    match what {
        What::Born { shard, .. }
        | What::Closed { shard }
        | What::Put { shard, .. }
        | What::Trimmed { shard, .. }
        | What::Began { shard, .. }
        | What::Opened { shard, .. }
        | What::Subscription { shard, .. }
        | What::Read { shard, .. }
        | What::LossTold { shard, .. }
        | What::Written { shard, .. }
        | What::Lost { shard, .. } => Some(*shard),
        What::Delivered(batch)
        | What::Acknowledged(batch)
        | What::Refused(batch, _)
        | What::CutOff(batch) => Some(batch.shard),
        _ => None,
    }
}

/// Whether an event is left out: what is there all the time.
fn is_noise(what: &What) -> bool {
    matches!(what, What::Put { .. } | What::Read { .. } | What::Written { kind: WriteKind::Renew, .. })
}

/// The plan, the broken promise, and the last part of the history of each shard that took part in it.
pub fn timeline(outcome: &Outcome) -> String {
    let mut text = String::new();
    let plan = &outcome.plan;
    let _ = writeln!(
        text,
        "plan: scenario {}, seed {}, {} workers, {} of the KCL's kind, {} shards, a record every {} ms, {} % aggregates, \
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
        outcome.events.iter().filter(|event| event.at >= from && !is_noise(&event.what)).collect();
    let shards: BTreeSet<ShardNumber> = shown.iter().filter_map(|event| shard_of(&event.what)).collect();
    let mut by_shard: BTreeMap<ShardNumber, String> = BTreeMap::new();
    for shard in shards {
        let lines = by_shard.entry(shard).or_default();
        // Of the fleet, what concerns all shards.
        let of_shard: Vec<&&Event> =
            shown.iter().filter(|event| shard_of(&event.what).is_none_or(|other| other == shard)).collect();
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
        None => text.push_str("\nall promises held\n"),
    }
    text
}
