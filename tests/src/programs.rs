//! The programs of this workspace as child processes.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use crate::local_servers::Endpoints;

/// A program that is built next to the tests, with credentials for the local servers and no other AWS settings in its
/// environment. It ends when its handle is dropped.
///
/// # Panics
/// When the program is not built.
pub fn program(name: &str) -> Command {
    let mut command = without_aws_environment(built(name));
    command.envs(Endpoints::environment()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The variable that names another folder with `kinesis-streaming`, such as that of a release.
const FOLDER_VARIABLE: &str = "KINESIS_STREAMING_FOLDER";

/// The path of a program that is built next to the tests.
///
/// # Panics
/// When it is not built.
#[allow(clippy::expect_used)] // only tests call it
pub fn built(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|_| name == "kinesis-streaming") {
        return PathBuf::from(folder).join(name);
    }
    let mut path = std::env::current_exe().expect("a test knows where it is");
    path.pop(); // deps
    path.pop();
    path.push(name);
    assert!(path.is_file(), "{} is not built; `cargo xtask wire` and `interop` build it", path.display());
    path
}

/// A command without the AWS settings of the machine, which must not influence a test.
pub(crate) fn without_aws_environment(path: PathBuf) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command
}
