//! The start of a shard, from the sequence number of one of its records. Pure.
//!
//! No call of Kinesis returns when a shard began. But its sequence numbers contain that time, also on local servers. AWS does not
//! document the layout. So the start is not known if a number has another form, or if its times contradict each other.
//!
//! ```text
//! hexadecimal, 47 digits:  2 │ 9: start of the shard │ 1 │ 16: index │ 2 │ 9: time of the record │ 8: shard │ 2
//! times: seconds since 1970
//! ```

use std::time::{Duration, SystemTime};

use lease_store::SequenceNumber;

/// The bytes of a number of 186 bits.
const BYTES: usize = 24;

/// The first and the last hexadecimal digit of the only known layout.
const MARK: u64 = 2;

/// How far the record's own time may lie before the start of its shard, in seconds. Some first numbers of AWS do.
const TOLERANCE_SECONDS: u64 = 60;

/// When the shard of a record began, to the second. `None`: the number has another layout.
pub(crate) fn shard_start_of(number: &SequenceNumber) -> Option<SystemTime> {
    times_of(number).map(|(started_at, _)| started_at)
}

/// When a record arrived, to the second. `None`: the number has another layout.
pub(crate) fn arrival_of(number: &SequenceNumber) -> Option<SystemTime> {
    times_of(number).map(|(_, arrived_at)| arrived_at)
}

/// When the shard of a record began, and when the record arrived.
fn times_of(number: &SequenceNumber) -> Option<(SystemTime, SystemTime)> {
    let bytes = bytes_of(number.as_str())?;
    // Two digits a byte, from the left; the number has 47 digits, so the first of 48 is zero.
    let digits = |from: usize, count: usize| {
        (from + 1..=from + count).fold(0_u64, |value, index| {
            let byte = bytes.get(index / 2).copied().unwrap_or_default();
            value << 4 | u64::from(if index.is_multiple_of(2) { byte >> 4 } else { byte & 0xf })
        })
    };
    let is_known =
        bytes.first().is_some_and(|first| first >> 4 == 0) && digits(0, 1) == MARK && digits(46, 1) == MARK;
    let (started_at, record_at) = (digits(1, 9), digits(29, 9));
    let is_plausible = started_at > 0 && started_at <= record_at.saturating_add(TOLERANCE_SECONDS);
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    (is_known && is_plausible).then(|| (time(started_at), time(record_at)))
}

/// A decimal number in big-endian bytes; `None`: too large.
fn bytes_of(decimal: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0_u8; BYTES];
    for digit in decimal.bytes() {
        let mut carry = u16::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?);
        for byte in bytes.iter_mut().rev() {
            let value = u16::from(*byte) * 10 + carry;
            let [high, low] = value.to_be_bytes();
            *byte = low;
            carry = u16::from(high);
        }
        if carry != 0 {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_of(number: &str) -> Option<u64> {
        let start = shard_start_of(&number.parse().unwrap())?;
        Some(start.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    /// Numbers from the API reference of AWS, of 2017 and 2018.
    #[test]
    fn numbers_of_aws_hold_the_start_of_their_shard() {
        let (in_2017, in_2018) = (1_513_365_151, 1_542_776_258);
        assert_eq!(start_of("49579844037727333356165064238440708846556371693205002258"), Some(in_2017));
        assert_eq!(start_of("49590338271490256608559692538361571095921575989136588898"), Some(in_2018));
    }

    #[test]
    fn numbers_of_aws_hold_the_arrival_of_their_record() {
        let number = "49590338271490256608559692538361571095921575989136588898".parse().unwrap();
        let arrived_at = arrival_of(&number).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(arrived_at.as_secs(), 1_545_084_650);
    }

    #[test]
    fn numbers_in_another_form_have_no_start() {
        for number in [
            "0",
            "7",
            "100000000000000000000000000000000000001",
            // The last digit is not that of the layout.
            "49543463076548007577105092703039560359975228518395012686",
            // Wider than 192 bits.
            "99999999999999999999999999999999999999999999999999999999999999999999",
        ] {
            assert_eq!(start_of(number), None, "{number}");
        }
    }
}
