//! Applies the last resort of a failure policy to a record: the dead-letter sink, or skipping it.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use lease_store::BoxError;

use super::dead_letter::DeadLetter;
use super::failure_policy::LastResort;
use super::panics::panic_error;
use super::process_error::ErrorTexts;
use crate::progress::ShardProgress;
use crate::record::Record;
use crate::shard_context::ShardContext;

/// How a record that could not be processed was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastResortOutcome {
    DeadLetter,
    Skipped,
}

impl LastResortOutcome {
    pub(crate) fn count(self, progress: &mut ShardProgress) {
        match self {
            Self::DeadLetter => progress.dead_letters += 1,
            Self::Skipped => progress.skipped_records += 1,
        }
    }
}

/// Applies the last resort to one record.
///
/// # Errors
/// The dead-letter sink did not store it.
pub(crate) async fn apply_last_resort(
    context: &ShardContext,
    record: &Record,
    attempts: u32,
    texts: &ErrorTexts,
) -> Result<LastResortOutcome, BoxError> {
    let ErrorTexts { error, causes } = texts;
    let id = record.id(&context.stream, &context.shard_id);
    let LastResort::DeadLetter(sink) = context.failure_policy.last_resort() else {
        tracing::error!(record = %id, attempts, error, ?causes, "record skipped by the failure policy");
        return Ok(LastResortOutcome::Skipped);
    };
    let letter = DeadLetter {
        application: context.application.clone(),
        stream: context.stream.clone(),
        shard_id: context.shard_id.clone(),
        record: record.clone(),
        attempts,
        error: error.clone(),
        causes: causes.clone(),
    };
    AssertUnwindSafe(sink.put(&letter))
        .catch_unwind()
        .await
        .map_err(|panic| panic_error("the dead-letter sink", &*panic))??;
    tracing::warn!(record = %id, attempts, error, ?causes, "record stored as a dead letter");
    Ok(LastResortOutcome::DeadLetter)
}
