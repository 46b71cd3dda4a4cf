//! The state: a value for each key, and the changes of a batch.

use std::collections::BTreeMap;
use std::time::SystemTime;

/// A value for each key, in the order of the keys, and the newest arrival time of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedState<S> {
    pub(crate) entries: BTreeMap<String, S>,
    pub(crate) watermark: Option<SystemTime>,
}

impl<S> Default for KeyedState<S> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), watermark: None }
    }
}

impl<S> FromIterator<(String, S)> for KeyedState<S> {
    /// A state without a watermark.
    fn from_iter<T: IntoIterator<Item = (String, S)>>(entries: T) -> Self {
        Self { entries: entries.into_iter().collect(), watermark: None }
    }
}

impl<S> KeyedState<S> {
    /// Sets the newest arrival time.
    #[must_use]
    pub fn with_watermark(self, watermark: Option<SystemTime>) -> Self {
        Self { watermark, ..self }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&S> {
        self.entries.get(key)
    }

    /// All keys with their values, in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &S)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many keys have a value.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The newest arrival time of the records in the state; `None` before the first record with an arrival time.
    pub fn watermark(&self) -> Option<SystemTime> {
        self.watermark
    }

    /// Adds a value, merged with the present value of its key.
    pub(crate) fn absorb(&mut self, key: String, value: S, merge: impl FnOnce(&str, S, S) -> S) {
        let value = match self.entries.remove(&key) {
            Some(present) => merge(&key, present, value),
            None => value,
        };
        self.entries.insert(key, value);
    }

    pub(crate) fn advance_watermark(&mut self, arrival: Option<SystemTime>) {
        self.watermark = self.watermark.max(arrival);
    }
}

/// The changes of one batch, applied to the state together or not at all.
#[derive(Debug)]
pub struct StateChanges<'a, S> {
    base: &'a KeyedState<S>,
    changed: BTreeMap<String, Option<S>>,
    watermark: Option<SystemTime>,
}

impl<'a, S: Clone> StateChanges<'a, S> {
    /// No changes yet.
    pub fn new(base: &'a KeyedState<S>) -> Self {
        Self { base, changed: BTreeMap::new(), watermark: base.watermark }
    }

    /// The value of a key with the changes so far; `None`: the key has no value, or a change removed it.
    pub fn get(&self, key: &str) -> Option<&S> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.base.get(key),
        }
    }

    /// Changes the value of a key. `update` receives the present value and returns the new one; `None` removes the key.
    pub fn update_by_key(&mut self, key: &str, update: impl FnOnce(Option<S>) -> Option<S>) {
        if let Some(changed) = self.changed.get_mut(key) {
            *changed = update(changed.take());
        } else {
            let updated = update(self.base.get(key).cloned());
            self.changed.insert(key.to_owned(), updated);
        }
    }

    /// The newest arrival time so far, including that of the current record.
    pub fn watermark(&self) -> Option<SystemTime> {
        self.watermark
    }

    pub(crate) fn advance_watermark(&mut self, arrival: Option<SystemTime>) {
        self.watermark = self.watermark.max(arrival);
    }

    pub(crate) fn finish(self) -> FinishedChanges<S> {
        FinishedChanges { changed: self.changed, watermark: self.watermark }
    }
}

/// The changes of a batch that no longer borrow the state.
#[derive(Debug)]
pub(crate) struct FinishedChanges<S> {
    changed: BTreeMap<String, Option<S>>,
    watermark: Option<SystemTime>,
}

impl<S> FinishedChanges<S> {
    pub(crate) fn apply_to(self, state: &mut KeyedState<S>) {
        for (key, value) in self.changed {
            match value {
                Some(value) => drop(state.entries.insert(key, value)),
                None => drop(state.entries.remove(&key)),
            }
        }
        state.watermark = self.watermark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_visible_at_once_and_applied_together() {
        let mut state: KeyedState<i32> = [("a".to_owned(), 1), ("b".to_owned(), 2)].into_iter().collect();
        let before = state.clone();
        let mut changes = StateChanges::new(&state);
        changes.update_by_key("a", |value| value.map(|value| value + 1));
        changes.update_by_key("a", |value| value.map(|value| value * 10));
        changes.update_by_key("b", |_| None);
        changes.update_by_key("c", |value| Some(value.unwrap_or(7)));
        assert_eq!((changes.get("a"), changes.get("b"), changes.get("c")), (Some(&20), None, Some(&7)));
        let finished = changes.finish();
        assert_eq!(state, before, "nothing is applied yet");
        finished.apply_to(&mut state);
        assert_eq!(state.iter().collect::<Vec<_>>(), [("a", &20), ("c", &7)]);
    }
}
