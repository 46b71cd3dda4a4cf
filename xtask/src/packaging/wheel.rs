//! The wheel for Python, built by hatchling through `pip wheel`.

use std::path::{Path, PathBuf};

use super::{Program, VERSION, only_file, stage};
use crate::process::{Outcome, command};

/// Why no wheel can be built here.
pub(super) fn missing() -> Option<String> {
    command("python3").args(["-m", "pip", "--version"]).output().err()
}

/// Builds the wheel in an empty folder.
pub(super) fn build(program: &Program, directory: &Path, wheelhouse: Option<&Path>) -> Outcome<PathBuf> {
    let source = directory.join("source");
    stage("python", &source)?;
    let mut pip = command("python3").args([
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    if let Some(wheelhouse) = wheelhouse {
        pip = pip.args(["--no-index", "--find-links"]).args([wheelhouse]);
    }
    pip.args(["--wheel-dir"])
        .args([directory, &source])
        .env("KINESIS_STREAMING_VERSION", VERSION)
        .env("KINESIS_STREAMING_PROGRAM", &program.path)
        .env("KINESIS_STREAMING_PLATFORM", &program.platform.wheel)
        .run()?;
    only_file(directory, "whl")
}
