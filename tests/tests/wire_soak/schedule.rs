//! What is done to the processes and to the stream, and when: pure, drawn from a seed.

use std::time::Duration;

use fastrand::Rng;

/// The time between two events, in milliseconds.
const GAP_MILLIS: std::ops::RangeInclusive<u64> = 1500..=5000;

/// Before the first event the fleet has this time to begin.
const BEGINNING: Duration = Duration::from_secs(4);

/// A pause is between these parts of the fail-over time, in percent: all are longer than it.
const PAUSE_PERCENT: std::ops::RangeInclusive<u64> = 150..=350;

/// Under which name the next process starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Successor {
    /// That of the one before, as after a crash.
    SameName,
    /// Its own, as in a deployment.
    OwnName,
}

/// Something that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A process is killed, and another one starts.
    Kill(Successor),
    /// A process is asked to end, and another one starts: after it if it has the same name, else at the same time.
    Stop(Successor),
    /// A process gets no time for so long, which is longer than the fail-over time.
    Pause(Duration),
    /// A shard is split and two are merged.
    Reshard,
}

/// When it is done, and to which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// From the start on.
    pub(crate) at: Duration,
    /// Its place in the fleet; if there is nobody that can be meant, the next one.
    pub(crate) place: usize,
    /// What.
    pub(crate) event: Event,
}

/// The steps of a run, in the order of time, none later than `length`: events of each kind in turn, in an order that the seed
/// decides.
pub(crate) fn draw(seed: u64, length: Duration, places: usize, failover_time: Duration) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let (mut steps, mut deck, mut at) = (Vec::new(), Vec::new(), BEGINNING);
    loop {
        if deck.is_empty() {
            let mut pause = || Event::Pause(failover_time.mul_f64(rng.u64(PAUSE_PERCENT) as f64 / 100.0));
            deck.extend([pause(), pause(), Event::Reshard]);
            for successor in [Successor::SameName, Successor::OwnName] {
                deck.extend([Event::Kill(successor), Event::Stop(successor)]);
            }
            rng.shuffle(&mut deck);
        }
        at += Duration::from_millis(rng.u64(GAP_MILLIS));
        let (Some(event), true) = (deck.pop(), at <= length) else { return steps };
        steps.push(Step { at, place: rng.usize(..places), event });
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
            assert!(steps.iter().all(|step| step.at.as_secs() <= seconds && step.place < 3), "{steps:?}");
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
