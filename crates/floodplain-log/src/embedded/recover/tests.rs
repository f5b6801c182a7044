use super::*;
use crate::{
    Embedded, Log,
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
