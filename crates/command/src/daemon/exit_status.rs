//! The exit code of the daemon.

use std::time::Duration;

use kinesis_streaming::ShutdownSignal;

/// After a stop that did not end in time, or whose last checkpoints were not all written.
const NOT_IN_ORDER: u8 = 3;

/// What a shell adds to the number of a signal.
const SIGNALLED: u8 = 128;

/// How the daemon was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As `kinesis-streaming daemon`.
    Own,
    /// In place of `java`, whose exit codes supervisors know.
    Java,
}

/// How a stop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Every child was asked to shut down, and every checkpoint is written.
    InOrder,
    /// Every child ended, but a checkpoint is not written.
    Incomplete,
    /// A child took too long for `shutdownGraceMillis`.
    Late,
    /// A second signal ended it at once.
    Interrupted(ShutdownSignal),
}

/// Why the daemon ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// A signal asked it to.
    Signalled(ShutdownSignal, Stop),
    /// A child failed for the last time, with this error.
    ChildFailed(String, Stop),
    /// The consumer failed, or could not be started.
    Failed(String),
}

impl Ending {
    /// The last line for the operator. `None`: nothing is left to say.
    pub(super) fn described(&self, grace: Duration) -> Option<String> {
        let of_stop = |stop: Stop| match stop {
            Stop::InOrder => None,
            Stop::Incomplete => {
                Some("stopped, but not every last checkpoint is written; some records repeat".to_owned())
            }
            Stop::Late => Some(format!(
                "stopped before all children had ended, which is limited to {} ms; raise shutdownGraceMillis, or make the \
                 children quicker",
                grace.as_millis()
            )),
            Stop::Interrupted(signal) => {
                Some(format!("{signal}, the second signal: stopped at once without waiting for children"))
            }
        };
        match self {
            Self::Signalled(_, stop) => of_stop(*stop),
            Self::ChildFailed(error, stop) => {
                let rest = of_stop(*stop).map(|line| format!("\n{line}")).unwrap_or_default();
                Some(format!("error: {error}{rest}"))
            }
            Self::Failed(error) => Some(format!("error: {error}")),
        }
    }
}

/// The exit code of an ending.
pub(super) fn exit_code(ending: &Ending, form: Form) -> u8 {
    match (ending, form) {
        (Ending::Failed(_) | Ending::ChildFailed(..), _) => super::FAILURE,
        (Ending::Signalled(_, Stop::Interrupted(second)), _) => SIGNALLED + number(*second),
        (Ending::Signalled(signal, _), Form::Java) => SIGNALLED + number(*signal),
        (Ending::Signalled(_, Stop::InOrder), Form::Own) => 0,
        (Ending::Signalled(_, Stop::Incomplete | Stop::Late), Form::Own) => NOT_IN_ORDER,
    }
}

fn number(signal: ShutdownSignal) -> u8 {
    match signal {
        ShutdownSignal::Interrupt => 2,
        // SIGTERM, the only other one.
        _ => 15,
    }
}

#[cfg(test)]
mod tests {
    use ShutdownSignal::{Interrupt, Terminate};

    use super::*;

    #[test]
    fn every_ending_has_its_code() {
        for (ending, own, java) in [
            (Ending::Signalled(Terminate, Stop::InOrder), 0, 143),
            (Ending::Signalled(Interrupt, Stop::InOrder), 0, 130),
            (Ending::Signalled(Terminate, Stop::Incomplete), 3, 143),
            (Ending::Signalled(Terminate, Stop::Late), 3, 143),
            (Ending::Signalled(Terminate, Stop::Interrupted(Interrupt)), 130, 130),
            (Ending::ChildFailed(String::new(), Stop::InOrder), 1, 1),
            (Ending::ChildFailed(String::new(), Stop::Interrupted(Terminate)), 1, 1),
            (Ending::Failed(String::new()), 1, 1),
        ] {
            let codes = [Form::Own, Form::Java].map(|form| exit_code(&ending, form));
            assert_eq!(codes, [own, java], "{ending:?}");
        }
    }

    #[test]
    fn last_line_names_cause_and_remedy() {
        let grace = Duration::from_millis(700);
        assert_eq!(Ending::Signalled(Terminate, Stop::InOrder).described(grace), None);
        let late = Ending::Signalled(Terminate, Stop::Late).described(grace).unwrap();
        assert!(late.contains("700 ms") && late.contains("shutdownGraceMillis"), "{late}");
        let failed = Ending::ChildFailed("child of shard 1".to_owned(), Stop::Late).described(grace).unwrap();
        assert!(failed.starts_with("error: child of shard 1\nstopped"), "{failed}");
    }
}
