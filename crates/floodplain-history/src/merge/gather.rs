//! Columns of the rows that come out.

use super::{
    order::{Made, Plan},
    rest,
};
use crate::{
    Result,
    columns::{Columns, FIRST, Heads, same_value, text},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder, UInt32Array},
    compute::{TakeOptions, concat, take},
    datatypes::SchemaRef,
};
use std::{borrow::Cow, sync::Arc};

/// Rows that go in, as one batch.
#[derive(Debug)]
pub(super) struct Source<'a> {
    columns: &'a Columns,
    projection: &'a [usize],
    all: RecordBatch,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        columns: &'a Columns,
        projection: &'a [usize],
        schema: SchemaRef,
        batches: &[RecordBatch],
    ) -> Result<Self> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if u32::try_from(rows).is_err() {
            return Err(columns.mismatch(format!("{rows} rows at once are too many")));
        }
        let all = match batches {
            [one] => one.clone(),
            _ => {
                let one_column = |at: usize| -> Result<ArrayRef> {
                    let parts: Vec<&dyn Array> = batches.iter().map(|batch| &**batch.column(at)).collect();
                    if parts.is_empty() {
                        return Ok(arrow::array::new_empty_array(schema.field(at).data_type()));
                    }
                    concat(&parts).map_err(|error| columns.failed("join", error))
                };
                let arrays = (0..schema.fields().len()).map(one_column).collect::<Result<_>>()?;
                columns.batch(schema, arrays, rows)?
            }
        };
        Ok(Self { columns, projection, all })
    }

    pub(super) fn heads(&self) -> Result<Heads<'_>> {
        Heads::of(self.columns, &self.all, |column| self.projection.iter().position(|&p| p == column))
    }

    /// The columns that merge value by value, with their indexes among all columns of the table.
    fn merging(&self) -> impl Iterator<Item = (usize, &ArrayRef)> {
        let columns = self.projection.iter().copied().zip(self.all.columns());
        columns.filter(|(column, _)| *column >= FIRST && !self.columns.keys().contains(column))
    }

    /// How many values of the `versions` of one row were followed by a different one.
    pub(super) fn overwritten(&self, versions: &[&[u32]], columns: &Columns) -> Result<u64> {
        let mut count = 0;
        for (column, array) in self.merging() {
            let newest_valid =
                |rows: &&[u32]| rows.iter().rev().map(|&row| row as usize).find(|&row| array.is_valid(row));
            let mut values = versions.iter().filter_map(newest_valid);
            if column == columns.rest() {
                let texts = array.as_string();
                count += rest::overwritten(values.filter_map(|row| text(texts, row)));
            } else if let Some(mut before) = values.next() {
                for value in values {
                    count += u64::from(!same_value(array, before, value));
                    before = value;
                }
            }
        }
        Ok(count)
    }

    /// The rows of `plan`, in batches of at most `batch_rows`.
    pub(super) fn gather(&self, plan: &Plan, batch_rows: usize) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::with_capacity(plan.newest.len().div_ceil(batch_rows));
        let identity = plan.newest.iter().enumerate().all(|(at, &row)| at == row as usize);
        let mut made = &plan.made[..];
        for (chunk_idx, newest) in plan.newest.chunks(batch_rows).enumerate() {
            let from = chunk_idx * batch_rows;
            let here = made.partition_point(|made| made.at < from + newest.len());
            let (here, later) = made.split_at(here);
            made = later;
            if identity && here.is_empty() {
                batches.push(self.all.slice(from, newest.len()));
                continue;
            }
            let plain = UInt32Array::from(newest.to_vec());
            let mut arrays = Vec::with_capacity(self.projection.len());
            for (&column, array) in self.projection.iter().zip(self.all.columns()) {
                // Without nulls the newest row has the newest value; without values there is none.
                let is_plain = [0, array.len()].contains(&array.null_count()) || here.is_empty();
                let rows = if is_plain {
                    Cow::Borrowed(&plain)
                } else {
                    Cow::Owned(newest_valid(newest, from, here, &plan.members, array))
                };
                // The indexes are rows of these very arrays.
                let unchecked = Some(TakeOptions { check_bounds: false });
                let taken = take(array, &*rows, unchecked).map_err(|error| self.columns.failed("gather", error))?;
                arrays.push(if column == self.columns.rest() && !here.is_empty() && array.null_count() < array.len() {
                    merge_rest(&taken, from, here, &plan.members, array)
                } else {
                    taken
                });
            }
            batches.push(self.columns.batch(self.all.schema(), arrays, newest.len())?);
        }
        Ok(batches)
    }
}

/// Source rows of one column: of each row the newest that is not null.
fn newest_valid(newest: &[u32], from: usize, made: &[Made], members: &[u32], array: &ArrayRef) -> UInt32Array {
    let mut rows = newest.to_vec();
    for made in made {
        if let Some(&row) = members[made.of.clone()].iter().rev().find(|&&row| array.is_valid(row as usize)) {
            rows[made.at - from] = row;
        }
    }
    UInt32Array::from(rows)
}

/// `_rest` of the rows in `made` is merged field by field.
fn merge_rest(taken: &ArrayRef, from: usize, made: &[Made], members: &[u32], array: &ArrayRef) -> ArrayRef {
    let source = array.as_string::<i32>();
    let mut merged = Vec::new();
    for made in made {
        let texts: Vec<&str> = members[made.of.clone()].iter().filter_map(|&row| text(source, row as usize)).collect();
        if texts.len() > 1 {
            merged.push((made.at - from, rest::merge(&texts)));
        }
    }
    if merged.is_empty() {
        return taken.clone();
    }
    let (texts, mut next) = (taken.as_string::<i32>(), merged.iter().peekable());
    let mut builder = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    for row in 0..texts.len() {
        match next.next_if(|(at, _)| *at == row) {
            Some((_, merged)) => builder.append_value(merged),
            None => builder.append_option(text(texts, row)),
        }
    }
    Arc::new(builder.finish())
}
