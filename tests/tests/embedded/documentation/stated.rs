//! The defaults that doc comments state, compared with values of the code.

/// Words for values that are not spelled like them.
const WORDS: [(&str, &str); 4] =
    [("polled", "Polling"), ("none", "{}"), ("on demand", "OnDemand"), ("off", "false")];

/// Units of sizes and times, with their number of bytes or nanoseconds.
const UNITS: [(&str, u128); 10] = [
    ("ns", 1),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("minutes", 60_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("bytes", 1),
];

/// The clauses of a doc comment that speak of a default.
pub(super) fn clauses(doc: &str) -> Vec<String> {
    let doc = doc.replace("`None`, the default", "`None` by default");
    let mut clauses = Vec::new();
    for sentence in doc.split_inclusive(". ") {
        let sentence = sentence.trim().trim_end_matches('.');
        for clause in sentence.split("; ").flat_map(|part| part.split(": ")) {
            if clause.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|word| word == "default") {
                clauses.push(clause.trim().to_owned());
            }
        }
    }
    clauses
}

/// The value that a clause states; `None`: it states none in a form that can be compared.
pub(super) fn value(clause: &str) -> Option<&str> {
    let before =
        clause.split_once(" by default").filter(|(_, rest)| rest.is_empty() || rest.starts_with(','));
    let value = before.map(|(value, _)| value.rsplit(", ").next().unwrap_or(value));
    let lower = clause.to_lowercase();
    let value = value.or_else(|| {
        let rest = lower.strip_prefix("default ").map(|rest| &clause[clause.len() - rest.len()..]);
        rest.filter(|rest| !rest.starts_with("is "))
    });
    value.map(|value| value.trim().trim_matches('`')).filter(|value| value.split(' ').count() <= 2)
}

/// Whether a stated value is that of the code, in its `Debug` form.
pub(super) fn agrees(stated: &str, debug: &str) -> bool {
    if let Some(stated) = number(stated) {
        return number(debug) == Some(stated);
    }
    let word = WORDS.iter().find(|(word, _)| *word == stated).map_or(stated, |(_, value)| value);
    word.eq_ignore_ascii_case(debug)
}

/// A number with its unit, in nanoseconds, bytes or as it is: `10 s`, `128 MiB`, `100,000`, `1.5s`.
fn number(text: &str) -> Option<u128> {
    let digits =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, ',' | '.' | '_'))).unwrap_or(text.len());
    let (digits, unit) = (text[..digits].replace([',', '_'], ""), text[digits..].trim());
    let factor = if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    match digits.split_once('.') {
        None => digits.parse::<u128>().ok()?.checked_mul(factor),
        Some((whole, fraction)) => {
            let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
            let scaled = whole.parse::<u128>().ok()? * scale + fraction.parse::<u128>().ok()?;
            Some(scaled * factor / scale)
        }
    }
}

#[test]
fn stated_defaults_are_compared_with_their_units() {
    for (doc, stated, debug) in [
        ("How long; 5 minutes by default. 0: never.", "5 minutes", "300s"),
        ("Bytes. 24 MiB by default: the largest batch.", "24 MiB", "25165824"),
        ("Records; 100,000 by default. Only", "100,000", "100000"),
        ("An end. `None`, the default: without one.", "None", "None"),
        ("The encoding; CBOR by default.", "CBOR", "Cbor"),
        ("Silence; 10 s by default, up to 5 min.", "10 s", "10s"),
        ("Records, even before; default 50,000.", "50,000", "50000"),
        ("A wait; 0 by default.", "0", "0ns"),
        ("Allows it. Default `false`.", "false", "false"),
        ("Tags, set once; none by default.", "none", "{}"),
    ] {
        let clauses = clauses(doc);
        assert_eq!(clauses.len(), 1, "{doc}: {clauses:?}");
        assert_eq!(value(&clauses[0]), Some(stated), "{doc}");
        assert!(agrees(stated, debug), "{doc}");
    }
    assert!(!agrees("5 s", "10s") && !agrees("CBOR", "Json") && !agrees("true", "false"));
    assert_eq!(value("By default a shard is halted"), None);
    assert_eq!(value("It is by default also the name of the lease table"), None);
}
