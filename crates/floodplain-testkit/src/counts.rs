//! Counters and gauges of one test, which others of the same process do not share.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// A recorder for [`metrics::with_local_recorder`]: keeps counters and gauges, and nothing else. The name of a series is that of its metric and
/// the values of its labels, with spaces between: `name` or `name reason`.
#[derive(Debug, Default)]
pub struct Counts {
    counters: Series,
    gauges: Series,
}

type Series = Mutex<BTreeMap<String, Arc<AtomicU64>>>;

impl Counts {
    /// The value of a counter; 0 if nothing has asked for it.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        value(&self.counters, name).unwrap_or(0)
    }

    /// The value of a gauge.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(value(&self.gauges, name).unwrap_or_else(|| panic!("no gauge {name}")))
    }

    /// All counters whose names begin so, by name, but those that are zero.
    #[must_use]
    pub fn of(&self, prefix: &str) -> Vec<(String, u64)> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let values = counters.iter().map(|(name, value)| (name.clone(), value.load(Ordering::SeqCst)));
        values.filter(|(name, value)| name.starts_with(prefix) && *value > 0).collect()
    }
}

fn value(series: &Series, name: &str) -> Option<u64> {
    let series = series.lock().unwrap_or_else(PoisonError::into_inner);
    series.get(name).map(|value| value.load(Ordering::SeqCst))
}

fn entry(series: &Series, key: &Key) -> Arc<AtomicU64> {
    let labels = key.labels().map(|label| format!(" {}", label.value()));
    let name = std::iter::once(key.name().to_owned()).chain(labels).collect();
    series.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(entry(&self.counters, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(entry(&self.gauges, key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The series that a guide lists in the rows of its tables, by the names of [`Counts`], of metrics whose names begin with `prefix`: in the first
/// cell the metric, in the second the values of its label.
///
/// # Panics
/// If a row is not so.
#[must_use]
pub fn documented(guide: &str, prefix: &str) -> BTreeSet<String> {
    let start = format!("| `{prefix}");
    let series = guide.lines().filter(|line| line.starts_with(&start)).flat_map(|line| {
        let mut cells = line.split('|').skip(1);
        let mut quoted = || cells.next().into_iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let (name, reasons): (Vec<&str>, Vec<&str>) = (quoted(), quoted());
        match *reasons {
            [] => vec![name[0].to_owned()],
            _ => reasons.iter().map(|reason| format!("{} {reason}", name[0])).collect(),
        }
    });
    series.collect()
}
