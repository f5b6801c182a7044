//! Snapshots: whatever the rows are in, a reader sees the same.

use crate::{
    files::{DIR, all, disk, fleet, write},
    model::{Row, any_rows, batch, columns, order, parts, redelivered, rows, seen},
};
use arrow::array::RecordBatch;
use floodplain_history::{
    Error,
    columns::Columns,
    filter::{Devices, Filter, TimeRange},
    merge::{BATCH_ROWS, sort},
    run::Run,
    snapshot::{FileHandle, TableSnapshot},
};
use floodplain_testkit::FaultDisk;
use proptest::prelude::*;
use std::{path::Path, sync::Arc};

/// Rows in files (`true`) and runs.
fn snapshot(disk: &FaultDisk, columns: &Arc<Columns>, sources: &[(bool, Vec<Row>)]) -> TableSnapshot {
    let (mut files, mut runs) = (Vec::new(), Vec::new());
    for (i, (is_file, rows)) in sources.iter().enumerate() {
        let batches = [batch(columns, rows)];
        if rows.is_empty() {
            assert!(Run::new(columns, &batches).unwrap().is_none());
        } else if *is_file {
            let entry = write(disk, columns, &format!("f{i}"), &sort(columns, &batches).unwrap()).unwrap();
            files.push(handle(disk, entry));
        } else {
            runs.push(Run::new(columns, &batches).unwrap().unwrap());
        }
    }
    TableSnapshot::new(columns.clone(), files, runs).unwrap()
}

fn handle(disk: &FaultDisk, entry: floodplain_history::file::FileEntry) -> Arc<FileHandle> {
    Arc::new(FileHandle::new(Arc::new(disk.clone()), Path::new(DIR), Arc::new(entry)))
}

