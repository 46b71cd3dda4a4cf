//! Builds test programs and reads from cargo's messages where they are.

use std::path::PathBuf;

use serde_json::Value;

use crate::process::{Outcome, cargo};

/// A test program that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TestProgram {
    /// The package.
    pub(super) package: String,
    /// The name of the target: a library, a program or a file in `tests/`.
    pub(super) target: String,
    /// `lib`, `bin`, `test`, ...
    pub(super) kind: String,
    /// The path of the program.
    pub(super) executable: PathBuf,
    /// The folder of the package, where cargo runs its tests.
    pub(super) directory: PathBuf,
}

impl TestProgram {
    /// The name in reports: `receiver unit tests`, `receiver test balancing`.
    pub(super) fn title(&self) -> String {
        match self.kind.as_str() {
            "test" => format!("{} test {}", self.package, self.target),
            "bin" => format!("{} bin {}", self.package, self.target),
            _ => format!("{} unit tests", self.package),
        }
    }

    /// Whether it has the unit tests of this package's library.
    pub(super) fn is_library_of(&self, package: &str) -> bool {
        self.package == package && self.kind == "lib"
    }

    /// The command that runs this program alone.
    pub(super) fn command(&self) -> String {
        match self.kind.as_str() {
            "test" => format!("cargo test -p {} --test {}", self.package, self.target),
            "bin" => format!("cargo test -p {} --bin {}", self.package, self.target),
            _ => format!("cargo test -p {} --lib", self.package),
        }
    }
}

/// Builds the test programs of the packages. cargo shows its progress and the compiler's messages as usual.
pub(super) fn build(packages: &str) -> Outcome<Vec<TestProgram>> {
    let mut programs = Vec::new();
    let words = format!("test --no-run --message-format=json-render-diagnostics {packages}");
    cargo(&words).for_each_line(|line| programs.extend(test_program(line)))?;
    programs.sort_by_key(TestProgram::title);
    Ok(programs)
}

/// The test program that a message of cargo reports; `None` for every other message.
fn test_program(line: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let executable = PathBuf::from(message["executable"].as_str()?);
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    Some(TestProgram {
        package: package_name(message["package_id"].as_str()?).to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        executable,
        directory: manifest.parent()?.to_owned(),
    })
}

/// The name in a package id: `path+file:///x/tests#end-to-end-tests@0.1.0`, or `path+file:///x/receiver#0.1.0` where the folder
/// has the package's name.
fn package_name(id: &str) -> &str {
    let (path, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_read_from_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/crates/receiver#kinesis-receiver@0.1.0",
            "manifest_path":"/x/crates/receiver/Cargo.toml","target":{"kind":["test"],"name":"balancing"},
            "profile":{"test":true},"executable":"/x/target/debug/deps/balancing-1"}"#;
        let program = test_program(message).unwrap();
        assert_eq!(program.title(), "kinesis-receiver test balancing");
        assert_eq!(program.command(), "cargo test -p kinesis-receiver --test balancing");
        assert_eq!(program.directory, PathBuf::from("/x/crates/receiver"));
        let library = message.replace("\"test\":true", "\"test\":false");
        assert_eq!(test_program(&library), None);
        assert_eq!(test_program("a line of something else"), None);
    }

    #[test]
    fn a_package_id_names_its_package() {
        assert_eq!(package_name("path+file:///x/tests#end-to-end-tests@0.1.0"), "end-to-end-tests");
        assert_eq!(package_name("path+file:///x/crates/receiver#0.1.0"), "receiver");
    }
}
