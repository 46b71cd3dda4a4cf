//! The text of a value by its kind, with the rules of Java's converter.

use std::time::Duration;

use super::keys::Kind;

/// A converted value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Text, a URI, a word of a choice in upper case, or names of credential providers.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A number with a fraction.
    Decimal(f64),
    /// A boolean.
    Flag(bool),
    /// A duration.
    Duration(Duration),
    /// Texts.
    List(Vec<String>),
    /// Keys with values.
    Tags(Vec<(String, String)>),
}

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Converted {
    /// Java applies this value.
    Applied(Value),
    /// Java applies this value, which is most likely not what the file means; the text says why.
    Doubtful(Value, String),
    /// Java keeps the default in silence, although the value is valid.
    NotApplied(Value),
    /// Java keeps the default in silence, because the text is not valid; the text says what is allowed.
    Unparsable(String),
    /// Java exits; the text says what is allowed.
    Refused(String),
}

/// Converts a value without trailing blanks.
pub(super) fn convert(kind: Kind, text: &str) -> Converted {
    match kind {
        Kind::Text | Kind::Credentials => Converted::Applied(Value::Text(text.to_owned())),
        Kind::Integer => integer(text, i64::from(i32::MIN), i64::from(i32::MAX), false),
        Kind::BoxedInteger => integer(text, i64::from(i32::MIN), i64::from(i32::MAX), true),
        Kind::Long => integer(text, i64::MIN, i64::MAX, false),
        Kind::BoxedLong => integer(text, i64::MIN, i64::MAX, true),
        Kind::Decimal => decimal(text),
        Kind::Flag => flag(text, false),
        Kind::BoxedFlag => flag(text, true),
        Kind::Choice(words) => choice(text, words),
        Kind::Duration => match iso_duration(text) {
            Some(duration) => Converted::Applied(Value::Duration(duration)),
            None => Converted::Refused("write a positive ISO-8601 duration, e.g. PT12H or P2D".to_owned()),
        },
        Kind::Tags => tags(text),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Converted::Applied(Value::List(parts.map(str::to_owned).collect()))
        }
        Kind::Uri => uri(text),
    }
}

fn integer(text: &str, min: i64, max: i64, is_boxed: bool) -> Converted {
    match text.trim().parse::<i64>().ok().filter(|integer| (min..=max).contains(integer)) {
        Some(0) if !is_boxed => Converted::NotApplied(Value::Integer(0)),
        Some(integer) => Converted::Applied(Value::Integer(integer)),
        None => Converted::Unparsable(format!("write a whole number from {min} to {max}, digits only")),
    }
}

fn decimal(text: &str) -> Converted {
    let text = text.trim();
    // Java allows a suffix for its types.
    let digits = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    match digits.parse::<f64>().ok().filter(|number| number.is_finite()) {
        Some(0.0) => Converted::NotApplied(Value::Decimal(0.0)),
        Some(number) => Converted::Applied(Value::Decimal(number)),
        None => Converted::Unparsable("write a number, e.g. 0.5".to_owned()),
    }
}

fn flag(text: &str, is_boxed: bool) -> Converted {
    let is_one_of = |words: [&str; 5]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_one_of(["true", "yes", "y", "on", "1"]) {
        Converted::Applied(Value::Flag(true))
    } else if !is_one_of(["false", "no", "n", "off", "0"]) {
        let doubt = "it is no boolean, which Java reads as false; write true or false".to_owned();
        Converted::Doubtful(Value::Flag(false), doubt)
    } else if is_boxed {
        Converted::Applied(Value::Flag(false))
    } else {
        Converted::NotApplied(Value::Flag(false))
    }
}

fn choice(text: &str, words: &[&str]) -> Converted {
    let upper = text.to_ascii_uppercase();
    if words.contains(&&*upper) {
        Converted::Applied(Value::Text(upper))
    } else {
        Converted::Refused(format!("write one of {}", words.join(", ")))
    }
}

fn uri(text: &str) -> Converted {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let has_host = text.split_once("://").is_some_and(|(_, host)| !host.is_empty());
    if scheme.is_some_and(is_scheme) && has_host && !text.contains([' ', '\t']) {
        Converted::Applied(Value::Text(text.to_owned()))
    } else {
        Converted::Refused("write a URI with a scheme, e.g. https://host:4567".to_owned())
    }
}

fn tags(text: &str) -> Converted {
    let mut tags = Vec::new();
    let mut dropped = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                tags.push((key.trim().to_owned(), value.trim().to_owned()));
            }
            _ => dropped.push(part),
        }
    }
    if dropped.is_empty() {
        Converted::Applied(Value::Tags(tags))
    } else {
        let doubt = format!("{} has no form key=value and is dropped", dropped.join(", "));
        Converted::Doubtful(Value::Tags(tags), doubt)
    }
}

const SECONDS_PER_DAY: u64 = 86_400;

