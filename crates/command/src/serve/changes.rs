//! What happened between two looks, as events for a time axis. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_view::{FleetView, ShardState, ShardVerdict, ShardView, Verdict};
use lease_store::{ShardId, WorkerId};
use serde::Serialize;

/// The most events of one pair of looks; the rest is counted in one more event.
pub(crate) const MAX_EVENTS_PER_LOOK: usize = 200;

/// Something that happened between two looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// The newer of the two looks.
    pub(crate) at: u64,
    /// What happened.
    pub(crate) kind: EventKind,
    /// The shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<ShardId>,
    /// For people.
    pub(crate) text: String,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EventKind {
    /// A worker took a lease without an owner.
    Taken,
    /// An owner handed its lease over to the worker that had asked for it.
    HandedOver,
    /// A worker took the lease of an owner that no longer renewed it.
    TakenOver,
    /// A worker took the lease of an owner that may be alive; its writes fail from now on.
    Fenced,
    /// An owner gave its lease up.
    Released,
    /// A shard has children.
    Reshard,
    /// A shard was read to its end.
    Ended,
    /// The position of a shard moved back.
    Rewound,
    /// A shard was paused or resumed.
    Paused,
    /// A worker owns its first lease.
    WorkerStarted,
    /// A worker owns no lease any more.
    WorkerGone,
    /// The verdict about a shard became an alarm.
    Alarm,
    /// The verdict about a shard is no alarm any more.
    Recovered,
    /// More happened than is shown.
    More,
}

/// What happened between two looks, in the order of the shards.
pub(crate) fn changes(before: &FleetView, now: &FleetView) -> Vec<Event> {
    let at = now.snapshot.taken_at_millis;
    let earlier: BTreeMap<&ShardId, &ShardView> =
        before.snapshot.shards.iter().map(|shard| (&shard.shard_id, shard)).collect();
    let mut events = Vec::new();
    let mut push = |kind, shard: Option<&ShardId>, text: String| {
        events.push(Event { at, kind, shard: shard.cloned(), text });
    };
    for shard in &now.snapshot.shards {
        let id = &shard.shard_id;
        let Some(old) = earlier.get(id) else {
            if !shard.parents.is_empty() {
                push(EventKind::Reshard, Some(id), format!("{id} came from {}", names(&shard.parents)));
            }
            continue;
        };
        let verdicts = (before.verdict.shards.get(id), now.verdict.shards.get(id));
        if let Some((kind, text)) = move_of(old, shard, verdicts.0) {
            push(kind, Some(id), text);
        }
        if old.state != ShardState::Ended && shard.state == ShardState::Ended {
            push(EventKind::Ended, Some(id), format!("{id} was read to its end"));
        }
        if old.pause != shard.pause {
            let text = if shard.pause.is_some() { "was paused" } else { "was resumed" };
            push(EventKind::Paused, Some(id), format!("{id} {text}"));
        }
        if let (Some(old), Some(new)) = verdicts
            && let Some((kind, text)) = turn_of(old, new)
        {
            push(kind, Some(id), format!("{id}: {text}"));
        }
    }
    let (old, new) = (owners(before), owners(now));
    for worker in new.difference(&old) {
        push(EventKind::WorkerStarted, None, format!("worker {worker} owns leases"));
    }
    for worker in old.difference(&new) {
        push(EventKind::WorkerGone, None, format!("worker {worker} owns no lease any more"));
    }
    let more = events.len().saturating_sub(MAX_EVENTS_PER_LOOK);
    if more > 0 {
        events.truncate(MAX_EVENTS_PER_LOOK);
        let text = format!("{more} more events between two looks");
        events.push(Event { at, kind: EventKind::More, shard: None, text });
    }
    events
}

fn owners(view: &FleetView) -> BTreeSet<&WorkerId> {
    let owning = view.snapshot.workers.iter().filter(|worker| !worker.shards.is_empty());
    owning.map(|worker| &worker.worker_id).collect()
}

