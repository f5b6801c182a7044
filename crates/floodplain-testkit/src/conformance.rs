//! What every engine behind [`Log`] must do, as one suite with the engine as its parameter.

mod cases;
mod faults;
mod load;
mod owners;
#[cfg(test)]
mod tests;

pub use load::Load;

use crate::{
    owning::Node,
    wait::{Outcomes, wait_until},
};
use floodplain_log::{
    AllSlots, Append, Batch, BatchBuilder, CompletionSink, Compression, Log, Outcome, Owners, Partition, Refusal,
    Reply, Stream,
};
use floodplain_types::{Class, ManualClock, Position, StreamId, StreamName, TenantId};
use std::{any::Any, fmt, sync::Arc, time::Duration};

/// One engine, made afresh for each case.
pub struct Harness {
    /// An empty log.
    pub log: Arc<dyn Log>,
    /// The clock that the log stamps records with.
    pub clock: Arc<ManualClock>,
    /// Lets things go on; called again and again while a case waits.
    pub pump: Arc<dyn Fn() + Send + Sync>,
    /// Whether each append ends as committed or refused and appears once. Otherwise cases repeat
    /// what was not committed, and bear duplicates.
    pub exact: bool,
    /// Whether appends of one thread keep their order over all classes, not only within each.
    pub orders_classes: bool,
    /// Closes the log and opens it again. Absent if the engine cannot do that here.
    pub reopen: Option<Reopen>,
    /// Ends the process that has the log, in the middle of whatever it does, and opens the log again.
    pub crash: Option<Crash>,
    /// Keeps the log from confirming anything of class `all`, until what it gives is dropped.
    pub stop: Option<Stop>,
    /// Who owns slots of the log.
    pub owning: Option<Owning>,
    /// What else can be done to the engine, with what class `all` promises all the same; nothing is there twice.
    pub faults: Vec<Fault>,
    /// As [`Self::faults`], but records may be there twice, for whoever drops them by their dedup id.
    pub disasters: Vec<Fault>,
    /// What must live as long as the log: a folder, a server.
    pub keep: Box<dyn Any>,
}

/// Makes the harness of the same log, after the [`Log`] was dropped.
pub type Reopen = Box<dyn FnOnce(Box<dyn Any>) -> Harness>;

/// Makes the harness of the same log as the next process finds it.
pub type Crash = Box<dyn FnOnce(Arc<dyn Log>, Box<dyn Any>) -> Harness>;

/// Stops, and goes on when what is given is dropped.
pub type Stop = Box<dyn Fn() -> Box<dyn Any>>;

/// A name, and what hurts the engine and mends it. The load tells whether it goes on meanwhile.
pub type Fault = (&'static str, Box<dyn Fn(&Load)>);

/// A log as a process has it, and what that process owns of so many slots.
pub type Join = Box<dyn Fn(u32) -> (Arc<dyn Log>, Arc<dyn Owners>)>;

/// How slots of the log are owned.
pub struct Owning {
    /// One more process, or the one that has the log where there is only one.
    pub join: Join,
    /// Whether there may be several at once.
    pub is_shared: bool,
}

impl fmt::Debug for Owning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owning").field("is_shared", &self.is_shared).finish_non_exhaustive()
    }
}

impl Owning {
    /// One process that owns all slots of a log which keeps units whole.
    #[must_use]
    pub fn alone(log: Arc<dyn Log>) -> Self {
        let join = move |slots| -> (Arc<dyn Log>, Arc<dyn Owners>) {
            (Arc::clone(&log), Arc::new(AllSlots::new(Arc::clone(&log), slots)))
        };
        Self { join: Box::new(join), is_shared: false }
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("log", &self.log).field("exact", &self.exact).finish_non_exhaustive()
    }
}

/// A case and its name.
pub type Case = (&'static str, fn(Harness));

/// The contract of [`Log`] alone.
pub const CONTRACT: &[Case] = cases::ALL;
/// What it promises while the engine is hurt, and its process dies. Those that need what the harness lacks do nothing.
pub const FAULTS: &[Case] = faults::ALL;
/// What owners may rely on, if the harness has any.
pub const OWNERS: &[Case] = owners::ALL;

/// Runs every case on an engine of its own.
///
/// # Panics
/// If the engine breaks the contract; the name of the case is printed before it runs.
pub fn run(engine: &dyn Fn() -> Harness) {
    [CONTRACT, FAULTS, OWNERS].into_iter().for_each(|cases| run_cases(cases, engine));
}

/// Runs these cases, each on an engine of its own.
///
/// # Panics
/// As [`run`].
pub fn run_cases(cases: &[Case], engine: &dyn Fn() -> Harness) {
    for (name, case) in cases {
        println!("conformance: {name}");
        case(engine());
    }
}

/// A record as cases compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) position: Position,
    pub(crate) value: String,
}

/// A batch with these values, keyed and headed so that nothing is left out.
pub(crate) fn batch<V: AsRef<str>>(values: &[V], compression: Compression, time_ms: i64) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in values {
        let headers = [("fp.t", b"a/b".as_slice()), ("unit", b"\xc2\xb0C".as_slice())];
        builder.push(time_ms, Some(b"device"), Some(value.as_ref().as_bytes()), headers).expect("small records fit");
    }
    builder.finish(compression).expect("cases write at least one record")
}

