//! Fresh environments for the tests of the packages: each has our package beside an unmodified client of the KCL.

use std::fs;
use std::path::{Path, PathBuf};

use crate::packaging::{NpmPackages, Program, build_npm_packages, build_wheel};
use crate::process::{Outcome, built, command};

/// What building the wheel and the client for Python needs, with exact versions.
const PYTHON_TOOLS: [&str; 4] =
    ["hatchling==1.27.0", "setuptools==80.9.0", "wheel==0.45.1", "pytest-runner==6.0.1"];

/// A virtual environment, and the wheel that is installed in it.
#[derive(Debug)]
pub(crate) struct PythonEnvironment {
    pub(crate) folder: PathBuf,
    pub(crate) wheel: PathBuf,
}

/// Creates a virtual environment with our wheel and the client in this folder of sources. Prints why, when Python or the network
/// is missing; the build and the installation themselves must not fail.
pub(crate) fn python(directory: &Path, client: &Path) -> Outcome<Option<PythonEnvironment>> {
    let wheelhouse = directory.join("wheelhouse");
    if let Err(reason) = download(&wheelhouse) {
        println!("LEFT OUT: the package for Python: {reason}");
        return Ok(None);
    }
    let folder = directory.join("venv");
    let _ = fs::remove_dir_all(&folder);
    if let Err(reason) = command("python3").args(["-m", "venv"]).args([&folder]).run() {
        println!("LEFT OUT: the package for Python: {reason}");
        return Ok(None);
    }
    let program = Program::read(built("kinesis-streaming").into())?;
    let wheel = build_wheel(&program, &directory.join("packages"), Some(&wheelhouse))?;
    let pip = || {
        let python = folder.join("bin/python").to_string_lossy().into_owned();
        let pip = command(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]);
        pip.args(["--no-index", "--find-links"]).args([&wheelhouse])
    };
    pip().args([&wheel]).run()?;
    // Editable, because only that build of the client needs no jars from Maven. It adds a folder to its sources.
    pip().args(["--editable"]).args([client]).run()?;
    Ok(Some(PythonEnvironment { folder, wheel }))
}

fn download(wheelhouse: &Path) -> Outcome {
    let count = fs::read_dir(wheelhouse).map_or(0, Iterator::count);
    // The tools depend on other packages.
    if count > PYTHON_TOOLS.len() {
        return Ok(());
    }
    command("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "--dest",
        ])
        .args([wheelhouse])
        .args(PYTHON_TOOLS)
        .run()
}

/// Creates a folder with our packages beside a copy of the client, which is in this folder `node_modules`.
pub(crate) fn node(directory: &Path, client: &Path) -> Outcome<PathBuf> {
    let program = Program::read(built("kinesis-streaming").into())?;
    let NpmPackages { main, platform } = build_npm_packages(&program, &directory.join("packages"))?;
    let folder = directory.join("npm");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for file in ["package.json", "package-lock.json"] {
        let source = client.join(file);
        fs::copy(&source, folder.join(file)).map_err(|error| format!("{}: {error}", source.display()))?;
    }
    command("cp").args(["-R"]).args([client.join("node_modules"), folder.join("node_modules")]).run()?;
    // Without the network: nothing but the two archives is needed.
    command("npm")
        .args(["install", "--offline", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"])
        .args([&folder, &main, &platform])
        .run()?;
    Ok(folder)
}
