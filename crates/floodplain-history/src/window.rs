//! Windows of event time: what is buffered and flushed together.

use crate::filter::TimeRange;

/// Two hours of event time of a table, or all that is far in the future.
///
/// A row's window follows from the row alone, never from a clock: on replay it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window(i64);

impl Window {
    /// Length of a window in µs.
    pub const LENGTH_US: i64 = 2 * 60 * 60 * 1_000_000;
    /// How far a device's clock may be ahead of the time of ingest, in µs, before its rows share one window.
    pub const AHEAD_US: i64 = 2 * 60 * 1_000_000;
    /// Where rows are that were ahead of their time of ingest: wrong clocks open no windows.
    pub const AHEAD: Self = Self(i64::MAX);

    /// The window of a row.
    #[must_use]
    pub const fn of(time_us: i64, received_us: i64) -> Self {
        if time_us > received_us.saturating_add(Self::AHEAD_US) {
            Self::AHEAD
        } else {
            Self(time_us.div_euclid(Self::LENGTH_US))
        }
    }

    /// Windows since 1970, or [`i64::MAX`] for [`Self::AHEAD`].
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// What [`Self::number`] gave.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Event times of its rows.
    #[must_use]
    pub const fn times(self) -> TimeRange {
        if self.0 == i64::MAX {
            return TimeRange::ALL;
        }
        let min_us = self.0.saturating_mul(Self::LENGTH_US);
        TimeRange::new(min_us, min_us.saturating_add(Self::LENGTH_US - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_from_the_row_alone() {
        let hour = 3_600_000_000;
        assert_eq!(Window::of(0, 0), Window::of(2 * hour - 1, 9 * hour));
        assert_eq!(Window::of(-1, 0).times(), TimeRange::new(-2 * hour, -1));
        assert_eq!(Window::of(2 * hour, 2 * hour - Window::AHEAD_US).number(), 1);
        assert_eq!(Window::of(2 * hour, 2 * hour - Window::AHEAD_US - 1), Window::AHEAD);
        assert!(Window::of(i64::MIN, i64::MAX).times().contains(i64::MIN));
        assert!(Window::of(i64::MAX, i64::MAX).times().contains(i64::MAX));
        assert_eq!(Window::AHEAD.times(), TimeRange::ALL);
    }
}
