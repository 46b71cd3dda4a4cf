//! What a look lacks, and why: the rest of it works all the same. Plain data.

use std::fmt;

use serde::Serialize;
use shard_worker::{SourceError, SourceErrorKind};

use lease_store::{StoreError, StoreErrorKind};

/// A part of a look that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    /// What is not known.
    pub(crate) unknown: &'static str,
    /// The action that the credentials must allow; `None`: they are not the reason.
    pub(crate) missing_action: Option<&'static str>,
    /// The reason, for people.
    pub(crate) reason: String,
}

impl Gap {
    /// The gap that a failed call to the stream leaves.
    pub(crate) fn of_stream(unknown: &'static str, action: &'static str, error: &SourceError) -> Self {
        let is_denied = error.kind() == SourceErrorKind::Denied;
        Self { unknown, missing_action: is_denied.then_some(action), reason: error.to_string() }
    }

    /// The gap that a failed call to the table leaves.
    pub(crate) fn of_table(unknown: &'static str, action: &'static str, error: &StoreError) -> Self {
        let is_denied = error.kind() == StoreErrorKind::Denied;
        Self { unknown, missing_action: is_denied.then_some(action), reason: error.to_string() }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unknown, missing_action, reason } = self;
        match missing_action {
            Some(action) => write!(formatter, "not known: {unknown}; allow {action} ({reason})"),
            None => write!(formatter, "not known: {unknown}; {reason}"),
        }
    }
}
