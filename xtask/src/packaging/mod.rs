//! The program `kinesis-streaming` as packages of other languages: a wheel for Python and packages for npm. Nothing is published.

mod npm;
mod platform;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};

use self::platform::{Platform, glibc_version};
use crate::process::{Outcome, built_in, cargo, command, root, target_directory};

/// The name of the program.
const PROGRAM: &str = "kinesis-streaming";

/// The version of all packages: that of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program that is built, and the platform that it runs on.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    platform: Platform,
}

impl Program {
    /// Reads the platform of a program that the compiler of this machine has built for it.
    pub(crate) fn read(path: PathBuf) -> Outcome<Self> {
        let versions = command("rustc").args(["--version", "--verbose"]).output()?;
        let target = versions.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let platform = Platform::of(target, glibc_version(&bytes))?;
        Ok(Self { path, platform })
    }
}

/// The packages for npm: the main one, and the one with the program.
#[derive(Debug)]
pub(crate) struct NpmPackages {
    pub(crate) main: PathBuf,
    pub(crate) platform: PathBuf,
}

/// Builds the program as it is released: without symbols, which make it several times larger.
pub(crate) fn build_program() -> Outcome {
    cargo("build --release --locked --package kinesis-command --bin kinesis-streaming")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .run()
}

/// Builds the release program and both kinds of packages in `target/packages`. A kind whose tools are missing is left out, with
/// the reason.
pub(crate) fn run() -> Outcome {
    build_program()?;
    let program = Program::read(built_in("release", PROGRAM).into())?;
    let directory = target_directory().join("packages");
    let mut built = Vec::new();
    match wheel::missing() {
        None => built.push(build_wheel(&program, &directory, None)?),
        Some(missing) => println!("LEFT OUT: the wheel for Python: {missing}"),
    }
    match npm::missing() {
        None => {
            let NpmPackages { main, platform } = build_npm_packages(&program, &directory)?;
            built.extend([main, platform]);
        }
        Some(missing) => println!("LEFT OUT: the packages for npm: {missing}"),
    }
    for package in &built {
        println!("{}", package.display());
    }
    if built.is_empty() {
        Err("no package was built; install Python 3 with pip, or npm".to_owned())
    } else {
        Ok(())
    }
}

/// Builds the wheel. `wheelhouse`: a folder with all wheels that the build needs; `None`: they are downloaded.
pub(crate) fn build_wheel(
    program: &Program,
    directory: &Path,
    wheelhouse: Option<&Path>,
) -> Outcome<PathBuf> {
    wheel::build(program, &fresh(directory, "wheel")?, wheelhouse)
}

/// Builds the packages for npm.
pub(crate) fn build_npm_packages(program: &Program, directory: &Path) -> Outcome<NpmPackages> {
    npm::build(program, &fresh(directory, "npm")?)
}

/// An empty folder.
fn fresh(directory: &Path, name: &str) -> Outcome<PathBuf> {
    let folder = directory.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Copies a folder of sources, and the licence beside them.
fn stage(name: &str, target: &Path) -> Outcome {
    copy_folder(&root().join("packaging").join(name), target)?;
    copy(&root().join("LICENSE"), &target.join("LICENSE"))
}

fn copy_folder(source: &Path, target: &Path) -> Outcome {
    let fault = |error: std::io::Error| format!("{}: {error}", source.display());
    fs::create_dir_all(target).map_err(fault)?;
    for entry in fs::read_dir(source).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let Some(name) = path.file_name() else { continue };
        match path.is_dir() {
            // What Python leaves behind when it imports a module.
            true if name == "__pycache__" => {}
            true => copy_folder(&path, &target.join(name))?,
            false => copy(&path, &target.join(name))?,
        }
    }
    Ok(())
}

/// Copies a file with its permissions.
fn copy(source: &Path, target: &Path) -> Outcome {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::copy(source, target)
        .map(drop)
        .map_err(|error| format!("{} to {}: {error}", source.display(), target.display()))
}

/// The only file of a folder with this extension.
fn only_file(folder: &Path, extension: &str) -> Outcome<PathBuf> {
    let fault = |error: std::io::Error| format!("{}: {error}", folder.display());
    let paths = fs::read_dir(folder).map_err(fault)?.flatten().map(|entry| entry.path());
    let mut found = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        _ => Err(format!("{}: not exactly one file with the extension {extension}", folder.display())),
    }
}
