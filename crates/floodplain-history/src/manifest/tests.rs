//! The fold: versions, positions, counts, snapshots.

use super::*;
use crate::file::{FileFacts, OffsetRange};
use proptest::prelude::*;

fn entry(table: &str, name: &str, overwritten_values: u64) -> FileEntry {
    let range = OffsetRange {
        partition: "default.telemetry/0".to_owned(),
        from: Position::new(0, 1),
        to: Position::new(2, u64::MAX),
    };
    let facts = FileFacts {
        table: table.to_owned(),
        level: 0,
        schema_version: 1,
        decoder_version: 1,
        rows: 3,
        min_time_us: i64::MIN,
        max_time_us: i64::MAX,
        min_device: "\"\n".to_owned(),
        max_device: "ü".to_owned(),
        ranges: vec![range],
        is_merged: true,
        overwritten_values,
    };
    FileEntry { name: name.to_owned(), facts, bytes: 9, tail_at: 4, tail_crc: u32::MAX, checksum: u128::MAX }
}

fn record(version: u64, cause: Cause, adds: &[(&str, u64)], removes: &[&str]) -> ManifestRecord {
    ManifestRecord {
        adds: adds.iter().map(|(name, overwritten)| entry("t", name, *overwritten)).collect(),
        removes: removes.iter().map(|name| ("t".to_owned(), (*name).to_owned())).collect(),
        ..ManifestRecord::new(version, cause)
    }
}

fn names(fold: &ManifestFold) -> Vec<&str> {
    fold.files("t").map(|file| file.name.as_str()).collect()
}

#[test]
fn a_record_applies_once_and_as_a_whole() {
    let mut fold = ManifestFold::default();
    let first = record(1, Cause::Flush, &[("a", 1), ("b", 2)], &[]).encode();
    assert!(fold.apply_value(&first));
    assert!(!fold.apply_value(&first), "appended twice, because the outcome was unknown");
    let mut check = |what: &str, record: ManifestRecord| {
        assert!(!fold.apply_value(&record.encode()), "{what}");
        assert_eq!((names(&fold), fold.version()), (vec!["a", "b"], 1), "{what}");
    };
    check("a version is missing", record(3, Cause::Flush, &[("c", 0)], &[]));
    check("a name again", record(2, Cause::Flush, &[("c", 0), ("b", 0)], &[]));
    check("a name twice", record(2, Cause::Flush, &[("c", 0), ("c", 0)], &[]));
    check("an unknown file", record(2, Cause::Compact, &[("c", 0)], &["a", "x"]));
    check("a file twice", record(2, Cause::Expire, &[], &["a", "a"]));
    check("a flush that removes", record(2, Cause::Flush, &[], &["a"]));
    check("an expiry that adds", record(2, Cause::Expire, &[("c", 0)], &["a"]));
    assert!(!fold.apply_value(b"{}") && !fold.apply_value(b""));
    assert_eq!(fold.void_records(), 10);
    assert!(fold.lacks_records(), "of the first of these");
    assert_eq!(fold.overwritten_values("t"), 3);
    assert!(fold.apply_value(&record(2, Cause::Compact, &[("c", 5)], &["a", "b"]).encode()));
    assert_eq!((names(&fold), fold.overwritten_values("t")), (vec!["c"], 5), "two more between the files");
    assert!(fold.apply_value(&record(3, Cause::Expire, &[], &["c"]).encode()));
    assert_eq!((names(&fold), fold.overwritten_values("t")), (vec![], 5), "the count stays");
    assert!(fold.apply_value(&record(4, Cause::Flush, &[("d", 3), ("e", 3)], &[]).encode()));
    assert!(fold.apply_value(&record(5, Cause::Compact, &[("f", 3)], &["d", "e"]).encode()));
    assert_eq!((names(&fold), fold.overwritten_values("t")), (vec!["f"], 11), "though they had the same rows");
    assert_eq!(fold.tables().collect::<Vec<_>>(), ["t"]);
}

