//! Files: what was written is read, damage is noticed, and a power cut leaves a whole file or none.

use crate::model::{Row, any_rows, batch, columns, order, rows};
use arrow::array::{Array, AsArray, RecordBatch};
use floodplain_history::{
    Error,
    columns::{Columns, Kind, OwnColumn},
    file::{FileEntry, FileReader, FileSpec, FileWriter, OffsetRange, read_entry},
    filter::{Devices, Filter, TimeRange},
    merge::{Merged, sort},
};
use floodplain_log::Disk as _;
use floodplain_testkit::{Fault, FaultDisk, Rule};
use floodplain_types::Position;
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use std::{path::Path, sync::Arc};

pub(crate) const DIR: &str = "/history/plants";

fn spec(name: &str) -> FileSpec {
    let range = |partition: &str, from, to| OffsetRange {
        partition: partition.to_owned(),
        from: Position::new(0, from),
        to: Position::new(1, to),
    };
    let ranges = vec![range("default.telemetry/7", 3, 9), range("default.telemetry/1", 0, u64::MAX)];
    FileSpec { name: name.to_owned(), level: 1, decoder_version: 2, ranges }
}

pub(crate) fn disk() -> FaultDisk {
    let disk = FaultDisk::new(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

pub(crate) fn write(disk: &FaultDisk, columns: &Arc<Columns>, name: &str, sorted: &Merged) -> Result<FileEntry, Error> {
    let mut writer = FileWriter::create(Arc::new(disk.clone()), Path::new(DIR), columns.clone(), spec(name))?;
    sorted.batches.iter().try_for_each(|batch| writer.write(batch))?;
    writer.finish(sorted.stats.overwritten_values)
}

pub(crate) fn all(columns: &Columns) -> Vec<usize> {
    (0..columns.schema().fields().len()).collect()
}

fn read(disk: &FaultDisk, columns: &Arc<Columns>, entry: &FileEntry, filter: &Filter) -> Result<Vec<Row>, Error> {
    let reader = FileReader::open(disk, Path::new(DIR), entry)?;
    let batches = reader.rows(columns.clone(), &all(columns), filter)?.collect::<Result<Vec<_>, _>>()?;
    Ok(rows(&batches))
}

/// `devices` devices in turns, a row each 10 s.
pub(crate) fn fleet(devices: usize, len: usize) -> Vec<Row> {
    let row = |i: usize| Row {
        device: format!("truck_{:05}", i % devices),
        key: (!i.is_multiple_of(5)).then(|| format!("cpu{}", i % 2)),
        time: (i / devices) as i64 * 10_000_000,
        ns: (i % 2) as i16,
        seq: (0, i as i64, 0),
        received: 1_700_000_000_000_000 + i as i64,
        flag: (!i.is_multiple_of(3)).then_some(!i.is_multiple_of(2)),
        count: Some(i as i64 % 100),
        level: Some((i * 7919 % 100_003) as f64 / 8.0),
        note: i.is_multiple_of(7).then(|| format!("note {}", i % 11)),
        rest: None,
    };
    (0..len).map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_was_written_is_read(
        set in any_rows(40).prop_filter("no file without rows", |rows| !rows.is_empty()),
        (min, max) in (-2..3_i64, -2..3_i64),
        devices in prop::option::of(prop::collection::vec(prop_oneof![Just("a"), Just("ü"), Just("no")], 0..3)),
    ) {
        let (disk, columns) = (disk(), columns());
        let sorted = sort(&columns, &[batch(&columns, &set)]).unwrap();
        let entry = write(&disk, &columns, "f", &sorted).unwrap();
        let mut expected = set.clone();
        expected.sort_by(|a, b| order(a).cmp(&order(b)));
        prop_assert_eq!(&read(&disk, &columns, &entry, &Filter::ALL).unwrap(), &expected);

        let facts = &entry.facts;
        prop_assert_eq!(facts.rows, set.len() as u64);
        prop_assert_eq!(facts.min_time_us, set.iter().map(|row| row.time).min().unwrap());
        prop_assert_eq!(facts.max_time_us, set.iter().map(|row| row.time).max().unwrap());
        prop_assert_eq!(Some(&facts.min_device), set.iter().map(|row| &row.device).min());
        prop_assert_eq!(Some(&facts.max_device), set.iter().map(|row| &row.device).max());
        prop_assert_eq!(facts.is_merged, sorted.stats.merged_rows == facts.rows);
        prop_assert!(facts.ranges.is_sorted());

        // The same rows make the same bytes, and a file alone tells its entry.
        prop_assert_eq!(&write(&disk, &columns, "g", &sorted).unwrap(), &FileEntry { name: "g".into(), ..entry.clone() });
        prop_assert_eq!(disk.contents(&Path::new(DIR).join("f")), disk.contents(&Path::new(DIR).join("g")));
        prop_assert_eq!(&read_entry(&disk, Path::new(DIR), "f").unwrap(), &entry);
        FileReader::open(&disk, Path::new(DIR), &entry).unwrap().verify(&entry).unwrap();

        let time = TimeRange::new(min * 86_400_000_000, max * 86_400_000_000);
        let devices = devices.map_or(Devices::All, Devices::only);
        expected.retain(|row| time.contains(row.time) && devices.contains(&row.device));
        prop_assert_eq!(read(&disk, &columns, &entry, &Filter { time, devices }).unwrap(), expected);
    }
}

#[test]
fn large_files_are_pruned_and_read_exactly() {
    let (disk, columns) = (disk(), columns());
    let set = fleet(300, 300_000);
    let sorted = sort(&columns, &[batch(&columns, &set)]).unwrap();
    let entry = write(&disk, &columns, "f", &sorted).unwrap();
    let expected = rows(&sorted.batches);
    assert_eq!(read(&disk, &columns, &entry, &Filter::ALL).unwrap(), expected);

    let reader = FileReader::open(&disk, Path::new(DIR), &entry).unwrap();
    let before = disk.stats().read_bytes;
    let filter = Filter { time: TimeRange::new(50_000_000, 99_999_999), devices: Devices::only(["truck_00123"]) };
    let found: Vec<RecordBatch> =
        reader.rows(columns.clone(), &[0, 8], &filter).unwrap().collect::<Result<_, _>>().unwrap();
    let levels: Vec<f64> = found
        .iter()
        .flat_map(|batch| batch.column(1).as_primitive::<arrow::datatypes::Float64Type>().values().to_vec())
        .collect();
    let wanted = expected.iter().filter(|row| row.device == "truck_00123" && filter.time.contains(row.time));
    assert_eq!(levels, wanted.map(|row| row.level.unwrap()).collect::<Vec<_>>());
    assert_eq!(levels.len(), 5);
    let read_bytes = disk.stats().read_bytes - before;
    assert!(read_bytes < entry.bytes / 2, "{read_bytes} of {}", entry.bytes);
}

/// Reads with filters at random and compares with what the model leaves.
fn check_filters(set: &[Row], devices: &[String], rounds: u64) {
    let (disk, columns) = (disk(), columns());
    let sorted = sort(&columns, &[batch(&columns, set)]).unwrap();
    let entry = write(&disk, &columns, "f", &sorted).unwrap();
    let reader = FileReader::open(&disk, Path::new(DIR), &entry).unwrap();
    let all_rows = rows(&sorted.batches);
    let mut rng = SmallRng::seed_from_u64(7);
    for round in 0..rounds {
        let wanted: Vec<&String> = devices.choose_multiple(&mut rng, [1, 2, 9][round as usize % 3]).collect();
        let devices = if round % 4 == 0 { Devices::All } else { Devices::only(wanted.into_iter().map(String::as_str)) };
        let [a, b] = [(); 2].map(|()| all_rows[rng.random_range(0..all_rows.len())].time);
        let time = if round % 5 == 0 { TimeRange::ALL } else { TimeRange::new(a.min(b), a.max(b) - 1) };
        let filter = Filter { time, devices };
        let found: Vec<RecordBatch> =
            reader.rows(columns.clone(), &all(&columns), &filter).unwrap().collect::<Result<_, _>>().unwrap();
        let expected: Vec<&Row> =
            all_rows.iter().filter(|row| time.contains(row.time) && filter.devices.contains(&row.device)).collect();
        let found = rows(&found);
        assert!(found.len() == expected.len() && found.iter().eq(expected), "{filter:?}");
    }
}

#[test]
fn pruning_leaves_out_nothing_that_matches() {
    let set = fleet(97, 290_000);
    let mut devices: Vec<String> = set[..97].iter().map(|row| row.device.clone()).collect();
    devices.push("nobody".to_owned());
    check_filters(&set, &devices, 40);
}

#[test]
fn statistics_of_long_names_are_bounds_all_the_same() {
    // Statistics keep the first 64 bytes, and a bound above may not exist.
    let name = |i: usize| match i % 4 {
        0 => format!("{}{i:03}", "prefix/".repeat(12)),
        1 => format!("{}{i:03}", "\u{10ffff}".repeat(20)),
        2 => format!("{}{i:03}", "ü\u{7f}".repeat(30)),
        _ => format!("{i:03}"),
    };
    let row = |i: usize| Row { device: name(i % 300), ..fleet(1, 1)[0].clone() };
    let set: Vec<Row> = (0..40_000).map(|i| Row { time: i as i64 / 300, seq: (0, i as i64, 0), ..row(i) }).collect();
    check_filters(&set, &(0..300).map(name).collect::<Vec<_>>(), 40);
}

#[test]
fn a_thousand_columns_are_as_good_as_seven() {
    let disk = disk();
    let own = |i: usize| OwnColumn {
        name: format!("c.{i}"),
        kind: [Kind::Bool, Kind::Int, Kind::Float, Kind::Text][i % 4],
        field_id: 100 + i as i32,
        is_key: false,
    };
    let columns = Arc::new(Columns::new("wide", 1, (0..1024).map(own).collect()).unwrap());
    let source = batch(&crate::model::columns(), &fleet(3, 30));
    let mut arrays = source.columns()[..5].to_vec();
    arrays.extend((0..1024).map(|i| source.column(6 + i % 4).clone()));
    arrays.push(source.column(10).clone());
    let wide = RecordBatch::try_new(columns.schema().clone(), arrays).unwrap();
    let sorted = sort(&columns, &[wide]).unwrap();
    let entry = write(&disk, &columns, "f", &sorted).unwrap();
    let reader = FileReader::open(&disk, Path::new(DIR), &entry).unwrap();
    let found: Vec<RecordBatch> =
        reader.rows(columns.clone(), &all(&columns), &Filter::ALL).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(found, sorted.batches);
}

#[test]
fn older_files_have_the_columns_of_today() {
    let disk = disk();
    let own = |name: &str, kind, field_id| OwnColumn { name: name.to_owned(), kind, field_id, is_key: false };
    let v1 = Columns::new("t", 1, vec![own("n", Kind::Int, 100), own("gone", Kind::Bool, 101)]).unwrap();
    let v2 = vec![own("n", Kind::Float, 100), own("new", Kind::Text, 102), own("gone", Kind::Text, 103)];
    let (v1, v2) = (Arc::new(v1), Arc::new(Columns::new("t", 2, v2).unwrap()));
    let model = columns();
    let source = batch(&model, &[Row { count: Some(3), flag: Some(true), ..Row::default() }]);
    let mut arrays = source.columns()[..5].to_vec();
    arrays.extend([source.column(7).clone(), source.column(6).clone(), source.column(10).clone()]);
    let old = RecordBatch::try_new(v1.schema().clone(), arrays).unwrap();
    let entry = write(&disk, &v1, "f", &sort(&v1, &[old]).unwrap()).unwrap();
    let reader = FileReader::open(&disk, Path::new(DIR), &entry).unwrap();
    let read = |columns: &Arc<Columns>, projection: &[usize]| -> Result<Vec<RecordBatch>, Error> {
        reader.rows(columns.clone(), projection, &Filter::ALL)?.collect()
    };
    let found = read(&v2, &[5, 6, 7, 8]).unwrap();
    assert_eq!(found[0].schema().field(0).name(), "n");
    assert_eq!(found[0].column(0).as_primitive::<arrow::datatypes::Float64Type>().value(0), 3.0);
    assert!(found[0].column(1).is_null(0) && found[0].column(2).is_null(0), "a name is no identity");
    assert_eq!(read(&v2, &[6]).unwrap()[0].num_rows(), 1, "no column of the file is wanted");
    assert_eq!(read(&v2, &[]).unwrap()[0].num_rows(), 1);
    let narrower = Arc::new(Columns::new("t", 3, vec![own("n", Kind::Bool, 100)]).unwrap());
    assert!(matches!(read(&narrower, &[5]), Err(Error::Schema { .. })));
}

#[test]
fn mistakes_of_the_writer_are_refused() {
    let (disk, columns) = (disk(), columns());
    let row = |time, offset| Row { time, seq: (0, offset, 0), ..Row::default() };
    let check = |batches: &[&[Row]], row: u64| {
        let mut writer =
            FileWriter::create(Arc::new(disk.clone()), Path::new(DIR), columns.clone(), spec("f")).unwrap();
        let error = batches.iter().try_for_each(|rows| writer.write(&batch(&columns, rows))).unwrap_err();
        assert!(matches!(error, Error::Unsorted { row: found, .. } if found == row), "{error}");
        drop(writer);
        assert!(disk.files().is_empty(), "an unfinished file is removed");
    };
    check(&[&[row(1, 1), row(0, 2)]], 1);
    check(&[&[row(1, 1)], &[row(1, 1)]], 1);
    check(&[&[row(1, 1), row(1, 2), row(1, 1)]], 2);
    check(&[&[row(1, 1)], &[row(2, 1), row(3, 0)], &[row(2, 9)]], 3);

    let none = FileWriter::create(Arc::new(disk.clone()), Path::new(DIR), columns.clone(), spec("f")).unwrap();
    assert!(matches!(none.finish(0), Err(Error::Schema { .. })));
    assert!(disk.files().is_empty());

    let sorted = sort(&columns, &[batch(&columns, &[row(1, 1)])]).unwrap();
    let entry = write(&disk, &columns, "f", &sorted).unwrap();
    let error = write(&disk, &columns, "f", &sorted).unwrap_err();
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
    assert_eq!(read(&disk, &columns, &entry, &Filter::ALL).unwrap().len(), 1, "the one that was there stays");
}

#[test]
fn damage_is_an_error_wherever_it_is() {
    let (good, columns) = (disk(), columns());
    let sorted = sort(&columns, &[batch(&columns, &fleet(5, 200))]).unwrap();
    let entry = write(&good, &columns, "f", &sorted).unwrap();
    let path = Path::new(DIR).join("f");
    let check = |disk: &FaultDisk, what: &str| {
        let error = read(disk, &columns, &entry, &Filter::ALL).map(|_| ()).expect_err(what);
        assert!(matches!(error, Error::Damaged { .. }), "{what}: {error}");
        // Without an entry there is less to compare with, but the blocks are checked, and nothing panics.
        if let Ok(found) = read_entry(disk, Path::new(DIR), "f") {
            assert_ne!(found, entry, "{what}");
        }
    };
    for at in 0..entry.bytes as usize {
        let disk = good.duplicate(1);
        assert!(disk.damage(&path, |bytes| bytes[at] ^= 1 << (at % 8)));
        // All columns are read, so every byte counts; the four of the magic at the start are in a block.
        check(&disk, &format!("byte {at}"));
    }
    for len in 0..entry.bytes as usize {
        let disk = good.duplicate(1);
        assert!(disk.damage(&path, |bytes| bytes.truncate(len)));
        check(&disk, &format!("cut at {len}"));
    }
    let disk = good.duplicate(1);
    assert!(disk.damage(&path, |bytes| bytes.push(0)));
    check(&disk, "longer");
    disk.remove(&path).unwrap();
    let error = read(&disk, &columns, &entry, &Filter::ALL).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let other = FileEntry { facts: floodplain_history::file::FileFacts { level: 0, ..entry.facts.clone() }, ..entry };
    let error = FileReader::open(&good, Path::new(DIR), &other).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "an entry of another file: {error}");
}

#[test]
fn a_disk_that_fails_while_a_file_is_read_is_not_damage() {
    let (disk, columns) = (disk(), columns());
    let sorted = sort(&columns, &[batch(&columns, &fleet(5, 2000))]).unwrap();
    let entry = write(&disk, &columns, "f", &sorted).unwrap();
    let before = disk.calls();
    let expected = read(&disk, &columns, &entry, &Filter::ALL).unwrap();
    for nth in 1..=disk.calls() - before {
        for fault in [Fault::Eio, Fault::Short] {
            disk.fail(Rule::nth(nth, fault));
            match read(&disk, &columns, &entry, &Filter::ALL) {
                Ok(found) => assert!(found == expected && fault == Fault::Short),
                Err(error) => assert!(matches!(error, Error::Io { .. }), "call {nth}: {error}"),
            }
            disk.heal();
        }
    }
}

/// What is found after a power cut: the whole file, or none; for certain if the writer said so.
fn check_after_cut(disk: &FaultDisk, columns: &Arc<Columns>, written: &Result<FileEntry, Error>, entry: &FileEntry) {
    for seed in 0..8 {
        let after = disk.duplicate(seed).power_cut(seed);
        let found = read(&after, columns, entry, &Filter::ALL);
        if written.is_ok() {
            assert_eq!(found.unwrap().len() as u64, entry.facts.rows);
        } else if let Ok(found) = found {
            assert_eq!(found.len() as u64, entry.facts.rows, "never a part");
        }
    }
}

#[test]
fn a_power_cut_leaves_a_whole_file_or_none() {
    let columns = columns();
    // More than one write.
    let sorted = sort(&columns, &[batch(&columns, &fleet(50, 150_000))]).unwrap();
    let good = disk();
    let before = good.calls();
    let entry = write(&good, &columns, "f", &sorted).unwrap();
    let calls = good.calls() - before;
    assert!(calls >= 5, "create, two writes, sync, sync of the folder: {calls}");
    check_after_cut(&good, &columns, &Ok(entry.clone()), &entry);
    for nth in 1..=calls {
        let cut = disk();
        cut.cut_at_call(nth);
        let written = write(&cut, &columns, "f", &sorted);
        assert!(written.is_err());
        check_after_cut(&cut, &columns, &written, &entry);
        for fault in [Fault::Eio, Fault::Enospc, Fault::Short] {
            let failing = disk();
            failing.fail(Rule::nth(nth, fault));
            let written = write(&failing, &columns, "f", &sorted);
            assert!(written.is_err() || fault == Fault::Short, "call {nth}");
            if let Ok(written) = &written {
                assert_eq!(*written, entry);
            }
            check_after_cut(&failing, &columns, &written, &entry);
        }
    }
}
