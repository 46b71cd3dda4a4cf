//! The tables of keys in `docs/daemon.md` against the table in the code.

use multilang::properties::{DefaultValue, Effect, KEYS, Key};

/// The start of the row of a key.
fn row(key: &Key) -> String {
    let name = key.name;
    let default = match key.default {
        DefaultValue::Unset => "–".to_owned(),
        DefaultValue::Text(text) => text.to_owned(),
        DefaultValue::Of(other, suffix) => format!("`{other}`{suffix}"),
    };
    match key.effect {
        Effect::Ignored(reason) | Effect::Refused(reason) => format!("| `{name}` | {reason} |"),
        _ => format!("| `{name}` | {default} |"),
    }
}

#[test]
fn every_key_is_documented_with_its_default_or_reason() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/daemon.md");
    let page = std::fs::read_to_string(page).unwrap();
    let missing: Vec<String> =
        KEYS.iter().map(row).filter(|row| !page.lines().any(|line| line.starts_with(row))).collect();
    assert!(missing.is_empty(), "docs/daemon.md lacks these rows:\n{}", missing.join("\n"));
}