#[test]
fn positions_move_forward_and_are_forgotten_when_they_say_nothing() {
    let mut fold = ManifestFold::default();
    let (window, later) = (Window::from_number(7), Window::from_number(8));
    let mut version = 0;
    let mut apply = |fold: &mut ManifestFold, flushed: &[(Window, u64)], replay_from: Option<u64>| {
        version += 1;
        let flushed = flushed.iter().map(|(window, to)| Flushed {
            table: "t".to_owned(),
            window: *window,
            partition: "p".to_owned(),
            to: Position::new(0, *to),
        });
        let replay_from = replay_from.map(|from| ("p".to_owned(), Position::new(0, from)));
        let record = ManifestRecord {
            flushed: flushed.collect(),
            replay_from: replay_from.into_iter().collect(),
            ..ManifestRecord::new(version, Cause::Flush)
        };
        assert!(fold.apply_value(&record.encode()));
    };
    apply(&mut fold, &[(window, 10), (later, 20)], None);
    apply(&mut fold, &[(window, 5)], Some(3));
    let is_flushed = |fold: &ManifestFold, window, offset| fold.is_flushed("t", window, "p", Position::new(0, offset));
    assert!(is_flushed(&fold, window, 9) && !is_flushed(&fold, window, 10));
    assert!(
        is_flushed(&fold, later, 19) && !is_flushed(&fold, Window::AHEAD, 3) && is_flushed(&fold, Window::AHEAD, 2)
    );
    apply(&mut fold, &[], Some(10));
    assert_eq!(fold.flushed.len(), 1, "the replay starts behind what the first said");
    assert!(is_flushed(&fold, window, 9) && !is_flushed(&fold, window, 10) && is_flushed(&fold, later, 19));
    apply(&mut fold, &[], Some(2));
    assert_eq!(fold.partitions().collect::<Vec<_>>(), [("p", Position::new(0, 10))]);
}

/// Changes as they may come, right and wrong ones.
fn records() -> impl Strategy<Value = Vec<ManifestRecord>> {
    let cause = prop_oneof![3 => Just(Cause::Flush), 2 => Just(Cause::Compact), 1 => Just(Cause::Expire)];
    let table = || prop_oneof![Just("t"), Just("u")];
    let add = (table(), "[a-e]", 0..4_u64).prop_map(|(table, name, overwritten)| entry(table, &name, overwritten));
    let remove = (table(), "[a-e]").prop_map(|(table, name)| (table.to_owned(), name));
    let flushed = (-1..3_i64, 0..2_u32, 0..9_u64).prop_map(|(window, partition, to)| Flushed {
        table: "t".to_owned(),
        window: if window < 0 { Window::AHEAD } else { Window::from_number(window) },
        partition: format!("p/{partition}"),
        to: Position::new(0, to),
    });
    let replay_from = (0..2_u32, 0..9_u64).prop_map(|(p, from)| (format!("p/{p}"), Position::new(0, from)));
    let record = (
        cause,
        prop::collection::vec(add, 0..3),
        prop::collection::vec(remove, 0..2),
        prop::collection::vec(flushed, 0..3),
    );
    let record = (record, prop::collection::vec(replay_from, 0..2), 0..10_u8);
    prop::collection::vec(record, 0..30).prop_map(|records| {
        let mut version = 0;
        let make = |((cause, adds, removes, flushed), replay_from, skip)| {
            // Now and then a version comes twice.
            version += u64::from(skip > 0);
            ManifestRecord { version, cause, adds, removes, flushed, replay_from }
        };
        records.into_iter().map(make).collect()
    })
}

proptest! {
    #[test]
    fn a_snapshot_and_the_rest_are_the_whole(records in records(), cut in any::<prop::sample::Index>()) {
        let values: Vec<Vec<u8>> = records.iter().map(ManifestRecord::encode).collect();
        for (record, value) in records.iter().zip(&values) {
            prop_assert_eq!(&ManifestRecord::decode(value).unwrap(), record);
        }
        let mut whole = ManifestFold::default();
        values.iter().for_each(|value| {
            whole.apply_value(value);
        });
        let cut = cut.index(values.len() + 1);
        let mut first = ManifestFold::default();
        values[..cut].iter().for_each(|value| {
            first.apply_value(value);
        });
        let mut bytes = Vec::new();
        first.snapshot(&mut bytes);
        let mut restored = ManifestFold::default();
        restored.apply_value(b"something that restoring forgets");
        restored.restore(ManifestFold::FORMAT, &bytes).unwrap();
        // That is no part of the state.
        first.lacks_records = false;
        prop_assert_eq!(&restored, &first);
        values[cut..].iter().for_each(|value| {
            restored.apply_value(value);
        });
        whole.lacks_records = restored.lacks_records;
        prop_assert_eq!(&restored, &whole);
        prop_assert_eq!(restored.state_hash(), whole.state_hash());
    }

    #[test]
    fn bytes_that_are_no_snapshot_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        // Some bytes are a snapshot; none may panic.
        ManifestFold::default().restore(ManifestFold::FORMAT, &bytes).ok();
        prop_assert!(ManifestRecord::decode(&bytes).is_err());
    }
}

#[test]
fn records_of_a_newer_version_are_refused() {
    let value = String::from_utf8(record(1, Cause::Flush, &[("a", 1)], &[]).encode()).unwrap();
    assert!(ManifestRecord::decode(value.as_bytes()).is_ok());
    assert!(ManifestRecord::decode(value.replace("manifest.1", "manifest.2").as_bytes()).is_err());
    assert!(ManifestRecord::decode(value.replace("\"version\"", "\"extra\":1,\"version\"").as_bytes()).is_err());
    let error = ManifestFold::default().restore(9, &[]).unwrap_err();
    assert!(matches!(error, RestoreError::Format { found: 9, newest: 1 }));
}
