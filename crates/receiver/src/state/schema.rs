//! What the entries of a state look like, as far as that is written down beside them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name and the version of what the application keeps for a key. It stands in every snapshot: one of another schema is
/// refused, or migrated by [`StateLogic::migrate`](super::StateLogic::migrate), but never misread.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateSchema {
    /// What is kept, `word-counts` for example.
    pub name: String,
    /// Grows with each change to the type of the state that older snapshots cannot be read as.
    pub version: u32,
}

impl StateSchema {
    /// A schema.
    pub fn new(name: impl Into<String>, version: u32) -> Self {
        Self { name: name.into(), version }
    }
}

impl fmt::Display for StateSchema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} version {}", self.name, self.version)
    }
}
