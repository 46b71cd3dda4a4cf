//! Reads settings and their doc comments from source text, and their values from `Debug`.

use std::collections::BTreeMap;

/// A field of a settings type, as the source documents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// The name in a file of settings; `None`: the type is not read from files.
    pub(super) key: Option<String>,
    pub(super) kind: String,
    /// The doc comment on one line.
    pub(super) doc: String,
}

/// The public fields of a structure, in the order of the source.
pub(super) fn fields(source: &str, structure: &str) -> Vec<Field> {
    let head = format!("pub struct {structure} {{");
    let (before, body) = source.split_once(&head).unwrap_or_else(|| panic!("no `{head}` in the source"));
    let attributes = before.rsplit("\n\n").next().unwrap_or_default();
    let is_read = attributes.contains("Deserialize");
    let (mut fields, mut doc, mut renamed) = (Vec::new(), String::new(), None);
    for line in body.lines().take_while(|line| *line != "}").map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc = format!("{doc} {}", text.trim()).trim().to_owned();
        } else if line.starts_with("#[serde(") {
            renamed =
                line.split("rename = \"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|field| field.split_once(": "))
        {
            let key = renamed.take().unwrap_or_else(|| name.to_owned());
            fields.push(Field {
                name: name.to_owned(),
                key: is_read.then_some(key),
                kind: kind.trim_end_matches(',').to_owned(),
                doc: std::mem::take(&mut doc),
            });
        }
    }
    fields
}

/// The doc comment of a function on one line.
pub(super) fn function_doc(source: &str, name: &str) -> String {
    let head = format!("pub fn {name}(");
    let (before, _) = source.split_once(&head).unwrap_or_else(|| panic!("no `{head}` in the source"));
    let lines =
        before.lines().rev().map(str::trim).skip_while(|line| line.is_empty() || line.starts_with("#["));
    let mut doc: Vec<&str> = lines.map_while(|line| line.strip_prefix("///")).map(str::trim).collect();
    doc.reverse();
    doc.join(" ")
}

/// The fields of a value in its `{:#?}` form, each on one line.
pub(super) fn values(debug: &str) -> BTreeMap<String, String> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in debug.lines().filter(|line| line.starts_with("    ")) {
        let is_field = !line.starts_with("     ") && line.trim_start().starts_with(char::is_alphabetic);
        match line.trim().split_once(": ").filter(|_| is_field) {
            Some((name, value)) => {
                values.insert(name.to_owned(), value.to_owned());
                last = Some(name.to_owned());
            }
            None => {
                if let Some(value) = last.as_ref().and_then(|name| values.get_mut(name)) {
                    value.push_str(line.trim());
                }
            }
        }
    }
    for value in values.values_mut() {
        *value = value.trim_end_matches(',').to_owned();
    }
    values
}

/// The first sentence of a doc comment, without links of the documentation.
pub(super) fn first_sentence(doc: &str) -> String {
    let mut text = String::new();
    let mut rest = doc;
    while let Some((before, after)) = rest.split_once("](") {
        // `[x](y)` becomes x.
        let (plain, label) = before.rsplit_once('[').unwrap_or(("", before));
        text.push_str(plain);
        text.push_str(label);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let text = text.replace(['[', ']'], "").replace("|", "\\|");
    match text.find(". ") {
        Some(end) => text[..=end].to_owned(),
        None => text,
    }
}

#[test]
fn fields_and_values_are_read_from_source_and_debug() {
    #[derive(Debug)]
    #[allow(dead_code)] // read through `Debug`
    struct Settings {
        wait: std::time::Duration,
        name: Option<&'static str>,
    }
    let source = "/// Doc.\n#[derive(Debug, Deserialize)]\npub struct Settings {\n    /// A wait. Of\n    /// [`X`](y).\n    \
                  #[serde(rename = \"wait_ms\", with = \"m\")]\n    pub wait: Duration,\n    /// A name.\n    pub name: Option<String>,\n}\n";
    let found = fields(source, "Settings");
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].key.as_deref(), found[0].kind.as_str()), (Some("wait_ms"), "Duration"));
    assert_eq!(first_sentence("A [`b`](c) d. E."), "A `b` d.");
    let settings = Settings { wait: std::time::Duration::from_secs(10), name: Some("a: b") };
    let values = values(&format!("{settings:#?}"));
    assert_eq!(values["wait"], "10s");
    assert_eq!(values["name"], "Some(\"a: b\",)");
}
