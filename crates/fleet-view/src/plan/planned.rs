//! A plan, as plain data.

use serde::{Deserialize, Serialize};

use crate::plan::change::RowChange;
use crate::plan::effect::{Effect, EffectKind};
use crate::plan::refusal::{Note, Refusal};

/// What to do to the rows of an application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The application whose rows are changed.
    pub application: String,
    /// When the look was taken, in milliseconds since 1970.
    pub decided_at_millis: u64,
    /// The changes, in the order in which they are to be made.
    pub changes: Vec<RowChange>,
    /// What each shard reads again or skips. Shards without an effect are left out.
    pub effects: Vec<Effect>,
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
            |kinds: &[EffectKind]| self.effects.iter().filter(|effect| kinds.contains(&effect.kind)).count();
        let parts = [
            (count(&[EffectKind::ReadAgain]), "read records again"),
            (count(&[EffectKind::Begun]), "begin"),
            (count(&[EffectKind::Skipped]), "skip records"),
            (count(&[EffectKind::Either]), "read again or skip"),
            (count(&[EffectKind::Forgotten]), "lose their position"),
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
