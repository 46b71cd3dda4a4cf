//! The view on terminals of any width and as JSON, with few shards and with thousands.

use fleet_view::{FleetView, MAX_SHOWN_SHARDS, MIN_WIDTH};
use proptest::prelude::*;

use crate::model::{Fleet, Shard};

/// A fleet after some looks, whose first shard is stuck.
fn view(shards: u64, looks: u64, owner: &str) -> FleetView {
    let shards = (0..shards).map(|id| Shard {
        owner: Some(format!("{owner}{}", id % 7)),
        hangs: id == 0,
        ..Shard::new(id)
    });
    let mut fleet = Fleet::new(shards);
    for _ in 0..looks {
        fleet.next_verdict();
    }
    FleetView::of(fleet.history()).unwrap()
}

#[test]
fn four_shards_fit_forty_columns() {
    let lines = view(4, 40, "ip-10-0-0-").lines(MIN_WIDTH);
    let expected = "\
app: stuck
at 2026-11-30T00:59:50Z, 40 looks
stream events, ACTIVE, keeps 1d00h
1 stuck, 3 ok
at most 6m29s behind
records lost in 23h53m: shardId-0000000…

4 workers
  ip-10-0-0-0     1
  ip-10-0-0-1     1
  ip-10-0-0-2     1
  ip-10-0-0-3     1

4 shards to read
  000000000000  stuck            6m29s
    no progress for 6m20s
  000000000001  ok                 0ms
  000000000002  ok                  1s
  000000000003  ok                  2s";
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn two_thousand_shards_show_the_urgent_ones() {
    let view = view(2_000, 33, "worker-");
    let lines = view.lines(100);
    assert!(lines.len() < 2 * MAX_SHOWN_SHARDS + 20, "{} lines", lines.len());
    let shards = lines.iter().position(|line| line == "2000 shards to read").unwrap();
    assert!(lines[shards + 1].contains("stuck"), "{:?}", lines[shards + 1]);
    assert!(lines.contains(&"  … and 1960 shards more".to_owned()));
}

#[test]
fn json_is_read_by_any_reader() {
    let view = view(3, 5, "w");
    let text = view.to_json().unwrap();
    assert_eq!(serde_json::from_str::<FleetView>(&text).unwrap(), view);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["verdict"]["counts"]["ok"], 3);
    assert_eq!(value["snapshot"]["shards"][2]["state"], "owned");
}

#[test]
fn looks_and_histories_are_data() {
    let mut fleet = Fleet::new((0..3).map(Shard::new));
    for _ in 0..5 {
        fleet.next_verdict();
    }
    let (look, history) = (fleet.look(), fleet.history());
    let text = serde_json::to_string(&look).unwrap();
    assert_eq!(serde_json::from_str::<fleet_view::Look>(&text).unwrap(), look);
    let text = serde_json::to_string(history).unwrap();
    assert_eq!(&serde_json::from_str::<fleet_view::History>(&text).unwrap(), history);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_line_is_wider_than_the_terminal(width in 0..200_usize, shards in 0..60_u64, looks in 1..40_u64, owner in "\\PC{1,40}") {
        for line in view(shards, looks, &owner).lines(width) {
            prop_assert!(line.chars().count() <= width.max(MIN_WIDTH), "{line:?}");
            prop_assert!(!line.contains(char::is_control));
        }
    }
}
