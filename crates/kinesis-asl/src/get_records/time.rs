//! Numbers of the wire as integers: times to the millisecond, without a detour through floating point.

/// A time before March 1973. Kinesis is younger: an integer below this counts seconds, not milliseconds. AWS sends
/// milliseconds; there are local servers that send seconds in CBOR.
const FIRST_PLAUSIBLE_MILLIS: i64 = 100_000_000_000;

/// The largest count of seconds that is taken for one.
const MILLIS_PER_SECOND: i64 = 1000;

/// An integer that stands for a time, in milliseconds.
pub(super) fn millis_of_integer(number: i64) -> i64 {
    if (0..FIRST_PLAUSIBLE_MILLIS).contains(&number) { number * MILLIS_PER_SECOND } else { number }
}

/// The most digits of a number that is read the short way: so many fit into a `u64`, with room for rounding.
const USUAL_DIGITS: u32 = 18;

/// A decimal number times ten to the power of `shift`, rounded to the nearest integer, halves away from zero. `None`: no
/// number, or out of range.
pub(super) fn scaled_decimal(text: &[u8], shift: i64) -> Option<i64> {
    usual_decimal(text, shift).or_else(|| any_decimal(text, shift))
}

/// The same for numbers of usual size, in arithmetic of usual width: `1700000000.123`, `1.700000000123E9`. `None`: it is not
/// such a number.
fn usual_decimal(text: &[u8], shift: i64) -> Option<i64> {
    let (mut digits, mut seen, mut exponent) = (0_u64, 0_u32, shift);
    let mut is_fraction = false;
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'0'..=b'9' if seen < USUAL_DIGITS => {
                seen += 1;
                digits = digits * 10 + u64::from(byte - b'0');
                exponent -= i64::from(is_fraction);
            }
            b'.' if !is_fraction => is_fraction = true,
            b'E' | b'e' => match rest.as_slice() {
                [digit @ b'0'..=b'9'] => {
                    exponent += i64::from(digit - b'0');
                    break;
                }
                _ => return None,
            },
            _ => return None,
        }
    }
    if seen == 0 {
        return None;
    }
    let factor = 10_u64.checked_pow(u32::try_from(exponent.unsigned_abs()).ok()?)?;
    let scaled =
        if exponent >= 0 { digits.checked_mul(factor)? } else { digits.checked_add(factor / 2)? / factor };
    i64::try_from(scaled).ok()
}

/// The same for every number.
fn any_decimal(text: &[u8], shift: i64) -> Option<i64> {
    let (is_negative, text) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    let (mut digits, mut seen, mut exponent) = (0_u128, 0_u32, shift);
    let mut is_fraction = false;
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'0'..=b'9' => {
                seen += 1;
                // 30 digits are more than an i64 has; the rest only moves the point.
                if digits < 10_u128.pow(30) {
                    digits = digits * 10 + u128::from(byte - b'0');
                    exponent -= i64::from(is_fraction);
                } else {
                    exponent += i64::from(!is_fraction);
                }
            }
            b'.' if !is_fraction => is_fraction = true,
            b'e' | b'E' => {
                exponent = exponent.checked_add(exponent_of(rest.as_slice())?)?;
                break;
            }
            _ => return None,
        }
    }
    if seen == 0 {
        return None;
    }
    let magnitude = if exponent >= 0 {
        let factor = if digits == 0 { 1 } else { power_of_ten(exponent)? };
        digits.checked_mul(factor)?
    } else {
        match power_of_ten(exponent.checked_neg()?) {
            Some(divisor) => (digits + divisor / 2) / divisor,
            None => 0,
        }
    };
    let magnitude = i64::try_from(magnitude).ok()?;
    Some(if is_negative { -magnitude } else { magnitude })
}

fn exponent_of(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    // More than that is out of range whatever the digits are.
    let exponent = text.parse::<i64>().ok()?;
    (-1_000_000..=1_000_000).contains(&exponent).then_some(exponent)
}

