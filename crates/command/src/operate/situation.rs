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
    // A worker that renews one lease is alive; its other leases may be ended, and are then not renewed.
    let mut renews = BTreeMap::new();
    for lease in &look.leases {
        let Some(owner) = &lease.owner else { continue };
        let renewal = history.renewal(&lease.shard_id);
        let known = renewal == Renewal::Silent || renewal == Renewal::Renewing;
        let (is_known, is_alive) = renews.entry(owner).or_insert((true, false));
        *is_known &= known || lease.is_finished();
        *is_alive |= renewal == Renewal::Renewing;
    }
    let one_renews = renews.values().any(|(_, is_alive)| *is_alive);
    (until == Until::OneRenews && one_renews) || renews.values().all(|(is_known, _)| *is_known)
}
