//! Journals become segments, and what is in them stays what it was.

use super::*;

#[test]
fn segments_take_over_from_journals() {
    let bed = Bed::small_journals();
    let (log, _) = bed.open();
    let stream = log.open_stream(&stream_id("s"), 3).unwrap();
    let parts: Vec<_> = (0..3).map(|index| stream.partition(index)).collect();
    for (n, value) in numbered(0..50) {
        put(&*log, parts[0], &[&value], Class::All);
        if n % 3 == 0 {
            put(&*log, parts[2], &[&format!("v{}", n / 3)], Class::All);
        }
    }
    log.maintain().unwrap();
    assert_eq!(bed.files("journal-").len(), 1);
    assert!(!bed.files("segment-").is_empty());
    let check = |log: &Embedded| {
        for max_bytes in [1, 500, 1 << 20] {
            assert_eq!(values(log, parts[0], 0, max_bytes), numbered(0..50));
            assert_eq!(values(log, parts[2], 0, max_bytes), numbered(0..17));
            assert_eq!(values(log, parts[1], 0, max_bytes), []);
        }
        for from in 0..50 {
            assert_eq!(values(log, parts[0], from, 300), numbered(from..50));
        }
    };
    check(&log);
    drop(log);
    let (log, report) = bed.open();
    assert_eq!((report.torn, report.corrupt, report.rebuilt), (vec![], vec![], Vec::<String>::new()));
    check(&log);
    // Without the checkpoint the segments themselves tell.
    drop(log);
    bed.files("checkpoint").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let (log, _) = bed.open();
    check(&log);
    assert_eq!(put(&*log, parts[2], &["v17"], Class::All), Outcome::Committed(vec![Position::new(0, 17)]));
}

#[test]
fn small_segments_are_merged_and_files_stay_few() {
    let mut bed = Bed::small_journals();
    bed.config.journal_bytes = 1 << 20;
    bed.config.open_files_max = 2;
    let p = bed.open().0.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for round in 0..30_u64 {
        let (log, _) = bed.open();
        put(&*log, p, &[&format!("v{round}")], Class::All);
        drop(log);
        bed.open().0.maintain().unwrap();
    }
    assert!(bed.files("segment-").len() < 12, "{:?}", bed.files("segment-"));
    let (log, _) = bed.open();
    assert_eq!(values(&*log, p, 0, 1), numbered(0..30));
}

#[test]
fn compressed_batches_are_fetched_record_by_record() {
    let bed = Bed::small_journals();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    let mut builder = BatchBuilder::new();
    for (_, value) in numbered(0..100) {
        builder.push(1, None, Some(value.as_bytes()), []).unwrap();
    }
    let batches = vec![(p, builder.finish(Compression::Zstd).unwrap())];
    assert_eq!(batches[0].1.compression(), Compression::Zstd);
    log.submit(Append { batches, class: Class::All }, None);
    put(&*log, p, &["v100"], Class::All);
    assert_eq!(values(&*log, p, 0, 1), numbered(0..101));
    for _ in 0..10 {
        put(&*log, p, &["x"], Class::All);
    }
    log.maintain().unwrap();
    assert_eq!(values(&*log, p, 0, 1)[..101], numbered(0..101));
}

#[test]
fn positions_are_found_by_time() {
    let bed = Bed::small_journals();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (_, value) in numbered(0..50) {
        put(&*log, p, &[&value], Class::All);
        bed.clock.advance(Duration::from_secs(1));
    }
    for moved in [false, true] {
        for n in 0..50 {
            let found = log.position_at(p, 1_000 + 1_000 * n).unwrap().offset;
            // Early by less than one block, never late.
            assert!(found <= n as u64 && found + 8 > n as u64, "{n} {found}");
        }
        assert_eq!(log.position_at(p, i64::MIN).unwrap(), Position::ZERO);
        assert_eq!(log.position_at(p, i64::MAX).unwrap(), log.watermark(p));
        if !moved {
            log.maintain().unwrap();
        }
    }
}

/// Flips every byte of a segment in turn: what comes out is right or missing, never wrong, and
/// nothing but the damaged batch is missing.
#[test]
fn a_flipped_byte_in_a_segment_loses_one_batch_at_most() {
    let bed = Bed::small_journals();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (_, value) in numbered(0..12) {
        put(&*log, p, &[&value], Class::All);
    }
    log.maintain().unwrap();
    drop(log);
    let segment = bed.files("segment-")[0].clone();
    let bytes = std::fs::read(&segment).unwrap();
    let expected = numbered(0..12);
    for at in (0..bytes.len()).filter(|at| *at < 400 && at % 3 == 0 || at % 97 == 0 || at + 90 > bytes.len()) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x40;
        std::fs::write(&segment, &bad).unwrap();
        let (log, _) = bed.open();
        let read = |log: &Embedded| {
            let mut found = Vec::new();
            let mut from = Position::ZERO;
            while from < log.watermark(p) {
                let read = log.read(p, from, 1).unwrap();
                for batch in &read.batches {
                    let records = batch.batch.records().unwrap();
                    let value = records.iter().next().unwrap().unwrap().value.unwrap().to_vec();
                    found.push((batch.base.offset, String::from_utf8(value).unwrap()));
                }
                from = read.next;
            }
            found
        };
        let found = read(&log);
        assert!(found.len() + 1 >= expected.len(), "byte {at}: {found:?}");
        assert!(found.iter().all(|value| expected.contains(value)), "byte {at}: {found:?}");
        drop(log);
        std::fs::remove_file(&segment).unwrap();
        std::fs::write(&segment, &bytes).unwrap();
    }
}

#[test]
fn a_segment_and_its_journal_after_a_crash_are_one() {
    let bed = Bed::small_journals();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    // The first journals are kept from before house-keeping, as a crash would leave them.
    let mut copies = Vec::new();
    {
        let _keeping = lock(&log.inner.keeping);
        for (_, value) in numbered(0..30) {
            put(&*log, p, &[&value], Class::All);
        }
        for path in bed.files("journal-") {
            copies.push((path.clone(), std::fs::read(path).unwrap()));
        }
        copies.pop();
    }
    log.maintain().unwrap();
    drop(log);
    assert!(copies.len() > 2);
    copies.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    let (log, report) = bed.open();
    assert_eq!((report.torn, report.corrupt, report.copied_bytes), (vec![], vec![], 0));
    assert_eq!(values(&*log, p, 0, 1), numbered(0..30));
}

#[test]
fn many_partitions_cost_little() {
    const PARTITIONS: u32 = 100_000;
    let mut bed = Bed::new();
    bed.config.tail_bytes = 1 << 20;
    let (log, _) = bed.open();
    let stream = log.open_stream(&stream_id("wide"), PARTITIONS).unwrap();
    let one = batch(&["v0".to_owned()]);
    for first in (0..PARTITIONS).step_by(1_000) {
        let batches = (first..first + 1_000).map(|index| (stream.partition(index), one.clone())).collect();
        log.submit(Append { batches, class: Class::Leader }, None);
    }
    log.close();
    drop(log);
    // Once from the journal, once from the segment.
    for _ in 0..2 {
        let (log, report) = bed.open();
        assert_eq!((report.torn, report.corrupt), (vec![], vec![]));
        for index in (0..PARTITIONS).step_by(997) {
            assert_eq!(values(&*log, stream.partition(index), 0, 1), numbered(0..1));
        }
        log.maintain().unwrap();
        assert_eq!(bed.files("segment-").len(), 1);
        assert_eq!(values(&*log, stream.partition(PARTITIONS - 1), 0, 1), numbered(0..1));
    }
}