/// Whether it may be over when the append is tried again.
pub(crate) fn passes(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Fenced | Refusal::Overloaded { .. } | Refusal::DiskFull { .. })
}

impl Harness {
    /// An engine that nothing is done to: one that ends each append, and keeps the order of all.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, clock: Arc<ManualClock>) -> Self {
        Self {
            log,
            clock,
            pump: Arc::new(|| ()),
            exact: true,
            orders_classes: true,
            reopen: None,
            crash: None,
            stop: None,
            owning: None,
            faults: Vec::new(),
            disasters: Vec::new(),
            keep: Box::new(()),
        }
    }

    /// A process that owns slots, if the engine has owners.
    pub(crate) fn node(&self, slots: u32) -> Option<Arc<Node>> {
        let (log, owners) = (self.owning.as_ref()?.join)(slots);
        Some(Arc::new(Node::new(log, owners, Arc::clone(&self.pump))))
    }

    pub(crate) fn stream(&self, name: &str, partitions: u32) -> Stream {
        let (tenant, stream) = (TenantId::default_tenant(), StreamName::new(name).expect("names of cases are fine"));
        let id = StreamId { tenant, stream, generation: 0 };
        self.log.open_stream(&id, partitions).expect("a healthy log opens streams")
    }

    /// Appends once and waits for the end.
    pub(crate) fn attempt(&self, class: Class, batches: Vec<(Partition, Batch)>) -> Outcome {
        let outcomes = Outcomes::new();
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        self.log.submit(Append { batches, class }, Some(Reply { sink, tag: 7 }));
        outcomes.wait(7, &*self.pump)
    }

    /// Appends until it is committed: the positions of the batches.
    pub(crate) fn append(&self, class: Class, batches: &[(Partition, Batch)]) -> Vec<Position> {
        loop {
            match self.attempt(class, batches.to_vec()) {
                Outcome::Committed(positions) => {
                    assert_eq!(positions.len(), batches.len(), "one position per batch");
                    return positions;
                }
                // An engine may ask to be given time.
                Outcome::Refused(Refusal::Overloaded { .. }) => std::thread::park_timeout(Duration::from_millis(1)),
                Outcome::Unknown if !self.exact => {}
                Outcome::Refused(refusal) if !self.exact && passes(&refusal) => {}
                other => panic!("a healthy log ended an append as {other:?}"),
            }
        }
    }

    pub(crate) fn write<V: AsRef<str>>(
        &self,
        partition: Partition,
        values: &[V],
        compression: Compression,
    ) -> Position {
        self.append(Class::All, &[(partition, batch(values, compression, 1))])[0]
    }

    /// Waits until everything below `position` can be read.
    pub(crate) fn wait_for(&self, partition: Partition, position: Position) {
        wait_until("the watermark reaches the position", &*self.pump, || self.log.watermark(partition) >= position);
    }

    /// Reads from `from` to the watermark in steps of about `max_bytes`, checking what holds for
    /// every read on the way.
    pub(crate) fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Vec<Seen> {
        let watermark = self.log.watermark(partition);
        let (mut at, mut seen, mut last) = (from, Vec::new(), None);
        while at < watermark {
            let read = self.log.read(partition, at, max_bytes).expect("a healthy log can be read");
            assert!(read.next > at, "a read below the watermark goes on: {at} of {watermark}");
            for read_batch in &read.batches {
                assert!(Some(read_batch.base) > last, "batches come in order");
                let records = read_batch.batch.records().expect("we wrote it");
                for record in &records {
                    let record = record.expect("we wrote it");
                    let position = read_batch.position(&record);
                    assert!(Some(position) > last, "positions grow");
                    assert!(position < read.next, "the next read starts after what was read");
                    last = Some(position);
                    if position >= at {
                        let value = String::from_utf8(record.value.expect("we wrote one").to_vec()).expect("text");
                        seen.push(Seen { position, value });
                    }
                }
            }
            at = read.next;
        }
        seen
    }

    /// The values of a partition, each once if the engine may double them.
    pub(crate) fn values(&self, partition: Partition) -> Vec<String> {
        let mut values: Vec<String> =
            self.read(partition, self.log.start(partition), 1 << 20).into_iter().map(|seen| seen.value).collect();
        if !self.exact {
            let mut known = std::collections::HashSet::new();
            values.retain(|value| known.insert(value.clone()));
        }
        values
    }

    /// Closes and opens the log, if the engine can.
    pub(crate) fn reopen(self) -> Option<Self> {
        let Self { log, clock, pump, reopen, crash, stop, owning, faults, disasters, keep, .. } = self;
        // Each of them may hold the log.
        drop((log, clock, pump, crash, stop, owning, faults, disasters));
        Some(reopen?(keep))
    }
    /// Ends the process and starts the next one, if the engine can.
    pub(crate) fn crash(self) -> Option<Self> {
        let Self { log, clock, pump, reopen, crash, stop, owning, faults, disasters, keep, .. } = self;
        drop((clock, pump, reopen, stop, owning, faults, disasters));
        Some(crash?(log, keep))
    }
}
