//! The public surface of each library crate, as one text file per crate in `docs/api`.
//!
//! A change of the surface shows up as a change of these files. They are read from the source, without a build: re-exports are
//! followed; `#[doc(hidden)]` items and items of the feature `internals` are left out.

mod crate_source;
mod signature;
mod surface;

use std::fs;

use crate::process::{Outcome, root};

/// Where the files are.
const FOLDER: &str = "docs/api";

/// The first lines of each file.
const HEAD: &str = "# Written by `cargo xtask api`; do not edit.\n\n";

/// Writes the files, and removes those of crates that no longer exist.
pub(crate) fn write() -> Outcome {
    let folder = root().join(FOLDER);
    fs::create_dir_all(&folder).map_err(|error| format!("{FOLDER}: {error}"))?;
    let crates = library_crates()?;
    for name in &crates {
        let text = text_of(name)?;
        let path = folder.join(format!("{name}.txt"));
        fs::write(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{FOLDER}/{name}.txt: {} lines", text.lines().count());
    }
    for name in stale(&crates)? {
        fs::remove_file(folder.join(&name)).map_err(|error| format!("{FOLDER}/{name}: {error}"))?;
        println!("{FOLDER}/{name}: removed, there is no such crate");
    }
    Ok(())
}

/// Fails unless every file is up to date.
pub(crate) fn check() -> Outcome {
    let faults = faults()?;
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// One line for each file that is not up to date.
pub(crate) fn faults() -> Outcome<Vec<String>> {
    let crates = library_crates()?;
    let mut faults = Vec::new();
    for name in &crates {
        let written = fs::read_to_string(root().join(FOLDER).join(format!("{name}.txt"))).unwrap_or_default();
        if let Some(difference) = first_difference(&written, &text_of(name)?) {
            faults.push(format!("{FOLDER}/{name}.txt: not up to date, run `cargo xtask api`; {difference}"));
        }
    }
    faults.extend(stale(&crates)?.iter().map(|name| format!("{FOLDER}/{name}: there is no such crate")));
    Ok(faults)
}

/// The folders in `crates/`, each named as its crate.
fn library_crates() -> Outcome<Vec<String>> {
    let listed = fs::read_dir(root().join("crates")).map_err(|error| format!("crates: {error}"))?;
    let is_library = |name: &String| root().join("crates").join(name).join("src/lib.rs").is_file();
    let names = listed.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.filter(is_library).collect();
    names.sort();
    Ok(names)
}

/// Files of crates that no longer exist.
fn stale(crates: &[String]) -> Outcome<Vec<String>> {
    let Ok(listed) = fs::read_dir(root().join(FOLDER)) else { return Ok(Vec::new()) };
    let names = listed.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let is_stale =
        |name: &String| !name.strip_suffix(".txt").is_some_and(|name| crates.contains(&name.to_owned()));
    let mut names: Vec<String> = names.filter(is_stale).collect();
    names.sort();
    Ok(names)
}

fn text_of(name: &str) -> Outcome<String> {
    let source = crate_source::read(&root().join("crates").join(name).join("src/lib.rs"))?;
    let lines = surface::lines(&name.replace('-', "_"), &source);
    Ok(format!("{HEAD}{}\n", lines.join("\n")))
}

/// The first line that only one of the texts has at its place.
fn first_difference(written: &str, current: &str) -> Option<String> {
    if written == current {
        return None;
    }
    let (mut old, mut new) = (written.lines(), current.lines());
    loop {
        match (old.next(), new.next()) {
            (old, new) if old == new && old.is_some() => {}
            (old, new) => return Some(format!("{:?} is now {:?}", old.unwrap_or(""), new.unwrap_or(""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_shown() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n").unwrap(), "\"b\" is now \"c\"");
        assert_eq!(first_difference("a\n", "a\nc\n").unwrap(), "\"\" is now \"c\"");
    }

    #[test]
    fn the_facade_shows_what_it_re_exports() {
        let text = text_of("lease-store").unwrap();
        assert!(text.contains("pub trait lease_store::LeaseStore"), "{text}");
    }
}
