//! Checks that ordinary tools do not make.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::mutate;
use crate::process::{Outcome, command, root};

/// The most lines of a source file.
const MAX_LINES: usize = 800;

/// Files whose text must appear word for word in the README, so that what it shows is what is compiled.
const SHOWN_IN_README: [&str; 1] = ["examples/src/bin/smallest_consumer.rs"];

/// Documents in which a name between backticks in the last column of a table is a test.
const LEDGERS: [&str; 14] = [
    "README.md",
    "ARCHITECTURE.md",
    "docs/behaviours.md",
    "docs/delivery.md",
    "docs/first-start.md",
    "docs/fuzzing.md",
    "docs/hand-over.md",
    "docs/lease.md",
    "docs/models.md",
    "docs/performance.md",
    "docs/promises.md",
    "docs/shard-end.md",
    "docs/state.md",
    "docs/storage.md",
];

/// Runs all checks and lists every fault.
pub(crate) fn check() -> Outcome {
    let files = tracked_files()?;
    let sources: Vec<(PathBuf, String)> = files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Ok((path.clone(), read(path)?)))
        .collect::<Outcome<_>>()?;
    let mut faults = Vec::new();
    for (path, text) in &sources {
        faults.extend(source_faults(path, text));
    }
    let tests = test_names(sources.iter().map(|(_, text)| text.as_str()));
    for ledger in LEDGERS {
        faults.extend(ledger_faults(ledger, &read(Path::new(ledger))?, &tests));
    }
    faults.extend(mutate::faults()?);
    faults.extend(readme_faults(&read(Path::new("README.md"))?)?);
    if faults.is_empty() {
        println!("tidy: {} source files, {} tests, no faults", sources.len(), tests.len());
        return Ok(());
    }
    Err(format!("tidy found {} faults:\n{}", faults.len(), faults.join("\n")))
}

fn tracked_files() -> Outcome<Vec<PathBuf>> {
    let listed = command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).output()?;
    Ok(listed.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect())
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{}: {error}", path.display()))
}

fn source_faults(path: &Path, text: &str) -> Vec<String> {
    let shown = path.display();
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{shown}: a module starts with its doc (//!)"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{shown}: {lines} lines, more than {MAX_LINES}; split it by idea"));
    }
    for (number, line) in text.lines().enumerate() {
        for marker in work_markers() {
            if line.contains(&marker) {
                faults.push(format!("{shown}:{}: a stray {marker}", number + 1));
            }
        }
    }
    faults
}

/// Put together at run time, so that this file does not find itself.
fn work_markers() -> [String; 5] {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["todo", "!("], ["#[ign", "ore"]].map(|parts| parts.concat())
}

/// The names of all test functions: what follows an attribute that ends in `test` or stands in a `proptest!` block.
fn test_names<'a>(sources: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for text in sources {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            } else if let Some(name) = function_name(line) {
                if is_test {
                    names.insert(name.to_owned());
                }
                is_test = false;
            }
        }
    }
    names
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    let name = line.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// Rows of tables whose header's last column is `test`: each names tests that exist.
fn ledger_faults(document: &str, text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut in_ledger = false;
    let mut rows = 0;
    for (number, line) in text.lines().enumerate() {
        let Some(cells) = table_cells(line) else {
            in_ledger = false;
            continue;
        };
        let last = cells.last().copied().unwrap_or_default();
        if last == "test" {
            in_ledger = true;
        } else if in_ledger && !last.starts_with("---") {
            rows += 1;
            let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            if named.is_empty() {
                faults.push(format!("{document}:{}: names no test", number + 1));
            }
            for name in named.into_iter().filter(|name| !tests.contains(*name)) {
                faults.push(format!("{document}:{}: there is no test `{name}`", number + 1));
            }
        }
    }
    if rows == 0 {
        faults.push(format!("{document}: no table with a last column `test`"));
    }
    faults
}

fn table_cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn readme_faults(readme: &str) -> Outcome<Vec<String>> {
    let mut faults = Vec::new();
    for shown in SHOWN_IN_README {
        let text = read(Path::new(shown))?;
        if !readme.contains(text.trim()) {
            faults.push(format!("README.md: does not show {shown} as it is"));
        }
        let lines = text.lines().count();
        if lines > 30 {
            faults.push(format!("{shown}: {lines} lines; the smallest useful consumer has at most 30"));
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_tests_in_every_form() {
        let source = "
            #[test]
            fn plain() {}
            #[tokio::test(start_paused = true)]
            async fn paused() {}
            fn helper() {}
            proptest! {
                #[test]
                fn property(x: u8) {}
            }";
        let expected = ["paused", "plain", "property"].map(str::to_owned);
        assert_eq!(test_names(std::iter::once(source)), BTreeSet::from(expected));
    }

    #[test]
    fn a_ledger_that_names_a_missing_test_is_a_fault() {
        let tests = BTreeSet::from(["there".to_owned()]);
        let table = "| promise | test |\n| --- | --- |\n| a | `there` |\n| b | `gone` |\n| c | none |\n";
        let faults = ledger_faults("X.md", table, &tests);
        assert_eq!(faults, ["X.md:4: there is no test `gone`", "X.md:5: names no test"]);
        assert_eq!(ledger_faults("X.md", "no table", &tests).len(), 1);
    }

    #[test]
    fn a_module_without_doc_and_a_marker_are_faults() {
        let text = format!("fn x() {{ {}) }}", work_markers()[3]);
        assert_eq!(source_faults(Path::new("x.rs"), &text).len(), 2);
        assert_eq!(source_faults(Path::new("x.rs"), "//! Doc.\n"), Vec::<String>::new());
    }
}
