//! Event times: RFC 3339 and its relatives, and numbers since 1970.

use std::fmt;

use crate::number::{self, Decimal};

/// What one is worth in a number that is a time since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimeUnit {
    /// By size: below 5e9 seconds, below 5e12 milliseconds, below 5e15 microseconds, else nanoseconds.
    #[default]
    Auto,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
}

impl TimeUnit {
    /// The short name, as line protocol's clients know it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Minutes => "m",
            Self::Hours => "h",
        }
    }

    fn scale(self, whole: i128) -> i128 {
        match self {
            Self::Auto => match whole.unsigned_abs() {
                0..5_000_000_000 => 1_000_000_000,
                5_000_000_000..5_000_000_000_000 => 1_000_000,
                5_000_000_000_000..5_000_000_000_000_000 => 1_000,
                _ => 1,
            },
            Self::Nanoseconds => 1,
            Self::Microseconds => 1_000,
            Self::Milliseconds => 1_000_000,
            Self::Seconds => 1_000_000_000,
            Self::Minutes => 60_000_000_000,
            Self::Hours => 3_600_000_000_000,
        }
    }

    /// Nanoseconds since 1970, if they fit.
    pub(crate) fn of_int(self, value: i64) -> Option<i64> {
        let value = i128::from(value);
        i64::try_from(value * self.scale(value)).ok()
    }

    /// The same, from a number with a fraction; what is below a nanosecond is cut off.
    pub(crate) fn of_decimal(self, value: Decimal) -> Option<i64> {
        i64::try_from(value.scaled(self.scale(value.scaled(1)?))?).ok()
    }

    /// The same; rounded to the nearest nanosecond.
    pub(crate) fn of_float(self, value: f64) -> Option<i64> {
        // No unit is below a nanosecond: this keeps both products in range.
        if !value.is_finite() || value.abs() > 1e19 {
            return None;
        }
        let scale = self.scale(value as i128);
        let fraction = (value.fract() * scale as f64).round() as i128;
        i64::try_from((value.trunc() as i128) * scale + fraction).ok()
    }
}

impl fmt::Display for TimeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for TimeUnit {
    type Err = String;

    /// The names of InfluxDB's three write interfaces.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s {
            "auto" => Self::Auto,
            "n" | "ns" | "nanosecond" => Self::Nanoseconds,
            "u" | "us" | "µ" | "µs" | "microsecond" => Self::Microseconds,
            "ms" | "millisecond" => Self::Milliseconds,
            "s" | "second" => Self::Seconds,
            "m" | "minute" => Self::Minutes,
            "h" | "hour" => Self::Hours,
            other => return Err(format!("unknown unit of time {other:?}: use auto, ns, us, ms, s, m or h")),
        })
    }
}

/// Names that mean the event time where none is declared, in the order in which they are preferred.
/// Compared without regard to ASCII case.
const USUAL_NAMES: [&str; 10] =
    ["time", "timestamp", "ts", "_time", "event_time", "eventtime", "datetime", "date_time", "created_at", "createdat"];

/// The place of `name` among the usual ones.
pub(crate) fn usual_rank(name: &str) -> Option<u8> {
    // Most names are no time: look at what is cheap first.
    if !(2..=11).contains(&name.len()) || !matches!(name.as_bytes()[0] | 0x20, b't' | b'e' | b'd' | b'c' | 0x7f) {
        return None;
    }
    USUAL_NAMES.iter().position(|usual| usual.eq_ignore_ascii_case(name)).map(|rank| rank as u8)
}

/// 2000-01-01. Below this a number with a usual name is more likely a duration, or the clock of a device that was
/// never set, than an event time; as such it would make different messages one row.
pub(crate) const EARLIEST_UNDECLARED: i64 = 946_684_800_000_000_000;

/// Reads `2026-11-25T10:00:00[.fraction][Z|±hh[:]mm|±hh]`, also with a space for the `T` and without seconds.
/// Without zone it is UTC. What is below a nanosecond is cut off.
pub(crate) fn of_text(text: &str) -> Option<i64> {
    let bytes = text.trim_ascii().as_bytes();
    let number = |from: usize, len: usize| -> Option<i64> {
        bytes
            .get(from..from + len)?
            .iter()
            .try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
    };
    let is = |at: usize, expected: &[u8]| bytes.get(at).is_some_and(|byte| expected.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute) = (number(11, 2)?, number(14, 2)?);
    let mut at = 16;
    let (mut second, mut nanos) = (0, 0);
    if is(at, b":") {
        second = number(at + 1, 2)?;
        at += 3;
        if is(at, b".,") {
            at += 1;
            let first = at;
            while let Some(digit) = number(at, 1) {
                if at - first < 9 {
                    nanos = nanos * 10 + digit;
                }
                at += 1;
            }
            if at == first {
                return None;
            }
            for _ in (at - first).min(9)..9 {
                nanos *= 10;
            }
        }
    }
    if is(at, b" ") {
        at += 1;
        if at == bytes.len() {
            return None;
        }
    }
    let offset_minutes = match bytes.get(at) {
        None => 0,
        Some(b'Z' | b'z') => {
            at += 1;
            0
        }
        Some(sign @ (b'+' | b'-')) => {
            let hours = number(at + 1, 2)?;
            at += 3;
            let mut minutes = 0;
            if at < bytes.len() {
                at += usize::from(is(at, b":"));
                minutes = number(at, 2)?;
                at += 2;
            }
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        Some(_) => return None,
    };
    // RFC 3339 §5.7: 60 is a leap second; it counts as the second after.
    if at != bytes.len() || hour > 23 || minute > 59 || second > 60 || !(1..=12).contains(&month) {
        return None;
    }
    if day < 1 || day > days_in(year, month) {
        return None;
    }
    let seconds = days_before(year, month, day) * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    i64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(nanos)).ok()
}

/// Reads what a text of a declared or usual time field may be: [`of_text`], or digits of a number.
pub(crate) fn of_text_or_number(text: &str, unit: TimeUnit) -> Option<(i64, bool)> {
    if let Some(time) = of_text(text) {
        return Some((time, false));
    }
    let text = text.trim_ascii().as_bytes();
    let decimal = number::scan(text).filter(|decimal| decimal.len == text.len())?;
    Some((unit.of_decimal(decimal)?, true))
}

/// RFC 3339 in UTC, with the digits of the fraction that count.
pub(crate) fn to_text(time: i64) -> String {
    use fmt::Write as _;
    let (seconds, nanos) = (time.div_euclid(1_000_000_000), time.rem_euclid(1_000_000_000));
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let mut text =
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
    if nanos != 0 {
        write!(text, ".{nanos:09}").expect("a String takes all");
        text.truncate(text.trim_end_matches('0').len());
    }
    text.push('Z');
    text
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant, "chrono-compatible date algorithms").
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The way back.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests;
