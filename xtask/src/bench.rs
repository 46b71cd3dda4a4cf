//! What consuming costs, against other consumers, in one run: builds the benchmark in release and runs it.

use std::path::{Path, PathBuf};

use crate::process::{self, Outcome, cargo, command, root};

/// Contenders from PyPI, with exact versions: what they cost changes with them.
const PACKAGES: [(&str, &str); 2] = [("kcl-rs", "0.1.4"), ("boto3", "1.44.5")];

/// The Python that is used where it has its own name.
const PYTHON: &str = "python3";

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Everything, with the contenders from PyPI: about a quarter of an hour.
    Full,
    /// Only this workspace against the SDK, in about a minute: what `ci` runs.
    Short,
}

/// Runs it; the arguments go to the benchmark as well.
pub(crate) fn run(form: Form, arguments: &[String]) -> Outcome {
    cargo("build --release --package benchmark").run()?;
    let program = process::target_directory().join("release/benchmark");
    let mut bench = command(&program.to_string_lossy()).args(arguments);
    if form == Form::Short {
        return bench.args(["--short"]).run();
    }
    bench = match install() {
        Ok(python) => {
            // DynamoDB for the leases of kcl-rs: the program that `cargo xtask local` runs.
            cargo("build --workspace --all-features --bins").run()?;
            let local_endpoints = process::built("local_endpoints");
            bench.args(["--python", &python.to_string_lossy(), "--local-endpoints", &local_endpoints])
        }
        Err(why) => {
            println!("LEFT OUT: kcl-rs and boto3: {why}");
            bench.args(["--without-python", &why])
        }
    };
    bench.run()
}

/// A Python of their own with the contenders from PyPI. `Err`: why not.
fn install() -> Outcome<PathBuf> {
    let directory = process::target_directory().join("benchmark/venv");
    let python = directory.join("bin/python");
    if !python.exists() {
        command(PYTHON).args(["-m", "venv"]).args([&directory]).run()?;
    }
    if !PACKAGES.iter().all(|(name, version)| is_installed(&python, name, version)) {
        let packages = PACKAGES.map(|(name, version)| format!("{name}=={version}"));
        let install =
            command(&python.to_string_lossy()).args(["-m", "pip", "install", "--quiet"]).args(packages);
        install.run()?;
    }
    Ok(root().join(python))
}

fn is_installed(python: &Path, name: &str, version: &str) -> bool {
    let shown = command(&python.to_string_lossy()).args(["-m", "pip", "show", name]).output();
    shown.is_ok_and(|shown| shown.lines().any(|line| line == format!("Version: {version}")))
}
