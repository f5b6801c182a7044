//! Counters of one rig, which tests of the same process do not share.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Keeps counters and gauges, and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<HashMap<String, Arc<AtomicU64>>>, Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Counts {
    /// The value of a counter by its name and the value of its label, if it has one: `name` or `name reason`.
    pub(crate) fn get(&self, name: &str) -> u64 {
        let counters = self.0.lock().unwrap();
        counters.get(name).unwrap_or_else(|| panic!("no counter {name}")).load(Ordering::Relaxed)
    }

    /// The value of a gauge.
    pub(crate) fn gauge(&self, name: &str) -> f64 {
        let gauges = self.1.lock().unwrap();
        f64::from_bits(gauges.get(name).unwrap_or_else(|| panic!("no gauge {name}")).load(Ordering::Relaxed))
    }

    /// All counters whose names begin so, but those that are zero.
    pub(crate) fn of(&self, prefix: &str) -> Vec<(String, u64)> {
        let counters = self.0.lock().unwrap();
        let values = counters.iter().map(|(name, value)| (name.clone(), value.load(Ordering::Relaxed)));
        let mut values: Vec<_> = values.filter(|(name, value)| name.starts_with(prefix) && *value > 0).collect();
        values.sort_unstable();
        values
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels = key.labels().map(|label| format!(" {}", label.value()));
        let name = std::iter::once(key.name().to_owned()).chain(labels).collect();
        Counter::from_arc(self.0.lock().unwrap().entry(name).or_default().clone())
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.1.lock().unwrap().entry(key.name().to_owned()).or_default().clone())
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
