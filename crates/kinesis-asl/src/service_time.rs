//! Conversion of the service's times, which have millisecond resolution.

use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::primitives::DateTime;

const NANOS_PER_MILLI: i128 = 1_000_000;

/// Converts a time from the service. The service counts milliseconds, but the SDK parses them as a floating-point number and
/// truncates. So 0.123 s can become 0.122999906 s; rounding restores the exact value. `None`: out of range.
pub(crate) fn to_system_time(time: DateTime) -> Option<SystemTime> {
    let millis = (time.as_nanos() + NANOS_PER_MILLI / 2).div_euclid(NANOS_PER_MILLI);
    let distance = Duration::from_millis(u64::try_from(millis.unsigned_abs()).ok()?);
    if millis >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    }
}

/// Converts a time for the service, rounded down to the millisecond, so that no record is left out. `None`: out of range.
pub(crate) fn from_system_time(time: SystemTime) -> Option<DateTime> {
    let nanos = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).ok()?,
        Err(before) => -i128::try_from(before.duration().as_nanos()).ok()?,
    };
    i64::try_from(nanos.div_euclid(NANOS_PER_MILLI)).ok().map(DateTime::from_millis)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn time_from_the_service_is_exact_to_the_millisecond(millis in 0..4_102_444_800_000_u64) {
            // The SDK parses a decimal number of seconds as floating point.
            let seconds: f64 = format!("{}.{:03}", millis / 1000, millis % 1000).parse().unwrap();
            let expected = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            prop_assert_eq!(to_system_time(DateTime::from_secs_f64(seconds)), Some(expected));
        }

        #[test]
        fn time_for_the_service_is_rounded_down(nanos in 0..4_102_444_800_000_000_000_u64) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
            let sent = to_system_time(from_system_time(time).unwrap()).unwrap();
            prop_assert!(sent <= time && time.duration_since(sent).unwrap() < Duration::from_millis(1));
        }
    }

    #[test]
    fn times_before_1970_are_converted() {
        let time = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(to_system_time(DateTime::from_millis(-1500)), Some(time));
        assert_eq!(from_system_time(time), Some(DateTime::from_millis(-1500)));
    }
}
