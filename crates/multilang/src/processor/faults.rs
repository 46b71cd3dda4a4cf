//! The word that tells a child why its checkpoint was not written.

use checkpointer::{CheckpointError, CheckpointErrorKind};
use lease_store::ServiceCause;

use crate::protocol::checkpoint::CheckpointFault;

/// The fault of a checkpoint that was not written, as the KCL names it.
pub(super) fn fault_of(error: &CheckpointError) -> CheckpointFault {
    match error.kind() {
        CheckpointErrorKind::Fenced | CheckpointErrorKind::Closed => CheckpointFault::Shutdown,
        CheckpointErrorKind::Throttled => CheckpointFault::Throttling,
        CheckpointErrorKind::Invalid => CheckpointFault::InvalidState,
        _ if is_table_missing(error) => CheckpointFault::InvalidState,
        _ => CheckpointFault::Dependency,
    }
}

/// What DynamoDB answers when the table does not exist.
const TABLE_MISSING: &str = "ResourceNotFoundException";

fn is_table_missing(error: &CheckpointError) -> bool {
    error.service_cause().and_then(ServiceCause::code) == Some(TABLE_MISSING)
}

#[cfg(test)]
mod tests {
    use lease_store::{StoreError, StoreErrorKind};

    use super::*;

    #[test]
    fn words_are_those_of_the_kcl() {
        for (kind, word) in [
            (CheckpointErrorKind::Fenced, "ShutdownException"),
            (CheckpointErrorKind::Closed, "ShutdownException"),
            (CheckpointErrorKind::Throttled, "ThrottlingException"),
            (CheckpointErrorKind::Invalid, "InvalidStateException"),
            (CheckpointErrorKind::Denied, "KinesisClientLibDependencyException"),
            (CheckpointErrorKind::Unavailable, "KinesisClientLibDependencyException"),
        ] {
            assert_eq!(fault_of(&CheckpointError::new(kind, "not written")).word(), word, "{kind:?}");
        }
    }

    #[test]
    fn missing_table_is_an_invalid_state() {
        let answer = ServiceCause::new("no table").with_answer(400, Some(TABLE_MISSING));
        let missing = StoreError::new(StoreErrorKind::NotFound, "no table").with_source(answer);
        let error = CheckpointError::new(CheckpointErrorKind::Unavailable, "not written").caused_by(missing);
        assert_eq!(fault_of(&error), CheckpointFault::InvalidState);
    }
}
