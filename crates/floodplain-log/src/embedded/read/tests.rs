use crate::{
    Log, Outcome, Partition, RecordRef,
    embedded::tests::{Bed, batch, numbered, put, stream_id},
    frame::FRAME_HEADER,
};
use floodplain_types::{Class, Position};
use std::{path::Path, time::Duration};

/// Ten records in ten batches, nothing in memory.
fn ten(bed: &mut Bed) -> (std::sync::Arc<super::super::Embedded>, Partition) {
    bed.config.tail_bytes = 0;
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (n, value) in numbered(0..10) {
        assert_eq!(put(&*log, p, &[&value], Class::All), Outcome::Committed(vec![Position::new(0, n)]));
    }
    (log, p)
}

/// Values, lost offsets, and references, read from `from` on.
fn read_all(log: &dyn Log, p: Partition, from: u64, max_bytes: usize) -> (Vec<String>, Vec<u64>, Vec<RecordRef>) {
    let (mut values, mut lost, mut refs) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = Position::new(0, from);
    while at < log.watermark(p) {
        let read = log.read(p, at, max_bytes).unwrap();
        assert!(read.next > at, "a read goes on");
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                refs.push(batch.record_ref(&record));
            }
        }
        lost.extend(read.damaged.into_iter().take(20).flat_map(|range| range.start.offset..range.end.offset));
        at = read.next;
    }
    (values, lost, refs)
}

fn change(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    // The same file: the log has it open.
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
}

/// Flips a bit in each value of `values`.
fn flip(path: &Path, values: &[&str]) {
    change(path, |bytes| {
        for value in values {
            // With key and length before it: two bytes alone may also be in a checksum.
            let record = [b"device", &[2 * value.len() as u8][..], value.as_bytes()].concat();
            let at = bytes.windows(record.len()).position(|found| found == record).unwrap();
            bytes[at + record.len() - value.len()] ^= 1;
        }
    });
}

fn without(lost: &[u64]) -> Vec<String> {
    numbered(0..10).into_iter().filter(|(n, _)| !lost.contains(n)).map(|(_, value)| value).collect()
}

