//! Checks that the links of documents lead to files of the repository and to headings in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::SourceFile;
use crate::process::root;

/// The faults of all documents.
pub(super) fn faults(documents: &[SourceFile]) -> Vec<String> {
    let anchors: BTreeMap<&Path, BTreeSet<String>> =
        documents.iter().map(|document| (document.path.as_path(), anchors(&document.text))).collect();
    let mut faults = Vec::new();
    for document in documents {
        for (line, target) in links(&document.text) {
            let place = format!("{}:{line}", document.path.display());
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = resolved(&document.path, file);
            if !root().join(&path).exists() {
                faults.push(format!("{place}: the link `{target}` leads to no file"));
            } else if !anchor.is_empty()
                && !anchors.get(path.as_path()).is_some_and(|found| found.contains(anchor))
            {
                faults.push(format!("{place}: the link `{target}` leads to no heading"));
            }
        }
    }
    faults
}

/// The path of a link relative to its document. An empty one is the document itself.
fn resolved(document: &Path, link: &str) -> PathBuf {
    if link.is_empty() {
        return document.to_owned();
    }
    let mut path = document.parent().unwrap_or(document).to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    path
}

/// The links of a text to files, with their lines. Blocks of code have none.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    let mut is_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        // A piece after "](" begins with the target, unless it is inside of `code`.
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let targets = targets.map(|(target, _)| target);
        let is_file = |target: &&str| !target.contains("://") && !target.contains(['`', ' ']);
        links.extend(targets.filter(is_file).map(|target| (number + 1, target)));
    }
    links
}

/// The anchors of the headings of a text.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if line.starts_with('#') && !is_code {
            anchors.insert(anchor(line.trim_start_matches('#').trim()));
        }
    }
    anchors
}

/// The anchor of a heading: lower case, spaces as hyphens, without other signs.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_without_file_or_heading_is_a_fault() {
        let document = |text: &str| SourceFile { path: "README.md".into(), text: text.to_owned() };
        let text = "# Cost, in dollars\n[a](#cost-in-dollars) [b](Cargo.toml) [c](https://x.example/y)\n\
                    ```\n[d](gone.md)\n```\n[e](gone.md) [f](#gone)\n";
        let faults = faults(&[document(text)]);
        assert_eq!(
            faults,
            [
                "README.md:6: the link `gone.md` leads to no file",
                "README.md:6: the link `#gone` leads to no heading"
            ]
        );
    }

    #[test]
    fn paths_are_relative_to_the_document() {
        assert_eq!(resolved(Path::new("docs/a.md"), "../README.md"), Path::new("README.md"));
        assert_eq!(resolved(Path::new("docs/a.md"), "b.md"), Path::new("docs/b.md"));
        assert_eq!(resolved(Path::new("docs/a.md"), ""), Path::new("docs/a.md"));
    }
}
