//! Writers that note what they are told, while others hurt what they write to.

use crate::{
    history::{History, Stamp},
    model::batch_of,
    wait::{Outcomes, wait_at_most},
};
use floodplain_log::{Append, CompletionSink, Log, Outcome, Partition, Reply};
use floodplain_types::{Class, Clock as _, SystemClock};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Appends of one writer that are under way at once.
const WINDOW: usize = 8;
/// How many more acknowledgements of each partition say that it goes on.
const GOES_ON: u64 = 50;

/// How long an append may take, and an engine to go on.
const PATIENCE: Duration = Duration::from_secs(120);

/// What writers have been told so far.
#[derive(Debug)]
pub struct Load {
    /// All that they have tried.
    pub history: History,
    /// Begins the names of its writers.
    name: String,
    partitions: Vec<Partition>,
    /// Acknowledged, by partition.
    acked: Vec<AtomicU64>,
    unknown: AtomicU64,
    stops: AtomicBool,
}

impl Load {
    /// Of writers that will write to these partitions; their names begin with `name`, which has no space.
    #[must_use]
    pub fn new(name: &str, partitions: Vec<Partition>) -> Self {
        let acked = partitions.iter().map(|_| AtomicU64::new(0)).collect();
        Self {
            history: History::new(),
            name: format!("{name}-"),
            partitions,
            acked,
            unknown: AtomicU64::new(0),
            stops: AtomicBool::new(false),
        }
    }

    /// Whether a payload is of one of its writers.
    #[must_use]
    pub fn has_written(&self, payload: &[u8]) -> bool {
        payload.starts_with(self.name.as_bytes())
    }

    /// Writes to all partitions in turn until it is stopped. What is unknown is not tried again.
    ///
    /// # Panics
    /// If an append is refused, or does not end.
    pub fn write(&self, log: &dyn Log, writer: u32, pump: &dyn Fn()) {
        let outcomes = Outcomes::new();
        let mut under_way: VecDeque<(u64, usize, Stamp)> = VecDeque::new();
        let mut next = 0;
        loop {
            let stops = self.stops.load(Ordering::Relaxed);
            if stops && under_way.is_empty() {
                return;
            }
            if under_way.len() == WINDOW || stops {
                let Some((tag, at, stamp)) = under_way.pop_front() else { return };
                match outcomes.wait_at_most(tag, PATIENCE, pump) {
                    Outcome::Committed(_) => {
                        self.history.ok(&stamp);
                        self.acked[at].fetch_add(1, Ordering::Relaxed);
                    }
                    Outcome::Unknown => {
                        self.history.unknown(&stamp);
                        self.unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    Outcome::Refused(refusal) => panic!("there is room: {refusal}"),
                }
                continue;
            }
            let at = next as usize % self.partitions.len();
            let stamp = Stamp::new(&format!("{}w{writer}p{at}", self.name), next);
            // The time of now: what brokers know of a producer expires by the time of its records.
            let time_ms = SystemClock.now().as_millis();
            let batches = vec![(self.partitions[at], batch_of(b"key", &stamp.payload(100), time_ms))];
            self.history.invoke(&stamp);
            let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
            log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: next }));
            under_way.push_back((next, at, stamp));
            next += 1;
        }
    }

    /// How many appends were acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.iter().map(|acked| acked.load(Ordering::Relaxed)).sum()
    }

    /// How many have no known outcome.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Waits until every partition has acknowledged some more.
    ///
    /// # Panics
    /// If it does not after about two minutes: three brokers that start take more than half a one of a busy machine.
    pub fn goes_on(&self, when: &str) {
        let before: Vec<u64> = self.acked.iter().map(|acked| acked.load(Ordering::Relaxed)).collect();
        wait_at_most(PATIENCE, when, &|| (), || {
            self.acked.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) > before + GOES_ON)
        });
    }

    /// Ends the writers, once all that they have under way has ended; also by [`Self::stops_at_end`].
    pub fn stop(&self) {
        self.stops.store(true, Ordering::Relaxed);
    }

    /// Stops when it is dropped, also where a test fails: the writers would write for ever.
    #[must_use]
    pub fn stops_at_end(&self) -> impl Drop + '_ {
        struct StopsAtEnd<'l>(&'l Load);
        impl Drop for StopsAtEnd<'_> {
            fn drop(&mut self) {
                self.0.stop();
            }
        }
        StopsAtEnd(self)
    }
}
