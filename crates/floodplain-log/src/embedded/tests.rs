//! The engine on real files, with switches for what goes wrong; first what appends and reads do.

mod failures;
mod retention;
mod segments;

use super::*;
use crate::{Batch, BatchBuilder, Compression, Record, append, disk::DiskFile, files::DataFile};
use floodplain_testkit::Counts;
use floodplain_types::{Class, ManualClock, StreamName, TenantId, Timestamp};
use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicI64},
};

pub(super) fn stream_id(name: &str) -> StreamId {
    StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new(name).unwrap(), generation: 0 }
}

pub(super) fn batch(values: &[String]) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(7, Some(b"device"), Some(value.as_bytes()), [("fp.t", &b"t"[..])]).unwrap();
    }
    builder.finish(Compression::None).unwrap()
}

/// The real disk, with switches for what goes wrong.
#[derive(Debug, Default)]
pub(super) struct Switched {
    pub fail_sync: AtomicBool,
    pub fail_write: AtomicBool,
    /// Reported instead of the truth unless negative.
    pub free_bytes: AtomicI64,
    /// Reported instead of the truth unless negative.
    pub total_bytes: AtomicI64,
    /// Lengths of segments that were removed.
    pub removed_segments: Mutex<Vec<u64>>,
}

#[derive(Debug)]
struct SwitchedFile(Arc<dyn DiskFile>, Arc<Switched>);

#[derive(Debug, Clone)]
pub(super) struct SwitchedDisk(pub Arc<Switched>);

impl SwitchedDisk {
    pub(super) fn new() -> Self {
        Self(Arc::new(Switched {
            free_bytes: AtomicI64::new(-1),
            total_bytes: AtomicI64::new(-1),
            ..Switched::default()
        }))
    }
}

impl crate::Disk for SwitchedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SwitchedFile(crate::OsDisk.create(path)?, Arc::clone(&self.0))))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SwitchedFile(crate::OsDisk.open(path)?, Arc::clone(&self.0))))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<crate::Entry>> {
        crate::OsDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        crate::OsDisk.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        crate::OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-")) {
            lock(&self.0.removed_segments).push(path.metadata()?.len());
        }
        crate::OsDisk.remove(path)
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn space(&self, path: &Path) -> io::Result<crate::Space> {
        let space = crate::OsDisk.space(path)?;
        let told = |told: &AtomicI64, truth: u64| u64::try_from(told.load(Ordering::SeqCst)).unwrap_or(truth);
        Ok(crate::Space {
            free_bytes: told(&self.0.free_bytes, space.free_bytes),
            total_bytes: told(&self.0.total_bytes, space.total_bytes),
        })
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        crate::OsDisk.lock(path)
    }
}

impl DiskFile for SwitchedFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buf, at)
    }
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        if self.1.fail_write.load(Ordering::SeqCst) {
            // Half of it arrives.
            self.0.write_at(&buf[..buf.len() / 2], at)?;
            return Err(io::Error::other("made to fail"));
        }
        self.0.write_at(buf, at)
    }
    fn sync(&self) -> io::Result<()> {
        if self.1.fail_sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("made to fail"));
        }
        // Nobody cuts the power here.
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

pub(super) struct Bed {
    _dir: tempfile::TempDir,
    pub disk: SwitchedDisk,
    pub clock: Arc<ManualClock>,
    pub config: EmbeddedConfig,
}

impl Bed {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EmbeddedConfig::new(dir.path().join("log"));
        config.reserve_bytes = Some(0);
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
        Self { _dir: dir, disk: SwitchedDisk::new(), clock, config }
    }

    /// Journals of a few groups each.
    pub(super) fn small_journals() -> Self {
        let mut bed = Self::new();
        bed.config.journal_bytes = 1_000;
        bed.config.tail_bytes = 0;
        bed
    }

    pub(super) fn open(&self) -> (Arc<Embedded>, RecoveryReport) {
        Embedded::open(Arc::new(self.disk.clone()), Arc::clone(&self.clock) as Arc<dyn Clock>, self.config.clone())
            .unwrap()
    }

    /// The same, and what it counts is counted there.
    pub(super) fn open_counted(&self, counts: &Counts) -> Arc<Embedded> {
        metrics::with_local_recorder(counts, || self.open()).0
    }

    pub(super) fn log_dir(&self) -> &Path {
        &self.config.dir
    }

    /// Paths of the files whose name starts so, in order.
    pub(super) fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let mut names: Vec<_> = std::fs::read_dir(self.log_dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
            .collect();
        names.sort();
        names
    }
}

