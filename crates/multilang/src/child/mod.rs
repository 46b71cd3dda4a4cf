//! The child: its command, its process, its output.
//!
//! | file | content |
//! | --- | --- |
//! | `command` | `executableName` as a program and its arguments; pure |
//! | `output` | where output that is no message goes |
//! | `stream_writer` | writes to a stream of this process in a thread of its own |
//! | `stderr` | forwards the standard error |
//! | `launch` | the contract of starting a child, so that tests need no process |
//! | `process` | a child as a process of the operating system, in a process group of its own |
//! | `running` | a started child with its session, from `initialize` to its exit |

pub(crate) mod command;
pub(crate) mod launch;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod running;
pub(crate) mod stderr;
mod stream_writer;

pub use self::command::ChildCommand;
pub use self::launch::{ChildLauncher, ChildProcess, LaunchedChild};
pub use self::output::{ChildOutput, StdoutMode, StreamOutput};
pub use self::process::ProcessLauncher;
pub use self::running::{ChildLimits, RunningChild};
pub use self::stderr::forward_stderr;
