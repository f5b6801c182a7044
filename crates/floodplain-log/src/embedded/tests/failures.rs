//! What a failed, torn or damaged write leaves, and who is kept out.

use super::*;

#[test]
fn a_failed_sync_poisons_until_restart() {
    let bed = Bed::new();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    put(&*log, p, &["v0"], Class::All);
    bed.disk.0.fail_sync.store(true, Ordering::SeqCst);
    assert_eq!(put(&*log, p, &["v1"], Class::All), Outcome::Unknown);
    bed.disk.0.fail_sync.store(false, Ordering::SeqCst);
    assert!(matches!(put(&*log, p, &["v2"], Class::All), Outcome::Refused(Refusal::Poisoned { .. })));
    assert!(log.poisoned().is_some());
    assert_eq!(values(&*log, p, 0, 1), numbered(0..1));
    drop(log);
    // The unsynced group was whole, so it is kept; but only after it was copied.
    let (log, report) = bed.open();
    assert!(report.copied_bytes > 0 && report.torn.is_empty());
    assert_eq!(values(&*log, p, 0, 1), numbered(0..2));
    log.maintain().unwrap();
    drop(log);
    assert_eq!(bed.open().1.copied_bytes, 0);
}

#[test]
fn a_torn_write_is_set_aside() {
    let bed = Bed::new();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    put(&*log, p, &["v0"], Class::All);
    bed.disk.0.fail_write.store(true, Ordering::SeqCst);
    assert_eq!(put(&*log, p, &["torn"], Class::Leader), Outcome::Unknown);
    bed.disk.0.fail_write.store(false, Ordering::SeqCst);
    drop(log);
    let (log, report) = bed.open();
    assert_eq!((report.torn.len(), report.corrupt.len()), (1, 0));
    assert_eq!(values(&*log, p, 0, 1), numbered(0..1));
    let kept = std::fs::read_dir(bed.log_dir().join("set-aside")).unwrap().next().unwrap().unwrap();
    assert_eq!(kept.metadata().unwrap().len(), report.torn[0].bytes.end - report.torn[0].bytes.start);
    assert_eq!(put(&*log, p, &["v1"], Class::All), Outcome::Committed(vec![Position::new(0, 1)]));
    drop(log);
    assert_eq!(bed.open().1.torn, vec![]);
}

#[test]
fn damage_below_the_synced_position_is_a_hole() {
    let bed = Bed::new();
    let (log, _) = bed.open();
    let p = log.open_stream(&stream_id("s"), 1).unwrap().partition(0);
    for (_, value) in numbered(0..5) {
        put(&*log, p, &[&value], Class::All);
    }
    drop(log);
    let journal = bed.files("journal-")[0].clone();
    let mut bytes = std::fs::read(&journal).unwrap();
    let group = (bytes.len() - 32 - 56) / 5;
    bytes[32 + group * 2 + 100] ^= 4;
    std::fs::write(&journal, bytes).unwrap();

    let (log, report) = bed.open();
    let file = DataFile::parse(journal.file_name().unwrap().to_str().unwrap()).unwrap().name();
    let range = 32 + group as u64 * 2..32 + group as u64 * 3;
    assert_eq!((report.torn, report.corrupt), (vec![], vec![DamagedRange { file, bytes: range }]));
    let mut expected = numbered(0..5);
    expected.remove(2);
    assert_eq!(values(&*log, p, 0, 1), expected);
    assert_eq!(values(&*log, p, 2, 1), expected[2..]);
    assert_eq!(log.watermark(p), Position::new(0, 5));
    drop(log);
    assert_eq!(bed.open().1.corrupt, vec![]);
}

#[test]
fn a_second_process_is_kept_out() {
    let bed = Bed::new();
    let (_log, _) = bed.open();
    let again = Embedded::open(Arc::new(crate::OsDisk), Arc::clone(&bed.clock) as _, bed.config.clone());
    assert!(matches!(again.unwrap_err(), OpenError::Locked { .. }));
}
