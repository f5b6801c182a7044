//! The engine for one machine: a shared journal, segments made from it, and nothing beside them.
//!
//! One thread commits (`commit`), one keeps house (`house`), readers come from anywhere (`read`).
//! `recover` brings a folder back to what was promised.

mod commit;
mod house;
mod open_files;
mod read;
mod recover;
mod repair;
#[cfg(test)]
mod tests;

pub use recover::{DamagedRange, OpenError, RecoveryReport};

use crate::{
    Append, Completion, FastMap, FetchedRecord, InOrder, Log, Outcome, Partition, Read, ReadError, RecordRef, Refusal,
    Reply, RetentionSink, Stream, WatermarkSink,
    catalog::{CatalogEntry, CatalogWriter},
    checkpoint::Bounds,
    disk::Disk,
    frame::FRAME_HEADER,
    journal::Journal,
    metrics::LogMetrics,
    segment::{PageCache, Segment},
    tail::Tail,
};
use floodplain_types::{Clock, PartitionId, Position, StreamId};
use open_files::OpenFiles;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How many bytes one append unit may have with its frames. A message has at most 900 KiB.
pub const MAX_UNIT_BYTES: u64 = 8 << 20;
/// A group takes units until it has this many bytes, so it is at most this and one unit long.
const GROUP_TARGET_BYTES: u64 = 4 << 20;
/// A journal ends early when its index in memory has this many frames (40 bytes each).
const JOURNAL_FRAMES_MAX: usize = 1 << 18;

/// A journal is at most this part of what is kept by size ...
const JOURNAL_SIZE_PART: u64 = 8;
/// ... and the active one is finished when it is older than this part of what is kept by age, so that age retention finds it...
const JOURNAL_AGE_PART: u32 = 8;
/// ... and than this at the latest.
const JOURNAL_AGE_MAX: Duration = Duration::from_hours(24);
/// How much longer than it should a journal may become while no new one can be created.
const JOURNAL_STUCK_FACTOR: u64 = 8;

/// Appends are refused while more finished journals than this wait for their segment: each is an
/// open file.
const SEALED_JOURNALS_MAX: u64 = 256;
/// Or more frames in them: each takes about 50 bytes of memory.
const SEALED_FRAMES_MAX: u64 = 1 << 21;

/// Where the log lives and how much it may use.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The folder of the log; created if need be, locked while open.
    pub dir: PathBuf,
    /// A journal file ends at this length. Smaller on small disks, at most a 32nd of them, and where little is kept, at most
    /// an eighth of that: retention takes whole files.
    pub journal_bytes: u64,
    /// How many bytes of the newest batches stay in memory for live readers.
    pub tail_bytes: u64,
    /// How many bytes may be queued; beyond that appends are refused.
    pub queue_bytes: u64,
    /// Free space that appends leave untouched. By default a 20th of the disk, at least four
    /// journal files and at most 4 GiB.
    pub reserve_bytes: Option<u64>,
    /// Segments whose newest record is older than this are removed.
    pub retention_age: Duration,
    /// The oldest segments are removed while the log has more bytes than this. By default a fifth
    /// of the disk.
    pub retention_bytes: Option<u64>,
    /// Retention takes nothing before the log has been open for so long: time for readers to catch up after a stop.
    pub retention_delay: Duration,
    /// How many segment files stay open.
    pub open_files_max: usize,
    /// How many bytes of the indexes of segments stay in memory: pages that searches came to last. One of 4 KiB has the
    /// places of 56 partitions of a segment, so by default there is room for one of each segment of 64 GiB of log.
    pub index_bytes: u64,
}

impl EmbeddedConfig {
    /// The defaults: 64 MiB journals, 32 MiB in memory, 64 MiB queue, 7 days or 20 % of the disk.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            journal_bytes: 64 << 20,
            tail_bytes: 32 << 20,
            queue_bytes: 64 << 20,
            reserve_bytes: None,
            retention_age: Duration::from_hours(7 * 24),
            retention_bytes: None,
            retention_delay: Duration::ZERO,
            open_files_max: 64,
            index_bytes: 4 << 20,
        }
    }
}

