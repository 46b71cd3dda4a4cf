//! Shows a plan and what became of it, as lines for people or as JSON.

use std::collections::BTreeMap;

use fleet_view::duration_text;
use fleet_view::plan::{Effect, EffectKind, Plan};
use serde::Serialize;

use crate::exit_code::{CommandError, CommandErrorKind};
use crate::look::gap::Gap;
use crate::operate::carry_out::{Outcome, ShardOutcome};
use crate::terminal::{Terminal, print_json};

/// The most shards that are shown to people; JSON has them all.
const MAX_SHOWN: usize = 40;

/// The change of the mode of a KCL 3.x fleet, beside the changes of rows.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ModeChange {
    /// The table that contains the mode.
    pub(crate) table: String,
    pub(crate) from: String,
    pub(crate) to: &'static str,
    pub(crate) is_done: bool,
}

/// A plan, and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    /// The mode of a KCL 3.x fleet, if the operation changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a ModeChange>,
    /// What could not be read.
    gaps: &'a [Gap],
    /// What became of the changes; `None`: nothing was tried.
    outcomes: Option<&'a [ShardOutcome]>,
}

impl<'a> Report<'a> {
    /// The report of a plan that is only shown.
    pub(crate) fn of_plan(plan: &'a Plan, gaps: &'a [Gap]) -> Self {
        Self { plan, mode: None, gaps, outcomes: None }
    }

    /// The report of a plan that was carried out.
    pub(crate) fn of_outcomes(plan: &'a Plan, gaps: &'a [Gap], outcomes: &'a [ShardOutcome]) -> Self {
        Self { plan, mode: None, gaps, outcomes: Some(outcomes) }
    }

    /// The same with a change of the mode.
    pub(crate) fn with_mode(self, mode: Option<&'a ModeChange>) -> Self {
        Self { mode, ..self }
    }

    /// Shows it. `to_execute` names the argument with which the plan is carried out.
    ///
    /// # Errors
    /// `BadAnswer` when the plan is refused, `Unavailable` when a change was not made.
    pub(crate) fn show(&self, is_json: bool, to_execute: &str) -> Result<(), CommandError> {
        if is_json {
            print_json(self)?;
        } else {
            Terminal::of_process().show(&self.lines(to_execute), false)?;
        }
        if self.plan.is_refused() {
            return Err(CommandError::new(CommandErrorKind::BadAnswer, ""));
        }
        let is_done = |shard: &ShardOutcome| shard.outcome == Outcome::Done;
        if self.outcomes.is_some_and(|outcomes| !outcomes.iter().all(is_done)) {
            let message = "not every change was made; look at the lines above, and run the command again";
            return Err(CommandError::new(CommandErrorKind::Unavailable, message));
        }
        Ok(())
    }

    /// The plan and its outcome for people.
    pub(crate) fn lines(&self, to_execute: &str) -> Vec<String> {
        let plan = self.plan;
        let mut lines = vec![format!("{}: {}", plan.application, plan.summary())];
        if let Some(ModeChange { table, from, to, is_done }) = self.mode {
            let done = if *is_done { ", done" } else { "" };
            lines.push(format!("mode of the KCL fleet, in {table}: {from} -> {to}{done}"));
        }
        let effects: Vec<&Effect> =
            plan.effects.iter().filter(|effect| effect.kind != EffectKind::Nothing).collect();
        lines.extend(effects.iter().take(MAX_SHOWN).map(|effect| effect_line(effect)));
        lines.extend(more(effects.len()));
        lines.extend(plan.notes.iter().take(MAX_SHOWN).map(|note| format!("note: {note}")));
        lines.extend(more(plan.notes.len()));
        lines.extend(self.gaps.iter().map(|gap| format!("note: {gap}")));
        lines.extend(plan.refusals.iter().take(MAX_SHOWN).map(|refusal| format!("refused: {refusal}")));
        lines.extend(more(plan.refusals.len()));
        match self.outcomes {
            None if plan.is_refused() || (plan.changes.is_empty() && self.mode.is_none()) => {
                lines.push("nothing was changed".to_owned());
            }
            None => lines.push(format!("nothing was changed; {to_execute}")),
            Some(outcomes) => lines.extend(outcome_lines(outcomes)),
        }
        lines
    }
}

/// The count of lines that are not shown.
fn more(count: usize) -> Option<String> {
    count
        .checked_sub(MAX_SHOWN)
        .filter(|hidden| *hidden > 0)
        .map(|hidden| format!("… and {hidden} more; see --json"))
}

fn effect_line(effect: &Effect) -> String {
    let what = match effect.kind {
        EffectKind::Nothing => "reads on",
        EffectKind::Begun => "is read from its beginning",
        EffectKind::ReadAgain => "reads records again",
        EffectKind::Skipped => "skips records",
        EffectKind::Either => "reads records again or skips them",
        EffectKind::Forgotten => "loses its position",
    };
    let place = |position: &Option<lease_store::Position>| {
        position.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    };
    let span =
        effect.span_millis.map_or_else(String::new, |span| format!(", {} of them", duration_text(span)));
    format!("{} {what}{span}: {} -> {}", effect.shard_id, place(&effect.from), place(&effect.to))
}

fn outcome_lines(outcomes: &[ShardOutcome]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let text = |outcome: Outcome| match outcome {
        Outcome::Done => "done",
        Outcome::Changed => "not changed: the row is not as it was when the plan was made",
        Outcome::NotTried => "not tried: a change before it was not made",
        Outcome::NotCarriedOut => "not carried out by the owner in time; the request is withdrawn",
        Outcome::OwnerChanged => "not carried out: the owner changed before",
    };
    let mut lines = Vec::new();
    for shard in outcomes {
        *counts.entry(text(shard.outcome)).or_default() += 1;
        if shard.outcome != Outcome::Done && lines.len() < MAX_SHOWN {
            lines.push(format!("{}: {}", shard.shard_id, text(shard.outcome)));
        }
    }
    lines.extend(counts.iter().map(|(text, count)| format!("{count} {text}")));
    if outcomes.is_empty() {
        lines.push("nothing had to be changed".to_owned());
    }
    lines
}
