//! The effective configuration: each value with its origin, and what has to be said about the file.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::keys::{Effect, KEYS, Key};
use super::values::Value;

/// How odd values are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Strictness {
    /// As in Java, with a warning: an unparsable number and a `false` or 0 that Java never applies leave the default.
    #[default]
    Compatible,
    /// An unparsable value and an unknown key are errors, and an explicit `false` or 0 is applied.
    Strict,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// This line of the file.
    Line(usize),
    /// The default of the KCL, or of this daemon for its own keys.
    Default,
    /// The value of another key.
    SameAs(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(formatter, "line {line}"),
            Self::Default => formatter.write_str("default"),
            Self::SameAs(key) => write!(formatter, "from {key}"),
        }
    }
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EffectiveValue {
    /// The key.
    pub key: &'static Key,
    /// The value.
    pub value: Value,
    /// The text of the value, without secrets.
    pub shown: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file works as written.
    Note,
    /// A part of the file has no effect or another effect than it seems.
    Warning,
    /// The daemon cannot start with the file.
    Error,
}

/// A message about the file: the line, what it does, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// How much it matters.
    pub severity: Severity,
    /// The line of the file; `None`: it is about the file as a whole.
    pub line: Option<usize>,
    /// What the line does, and what to do.
    pub text: String,
}

impl fmt::Display for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.severity {
            Severity::Note => "note: ",
            Severity::Warning => "warning: ",
            Severity::Error => "error: ",
        })?;
        if let Some(line) = self.line {
            write!(formatter, "line {line}: ")?;
        }
        formatter.write_str(&self.text)
    }
}

/// The configuration that a properties file leads to; [`interpret`](super::interpret) makes it.
#[derive(Debug, Clone, Default)]
pub struct EffectiveConfiguration {
    values: BTreeMap<&'static str, EffectiveValue>,
    messages: Vec<Message>,
}

impl EffectiveConfiguration {
    /// The value of a key. `None`: it has none.
    pub fn get(&self, name: &str) -> Option<&EffectiveValue> {
        self.values.get(name)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &EffectiveValue> {
        KEYS.iter().filter_map(|key| self.values.get(key.name))
    }

    /// What has to be said about the file, by line.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Whether the daemon can start with the file.
    pub fn is_usable(&self) -> bool {
        self.messages.iter().all(|message| message.severity < Severity::Error)
    }

    /// The exit code of a check: 0 if the daemon can start with the file, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_usable())
    }

    /// The configuration as text: each value that has an effect, with its origin, and then the messages.
    pub fn report(&self) -> String {
        let mut report = String::new();
        for EffectiveValue { key, shown, origin, .. } in self.values() {
            if matches!(key.effect, Effect::Honoured | Effect::Own) {
                // Writing to a string does not fail.
                let _ = writeln!(report, "{} = {shown}  # {origin}", key.name);
            }
        }
        for message in &self.messages {
            let _ = writeln!(report, "{message}");
        }
        report
    }

    pub(super) fn say(&mut self, severity: Severity, line: Option<usize>, text: impl Into<String>) {
        self.messages.push(Message { severity, line, text: text.into() });
    }

    pub(super) fn line_of(&self, name: &str) -> Option<usize> {
        match self.get(name)?.origin {
            Origin::Line(line) => Some(line),
            Origin::Default | Origin::SameAs(_) => None,
        }
    }

    pub(super) fn insert(&mut self, value: EffectiveValue) {
        self.values.insert(value.key.name, value);
    }

    /// The messages in the order of their lines, those about the whole file first.
    pub(super) fn sort_messages(&mut self) {
        self.messages.sort_by_key(|message| message.line);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.values.remove(name);
    }

    pub(super) fn set(&mut self, name: &str, value: Value, shown: String) {
        if let Some(effective) = self.values.get_mut(name) {
            effective.value = value;
            effective.shown = shown;
        }
    }
}
