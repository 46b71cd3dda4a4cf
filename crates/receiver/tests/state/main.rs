//! The parts of the application's state that decide: the format of a snapshot, what children take over, windows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod format;
mod lineage;
mod window;

use receiver::state::{StateLogic, StateSchema, update_state_by_key};

/// Adds up numbers by key.
pub(crate) fn counts(version: u32) -> impl StateLogic<State = u64> {
    update_state_by_key(
        StateSchema::new("counts", version),
        |_| Ok(Vec::<(String, u64)>::new()),
        |count: Option<u64>, add| Some(count.unwrap_or(0) + add),
        |one, other| one + other,
    )
}
