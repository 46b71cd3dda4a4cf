//! The packages for npm: the main one with an optional dependency for each platform, and the one for the platform of the program.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{NpmPackages, PROGRAM, Program, VERSION, copy, only_file, stage};
use crate::process::{Outcome, command};

/// Why no packages can be built here.
pub(super) fn missing() -> Option<String> {
    command("npm").args(["--version"]).output().err()
}

/// Builds both packages in an empty folder.
pub(super) fn build(program: &Program, directory: &Path) -> Outcome<NpmPackages> {
    let main = directory.join("main");
    stage("npm", &main)?;
    let manifest = main.join("package.json");
    let text = fs::read_to_string(&manifest).map_err(|error| format!("{}: {error}", manifest.display()))?;
    let template: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", manifest.display()))?;
    let name = format!("@{PROGRAM}/{}", program.platform.npm);
    write_manifest(&main, &with_version(template.clone()))?;

    let platform = directory.join("platform");
    copy(&program.path, &platform.join("bin").join(PROGRAM))?;
    copy(&main.join("LICENSE"), &platform.join("LICENSE"))?;
    write_manifest(&platform, &platform_manifest(&name, program, &template))?;
    Ok(NpmPackages { main: pack(&main)?, platform: pack(&platform)? })
}

/// The manifest of the main package with the version of the workspace, also for the packages that it depends on.
fn with_version(mut manifest: Value) -> Value {
    manifest["version"] = VERSION.into();
    if let Some(dependencies) = manifest["optionalDependencies"].as_object_mut() {
        dependencies.values_mut().for_each(|version| *version = VERSION.into());
    }
    manifest
}

fn platform_manifest(name: &str, program: &Program, main: &Value) -> Value {
    let platform = &program.platform;
    let mut manifest = json!({
        "name": name,
        "version": VERSION,
        "description": format!("The program {PROGRAM} for {}", platform.npm),
        "license": main["license"],
        "os": [platform.os],
        "cpu": [platform.cpu],
        "files": ["bin"],
        // Yarn keeps such a package outside its archives, so that the program can be started.
        "preferUnplugged": true,
    });
    if let Some(libc) = platform.libc {
        manifest["libc"] = json!([libc]);
    }
    manifest
}

fn write_manifest(folder: &Path, manifest: &Value) -> Outcome {
    let path = folder.join("package.json");
    fs::write(&path, format!("{manifest:#}\n")).map_err(|error| format!("{}: {error}", path.display()))
}

/// Packs a folder into an archive inside it.
fn pack(folder: &Path) -> Outcome<PathBuf> {
    command("npm").args(["pack", "--silent", "--pack-destination"]).args([folder, folder]).run()?;
    only_file(folder, "tgz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_packages_agree() {
        let template = include_str!("../../../packaging/npm/package.json");
        let manifest = with_version(serde_json::from_str(template).unwrap());
        assert_eq!(manifest["version"], VERSION);
        let dependencies = manifest["optionalDependencies"].as_object().unwrap();
        assert!(!dependencies.is_empty() && dependencies.values().all(|version| version == VERSION));
    }
}
