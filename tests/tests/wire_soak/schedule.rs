//! When the processes and the stream are disturbed, and how: a pure plan drawn from a seed.

use std::time::Duration;

use fastrand::Rng;

/// The time between two events, in milliseconds.
const GAP_MILLIS: std::ops::RangeInclusive<u64> = 1500..=5000;

/// The time for the fleet to start before the first event.
const STARTUP_TIME: Duration = Duration::from_secs(4);

/// The length of a pause as a percentage of the fail-over time: every pause is longer than it.
const PAUSE_PERCENT: std::ops::RangeInclusive<u64> = 150..=350;

/// The name of the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Successor {
    /// The name of its predecessor, as after a crash.
    SameName,
    /// A new name, as in a deployment.
    NewName,
}

/// A disturbance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A process is killed, and another one starts.
    Kill(Successor),
    /// A process is asked to end, and another one starts: after it with the same name, at the same time with a new one.
    Stop(Successor),
    /// A process is paused for this time, which is longer than the fail-over time.
    Pause(Duration),
    /// A shard is split and two are merged.
    Reshard,
}

/// An event, its time and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Since the start of the run.
    pub(crate) at: Duration,
    /// Its slot in the fleet. If no process runs there, the next slot with one is used.
    pub(crate) slot: usize,
    /// The event.
    pub(crate) event: Event,
}

/// The steps of a run in the order of time, none later than `length`. Every kind of event occurs in turn, in an order that
/// the seed decides.
pub(crate) fn draw(seed: u64, length: Duration, slots: usize, failover_time: Duration) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let (mut steps, mut deck, mut at) = (Vec::new(), Vec::new(), STARTUP_TIME);
    loop {
        if deck.is_empty() {
            let mut pause = || Event::Pause(failover_time.mul_f64(rng.u64(PAUSE_PERCENT) as f64 / 100.0));
            deck.extend([pause(), pause(), Event::Reshard]);
            for successor in [Successor::SameName, Successor::NewName] {
                deck.extend([Event::Kill(successor), Event::Stop(successor)]);
            }
            rng.shuffle(&mut deck);
        }
        at += Duration::from_millis(rng.u64(GAP_MILLIS));
        let (Some(event), true) = (deck.pop(), at <= length) else { return steps };
        steps.push(Step { at, slot: rng.usize(..slots), event });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::mem::discriminant;

    use super::*;

    const FAILOVER_TIME: Duration = Duration::from_secs(3);

    fn of(seed: u64, seconds: u64) -> Vec<Step> {
        draw(seed, Duration::from_secs(seconds), 3, FAILOVER_TIME)
    }

    #[test]
    fn the_same_seed_is_the_same_schedule() {
        assert_eq!(of(1, 600), of(1, 600));
        assert_ne!(of(1, 600), of(2, 600));
    }

    #[test]
    fn steps_ascend_and_pauses_exceed_the_failover_time() {
        for (seed, seconds) in (0..200).zip((0..600).step_by(3)) {
            let steps = of(seed, seconds);
            assert!(steps.is_sorted_by_key(|step| step.at), "{steps:?}");
            assert!(steps.iter().all(|step| step.at.as_secs() <= seconds && step.slot < 3), "{steps:?}");
            for step in steps {
                if let Event::Pause(time) = step.event {
                    assert!(time > FAILOVER_TIME, "{step:?}");
                }
            }
        }
    }

    #[test]
    fn a_short_run_has_every_kind_of_event() {
        for seed in 0..100 {
            let steps = of(seed, 50);
            let kinds: BTreeSet<String> =
                steps.iter().map(|step| format!("{:?}", discriminant(&step.event))).collect();
            assert_eq!(kinds.len(), 4, "{steps:?}");
        }
    }
}