fn scan(snapshot: &TableSnapshot, projection: &[usize], filter: &Filter) -> Result<Vec<RecordBatch>, Error> {
    snapshot.scan(projection, filter)?.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn a_scan_depends_on_the_set_of_rows_alone(
        (set, delivered) in any_rows(40).prop_flat_map(redelivered),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        are_files in prop::collection::vec(any::<bool>(), 7),
        (min, max) in (-2..3_i64, -2..3_i64),
        devices in prop::option::of(prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ü")], 0..3)),
        projection in prop::collection::vec(0..11_usize, 0..5),
    ) {
        let (disk, columns) = (disk(), columns());
        let sources: Vec<(bool, Vec<Row>)> = are_files.into_iter().zip(parts(&delivered, &cuts)).collect();
        let snapshot = snapshot(&disk, &columns, &sources);
        let (mut expected, _) = seen(&set);
        let sorted = |batches: &[RecordBatch]| {
            let mut found = rows(batches);
            found.sort_by(|a, b| order(a).cmp(&order(b)));
            found
        };
        let found = scan(&snapshot, &all(&columns), &Filter::ALL).unwrap();
        prop_assert_eq!(&sorted(&found), &expected);

        let filter = Filter {
            time: TimeRange::new(min * 86_400_000_000, max * 86_400_000_000),
            devices: devices.map_or(Devices::All, Devices::only),
        };
        expected.retain(|row| filter.time.contains(row.time) && filter.devices.contains(&row.device));
        let found = scan(&snapshot, &all(&columns), &filter).unwrap();
        prop_assert_eq!(&sorted(&found), &expected);

        // Fewer columns, in any order, also twice: the same rows in the same order.
        let narrow = scan(&snapshot, &projection, &filter).unwrap();
        let wide = arrow::compute::concat_batches(columns.schema(), &found).unwrap().project(&projection).unwrap();
        let narrow = arrow::compute::concat_batches(&wide.schema(), &narrow);
        prop_assert_eq!(narrow.unwrap(), wide);
    }
}

#[test]
fn overlapping_files_stream_in_small_batches() {
    let (disk, columns) = (disk(), columns());
    let all_rows = fleet(40, 60_000);
    // Each row in one or two of three files and a run, none of which is sorted like another.
    let mut sources: Vec<(bool, Vec<Row>)> = vec![(true, vec![]), (true, vec![]), (true, vec![]), (false, vec![])];
    for (i, row) in all_rows.iter().enumerate() {
        sources[i * 7 % 4].1.push(row.clone());
        if i % 3 == 0 {
            sources[i * 5 % 4].1.push(row.clone());
        }
    }
    let snapshot = snapshot(&disk, &columns, &sources);
    let parts = snapshot.parts(&Filter::ALL).unwrap();
    assert_eq!((parts.len(), parts[0].merges()), (1, true));
    let found = scan(&snapshot, &all(&columns), &Filter::ALL).unwrap();
    assert!(found.iter().all(|batch| batch.num_rows() <= BATCH_ROWS) && found.len() > 5);
    let (expected, _) = seen(&all_rows);
    assert_eq!(rows(&found), expected);
}

#[test]
fn versions_of_one_row_may_fill_many_batches() {
    let (disk, columns) = (disk(), columns());
    let version = |i: i64| Row {
        device: "d".to_owned(),
        time: 5,
        seq: (0, i, 0),
        received: 6,
        count: (i % 3 > 0).then_some(i),
        flag: (i == 7).then_some(true),
        ..Row::default()
    };
    let mut versions: Vec<Row> = (0..30_000).map(version).collect();
    versions.extend([Row { device: "c".to_owned(), ..version(1) }, Row { device: "e".to_owned(), ..version(2) }]);
    let (odd, even) = versions.iter().cloned().partition(|row| row.seq.1 % 2 > 0);
    let few = versions[3..9].to_vec();
    let snapshot = snapshot(&disk, &columns, &[(true, odd), (false, few), (true, even)]);
    let found = scan(&snapshot, &all(&columns), &Filter::ALL).unwrap();
    assert_eq!(rows(&found), seen(&versions).0);
}

#[test]
fn a_record_that_is_decoded_again_shows_its_newest_reading() {
    let (disk, columns) = (disk(), columns());
    let reading =
        |count: Option<i64>, flag: Option<bool>| Row { count, flag, received: 9, seq: (0, 4, 0), ..Row::default() };
    let sources = [
        (true, vec![reading(Some(1), Some(true))]),
        (true, vec![reading(Some(2), None)]),
        (false, vec![reading(Some(3), None)]),
        (false, vec![reading(Some(4), None)]),
    ];
    for last in 1..=sources.len() {
        let snapshot = snapshot(&disk.duplicate(0), &columns, &sources[..last]);
        let found = rows(&scan(&snapshot, &all(&columns), &Filter::ALL).unwrap());
        assert_eq!(found, [reading(Some(last as i64), Some(true))]);
    }
}

#[test]
fn queries_may_run_on_other_threads() {
    fn check<T: Send + 'static>() {}
    fn check_shared<T: Send + Sync + 'static>() {}
    check_shared::<TableSnapshot>();
    check_shared::<floodplain_history::snapshot::ScanPart>();
    check::<floodplain_history::snapshot::Scan>();
    check::<floodplain_history::snapshot::PartRows>();
    check::<floodplain_history::buffer::WindowBuffer>();
    check::<floodplain_history::file::FileWriter>();
}

#[test]
fn files_that_share_nothing_are_not_merged() {
    let (disk, columns) = (disk(), columns());
    let rows_of = |device: &str, hour: i64| {
        let row = |i: i64| Row {
            device: device.to_owned(),
            time: hour * 3_600_000_000 + i,
            seq: (0, i, 0),
            received: -1,
            ..Row::default()
        };
        (0..10).map(row).collect::<Vec<_>>()
    };
    let sources =
        [(true, rows_of("a", 2)), (true, rows_of("b", 2)), (false, rows_of("a", 0)), (true, rows_of("a", 50))];
    let snapshot = snapshot(&disk, &columns, &sources);
    let parts = snapshot.parts(&Filter::ALL).unwrap();
    assert!(parts.iter().all(|part| !part.merges() && part.rows_max() == 10));
    let firsts: Vec<i64> = parts
        .iter()
        .map(|part| {
            rows(&part.rows(&all(&columns)).unwrap().collect::<Result<Vec<_>, _>>().unwrap())[0].time / 3_600_000_000
        })
        .collect();
    assert_eq!(firsts, [0, 2, 2, 50], "by time");
    let filter = Filter { devices: Devices::only(["b"]), ..Filter::ALL };
    let before = disk.stats().read_bytes;
    assert_eq!(snapshot.parts(&filter).unwrap().len(), 1);
    assert_eq!(disk.stats().read_bytes, before, "no file is opened to find out");
}

#[test]
fn a_replaced_file_lives_as_long_as_a_snapshot_uses_it() {
    let (disk, columns) = (disk(), columns());
    let input = fleet(3, 100);
    let entry = write(&disk, &columns, "f", &sort(&columns, &[batch(&columns, &input)]).unwrap()).unwrap();
    let file = handle(&disk, entry);
    let snapshot = TableSnapshot::new(columns.clone(), [file.clone()], []).unwrap();
    let mut scan = snapshot.scan(&[0], &Filter::ALL).unwrap();
    file.replaced();
    drop(file);
    assert_eq!(disk.files().len(), 1);
    let again = snapshot.clone();
    drop(snapshot);
    assert_eq!(scan.by_ref().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 100);
    assert_eq!(again.scan(&[], &Filter::ALL).unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 100);
    assert_eq!(disk.files().len(), 1);
    drop((scan, again));
    assert!(disk.files().is_empty());
    assert_eq!(disk.stats().open_files, 0);
}

#[test]
fn a_damaged_file_ends_the_scan_with_its_name() {
    let (disk, columns) = (disk(), columns());
    let sources = [(true, fleet(3, 100)), (true, fleet(3, 50))];
    let snapshot = snapshot(&disk, &columns, &sources);
    assert!(disk.damage(&Path::new(DIR).join("f1"), |bytes| bytes[40] ^= 1));
    let mut scan = snapshot.scan(&all(&columns), &Filter::ALL).unwrap();
    let error = scan.find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::Damaged { path, .. } if path.ends_with("f1")), "{error}");
    assert!(scan.next().is_none());
    assert_eq!(disk.files().len(), 2, "nothing damaged is ever deleted");
}