pub(super) fn put(log: &dyn Log, partition: Partition, values: &[&str], class: Class) -> Outcome {
    let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
    let batches = vec![(partition, batch(&values))];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(append(log, Append { batches, class }))
}

/// All values of a partition from `from` on, with their offsets; every record also by reference.
pub(super) fn values(log: &dyn Log, partition: Partition, from: u64, max_bytes: usize) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut at = Position::new(0, from);
    loop {
        let read = log.read(partition, at, max_bytes).unwrap();
        for batch in &read.batches {
            let records = batch.batch.records().unwrap();
            let mut refs = Vec::new();
            for record in &records {
                let record = record.unwrap();
                let position = batch.position(&record);
                refs.push(batch.record_ref(&record));
                if position >= at {
                    found.push((position.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
                }
            }
            let fetched = log.fetch(partition, &refs).unwrap();
            let by_ref: Vec<_> =
                fetched.iter().map(|record| Record::parse(&record.bytes).unwrap().value.map(<[u8]>::to_vec)).collect();
            let direct: Vec<_> = records.iter().map(|record| record.unwrap().value.map(<[u8]>::to_vec)).collect();
            assert_eq!(by_ref, direct);
        }
        if read.next == at || read.next >= log.watermark(partition) {
            assert_eq!(read.next, log.watermark(partition));
            return found;
        }
        at = read.next;
    }
}

pub(super) fn numbered(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|n| (n, format!("v{n}"))).collect()
}

#[test]
fn what_was_appended_is_read_also_after_a_restart() {
    let bed = Bed::new();
    for round in 0..3_u64 {
        let (log, report) = bed.open();
        assert_eq!((report.torn, report.corrupt, report.copied_bytes), (vec![], vec![], 0));
        let stream = log.open_stream(&stream_id("telemetry"), 4).unwrap();
        let p = stream.partition(2);
        assert_eq!(log.watermark(p), Position::new(0, round * 20));
        for n in 0..10 {
            let base = round * 20 + n * 2;
            let class = [Class::None, Class::Leader, Class::All][n as usize % 3];
            let outcome = put(&*log, p, &[&format!("v{base}"), &format!("v{}", base + 1)], class);
            assert_eq!(outcome, Outcome::Committed(vec![Position::new(0, base)]));
        }
        log.close();
        assert_eq!(put(&*log, p, &["x"], Class::All), Outcome::Refused(Refusal::Closing));
        let expected = numbered(0..(round + 1) * 20);
        for max_bytes in [1, 1 << 20] {
            assert_eq!(values(&*log, p, 0, max_bytes), expected);
            assert_eq!(values(&*log, p, 5, max_bytes), expected[5..]);
        }
    }
}

#[test]
fn memory_serves_the_tail_and_only_the_tail() {
    let mut bed = Bed::new();
    bed.config.tail_bytes = 2_000;
    let (log, _) = bed.open();
    let stream = log.open_stream(&stream_id("s"), 2).unwrap();
    let (p, other) = (stream.partition(0), stream.partition(1));
    for (_, value) in numbered(0..40) {
        put(&*log, p, &[&value], Class::All);
    }
    assert!(log.read_cached(p, Position::ZERO, 1 << 20).is_none());
    let read = log.read_cached(p, Position::new(0, 38), 1 << 20).unwrap();
    assert_eq!((read.batches.len(), read.next), (2, Position::new(0, 40)));
    assert!(log.read_cached(p, Position::new(0, 40), 1).unwrap().batches.is_empty());
    assert!(log.read_cached(other, Position::ZERO, 1).unwrap().batches.is_empty());
    assert_eq!(values(&*log, p, 0, 300), numbered(0..40));
}

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Told {
    completions: Mutex<Vec<Completion>>,
    watermarks: Mutex<Vec<(Partition, Position)>>,
}

impl crate::CompletionSink for Told {
    fn complete(&self, completions: Vec<Completion>) {
        lock(&self.completions).extend(completions);
    }
}

impl WatermarkSink for Told {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        lock(&self.watermarks).extend(watermarks);
    }
}

