//! Decimal numbers: one pass that finds the end of a number and its digits.

/// Up to here every integer has its own `f64`: ±2^53.
pub(crate) const EXACT_INT: i64 = 1 << 53;
/// Powers of ten that an `f64` holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// An exponent beyond this is 0 or infinite whatever the digits are.
const MAX_EXPONENT: i64 = 100_000;

/// A number as written: `±mantissa × 10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal {
    pub negative: bool,
    /// The first 19 digits that count.
    pub mantissa: u64,
    pub exponent: i64,
    /// Written without point and exponent.
    pub integer: bool,
    /// Digits were left out of the mantissa.
    pub truncated: bool,
    /// Length of the text in bytes.
    pub len: usize,
}

/// Reads `[+-] digits [. digits] [e [+-] digits]` from the front, with at least one digit before the exponent.
pub(crate) fn scan(bytes: &[u8]) -> Option<Decimal> {
    let mut at = 0;
    let negative = match bytes.first()? {
        b'-' => {
            at = 1;
            true
        }
        b'+' => {
            at = 1;
            false
        }
        _ => false,
    };
    let (mut mantissa, mut exponent, mut truncated) = (0_u64, 0_i64, false);
    let start = at;
    while let Some(digit @ 0..=9) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')) {
        // Another digit always fits below this.
        if mantissa < 1_000_000_000_000_000_000 {
            mantissa = mantissa * 10 + u64::from(digit);
        } else {
            truncated = true;
            exponent += 1;
        }
        at += 1;
    }
    let mut digits = at - start;
    let mut integer = true;
    if bytes.get(at) == Some(&b'.') {
        integer = false;
        at += 1;
        let point = at;
        while let Some(digit @ 0..=9) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')) {
            if mantissa < 1_000_000_000_000_000_000 {
                mantissa = mantissa * 10 + u64::from(digit);
                exponent -= 1;
            } else {
                truncated |= digit != 0;
            }
            at += 1;
        }
        digits += at - point;
    }
    if digits == 0 {
        return None;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let mut end = at + 1;
        let sign = match bytes.get(end) {
            Some(b'-') => {
                end += 1;
                -1
            }
            Some(b'+') => {
                end += 1;
                1
            }
            _ => 1,
        };
        let first = end;
        let mut written = 0_i64;
        while let Some(digit @ 0..=9) = bytes.get(end).map(|byte| byte.wrapping_sub(b'0')) {
            written = (written * 10 + i64::from(digit)).min(MAX_EXPONENT);
            end += 1;
        }
        if end == first {
            return None;
        }
        integer = false;
        exponent += sign * written;
        at = end;
    }
    Some(Decimal { negative, mantissa, exponent, integer, truncated, len: at })
}

impl Decimal {
    /// The nearest `f64`; `text` is what was scanned. Infinite if there is none.
    pub(crate) fn to_f64(self, text: &[u8]) -> f64 {
        // Both factors are exact, so the one rounding is that of the result (Clinger's fast path).
        if !self.truncated && self.mantissa <= EXACT_INT as u64 && (-22..=22).contains(&self.exponent) {
            let power = POWERS[self.exponent.unsigned_abs() as usize];
            let mantissa = self.mantissa as f64;
            let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
            return if self.negative { -value } else { value };
        }
        std::str::from_utf8(&text[..self.len]).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::INFINITY)
    }

    /// The value if it was written as an integer and fits.
    pub(crate) fn to_i64(self) -> Option<i64> {
        if !self.integer || self.truncated {
            return None;
        }
        if self.negative { 0_i64.checked_sub_unsigned(self.mantissa) } else { i64::try_from(self.mantissa).ok() }
    }

    /// `value × scale`, cut to an integer.
    pub(crate) fn scaled(self, scale: i128) -> Option<i128> {
        // 19 digits and a scale of at most 13 fit; more zeros than this are out of any caller's range.
        let scaled = i128::from(self.mantissa) * scale;
        let power = |by: i64| 10_i128.checked_pow(u32::try_from(by).ok()?);
        let cut = if self.exponent >= 0 {
            scaled.checked_mul(power(self.exponent)?)?
        } else {
            power(-self.exponent).map_or(0, |power| scaled / power)
        };
        Some(if self.negative { -cut } else { cut })
    }
}

/// Whether `value` is an integer that can change between `Int64` and `Float64` and back.
pub(crate) fn is_exact(value: i64) -> bool {
    (-EXACT_INT..=EXACT_INT).contains(&value)
}

/// The integer that `value` is, if both types hold it exactly. Minus zero is none.
pub(crate) fn whole(value: f64) -> Option<i64> {
    let int = value as i64;
    (is_exact(int) && int as f64 == value && !(int == 0 && value.is_sign_negative())).then_some(int)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_and_digits() {
        for (text, len, int) in [
            ("0", 1, Some(0)),
            ("-12,", 3, Some(-12)),
            ("+7i", 2, Some(7)),
            ("9223372036854775807", 19, Some(i64::MAX)),
            ("-9223372036854775808", 20, Some(i64::MIN)),
            ("9223372036854775808", 19, None),
            ("99999999999999999999", 20, None),
            ("1.", 2, None),
            (".5", 2, None),
            ("1e5", 3, None),
            ("1E-05 ", 5, None),
        ] {
            let found = scan(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.len, found.to_i64()), (len, int), "{text}");
        }
        for text in ["", "-", "+", ".", "e5", "-.", "1e", "1e+", "inf", "nan", "x"] {
            assert!(scan(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole(20.0), Some(20));
        assert_eq!(whole(9_007_199_254_740_992.0), Some(EXACT_INT));
        for value in [0.5, -0.0, 1e300, f64::NAN, f64::INFINITY, 9_007_199_254_740_994.0] {
            assert_eq!(whole(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn floats_are_those_of_the_standard_library(text in "[+-]?[0-9]{1,25}(\\.[0-9]{0,25})?([eE][+-]?[0-9]{1,3})?") {
            let found = scan(text.as_bytes()).unwrap();
            prop_assert_eq!(found.len, text.len());
            let expected: f64 = text.parse().unwrap();
            prop_assert_eq!(found.to_f64(text.as_bytes()).to_bits(), expected.to_bits());
        }
    }
}
