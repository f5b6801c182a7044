//! One counter of an engine that works within a test.

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Counts what is counted under one name within [`metrics::with_local_recorder`].
#[derive(Debug)]
pub(crate) struct Counted {
    name: &'static str,
    count: Arc<Count>,
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Counted {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, count: Arc::default() }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.0.load(Ordering::SeqCst)
    }
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == self.name { Counter::from_arc(Arc::clone(&self.count)) } else { Counter::noop() }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