#[test]
fn a_unit_of_many_partitions_moves_every_watermark_once() {
    let bed = Bed::new();
    let (log, _) = bed.open();
    let stream = log.open_stream(&stream_id("s"), 3).unwrap();
    let told = Arc::new(Told::default());
    log.watch(Arc::clone(&told) as _);
    let (a, b) = (stream.partition(0), stream.partition(2));
    let one = || batch(&["x".to_owned()]);
    let batches = vec![(a, one()), (b, one()), (a, one())];
    log.submit(Append { batches, class: Class::All }, Some(Reply { sink: Arc::clone(&told) as _, tag: 9 }));
    log.close();
    let positions = vec![Position::ZERO, Position::ZERO, Position::new(0, 1)];
    assert_eq!(*lock(&told.completions), [Completion { tag: 9, outcome: Outcome::Committed(positions) }]);
    assert_eq!(*lock(&told.watermarks), [(a, Position::new(0, 2)), (b, Position::new(0, 1))]);
}

#[test]
fn reading_beyond_the_end_stays_there() {
    let bed = Bed::new();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    put(&*log, p, &["v0"], Class::All);
    for from in [Position::new(0, 1), Position::new(0, 9), Position::new(1, 0)] {
        assert_eq!(log.read(p, from, 1).unwrap().next, from);
        assert_eq!(log.read_cached(p, from, 1).unwrap().next, from);
    }
}

/// A sink that owns the log it is told by.
#[derive(Debug)]
struct Owner(Mutex<Option<Arc<Embedded>>>, std::sync::mpsc::SyncSender<()>);

impl crate::CompletionSink for Owner {
    fn complete(&self, _: Vec<Completion>) {
        drop(lock(&self.0).take());
        self.1.send(()).unwrap();
    }
}

#[test]
fn the_last_owner_may_let_go_on_the_commit_thread() {
    let bed = Bed::new();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    let (done, told) = std::sync::mpsc::sync_channel(1);
    let weak = Arc::downgrade(&log);
    let sink = Arc::new(Owner(Mutex::new(Some(Arc::clone(&log))), done));
    drop(log);
    let append = Append { batches: vec![(p, batch(&["x".to_owned()]))], class: Class::All };
    weak.upgrade().unwrap().submit(append, Some(Reply { sink, tag: 0 }));
    told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(weak.upgrade().is_none());
}

#[test]
fn refusals_name_their_reason() {
    let mut bed = Bed::new();
    bed.config.queue_bytes = 300;
    bed.config.reserve_bytes = Some(1 << 20);
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    let foreign = Partition { stream: 0, index: 1 };
    assert_eq!(put(&*log, foreign, &["x"], Class::All), Outcome::Refused(Refusal::UnknownPartition(foreign)));
    let words = format!(
        "this log has no partition {} of stream number {}: open its stream first",
        foreign.index, foreign.stream
    );
    assert_eq!(Refusal::UnknownPartition(foreign).to_string(), words);
    assert_eq!(ReadError::UnknownPartition(foreign).to_string(), words);
    let long = "x".repeat(400);
    assert_eq!(put(&*log, p, &[&long], Class::All), Outcome::Refused(Refusal::Overloaded { capacity_bytes: 300 }));
    let huge = "x".repeat(MAX_UNIT_BYTES as usize);
    assert!(matches!(put(&*log, p, &[&huge], Class::All), Outcome::Refused(Refusal::TooLarge { .. })));

    bed.disk.0.free_bytes.store(1 << 19, Ordering::SeqCst);
    let full = Refusal::DiskFull { free_bytes: 1 << 19, reserve_bytes: 1 << 20 };
    assert_eq!(put(&*log, p, &["x"], Class::All), Outcome::Refused(full.clone()));
    assert_eq!(log.open_stream(&stream_id("new"), 1).unwrap_err(), full);
    assert!(log.open_stream(&stream_id("s"), 1).is_ok());
    // Resumes by itself.
    bed.disk.0.free_bytes.store(-1, Ordering::SeqCst);
    assert_eq!(put(&*log, p, &["x"], Class::All), Outcome::Committed(vec![Position::ZERO]));
    assert_eq!(log.queued_bytes(), 0);
}

#[test]
fn groups_do_not_grow_without_bound() {
    let bed = Bed::new();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    let told = Arc::new(Told::default());
    let big = batch(&["x".repeat(3 << 20)]);
    for tag in 0..8 {
        let append = Append { batches: vec![(p, big.clone()), (p, big.clone())], class: Class::All };
        log.submit(append, Some(Reply { sink: Arc::clone(&told) as _, tag }));
    }
    log.close();
    let tags: Vec<_> = lock(&told.completions).iter().map(|completion| completion.tag).collect();
    assert_eq!(tags, (0..8).collect::<Vec<_>>());
    drop(log);
    let (log, report) = bed.open();
    assert_eq!((report.torn, report.corrupt), (vec![], vec![]));
    assert_eq!(log.watermark(p), Position::new(0, 16));
}
