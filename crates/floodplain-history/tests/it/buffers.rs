//! Buffers: rows as they arrive, queries in between, flushes and compactions anywhere.

use crate::{
    files::{DIR, all, disk},
    model::{Row, any_rows, columns, order, redelivered, rows, seen},
};
use arrow::array::{Array, AsArray, RecordBatch};
use floodplain_history::{
    Error,
    buffer::{Cell, RowHead, WindowBuffer},
    columns::{Columns, Kind, OwnColumn},
    file::{FileEntry, FileSpec, FileWriter, OffsetRange},
    filter::{Filter, TimeRange},
    snapshot::{FileHandle, TableSnapshot, rewrite},
    window::Window,
};
use floodplain_log::Disk as _;
use floodplain_testkit::{Fault, FaultDisk, Rule};
use floodplain_types::Position;
use proptest::prelude::*;
use std::{path::Path, sync::Arc};

/// Gives a row of the model to a buffer.
pub(crate) fn append(buffer: &mut WindowBuffer, row: &Row) -> Result<(), Error> {
    let head = RowHead {
        device: &row.device,
        time_us: row.time,
        time_ns: row.ns,
        stream: 0,
        position: Position::new(row.seq.0 as u32, row.seq.1 as u64),
        row: row.seq.2 as u32,
        received_us: row.received,
    };
    // The last column first: any order will do.
    let cells = [
        row.note.as_deref().map(|note| (4, Cell::Text(note))),
        row.key.as_deref().map(|key| (0, Cell::Text(key))),
        row.flag.map(|flag| (1, Cell::Bool(flag))),
        row.count.map(|count| (2, Cell::Int(count))),
        row.level.map(|level| (3, Cell::Float(level))),
    ];
    let cells: Vec<(usize, Cell<'_>)> = cells.into_iter().flatten().collect();
    let rest = row.rest.as_ref().map(|rest| serde_json::to_string(rest).unwrap());
    let partition: Arc<str> = if row.device.as_str() < "b" { "t.s/0" } else { "t.s/1" }.into();
    buffer.append(&partition, &head, &cells, rest.as_deref())
}

/// A table as an owner keeps it: one buffer, and files.
struct Table {
    disk: FaultDisk,
    columns: Arc<Columns>,
    buffer: WindowBuffer,
    files: Vec<Arc<FileHandle>>,
    next_file: u32,
}

impl Table {
    fn new() -> Self {
        let columns = columns();
        let buffer = WindowBuffer::new(columns.clone(), Window::AHEAD);
        Self { disk: disk(), columns, buffer, files: Vec::new(), next_file: 0 }
    }

    fn writer(&mut self, level: u8, ranges: Vec<OffsetRange>) -> FileWriter {
        self.next_file += 1;
        let spec = FileSpec { name: format!("{:04}", self.next_file), level, decoder_version: 1, ranges };
        FileWriter::create(Arc::new(self.disk.clone()), Path::new(DIR), self.columns.clone(), spec).unwrap()
    }

    fn add(&mut self, entry: FileEntry) {
        self.files.push(Arc::new(FileHandle::new(Arc::new(self.disk.clone()), Path::new(DIR), Arc::new(entry))));
    }

    fn flush(&mut self) {
        let mut buffer = std::mem::replace(&mut self.buffer, WindowBuffer::new(self.columns.clone(), Window::AHEAD));
        if buffer.appended() > 0 {
            let mut writer = self.writer(0, buffer.ranges());
            let stats = rewrite(&[], buffer.seal().unwrap(), &mut writer).unwrap();
            self.add(writer.finish(stats.overwritten_values).unwrap());
        }
    }

    fn compact(&mut self) {
        if !self.files.is_empty() {
            let mut writer = self.writer(1, Vec::new());
            let stats = rewrite(&self.files, &[], &mut writer).unwrap();
            let replaced = std::mem::take(&mut self.files);
            replaced.iter().for_each(|file| file.replaced());
            self.add(writer.finish(stats.overwritten_values).unwrap());
        }
    }

    fn snapshot(&mut self) -> TableSnapshot {
        let runs = self.buffer.seal().unwrap().to_vec();
        TableSnapshot::new(self.columns.clone(), self.files.iter().cloned(), runs).unwrap()
    }
}

pub(crate) fn found(snapshot: &TableSnapshot) -> Vec<Row> {
    let batches: Vec<RecordBatch> =
        snapshot.scan(&all(snapshot.columns()), &Filter::ALL).unwrap().collect::<Result<_, _>>().unwrap();
    let mut found = rows(&batches);
    found.sort_by(|a, b| order(a).cmp(&order(b)));
    found
}

#[derive(Debug, Clone)]
enum Step {
    Append,
    Query,
    Flush,
    Compact,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn flushes_and_compactions_change_nothing_that_is_seen(
        (set, delivered) in any_rows(30).prop_flat_map(redelivered),
        steps in prop::collection::vec(
            prop_oneof![8 => Just(Step::Append), 2 => Just(Step::Query), 1 => Just(Step::Flush), 1 => Just(Step::Compact)],
            0..80,
        ),
    ) {
        let mut table = Table::new();
        let mut left = delivered.iter();
        let mut appended = Vec::new();
        let mut earlier = Vec::new();
        for step in steps {
            match step {
                Step::Append => if let Some(row) = left.next() {
                    append(&mut table.buffer, row).unwrap();
                    appended.push(row.clone());
                },
                Step::Query => {
                    let snapshot = table.snapshot();
                    prop_assert_eq!(found(&snapshot), seen(&appended).0);
                    earlier.push((snapshot, appended.clone()));
                }
                Step::Flush => table.flush(),
                Step::Compact => table.compact(),
            }
        }
        for row in left {
            append(&mut table.buffer, row).unwrap();
        }
        let (expected, overwritten_values) = seen(&set);
        prop_assert_eq!(&found(&table.snapshot()), &expected);
        // Snapshots of before still see what they saw, though their files were replaced.
        for (snapshot, appended) in earlier.drain(..) {
            prop_assert_eq!(found(&snapshot), seen(&appended).0);
        }
        table.flush();
        table.compact();
        prop_assert_eq!(&found(&table.snapshot()), &expected);
        if let Some(file) = table.files.first() {
            let facts = &file.entry().facts;
            prop_assert_eq!((facts.rows, facts.overwritten_values), (set.len() as u64, overwritten_values));
            prop_assert_eq!(table.disk.files().len(), 1, "what was replaced is gone");
            prop_assert_eq!(table.disk.stats().open_files, 0);
        }
    }
}

#[test]
fn a_compaction_that_fails_changes_nothing() {
    let mut table = Table::new();
    for part in 0..3_i64 {
        for i in 0..200 {
            let row = Row {
                device: format!("d{}", i % 7),
                time: i,
                received: -1,
                seq: (0, part * 100 + i, 0),
                count: Some(part),
                ..Row::default()
            };
            append(&mut table.buffer, &row).unwrap();
        }
        table.flush();
    }
    let expected = found(&table.snapshot());
    let (names, before) = (table.disk.files(), table.disk.calls());
    let compact = |table: &mut Table, name: &str| -> Result<FileEntry, Error> {
        let spec = FileSpec { name: name.to_owned(), level: 1, decoder_version: 1, ranges: Vec::new() };
        let disk = Arc::new(table.disk.clone());
        let mut writer = FileWriter::create(disk, Path::new(DIR), table.columns.clone(), spec)?;
        let stats = rewrite(&table.files, &[], &mut writer)?;
        writer.finish(stats.overwritten_values)
    };
    let whole = compact(&mut table, "x").unwrap();
    let calls = table.disk.calls() - before;
    table.disk.remove(&Path::new(DIR).join("x")).unwrap();
    for nth in 1..=calls {
        table.disk.fail(Rule::nth(nth, Fault::Eio));
        let error = compact(&mut table, "x").unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        table.disk.heal();
        // A file whose folder could not be synced was removed again, too.
        assert_eq!(table.disk.files(), names, "call {nth}");
        assert_eq!(found(&table.snapshot()), expected);
    }
    assert_eq!(compact(&mut table, "x").unwrap(), whole, "the same rows, the same file");
    // 200 values of the second part and 200 of the third were different from those of the first and the second.
    assert_eq!(whole.facts.overwritten_values, 400);
}

#[test]
fn a_buffer_knows_what_it_holds() {
    let mut buffer = WindowBuffer::new(columns(), Window::from_number(3));
    assert_eq!((buffer.times(), buffer.ranges(), buffer.seal().unwrap().len()), (None, vec![], 0));
    let row = |device: &str, time, offset| Row {
        device: device.to_owned(),
        time,
        received: 1,
        seq: (2, offset, 0),
        ..Row::default()
    };
    for row in [row("c", 7, 9), row("a", -3, 4), row("c", 5, 8), row("a", 0, 6)] {
        append(&mut buffer, &row).unwrap();
    }
    let range = |index, from, to| OffsetRange {
        partition: format!("t.s/{index}"),
        from: Position::new(2, from),
        to: Position::new(2, to),
    };
    assert_eq!(buffer.ranges(), [range(0, 4, 7), range(1, 8, 10)]);
    assert_eq!(buffer.first_position("t.s/1"), Some(Position::new(2, 8)));
    assert_eq!(buffer.first_position("t.s/2"), None);
    assert_eq!(buffer.times(), Some(TimeRange::new(-3, 7)));
    assert_eq!((buffer.appended(), buffer.window().number()), (4, 3));
    assert!(buffer.bytes() > 4 * 40);
}

#[test]
fn runs_stay_few_however_often_they_are_asked_for() {
    let mut buffer = WindowBuffer::new(columns(), Window::from_number(0));
    for i in 0..3000 {
        let row = Row { device: format!("d{}", i % 7), time: i, received: -1, seq: (0, i, 0), ..Row::default() };
        append(&mut buffer, &row).unwrap();
        assert!(buffer.seal().unwrap().len() < 14);
    }
    let rows: u64 = buffer.seal().unwrap().iter().map(|run| run.rows()).sum();
    assert_eq!(rows, 3000);
    let before = buffer.seal().unwrap()[0].batches().as_ptr();
    assert_eq!(buffer.seal().unwrap()[0].batches().as_ptr(), before, "nothing new, nothing done");
}

#[test]
fn a_row_that_does_not_fit_is_not_added() {
    let mut buffer = WindowBuffer::new(columns(), Window::from_number(0));
    let partition: Arc<str> = "t.s/0".into();
    let head = RowHead {
        device: "d",
        time_us: 1,
        time_ns: 999,
        stream: 0,
        position: Position::new(0, 1),
        row: 0,
        received_us: 2,
    };
    let mut check = |head: RowHead<'_>, cells: &[(usize, Cell<'_>)]| {
        let error = buffer.append(&partition, &head, cells, None).unwrap_err();
        assert!(matches!(error, Error::Schema { .. }), "{error}");
    };
    check(RowHead { time_ns: 1000, ..head }, &[]);
    check(RowHead { time_ns: -1, ..head }, &[]);
    check(RowHead { row: u32::MAX, ..head }, &[]);
    check(RowHead { position: Position::new(u32::MAX, 0), ..head }, &[]);
    check(RowHead { position: Position::new(1 << 24, 0), ..head }, &[]);
    check(RowHead { stream: 128, ..head }, &[]);
    check(RowHead { position: Position::new(0, u64::MAX), ..head }, &[]);
    check(head, &[(5, Cell::Bool(true))]);
    check(head, &[(1, Cell::Bool(true)), (2, Cell::Float(1.0))]);
    check(head, &[(1, Cell::Bool(true)), (2, Cell::Int(1)), (1, Cell::Bool(true))]);
    buffer.append(&partition, &head, &[(1, Cell::Bool(true))], Some("{}")).unwrap();
    assert_eq!(rows(buffer.seal().unwrap()[0].batches()).len(), 1);
    assert_eq!(buffer.appended(), 1);
}

