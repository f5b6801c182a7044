//! Rows as plain values, a table of all kinds of columns, and what a reader must see of a set of rows.

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch,
        StringArray, StructArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use floodplain_history::columns::{Columns, Kind, OwnColumn};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

/// Generation, offset, row.
pub(crate) type Seq = (i32, i64, i32);

/// A row of [`columns`].
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Row {
    pub(crate) device: String,
    pub(crate) key: Option<String>,
    pub(crate) time: i64,
    pub(crate) ns: i16,
    pub(crate) seq: Seq,
    pub(crate) received: i64,
    pub(crate) flag: Option<bool>,
    pub(crate) count: Option<i64>,
    pub(crate) level: Option<f64>,
    pub(crate) note: Option<String>,
    /// Fields of `_rest`.
    pub(crate) rest: Option<BTreeMap<String, i64>>,
}

/// Name, kind and field id; `key` is the key column.
pub(crate) fn columns() -> Arc<Columns> {
    let own = |name: &str, kind, field_id| OwnColumn { name: name.to_owned(), kind, field_id, is_key: name == "key" };
    let own = vec![
        own("note", Kind::Text, 104),
        own("key", Kind::Text, 100),
        own("flag", Kind::Bool, 101),
        own("count", Kind::Int, 102),
        own("level.of it", Kind::Float, 103),
    ];
    Arc::new(Columns::new("plants", 3, own).unwrap())
}

pub(crate) fn batch(columns: &Columns, rows: &[Row]) -> RecordBatch {
    let schema = columns.schema();
    let DataType::Struct(seq) = schema.field(3).data_type() else { panic!("_seq is a struct") };
    let seq = StructArray::new(
        seq.clone(),
        vec![
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.seq.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.seq.1))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.seq.2))),
        ],
        None,
    );
    let micros = |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
    let rest = |row: &Row| row.rest.as_ref().map(|rest| serde_json::to_string(rest).unwrap());
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.device))),
        micros(rows.iter().map(|row| row.time).collect()),
        Arc::new(Int16Array::from_iter_values(rows.iter().map(|row| row.ns))),
        Arc::new(seq),
        micros(rows.iter().map(|row| row.received).collect()),
        Arc::new(rows.iter().map(|row| row.key.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.flag).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.count).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.level).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.note.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(rest).collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema.clone(), arrays).unwrap()
}

pub(crate) fn rows<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let text = |column: usize, i: usize| {
            let array = batch.column(column).as_string::<i32>();
            array.is_valid(i).then(|| array.value(i).to_owned())
        };
        let micros = |column: usize, i: usize| batch.column(column).as_primitive::<TimestampMicrosecondType>().value(i);
        let seq = batch.column(3).as_struct();
        for i in 0..batch.num_rows() {
            let flag = batch.column(6).as_boolean();
            let count = batch.column(7).as_primitive::<Int64Type>();
            let level = batch.column(8).as_primitive::<Float64Type>();
            rows.push(Row {
                device: text(0, i).unwrap(),
                key: text(5, i),
                time: micros(1, i),
                ns: batch.column(2).as_primitive::<Int16Type>().value(i),
                seq: (
                    seq.column(0).as_primitive::<Int32Type>().value(i),
                    seq.column(1).as_primitive::<Int64Type>().value(i),
                    seq.column(2).as_primitive::<Int32Type>().value(i),
                ),
                received: micros(4, i),
                flag: flag.is_valid(i).then(|| flag.value(i)),
                count: count.is_valid(i).then(|| count.value(i)),
                level: level.is_valid(i).then(|| level.value(i)),
                note: text(9, i),
                rest: text(10, i).map(|rest| serde_json::from_str(&rest).unwrap()),
            });
        }
    }
    rows
}

/// Device, key, time, nanoseconds, and for rows without a time of their own `_seq`.
type Key = (String, Option<String>, i64, i16, Option<Seq>);