/// `PnDTnHnMn.nS`, in any case, without signs: Java refuses negative durations for these keys.
fn iso_duration(text: &str) -> Option<Duration> {
    let upper = text.trim().to_ascii_uppercase();
    let rest = upper.strip_prefix('P')?;
    let (date, time) = match rest.split_once('T') {
        Some((date, time)) if !time.is_empty() => (date, time),
        Some(_) => return None,
        None => (rest, ""),
    };
    let mut total = Duration::ZERO;
    if !date.is_empty() {
        let days: u64 = whole(date.strip_suffix('D')?)?;
        total = Duration::from_secs(days.checked_mul(SECONDS_PER_DAY)?);
    }
    let mut rest = time;
    for (unit, seconds) in [('H', 3600), ('M', 60)] {
        if let Some((number, after)) = rest.split_once(unit) {
            total = total.checked_add(Duration::from_secs(whole(number)?.checked_mul(seconds)?))?;
            rest = after;
        }
    }
    if !rest.is_empty() {
        let number = rest.strip_suffix('S')?;
        let (seconds, fraction) = number.split_once(['.', ',']).unwrap_or((number, ""));
        let nanos = format!("{fraction:0<9}");
        let nanos = u32::try_from(whole(&nanos).filter(|_| fraction.len() <= 9)?).ok()?;
        total = total.checked_add(Duration::new(whole(seconds)?, nanos))?;
    }
    (!date.is_empty() || !time.is_empty()).then_some(total)
}

fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_unparsable(kind: Kind, text: &str) -> bool {
        matches!(convert(kind, text), Converted::Unparsable(_))
    }

    #[test]
    fn odd_numbers_are_not_applied_as_in_java() {
        for text in ["abc", "1,500", "1e3", "0x10", "", "2147483648", "1.5"] {
            assert!(is_unparsable(Kind::Integer, text), "{text}");
        }
        assert_eq!(convert(Kind::Integer, " +5 "), Converted::Applied(Value::Integer(5)));
        assert_eq!(convert(Kind::Integer, "-1"), Converted::Applied(Value::Integer(-1)));
        assert_eq!(convert(Kind::Integer, "0"), Converted::NotApplied(Value::Integer(0)));
        assert_eq!(convert(Kind::BoxedInteger, "0"), Converted::Applied(Value::Integer(0)));
        assert_eq!(convert(Kind::Long, "2147483648"), Converted::Applied(Value::Integer(2_147_483_648)));
        assert_eq!(convert(Kind::Decimal, "1e3"), Converted::Applied(Value::Decimal(1000.0)));
        assert_eq!(convert(Kind::Decimal, "0.5d"), Converted::Applied(Value::Decimal(0.5)));
        assert!(is_unparsable(Kind::Decimal, "a lot"));
    }

    #[test]
    fn booleans_are_those_of_java() {
        for text in ["true", "YES", "y", "On", "1"] {
            assert_eq!(convert(Kind::Flag, text), Converted::Applied(Value::Flag(true)), "{text}");
        }
        for text in ["false", "No", "n", "OFF", "0"] {
            assert_eq!(convert(Kind::Flag, text), Converted::NotApplied(Value::Flag(false)), "{text}");
            assert_eq!(convert(Kind::BoxedFlag, text), Converted::Applied(Value::Flag(false)), "{text}");
        }
        for text in ["t", "maybe", ""] {
            assert!(
                matches!(convert(Kind::Flag, text), Converted::Doubtful(Value::Flag(false), _)),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_are_iso_8601() {
        for (text, seconds) in
            [("PT12H", 43_200.0), ("P2D", 172_800.0), ("p1dt1h1m1.5s", 90_061.5), ("PT0S", 0.0)]
        {
            let expected = Converted::Applied(Value::Duration(Duration::from_secs_f64(seconds)));
            assert_eq!(convert(Kind::Duration, text), expected, "{text}");
        }
        for text in
            ["", "P", "PT", "12H", "PT-1H", "-PT1H", "PT1M1H", "PT1.1234567890S", "P99999999999999999999D"]
        {
            assert!(matches!(convert(Kind::Duration, text), Converted::Refused(_)), "{text}");
        }
    }

    #[test]
    fn words_uris_lists_and_tags_are_checked() {
        let words = Kind::Choice(&["FANOUT", "POLLING"]);
        assert_eq!(convert(words, "polling"), Converted::Applied(Value::Text("POLLING".to_owned())));
        for text in ["", "both", " POLLING"] {
            assert!(matches!(convert(words, text), Converted::Refused(_)), "{text}");
        }
        assert!(matches!(convert(Kind::Uri, "http://127.0.0.1:4567"), Converted::Applied(_)));
        for text in ["localhost:4567", "", "http://", "://host", "http://a b"] {
            assert!(matches!(convert(Kind::Uri, text), Converted::Refused(_)), "{text}");
        }
        let list = ["a", "b"].map(str::to_owned).to_vec();
        assert_eq!(convert(Kind::List, "a, b ,"), Converted::Applied(Value::List(list)));
        let tags = vec![("k".to_owned(), "v=w".to_owned())];
        assert_eq!(convert(Kind::Tags, "k=v=w"), Converted::Applied(Value::Tags(tags.clone())));
        assert!(
            matches!(convert(Kind::Tags, "k=v=w,bad"), Converted::Doubtful(Value::Tags(found), _) if found == tags)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_converted_without_a_panic(text: String) {
            for kind in [
                Kind::Text, Kind::Integer, Kind::BoxedLong, Kind::Decimal, Kind::Flag, Kind::Duration, Kind::Tags,
                Kind::List, Kind::Uri,
            ] {
                let _ = convert(kind, &text);
            }
        }
    }
}
