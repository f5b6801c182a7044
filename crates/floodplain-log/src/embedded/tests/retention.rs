//! What age, size and trimming take, and what they leave.

use super::*;

/// Keeps what retention says.
#[derive(Debug, Default)]
struct Passed(Mutex<Vec<(Partition, Position)>>);

impl RetentionSink for Passed {
    fn passed(&self, starts: &[(Partition, Position)]) {
        lock(&self.0).extend(starts);
    }
}

/// What retention has counted: segments, their bytes, and starts that it moved.
fn counted(counts: &Counts) -> [u64; 3] {
    ["segments", "bytes", "starts_moved"].map(|what| counts.get(&format!("floodplain_log_retention_{what}_total")))
}

/// The same as the disk saw it, with the starts that were told.
fn seen(bed: &Bed, starts: usize) -> [u64; 3] {
    let removed = lock(&bed.disk.0.removed_segments);
    [removed.len() as u64, removed.iter().sum(), starts as u64]
}

/// Bytes of all files with records.
fn log_bytes(bed: &Bed) -> u64 {
    let files = ["segment-", "journal-"].iter().flat_map(|prefix| bed.files(prefix));
    files.map(|path| path.metadata().unwrap().len()).sum()
}

#[test]
fn retention_by_age_keeps_positions_and_tells() {
    let bed = Bed::small_journals();
    let counts = Counts::default();
    let log = bed.open_counted(&counts);
    let stream = log.open_stream(&stream_id("s"), 2).unwrap();
    let (p, idle) = (stream.partition(0), stream.partition(1));
    let passed = Arc::new(Passed::default());
    log.watch_retention(Arc::clone(&passed) as _);
    put(&*log, idle, &["old"], Class::All);
    for (_, value) in numbered(0..20) {
        put(&*log, p, &[&value], Class::All);
    }
    log.maintain().unwrap();
    assert_eq!(counted(&counts), [0; 3]);
    let old = log.read(p, Position::ZERO, 1).unwrap();
    bed.clock.advance(Duration::from_hours(8 * 24));
    for _ in 0..10 {
        put(&*log, p, &["new"], Class::All);
    }
    log.maintain().unwrap();
    let start = log.start(p);
    assert!(start.offset > 10 && start.offset <= 20, "{start}");
    assert_eq!(log.start(idle), Position::new(0, 1));
    assert!(lock(&passed.0).contains(&(idle, Position::new(0, 1))));
    assert!(matches!(log.read(p, Position::ZERO, 1), Err(ReadError::Trimmed { start: s, .. }) if s == start));
    let record = old.batches[0].batch.records().unwrap();
    let gone = old.batches[0].record_ref(&record.iter().next().unwrap().unwrap());
    assert!(log.fetch(p, &[gone]).unwrap().is_empty());
    assert_eq!(values(&*log, p, start.offset, 1).len() as u64, 30 - start.offset);
    // Nothing is left of the idle partition, and still its positions go on.
    drop(log);
    let passed = lock(&passed.0).len();
    assert!(passed > 2, "{passed}");
    assert_eq!(counted(&counts), seen(&bed, passed));
    let (log, _) = bed.open();
    assert_eq!((log.start(idle), log.watermark(idle)), (Position::new(0, 1), Position::new(0, 1)));
    assert_eq!(log.start(p), start);
    assert_eq!(put(&*log, idle, &["next"], Class::All), Outcome::Committed(vec![Position::new(0, 1)]));
    assert_eq!(values(&*log, idle, 1, 1), [(1, "next".to_owned())]);
}

#[test]
fn retention_waits_for_its_delay() {
    let mut bed = Bed::small_journals();
    for delay in [Duration::from_hours(1), Duration::ZERO] {
        bed.config.retention_delay = delay;
        let (log, _) = bed.open();
        let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
        for (_, value) in numbered(0..20) {
            put(&*log, p, &[&value], Class::All);
        }
        bed.clock.advance(Duration::from_hours(8 * 24));
        log.maintain().unwrap();
        assert_eq!(log.start(p) > Position::ZERO, delay.is_zero());
    }
}

#[test]
fn retention_by_size_takes_the_oldest() {
    let mut bed = Bed::small_journals();
    bed.config.retention_bytes = Some(6_000);
    keeps_at_most(6_000, &bed);
}

