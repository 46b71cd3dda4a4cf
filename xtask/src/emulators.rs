//! Installs a second pair of Kinesis and DynamoDB servers, from npm, into `target/emulators`.

use std::path::{Path, PathBuf};

use crate::process::{Outcome, command, root};

/// The packages, with exact versions: an emulator's quirks change with its version.
const PACKAGES: [(&str, &str); 2] = [("kinesis-local", "0.6.2"), ("dynalite", "4.0.0")];

/// Whether the servers can be used.
#[derive(Debug)]
pub(crate) enum Installed {
    /// They are in this directory, under `node_modules`.
    In(PathBuf),
    /// They cannot be installed, for this reason.
    LeftOut(String),
}

/// Installs the servers unless they are installed.
pub(crate) fn install() -> Outcome<Installed> {
    for program in ["node", "npm"] {
        if let Err(error) = command(program).args(["--version"]).output() {
            return Ok(Installed::LeftOut(format!("Node.js with npm is needed: {error}")));
        }
    }
    let directory = root().join("target/emulators");
    if PACKAGES.iter().all(|(name, version)| is_installed(&directory, name, version)) {
        return Ok(Installed::In(directory));
    }
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let packages = PACKAGES.map(|(name, version)| format!("{name}@{version}"));
    command("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"])
        .args([&directory])
        .args(packages)
        .run()?;
    Ok(Installed::In(directory))
}

fn is_installed(directory: &Path, name: &str, version: &str) -> bool {
    let manifest = directory.join("node_modules").join(name).join("package.json");
    std::fs::read_to_string(manifest).is_ok_and(|text| text.contains(&format!("\"version\": \"{version}\"")))
}
