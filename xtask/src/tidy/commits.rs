//! Checks the subjects of commits: `area: verb ...`, at most 72 characters.

use crate::process::{Outcome, command};
use crate::source_tree;

/// The last commit before this form was agreed on; only newer ones are checked.
const AGREED_AFTER: &str = "725ddcbfca285ec8e3063619024877549d3bbd1a";

/// The most characters of a subject.
const MAX_SUBJECT: usize = 72;

/// Words that begin a subject and are no verb.
const NO_VERBS: [&str; 14] =
    ["a", "all", "an", "each", "every", "in", "it", "its", "no", "of", "that", "the", "what", "who"];

/// The faults of all commits since then. An archive without git and a shallow clone that lacks the commit are not checked.
pub(super) fn faults() -> Outcome<Vec<String>> {
    if !source_tree::is_clone() {
        println!("LEFT OUT: the subjects of commits, because this folder is no clone");
        return Ok(Vec::new());
    }
    if command("git").args(["cat-file", "-e", &format!("{AGREED_AFTER}^{{commit}}")]).output().is_err() {
        println!("LEFT OUT: the subjects of commits, because this clone lacks commit {AGREED_AFTER}");
        return Ok(Vec::new());
    }
    let range = format!("{AGREED_AFTER}..HEAD");
    let log = command("git").args(["log", "--no-merges", "--format=%h %s", &range]).output()?;
    Ok(log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(hash, subject)| fault(hash, subject))
        .collect())
}

fn fault(hash: &str, subject: &str) -> Option<String> {
    let length = subject.chars().count();
    if length > MAX_SUBJECT {
        return Some(format!(
            "commit {hash}: the subject has {length} characters, more than {MAX_SUBJECT}: {subject}"
        ));
    }
    if has_form(subject) && !subject.ends_with('.') {
        return None;
    }
    Some(format!("commit {hash}: the subject is not `area: verb ...` without a full stop: {subject}"))
}

/// Whether an area of one or two lower-case words is followed by a lower-case word that can be a verb.
fn has_form(subject: &str) -> bool {
    let Some((area, rest)) = subject.split_once(": ") else { return false };
    let is_area = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || "-_/.:, ".contains(character)
    };
    let verb = rest.split(' ').next().unwrap_or_default();
    let starts_lower = verb.chars().next().is_some_and(char::is_lowercase);
    !area.is_empty()
        && area.split(' ').count() <= 3
        && area.chars().all(is_area)
        && starts_lower
        && !NO_VERBS.contains(&verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_names_an_area_and_starts_with_a_verb() {
        for good in [
            "polling: skip the timer when the next read is due",
            "kinesis-asl: use CBOR",
            "ci, tests: run once",
        ] {
            assert_eq!(fault("1", good), None, "{good}");
        }
        let long = format!("polling: skip {}", "x".repeat(MAX_SUBJECT));
        for bad in [
            "Polling: no timer for no time",
            "skip the timer",
            "polling: The timer",
            "polling: no timer",
            "a: stop.",
            &long,
        ] {
            assert!(fault("1", bad).is_some(), "{bad}");
        }
    }
}
