//! Counts in a sliding window.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use processor_state::{
    KeyedState, PaneCounts, SlidingWindow, SlidingWindowCount, StateChanges, StateLogic, StateSchema,
};
use proptest::prelude::*;
use shard_worker::Record;

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn record(arrival: Option<SystemTime>, key: &'static str) -> Record {
    Record::new(1_u128.into(), Bytes::from_static(key.as_bytes())).with_arrival(arrival)
}

fn window() -> SlidingWindow {
    SlidingWindow::new(Duration::from_secs(30), Duration::from_secs(10)).unwrap()
}

fn by_text() -> impl StateLogic<State = PaneCounts> {
    SlidingWindowCount::new(StateSchema::new("by-text", 1), window(), |record: &Record| {
        Ok(vec![(String::from_utf8(record.data.to_vec())?, 1)])
    })
}

#[test]
fn a_window_is_a_whole_number_of_slides() {
    let seconds = Duration::from_secs;
    for (length, slide, is_sound) in
        [(30, 10, true), (10, 10, true), (25, 10, false), (0, 10, false), (10, 0, false)]
    {
        assert_eq!(SlidingWindow::new(seconds(length), seconds(slide)).is_ok(), is_sound, "{length} {slide}");
    }
}

#[test]
fn a_count_is_in_the_windows_of_its_arrival() {
    let mut counts = PaneCounts::default();
    for second in [5, 12, 19, 31] {
        counts.add(window().pane_of(at(second)), 1);
    }
    for (now, expected) in [(0, 1), (12, 3), (29, 3), (30, 3), (39, 3), (40, 1), (50, 1), (60, 0)] {
        assert_eq!(counts.count(&window(), at(now)), expected, "at {now}");
    }
}

#[test]
fn a_record_without_arrival_time_is_refused() {
    let state = KeyedState::default();
    let mut changes = StateChanges::new(&state);
    assert!(by_text().update(&record(None, "a"), &mut changes).is_err());
}

proptest! {
    #[test]
    fn kept_windows_count_every_arrival_despite_expiry(
        arrivals in prop::collection::vec((0_u64..200, any::<bool>()), 1..80),
    ) {
        let logic = by_text();
        let mut kept = PaneCounts::default();
        let mut watermark = None;
        for (index, (second, expires)) in arrivals.iter().enumerate() {
            watermark = watermark.max(Some(at(*second)));
            let before = [("a".to_owned(), kept.clone())].into_iter().collect::<KeyedState<_>>().with_watermark(watermark);
            let mut changes = StateChanges::new(&before);
            logic.update(&record(Some(at(*second)), "a"), &mut changes).unwrap();
            kept = changes.get("a").cloned().unwrap_or_default();
            let newest = watermark.unwrap();
            if *expires {
                logic.expire(&mut kept, newest);
                prop_assert!(kept.panes().len() <= 4, "three panes of a window and the first of the last complete one");
            }
            // The window of the newest arrival, and the last complete one.
            for end in [newest, newest.checked_sub(Duration::from_secs(10)).unwrap_or(newest)] {
                let last = window().pane_of(end);
                let truth = arrivals[..=index].iter().filter(|(second, _)| {
                    let pane = window().pane_of(at(*second));
                    pane <= last && pane + 3 > last
                });
                prop_assert_eq!(kept.count(&window(), end), truth.count() as u64);
            }
        }
    }

    #[test]
    fn the_order_of_a_merge_does_not_matter(
        one in prop::collection::vec((0_u64..20, 1_u64..5), 0..20),
        other in prop::collection::vec((0_u64..20, 1_u64..5), 0..20),
    ) {
        let counts = |panes: &[(u64, u64)]| {
            let mut counts = PaneCounts::default();
            for (pane, count) in panes { counts.add(*pane, *count); }
            counts
        };
        let (one, other) = (counts(&one), counts(&other));
        let merged = by_text().merge("a", one.clone(), other.clone());
        prop_assert_eq!(&merged, &by_text().merge("a", other.clone(), one.clone()));
        let total = |counts: &PaneCounts| counts.panes().map(|(_, count)| count).sum::<u64>();
        prop_assert_eq!(total(&merged), total(&one) + total(&other));
    }
}