/// The log of one machine, in files.
///
/// Dropping it ends as [`Self::close`] does.
#[derive(Debug)]
pub struct Embedded {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads of one log share.
#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    config: EmbeddedConfig,
    /// Resolved from the config and the size of the disk.
    reserve_bytes: u64,
    retention_bytes: u64,
    streams: RwLock<Streams>,
    catalog: Mutex<CatalogWriter>,
    queue: Mutex<Queue>,
    /// Wakes the commit thread.
    queued: Condvar,
    queued_bytes: AtomicU64,
    /// Of all groups that were written since it was opened.
    appended_bytes: AtomicU64,
    /// When it was opened.
    opened: std::time::Instant,
    /// Journals that wait for their segment, and the frames in them.
    sealed_count: AtomicU64,
    sealed_frames: AtomicU64,
    /// When the first group of the active journal was written, in ms since 1970; `i64::MAX` before.
    active_since_ms: AtomicI64,
    /// Written by the commit thread once per group, read by everyone.
    view: RwLock<View>,
    watchers: RwLock<Arc<Vec<Arc<dyn WatermarkSink>>>>,
    retention_watchers: RwLock<Vec<Arc<dyn RetentionSink>>>,
    /// Handles of segments.
    open_files: OpenFiles,
    index_pages: PageCache,
    house: Mutex<HouseCalls>,
    /// Wakes the house-keeping thread.
    house_called: Condvar,
    /// One at a time keeps house: the thread, or a caller of [`Embedded::maintain`].
    keeping: Mutex<house::House>,
    /// A start has moved since the checkpoint was written.
    starts_moved: AtomicBool,
    /// Segments whose index a reader found damaged.
    hurt: Mutex<BTreeSet<(u64, u64)>>,
    /// Damage that reads have met, so that each place is reported once.
    damage: Mutex<BTreeSet<(String, u64)>>,
    poisoned: OnceLock<Arc<str>>,
    metrics: LogMetrics,
    /// Keeps other processes out; given back last.
    _lock: LockGuard,
}

struct LockGuard(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

/// What can be read: everything here is committed.
#[derive(Debug)]
struct View {
    parts: FastMap<Partition, Bounds>,
    tail: Tail,
    /// Oldest first.
    segments: Arc<Vec<Arc<Segment>>>,
    /// Finished journals that no segment holds yet, oldest first.
    sealed: Vec<Arc<Journal>>,
    /// The one that is being written.
    active: Journal,
    /// Grows when records move from one file to another, so that a reader notices.
    epoch: u64,
}

impl View {
    fn len_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).chain(self.journals().map(|journal| journal.len)).sum()
    }

    fn journals(&self) -> impl Iterator<Item = &Journal> {
        self.sealed.iter().map(Arc::as_ref).chain([&self.active])
    }
}

#[derive(Debug, Default)]
struct Streams {
    /// By number. A number whose name was lost to damage stays empty.
    by_number: Vec<Option<Stream>>,
    by_id: HashMap<StreamId, u32>,
}

impl Streams {
    fn insert(&mut self, entry: CatalogEntry) -> Stream {
        let stream = Stream { id: Arc::new(entry.id), number: entry.number, partitions: entry.partitions };
        let idx = entry.number as usize;
        if self.by_number.len() <= idx {
            self.by_number.resize(idx + 1, None);
        }
        self.by_number[idx] = Some(stream.clone());
        self.by_id.insert((*stream.id).clone(), entry.number);
        stream
    }

    fn get(&self, number: u32) -> Option<&Stream> {
        self.by_number.get(number as usize)?.as_ref()
    }

    fn generation(&self, partition: Partition) -> Option<u32> {
        let stream = self.get(partition.stream)?;
        (partition.index < stream.partitions).then_some(stream.id.generation)
    }
}

/// An append on its way to the commit thread.
#[derive(Debug)]
struct Pending {
    append: Append,
    reply: Option<Reply>,
    /// Whose order must be kept, if anybody's.
    submitter: Option<u32>,
    /// Of its batches with their frame headers.
    bytes: u64,
    queued_at: Instant,
}

