//! Which packages differ from the main branch, and which packages depend on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{Outcome, cargo, command, root};
use crate::source_tree;

/// Branches that a change is compared with; the first that exists counts.
const MAIN_BRANCHES: [&str; 3] = ["origin/HEAD", "origin/main", "main"];

/// Files outside a package that its tests read.
const READ_BY_TESTS: [(&str, &str); 7] = [
    ("docs/balancing.md", "kinesis-receiver"),
    ("docs/configuration.md", "end-to-end-tests"),
    ("docs/cost.md", "end-to-end-tests"),
    ("docs/daemon.md", "kinesis-multilang"),
    ("docs/getting-started.md", "end-to-end-tests"),
    ("fuzz/corpus", "fuzzing"),
    ("tests/mutations", "xtask"),
];

/// Files that change every package.
const READ_BY_ALL: [&str; 3] = ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"];

/// A package of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    /// The folder, relative to the root.
    folder: PathBuf,
    /// The folders of the packages that it depends on, relative to the root.
    dependencies: Vec<PathBuf>,
}

/// The packages that changed, with all that depend on them.
pub(super) fn affected_packages() -> Outcome<BTreeSet<String>> {
    let packages = packages()?;
    let files = changed_files()?;
    let changed = changed_packages(&packages, &files);
    let affected = with_dependents(&packages, &changed);
    let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    println!("changed: {}; affected: {}", list(&changed), list(&affected));
    Ok(affected)
}

fn packages() -> Outcome<Vec<Package>> {
    let metadata = cargo("metadata --format-version 1 --no-deps").output()?;
    let metadata: Value =
        serde_json::from_str(&metadata).map_err(|error| format!("`cargo metadata`: {error}"))?;
    let relative = |path: &str| Path::new(path).strip_prefix(root()).unwrap_or(Path::new(path)).to_owned();
    let package = |package: &Value| {
        let manifest = relative(package["manifest_path"].as_str()?);
        let dependencies = package["dependencies"].as_array()?.iter();
        Some(Package {
            name: package["name"].as_str()?.to_owned(),
            folder: manifest.parent()?.to_owned(),
            dependencies: dependencies
                .filter_map(|dependency| dependency["path"].as_str())
                .map(relative)
                .collect(),
        })
    };
    Ok(metadata["packages"].as_array().into_iter().flatten().filter_map(package).collect())
}

/// Files that differ from the main branch: committed, uncommitted and new ones.
fn changed_files() -> Outcome<BTreeSet<String>> {
    if !source_tree::is_clone() {
        return Err("this folder is no clone, so no change can be told; run `cargo xtask test`".to_owned());
    }
    let mut files = BTreeSet::new();
    let mut add = |listed: String| files.extend(listed.lines().map(str::to_owned));
    add(command("git").args(["diff", "--name-only", "HEAD"]).output()?);
    add(command("git").args(["ls-files", "--others", "--exclude-standard"]).output()?);
    let base = MAIN_BRANCHES
        .iter()
        .find_map(|branch| command("git").args(["merge-base", "HEAD", branch]).output().ok());
    if let Some(base) = base {
        add(command("git").args(["diff", "--name-only", base.trim(), "HEAD"]).output()?);
    }
    Ok(files)
}

fn changed_packages(packages: &[Package], files: &BTreeSet<String>) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    for file in files {
        if READ_BY_ALL.contains(&file.as_str()) {
            changed.extend(packages.iter().map(|package| package.name.clone()));
        }
        let readers = READ_BY_TESTS.iter().filter(|(path, _)| Path::new(file).starts_with(path));
        changed.extend(readers.map(|(_, reader)| (*reader).to_owned()));
        // The innermost folder counts: `tests/models` is in `tests`.
        let owner = packages.iter().filter(|package| Path::new(file).starts_with(&package.folder));
        let owner = owner.max_by_key(|package| package.folder.components().count());
        changed.extend(owner.map(|package| package.name.clone()));
    }
    changed
}

fn with_dependents(packages: &[Package], changed: &BTreeSet<String>) -> BTreeSet<String> {
    let names: BTreeMap<&Path, &str> =
        packages.iter().map(|package| (package.folder.as_path(), package.name.as_str())).collect();
    let mut affected = changed.clone();
    loop {
        let is_dependent = |package: &&Package| {
            let mut dependencies =
                package.dependencies.iter().filter_map(|folder| names.get(folder.as_path()));
            !affected.contains(&package.name) && dependencies.any(|name| affected.contains(*name))
        };
        let more: Vec<String> =
            packages.iter().filter(is_dependent).map(|package| package.name.clone()).collect();
        if more.is_empty() {
            return affected;
        }
        affected.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_change_affects_its_package_and_all_dependents() {
        let packages = packages().unwrap();
        let changed = changed_packages(&packages, &names(&["crates/receiver/src/lib.rs"]));
        assert_eq!(changed, names(&["kinesis-receiver"]));
        let affected = with_dependents(&packages, &changed);
        assert!(
            affected.contains("kinesis-streaming") && affected.contains("end-to-end-tests"),
            "{affected:?}"
        );
        assert!(!affected.contains("kinesis-lease-store") && !affected.contains("xtask"), "{affected:?}");
    }

    #[test]
    fn the_innermost_package_owns_a_file() {
        let packages = packages().unwrap();
        let files = names(&["tests/models/src/lib.rs", "README.md", "docs/cost.md"]);
        assert_eq!(changed_packages(&packages, &files), names(&["end-to-end-tests", "models"]));
        assert_eq!(changed_packages(&packages, &names(&["Cargo.lock"])).len(), packages.len());
    }
}
