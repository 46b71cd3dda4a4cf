//! Runs commands in the root of the repository and says what it runs.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// What a task yields: nothing, or what went wrong in one line.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// Where cargo builds.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where cargo put a program of this workspace.
pub(crate) fn built(program: &str) -> String {
    target_directory().join("debug").join(program).to_string_lossy().into_owned()
}

/// A command that runs in the root of the repository.
#[derive(Debug)]
pub(crate) struct Run {
    command: Command,
    shown: String,
}

/// A cargo command; the words are split at spaces.
pub(crate) fn cargo(words: &str) -> Run {
    Run::new(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), "cargo").args(words.split(' '))
}

/// Any other command.
pub(crate) fn command(program: &str) -> Run {
    Run::new(program, program)
}

impl Run {
    fn new(program: &str, shown: &str) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        Self { command, shown: shown.to_owned() }
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        for argument in arguments {
            self.shown = format!("{} {}", self.shown, argument.as_ref().to_string_lossy());
            self.command.arg(argument);
        }
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.shown = format!("{name}={} {}", value.as_ref().to_string_lossy(), self.shown);
        self.command.env(name, value);
        self
    }

    /// Runs it, its output going where ours goes.
    pub(crate) fn run(mut self) -> Outcome {
        println!("$ {}", self.shown);
        match self.command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`{}` failed: {status}", self.shown)),
            Err(error) => Err(format!("`{}` could not be started: {error}", self.shown)),
        }
    }

    /// Runs it and returns what it printed.
    pub(crate) fn output(mut self) -> Outcome<String> {
        match self.command.output() {
            Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                Err(format!("`{}` failed: {}\n{error}", self.shown, output.status))
            }
            Err(error) => Err(format!("`{}` could not be started: {error}", self.shown)),
        }
    }
}
