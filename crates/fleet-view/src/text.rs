//! Texts of positions, hash-key ranges, durations and instants, for JSON and for people. Pure.
//!
//! Sequence numbers and hash keys have more digits than a number in JSON may have in other languages, so both are text.

use std::time::{Duration, UNIX_EPOCH};

use lease_store::settings_format::timestamp;
use lease_store::{HashKeyRange, Position, StoreError};

/// Seconds of a day.
const SECONDS_PER_DAY: u64 = 86_400;

/// Reads the text that [`Position`] writes: `LATEST`, `4959…` or, inside an aggregate, `4959…/3`.
///
/// # Errors
/// `Invalid` when the text is neither a sentinel nor a sequence number.
pub fn parse_position(text: &str) -> Result<Position, StoreError> {
    let Some((checkpoint, sub_sequence_number)) = text.split_once('/') else {
        return Position::from_checkpoint(text, 0);
    };
    let number = sub_sequence_number.parse().map_err(|_| {
        StoreError::invalid(format!(
            "position {text:?}: the part after the slash must be a sub-sequence number"
        ))
    })?;
    match Position::from_checkpoint(checkpoint, number)? {
        position @ Position::After(_) => Ok(position),
        _ => Err(StoreError::invalid(format!(
            "position {text:?}: only a sequence number has a sub-sequence number"
        ))),
    }
}

/// Positions as one text each.
pub(crate) mod position_text {
    use lease_store::Position;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(position)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        super::parse_position(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Positions that may be absent.
pub(crate) mod optional_position_text {
    use lease_store::Position;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    // serde passes a reference to the field.
    #[allow(clippy::ref_option)]
    pub(crate) fn serialize<S: Serializer>(
        position: &Option<Position>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match position {
            Some(position) => serializer.collect_str(position),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Position>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_position(&text).map_err(D::Error::custom)).transpose()
    }
}

/// Hash-key ranges that may be absent, as `start-end` in decimal.
pub(crate) mod range_text {
    use lease_store::HashKeyRange;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    // serde passes a reference to the field.
    #[allow(clippy::ref_option)]
    pub(crate) fn serialize<S: Serializer>(
        range: &Option<HashKeyRange>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match range {
            Some(range) => serializer.collect_str(&format_args!("{}-{}", range.start(), range.end())),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<HashKeyRange>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_range(&text).map_err(D::Error::custom)).transpose()
    }
}

fn parse_range(text: &str) -> Result<HashKeyRange, StoreError> {
    let (start, end) = text.split_once('-').ok_or_else(|| {
        StoreError::invalid(format!(
            "hash-key range {text:?} must be two decimal hash keys with a hyphen between"
        ))
    })?;
    HashKeyRange::new(start.parse()?, end.parse()?)
}

/// A duration for people, in its two largest units: `850ms`, `12s`, `3m05s`, `2h10m`, `3d04h`.
pub fn duration_text(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..SECONDS_PER_DAY => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / SECONDS_PER_DAY, seconds / 3600 % 24),
    }
}

/// An instant in UTC, to the second.
pub fn instant_text(millis: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    at.and_then(timestamp::text_to_the_second).unwrap_or_else(|| format!("{millis} ms after 1970"))
}

#[cfg(test)]
mod tests {
    use lease_store::HashKey;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        for (millis, expected) in [
            (0, "0ms"),
            (850, "850ms"),
            (12_900, "12s"),
            (185_000, "3m05s"),
            (7_800_000, "2h10m"),
            (273_600_000, "3d04h"),
        ] {
            assert_eq!(duration_text(millis), expected);
        }
    }

    #[test]
    fn instants_are_in_utc() {
        assert_eq!(instant_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(instant_text(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(instant_text(1_796_000_461_999), "2026-11-30T01:01:01Z");
        assert!(instant_text(u64::MAX).ends_with("after 1970"));
    }

    #[test]
    fn invalid_positions_name_their_fault() {
        for text in ["", "x", "007", "12/x", "LATEST/1", "12/"] {
            assert!(parse_position(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn positions_survive_their_text(number in any::<u128>(), sub_sequence_number in any::<u64>(), kind in 0..5) {
            let position = match kind {
                0 => Position::AtTimestamp,
                1 => Position::TrimHorizon,
                2 => Position::Latest,
                3 => Position::ShardEnd,
                _ => Position::after(number.into(), sub_sequence_number),
            };
            prop_assert_eq!(parse_position(&position.to_string()).unwrap(), position);
        }

        #[test]
        fn ranges_survive_their_text(a in any::<u128>(), b in any::<u128>()) {
            let range = HashKeyRange::new(HashKey(a.min(b)), HashKey(a.max(b))).unwrap();
            prop_assert_eq!(parse_range(&format!("{}-{}", range.start(), range.end())).unwrap(), range);
        }
    }
}
