//! The rows of one query, as they come.

use crate::{Encoder, Error, Format, encode, records::Snapshot};
use datafusion::arrow::{
    array::RecordBatch,
    datatypes::{DataType, SchemaRef},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::mpsc::Receiver, task::AbortHandle};

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Column {
    /// Unique within the result: a name that comes again has `_2` behind it.
    pub name: String,
    /// `text`, `binary`, `boolean`, `smallint`, `integer`, `bigint`, `real`, `double`, `timestamp`, `date`, `time`,
    /// `interval`, `decimal`, `array`, `struct`; what has no such name has the one that Arrow gives it.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// What a query has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    pub rows: u64,
    /// Bytes of the log that were looked at.
    pub bytes_read: u64,
    /// Since the query was given.
    pub elapsed: Duration,
}

/// Ends the work on a query together with its result.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A running query. Dropping it cancels the query.
#[derive(Debug)]
pub struct QueryResult {
    pub(crate) schema: SchemaRef,
    pub(crate) columns: Vec<Column>,
    pub(crate) batches: Receiver<Result<RecordBatch, Error>>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) rows: u64,
    pub(crate) started: tokio::time::Instant,
    pub(crate) ended: Option<Duration>,
    pub(crate) has_failed: bool,
    pub(crate) _work: AbortOnDrop,
}

impl QueryResult {
    /// Arrow's schema of every batch.
    #[must_use]
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns of every batch, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The next rows; `None` at the end. After an error nothing follows.
    ///
    /// # Errors
    /// [`Error`], also in the middle of a result.
    ///
    /// # Cancel safety
    /// No rows are lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Error>> {
        let batch = self.batches.recv().await;
        match &batch {
            Some(Ok(batch)) => self.rows += batch.num_rows() as u64,
            Some(Err(_)) => {
                self.batches.close();
                self.has_failed = true;
            }
            None => {
                self.ended.get_or_insert_with(|| self.started.elapsed());
                // Nobody says why after a panic; the rows so far must not be taken for all.
                if !self.has_failed && !self.snapshot.completed.load(Ordering::Acquire) {
                    self.has_failed = true;
                    return Some(Err(Error::Internal { message: "the query broke off".to_owned() }));
                }
            }
        }
        batch
    }

    /// What is missing from the rows so far, or odd about them: damaged ranges of the log for example.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.snapshot.warnings()
    }

    /// What the query has cost so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            rows: self.rows,
            bytes_read: self.snapshot.bytes_read.load(Ordering::Relaxed),
            elapsed: self.ended.unwrap_or_else(|| self.started.elapsed()),
        }
    }

    /// The rows as text, in chunks.
    #[must_use]
    pub fn encode(self, format: Format) -> Encoder {
        encode::Encoder::new(self, format)
    }
}

/// Names and types for people and programs that do not know Arrow.
pub(crate) fn columns(schema: &SchemaRef) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let taken = |name: &str| columns.iter().any(|column| column.name == name);
        let mut name = field.name().clone();
        let mut count = 1;
        while taken(&name) {
            count += 1;
            name = format!("{}_{count}", field.name());
        }
        columns.push(Column { name, data_type: type_name(field.data_type()) });
    }
    columns
}

fn type_name(data_type: &DataType) -> String {
    use DataType as T;
    let name = match data_type {
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "text",
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => "binary",
        T::Boolean => "boolean",
        T::Int8 | T::Int16 | T::UInt8 => "smallint",
        T::Int32 | T::UInt16 => "integer",
        T::Int64 | T::UInt32 | T::UInt64 => "bigint",
        T::Float16 | T::Float32 => "real",
        T::Float64 => "double",
        T::Timestamp(..) => "timestamp",
        T::Date32 | T::Date64 => "date",
        T::Time32(_) | T::Time64(_) => "time",
        T::Interval(_) | T::Duration(_) => "interval",
        T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => "decimal",
        T::List(_) | T::LargeList(_) | T::FixedSizeList(..) => "array",
        T::Struct(_) => "struct",
        T::Dictionary(_, value) => return type_name(value),
        T::Null => "null",
        other => return other.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a task that panics leaves behind.
    #[tokio::test]
    async fn a_query_that_panics_is_no_short_result() {
        let (out, batches) = tokio::sync::mpsc::channel(1);
        let mut result = QueryResult {
            schema: SchemaRef::new(datafusion::arrow::datatypes::Schema::empty()),
            columns: Vec::new(),
            batches,
            snapshot: Arc::default(),
            rows: 0,
            started: tokio::time::Instant::now(),
            ended: None,
            has_failed: false,
            _work: AbortOnDrop(tokio::spawn(async {}).abort_handle()),
        };
        drop(out);
        assert!(matches!(result.next().await, Some(Err(Error::Internal { .. }))));
        assert!(result.next().await.is_none());
    }
}