#[test]
fn damage_in_a_journal_hides_nothing_behind_it() {
    for lost in [vec![0], vec![2, 3, 4], vec![9], vec![1, 5], (0..10).collect()] {
        for max_bytes in [1, 300, 1 << 20] {
            let mut bed = Bed::new();
            let (log, p) = ten(&mut bed);
            let (.., refs) = read_all(&*log, p, 0, 1);
            let values: Vec<_> = lost.iter().map(|n| format!("v{n}")).collect();
            flip(&bed.files("journal-")[0], &values.iter().map(String::as_str).collect::<Vec<_>>());
            let found = read_all(&*log, p, 0, max_bytes);
            assert_eq!((found.0, found.1), (without(&lost), lost.clone()), "{max_bytes}");
            // References are answered one by one.
            let fetched: Vec<_> = log.fetch(p, &refs).unwrap().iter().map(|record| record.position.offset).collect();
            assert_eq!(fetched, (0..10).filter(|n| !lost.contains(n)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn what_damage_took_is_known_for_ever() {
    let mut bed = Bed::new();
    let (log, p) = ten(&mut bed);
    flip(&bed.files("journal-")[0], &["v4", "v7"]);
    drop(log);
    for _ in 0..2 {
        // The segment that has neither, then a start without any damage.
        let (log, _) = bed.open();
        for from in 0..10 {
            let found = read_all(&*log, p, from, 1);
            let lost: Vec<_> = [4, 7].into_iter().filter(|n| *n >= from).collect();
            assert_eq!(found.1, lost);
            assert_eq!(found.0, without(&[4, 7])[(from - (2 - lost.len() as u64)) as usize..]);
        }
        log.maintain().unwrap();
    }
}

/// No page of the index can be read, and house-keeping has not got to it.
#[test]
fn a_damaged_index_hides_nothing() {
    let mut bed = Bed::new();
    bed.config.journal_bytes = 1 << 20;
    bed.config.tail_bytes = 0;
    // What was read before must not help.
    bed.config.index_bytes = 0;
    let big = "x".repeat(3_000);
    let (log, _) = bed.open();
    let stream = log.open_stream(&stream_id("s"), 3).unwrap();
    let p = stream.partition(1);
    for n in 0..10 {
        for index in 0..3 {
            put(&*log, stream.partition(index), &[&format!("v{n}"), &big], Class::All);
        }
        bed.clock.advance(Duration::from_secs(1));
    }
    drop(log);
    let (log, _) = bed.open();
    log.maintain().unwrap();
    let whole = read_all(&*log, p, 0, 1);
    let _keeping = super::lock(&log.inner.keeping);
    change(&bed.files("segment-")[0], |bytes| {
        let len = bytes.len();
        // The pages of blocks and of partitions, in front of top and footer.
        for at in (len - 88 - 2 * 4096..len - 88).step_by(64) {
            bytes[at] ^= 1;
        }
    });
    for max_bytes in [1, 10_000, 1 << 20] {
        let found = read_all(&*log, p, 0, max_bytes);
        assert_eq!((&found.0, &found.1), (&whole.0, &whole.1));
    }
    assert_eq!(read_all(&*log, p, 11, 1).0, whole.0[10..]);
    assert_eq!(log.fetch(p, &whole.2).unwrap().len(), 20);
    assert_eq!(log.position_at(p, 1_000 + 5_000).unwrap(), Position::new(0, 10));
}

/// Offsets that references lead to.
fn fetched(log: &dyn Log, p: Partition, refs: &[RecordRef]) -> Vec<u64> {
    log.fetch(p, refs).unwrap().iter().map(|record| record.position.offset).collect()
}

/// Index pages stay in memory: those of segments that are not in use any more lead nowhere.
#[test]
fn references_outlive_segments_that_are_merged_and_removed() {
    const ROUNDS: u64 = 20;
    let mut bed = Bed::new();
    bed.config.journal_bytes = 1 << 20;
    bed.config.tail_bytes = 0;
    bed.config.retention_age = Duration::from_hours(24 * 1_000);
    let (log, _) = bed.open();
    let stream = log.open_stream(&stream_id("s"), 2).unwrap();
    let (p, other) = (stream.partition(1), stream.partition(0));
    let mut segments_max = 0;
    for round in 0..ROUNDS {
        put(&*log, other, &[&"x".repeat(round as usize * 100)], Class::All);
        put(&*log, p, &[&format!("v{round}")], Class::All);
        // The journal is old: it ends with the next round of the commit thread, and is a segment then.
        bed.clock.advance(Duration::from_hours(25));
        floodplain_testkit::wait_until("a journal becomes a segment", &|| log.maintain().unwrap(), || {
            super::read(&log.inner.view).segments.last().is_some_and(|segment| segment.last > round)
        });
        segments_max = segments_max.max(bed.files("segment-").len());
        let (values, lost, refs) = read_all(&*log, p, 0, 1);
        assert_eq!((values.len() as u64, lost), (round + 1, vec![]));
        assert_eq!(fetched(&*log, p, &refs), (0..=round).collect::<Vec<_>>());
    }
    assert!(segments_max >= 7 && bed.files("segment-").len() < 10, "{segments_max} segments were merged");
    let (.., refs) = read_all(&*log, p, 0, 1);
    let before = bed.files("segment-").len();
    for trimmed in [p, other] {
        log.trim(trimmed, Position::new(0, 17));
    }
    log.maintain().unwrap();
    assert!(bed.files("segment-").len() < before);
    assert_eq!(fetched(&*log, p, &refs), [17, 18, 19]);
}

/// It has the name of the old one, and where the old one had one page of its index it has another.
#[test]
fn a_segment_that_was_made_anew_is_read_by_its_own_index() {
    const PARTITIONS: u32 = 60;
    let mut bed = Bed::new();
    bed.config.tail_bytes = 0;
    let (log, _) = bed.open();
    let stream = log.open_stream(&stream_id("s"), PARTITIONS).unwrap();
    for (_, value) in numbered(0..10) {
        for index in 0..PARTITIONS {
            put(&*log, stream.partition(index), &[&value], Class::All);
        }
    }
    // A frame as long as a page.
    let frame_len = |len: usize| FRAME_HEADER + batch(&["x".repeat(len)]).as_bytes().len();
    let len = (3_900..4_000).find(|len| frame_len(*len) == 4096).unwrap();
    put(&*log, stream.partition(0), &[&"x".repeat(len)], Class::All);
    drop(log);
    let (log, _) = bed.open();
    log.maintain().unwrap();
    let p = stream.partition(1);
    let (.., refs) = read_all(&*log, p, 0, 1);
    let files = bed.files("segment-");
    assert_eq!(files.len(), 1);
    // That one is damaged, so that all behind it moves, and the page of the last partitions, so that it is noticed.
    change(&files[0], |bytes| {
        let at = bytes.windows(100).position(|found| found == [b'x'; 100]).unwrap();
        bytes[at] ^= 1;
        let top = bytes.len() - 80 - 2 * 8;
        bytes[top - 4096] ^= 1;
    });
    let last = stream.partition(PARTITIONS - 1);
    assert_eq!(read_all(&*log, last, 0, 1).0.len(), 10);
    log.maintain().unwrap();
    assert_eq!(bed.files("segment-"), files);
    assert_eq!(read_all(&*log, stream.partition(0), 0, 1).1, [10]);
    for index in 1..PARTITIONS {
        let (values, lost, found) = read_all(&*log, stream.partition(index), 0, 1);
        assert_eq!((values.len(), lost.len()), (10, 0));
        assert_eq!(fetched(&*log, stream.partition(index), &found), (0..10).collect::<Vec<_>>());
    }
    assert_eq!(fetched(&*log, p, &refs), (0..10).collect::<Vec<_>>());
}