/// Puts more into the log than it may have, and sees that the oldest goes, and no more than must.
fn keeps_at_most(max_bytes: u64, bed: &Bed) {
    let (counts, passed) = (Counts::default(), Arc::new(Passed::default()));
    let log = bed.open_counted(&counts);
    log.watch_retention(Arc::clone(&passed) as _);
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (_, value) in numbered(0..100) {
        put(&*log, p, &[&value], Class::All);
    }
    log.maintain().unwrap();
    let bytes = log_bytes(bed);
    let last_removed = lock(&bed.disk.0.removed_segments).last().copied().unwrap();
    assert!(bytes <= max_bytes && bytes + last_removed > max_bytes, "{bytes} bytes, {last_removed} were removed last");
    let start = log.start(p).offset;
    assert!(start > 0 && start < 100);
    assert_eq!(values(&*log, p, start, 1), numbered(start..100));
    drop(log);
    let passed = lock(&passed.0).len();
    assert_eq!(counted(&counts), seen(bed, passed));
    // Each segment has more of the one partition.
    assert_eq!(counted(&counts)[0], passed as u64);
}

#[test]
fn retention_keeps_a_fifth_of_the_disk_by_default() {
    for (total_bytes, max_bytes) in [(30_000, 6_000), (100_000, 20_000)] {
        let bed = Bed::small_journals();
        assert_eq!(bed.config.retention_bytes, None);
        bed.disk.0.total_bytes.store(total_bytes, Ordering::SeqCst);
        keeps_at_most(max_bytes, &bed);
    }
    // A disk that it is no fifth of.
    let bed = Bed::small_journals();
    bed.disk.0.total_bytes.store(10_000_000, Ordering::SeqCst);
    let counts = Counts::default();
    let log = bed.open_counted(&counts);
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (_, value) in numbered(0..100) {
        put(&*log, p, &[&value], Class::All);
    }
    log.maintain().unwrap();
    assert!(log_bytes(&bed) > 30_000);
    assert_eq!((log.start(p), counted(&counts)), (Position::ZERO, [0; 3]));
}

/// With journals that are longer than what is kept, retention would take all that was there, as soon as one ended.
#[test]
fn retention_by_size_keeps_most_of_it_whatever_the_length_of_journals() {
    const KEPT_BYTES: u64 = 16 << 20;
    let mut bed = Bed::new();
    bed.config.retention_bytes = Some(KEPT_BYTES);
    let (log, _) = bed.open();
    assert_eq!((log.retention_bytes(), log.appended_bytes()), (KEPT_BYTES, 0));
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    let value = "x".repeat(256 << 10);
    let mut most = 0;
    for n in 1..=256_u64 {
        put(&*log, p, &[&value], Class::All);
        log.maintain().unwrap();
        let kept = n - log.start(p).offset;
        most = most.max(kept);
        assert!(kept >= n.min(7 * KEPT_BYTES / 8 / value.len() as u64 - 1), "{kept} records of {n}");
    }
    assert!(most <= 66, "{most} records are more than is to be kept");
    let bytes = log.appended_bytes();
    assert!((256 * value.len() as u64..257 * value.len() as u64).contains(&bytes), "{bytes}");
}

#[test]
fn trimming_takes_whole_segments_in_time() {
    let bed = Bed::small_journals();
    let counts = Counts::default();
    let log = bed.open_counted(&counts);
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (_, value) in numbered(0..50) {
        put(&*log, p, &[&value], Class::All);
    }
    log.maintain().unwrap();
    let before = bed.files("segment-").len();
    log.trim(p, Position::new(0, 25));
    assert_eq!(log.start(p), Position::new(0, 25));
    log.maintain().unwrap();
    assert!(bed.files("segment-").len() < before);
    assert_eq!(values(&*log, p, 25, 1), numbered(25..50));
    drop(log);
    // What was allowed to go counts as removed, but the start is not retention's doing.
    assert_eq!(counted(&counts), seen(&bed, 0));
    assert_eq!(counted(&counts)[0], (before - bed.files("segment-").len()) as u64);
    let (log, _) = bed.open();
    assert_eq!(log.start(p), Position::new(0, 25));
    log.trim(p, Position::new(0, 1_000));
    assert_eq!(log.start(p), log.watermark(p));
}