/// Nobody waits for ever: what goes without an answer, because the commit thread has panicked, say,
/// may or may not have been written.
impl Drop for Pending {
    fn drop(&mut self) {
        let Some(Reply { sink, tag }) = self.reply.take() else { return };
        let tell = || sink.complete(vec![Completion { tag, outcome: Outcome::Unknown }]);
        // A second panic on the way out of the first would end the process.
        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(tell)));
    }
}

#[expect(clippy::disallowed_methods, reason = "measures how long things take, decides nothing")]
fn stopwatch() -> Instant {
    Instant::now()
}

/// What the house-keeping thread is asked to do.
#[derive(Debug, Default)]
struct HouseCalls {
    work: bool,
    closing: bool,
}

#[derive(Debug, Default)]
struct Queue {
    pending: VecDeque<Pending>,
    closing: bool,
    /// The active journal is to be finished, however short it is.
    rotate: bool,
    /// How many ordered appends of each submitter were refused.
    refused: FastMap<u32, u64>,
}

impl Queue {
    fn count_refused(&mut self, submitter: Option<u32>) {
        if let Some(submitter) = submitter {
            *self.refused.entry(submitter).or_default() += 1;
        }
    }
}

/// A panic of another thread while it held a lock leaves nothing half done here: every critical
/// section writes whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Embedded {
    /// Opens the log in `config.dir`, recovering what is there, and starts its threads.
    ///
    /// # Errors
    /// [`OpenError`] if another process has it open, or if the disk does not let itself be read,
    /// written and synced. Damage is no error: it is set aside and in the report.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: EmbeddedConfig,
    ) -> Result<(Arc<Self>, RecoveryReport), OpenError> {
        let (inner, writer, report) = recover::open(disk, clock, config)?;
        let inner = Arc::new(inner);
        let committer = commit::Committer::new(Arc::clone(&inner), writer);
        // Dropped on the way out by an error, it ends the threads that have started.
        let log = Arc::new(Self { inner: Arc::clone(&inner), threads: Mutex::default() });
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(run);
            lock(&log.threads).push(thread.map_err(|source| OpenError::Thread { source })?);
            Ok(())
        };
        spawn("log-commit", Box::new(move || committer.run()))?;
        spawn("log-house", Box::new(move || house::run(&inner)))?;
        Ok((log, report))
    }

    /// Why the log takes no more appends, once a write or a sync has failed.
    #[must_use]
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.inner.poisoned.get().cloned()
    }

    /// The length above which retention takes the oldest records: as configured, or a part of the disk.
    #[must_use]
    pub fn retention_bytes(&self) -> u64 {
        self.inner.retention_bytes
    }

    /// How many bytes were appended since the log was opened, as its length counts them. It only grows.
    #[must_use]
    pub fn appended_bytes(&self) -> u64 {
        self.inner.appended_bytes.load(Ordering::Relaxed)
    }

    /// Does at once what the house-keeping thread does in the background: moves finished journals
    /// into segments, applies trims and retention. Blocks until it is done.
    ///
    /// # Errors
    /// What the disk says; everything stays readable and is tried again later.
    pub fn maintain(&self) -> std::io::Result<()> {
        lock(&self.inner.keeping).keep(&self.inner)
    }

    /// Commits what is queued, syncs, and refuses everything from now on. Blocks until it is done.
    pub fn close(&self) {
        lock(&self.inner.queue).closing = true;
        self.inner.queued.notify_all();
        lock(&self.inner.house).closing = true;
        self.inner.house_called.notify_all();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // The last owner may be a sink, which lets go of the log on the log's own thread.
            if thread.thread().id() == std::thread::current().id() {
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a thread of the log has panicked");
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// Remembers the first failure and says so once.
    fn poison(&self, cause: String) {
        tracing::error!(%cause, "log is poisoned: no append is accepted until restart");
        self.metrics.poisoned.set(1.0);
        // Only the first cause is kept.
        drop(self.poisoned.set(cause.into()));
    }

    /// Keeps count of the journals that wait for their segment.
    fn count_sealed(&self, sealed: &[Arc<Journal>]) {
        let frames: usize = sealed.iter().map(|journal| journal.frame_count).sum();
        self.sealed_count.store(sealed.len() as u64, Ordering::Relaxed);
        self.sealed_frames.store(frames as u64, Ordering::Relaxed);
    }

    fn poison_refusal(&self) -> Option<Refusal> {
        self.poisoned.get().map(|cause| Refusal::Poisoned { cause: Arc::clone(cause) })
    }

    /// Refuses while less than the reserve would be left.
    fn check_space(&self, wanted: u64) -> Result<(), Refusal> {
        // A disk that does not say how full it is gets its chance: the write will tell.
        let Ok(space) = self.disk.space(&self.config.dir) else { return Ok(()) };
        if space.free_bytes >= self.reserve_bytes.saturating_add(wanted) {
            return Ok(());
        }
        Err(Refusal::DiskFull { free_bytes: space.free_bytes, reserve_bytes: self.reserve_bytes })
    }

    /// Queues an append, or answers at once.
    fn take(&self, append: Append, reply: Option<Reply>, order: Option<InOrder>) {
        let outcome = if append.batches.is_empty() {
            // Nothing to write, so nothing to wait for.
            (Outcome::Committed(Vec::new()), reply)
        } else {
            match self.admit(append, reply, order) {
                Ok(()) => return,
                Err((refusal, reply)) => {
                    self.metrics.refused.increment(1);
                    lock(&self.queue).count_refused(order.map(|order| order.submitter));
                    (Outcome::Refused(refusal), reply)
                }
            }
        };
        if let (outcome, Some(Reply { sink, tag })) = outcome {
            sink.complete(vec![Completion { tag, outcome }]);
        }
    }

    /// Whether the active journal has been written for so long that it should end.
    fn is_journal_old(&self) -> bool {
        let age_max = (self.config.retention_age / JOURNAL_AGE_PART).min(JOURNAL_AGE_MAX);
        let age_max_ms = i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX);
        let since_ms = self.active_since_ms.load(Ordering::Relaxed);
        self.clock.now().as_millis().saturating_sub(age_max_ms) > since_ms
    }

    /// Whether so much waits for its segment that nothing more is taken.
    fn is_behind(&self) -> Option<Refusal> {
        let journals = self.sealed_count.load(Ordering::Relaxed);
        let frames = self.sealed_frames.load(Ordering::Relaxed);
        let is_behind = journals > SEALED_JOURNALS_MAX || frames > SEALED_FRAMES_MAX;
        is_behind.then_some(Refusal::Behind { journals, frames })
    }

    fn admit(
        &self,
        append: Append,
        reply: Option<Reply>,
        order: Option<InOrder>,
    ) -> Result<(), (Refusal, Option<Reply>)> {
        if let Some(refusal) = self.poison_refusal() {
            return Err((refusal, reply));
        }
        let mut bytes = 0;
        {
            let streams = read(&self.streams);
            for (partition, batch) in &append.batches {
                if streams.generation(*partition).is_none() {
                    return Err((Refusal::UnknownPartition(*partition), reply));
                }
                bytes += (FRAME_HEADER + batch.as_bytes().len()) as u64;
            }
        }
        if bytes > MAX_UNIT_BYTES {
            return Err((Refusal::TooLarge { bytes, max_bytes: MAX_UNIT_BYTES }, reply));
        }
        let capacity_bytes = self.config.queue_bytes;
        // Segments come too slowly, or not at all: what is in memory of the journals must not grow.
        if let Some(refusal) = self.is_behind() {
            return Err((refusal, reply));
        }
        let mut queue = lock(&self.queue);
        // Once more: a commit thread that has panicked empties the queue for the last time.
        if let Some(refusal) = self.poison_refusal() {
            return Err((refusal, reply));
        }
        if queue.closing {
            return Err((Refusal::Closing, reply));
        }
        if let Some(order) = order
            && queue.refused.get(&order.submitter).is_some_and(|refused| order.refusals_seen < *refused)
        {
            return Err((Refusal::AfterRefused, reply));
        }
        if self.queued_bytes.load(Ordering::Relaxed) + bytes > capacity_bytes {
            return Err((Refusal::Overloaded { capacity_bytes }, reply));
        }
        let total = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.metrics.queue_bytes.set(total as f64);
        let was_empty = queue.pending.is_empty();
        let submitter = order.map(|order| order.submitter);
        queue.pending.push_back(Pending { append, reply, submitter, bytes, queued_at: stopwatch() });
        drop(queue);
        // The commit thread sleeps only on an empty queue.
        if was_empty {
            self.queued.notify_one();
        }
        Ok(())
    }

    fn stream_partition_id(&self, partition: Partition) -> Option<PartitionId> {
        let streams = read(&self.streams);
        let stream = streams.get(partition.stream).filter(|stream| partition.index < stream.partitions)?;
        Some(PartitionId { stream: (*stream.id).clone(), index: partition.index })
    }
}