/// What a reader sees of a set of rows, in the order of the keys, and how many values were overwritten.
pub(crate) fn seen(rows: &[Row]) -> (Vec<Row>, u64) {
    let mut by_key: BTreeMap<Key, BTreeMap<Seq, &Row>> = BTreeMap::new();
    for row in rows {
        let alone = (row.time == row.received).then_some(row.seq);
        let key = (row.device.clone(), row.key.clone(), row.time, row.ns, alone);
        by_key.entry(key).or_default().insert(row.seq, row);
    }
    let (mut merged, mut overwritten) = (Vec::new(), 0);
    for versions in by_key.values() {
        let mut versions = versions.values();
        let mut row: Row = (*versions.next().unwrap()).clone();
        for newer in versions {
            fn put<T: Clone + PartialEq>(old: &mut Option<T>, new: &Option<T>) -> u64 {
                let Some(new) = new else { return 0 };
                u64::from(old.replace(new.clone()).is_some_and(|old| old != *new))
            }
            (row.seq, row.received) = (newer.seq, newer.received);
            overwritten += put(&mut row.flag, &newer.flag) + put(&mut row.count, &newer.count);
            overwritten += put(&mut row.level, &newer.level) + put(&mut row.note, &newer.note);
            if let Some(fields) = &newer.rest {
                let rest = row.rest.get_or_insert_default();
                for (name, value) in fields {
                    overwritten += u64::from(rest.insert(name.clone(), *value).is_some_and(|old| old != *value));
                }
            }
        }
        merged.push(row);
    }
    // Between rows of one key the version decides.
    merged.sort_by(|a, b| order(a).cmp(&order(b)));
    (merged, overwritten)
}

/// What rows are sorted by.
pub(crate) fn order(row: &Row) -> (&str, Option<&str>, i64, i16, Seq) {
    (&row.device, row.key.as_deref(), row.time, row.ns, row.seq)
}

/// Different rows by key and `_seq`, with few different keys.
pub(crate) fn any_rows(max: usize) -> impl Strategy<Value = Vec<Row>> {
    let device = prop_oneof![Just("a"), Just("b"), Just("b\u{0}"), Just("ü"), Just("")];
    let key = prop::option::of(prop_oneof![Just(""), Just("x"), Just("cpu1")]);
    let time = (0..4_i64, 0..2_i16, 0..3_i64);
    let values = (
        prop::option::of(any::<bool>()),
        prop::option::of(0..3_i64),
        prop::option::of(prop_oneof![Just(0.5), Just(-0.0), Just(0.0), Just(f64::MAX)]),
        prop::option::of(prop_oneof![Just(""), Just("n"), Just("näh")]),
        prop::option::of(prop::collection::btree_map("[ab\"]", 0..2_i64, 0..3)),
    );
    let row = (device, key, time, (0..2_i32, 0..9_i64, 0..2_i32), values);
    prop::collection::vec(row, 0..max).prop_map(|rows| {
        let mut by_seq = BTreeMap::new();
        for (device, key, (time, ns, step), seq, (flag, count, level, note, rest)) in rows {
            // Two days apart, around midnight, before 1970 too; every third without a time of its own.
            let time = (time - 2) * 86_400_000_000 - step;
            let received = if step == 0 { time } else { time + 1 + seq.1 };
            let row = Row {
                device: device.to_owned(),
                key: key.map(str::to_owned),
                time,
                ns,
                seq,
                received,
                flag,
                count,
                level: level.map(|level: f64| level),
                note: note.map(str::to_owned),
                rest,
            };
            by_seq.insert(seq, row);
        }
        by_seq.into_values().collect()
    })
}

/// The same rows in some other order, some of them more than once.
pub(crate) fn redelivered(rows: Vec<Row>) -> impl Strategy<Value = (Vec<Row>, Vec<Row>)> {
    let len = rows.len();
    let again = prop::collection::vec(0..len.max(1), 0..=len / 2);
    (Just(rows), again).prop_flat_map(|(rows, again)| {
        let mut all = rows.clone();
        all.extend(again.into_iter().filter_map(|i| rows.get(i).cloned()));
        (Just(rows), Just(all).prop_shuffle())
    })
}

/// Cuts into parts at these places.
pub(crate) fn parts<T: Clone>(items: &[T], cuts: &[prop::sample::Index]) -> Vec<Vec<T>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(items.len() + 1)).collect();
    at.extend([0, items.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| items[pair[0]..pair[1]].to_vec()).collect()
}
