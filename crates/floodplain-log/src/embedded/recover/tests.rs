use super::*;
use crate::{
    Embedded, Log, Outcome,
    embedded::tests::{Bed, numbered, put, stream_id, values},
};
use floodplain_types::Class;
use std::collections::BTreeMap;

fn contents(bed: &Bed) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = bed.files("").into_iter().filter(|path| path.is_file());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn open_error(bed: &Bed) -> OpenError {
    let disk = Arc::new(bed.disk.clone());
    Embedded::open(disk, Arc::clone(&bed.clock) as Arc<dyn Clock>, bed.config.clone()).unwrap_err()
}

/// A log with a segment, a journal, a catalog and a checkpoint.
fn closed() -> Bed {
    let mut bed = Bed::new();
    bed.config.journal_bytes = 700;
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (_, value) in numbered(0..30) {
        put(&*log, p, &[&value], Class::All);
    }
    log.maintain().unwrap();
    drop(log);
    bed
}

#[test]
fn another_format_is_not_touched() {
    for (name, crc_at) in [("journal-", 28), ("segment-", 28), ("catalog", 12), ("checkpoint", 20)] {
        let bed = closed();
        let path = bed.files(name)[0].clone();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[7] = 9;
        let mut crc = crc32c::crc32c(&bytes[..crc_at]);
        if name == "checkpoint" {
            crc = crc32c::crc32c_append(crc, &bytes[24..]);
        }
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let before = contents(&bed);
        let error = open_error(&bed);
        assert!(matches!(&error, OpenError::OtherFormat { path: of, version: 9 } if *of == path), "{name}: {error}");
        assert_eq!(contents(&bed), before, "{name}");
    }
}

#[test]
fn a_flipped_version_is_damage() {
    for name in ["journal-", "segment-", "catalog", "checkpoint"] {
        let bed = closed();
        let path = bed.files(name)[0].clone();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[7] ^= 8;
        std::fs::write(&path, bytes).unwrap();
        let (log, _) = bed.open();
        let stream = &log.streams()[0];
        assert_eq!(values(&*log, stream.partition(0), 0, 1), numbered(0..30), "{name}");
    }
}

/// Before there was a header a journal began with a group.
#[test]
fn a_journal_without_header_is_not_torn_to_pieces() {
    let bed = closed();
    let path = bed.files("journal-").pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[journal::HEADER..]).unwrap();
    assert!(matches!(open_error(&bed), OpenError::OtherFormat { version: 0, .. }));
}

/// A crash has left the journals of a segment that is damaged meanwhile: they have what it lost.
#[test]
fn a_damaged_segment_is_made_from_what_it_was_made_from() {
    for at_footer in [false, true] {
        let mut bed = Bed::new();
        bed.config.journal_bytes = 700;
        let (log, _) = bed.open();
        let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
        let mut journals = Vec::new();
        {
            let _keeping = super::super::lock(&log.inner.keeping);
            for (_, value) in numbered(0..30) {
                put(&*log, p, &[&value], Class::All);
            }
            journals.extend(bed.files("journal-").into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())));
            journals.pop();
        }
        log.maintain().unwrap();
        drop(log);
        journals.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        let segment = bed.files("segment-")[0].clone();
        let mut bytes = std::fs::read(&segment).unwrap();
        let at = if at_footer { bytes.len() - 70 } else { bytes.windows(2).position(|found| found == b"v2").unwrap() };
        bytes[at] ^= 1;
        std::fs::write(&segment, bytes).unwrap();

        let (log, report) = bed.open();
        assert_eq!((report.rebuilt.len(), report.corrupt), (1, vec![]));
        assert_eq!(values(&*log, p, 0, 1), numbered(0..30));
    }
}

/// Two journals, of which the second knows where the first one ends.
fn two_journals() -> (Bed, PathBuf, Vec<(u64, String)>) {
    let mut bed = Bed::new();
    bed.config.journal_bytes = 700;
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    {
        let _keeping = super::super::lock(&log.inner.keeping);
        for (_, value) in numbered(0..30) {
            put(&*log, p, &[&value], Class::All);
        }
    }
    drop(log);
    let journal = bed.files("journal-")[0].clone();
    (bed, journal, numbered(0..30))
}

/// The file system has lost synced bytes, or a whole file: nothing else says so than later journals.
#[test]
fn synced_bytes_that_are_gone_are_reported_once_and_their_positions_not_used_again() {
    for keep in [None, Some(journal::HEADER as u64), Some(400)] {
        let (bed, journal, all) = two_journals();
        let name = journal.file_name().unwrap().to_str().unwrap().to_owned();
        let len = journal.metadata().unwrap().len();
        match keep {
            None => std::fs::remove_file(&journal).unwrap(),
            Some(keep) => std::fs::File::options().write(true).open(&journal).unwrap().set_len(keep).unwrap(),
        }
        let (log, report) = bed.open();
        let gone = DamagedRange { file: name, bytes: keep.unwrap_or(journal::HEADER as u64)..len };
        assert!(report.corrupt.contains(&gone), "{keep:?}: {report:?} without {gone:?}");
        let p = log.streams()[0].partition(0);
        let left = values(&*log, p, 0, 1);
        assert!(!left.is_empty() && left.len() < all.len() && all.ends_with(&left[left.len() - 5..]), "{left:?}");
        let Outcome::Committed(at) = put(&*log, p, &["new"], Class::All) else { panic!("not committed") };
        assert!(at.first().unwrap().offset > 30, "{at:?}");
        drop(log);

        let (log, report) = bed.open();
        assert_eq!((report.corrupt, report.torn), (vec![], vec![]), "{keep:?}");
        assert_eq!(values(&*log, p, 0, 1).len(), left.len() + 1);
    }
}

#[test]
fn journals_that_were_moved_or_passed_are_not_missed() {
    let mut bed = Bed::new();
    bed.config.journal_bytes = 700;
    for round in 0..4 {
        let (log, report) = bed.open();
        assert_eq!(report.corrupt, vec![], "{round}");
        let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
        for (_, value) in numbered(0..30) {
            put(&*log, p, &[&value], Class::All);
        }
        if round != 1 {
            log.maintain().unwrap();
        }
        log.trim(p, log.watermark(p));
        if round % 2 == 0 {
            log.maintain().unwrap();
        }
    }
}

#[test]
fn what_is_set_aside_is_bounded() {
    let (bed, journal, _) = two_journals();
    let bytes = std::fs::read(&journal).unwrap();
    let room = 3 * bytes.len() as u64;
    bed.disk.0.total_bytes.store(50 * room as i64, std::sync::atomic::Ordering::SeqCst);
    let keep = |name: &str, bytes: &[u8]| {
        repair::set_aside_bytes(&bed.disk, bed.log_dir(), &LogMetrics::new(), Cause::Damage, name, bytes).unwrap();
        repair::set_aside_bytes_of(&bed.disk, bed.log_dir()).unwrap()
    };
    let len = bytes.len() as u64;
    assert_eq!(keep("a", &bytes), len);
    // The same bytes of the same file are there already.
    assert_eq!(keep("a", &bytes), len);
    assert_eq!(["b", "c", "d"].map(|name| keep(name, &bytes)), [2 * len, 3 * len, 3 * len]);
}
