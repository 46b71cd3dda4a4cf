//! What happens to records that the application cannot process.

pub(crate) mod dead_letter;
pub(crate) mod failure_policy;
pub(crate) mod failure_settings;
pub(crate) mod file_dead_letters;
pub(crate) mod last_resort;
pub(crate) mod panics;
pub(crate) mod process_error;
