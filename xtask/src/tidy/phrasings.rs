//! Phrasings that are refused in sources and documents, because a reader stumbles over them. This file alone may contain them.

use std::path::Path;

/// This file.
const OWN_PATH: &str = "xtask/src/tidy/phrasings.rs";

/// The phrasings, in lower case, with the words to use instead.
const BANNED: [(&str, &str); 29] = [
    ("whoever", "name the actor"),
    ("somebody", "name the actor"),
    ("nobody", "name the actor"),
    ("so long it", "how long ..."),
    ("so often it", "how often ..."),
    ("take apart", "de-aggregate, split"),
    ("takes apart", "de-aggregates, splits"),
    ("taken apart", "de-aggregated, split"),
    ("taking apart", "de-aggregating, splitting"),
    ("goes on from", "resumes from"),
    ("go on from", "resume from"),
    ("in the hand of", "held by, owned by"),
    ("over its head", "without progress"),
    ("comes there", "arrives, reaches"),
    ("come there", "arrive, reach"),
    ("on its way to", "in flight"),
    ("on their way to", "in flight"),
    ("what is left", "the rest"),
    ("is mended", "is fixed"),
    ("mend", "fix, repair"),
    ("mends", "fixes, repairs"),
    ("mended", "fixed, repaired"),
    ("mending", "fixing, repairing"),
    ("lets go of", "drops, releases"),
    ("let go of", "drop, release, dropped"),
    ("letting go of", "dropping, releasing"),
    ("gives up over", "releases without progress"),
    ("give up over", "release without progress"),
    ("given up over", "released without progress"),
];

/// The faults of a file.
pub(super) fn faults(path: &Path, text: &str) -> Vec<String> {
    if path == Path::new(OWN_PATH) {
        return Vec::new();
    }
    let words = words(text);
    let mut faults: Vec<(usize, String)> = Vec::new();
    for (phrase, instead) in BANNED {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        for found in words.windows(phrase.len()) {
            if found.iter().map(|word| word.text.as_str()).eq(phrase.iter().copied()) {
                let fault =
                    format!("{}:{}: \"{}\"; use: {instead}", path.display(), found[0].line, phrase.join(" "));
                faults.push((found[0].line, fault));
            }
        }
    }
    faults.sort();
    faults.into_iter().map(|(_, fault)| fault).collect()
}

struct Word {
    line: usize,
    text: String,
}

/// All words in lower case. A phrase is found across a line break, behind a comment sign, and in the name of a test.
fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // Text between words ends a phrase: "there is nobody. So long it lasts" contains two sentences.
        for part in line.split_inclusive(['.', ';', ':', ',', '(', ')', '|', '"']) {
            let found =
                part.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
            words.extend(found.map(|word| Word { line: number + 1, text: word.to_lowercase() }));
            if part.ends_with(['.', ';', ':', ',', '(', ')', '|', '"']) {
                words.push(Word { line: number + 1, text: String::new() });
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        faults(Path::new("x.rs"), text).len()
    }

    #[test]
    fn a_phrasing_is_found_across_lines_and_in_names() {
        assert_eq!(found("//! An aggregate that is Taken\n//! apart."), 1);
        assert_eq!(found("fn whoever_stops_waiting() {}"), 1);
        assert_eq!(found("nobody, and somebody"), 2);
    }

    #[test]
    fn other_words_and_ends_of_sentences_are_no_fault() {
        assert_eq!(found("We recommend an amendment."), 0);
        assert_eq!(found("the records that it let go. Of these"), 0);
        assert_eq!(found("the take, apart from that"), 0);
    }

    #[test]
    fn the_list_itself_is_no_fault() {
        assert_eq!(faults(Path::new(OWN_PATH), "nobody"), Vec::<String>::new());
    }
}
