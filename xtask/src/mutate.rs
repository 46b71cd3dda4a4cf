//! Breaks the code on purpose, one small change at a time, and shows which test notices.
//!
//! A file in `tests/mutations/` lists changes:
//!
//! ```text
//! == the position passes a gap
//! file: crates/shard-worker/src/acknowledgement/window.rs
//! test: -p kinesis-shard-worker --lib window
//! -- find
//! while self.is_marked(self.passed) {
//! -- replace
//! while self.passed < self.marked {
//! ```
//!
//! The text to find is in the file exactly once. `cargo xtask tidy` checks that, so that the lists stay true to the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Outcome, root};
use crate::source_tree;

/// Where the lists are.
const LISTS: &str = "tests/mutations";

/// The document that says which promise a change breaks.
const LEDGER: &str = "docs/promises.md";

/// The time limit of the tests of one change, in seconds: a change can make a loop endless.
const TIME_LIMIT_SECONDS: &str = "400";

/// How many failing tests are named.
const NAMED_TESTS: usize = 3;

/// A change that a test must notice.
#[derive(Debug, Default, Clone)]
struct Mutation {
    /// The name of its list, without the extension.
    list: String,
    name: String,
    file: String,
    test: String,
    find: String,
    replace: String,
}

/// The outcome of a run of tests.
enum Tests {
    Green,
    Failed(BTreeSet<String>),
    /// They exceeded the time limit.
    Endless,
    /// No test ran; the compiler's or cargo's message.
    NotBuilt(String),
}

/// Makes all changes of a list, or those whose name contains the text, one by one in a copy of the tree.
pub(crate) fn run(only: Option<&str>) -> Outcome {
    let mutations = all()?;
    let chosen: Vec<&Mutation> = mutations
        .iter()
        .filter(|mutation| only.is_none_or(|only| mutation.list == only || mutation.name.contains(only)))
        .collect();
    if chosen.is_empty() {
        return Err(format!("there is no list or change {:?} in {LISTS}", only.unwrap_or_default()));
    }
    let tree = root().join("target/mutations/tree");
    copy_tree(&tree)?;
    let tests: BTreeSet<&String> = chosen.iter().map(|mutation| &mutation.test).collect();
    println!(
        "{} changes; first their {} test commands must be green without a change",
        chosen.len(),
        tests.len()
    );
    for (number, test) in tests.iter().enumerate() {
        println!("[{}/{}] building and running `cargo test {test}` ...", number + 1, tests.len());
        if !matches!(run_tests(&tree, test)?, Tests::Green) {
            return Err(format!("`cargo test {test}` must be green without a change"));
        }
    }
    let mut survivors = Vec::new();
    for (number, mutation) in chosen.iter().enumerate() {
        println!("[{}/{}] {} ...", number + 1, chosen.len(), mutation.name);
        let path = tree.join(&mutation.file);
        let original = read(&path)?;
        write(&path, &mutated(mutation, &original)?)?;
        let tests = run_tests(&tree, &mutation.test);
        write(&path, &original)?;
        // Files that the tests wrote, such as failing seeds, must not influence the next change.
        copy_tree(&tree)?;
        match tests? {
            Tests::Failed(tests) => {
                let named: Vec<&str> = tests.iter().take(NAMED_TESTS).map(String::as_str).collect();
                let more = tests.len().saturating_sub(NAMED_TESTS);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                println!("caught    {}: {}{more}", mutation.name, named.join(", "));
            }
            Tests::Endless => println!("caught    {}: its tests exceeded the time limit", mutation.name),
            Tests::Green => {
                println!("SURVIVED  {}", mutation.name);
                survivors.push(mutation.name.as_str());
            }
            Tests::NotBuilt(error) => {
                return Err(format!("{}: no test ran with this change:\n{error}", mutation.name));
            }
        }
    }
    println!("{} of {} changes were caught", chosen.len() - survivors.len(), chosen.len());
    if survivors.is_empty() { Ok(()) } else { Err(format!("no test noticed: {}", survivors.join("; "))) }
}

/// The faults of the lists, one line each.
pub(crate) fn faults() -> Outcome<Vec<String>> {
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    for mutation in all()? {
        if !names.insert(mutation.name.clone()) {
            faults.push(format!("{LISTS}: {} is listed twice", mutation.name));
        }
        let original = read(&root().join(&mutation.file));
        if let Err(fault) = original.and_then(|original| mutated(&mutation, &original)) {
            faults.push(fault);
        }
    }
    // The second column of the ledger names changes, separated by semicolons.
    let ledger = read(&root().join(LEDGER))?;
    let rows = ledger.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let changes = rows.filter_map(|row| row.split(" | ").nth(1)).filter(|changes| *changes != "change");
    for change in changes.flat_map(|changes| changes.split("; ")).filter(|change| *change != "–") {
        if !names.contains(change) {
            faults.push(format!("{LEDGER}: there is no change {change:?} in {LISTS}"));
        }
    }
    Ok(faults)
}

