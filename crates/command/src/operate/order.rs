//! An operation as data, from the command line or from the page, and what becomes of it.

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_view::Pause;
use fleet_view::plan::{Note, Plan, ResetOptions, ResetTo, Scope, Situation, pause, release, reset, resume};
use lease_store::ShardId;

use crate::exit_code::{CommandError, CommandErrorKind};
use crate::look::Observer;
use crate::look::gap::Gap;
use crate::operate::carry_out::{ShardOutcome, carry_out};
use crate::operate::report::Report;
use crate::operate::situation::{Until, situation};
use crate::wall_clock::now_millis;

/// Shards; `None`: all.
pub(crate) type Shards = Option<BTreeSet<ShardId>>;

/// An operation on a running application.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// Stop reading shards for a while.
    Pause { shards: Shards, end: PauseEnd, by: String },
    /// End pauses.
    Resume { shards: Shards },
    /// Make owners release leases. `is_live`: live owners are asked.
    Release { shards: Shards, is_live: bool },
    /// Store other positions.
    Reset { scope: Scope, to: ResetTo, is_live: bool, even_with_kcl: bool },
}

/// When a pause ends. The clock of the stream ends it, so a duration counts from the time of the look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PauseEnd {
    After(Duration),
    /// In milliseconds since 1970.
    At(u64),
    Never,
}

impl PauseEnd {
    fn until_millis(self, now_millis: u64) -> Option<u64> {
        match self {
            Self::After(time) => {
                Some(now_millis.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
            }
            Self::At(millis) => Some(millis),
            Self::Never => None,
        }
    }
}

/// How long an order may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OrderTimes {
    /// The longest time to look for live workers.
    pub(crate) look_time: Duration,
    /// How long owners are waited for.
    pub(crate) wait: Duration,
}

/// What became of an order.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) plan: Plan,
    pub(crate) gaps: Vec<Gap>,
    /// Why a plan that is not refused was not carried out.
    pub(crate) objection: Option<CommandError>,
    /// `None`: nothing was tried.
    pub(crate) outcomes: Option<Vec<ShardOutcome>>,
}

impl Order {
    /// Whether another look may show more about the owners.
    fn until(&self) -> Until {
        match self {
            Self::Pause { .. } | Self::Resume { .. } => Until::OneLook,
            Self::Reset { is_live: false, .. } => Until::OneRenews,
            Self::Release { .. } | Self::Reset { .. } => Until::AllKnown,
        }
    }

    fn plan(&self, situation: &Situation<'_>) -> Plan {
        match self {
            Self::Pause { shards, end, by } => {
                let until_millis = end.until_millis(situation.look.taken_at_millis);
                pause(situation, shards.as_ref(), &Pause { until_millis, by: by.clone() })
            }
            Self::Resume { shards } => resume(situation, shards.as_ref()),
            Self::Release { shards, is_live } => release(situation, shards.as_ref(), *is_live),
            Self::Reset { scope, to, is_live, .. } => {
                reset(situation, to, &ResetOptions { scope: scope.clone(), is_live: *is_live })
            }
        }
    }

    /// Why a plan that is not refused must not be carried out.
    fn objection(&self, plan: &Plan) -> Option<CommandError> {
        let Self::Reset { even_with_kcl: false, .. } = self else { return None };
        plan.notes.contains(&Note::KclIgnoresInstants).then(|| {
            let message = "workers of the KCL ignore the time in the rows and begin where their settings say; reset to \
                           positions, or add --even-with-kcl if none of them will run again";
            CommandError::new(CommandErrorKind::BadAnswer, message)
        })
    }

    /// Makes the plan of the order, and carries it out if that is asked and nothing speaks against it.
    ///
    /// # Errors
    /// Those of the table and the stream. A refused plan is no error.
    pub(crate) async fn give(
        &self,
        observer: &mut Observer,
        times: OrderTimes,
        executes: bool,
    ) -> Result<Given, CommandError> {
        let found = situation(observer, self.until(), times.look_time).await?;
        let plan = self.plan(&found.for_plan());
        let objection = if executes && !plan.is_refused() { self.objection(&plan) } else { None };
        let outcomes = if plan.is_refused() || !executes || objection.is_some() {
            None
        } else {
            Some(carry_out(observer.store(), &plan, now_millis(), times.wait).await?)
        };
        Ok(Given { plan, gaps: found.gaps, objection, outcomes })
    }
}

impl Given {
    /// The plan, and what became of it.
    pub(crate) fn report(&self) -> Report<'_> {
        match &self.outcomes {
            None => Report::of_plan(&self.plan, &self.gaps),
            Some(outcomes) => Report::of_outcomes(&self.plan, &self.gaps, outcomes),
        }
    }

    /// Shows it. `to_execute` names the argument with which the plan is carried out.
    ///
    /// # Errors
    /// As [`Report::show`], and the objection.
    pub(crate) fn show(self, is_json: bool, to_execute: &str) -> Result<(), CommandError> {
        self.report().show(is_json, to_execute)?;
        self.objection.map_or(Ok(()), Err)
    }
}
