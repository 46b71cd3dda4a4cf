//! Carries out the last resort of a failure policy.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use lease_store::BoxError;

use crate::failure_policy::LastResort;
use crate::panics::panic_error;
use crate::{DeadLetter, Record, ShardContext, ShardProgress};

/// What became of a record that could not be processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenUp {
    DeadLetter,
    Skipped,
}

impl GivenUp {
    pub(crate) fn count(self, progress: &mut ShardProgress) {
        match self {
            Self::DeadLetter => progress.dead_letters += 1,
            Self::Skipped => progress.skipped_records += 1,
        }
    }
}

/// Takes the last resort with one record.
///
/// # Errors
/// The dead-letter sink did not take it.
pub(crate) async fn take_last_resort(
    context: &ShardContext,
    record: &Record,
    attempts: u32,
    error: &str,
) -> Result<GivenUp, BoxError> {
    let id = record.id(&context.stream, &context.shard_id);
    let LastResort::DeadLetter(sink) = context.failure_policy.last_resort() else {
        tracing::error!(record = %id, attempts, error, "a record is skipped, as the failure policy says");
        return Ok(GivenUp::Skipped);
    };
    let letter = DeadLetter::new(context, record.clone(), attempts, error.to_owned());
    AssertUnwindSafe(sink.put(&letter))
        .catch_unwind()
        .await
        .map_err(|panic| panic_error("the dead-letter sink", &*panic))??;
    tracing::warn!(record = %id, attempts, error, "a record went to the dead letters");
    Ok(GivenUp::DeadLetter)
}
