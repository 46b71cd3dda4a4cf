//! Turns a parsed file into the effective configuration, and names everything that Java would ignore in silence.

use std::collections::BTreeMap;

use super::credentials::parse_credentials;
use super::effective::{EffectiveConfiguration, EffectiveValue, Origin, Severity, Strictness};
use super::java_properties::{ParsedFile, Property};
use super::keys::{DefaultValue, Effect, Found, KEYS, Key, Kind, OBJECTS, find};
use super::resolve::cross_check;
use super::values::{Converted, Value, convert};

/// Interprets a parsed file.
pub fn interpret(file: &ParsedFile, strictness: Strictness) -> EffectiveConfiguration {
    let mut configuration = EffectiveConfiguration::default();
    if file.is_utf8 {
        let text = "the file is read as UTF-8; Java reads ISO-8859-1, write other characters as \\uhhhh to suit both";
        configuration.say(Severity::Warning, None, text);
    }
    let mut named = BTreeMap::new();
    for property in &file.properties {
        if let Some(earlier) = named.insert(property.key.as_str(), property.line) {
            let text = format!("{} replaces line {earlier}; remove one of them", property.key);
            configuration.say(Severity::Warning, Some(property.line), text);
        }
    }
    let mut interpreter = Interpreter { configuration, strictness, named };
    for property in &file.properties {
        if interpreter.named.get(property.key.as_str()) == Some(&property.line) {
            interpreter.take(property);
        }
    }
    interpreter.fill_defaults();
    let mut configuration = interpreter.configuration;
    cross_check(&mut configuration);
    configuration.sort_messages();
    configuration
}

struct Interpreter<'a> {
    configuration: EffectiveConfiguration,
    strictness: Strictness,
    /// The last line of each name.
    named: BTreeMap<&'a str, usize>,
}

impl Interpreter<'_> {
    fn say(&mut self, severity: Severity, line: Option<usize>, text: impl Into<String>) {
        self.configuration.say(severity, line, text);
    }

    fn take(&mut self, property: &Property) {
        let (name, line) = (property.key.as_str(), Some(property.line));
        let key = match find(name) {
            Found::Exact(key) => key,
            Found::OtherCase(key) if self.named.contains_key(key.name) => {
                let text = format!("{name} is ignored, because {} is set too; remove it", key.name);
                return self.say(Severity::Warning, line, text);
            }
            Found::OtherCase(key) => {
                let text = format!("{name} is read as {}; Java ignores this spelling, correct it", key.name);
                self.say(Severity::Warning, line, text);
                key
            }
            Found::Unknown(nearest) => return self.say_unknown(name, property.line, nearest),
        };
        match key.effect {
            Effect::Ignored(reason) => {
                self.say(Severity::Warning, line, format!("{name} has no effect: {reason}; remove it"));
            }
            Effect::Refused(reason) => {
                return self.say(
                    Severity::Error,
                    line,
                    format!("{name} cannot be used: {reason}; remove it"),
                );
            }
            Effect::Honoured | Effect::Own => {}
        }
        let trimmed = property.value.trim_end_matches([' ', '\t', '\u{c}']);
        if trimmed.len() < property.value.len() {
            let text = format!("blanks after the value of {name} are dropped; Java keeps them, remove them");
            self.say(Severity::Warning, line, text);
        }
        self.apply(key, property, trimmed);
    }

    fn apply(&mut self, key: &'static Key, property: &Property, text: &str) {
        let (name, line) = (property.key.as_str(), Some(property.line));
        let is_strict = self.strictness == Strictness::Strict;
        // A key without an effect stops nothing, even where Java exits.
        let is_ignored = matches!(key.effect, Effect::Ignored(_));
        let value = match convert(key.kind, text) {
            Converted::Applied(value) => value,
            Converted::Doubtful(..)
            | Converted::NotApplied(_)
            | Converted::Unparsable(_)
            | Converted::Refused(_)
                if is_ignored =>
            {
                return;
            }
            Converted::Doubtful(_, doubt) if is_strict => {
                return self.say(Severity::Error, line, format!("{name} = {text}: {doubt}"));
            }
            Converted::Doubtful(value, doubt) => {
                self.say(Severity::Warning, line, format!("{name} = {text}: {doubt}"));
                match value {
                    Value::Flag(_) if key.kind == Kind::Flag => return,
                    value => value,
                }
            }
            Converted::NotApplied(value) if is_strict => value,
            Converted::NotApplied(_) => {
                if let DefaultValue::Text(default) = key.default
                    && !matches!(default, "0" | "false")
                {
                    let text = format!(
                        "{name} = {text} is not applied, as in Java; {default} is used. Remove the line, or use strict \
                         properties to apply it"
                    );
                    self.say(Severity::Warning, line, text);
                }
                return;
            }
            Converted::Unparsable(remedy) if is_strict => {
                return self.say(Severity::Error, line, format!("{name} = {text} cannot be read: {remedy}"));
            }
            Converted::Unparsable(remedy) => {
                let text = format!("{name} = {text} cannot be read and is not applied, as in Java; {remedy}");
                return self.say(Severity::Warning, line, text);
            }
            Converted::Refused(remedy) => {
                return self.say(Severity::Error, line, format!("{name} = {text} is not valid; {remedy}"));
            }
        };
        let origin = Origin::Line(property.line);
        let shown = shown(key.kind, text);
        self.configuration.insert(EffectiveValue { key, value, shown, origin });
    }

    fn say_unknown(&mut self, name: &str, line: usize, nearest: Option<&Key>) {
        let (root, leaf) = name.split_once('.').unwrap_or((name, ""));
        // Java exits for an unknown field of an object that it knows.
        let is_field = !leaf.is_empty() && OBJECTS.contains(&root);
        let severity = if is_field || self.strictness == Strictness::Strict {
            Severity::Error
        } else {
            Severity::Warning
        };
        let remedy = match nearest {
            Some(key) => format!("did you mean {}?", key.name),
            None => "remove it".to_owned(),
        };
        self.say(severity, Some(line), format!("{name} is not a known key; {remedy}"));
    }

    fn fill_defaults(&mut self) {
        for key in KEYS {
            if self.configuration.get(key.name).is_some() {
                continue;
            }
            let (text, origin) = match key.default {
                DefaultValue::Unset => continue,
                DefaultValue::Text(text) => (text.to_owned(), Origin::Default),
                DefaultValue::Of(other, suffix) => {
                    match self.configuration.get(other).map(|other| &other.value) {
                        Some(Value::Text(text)) => (format!("{text}{suffix}"), Origin::SameAs(other)),
                        _ => continue,
                    }
                }
            };
            if let Converted::Applied(value) | Converted::NotApplied(value) = convert(key.kind, &text) {
                let shown = shown(key.kind, &text);
                self.configuration.insert(EffectiveValue { key, value, shown, origin });
            }
        }
    }
}

/// The text of a value without secrets.
fn shown(kind: Kind, text: &str) -> String {
    if kind == Kind::Credentials {
        let (sources, _) = parse_credentials(text);
        return sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    }
    text.to_owned()
}