fn names(shards: &[ShardId]) -> String {
    shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// How the lease moved, if it did.
fn move_of(old: &ShardView, new: &ShardView, verdict: Option<&ShardVerdict>) -> Option<(EventKind, String)> {
    let id = &new.shard_id;
    match (&old.owner, &new.owner) {
        (None, Some(owner)) => Some((EventKind::Taken, format!("{owner} took {id}"))),
        (Some(owner), None) if new.state != ShardState::Ended => {
            Some((EventKind::Released, format!("{owner} released {id}")))
        }
        (Some(from), Some(to)) if from != to => {
            let was_silent = verdict.is_some_and(|verdict| verdict.verdict == Verdict::Stopped);
            Some(if old.hand_over_to.as_ref() == Some(to) {
                (EventKind::HandedOver, format!("{from} handed {id} over to {to}"))
            } else if was_silent {
                (EventKind::TakenOver, format!("{to} took {id} over from {from}, which did not renew it"))
            } else {
                (EventKind::Fenced, format!("{to} took {id} from {from}, which is fenced"))
            })
        }
        _ => None,
    }
}

/// How the verdict turned, if it became an alarm or ceased to be one.
fn turn_of(old: &ShardVerdict, new: &ShardVerdict) -> Option<(EventKind, String)> {
    if old.verdict == new.verdict {
        return None;
    }
    match new.verdict {
        Verdict::Rewound => Some((EventKind::Rewound, "its position moved back".to_owned())),
        verdict if verdict.is_alarm() => {
            let reason = new.reason();
            let reason = if reason.is_empty() { reason } else { format!(", {reason}") };
            Some((EventKind::Alarm, format!("{}{reason}", verdict.text())))
        }
        verdict if old.verdict.is_alarm() => {
            Some((EventKind::Recovered, format!("{}, was {}", verdict.text(), old.verdict.text())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use fleet_view::{History, Look};
    use lease_store::{Lease, Position, WorkerId};

    use super::*;

    const START: u64 = 1_700_000_000_000;

    fn lease(number: u64, owner: Option<&str>) -> Lease {
        let shard_id = ShardId::new(format!("shardId-{number:012}")).unwrap();
        let mut lease = Lease::unowned(shard_id, Position::TrimHorizon);
        lease.owner = owner.map(|owner| WorkerId::new(owner.to_owned()).unwrap());
        lease
    }

    fn views(looks: [Vec<Lease>; 2]) -> [FleetView; 2] {
        let mut history = History::new();
        let mut at = START;
        looks.map(|leases| {
            at += 10_000;
            let look =
                Look { taken_at_millis: at, application: "words".to_owned(), leases, ..Look::default() };
            history.add(&look).unwrap();
            FleetView::of(&history).unwrap()
        })
    }

    fn kinds(looks: [Vec<Lease>; 2]) -> Vec<EventKind> {
        let [before, now] = views(looks);
        changes(&before, &now).into_iter().map(|event| event.kind).collect()
    }

    #[test]
    fn moves_of_a_lease_are_told_apart() {
        let handed = || {
            let mut lease = lease(1, Some("a"));
            lease.offered_by = lease.owner.clone();
            lease.requested_by = Some(WorkerId::new("b".to_owned()).unwrap());
            lease
        };
        let b = EventKind::WorkerStarted;
        let gone = EventKind::WorkerGone;
        assert_eq!(kinds([vec![lease(1, None)], vec![lease(1, Some("b"))]]), [EventKind::Taken, b]);
        assert_eq!(kinds([vec![lease(1, Some("a"))], vec![lease(1, None)]]), [EventKind::Released, gone]);
        let fenced = kinds([vec![lease(1, Some("a"))], vec![lease(1, Some("b"))]]);
        assert_eq!(fenced, [EventKind::Fenced, b, gone]);
        let handed_over = kinds([vec![handed()], vec![lease(1, Some("b"))]]);
        assert_eq!(handed_over, [EventKind::HandedOver, b, gone]);
        assert_eq!(kinds([vec![lease(1, Some("a"))], vec![lease(1, Some("a"))]]), []);
    }

    #[test]
    fn children_and_ends_are_events() {
        let mut ended = lease(1, None);
        ended.checkpoint = Position::ShardEnd;
        let mut child = lease(2, None);
        child.parents.insert(ended.shard_id.clone());
        let found = kinds([vec![lease(1, None)], vec![ended, child]]);
        assert!(found.contains(&EventKind::Ended) && found.contains(&EventKind::Reshard), "{found:?}");
    }

    #[test]
    fn events_of_a_look_are_bounded() {
        let all = |owner| (0..1_000).map(|number| lease(number, owner)).collect();
        let found = kinds([all(None), all(Some("a"))]);
        assert_eq!(found.len(), MAX_EVENTS_PER_LOOK + 1);
        assert_eq!(found.last(), Some(&EventKind::More));
    }
}
