//! Columns that grow row by row.

use super::{Cell, RowHead};
use crate::{
    Result,
    columns::{Columns, Kind, seq_fields},
};
use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Float64Builder, Int16Builder, Int32Builder, Int64Builder, RecordBatch,
    StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use std::sync::Arc;

/// About what a row takes beside its texts and numbers: time, position, ingest time, offsets.
const HEAD_BYTES: usize = 2 + 8 + 8 + 4 + 8 + 4 + 8;

#[derive(Debug)]
pub(super) struct Builders {
    device: StringBuilder,
    time: TimestampMicrosecondBuilder,
    time_ns: Int16Builder,
    generation: Int32Builder,
    offset: Int64Builder,
    row: Int32Builder,
    received: TimestampMicrosecondBuilder,
    own: Vec<Own>,
    /// For each column of the table's own the turn in which it was given last.
    given: Vec<u64>,
    turn: u64,
    rest: StringBuilder,
    rows: usize,
    bytes: usize,
}

/// A column of the table's own. It is filled with nulls only when it gets a value, or at the end.
#[derive(Debug)]
enum Own {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
}

impl Own {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool(BooleanBuilder::with_capacity(0)),
            Kind::Int => Self::Int(Int64Builder::with_capacity(0)),
            Kind::Float => Self::Float(Float64Builder::with_capacity(0)),
            Kind::Text => Self::Text(StringBuilder::with_capacity(0, 0)),
        }
    }

    fn takes(&self, cell: &Cell<'_>) -> bool {
        matches!(
            (self, cell),
            (Self::Bool(_), Cell::Bool(_))
                | (Self::Int(_), Cell::Int(_))
                | (Self::Float(_), Cell::Float(_))
                | (Self::Text(_), Cell::Text(_))
        )
    }

    fn len(&self) -> usize {
        match self {
            Self::Bool(builder) => builder.len(),
            Self::Int(builder) => builder.len(),
            Self::Float(builder) => builder.len(),
            Self::Text(builder) => builder.len(),
        }
    }

    /// Nulls up to `rows` rows.
    fn fill(&mut self, rows: usize) {
        let missing = rows - self.len();
        if missing > 0 {
            match self {
                Self::Bool(builder) => builder.append_nulls(missing),
                Self::Int(builder) => builder.append_nulls(missing),
                Self::Float(builder) => builder.append_nulls(missing),
                Self::Text(builder) => (0..missing).for_each(|_| builder.append_null()),
            }
        }
    }

    /// Adds a cell that [`Self::takes`]; returns about what it takes in memory.
    fn push(&mut self, cell: &Cell<'_>) -> usize {
        match (self, cell) {
            (Self::Bool(builder), Cell::Bool(value)) => builder.append_value(*value),
            (Self::Int(builder), Cell::Int(value)) => builder.append_value(*value),
            (Self::Float(builder), Cell::Float(value)) => builder.append_value(*value),
            (Self::Text(builder), Cell::Text(value)) => {
                builder.append_value(value);
                return 4 + value.len();
            }
            _ => {}
        }
        8
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int(builder) => Arc::new(builder.finish()),
            Self::Float(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
        }
    }
}

impl Builders {
    pub(super) fn new(columns: &Columns) -> Self {
        // Most windows of most tables are small: everything grows by itself.
        let micros = || TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC");
        Self {
            device: StringBuilder::with_capacity(0, 0),
            time: micros(),
            time_ns: Int16Builder::with_capacity(0),
            generation: Int32Builder::with_capacity(0),
            offset: Int64Builder::with_capacity(0),
            row: Int32Builder::with_capacity(0),
            received: micros(),
            own: columns.own().iter().map(|column| Own::new(column.kind)).collect(),
            given: vec![0; columns.own().len()],
            turn: 0,
            rest: StringBuilder::with_capacity(0, 0),
            rows: 0,
            bytes: 0,
        }
    }

    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// About what the rows take in memory.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a row, or nothing.
    pub(super) fn append(
        &mut self,
        columns: &Columns,
        head: &RowHead<'_>,
        cells: &[(usize, Cell<'_>)],
        rest: Option<&str>,
    ) -> Result<()> {
        let out_of_range = |what: &str| columns.mismatch(format!("{what} of a row is out of range"));
        let generation = head.generation().ok_or_else(|| out_of_range("generation"))?;
        let offset = i64::try_from(head.position.offset).map_err(|_| out_of_range("offset"))?;
        let row = i32::try_from(head.row).map_err(|_| out_of_range("index"))?;
        if !(0..1000).contains(&head.time_ns) {
            return Err(out_of_range("nanoseconds"));
        }
        let texts = cells.iter().map(|(_, cell)| if let Cell::Text(text) = cell { text.len() } else { 0 });
        let texts: usize = texts.sum::<usize>() + head.device.len() + rest.map_or(0, str::len);
        // A column's offsets have 31 bits; a batch of a thousandth of that is large enough.
        if i32::try_from(self.bytes + texts).is_err() {
            return Err(out_of_range("length of the texts"));
        }
        for (column, cell) in cells {
            let own = self.own.get(*column).ok_or_else(|| columns.mismatch(format!("there is no column {column}")))?;
            if !own.takes(cell) {
                let name = &columns.own()[*column].name;
                return Err(columns.mismatch(format!("column {name:?} does not take {cell:?}")));
            }
        }
        self.turn += 1;
        for (column, _) in cells {
            if std::mem::replace(&mut self.given[*column], self.turn) == self.turn {
                let name = &columns.own()[*column].name;
                return Err(columns.mismatch(format!("column {name:?} is given twice")));
            }
        }
        self.device.append_value(head.device);
        self.time.append_value(head.time_us);
        self.time_ns.append_value(head.time_ns);
        self.generation.append_value(generation);
        self.offset.append_value(offset);
        self.row.append_value(row);
        self.received.append_value(head.received_us);
        self.rest.append_option(rest);
        self.bytes += HEAD_BYTES + head.device.len() + rest.map_or(0, str::len);
        for (column, cell) in cells {
            let own = &mut self.own[*column];
            own.fill(self.rows);
            self.bytes += own.push(cell);
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows in the order in which they came; none are left.
    pub(super) fn finish(&mut self, columns: &Columns) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let seq: Vec<ArrayRef> =
            vec![Arc::new(self.generation.finish()), Arc::new(self.offset.finish()), Arc::new(self.row.finish())];
        let seq = StructArray::try_new(seq_fields(), seq, None).map_err(|error| columns.failed("seal", error))?;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(self.device.finish()),
            Arc::new(self.time.finish()),
            Arc::new(self.time_ns.finish()),
            Arc::new(seq),
            Arc::new(self.received.finish()),
        ];
        for own in &mut self.own {
            own.fill(rows);
            arrays.push(own.finish());
        }
        arrays.push(Arc::new(self.rest.finish()));
        columns.batch(columns.schema().clone(), arrays, rows)
    }
}
