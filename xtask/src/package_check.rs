//! Packages the crates that are published, and builds each from its package: `cargo xtask package-check`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::process::{Outcome, cargo, command, root, target_directory};

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
    let command = cargo("package --quiet --locked --no-verify").args(selection);
    let command = if form == Form::Release { command } else { command.args(["--allow-dirty"]) };
    command.run()?;
    let folder = unpack(&packages)?;
    for name in &order {
        // Third-party crates have the features of the whole workspace, so that they are compiled once for all checks.
        cargo("check --quiet --package third-party --package")
            .args([name.as_str(), "--manifest-path", &folder.join("Cargo.toml").to_string_lossy()])
            .env("CARGO_TARGET_DIR", target_directory())
            .run()?;
    }
    println!("{} packages compile, each as it was packaged", order.len());
    Ok(())
}

/// Unpacks the packages into a workspace of their own, in which they find each other as if they were published.
fn unpack(packages: &[Package]) -> Outcome<PathBuf> {
    let packaged = target_directory().join("package");
    let folder = target_directory().join("package-check");
    let describe = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(describe)?;
    }
    fs::create_dir_all(&folder).map_err(describe)?;
    let mut members = vec!["third-party".to_owned()];
    let mut published = String::new();
    for package in packages {
        let member = format!("{}-{}", package.name, package.manifest["version"].as_str().unwrap_or_default());
        let archive = packaged.join(format!("{member}.crate"));
        command("tar").args(["-xzf"]).args([&archive]).args(["-C"]).args([&folder]).output()?;
        published += &format!("{} = {{ path = \"{member}\" }}\n", package.name);
        members.push(member);
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).map_err(describe)?;
    fs::write(folder.join("Cargo.toml"), workspace_manifest(&workspace, &members, &published)?)
        .map_err(describe)?;
    // The same versions as in the repository.
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).map_err(describe)?;
    let third_party = root().join("tests/third-party");
    for file in ["Cargo.toml", "src/lib.rs"] {
        let copy = folder.join("third-party").join(file);
        fs::create_dir_all(copy.parent().unwrap_or(&folder)).map_err(describe)?;
        fs::copy(third_party.join(file), copy).map_err(describe)?;
    }
    Ok(folder)
}

/// The manifest of the workspace of packages: that of the repository with other members, and with the packages in the place of the
/// registry.
fn workspace_manifest(repository: &str, members: &[String], published: &str) -> Outcome<String> {
    let package = repository.find("[workspace.package]").ok_or("Cargo.toml has no [workspace.package]")?;
    // The packages are no members here by their paths in the repository, so their lines would point to nothing.
    let rest = repository[package..].lines().filter(|line| !line.contains("path = \"crates/"));
    let rest: Vec<&str> = rest.collect();
    Ok(format!(
        "[workspace]\nresolver = \"3\"\nmembers = {members:?}\n\n[patch.crates-io]\n{published}\n{}\n",
        rest.join("\n")
    ))
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
    fn packages_take_the_place_of_the_registry() {
        let repository = "[workspace]\nmembers = [\"crates/*\"]\n[workspace.package]\nversion = \"1\"\n\
            [workspace.dependencies]\na = { path = \"crates/a\" }\nbytes = \"1\"\n[profile.dev]\ndebug = false\n";
        let manifest =
            workspace_manifest(repository, &["a-1".to_owned()], "a = { path = \"a-1\" }\n").unwrap();
        assert_eq!(
            manifest,
            "[workspace]\nresolver = \"3\"\nmembers = [\"a-1\"]\n\n[patch.crates-io]\na = { path = \"a-1\" }\n\n\
             [workspace.package]\nversion = \"1\"\n[workspace.dependencies]\nbytes = \"1\"\n[profile.dev]\ndebug = false\n"
        );
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
