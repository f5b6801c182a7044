//! What history costs: `cargo bench -p floodplain-history --bench history [rows] [devices]`.
//!
//! Times are processor time of one thread, the least of three runs. Rows are like `readings` of TSBS: seven floats of
//! fixed decimals that walk at random, a row of each device per tick.
#![allow(clippy::unwrap_used)]

use arrow::{
    array::{
        ArrayRef, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
        TimestampMicrosecondArray, new_null_array,
    },
    datatypes::DataType,
};
use floodplain_history::{
    columns::{Columns, Kind, OwnColumn},
    file::{FileReader, FileSpec, FileWriter},
    filter::{Devices, Filter, TimeRange},
    merge::{sort, sort_merge},
    run::Run,
    snapshot::{FileHandle, TableSnapshot},
};
use floodplain_log::{Disk, OsDisk};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{sync::Arc, time::Duration};

/// Step, least, greatest, decimals: TSBS `readings`.
const FIELDS: [(&str, f64, f64, f64, i32); 7] = [
    ("latitude", 0.005, -90.0, 90.0, 5),
    ("longitude", 0.005, -180.0, 180.0, 5),
    ("elevation", 10.0, 0.0, 5000.0, 0),
    ("velocity", 10.0, 0.0, 100.0, 0),
    ("heading", 5.0, 0.0, 360.0, 0),
    ("grade", 5.0, 0.0, 100.0, 0),
    ("fuel_consumption", 5.0, 0.0, 50.0, 1),
];
const BATCH: usize = 8192;
const START_US: i64 = 1_451_606_400_000_000;

/// Time that this thread has spent on a processor: other work on the machine does not count.
fn now() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap())
}

fn columns() -> Arc<Columns> {
    let own = |(i, field): (usize, &(&str, f64, f64, f64, i32))| OwnColumn {
        name: field.0.to_owned(),
        kind: Kind::Float,
        field_id: 100 + i as i32,
        is_key: false,
    };
    Arc::new(Columns::new("readings", 1, FIELDS.iter().enumerate().map(own).collect()).unwrap())
}

fn batches(columns: &Columns, rows: usize, devices: usize) -> Vec<RecordBatch> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut walks: Vec<[f64; 7]> =
        (0..devices).map(|_| FIELDS.map(|(_, _, min, max, _)| rng.random_range(min.max(0.0)..max))).collect();
    let DataType::Struct(seq) = columns.schema().field(3).data_type() else { panic!("_seq is a struct") };
    let make = |from: usize, rng: &mut SmallRng, walks: &mut [[f64; 7]]| {
        let range = from..(from + BATCH).min(rows);
        let len = range.len();
        let mut values: [Vec<f64>; 7] = Default::default();
        for i in range.clone() {
            for (at, (_, step, min, max, decimals)) in FIELDS.iter().enumerate() {
                let walk = &mut walks[i % devices][at];
                *walk = (*walk + rng.random_range(-step..*step)).clamp(*min, *max);
                let scale = 10_f64.powi(*decimals);
                values[at].push((*walk * scale).trunc() / scale);
            }
        }
        let micros =
            |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(range.clone().map(|i| format!("truck_{}", i % devices)))),
            micros(range.clone().map(|i| START_US + (i / devices) as i64 * 10_000_000).collect()),
            Arc::new(Int16Array::from(vec![0; len])),
            Arc::new(StructArray::new(
                seq.clone(),
                vec![
                    Arc::new(Int32Array::from(vec![0; len])),
                    Arc::new(Int64Array::from_iter_values(range.clone().map(|i| i as i64 / 100))),
                    Arc::new(Int32Array::from_iter_values(range.clone().map(|i| i as i32 % 100))),
                ],
                None,
            )),
            micros(range.map(|i| START_US + 700_000 + (i as i64 / 100) * 25_123).collect()),
        ];
        arrays.extend(values.into_iter().map(|values| Arc::new(Float64Array::from(values)) as ArrayRef));
        arrays.push(new_null_array(&DataType::Utf8, len));
        RecordBatch::try_new(columns.schema().clone(), arrays).unwrap()
    };
    (0..rows).step_by(BATCH).map(|from| make(from, &mut rng, &mut walks)).collect()
}

