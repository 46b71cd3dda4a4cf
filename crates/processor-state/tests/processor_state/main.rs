//! The decisions and formats of the application's state: snapshots, inheritance, windows and warnings.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod format;
mod inheritance;
mod log;
mod window;

use processor_state::{StateLogic, StateSchema, update_state_by_key};

/// A state that adds up numbers by key.
pub(crate) fn counts(version: u32) -> impl StateLogic<State = u64> {
    update_state_by_key(
        StateSchema::new("counts", version),
        |_| Ok(Vec::<(String, u64)>::new()),
        |count: Option<u64>, add| Some(count.unwrap_or(0) + add),
        |one, other| one + other,
    )
}
