//! Runs commands in the root of the repository and prints each command before it runs.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The result of a task; the error names the failed step.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// The folder with the folders of the profiles, such as `target`. It is where cargo put this program: an environment variable or a file
/// of settings may have chosen another folder or another platform.
pub(crate) fn target_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    of_profiles(&program).unwrap_or_else(|| root().join("target"))
}

/// `target` for `target/debug/xtask`, or for `target/debug/deps/xtask-1` in tests.
fn of_profiles(program: &Path) -> Option<PathBuf> {
    let folder = program.parent()?;
    let profile = if folder.ends_with("deps") { folder.parent()? } else { folder };
    profile.parent().map(Path::to_owned)
}

/// The path of a program of this workspace in the profile `dev`.
pub(crate) fn built(program: &str) -> String {
    built_in("debug", program)
}

/// The path of a program of this workspace in a profile's directory.
pub(crate) fn built_in(directory: &str, program: &str) -> String {
    target_directory().join(directory).join(program).to_string_lossy().into_owned()
}

/// A command that runs in the root of the repository.
#[derive(Debug)]
pub(crate) struct Run {
    command: Command,
    shown: String,
}

/// A cargo command; the words are split at spaces.
pub(crate) fn cargo(words: &str) -> Run {
    Run::new(&cargo_program(), "cargo").args(words.split(' '))
}

/// The cargo that runs this task.
pub(crate) fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
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

    /// Runs the command with the output of this process.
    pub(crate) fn run(mut self) -> Outcome {
        println!("$ {}", self.shown);
        match self.command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`{}` failed: {status}", self.shown)),
            Err(error) => Err(format!("`{}` could not be started: {error}", self.shown)),
        }
    }

    /// Runs the command and returns its standard output.
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

    /// Runs the command and passes each line of its standard output on; its standard error is that of this process.
    pub(crate) fn for_each_line(mut self, mut each: impl FnMut(&str)) -> Outcome {
        println!("$ {}", self.shown);
        let could_not = |error| format!("`{}` could not be started: {error}", self.shown);
        let mut child = self.command.stdout(Stdio::piped()).spawn().map_err(could_not)?;
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| each(&line));
        }
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`{}` failed: {status}", self.shown)),
            Err(error) => Err(format!("`{}` could not be waited for: {error}", self.shown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_beside_this_one() {
        for (program, target) in [
            ("/x/target/debug/xtask", "/x/target"),
            ("/x/target/debug/deps/xtask-1", "/x/target"),
            ("/elsewhere/x86_64-unknown-linux-gnu/debug/xtask", "/elsewhere/x86_64-unknown-linux-gnu"),
        ] {
            assert_eq!(of_profiles(Path::new(program)), Some(PathBuf::from(target)));
        }
        assert!(built("xtask").ends_with("/debug/xtask"), "{}", built("xtask"));
    }
}
