//! How settings are written in files: durations such as `"10s"`, times in RFC 3339. For `#[serde(with = "...")]` in the crates of
//! this workspace.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};

/// Reads a whole number or a text.
struct NumberOrText<T> {
    expected: &'static str,
    of_number: fn(i128) -> Option<T>,
    of_text: fn(&str) -> Option<T>,
}

impl<'de, T> Visitor<'de> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.of_number)(number.into())
            .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self.expected))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        (self.of_number)(number.into())
            .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self.expected))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.of_text)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self.expected))
    }

    /// A date of TOML without quotation marks: `toml` passes it as a map of one entry.
    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        match map.next_entry::<String, String>()? {
            Some((key, text)) if key == "$__toml_private_datetime" => self.visit_str(&text),
            _ => Err(A::Error::invalid_type(Unexpected::Map, &self.expected)),
        }
    }
}

pub mod duration {
    //! A duration as a text with its unit (`"10s"`, `"500ms"`, `"2m"`, `"1h"`), or as a whole number of milliseconds.

    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    use super::NumberOrText;

    const EXPECTED: &str =
        "a duration like \"10s\", \"500ms\", \"2m\" or \"1h\", or a number of milliseconds";

    /// The units of durations, in nanoseconds.
    const UNITS: [(&str, u128); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];

    /// The largest unit that is written.
    const WRITTEN_UNITS: usize = 4;

    /// The text of a duration in the largest unit up to seconds that loses nothing.
    pub fn text(duration: Duration) -> String {
        let nanos = duration.as_nanos();
        let units = UNITS.iter().take(WRITTEN_UNITS).rev();
        let (unit, length) =
            units.clone().find(|(_, length)| nanos.is_multiple_of(*length)).unwrap_or(&UNITS[0]);
        format!("{}{unit}", nanos / length)
    }

    /// Reads the text of a duration.
    pub fn parse(text: &str) -> Option<Duration> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let length = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, length)| length)?;
        let nanos = number.parse::<u64>().ok().map(u128::from)?.checked_mul(*length)?;
        let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
        Some(Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?))
    }

    pub(super) fn of_millis(number: i128) -> Option<Duration> {
        u64::try_from(number).ok().map(Duration::from_millis)
    }

    /// Writes a duration.
    ///
    /// # Errors
    /// That of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(*duration))
    }

    /// Reads a duration.
    ///
    /// # Errors
    /// The value is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let visitor = NumberOrText { expected: EXPECTED, of_number: of_millis, of_text: parse };
        deserializer.deserialize_any(visitor)
    }
}

pub mod optional_duration {
    //! A [`duration`](super::duration) that may be missing.

    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::duration;

    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Present(#[serde(with = "duration")] Duration);

    /// Writes a duration.
    ///
    /// # Errors
    /// That of the serializer.
    #[allow(clippy::ref_option)] // the signature is serde's
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_some(&duration::text(*duration)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a duration.
    ///
    /// # Errors
    /// The value is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Present>::deserialize(deserializer)?.map(|Present(duration)| duration))
    }
}

pub mod timestamp {
    //! A time in RFC 3339 (`"2026-11-30T12:00:00Z"`), or as a whole number of milliseconds since 1970.

    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::ser::Error as _;
    use serde::{Deserializer, Serializer};

    use super::NumberOrText;

    const EXPECTED: &str = "a time like \"2026-11-30T12:00:00Z\", or a number of milliseconds since 1970, in the years 1 to 9999";

    const NANOS_PER_SECOND: i128 = 1_000_000_000;
    const SECONDS_PER_DAY: i64 = 86_400;

    /// The first and the last second of the years 1 to 9999, since 1970.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

    /// The text of a time, with as many digits of the second as it needs; `None` outside the years 1 to 9999.
    pub fn text(time: SystemTime) -> Option<String> {
        let nanos = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i128::try_from(since.as_nanos()).ok()?,
            Err(before) => -i128::try_from(before.duration().as_nanos()).ok()?,
        };
        let seconds =
            i64::try_from(nanos.div_euclid(NANOS_PER_SECOND)).ok().filter(|at| SECONDS.contains(at))?;
        let nanos = nanos.rem_euclid(NANOS_PER_SECOND);
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let second = seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let fraction = match nanos {
            0 => String::new(),
            _ if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
            _ => format!(".{nanos:09}"),
        };
        Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
    }

    /// The text of a time, without the fraction of its second; `None` outside the years 1970 to 9999.
    pub fn text_to_the_second(time: SystemTime) -> Option<String> {
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        text(UNIX_EPOCH.checked_add(Duration::from_secs(since.as_secs()))?)
    }

