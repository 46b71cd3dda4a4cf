//! Checks that every type of the prelude has an example in its documentation.

use std::collections::BTreeSet;
use std::path::Path;

use super::SourceFile;

/// The file with the prelude.
const FACADE: &str = "crates/kinesis-streaming/src/lib.rs";

/// One fault for each type and trait of the prelude whose documentation has no example.
pub(super) fn faults(sources: &[SourceFile]) -> Vec<String> {
    let facade = sources.iter().find(|source| source.path == Path::new(FACADE));
    let Some(facade) = facade else { return vec![format!("{FACADE}: the file with the prelude is missing")] };
    let names = prelude_types(&facade.text);
    let crates = sources.iter().filter(|source| source.path.starts_with("crates"));
    let shown: BTreeSet<&str> = crates.flat_map(|source| types_with_example(&source.text)).collect();
    let bare = names.into_iter().filter(|name| !shown.contains(name));
    bare.map(|name| format!("{FACADE}: {name} is in the prelude, and its documentation has no example"))
        .collect()
}

/// The names in the module `prelude` that begin with a capital.
fn prelude_types(facade: &str) -> BTreeSet<&str> {
    let module = facade.split_once("pub mod prelude {").map_or("", |(_, rest)| rest);
    let module = module.split_once("\n}").map_or(module, |(module, _)| module);
    let uses = module.lines().filter(|line| !line.trim_start().starts_with(['#', '/']));
    let words =
        uses.flat_map(|line| line.split(|character: char| !character.is_alphanumeric() && character != '_'));
    words.filter(|word| word.starts_with(char::is_uppercase)).collect()
}

/// The public types and traits of a file whose documentation has a block of code.
fn types_with_example(text: &str) -> Vec<&str> {
    let mut has_example = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("///") {
            has_example |= line.contains("```");
            continue;
        }
        let words: Vec<&str> =
            line.split(|character: char| !character.is_alphanumeric() && character != '_').collect();
        if let ["pub", "struct" | "enum" | "trait" | "type", name, ..] = words[..] {
            found.extend(has_example.then_some(name));
        }
        // Attributes stand between the documentation and its item, also over several lines.
        if !line.starts_with(['#', ' ', ')']) {
            has_example = false;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.into(), text: text.to_owned() }
    }

    #[test]
    fn types_of_the_prelude_without_example_are_named() {
        let facade = "pub mod prelude {\n    #[cfg(feature = \"Off\")]\n    pub use inner::{Bare, Shown, make};\n}\nstruct Other;";
        let inner = "/// A.\n/// ```\n/// ```\n#[derive(\n    Debug,\n)]\npub struct Shown<T>(T);\n\n/// B.\npub trait Bare: Send {}\n";
        let faults = faults(&[source(FACADE, facade), source("crates/inner/src/lib.rs", inner)]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("Bare is in the prelude"), "{faults:?}");
    }
}
