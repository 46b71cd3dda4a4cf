//! The state machine of a conversation: which message may come when, and what follows. No I/O and no time.

use std::fmt;
use std::time::Duration;

use super::action::Action;
use crate::error::{MultilangError, MultilangErrorKind};
use crate::protocol::checkpoint::{CheckpointFault, CheckpointRequest};
use crate::protocol::incoming::FromChild;

/// The conversation with the child of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    shard_id: String,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was sent.
    New,
    /// The child waits for an action.
    Idle,
    /// The child has answered `shutdownRequested`: only `leaseLost` may follow.
    Stopping,
    /// The child works on an action.
    Waiting(Action),
    /// The child has answered its last action.
    Ended,
    /// The child broke the protocol, exited or did not answer.
    Failed,
}

/// What follows a message of the child.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// Read the next message.
    KeepReading,
    /// The action is done.
    Done,
    /// Execute the checkpoint, answer it, and read the next message.
    Checkpoint(CheckpointRequest),
    /// Answer the checkpoint with this fault, and read the next message.
    Refuse(CheckpointRequest, CheckpointFault),
}

impl Conversation {
    /// A conversation that has not started.
    pub fn new(shard_id: impl Into<String>) -> Self {
        Self { shard_id: shard_id.into(), state: State::New }
    }

    /// The shard of the child.
    pub fn shard_id(&self) -> &str {
        &self.shard_id
    }

    /// The action that the child works on.
    pub fn outstanding(&self) -> Option<Action> {
        match self.state {
            State::Waiting(action) => Some(action),
            State::New | State::Idle | State::Stopping | State::Ended | State::Failed => None,
        }
    }

    /// Whether an action may be sent now.
    pub fn may_begin(&self, action: Action) -> bool {
        match self.state {
            State::New => action == Action::Initialize,
            State::Idle => action != Action::Initialize,
            State::Stopping => action == Action::LeaseLost,
            State::Waiting(_) | State::Ended | State::Failed => false,
        }
    }

    /// Records that an action is sent.
    ///
    /// # Errors
    /// `OutOfOrder` when the protocol does not allow the action now.
    pub fn begin(&mut self, action: Action) -> Result<(), MultilangError> {
        if !self.may_begin(action) {
            let state = self.state;
            return Err(self.error(
                MultilangErrorKind::OutOfOrder,
                format_args!("{action} cannot be sent in state {state:?}; start a new child"),
            ));
        }
        self.state = State::Waiting(action);
        Ok(())
    }

    /// Takes a message of the child during an action.
    ///
    /// # Errors
    /// `WrongStatus` when the child answers another action.
    pub fn hear(&mut self, message: FromChild) -> Result<Reaction, MultilangError> {
        let State::Waiting(action) = self.state else { return Ok(Reaction::KeepReading) };
        Ok(match message {
            FromChild::Blank | FromChild::Noise | FromChild::OtherAction => Reaction::KeepReading,
            FromChild::MalformedCheckpoint => {
                Reaction::Refuse(CheckpointRequest::default(), CheckpointFault::IllegalArgument)
            }
            FromChild::Checkpoint(request) if action.may_checkpoint() => Reaction::Checkpoint(request),
            FromChild::Checkpoint(request) => Reaction::Refuse(request, CheckpointFault::InvalidState),
            FromChild::Status { response_for } if response_for.as_deref() == Some(action.name()) => {
                self.state = match action {
                    Action::LeaseLost | Action::ShardEnded => State::Ended,
                    Action::ShutdownRequested => State::Stopping,
                    Action::Initialize | Action::ProcessRecords => State::Idle,
                };
                Reaction::Done
            }
            FromChild::Status { response_for } => {
                self.state = State::Failed;
                let found = response_for.unwrap_or_else(|| "no action".to_owned());
                return Err(self.error(
                    MultilangErrorKind::WrongStatus,
                    format_args!(
                        "answered {found:?} during {action}; the child must send one status for each action"
                    ),
                ));
            }
        })
    }

    /// The child closed its output.
    pub fn closed(&mut self) -> MultilangError {
        let during = self.during();
        self.state = State::Failed;
        let message =
            format_args!("closed its standard output {during}; its standard error may name the cause");
        self.error(MultilangErrorKind::ChildExited, message)
    }

    /// The child closed its input, or writing to it failed.
    pub fn input_failed(&mut self, cause: std::io::Error) -> MultilangError {
        let during = self.during();
        self.state = State::Failed;
        let message =
            format_args!("does not read its standard input {during}: {cause}; it has most likely exited");
        self.error(MultilangErrorKind::ChildExited, message).with_source(cause)
    }

    /// The child did not answer in time.
    pub fn timed_out(&mut self, limit: Duration) -> MultilangError {
        let during = self.during();
        self.state = State::Failed;
        self.error(
            MultilangErrorKind::TimedOut,
            format_args!("sent no message for {limit:?} {during}; raise timeoutInSeconds or fix the child"),
        )
    }

    /// The child sends messages and does not read.
    pub fn flooded(&mut self, messages: usize) -> MultilangError {
        let during = self.during();
        self.state = State::Failed;
        self.error(
            MultilangErrorKind::TooManyMessages,
            format_args!(
                "sent more than {messages} messages {during} without reading its input; it must wait for each answer"
            ),
        )
    }

    /// A call was dropped while its line was written, so the child cannot read another one.
    pub fn interrupted(&mut self) -> MultilangError {
        self.state = State::Failed;
        let message =
            format_args!("was sent a part of a line, because the call was dropped; start a new child");
        self.error(MultilangErrorKind::OutOfOrder, message)
    }