    /// Reads a time in RFC 3339.
    pub fn parse(text: &str) -> Option<SystemTime> {
        let (date, time) = (text.get(..10)?, text.get(11..)?);
        if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
            return None;
        }
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let (clock, rest) = (time.get(..8)?, time.get(8..)?);
        let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
        let (fraction, zone) = match rest.strip_prefix('.') {
            Some(rest) => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                (rest.get(..digits).filter(|digits| (1..=9).contains(&digits.len()))?, rest.get(digits..)?)
            }
            None => ("", rest),
        };
        let is_date = (1..=9999).contains(&year) && (1..=12).contains(&month);
        if !is_date || !(1..=days_in(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let offset = match zone.as_bytes() {
            b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), ..] => {
                let [hours, minutes] = numbers(zone.get(1..)?, ':', [2, 2])?;
                if hours > 23 || minutes > 59 {
                    return None;
                }
                (hours * 3600 + minutes * 60) * if *sign == b'+' { 1 } else { -1 }
            }
            _ => return None,
        };
        let seconds =
            days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
        let nanos: i128 = format!("{fraction:0<9}").parse().ok()?;
        at_nanos(i128::from(seconds - offset) * NANOS_PER_SECOND + nanos)
    }

    fn of_millis(number: i128) -> Option<SystemTime> {
        at_nanos(number.checked_mul(1_000_000)?)
    }

    fn at_nanos(nanos: i128) -> Option<SystemTime> {
        let seconds = i64::try_from(nanos.div_euclid(NANOS_PER_SECOND)).ok()?;
        if !SECONDS.contains(&seconds) {
            return None;
        }
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let at = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        at?.checked_add(Duration::from_nanos(u64::try_from(nanos.rem_euclid(NANOS_PER_SECOND)).ok()?))
    }

    /// Numbers of these lengths, with this separator.
    fn numbers<const N: usize>(text: &str, separator: char, lengths: [usize; N]) -> Option<[i64; N]> {
        let mut found = [0; N];
        let mut parts = text.split(separator);
        for (number, length) in found.iter_mut().zip(lengths) {
            let part = parts.next().filter(|part| part.len() == length)?;
            *number = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())??;
        }
        parts.next().is_none().then_some(found)
    }

    fn days_in(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Days since 1970. Years begin in March here, so that the leap day is the last day of a year.
    fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
        let year = if month <= 2 { year - 1 } else { year };
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    fn civil_from_days(days: i64) -> (i64, i64, i64) {
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        (year_of_era + era * 400 + i64::from(month <= 2), month, day)
    }

    /// Writes a time.
    ///
    /// # Errors
    /// The time is not in the years 1 to 9999, or that of the serializer.
    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let text = text(*time).ok_or_else(|| S::Error::custom("the time is not in the years 1 to 9999"))?;
        serializer.serialize_str(&text)
    }

    /// Reads a time.
    ///
    /// # Errors
    /// The value is no time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let visitor = NumberOrText { expected: EXPECTED, of_number: of_millis, of_text: parse };
        deserializer.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::{duration, timestamp};

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, expected) in [
            ("10s", Some(Duration::from_secs(10))),
            ("500ms", Some(Duration::from_millis(500))),
            ("2m", Some(Duration::from_secs(120))),
            ("1h", Some(Duration::from_secs(3600))),
            ("7 s", Some(Duration::from_secs(7))),
            ("0s", Some(Duration::ZERO)),
            ("", None),
            ("s", None),
            ("10", None),
            ("-1s", None),
            ("1.5s", None),
            ("10 parsecs", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(duration::parse(text), expected, "{text:?}");
        }
        assert_eq!(duration::text(Duration::from_millis(2500)), "2500ms");
        assert_eq!(duration::text(Duration::from_secs(120)), "120s");
    }

    #[test]
    fn times_are_read_in_rfc_3339() {
        let at = |millis: u64| Some(UNIX_EPOCH + Duration::from_millis(millis));
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", at(0)),
            ("2000-02-29T00:00:00Z", at(951_782_400_000)),
            ("2026-11-30T01:01:01.5Z", at(1_796_000_461_500)),
            ("2026-11-30T03:01:01+02:00", at(1_796_000_461_000)),
            ("2026-11-29 23:31:01-01:30", at(1_796_000_461_000)),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-30T24:00:00Z", None),
            ("2026-11-30T01:01:01", None),
            ("2026-11-30", None),
            ("yesterday", None),
        ] {
            assert_eq!(timestamp::parse(text), expected, "{text:?}");
        }
        assert_eq!(timestamp::text(SystemTime::UNIX_EPOCH).as_deref(), Some("1970-01-01T00:00:00Z"));
        for (millis, expected) in [
            (951_782_399_999, Some("2000-02-28T23:59:59Z")),
            (951_782_400_000, Some("2000-02-29T00:00:00Z")),
            (1_735_689_599_000, Some("2024-12-31T23:59:59Z")),
            (u64::MAX, None),
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(timestamp::text_to_the_second(at).as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn durations_and_times_survive_their_text(
            (seconds, nanos) in (any::<u32>(), 0..1_000_000_000u32),
            at in -62_135_596_800..253_402_300_799i64,
        ) {
            for length in [Duration::new(seconds.into(), nanos), Duration::from_secs(seconds.into())] {
                prop_assert_eq!(duration::parse(&duration::text(length)), Some(length));
            }
            let whole = Duration::from_secs(at.unsigned_abs());
            let time = if at < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
            for time in [time, time + Duration::from_nanos(nanos.into())] {
                prop_assert_eq!(timestamp::parse(&timestamp::text(time).unwrap()), Some(time));
            }
        }

        #[test]
        fn any_text_is_a_value_or_none(text in ".{0,40}") {
            if let Some(time) = timestamp::parse(&text) {
                prop_assert!(timestamp::text(time).is_some() || text.contains('+') || text.contains('-'));
            }
            let _ = duration::parse(&text);
        }
    }
}
