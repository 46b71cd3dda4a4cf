//! The word that tells a child why its checkpoint was not written.

use checkpointer::{CheckpointError, CheckpointErrorKind};
use lease_store::{StoreError, StoreErrorKind};

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

fn is_table_missing(error: &CheckpointError) -> bool {
    let store = std::error::Error::source(error).and_then(|source| source.downcast_ref::<StoreError>());
    store.is_some_and(|store| store.kind() == StoreErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
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
        let missing = StoreError::new(StoreErrorKind::NotFound, "no table");
        let error =
            CheckpointError::new(CheckpointErrorKind::Unavailable, "not written").with_source(missing);
        assert_eq!(fault_of(&error), CheckpointFault::InvalidState);
    }
}