fn power_of_ten(exponent: i64) -> Option<u128> {
    10_u128.checked_pow(u32::try_from(exponent).ok()?)
}

/// A floating-point number, rounded to the nearest integer. `None`: none is near.
pub(super) fn rounded(number: f64) -> Option<i64> {
    // 2^53: from here on floating point skips integers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = number.round();
    #[allow(clippy::cast_possible_truncation)] // an integer within the exact range
    (-EXACT..=EXACT).contains(&number).then_some(number as i64)
}

/// The number in the 16 bits of half precision.
pub(super) fn half_precision(bits: u64) -> f64 {
    let exponent = i32::try_from(bits >> 10 & 0x1f).unwrap_or(0);
    let mantissa = f64::from(u16::try_from(bits & 0x3ff).unwrap_or(0));
    let magnitude = match exponent {
        0 => mantissa * 2_f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2_f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_are_exact_in_every_notation() {
        for (text, expected) in [
            ("1700000000.123", Some(1_700_000_000_123)),
            ("1.441215410867E9", Some(1_441_215_410_867)),
            ("1.441215410867e+9", Some(1_441_215_410_867)),
            ("1441215410867e-3", Some(1_441_215_410_867)),
            ("1700000000", Some(1_700_000_000_000)),
            ("0.0004", Some(0)),
            ("0.0005", Some(1)),
            ("1700000000.12349999999999999999999999999999999999", Some(1_700_000_000_123)),
            ("-1.5", Some(-1500)),
            ("0e999", Some(0)),
            ("1e-999", Some(0)),
            ("1e30", None),
            ("1e99999999999999999999", None),
            ("", None),
            ("-", None),
            (".", None),
            ("1.2.3", None),
            ("1e", None),
            ("nan", None),
        ] {
            assert_eq!(scaled_decimal(text.as_bytes(), 3), expected, "{text}");
        }
    }

    #[test]
    fn a_count_of_seconds_is_told_from_one_of_milliseconds() {
        assert_eq!(millis_of_integer(1_700_000_000), 1_700_000_000_000);
        assert_eq!(millis_of_integer(1_700_000_000_123), 1_700_000_000_123);
        assert_eq!(millis_of_integer(-5), -5);
    }

    #[test]
    fn half_precision_is_that_of_ieee_754() {
        for (bits, expected) in [(0x3c00, 1.0), (0xc400, -4.0), (0x7bff, 65504.0), (0x0001, 2_f64.powi(-24))]
        {
            assert!((half_precision(bits) - expected).abs() < 1e-12, "{bits:x}");
        }
        assert!(half_precision(0x7c00).is_infinite() && half_precision(0x7e00).is_nan());
        assert_eq!(rounded(f64::NAN), None);
        assert_eq!(rounded(1e300), None);
        assert_eq!(rounded(1.4), Some(1));
    }

    proptest! {
        #[test]
        fn the_short_way_says_what_the_long_one_says(text in "[0-9]{0,20}\\.?[0-9]{0,12}([eE][0-9]{1,2})?", shift in 0..4_i64) {
            if let Some(number) = usual_decimal(text.as_bytes(), shift) {
                prop_assert_eq!(any_decimal(text.as_bytes(), shift), Some(number), "{}", text);
            }
        }

        #[test]
        fn milliseconds_survive_any_notation(millis in 0..4_102_444_800_000_i64, shift in 0..12_i32) {
            let plain = format!("{}.{:03}", millis / 1000, millis % 1000);
            prop_assert_eq!(scaled_decimal(plain.as_bytes(), 3), Some(millis));
            let shifted = format!("{millis}{}e-{}", "0".repeat(usize::try_from(shift).unwrap()), 3 + shift);
            prop_assert_eq!(scaled_decimal(shifted.as_bytes(), 3), Some(millis));
        }

        #[test]
        fn any_text_is_safe(text: Vec<u8>) {
            let _ = scaled_decimal(&text, 3);
        }
    }
}