fn mutated(mutation: &Mutation, original: &str) -> Outcome<String> {
    match original.matches(&mutation.find).count() {
        1 => Ok(original.replacen(&mutation.find, &mutation.replace, 1)),
        count => {
            let (name, file) = (&mutation.name, &mutation.file);
            Err(format!(
                "{LISTS}: the text to find of {name:?} is in {file} {count} times; it must be there once"
            ))
        }
    }
}

/// All lists, in the order of their names.
fn all() -> Outcome<Vec<Mutation>> {
    let directory = root().join(LISTS);
    let listed = fs::read_dir(&directory).map_err(|error| format!("{LISTS}: {error}"))?;
    let mut lists: Vec<PathBuf> = listed.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    lists.sort();
    let mut mutations = Vec::new();
    for list in lists {
        let name = list.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        mutations.extend(
            parse(&read(&list)?).into_iter().map(|mutation| Mutation { list: name.clone(), ..mutation }),
        );
    }
    Ok(mutations)
}

fn parse(text: &str) -> Vec<Mutation> {
    let mut mutations: Vec<Mutation> = Vec::new();
    let mut part = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            mutations.push(Mutation { name: name.to_owned(), ..Mutation::default() });
            part = "";
            continue;
        }
        let Some(mutation) = mutations.last_mut() else { continue };
        match (part, line) {
            (_, "-- find") => part = "find",
            (_, "-- replace") => part = "replace",
            ("find", line) => push_line(&mut mutation.find, line),
            ("replace", line) => push_line(&mut mutation.replace, line),
            (_, line) => {
                if let Some(file) = line.strip_prefix("file: ") {
                    file.clone_into(&mut mutation.file);
                } else if let Some(test) = line.strip_prefix("test: ") {
                    test.clone_into(&mut mutation.test);
                }
            }
        }
    }
    for mutation in &mut mutations {
        // Blank lines before the next change are not part of this one.
        mutation.replace.truncate(mutation.replace.trim_end().len());
    }
    mutations
}

fn push_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

/// Copies all files of the repository. Files that are the same keep their time, so that cargo does not rebuild them.
fn copy_tree(tree: &Path) -> Outcome {
    let mut wanted = BTreeMap::new();
    for file in source_tree::files()? {
        let bytes = fs::read(root().join(&file)).map_err(|error| format!("{}: {error}", file.display()))?;
        wanted.insert(file, bytes);
    }
    remove_others(tree, tree, &wanted)?;
    for (file, bytes) in &wanted {
        let path = tree.join(file);
        if fs::read(&path).is_ok_and(|there| there == *bytes) {
            continue;
        }
        let parent = path.parent().unwrap_or(tree);
        fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Removes files of an earlier copy that are no longer tracked; cargo would build them.
fn remove_others(directory: &Path, tree: &Path, wanted: &BTreeMap<PathBuf, Vec<u8>>) -> Outcome {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.is_dir() {
            remove_others(&path, tree, wanted)?;
        } else if path.strip_prefix(tree).is_ok_and(|file| !wanted.contains_key(file)) {
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn run_tests(tree: &Path, test: &str) -> Outcome<Tests> {
    // The time limit is for the tests alone, not for the build.
    let built = cargo_test(tree, &[], &format!("--no-run {test}"))?;
    if !built.status.success() {
        return Ok(Tests::NotBuilt(String::from_utf8_lossy(&built.stderr).into_owned()));
    }
    let output = cargo_test(tree, &["timeout", TIME_LIMIT_SECONDS], &format!("--no-fail-fast {test}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        // A filter that matches no test proves nothing.
        let ran = text.lines().any(|line| line.starts_with("test ") && line.ends_with("... ok"));
        return Ok(if ran {
            Tests::Green
        } else {
            Tests::NotBuilt(format!("`cargo test {test}` runs no test"))
        });
    }
    if output.status.code() == Some(124) {
        return Ok(Tests::Endless);
    }
    let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    let failed: BTreeSet<String> = text.lines().filter_map(failed).collect();
    if failed.is_empty() {
        return Ok(Tests::NotBuilt(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(Tests::Failed(failed))
}

fn cargo_test(tree: &Path, before: &[&str], words: &str) -> Outcome<std::process::Output> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut line: Vec<&str> = before.to_vec();
    line.extend([cargo.as_str(), "test"]);
    line.extend(words.split(' '));
    let (program, arguments) = line.split_first().unwrap_or((&"cargo", &[]));
    let run = std::process::Command::new(program)
        .args(arguments)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", root().join("target/mutations/target"))
        .env("RUST_BACKTRACE", "0")
        .output();
    run.map_err(|error| format!("`{program}` could not be started: {error}"))
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_every_change_fits_the_tree() {
        let text = "words for people\n\n== one\nfile: a.rs\ntest: -p a\n-- find\nx\n  y\n-- replace\nz\n\n== two\nfile: b.rs\n\
                    test: -p b\n-- find\nq\n-- replace\n";
        let parsed = parse(text);
        assert_eq!(parsed.len(), 2);
        assert_eq!((parsed[0].find.as_str(), parsed[0].replace.as_str()), ("x\n  y", "z"));
        assert_eq!((parsed[1].test.as_str(), parsed[1].replace.as_str()), ("-p b", ""));
        assert_eq!(faults().unwrap(), Vec::<String>::new());
    }
}
