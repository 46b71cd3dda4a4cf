//! Histories of tables that the real Java KCL wrote. The first line of each file says how it was recorded and what happened when;
//! every other line is one look.

use std::collections::BTreeMap;

use fleet_view::{History, Look};
use lease_store::ShardId;
use serde_json::Value;

/// The changes of the verdict about each shard, as `look:verdict`.
fn verdicts(recording: &str) -> BTreeMap<ShardId, String> {
    let mut history = History::new();
    let (mut newest, mut changes) = (BTreeMap::new(), BTreeMap::<ShardId, String>::new());
    for (number, line) in (1..).zip(recording.lines().skip(1)) {
        let look: Look = serde_json::from_str(line).unwrap();
        history.add(&look).unwrap();
        for (shard_id, found) in history.verdict().shards {
            if newest.insert(shard_id.clone(), found.verdict) != Some(found.verdict) {
                let of_shard = changes.entry(shard_id).or_default();
                let gap = if of_shard.is_empty() { "" } else { " " };
                of_shard.push_str(&format!("{gap}{number}:{}", found.verdict.text()));
            }
        }
    }
    changes
}

/// The events of a recording, with the number of the first look after each.
fn events(recording: &str) -> Vec<(usize, String)> {
    let mut lines = recording.lines();
    let about: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let looks: Vec<Look> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let events = about["events"].as_array().unwrap().iter();
    let look_after = |at: u64| 1 + looks.iter().take_while(|look| look.taken_at_millis < at).count();
    events
        .map(|event| {
            (look_after(event["at_millis"].as_u64().unwrap()), event["what"].as_str().unwrap().to_owned())
        })
        .collect()
}

/// The first look after the first event with this text.
fn look_after(recording: &str, text: &str) -> usize {
    let events = events(recording);
    let found = events.iter().find(|(_, what)| what.contains(text));
    found.unwrap_or_else(|| panic!("no event has {text:?}: {events:?}")).0
}

/// The look at which a verdict about a shard first comes.
fn first_look(changes: &str, verdict: &str) -> usize {
    let change = changes.split_whitespace().find_map(|change| change.strip_suffix(&format!(":{verdict}")));
    change.unwrap_or_else(|| panic!("{verdict} is missing in {changes:?}")).parse().unwrap()
}

#[track_caller]
fn assert_history(recording: &str, expected: [&str; 5]) {
    let found = verdicts(recording);
    let numbers = [0, 1, 2, 3, 4].map(ShardId::numbered);
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), numbers);
    let found: Vec<&str> = found.values().map(String::as_str).collect();
    assert_eq!(found, expected);
    // Each verdict comes after its cause: the hang of a handler, the split of a shard, the stop of the only worker.
    let (hangs, goes_on) = (look_after(recording, "hangs"), look_after(recording, "goes on"));
    assert!((hangs..goes_on).contains(&first_look(found[0], "stuck")));
    assert!(first_look(found[2], "ended") >= look_after(recording, "is split"));
    for open in [0, 1, 3, 4] {
        assert!(first_look(found[open], "stopped") > look_after(recording, "java-1 stops"));
    }
}

/// A worker in the mode compatible with 2.x: healthy, with a handler that hangs, after a split, and stopped.
#[test]
fn table_of_java_in_2x_mode_is_judged() {
    assert_history(
        include_str!("recorded/java-kcl-2x-mode.jsonl"),
        [
            "1:ok 18:undecided 28:stuck 29:undecided 30:ok 37:stopped",
            "1:ok 37:stopped",
            "1:ok 31:ended",
            "31:undecided 32:ok 36:stopped",
            "31:undecided 32:ok 36:stopped",
        ],
    );
}

/// The same in 3.x mode, whose leader assigns the leases and deletes the row of the ended shard.
#[test]
fn table_of_java_in_3x_mode_is_judged() {
    assert_history(
        include_str!("recorded/java-kcl-3x-mode.jsonl"),
        [
            "1:ok 18:undecided 26:stuck 27:ok 34:stopped",
            "1:ok 34:stopped",
            "1:ok 28:ended",
            "28:undecided 29:ok 34:stopped",
            "28:undecided 29:ok 34:stopped",
        ],
    );
}
