//! How fast the log takes records, and what that costs: `cargo bench -p floodplain-log --bench append`.
//!
//! Writers are state, not threads: each has one record under way and sends the next when that one is
//! acknowledged. Two threads serve all of them, as the workers of the server do: what has been
//! acknowledged at a wake-up goes out again as one append unit with a batch per partition.
//! Prints Markdown.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use floodplain_log::{
    Append, Batch, BatchBuilder, Completion, CompletionSink, Compression, Disk, DiskFile, Embedded, EmbeddedConfig,
    Entry, Log, MessageRef, OsDisk, Outcome, Partition, Reply, Space, Stream,
};
use floodplain_types::{Class, StreamId, StreamName, SystemClock, TenantId};
use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const CELL: Duration = Duration::from_millis(1_500);
const PAYLOAD_BYTES: usize = 200;

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` only want to know that it runs.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{PAYLOAD_BYTES} B payload, {cores} cores, {} ms per cell\n", CELL.as_millis());
    println!(
        "| class | partitions | writers | records/s | MB/s of batches | records per sync | sync p50 ms | sync p99 ms | CPU µs per record |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for class in [Class::None, Class::Leader, Class::All] {
        for partitions in [1, 4, 16, 64] {
            for writers in [1, 100, 10_000] {
                cell(class, partitions, writers);
            }
        }
    }
    println!(
        "\nOf the CPU time, {:.2} µs per record are the writers' own: encoding a message into a batch.",
        encode_cost()
    );
    amplification();
    recovery();
}

fn bench_dir() -> tempfile::TempDir {
    // Beside the other artefacts: `/tmp` is memory on some machines, and memory has no sync.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Counts and times what reaches the disk.
#[derive(Debug, Default)]
struct Meter {
    written: AtomicU64,
    syncs: Mutex<Vec<Duration>>,
}

#[derive(Debug, Clone, Default)]
struct MeteredDisk(Arc<Meter>);

#[derive(Debug)]
struct MeteredFile(Arc<dyn DiskFile>, Arc<Meter>, bool);

impl MeteredDisk {
    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let is_journal = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-"));
        Arc::new(MeteredFile(file, Arc::clone(&self.0), is_journal))
    }
}

impl Disk for MeteredDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, OsDisk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path, OsDisk.open(path)?))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        OsDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        OsDisk.space(path)
    }
    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        // The crash that recovery is measured after happens inside this process.
        Ok(Box::new(()))
    }
}

impl DiskFile for MeteredFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buf, at)
    }
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        let written = self.0.write_at(buf, at)?;
        self.1.written.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }
    fn sync(&self) -> io::Result<()> {
        let started = Instant::now();
        self.0.sync()?;
        if self.2 {
            self.1.syncs.lock().unwrap().push(started.elapsed());
        }
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

fn open(
    disk: &MeteredDisk,
    dir: &Path,
    partitions: u32,
    set: impl FnOnce(&mut EmbeddedConfig),
) -> (Arc<Embedded>, Stream) {
    let mut config = EmbeddedConfig::new(dir);
    set(&mut config);
    let (log, _) = Embedded::open(Arc::new(disk.clone()), Arc::new(SystemClock), config).unwrap();
    let id =
        StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("telemetry").unwrap(), generation: 0 };
    let stream = log.open_stream(&id, partitions).unwrap();
    (log, stream)
}

/// What one thread is told by the log.
#[derive(Debug, Default)]
struct Mailbox {
    completions: Mutex<Vec<Completion>>,
    arrived: Condvar,
}

impl CompletionSink for Mailbox {
    fn complete(&self, completions: Vec<Completion>) {
        self.completions.lock().unwrap().extend(completions);
        self.arrived.notify_one();
    }
}

impl Mailbox {
    fn take(&self) -> Vec<Completion> {
        let mut completions = self.completions.lock().unwrap();
        while completions.is_empty() {
            completions = self.arrived.wait(completions).unwrap();
        }
        std::mem::take(&mut completions)
    }
}

/// Serves its writers until told to stop; gives acknowledged records and bytes of batches.
fn serve(log: &Embedded, stream: &Stream, class: Class, writers: Vec<u32>, stop: &AtomicBool) -> (u64, u64) {
    let mailbox = Arc::new(Mailbox::default());
    let keys: HashMap<u32, (String, Partition)> = writers
        .iter()
        .map(|writer| {
            let key = format!("device-{writer:05}");
            let partition = stream.partition(writer % stream.partitions);
            (*writer, (key, partition))
        })
        .collect();
    let payload = [b'x'; PAYLOAD_BYTES];
    let mut builders: HashMap<Partition, BatchBuilder> = HashMap::new();
    let mut under_way: HashMap<u64, Vec<u32>> = HashMap::new();
    let (mut ready, mut tag, mut acked, mut bytes) = (writers, 0, 0, 0);
    loop {
        if !stop.load(Ordering::Relaxed) && !ready.is_empty() {
            for writer in &ready {
                let (key, partition) = &keys[writer];
                push(builders.entry(*partition).or_default(), key, &payload);
            }
            let batches: Vec<(Partition, Batch)> = builders
                .iter_mut()
                .filter_map(|(partition, builder)| Some((*partition, builder.finish(Compression::None)?)))
                .collect();
            bytes += batches.iter().map(|(_, batch)| batch.as_bytes().len() as u64).sum::<u64>();
            under_way.insert(tag, std::mem::take(&mut ready));
            log.submit(Append { batches, class }, Some(Reply { sink: Arc::clone(&mailbox) as _, tag }));
            tag += 1;
        }
        if under_way.is_empty() {
            return (acked, bytes);
        }
        for completion in mailbox.take() {
            assert!(matches!(completion.outcome, Outcome::Committed(_)), "{:?}", completion.outcome);
            let writers = under_way.remove(&completion.tag).unwrap();
            acked += writers.len() as u64;
            ready.extend(writers);
        }
    }
}

fn push(builder: &mut BatchBuilder, key: &str, payload: &[u8]) {
    let message =
        MessageRef { topic: "fleet/truck/position", payload, key: key.as_bytes(), qos: 1, ..MessageRef::default() };
    message.write(builder, 1_700_000_000_000, std::iter::empty()).unwrap();
}

fn cell(class: Class, partitions: u32, writers: u32) {
    let dir = bench_dir();
    let disk = MeteredDisk::default();
    let (log, stream) = open(&disk, dir.path(), partitions, |_| {});
    let stop = AtomicBool::new(false);
    disk.0.syncs.lock().unwrap().clear();
    let (cpu, started) = (cpu_time(), Instant::now());
    let (records, bytes, cpu) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2_u32)
            .map(|thread| {
                let mine: Vec<u32> = (0..writers).filter(|writer| writer % 2 == thread).collect();
                let (log, stream, stop) = (&*log, &stream, &stop);
                scope.spawn(move || if mine.is_empty() { (0, 0) } else { serve(log, stream, class, mine, stop) })
            })
            .collect();
        std::thread::sleep(CELL);
        // Threads that have ended do not count any more, so this comes first.
        let cpu = cpu_time() - cpu;
        stop.store(true, Ordering::Relaxed);
        let sums = threads.into_iter().map(|thread| thread.join().unwrap());
        let (records, bytes) = sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (records, bytes, cpu)
    });
    let seconds = started.elapsed().as_secs_f64();
    let syncs = std::mem::take(&mut *disk.0.syncs.lock().unwrap());
    println!(
        "| {class} | {partitions} | {writers} | {:.0} | {:.1} | {:.0} | {:.2} | {:.2} | {:.2} |",
        records as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        records as f64 / syncs.len().max(1) as f64,
        quantile(&syncs, 0.5),
        quantile(&syncs, 0.99),
        cpu.as_secs_f64() * 1e6 / records.max(1) as f64,
    );
}

fn quantile(durations: &[Duration], q: f64) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let idx = ((sorted.len().max(1) - 1) as f64 * q) as usize;
    sorted.get(idx).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}

/// CPU time of all threads that are alive.
fn cpu_time() -> Duration {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end between the listing and the reading.
        let stat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
        nanos += stat.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Duration::from_nanos(nanos)
}

fn encode_cost() -> f64 {
    const BATCH: u32 = 100;
    let mut builder = BatchBuilder::new();
    let payload = [b'x'; PAYLOAD_BYTES];
    let rounds = 5_000;
    let started = cpu_time();
    for _ in 0..rounds {
        (0..BATCH).for_each(|_| push(&mut builder, "device-00000", &payload));
        std::hint::black_box(builder.finish(Compression::None));
    }
    (cpu_time() - started).as_secs_f64() * 1e6 / f64::from(rounds * BATCH)
}

/// A batch of 16 messages, about 4.3 kB.
fn batch_of_16() -> Batch {
    let mut builder = BatchBuilder::new();
    (0..16).for_each(|n| push(&mut builder, &format!("device-{n:05}"), &[b'x'; PAYLOAD_BYTES]));
    builder.finish(Compression::None).unwrap()
}

/// Appends `bytes` of batches to 16 partitions and waits for all of them.
fn fill(log: &Embedded, stream: &Stream, bytes: u64) -> u64 {
    let mailbox = Arc::new(Mailbox::default());
    let batch = batch_of_16();
    let (mut sent, mut open, mut n) = (0, 0, 0);
    while sent < bytes || open > 0 {
        while sent < bytes && log.queued_bytes() < log.queue_capacity_bytes() / 2 {
            let batches: Vec<_> =
                (0..64).map(|idx| (stream.partition((n + idx) % stream.partitions), batch.clone())).collect();
            sent += 64 * batch.as_bytes().len() as u64;
            let sink = Arc::clone(&mailbox) as Arc<dyn CompletionSink>;
            log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: u64::from(n) }));
            (open, n) = (open + 1, n + 1);
        }
        for completion in mailbox.take() {
            assert!(matches!(completion.outcome, Outcome::Committed(_)), "{:?}", completion.outcome);
            open -= 1;
        }
    }
    sent
}

fn amplification() {
    let dir = bench_dir();
    let disk = MeteredDisk::default();
    let (log, stream) = open(&disk, dir.path(), 16, |_| {});
    let started = Instant::now();
    let sent = fill(&log, &stream, 512 << 20);
    let filled = started.elapsed().as_secs_f64();
    log.maintain().unwrap();
    let written = disk.0.written.load(Ordering::Relaxed);
    println!(
        "\nWrite amplification: {:.2} ({:.0} MB of batches, {:.0} MB written; one journal of 64 MiB at most is not yet a segment). Taken at {:.0} MB/s with segments made beside it.",
        written as f64 / sent as f64,
        sent as f64 / 1e6,
        written as f64 / 1e6,
        sent as f64 / 1e6 / filled,
    );
}

fn recovery() {
    println!("\n| Recovery of one journal | GB | seconds | seconds per GB |\n|---|--:|--:|--:|");
    for (closed, name) in [(true, "closed in order: read and checked"), (false, "after a crash: and written again")] {
        let dir = bench_dir();
        let disk = MeteredDisk::default();
        // One journal, much longer than they are by default.
        let (log, stream) = open(&disk, dir.path(), 16, |config| config.journal_bytes = 2 << 30);
        let sent = fill(&log, &stream, 512 << 20) as f64 / 1e9;
        if closed {
            drop(log);
        } else {
            std::mem::forget(log);
        }
        let config = EmbeddedConfig::new(dir.path());
        let (log, report) = Embedded::open(Arc::new(disk.clone()), Arc::new(SystemClock), config).unwrap();
        assert_eq!((report.torn.len(), report.corrupt.len(), report.copied_bytes > 0), (0, 0, !closed));
        let seconds = report.duration.as_secs_f64();
        println!("| {name} | {sent:.2} | {seconds:.2} | {:.2} |", seconds / sent);
        drop(log);
    }
}
