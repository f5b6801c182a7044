//! Values that carry their unit: `64MiB`, `7d`.

use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

const DURATIONS_MS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Bytes of a size such as `64MiB` or `1.5GB`; `None` without a unit or beyond `u64`.
pub fn parse_size(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// Length of a time such as `250ms`, `1.5h` or `7d`; `None` without a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATIONS_MS).map(Duration::from_millis)
}

/// A size for people: at most one decimal, binary units.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let (unit, scale) = SIZES[..4].iter().rev().find(|(_, scale)| bytes >= *scale).copied().unwrap_or(("B", 1));
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    if tenths.is_multiple_of(10) {
        format!("{}{unit}", tenths / 10)
    } else {
        format!("{}.{}{unit}", tenths / 10, tenths % 10)
    }
}

/// Integer arithmetic in thousandths, so that `1.5GiB` is exact.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 3 || number.ends_with('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let thousandths: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<3}").parse().ok()? };
    whole.checked_mul(*scale)?.checked_add(thousandths.checked_mul(*scale)? / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("10kB", 10_000), ("0B", 0), (" 7B ", 7)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "64", "MiB", "64mib", "-1B", "1.B", "1.2345GiB", "99999999TiB", "1e3B"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        for (bytes, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (64 << 20, "64MiB")] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [("250ms", 250), ("7d", 604_800_000), ("1.5h", 5_400_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["7", "7w", "d", "-1s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
