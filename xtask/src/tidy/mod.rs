//! Checks that ordinary tools do not make.

mod commits;
mod imports;
mod ledgers;
mod links;
mod phrasings;
mod prelude_examples;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Outcome, root};
use crate::{api, mutate, source_tree};

/// Files whose text must be in the README word for word, so that the README shows code that compiles.
const SHOWN_IN_README: [&str; 1] = ["examples/src/bin/smallest_consumer.rs"];

/// The most lines of a file that the README shows.
const MAX_SHOWN_LINES: usize = 30;

/// A tracked file.
#[derive(Debug)]
struct SourceFile {
    path: PathBuf,
    text: String,
}

/// Runs all checks and lists every fault.
pub(crate) fn check() -> Outcome {
    let (sources, documents) = (tracked("rs")?, tracked("md")?);
    let mut faults = Vec::new();
    for source in &sources {
        faults.extend(sources::faults(&source.path, &source.text));
    }
    let tests = sources::tests(&sources);
    faults.extend(sources::test_name_faults(&tests));
    faults.extend(ledgers::faults(&tests)?);
    faults.extend(links::faults(&documents));
    for file in sources.iter().chain(&documents) {
        faults.extend(phrasings::faults(&file.path, &file.text));
    }
    faults.extend(imports::faults(&sources)?);
    faults.extend(prelude_examples::faults(&sources));
    faults.extend(commits::faults()?);
    faults.extend(mutate::faults()?);
    faults.extend(readme_faults(&read(Path::new("README.md"))?)?);
    faults.extend(api::faults()?);
    if faults.is_empty() {
        println!("tidy: {} source files, {} tests, no faults", sources.len(), tests.len());
        return Ok(());
    }
    Err(format!("tidy found {} faults:\n{}", faults.len(), faults.join("\n")))
}

/// All files of an extension that belong to the repository.
fn tracked(extension: &str) -> Outcome<Vec<SourceFile>> {
    let paths = source_tree::files()?.into_iter();
    let paths = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    paths.map(|path| Ok(SourceFile { text: read(&path)?, path })).collect()
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{}: {error}", path.display()))
}

fn readme_faults(readme: &str) -> Outcome<Vec<String>> {
    let mut faults = Vec::new();
    for shown in SHOWN_IN_README {
        let text = read(Path::new(shown))?;
        if !readme.contains(text.trim()) {
            faults.push(format!("README.md: does not show {shown} as it is"));
        }
        let lines = text.lines().count();
        if lines > MAX_SHOWN_LINES {
            faults.push(format!("{shown}: {lines} lines; the README shows at most {MAX_SHOWN_LINES}"));
        }
    }
    Ok(faults)
}
