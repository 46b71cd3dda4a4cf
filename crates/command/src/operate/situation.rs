//! Looks at an application until it is known which owners are alive.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use fleet_view::{History, Look, Renewal};
use tokio::time::{Instant, sleep};

use crate::describe::add;
use crate::exit_code::CommandError;
use crate::look::gap::Gap;
use crate::look::{LookOptions, Observer};

/// The wait between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(4);

/// The newest look at an application, the history up to it, and what could not be read.
#[derive(Debug)]
pub(crate) struct Situation {
    pub(crate) look: Look,
    pub(crate) history: History,
    pub(crate) gaps: Vec<Gap>,
}

impl Situation {
    /// As the plans take it.
    pub(crate) fn for_plan(&self) -> fleet_view::plan::Situation<'_> {
        fleet_view::plan::Situation { look: &self.look, history: &self.history }
    }
}

/// Whether another look may show more about the owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// A single look is enough.
    OneLook,
    /// One owner that renews is enough, since the plan is refused then.
    OneRenews,
    /// Each owner is known to renew or to be silent.
    AllKnown,
}

/// Looks until enough is known, for at most this time.
pub(crate) async fn situation(
    observer: &mut Observer,
    until: Until,
    look_time: Duration,
) -> Result<Situation, CommandError> {
    let deadline = Instant::now() + look_time;
    let mut history = History::new();
    let mut is_announced = false;
    loop {
        let looked = observer.look(LookOptions::for_plan()).await?;
        add(&mut history, &looked)?;
        if is_enough(&looked.look, &history, until) || Instant::now() + LOOK_INTERVAL > deadline {
            return Ok(Situation { look: looked.look, history, gaps: looked.gaps });
        }
        if !is_announced && std::io::stderr().is_terminal() {
            eprintln!("looking for live workers, for at most {look_time:?}");
            is_announced = true;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn is_enough(look: &Look, history: &History, until: Until) -> bool {
    if until == Until::OneLook {
        return true;
    }
    let mut owners: BTreeMap<_, Known> = BTreeMap::new();
    for lease in &look.leases {
        let Some(owner) = &lease.owner else { continue };
        let known = owners.entry(owner).or_default();
        match history.renewal(&lease.shard_id) {
            Renewal::Renewing => known.is_alive = true,
            Renewal::Silent => {}
            Renewal::Unowned | Renewal::Unknown if lease.is_finished() => known.has_unknown_end = true,
            Renewal::Unowned | Renewal::Unknown => known.has_unknown = true,
        }
    }
    let one_renews = owners.values().any(|known| known.is_alive);
    (until == Until::OneRenews && one_renews) || owners.values().all(Known::is_enough)
}

/// What the looks tell of one owner.
#[derive(Debug, Default)]
struct Known {
    is_alive: bool,
    /// Whether it is unknown of a lease if it is renewed.
    has_unknown: bool,
    /// The same for the lease of an ended shard, which a live worker of this library does not renew.
    has_unknown_end: bool,
}

impl Known {
    fn is_enough(&self) -> bool {
        !self.has_unknown && (self.is_alive || !self.has_unknown_end)
    }
}

#[cfg(test)]
mod tests {
    use lease_store::{Lease, Position, ShardId, WorkerId};

    use super::*;

    /// A look at an ended shard and its child, which name these owners.
    fn look(at_millis: u64, ended: &'static str, child: Option<&'static str>, counter: u64) -> Look {
        let lease = |number, owner: Option<&'static str>, position| Lease {
            owner: owner.map(|owner| WorkerId::new(owner).unwrap()),
            ..Lease::unowned(ShardId::numbered(number), position)
        };
        let ended = lease(0, Some(ended), Position::ShardEnd);
        let child = Lease { counter, ..lease(1, child, Position::TrimHorizon) };
        Look {
            taken_at_millis: at_millis,
            application: "app".to_owned(),
            leases: vec![ended, child],
            ..Look::default()
        }
    }

    #[test]
    fn owner_of_an_ended_shard_alone_is_looked_at_until_silent() {
        let mut history = History::new();
        let mut is_enough_at = |seconds: u64| {
            let look = look(seconds * 1_000, "w1", None, 0);
            history.add(&look).unwrap();
            [Until::OneRenews, Until::AllKnown].map(|until| is_enough(&look, &history, until))
        };
        for seconds in [1, 21, 41] {
            assert_eq!(is_enough_at(seconds), [false; 2], "the worker may be alive, and take the child next");
        }
        assert_eq!([is_enough_at(61), is_enough_at(81)][1], [true; 2]);
    }

    #[test]
    fn ended_shard_of_a_live_worker_needs_no_look() {
        let mut history = History::new();
        history.add(&look(1_000, "w1", Some("w1"), 1)).unwrap();
        let newest = look(5_000, "w1", Some("w1"), 2);
        history.add(&newest).unwrap();
        assert!(is_enough(&newest, &history, Until::AllKnown));
    }
}