    /// The child answered the end of the shard and did not checkpoint there.
    pub fn end_not_checkpointed(&mut self) -> MultilangError {
        self.state = State::Failed;
        self.error(
            MultilangErrorKind::EndNotCheckpointed,
            format_args!(
                "answered shardEnded without a checkpoint; it must checkpoint there without a sequence number"
            ),
        )
    }

    fn during(&self) -> String {
        match self.state {
            State::Waiting(action) => format!("during {action}"),
            State::New | State::Idle | State::Stopping | State::Ended | State::Failed => {
                "between two actions".to_owned()
            }
        }
    }

    fn error(&self, kind: MultilangErrorKind, message: fmt::Arguments<'_>) -> MultilangError {
        MultilangError::new(kind, format!("child of shard {} {message}", self.shard_id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTIONS: [Action; 5] = [
        Action::Initialize,
        Action::ProcessRecords,
        Action::LeaseLost,
        Action::ShardEnded,
        Action::ShutdownRequested,
    ];

    fn status(action: &str) -> FromChild {
        FromChild::Status { response_for: Some(action.to_owned()) }
    }

    fn after(actions: &[Action]) -> Conversation {
        let mut conversation = Conversation::new("shardId-000000000007");
        for action in actions {
            conversation.begin(*action).unwrap();
            assert_eq!(conversation.hear(status(action.name())).unwrap(), Reaction::Done);
        }
        conversation
    }

    #[test]
    fn order_of_actions_is_that_of_the_protocol() {
        use Action::{Initialize, LeaseLost, ProcessRecords, ShardEnded, ShutdownRequested};
        for (done, allowed) in [
            (&[][..], &[Initialize][..]),
            (&[Initialize], &[ProcessRecords, LeaseLost, ShardEnded, ShutdownRequested]),
            (&[Initialize, ProcessRecords], &[ProcessRecords, LeaseLost, ShardEnded, ShutdownRequested]),
            (&[Initialize, ShutdownRequested], &[LeaseLost]),
            (&[Initialize, ShutdownRequested, LeaseLost], &[]),
            (&[Initialize, ShardEnded], &[]),
        ] {
            let conversation = after(done);
            for action in ACTIONS {
                assert_eq!(
                    conversation.may_begin(action),
                    allowed.contains(&action),
                    "{action} after {done:?}"
                );
            }
        }
    }

    #[test]
    fn checkpoints_are_refused_where_java_has_no_checkpointer() {
        let request = CheckpointRequest { sequence_number: Some("5".to_owned()), sub_sequence_number: None };
        for action in ACTIONS {
            let mut conversation =
                if action == Action::Initialize { after(&[]) } else { after(&[Action::Initialize]) };
            conversation.begin(action).unwrap();
            let reaction = conversation.hear(FromChild::Checkpoint(request.clone())).unwrap();
            let expected = match action {
                Action::Initialize | Action::LeaseLost => {
                    Reaction::Refuse(request.clone(), CheckpointFault::InvalidState)
                }
                _ => Reaction::Checkpoint(request.clone()),
            };
            assert_eq!(reaction, expected, "{action}");
        }
    }

    #[test]
    fn failure_names_shard_action_and_answer() {
        let mut conversation = after(&[Action::Initialize]);
        conversation.begin(Action::ProcessRecords).unwrap();
        let error = conversation.hear(status("initialize")).unwrap_err();
        assert_eq!(error.kind(), MultilangErrorKind::WrongStatus);
        assert_eq!(
            error.to_string(),
            "child of shard shardId-000000000007 answered \"initialize\" during processRecords; the child must send one \
             status for each action"
        );
        assert!(ACTIONS.iter().all(|action| !conversation.may_begin(*action)));
        let exited = after(&[Action::Initialize]).closed().to_string();
        assert_eq!(
            exited,
            "child of shard shardId-000000000007 closed its standard output between two actions; its \
             standard error may name the cause"
        );
    }

    fn any_message() -> impl Strategy<Value = FromChild> {
        prop_oneof![
            Just(FromChild::Noise),
            Just(FromChild::Blank),
            Just(FromChild::OtherAction),
            Just(FromChild::MalformedCheckpoint),
            Just(FromChild::Checkpoint(CheckpointRequest::default())),
            prop::sample::select(ACTIONS.to_vec()).prop_map(|action| status(action.name())),
            Just(FromChild::Status { response_for: None }),
        ]
    }

    proptest! {
        /// For any messages: an action is done only by its own status, and after a failure or the end nothing may be sent.
        #[test]
        fn only_its_own_status_ends_an_action(messages in prop::collection::vec(any_message(), 0..40)) {
            let mut conversation = after(&[Action::Initialize]);
            for message in messages {
                let Some(action) = conversation.outstanding() else {
                    if conversation.may_begin(Action::ProcessRecords) {
                        conversation.begin(Action::ProcessRecords).unwrap();
                        continue;
                    }
                    prop_assert!(ACTIONS.iter().all(|action| !conversation.may_begin(*action)));
                    break;
                };
                let is_own = message == status(action.name());
                let is_status = matches!(message, FromChild::Status { .. });
                match conversation.hear(message) {
                    Ok(Reaction::Done) => prop_assert!(is_own),
                    Ok(_) => prop_assert!(!is_status),
                    Err(_) => prop_assert!(is_status && !is_own),
                }
            }
        }
    }
}
