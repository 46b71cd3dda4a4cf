//! The dialogue with the child of one shard.
//!
//! The daemon sends an action and reads messages until the status of that action. Checkpoint requests that arrive meanwhile
//! are executed and answered at once. One action is outstanding at a time. A message that the child sends early waits for
//! the next action, as in Java.
//!
//! | file | content |
//! | --- | --- |
//! | `action` | the actions, and which of them may checkpoint; pure |
//! | `state` | which message may come when, and what follows; pure |
//! | `handler` | who executes checkpoints |
//! | `reader` | reads the child's output from start to end, so that the pipe never fills up |
//! | `session` | writes actions, waits for the answers, within time limits |

pub(crate) mod action;
pub(crate) mod handler;
pub(crate) mod reader;
pub(crate) mod session;
pub(crate) mod state;

pub use self::action::Action;
pub use self::handler::{CheckpointHandler, NoCheckpoints};
pub use self::reader::{MAX_UNREAD_MESSAGES, read_messages};
pub use self::session::{MAX_PENDING_MESSAGES, Session, SessionLimits};
pub use self::state::{Conversation, Reaction};
