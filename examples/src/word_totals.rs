//! How often each word occurs.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// How often each word occurs. Words are separated by white space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WordTotals {
    totals: HashMap<String, u64>,
}

impl WordTotals {
    /// Counts the words of a text.
    pub fn add_text(&mut self, text: &str) {
        for word in text.split_whitespace() {
            match self.totals.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(self.totals.insert(word.to_owned(), 1)),
            }
        }
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        for (word, count) in &other.totals {
            *self.totals.entry(word.clone()).or_default() += count;
        }
    }

    /// How often a word occurs.
    pub fn count(&self, word: &str) -> u64 {
        self.totals.get(word).copied().unwrap_or_default()
    }

    /// All words together.
    pub fn words(&self) -> u64 {
        self.totals.values().sum()
    }

    /// The number of different words.
    pub fn distinct(&self) -> usize {
        self.totals.len()
    }

    /// The most frequent words, the most frequent first.
    pub fn top(&self, count: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<_> = self.totals.iter().map(|(word, count)| (word.as_str(), *count)).collect();
        words.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(right.0)));
        words.truncate(count);
        words
    }

    /// Words whose counts differ, with both counts.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<(&'a str, u64, u64)> {
        let words = self.totals.keys().chain(other.totals.keys()).map(String::as_str);
        let words: std::collections::BTreeSet<&str> = words.collect();
        let counts = words.into_iter().map(|word| (word, self.count(word), other.count(word)));
        counts.filter(|(_, left, right)| left != right).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_each_word_that_is_missing_or_too_many() {
        let (mut left, mut right) = (WordTotals::default(), WordTotals::default());
        left.add_text("a b b c");
        right.add_text("a b d");
        assert_eq!(left.differences(&right), [("b", 2, 1), ("c", 1, 0), ("d", 0, 1)]);
        assert_eq!(left.differences(&left.clone()), []);
        assert_eq!(left.top(1), [("b", 2)]);
        left.add(&right);
        assert_eq!((left.words(), left.distinct(), left.count("a")), (7, 4, 2));
    }
}