impl Log for Embedded {
    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        let inner = &*self.inner;
        // Held over the write, so that two callers cannot create one stream twice.
        let mut catalog = lock(&inner.catalog);
        let number = {
            let streams = read(&inner.streams);
            if let Some(stream) = streams.by_id.get(id).and_then(|number| streams.get(*number)) {
                return Ok(stream.clone());
            }
            streams.by_number.len() as u32
        };
        if let Some(refusal) = inner.poison_refusal() {
            return Err(refusal);
        }
        inner.check_space(0)?;
        let entry = CatalogEntry { number, partitions: partitions.max(1), id: id.clone() };
        if let Err(error) = catalog.append(&entry) {
            inner.poison(format!("cannot write the catalog: {error}"));
            return Err(inner.poison_refusal().unwrap_or(Refusal::Closing));
        }
        Ok(write(&inner.streams).insert(entry))
    }

    fn streams(&self) -> Vec<Stream> {
        read(&self.inner.streams).by_number.iter().flatten().cloned().collect()
    }

    fn partition_id(&self, partition: Partition) -> Option<PartitionId> {
        self.inner.stream_partition_id(partition)
    }

    fn submit(&self, append: Append, reply: Option<Reply>) {
        self.inner.take(append, reply, None);
    }

    fn submit_in_order(&self, append: Append, reply: Reply, order: InOrder) {
        self.inner.take(append, Some(reply), Some(order));
    }

    fn keeps_units_whole(&self) -> bool {
        true
    }

    fn queued_bytes(&self) -> u64 {
        match self.inner.is_behind() {
            Some(_) => self.inner.config.queue_bytes,
            None => self.inner.queued_bytes.load(Ordering::Relaxed),
        }
    }

    fn queue_capacity_bytes(&self) -> u64 {
        self.inner.config.queue_bytes
    }

    fn start(&self, partition: Partition) -> Position {
        self.inner
            .bounds(partition)
            .map_or(Position::ZERO, |(generation, bounds)| Position::new(generation, bounds.start))
    }

    fn watermark(&self, partition: Partition) -> Position {
        self.inner
            .bounds(partition)
            .map_or(Position::ZERO, |(generation, bounds)| Position::new(generation, bounds.end))
    }

    fn watch(&self, sink: Arc<dyn WatermarkSink>) {
        let mut watchers = write(&self.inner.watchers);
        Arc::make_mut(&mut watchers).push(sink);
    }

    fn watch_retention(&self, sink: Arc<dyn RetentionSink>) {
        write(&self.inner.retention_watchers).push(sink);
    }

    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        self.inner.read(partition, from, max_bytes)
    }

    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        self.inner.read_cached(partition, from, max_bytes)
    }

    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        self.inner.fetch(partition, refs)
    }

    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        self.inner.position_at(partition, time_ms)
    }

    fn trim(&self, partition: Partition, before: Position) {
        self.inner.trim(partition, before);
    }
}
