//! The real Java KCL next to our receiver: installs it into `target/interop` and runs the test.

use std::path::{Path, PathBuf};

use crate::process::{Outcome, command, root};
use crate::testing;

/// The package that holds the Java KCL 3.1.3 and all jars it needs, with its exact version.
const PACKAGE: &str = "kclpy-ext";
const PACKAGE_VERSION: &str = "3.1.3.post4";

/// The folder of the jars in the package, and the jar whose presence shows that the package is complete.
const JARS: &str = "amazon_kclpy/jars";
const KCL_JAR: &str = "amazon-kinesis-client-3.1.3.jar";

/// The oldest Java that is known to run it.
const JAVA_VERSION: u32 = 17;

/// The size of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// 110,000 records, with fleets that replace each other, a fleet that moves itself to 3.x mode, and operations on tables of the
    /// KCL.
    Full,
    /// 13,000 records, in about a minute.
    Short,
}

impl Form {
    fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Full => &["interop_kcl_full", "interop_kcl_3x_mode", "interop_kcl_moves_itself_to_3x_mode"],
            Self::Short => &["interop_kcl_short", "interop_kcl_3x_mode"],
        }
    }
}

/// Installs the KCL unless it is there, and runs the test. Fails without Java or Python.
pub(crate) fn run(form: Form) -> Outcome {
    if let Some(missing) = missing() {
        return Err(format!("interop runs the real Java KCL: {missing}"));
    }
    let jars = install()?;
    testing::build_with_aws()?;
    println!("running {}, one after the other ...", form.tests().join(" and "));
    testing::with_aws("interop_kcl --")
        .args(["--nocapture", "--test-threads", "1", "--exact"])
        .args(form.tests())
        .env("KCL_JARS_DIR", &jars)
        .run()?;
    if form == Form::Short {
        return Ok(());
    }
    println!("running the operations on tables of the KCL, in 2.x mode and in 3.x mode ...");
    testing::with_aws("interop_operations --")
        .args(["--nocapture", "--test-threads", "2"])
        .env("KCL_JARS_DIR", jars)
        .run()
}

/// Runs the short form; without Java or Python it prints why it is left out.
pub(crate) fn run_short_where_possible() -> Outcome {
    match missing() {
        None => run(Form::Short),
        Some(missing) => {
            println!("LEFT OUT: the Java KCL as a peer: {missing}");
            Ok(())
        }
    }
}

/// The first program that this machine lacks, with the reason why it is needed.
pub(crate) fn missing() -> Option<String> {
    if let Err(error) = command("python3").args(["-m", "pip", "--version"]).output() {
        return Some(format!("Python 3 with pip is needed to install it: {error}"));
    }
    match command("java").args(["--version"]).output() {
        Err(error) => Some(format!("Java {JAVA_VERSION} or newer is needed: {error}")),
        Ok(output) => match java_version(&output) {
            Some(version) if version >= JAVA_VERSION => None,
            _ => {
                let found = output.lines().next().unwrap_or_default();
                Some(format!("Java {JAVA_VERSION} or newer is needed, found {found:?}"))
            }
        },
    }
}

/// The major version in the output of `java --version`: `openjdk 17.0.15 2025-04-15`.
fn java_version(output: &str) -> Option<u32> {
    output.split_whitespace().nth(1)?.split(['.', '-', '+']).next()?.parse().ok()
}

/// Downloads the package and unpacks it unless it is there. Returns the folder of the jars.
pub(crate) fn install() -> Outcome<PathBuf> {
    let directory = root().join("target/interop");
    let unpacked = directory.join(format!("{PACKAGE}-{PACKAGE_VERSION}"));
    let jars = unpacked.join(JARS);
    if jars.join(KCL_JAR).is_file() {
        return Ok(jars);
    }
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    // Without dependencies: those are Python packages, and only the jars are used here.
    command("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--dest"])
        .args([&directory])
        .args([format!("{PACKAGE}=={PACKAGE_VERSION}")])
        .run()?;
    // Unpacked next to its final folder and renamed, so that an interrupted run leaves no incomplete folder.
    let unpacking = directory.join("unpacking");
    let _ = std::fs::remove_dir_all(&unpacking);
    command("python3").args(["-m", "zipfile", "-e"]).args([wheel(&directory)?, unpacking.clone()]).run()?;
    let _ = std::fs::remove_dir_all(&unpacked);
    std::fs::rename(&unpacking, &unpacked).map_err(|error| format!("{}: {error}", unpacked.display()))?;
    if jars.join(KCL_JAR).is_file() {
        return Ok(jars);
    }
    Err(format!("{PACKAGE} {PACKAGE_VERSION} has no {KCL_JAR} in {}", jars.display()))
}

fn wheel(directory: &Path) -> Outcome<PathBuf> {
    let prefix = format!("{}-{PACKAGE_VERSION}-", PACKAGE.replace('-', "_"));
    let entries =
        std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_wheel = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && name.ends_with(".whl")
    };
    paths.find(is_wheel).ok_or_else(|| format!("no {prefix}*.whl in {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::java_version;

    #[test]
    fn reads_the_version_of_java() {
        assert_eq!(java_version("openjdk 17.0.15 2025-04-15\nOpenJDK Runtime Environment"), Some(17));
        assert_eq!(java_version("java 21 2023-09-19 LTS"), Some(21));
        assert_eq!(java_version("openjdk 22-ea 2024-03-19"), Some(22));
        assert_eq!(java_version("no such option"), None);
    }
}
