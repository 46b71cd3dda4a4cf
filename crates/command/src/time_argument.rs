//! Durations and instants on the command line. Pure.

use std::time::Duration;

/// The units of a duration, and their milliseconds.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Numbers from here on count milliseconds since 1970, smaller ones seconds. It is the year 5138 in seconds.
const FIRST_MILLIS: u64 = 100_000_000_000;

/// The days of the months of a year that is no leap year.
const DAYS_OF_MONTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Reads a duration such as `500ms`, `30s`, `5m`, `2h` or `1d`.
///
/// # Errors
/// A text that says which forms there are.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} must be a whole number and ms, s, m, h or d, such as 90s");
    let digits = text.len() - text.trim_start_matches(|character: char| character.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| fault())?;
    let millis = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis).ok_or_else(fault)?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(fault)
}

/// Reads an instant, in milliseconds since 1970: a duration before `now`, a number of seconds or milliseconds since 1970, or a date
/// such as `2026-11-30`, `2026-11-30T07:30:00Z` or `2026-11-30T07:30:00.250+02:00`.
///
/// # Errors
/// A text that says which forms there are.
pub(crate) fn parse_instant(text: &str, now_millis: u64) -> Result<u64, String> {
    if let Ok(ago) = parse_duration(text) {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        return Ok(now_millis.saturating_sub(ago));
    }
    if let Ok(number) = text.parse::<u64>() {
        return Ok(if number < FIRST_MILLIS { number * 1_000 } else { number });
    }
    date(text).ok_or_else(|| {
        format!(
            "{text:?} must be a date such as 2026-11-30T07:30:00Z, a duration such as 2h, or a number of seconds since 1970"
        )
    })
}

fn date(text: &str) -> Option<u64> {
    let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00Z"));
    let mut parts = day.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() != 4 || month.len() != 2 || day.len() != 2 {
        return None;
    }
    let (year, month, day): (u64, u64, u64) = (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let month_days =
        |month: usize| DAYS_OF_MONTHS.get(month).map(|days| days + u64::from(month == 1 && is_leap(year)));
    let month = usize::try_from(month.checked_sub(1)?).ok()?;
    if year < 1970 || day == 0 || day > month_days(month)? {
        return None;
    }
    let days = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum::<u64>()
        + (0..month).filter_map(month_days).sum::<u64>()
        + day
        - 1;
    let (time, offset_minutes) = zone(time)?;
    let mut parts = time.split(':');
    let (hour, minute) = (parts.next()?, parts.next()?);
    let seconds = parts.next().unwrap_or("00");
    let (second, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    if parts.next().is_some() || [hour, minute, second].iter().any(|part| part.len() != 2) {
        return None;
    }
    let (hour, minute, second): (u64, u64, u64) =
        (hour.parse().ok()?, minute.parse().ok()?, second.parse().ok()?);
    if hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let millis = ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1_000 + fraction;
    millis.checked_add_signed(-offset_minutes * 60_000)
}

/// Splits the offset from UTC off a time, in minutes. A time without one is UTC.
fn zone(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else { return Some((time, 0)) };
    let (time, offset) = time.split_at(at);
    let (hours, minutes) = offset[1..].split_once(':').or_else(|| offset[1..].split_at_checked(2))?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minutes = hours.checked_mul(60)?.checked_add(minutes)?;
    Some((time, if offset.starts_with('-') { -minutes } else { minutes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for fault in ["", "5", "s", "1.5h", "-1s", "5 m", "99999999999999999999d", "18446744073709551615d"] {
            assert!(parse_duration(fault).is_err(), "{fault}");
        }
    }

    #[test]
    fn instants_have_several_forms() {
        let now = 1_700_000_000_000;
        for (text, millis) in [
            ("10m", now - 600_000),
            ("1700000000", now),
            ("1700000000123", now + 123),
            ("1970-01-01", 0),
            ("2023-11-14T22:13:20Z", now),
            ("2023-11-14 22:13:20", now),
            ("2023-11-14T22:13Z", now - 20_000),
            ("2023-11-15T00:13:20.5+02:00", now + 500),
            ("2023-11-14T17:13:20.250-0500", now + 250),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ] {
            assert_eq!(parse_instant(text, now), Ok(millis), "{text}");
        }
        for fault in ["", "now", "2023-02-29", "2023-13-01", "2023-11-14T25:00:00Z", "2023-1-1", "1969-12-31"]
        {
            assert!(parse_instant(fault, now).is_err(), "{fault}");
        }
    }
}
