//! The cost of consuming compared with other consumers, in one run: builds the benchmark and runs it.

use std::path::{Path, PathBuf};

use crate::process::{self, Outcome, cargo, command, root};
use crate::{sim, testing};

/// Contenders from PyPI, with exact versions: their cost changes with the version.
const PACKAGES: [(&str, &str); 2] = [("kcl-rs", "0.1.4"), ("boto3", "1.44.5")];

/// The Python that creates the virtual environment of the contenders.
const PYTHON: &str = "python3";

/// The size of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Everything, with the contenders from PyPI and in the profile `release`: about a quarter of an hour.
    Full,
    /// Only this workspace against the SDK, in about a minute, as in `ci`. Only counted figures decide, and these do not depend on
    /// optimisation, so it runs in the profile of the simulator and the AWS SDK is built once for both.
    Short,
}

/// Builds and runs the benchmark with these arguments.
pub(crate) fn run(form: Form, arguments: &[String]) -> Outcome {
    if form == Form::Short {
        sim::build()?;
        println!("measuring for about a minute ...");
        let program = process::built_in(sim::CHECKED_PROFILE, "benchmark");
        return command(&program).args(arguments).args(["--short"]).run();
    }
    println!("building the benchmark in release; the first build takes minutes ...");
    cargo("build --release --package benchmark").run()?;
    let mut bench = command(&process::built_in("release", "benchmark")).args(arguments);
    bench = match install() {
        Ok(python) => {
            // DynamoDB for the leases of kcl-rs: the program that `cargo xtask local` runs.
            testing::build_programs(&["local_endpoints"])?;
            let local_endpoints = process::built("local_endpoints");
            bench.args(["--python", &python.to_string_lossy(), "--local-endpoints", &local_endpoints])
        }
        Err(why) => {
            println!("LEFT OUT: kcl-rs and boto3: {why}");
            bench.args(["--without-python", &why])
        }
    };
    println!("measuring for about a quarter of an hour ...");
    bench.run()
}

/// Installs the contenders from PyPI into a virtual environment and returns its Python. The error is the reason why they are left out.
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
