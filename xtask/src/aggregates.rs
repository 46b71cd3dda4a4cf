//! Aggregates by the libraries of other producers: installs them into `target/aggregators` and runs the test.

use std::path::{Path, PathBuf};

use crate::process::{Outcome, command, root};
use crate::testing;

/// The library for Node.js, with its exact version.
const NODE_PACKAGE: (&str, &str) = ("aws-kinesis-agg", "4.2.8");

/// The library for Python with its dependencies, of which it names only one.
const PYTHON_PACKAGES: [(&str, &str); 3] =
    [("aws-kinesis-agg", "1.2.3"), ("protobuf", "6.33.0"), ("six", "1.17.0")];

/// Installs the libraries unless they are there, and runs the test. Fails without Node.js or Python.
pub(crate) fn run() -> Outcome {
    if let Some(missing) = missing() {
        return Err(format!("aggregates runs producers of other languages: {missing}"));
    }
    test_with(&install()?)
}

/// Builds and runs the test with the installed libraries.
fn test_with(directory: &Path) -> Outcome {
    testing::build_with_aws()?;
    testing::with_aws("interop_aggregates -- --nocapture").env("AGGREGATORS_DIR", directory).run()
}

/// Runs the test; where the libraries cannot be installed it prints why it is left out.
pub(crate) fn run_where_possible() -> Outcome {
    match missing().map_or_else(install, Err) {
        Ok(directory) => test_with(&directory),
        Err(reason) => {
            println!("LEFT OUT: aggregates by producers of other languages: {reason}");
            Ok(())
        }
    }
}

/// The first program that this machine lacks.
fn missing() -> Option<String> {
    let needed: [(&str, &[&str], &str); 3] = [
        ("node", &["--version"], "Node.js"),
        ("npm", &["--version"], "npm"),
        ("python3", &["-m", "pip", "--version"], "Python 3 with pip"),
    ];
    needed.into_iter().find_map(|(program, arguments, name)| {
        let fault = command(program).args(arguments).output().err()?;
        Some(format!("{name} is needed: {fault}"))
    })
}

/// Installs each library unless it is there. Returns the folder, with the sub-folders `node_modules` and `python`.
fn install() -> Outcome<PathBuf> {
    let directory = root().join("target/aggregators");
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let (name, version) = NODE_PACKAGE;
    if !is_node_package(&directory, name, version) {
        command("npm")
            .args(["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"])
            .args([&directory])
            .args([format!("{name}@{version}")])
            .run()?;
    }
    let python = directory.join("python");
    if !PYTHON_PACKAGES.iter().all(|(name, version)| is_python_package(&python, name, version)) {
        let _ = std::fs::remove_dir_all(&python);
        command("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--root-user-action", "ignore", "--target"])
            .args([&python])
            .args(PYTHON_PACKAGES.map(|(name, version)| format!("{name}=={version}")))
            .run()?;
    }
    Ok(directory)
}

fn is_node_package(directory: &Path, name: &str, version: &str) -> bool {
    let manifest = directory.join("node_modules").join(name).join("package.json");
    std::fs::read_to_string(manifest).is_ok_and(|text| text.contains(&format!("\"version\": \"{version}\"")))
}

fn is_python_package(directory: &Path, name: &str, version: &str) -> bool {
    directory.join(format!("{}-{version}.dist-info", name.replace('-', "_"))).is_dir()
}

#[cfg(test)]
mod tests {
    use super::is_python_package;

    #[test]
    fn a_missing_python_package_is_noticed() {
        assert!(!is_python_package(std::path::Path::new("/no/such/folder"), "aws-kinesis-agg", "1.2.3"));
    }
}
