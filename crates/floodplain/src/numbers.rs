//! Numbers on the command line, within the limits where times and rates can be computed.

use std::ops::RangeInclusive;

/// Some months: a longer run has no end for anybody.
const SECONDS_MAX: f64 = 1e7;

fn within(text: &str, range: &RangeInclusive<f64>) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    // Not for NaN either.
    if range.contains(&number) { Ok(number) } else { Err(format!("must be from {} to {}", range.start(), range.end())) }
}

/// A length of time, maybe none.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    within(text, &(0.0..=SECONDS_MAX))
}

/// A length of time that something is divided by.
pub(crate) fn some_seconds(text: &str) -> Result<f64, String> {
    within(text, &(1e-3..=SECONDS_MAX))
}

/// Things per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    within(text, &(1e-3..=1e9))
}

/// A part of the whole.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    within(text, &(0.0..=1.0))
}
