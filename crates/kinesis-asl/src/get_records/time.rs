//! Converts the numbers of the wire to integers: exact to the millisecond, without floating point where possible.

/// March 1973 in milliseconds, long before Kinesis existed. So a number below this counts seconds. AWS sends milliseconds, but
/// some local servers send seconds in CBOR.
const FIRST_PLAUSIBLE_MILLIS: i64 = 100_000_000_000;

const MILLIS_PER_SECOND: i64 = 1000;

/// Converts an integer time, in milliseconds or in seconds, to milliseconds.
pub(super) fn millis_of_integer(number: i64) -> i64 {
    if (0..FIRST_PLAUSIBLE_MILLIS).contains(&number) { number * MILLIS_PER_SECOND } else { number }
}

/// Converts a floating-point time, in seconds or in milliseconds, to milliseconds. `None`: not finite, or out of range.
pub(super) fn millis_of_float(number: f64) -> Option<i64> {
    // As an integer, the bound is exact.
    #[allow(clippy::cast_precision_loss)]
    let is_seconds = number.abs() < FIRST_PLAUSIBLE_MILLIS as f64;
    rounded(if is_seconds { number * 1000.0 } else { number })
}

/// The most digits that `short_decimal` reads: they fit into a `u64` with a margin for rounding.
const SHORT_DIGITS: u32 = 18;

/// A decimal number multiplied by ten to the power of `shift`, rounded to the nearest integer, halves away from zero. `None`:
/// not a number, or out of range.
pub(super) fn scaled_decimal(text: &[u8], shift: i64) -> Option<i64> {
    short_decimal(text, shift).or_else(|| long_decimal(text, shift))
}

/// The fast path of [`scaled_decimal`] for numbers such as `1700000000.123` and `1.700000000123E9`, in 64-bit arithmetic.
/// `None`: not such a number.
fn short_decimal(text: &[u8], shift: i64) -> Option<i64> {
    let (mut digits, mut seen, mut exponent) = (0_u64, 0_u32, shift);
    let mut is_fraction = false;
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'0'..=b'9' if seen < SHORT_DIGITS => {
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

/// The general path of [`scaled_decimal`].
fn long_decimal(text: &[u8], shift: i64) -> Option<i64> {
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
                // An i64 has fewer than 30 digits; further digits only change the exponent.
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
    // Beyond this, the result is out of range for any digits.
    let exponent = text.parse::<i64>().ok()?;
    (-1_000_000..=1_000_000).contains(&exponent).then_some(exponent)
}

fn power_of_ten(exponent: i64) -> Option<u128> {
    10_u128.checked_pow(u32::try_from(exponent).ok()?)
}

/// A floating-point number, rounded to the nearest integer. `None`: not finite, or beyond the exact integers.
pub(super) fn rounded(number: f64) -> Option<i64> {
    // 2^53: above this, floating point cannot represent every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = number.round();
    #[allow(clippy::cast_possible_truncation)] // an integer within the exact range
    (-EXACT..=EXACT).contains(&number).then_some(number as i64)
}

/// The value of a 16-bit half-precision number.
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
    fn seconds_are_distinguished_from_milliseconds() {
        assert_eq!(millis_of_integer(1_700_000_000), 1_700_000_000_000);
        assert_eq!(millis_of_integer(1_700_000_000_123), 1_700_000_000_123);
        assert_eq!(millis_of_integer(-5), -5);
    }

    #[test]
    fn half_precision_follows_ieee_754() {
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
        fn short_and_long_decimals_agree(text in "[0-9]{0,20}\\.?[0-9]{0,12}([eE][0-9]{1,2})?", shift in 0..4_i64) {
            if let Some(number) = short_decimal(text.as_bytes(), shift) {
                prop_assert_eq!(long_decimal(text.as_bytes(), shift), Some(number), "{}", text);
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
        fn any_text_is_parsed_without_panic(text: Vec<u8>) {
            let _ = scaled_decimal(&text, 3);
        }
    }
}
