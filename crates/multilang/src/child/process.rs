//! A child as a process of the operating system.
//!
//! Each child leads a process group of its own. A Ctrl-C or a supervisor that signals the group of the daemon then does not
//! reach the children, so they are alive when the daemon asks them to checkpoint.

use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::command::ChildCommand;
use super::launch::{ChildLauncher, ChildProcess, LaunchedChild};
use super::output::ChildOutput;
use super::stderr::forward_stderr;
use crate::error::{MultilangError, MultilangErrorKind};

/// How long the rest of the standard error may take after the exit: a process that the child started may hold the pipe.
const STDERR_REST_WAIT: Duration = Duration::from_secs(1);

/// Starts children as processes. They inherit the environment and the working directory.
#[derive(Debug, Clone)]
pub struct ProcessLauncher {
    command: ChildCommand,
    output: Arc<dyn ChildOutput>,
}

impl ProcessLauncher {
    /// Starts this command for each child, and forwards its standard error to `output`.
    pub fn new(command: ChildCommand, output: Arc<dyn ChildOutput>) -> Self {
        Self { command, output }
    }

    fn not_started(&self, shard_id: &str, cause: std::io::Error) -> MultilangError {
        let program = self.command.program();
        let remedy = match cause.kind() {
            std::io::ErrorKind::NotFound => "install it, or give its path in executableName",
            std::io::ErrorKind::PermissionDenied => "make the file executable",
            _ => "check executableName; for a script, name its interpreter first, as in `python3 app.py`",
        };
        let message = format!("child of shard {shard_id} not started: {program:?}: {cause}; {remedy}");
        MultilangError::new(MultilangErrorKind::ChildNotStarted, message).with_source(cause)
    }
}

impl ChildLauncher for ProcessLauncher {
    fn launch(&self, shard_id: &Arc<str>) -> Result<LaunchedChild, MultilangError> {
        let mut command = Command::new(self.command.program());
        command
            .args(self.command.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|cause| self.not_started(shard_id, cause))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(self.not_started(shard_id, std::io::Error::other("it has no pipes")));
        };
        let stderr = tokio::spawn(forward_stderr(stderr, shard_id.clone(), self.output.clone()));
        let process = SystemProcess { id: child.id(), child, stderr: Some(stderr) };
        Ok(LaunchedChild { input: Box::new(stdin), output: Box::new(stdout), process: Box::new(process) })
    }
}

struct SystemProcess {
    child: Child,
    /// Also the id of the process group.
    id: Option<u32>,
    stderr: Option<JoinHandle<()>>,
}

impl fmt::Debug for SystemProcess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SystemProcess").field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl ChildProcess for SystemProcess {
    async fn exited(&mut self) -> String {
        let status = self.child.wait().await;
        if let Some(stderr) = &mut self.stderr {
            // On a time-out the task continues until the pipe is closed.
            let _ = timeout(STDERR_REST_WAIT, stderr).await;
            self.stderr = None;
        }
        match status {
            Ok(status) => described(status),
            Err(error) => format!("exit status unknown: {error}"),
        }
    }

    fn terminate(&mut self) {
        #[cfg(unix)]
        self.signal(nix::sys::signal::Signal::SIGTERM);
        #[cfg(not(unix))]
        self.kill();
    }

    fn kill(&mut self) {
        #[cfg(unix)]
        self.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.start_kill();
    }
}

#[cfg(unix)]
impl SystemProcess {
    /// Signals the group of the child. Once the child was waited for, its id may belong to another process.
    fn signal(&self, signal: nix::sys::signal::Signal) {
        let running = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = running {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), signal);
        }
    }
}

impl Drop for SystemProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn described(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("ended by signal {signal}");
    }
    status.code().map_or_else(|| "exited".to_owned(), |code| format!("exit status {code}"))
}
