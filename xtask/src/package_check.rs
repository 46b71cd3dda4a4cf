//! Packages the crates that are published, and builds each from its package: `cargo xtask package-check`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::process::{Outcome, cargo};

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The working tree, as in `ci`.
    WorkingTree,
    /// A release: nothing is uncommitted, and no placeholder is left.
    Release,
}

/// The domain of addresses that are placeholders (RFC 2606).
const PLACEHOLDER: &str = ".example";

/// The text of the licence in each package.
const LICENSE_FILE: &str = "LICENSE";

/// The most keywords of a package (crates.io).
const MAX_KEYWORDS: usize = 5;

/// A package of the workspace that is published.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    manifest: Value,
    /// The text of its README.
    readme: Option<String>,
    /// Whether its folder has the text of the licence, which distributions of Linux ask for.
    has_license_file: bool,
}

/// Checks the manifests, and packages and builds every published crate.
pub(crate) fn run(form: Form) -> Outcome {
    let packages = published()?;
    let mut faults: Vec<String> = packages.iter().flat_map(faults).collect();
    if form == Form::Release {
        faults.extend(packages.iter().filter_map(placeholder));
    }
    if !faults.is_empty() {
        return Err(format!("the packages have {} faults:\n{}", faults.len(), faults.join("\n")));
    }
    let order = publish_order(&packages)?;
    println!("publish in this order: {}", order.join(" "));
    let selection = order.iter().flat_map(|name| ["--package", name]);
    let command = cargo("package --quiet --locked").args(selection);
    let command = if form == Form::Release { command } else { command.args(["--allow-dirty"]) };
    // As in the profile of the workspace, which a packaged crate does not see: third-party crates are built once for both.
    command.env("CARGO_PROFILE_DEV_DEBUG", "false").run()
}

fn published() -> Outcome<Vec<Package>> {
    let metadata = cargo("metadata --no-deps --format-version 1").output()?;
    let metadata: Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    // `publish = false` is an empty list of registries.
    let packages = packages.into_iter().filter(|package| !package["publish"].is_array());
    packages
        .map(|manifest| {
            let text = |key: &str| manifest[key].as_str().map(str::to_owned);
            let name = text("name").ok_or("cargo metadata has a package without a name")?;
            let folder =
                text("manifest_path").map(PathBuf::from).and_then(|path| path.parent().map(PathBuf::from));
            let has_license_file = folder.as_ref().is_some_and(|folder| folder.join(LICENSE_FILE).is_file());
            let path = folder.zip(text("readme")).map(|(folder, readme)| folder.join(readme));
            let readme = path.and_then(|path| fs::read_to_string(path).ok());
            Ok(Package { name, manifest, readme, has_license_file })
        })
        .collect()
}

/// What a package lacks for its page on crates.io and docs.rs.
fn faults(package: &Package) -> Vec<String> {
    let Package { name, manifest, readme, has_license_file } = package;
    let mut faults = Vec::new();
    if !has_license_file {
        faults.push(format!("{name}: no file {LICENSE_FILE}; link the one of the workspace into its folder"));
    }
    for key in ["description", "license", "repository", "readme", "rust_version"] {
        if manifest[key].as_str().is_none_or(str::is_empty) {
            faults.push(format!("{name}: no {key} in its Cargo.toml"));
        }
    }
    let keywords = manifest["keywords"].as_array().map_or(0, Vec::len);
    if !(1..=MAX_KEYWORDS).contains(&keywords) {
        faults.push(format!("{name}: {keywords} keywords; crates.io takes 1 to {MAX_KEYWORDS}"));
    }
    if manifest["metadata"]["docs"]["rs"]["features"].as_array().is_none() {
        faults.push(format!("{name}: [package.metadata.docs.rs] names no features"));
    }
    let readme = readme.as_deref().unwrap_or_default();
    let features = manifest["features"].as_object().into_iter().flat_map(|features| features.keys());
    for feature in features.filter(|feature| *feature != "default") {
        if !readme.contains(&format!("`{feature}`")) {
            faults.push(format!("{name}: its README does not document the feature `{feature}`"));
        }
    }
    faults
}

fn placeholder(package: &Package) -> Option<String> {
    let address = package.manifest["repository"].as_str()?;
    let host = address.split("://").nth(1)?.split('/').next()?;
    host.ends_with(PLACEHOLDER).then(|| {
        let name = &package.name;
        format!("{name}: the repository {address} is a placeholder; set it in [workspace.package]")
    })
}

/// The packages in an order in which each one follows those that it depends on.
fn publish_order(packages: &[Package]) -> Outcome<Vec<String>> {
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut open: BTreeMap<&str, BTreeSet<&str>> = packages
        .iter()
        .map(|package| {
            let dependencies = package.manifest["dependencies"].as_array().into_iter().flatten();
            // Dependencies of tests are left out of a package if they have no version.
            let dependencies = dependencies.filter(|dependency| dependency["kind"] != "dev");
            let found = dependencies.filter_map(|dependency| dependency["name"].as_str());
            (package.name.as_str(), found.filter(|found| names.contains(found)).collect())
        })
        .collect();
    let mut order = Vec::new();
    while let Some(next) = open.iter().find(|(_, needed)| needed.is_empty()).map(|(name, _)| *name) {
        open.remove(next);
        for needed in open.values_mut() {
            needed.remove(next);
        }
        order.push(next.to_owned());
    }
    if open.is_empty() { Ok(order) } else { Err(format!("these packages depend on each other: {open:?}")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|name| json!({ "name": name, "kind": null })).collect();
        let manifest = json!({
            "description": "d", "license": "l", "repository": "https://git.example/x", "readme": "README.md",
            "rust_version": "1.95", "keywords": ["k"], "metadata": { "docs": { "rs": { "features": [] } } },
            "features": { "default": [], "extra": [] }, "dependencies": dependencies,
        });
        let readme = Some("the feature `extra`".to_owned());
        Package { name: name.to_owned(), manifest, readme, has_license_file: true }
    }

    #[test]
    fn packages_follow_those_that_they_depend_on() {
        let packages =
            [package("top", &["middle", "tokio"]), package("middle", &["zero"]), package("zero", &[])];
        assert_eq!(
            publish_order(&packages),
            Ok(vec!["zero".to_owned(), "middle".to_owned(), "top".to_owned()])
        );
        assert!(publish_order(&[package("a", &["b"]), package("b", &["a"])]).is_err());
    }

    #[test]
    fn missing_fields_and_undocumented_features_are_faults() {
        let whole = package("whole", &[]);
        assert_eq!(faults(&whole), Vec::<String>::new());
        assert!(placeholder(&whole).is_some());
        let mut lacking = Package { readme: None, has_license_file: false, ..whole };
        lacking.manifest["license"] = Value::Null;
        lacking.manifest["keywords"] = json!([]);
        assert_eq!(faults(&lacking).len(), 4);
    }
}
