//! Operations as plans: conditional changes of rows, their effect on what is read, and the reasons to refuse. Pure.
//!
//! A plan is made from one [`Look`](crate::Look) and the [`History`](crate::History) that it is the newest look of. Its
//! changes are in the order in which they are to be made, and each is conditional on what the look saw: a plan that is cut
//! short, or meets a worker that was faster, skips no record, and can be made again. A refused plan is complete too, so that
//! its effect can be shown.

mod assign;
mod change;
mod copy;
mod delete;
mod effect;
mod guard;
mod pause;
mod refusal;
mod reset;
mod reset_targets;

pub use assign::{AssignOptions, assign, release};
pub use change::{Change, Expected, NewRow, RowChange, UnsupportedChange};
pub use copy::copy;
pub use delete::delete;
pub use effect::{Effect, EffectKind};
pub use guard::Situation;
pub use pause::{pause, resume};
pub use refusal::{Note, Refusal};
pub use reset::{ResetOptions, reset};
pub use reset_targets::{ResetTo, Scope, TextPosition};

use serde::{Deserialize, Serialize};

use self::change::RowChange as Row;
use self::effect::{Effect as ShardEffect, EffectKind as Kind};

/// What to do to the rows of an application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The application whose rows are changed.
    pub application: String,
    /// When the look was taken, in milliseconds since 1970.
    pub decided_at_millis: u64,
    /// The changes, in the order in which they are to be made.
    pub changes: Vec<Row>,
    /// What each shard reads again or skips. Shards without an effect are left out.
    pub effects: Vec<ShardEffect>,
    /// Why the plan must not be carried out. Empty: it may.
    pub refusals: Vec<Refusal>,
    /// What a person should know besides.
    pub notes: Vec<Note>,
}

impl Plan {
    /// Whether the plan must not be carried out.
    pub fn is_refused(&self) -> bool {
        !self.refusals.is_empty()
    }

    /// The effect in one line, for people: `12 rows change: 8 shards read again, 2 skip records`.
    pub fn summary(&self) -> String {
        let count =
            |kinds: &[Kind]| self.effects.iter().filter(|effect| kinds.contains(&effect.kind)).count();
        let parts = [
            (count(&[Kind::ReadAgain]), "read records again"),
            (count(&[Kind::Begun]), "begin"),
            (count(&[Kind::Skipped]), "skip records"),
            (count(&[Kind::Either]), "read again or skip"),
            (count(&[Kind::Forgotten]), "lose their position"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let rows = match self.changes.len() {
            1 => "1 row changes".to_owned(),
            rows => format!("{rows} rows change"),
        };
        if parts.is_empty() { rows } else { format!("{rows}; shards: {}", parts.join(", ")) }
    }
}
