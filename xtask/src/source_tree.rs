//! The files that belong to the repository, also in an unpacked archive without git.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Outcome, command, root};

/// Folders that are never part of the sources. git knows them from `.gitignore`.
const NOT_SOURCES: [&str; 3] = [".git", "target", "node_modules"];

/// Whether this is a clone. An archive may lie inside another repository, of which git would tell.
pub(crate) fn is_clone() -> bool {
    root().join(".git").exists()
}

/// All files that git tracks or would track, relative to the root, in order. Without git, all files but build output.
pub(crate) fn files() -> Outcome<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = if is_clone() {
        // Names are separated by a zero byte, so that none is quoted.
        let listed =
            command("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).output()?;
        listed.split('\0').filter(|file| !file.is_empty()).map(PathBuf::from).collect()
    } else {
        let mut found = Vec::new();
        collect(&root(), &mut found).map_err(|error| format!("the source tree cannot be listed: {error}"))?;
        found.iter().filter_map(|file| file.strip_prefix(root()).ok().map(Path::to_owned)).collect()
    };
    files.retain(|file| root().join(file).is_file());
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file_type = entry.file_type()?;
        if file_type.is_file() {
            found.push(entry.path());
        } else if file_type.is_dir() && !NOT_SOURCES.iter().any(|name| entry.file_name() == **name) {
            collect(&entry.path(), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways find the sources, and neither finds build output.
    #[test]
    fn sources_are_found_with_and_without_git() {
        let mut walked = Vec::new();
        collect(&root(), &mut walked).expect("the tree can be listed");
        let walked: Vec<&Path> = walked.iter().filter_map(|file| file.strip_prefix(root()).ok()).collect();
        let listed = files().expect("the files are listed");
        for file in ["Cargo.toml", ".ci/run", "xtask/src/source_tree.rs"] {
            assert!(listed.contains(&PathBuf::from(file)), "{file} is not listed");
            assert!(walked.contains(&Path::new(file)), "{file} is not found without git");
        }
        let is_output = |file: &Path| file.components().any(|part| part.as_os_str() == "target");
        assert!(!listed.iter().any(|file| is_output(file)) && !walked.iter().any(|file| is_output(file)));
    }
}