/// The least processor time of three runs, per million rows.
fn measure<T>(what: &str, rows: usize, mut run: impl FnMut() -> T) -> T {
    let mut least = f64::MAX;
    let mut result = None;
    for _ in 0..3 {
        drop(result.take());
        let started = now();
        result = Some(run());
        least = least.min((now() - started).as_secs_f64());
    }
    println!("{what:<58} {:>7.3} CPU-s per million rows", least * 1e6 / rows as f64);
    result.unwrap()
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let (rows, devices) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(4000));
    let columns = columns();
    let input = batches(&columns, rows, devices);
    println!("{rows} rows of {devices} devices, 7 floats, in batches of {BATCH} as they arrive");

    let sorted = measure("sort and gather, all at once", rows, || sort(&columns, &input).unwrap());
    assert_eq!(sorted.stats.rows_out, rows as u64);
    measure("seal: each batch sorted alone", rows, || {
        input.iter().map(|batch| Run::new(&columns, std::slice::from_ref(batch)).unwrap().unwrap()).collect::<Vec<_>>()
    });
    let quarters: Vec<RecordBatch> =
        input.chunks(input.len().div_ceil(4)).flat_map(|part| sort(&columns, part).unwrap().batches).collect();
    measure("sort_merge of four sorted quarters", rows, || sort_merge(&columns, &quarters).unwrap());
    let twice = [&input[..], &input[..]].concat();
    let merged =
        measure("sort_merge, each row twice (per row that comes out)", rows, || sort_merge(&columns, &twice).unwrap());
    assert_eq!((merged.stats.rows_out, merged.stats.duplicates), (rows as u64, rows as u64));

    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let mut number = 0;
    let write = |batches: &[RecordBatch], name: &str| {
        let spec = FileSpec { name: name.to_owned(), level: 0, decoder_version: 1, ranges: Vec::new() };
        let mut writer = FileWriter::create(disk.clone(), folder.path(), columns.clone(), spec).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish(0).unwrap()
    };
    let entry = measure("write, with two syncs", rows, || {
        number += 1;
        write(&sorted.batches, &format!("f{number}"))
    });
    println!("{:<58} {:>7.2} bytes per row", "file", entry.bytes as f64 / rows as f64);

    let every: Vec<usize> = (0..columns.schema().fields().len()).collect();
    let reader = FileReader::open(&*disk, folder.path(), &entry).unwrap();
    let count = |rows: &mut dyn Iterator<Item = floodplain_history::Result<RecordBatch>>| {
        rows.map(|batch| batch.unwrap().num_rows()).sum::<usize>()
    };
    measure("read all columns of the file", rows, || {
        assert_eq!(count(&mut reader.rows(columns.clone(), &every, &Filter::ALL).unwrap()), rows);
    });
    measure("read time and one field", rows, || {
        assert_eq!(count(&mut reader.rows(columns.clone(), &[1, 8], &Filter::ALL).unwrap()), rows);
    });
    let one = Filter { time: TimeRange::new(START_US, START_US + 600_000_000), devices: Devices::only(["truck_17"]) };
    let (started, mut found, times) = (now(), 0, 300);
    for _ in 0..times {
        found = count(&mut reader.rows(columns.clone(), &every, &one).unwrap());
    }
    let each = (now() - started).as_secs_f64() * 1e3 / f64::from(times);
    println!("{:<58} {each:>7.3} CPU-ms, {found} rows", "one device, ten minutes, all columns");

    let files = input.chunks(input.len().div_ceil(3)).enumerate().map(|(i, part)| {
        let entry = write(&sort(&columns, part).unwrap().batches, &format!("part{i}"));
        Arc::new(FileHandle::new(disk.clone(), folder.path(), Arc::new(entry)))
    });
    let files: Vec<Arc<FileHandle>> = files.collect();
    // The same times twice, so that all of them overlap.
    let again = write(&sorted.batches, "again");
    let again = Arc::new(FileHandle::new(disk.clone(), folder.path(), Arc::new(again)));
    let snapshot = TableSnapshot::new(columns.clone(), files.into_iter().chain([again]), []).unwrap();
    measure("scan, each row in two of four overlapping files", rows, || {
        assert_eq!(count(&mut snapshot.scan(&every, &Filter::ALL).unwrap()), rows);
    });
}