#[test]
fn rows_follow_a_schema_that_grows() {
    let own = |name: &str, kind, field_id| OwnColumn { name: name.to_owned(), kind, field_id, is_key: false };
    let v1 = Arc::new(Columns::new("t", 1, vec![own("n", Kind::Int, 100)]).unwrap());
    let v2 = Columns::new("t", 2, vec![own("n", Kind::Float, 100), own("s", Kind::Text, 101)]).unwrap();
    let mut buffer = WindowBuffer::new(v1.clone(), Window::from_number(0));
    let partition: Arc<str> = "t.s/0".into();
    let head = |offset| RowHead {
        device: "d",
        time_us: 1,
        time_ns: 0,
        stream: 0,
        position: Position::new(0, offset),
        row: 0,
        received_us: 2,
    };
    buffer.append(&partition, &head(1), &[(0, Cell::Int(7))], None).unwrap();
    buffer.set_columns(Arc::new(v2)).unwrap();
    buffer.append(&partition, &head(2), &[(1, Cell::Text("x"))], None).unwrap();
    let runs = buffer.seal().unwrap().to_vec();
    let snapshot = TableSnapshot::new(buffer.columns().clone(), [], runs).unwrap();
    let batch = snapshot.scan(&[5, 6], &Filter::ALL).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.num_rows(), 1);
    assert_eq!(batch.column(0).as_primitive::<arrow::datatypes::Float64Type>().value(0), 7.0);
    assert_eq!(batch.column(1).as_string::<i32>().value(0), "x");
    assert!(buffer.set_columns(v1).is_err(), "a column is never narrowed");
    assert!(buffer.append(&partition, &head(3), &[(1, Cell::Text("y"))], None).is_ok() && batch.column(0).is_valid(0));
}

#[test]
fn long_texts_are_sealed_early() {
    let mut buffer = WindowBuffer::new(columns(), Window::from_number(0));
    let text = "x".repeat(1 << 20);
    for i in 0..100 {
        let row = Row {
            device: "d".to_owned(),
            time: i,
            received: -1,
            seq: (0, i, 0),
            note: Some(text.clone()),
            ..Row::default()
        };
        append(&mut buffer, &row).unwrap();
    }
    assert!(buffer.bytes() >= 100 << 20 && buffer.seal().unwrap().len() > 1);
}
