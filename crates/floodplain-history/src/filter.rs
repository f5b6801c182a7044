//! Which rows a reader wants.

use arrow::array::{BooleanArray, BooleanBufferBuilder, StringArray};
use std::{collections::BTreeSet, sync::Arc};

/// Event times in µs since 1970, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    pub min_us: i64,
    pub max_us: i64,
}

impl TimeRange {
    /// All times.
    pub const ALL: Self = Self { min_us: i64::MIN, max_us: i64::MAX };

    /// From `min_us` to `max_us`, both included; empty if they are the wrong way round.
    #[must_use]
    pub const fn new(min_us: i64, max_us: i64) -> Self {
        Self { min_us, max_us }
    }

    /// Whether `time_us` is in it.
    #[must_use]
    pub const fn contains(self, time_us: i64) -> bool {
        self.min_us <= time_us && time_us <= self.max_us
    }

    /// Whether nothing can be in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.min_us > self.max_us
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self { min_us: self.min_us.max(other.min_us), max_us: self.max_us.min(other.max_us) }
    }

    /// Whether all of `other` is in this one.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.min_us <= other.min_us && other.max_us <= self.max_us
    }
}

/// Which devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Devices {
    #[default]
    All,
    /// Only these.
    In(Arc<BTreeSet<String>>),
}

impl Devices {
    /// Only these.
    #[must_use]
    pub fn only<S: Into<String>>(devices: impl IntoIterator<Item = S>) -> Self {
        Self::In(Arc::new(devices.into_iter().map(Into::into).collect()))
    }

    /// Whether it is this one.
    #[must_use]
    pub fn contains(&self, device: &str) -> bool {
        match self {
            Self::All => true,
            Self::In(devices) => devices.contains(device),
        }
    }

    /// Whether one of them can be between `min` and `max`, both included.
    #[must_use]
    pub fn overlaps(&self, min: &str, max: &str) -> bool {
        match self {
            Self::All => true,
            Self::In(_) if min > max => false,
            Self::In(devices) => devices
                .range::<str, _>((std::ops::Bound::Included(min), std::ops::Bound::Included(max)))
                .next()
                .is_some(),
        }
    }
}

/// The rows of a time range and of some devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub time: TimeRange,
    pub devices: Devices,
}

impl Filter {
    /// All rows.
    pub const ALL: Self = Self { time: TimeRange::ALL, devices: Devices::All };

    /// Whether rows between these ends can match.
    pub(crate) fn overlaps(&self, time: TimeRange, min_device: &str, max_device: &str) -> bool {
        !self.time.intersection(time).is_empty() && self.devices.overlaps(min_device, max_device)
    }

    /// Whether all rows of these times match, whatever their device.
    pub(crate) fn covers(&self, time: TimeRange) -> bool {
        self.devices == Devices::All && self.time.covers(time)
    }

    /// Which of these rows match.
    pub(crate) fn matches(&self, device: &StringArray, time: &[i64]) -> BooleanArray {
        let mut bits = BooleanBufferBuilder::new(time.len());
        match &self.devices {
            Devices::All => time.iter().for_each(|&time| bits.append(self.time.contains(time))),
            Devices::In(devices) => {
                // Sorted rows come device by device.
                let mut last = None;
                for (i, &time) in time.iter().enumerate() {
                    let device = device.value(i);
                    let is_wanted = match last {
                        Some((same, is_wanted)) if same == device => is_wanted,
                        _ => devices.contains(device),
                    };
                    last = Some((device, is_wanted));
                    bits.append(is_wanted && self.time.contains(time));
                }
            }
        }
        BooleanArray::new(bits.finish(), None)
    }
}
