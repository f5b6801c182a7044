//! The columns of a table as Arrow sees them, and how older rows become rows of today.

use crate::{Error, Result};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
        StructArray, new_null_array,
    },
    compute::cast,
    datatypes::{
        DataType, Field, FieldRef, Fields, Float64Type, Int16Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
        TimestampMicrosecondType,
    },
};
use std::{collections::HashMap, sync::Arc};

/// Name of the metadata of an Arrow field that holds its Parquet field id.
const FIELD_ID: &str = "PARQUET:field_id";
/// Field ids below are those of the columns that every table has; a table's own start here.
pub const FIRST_FIELD_ID: i32 = 100;
const REST_ID: i32 = 9;

/// Where the columns are that every table has; the table's own are between [`RECEIVED`] and the
/// last one, which is `_rest`.
pub const DEVICE: usize = 0;
/// Event time in µs.
pub const TIME: usize = 1;
/// Nanoseconds of the event time within its microsecond.
pub const TIME_NS: usize = 2;
/// Position of the record, and index of the row within it.
pub const SEQ: usize = 3;
/// Time of ingest in µs.
pub const RECEIVED: usize = 4;
/// The first column of the table itself.
pub const FIRST: usize = 5;

/// What a column of a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Bool,
    Int,
    Float,
    Text,
}

impl Kind {
    /// As people know it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bool => "Boolean",
            Self::Int => "Int64",
            Self::Float => "Float64",
            Self::Text => "Utf8",
        }
    }

    /// The type of its values in memory.
    #[must_use]
    pub const fn data_type(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Text => DataType::Utf8,
        }
    }
}

/// A column of a table's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnColumn {
    pub name: String,
    pub kind: Kind,
    /// Given once, never used again for another column; at least [`FIRST_FIELD_ID`].
    pub field_id: i32,
    /// Whether it is part of the row key.
    pub is_key: bool,
}

/// All columns of a table at one version of its schema. Cheap to clone in an `Arc`.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    table: String,
    version: u32,
    own: Vec<OwnColumn>,
    schema: SchemaRef,
    field_ids: Vec<i32>,
    keys: Vec<usize>,
}

impl Columns {
    /// The columns of `table`; `own` in any order.
    ///
    /// # Errors
    /// [`Error::Schema`] if a field id is reserved or used twice, or a name is used twice.
    pub fn new(table: &str, version: u32, mut own: Vec<OwnColumn>) -> Result<Self> {
        let refuse = |reason: String| Err(Error::Schema { table: table.to_owned(), reason });
        own.sort_by_key(|column| column.field_id);
        if let Some(column) = own.iter().find(|column| column.field_id < FIRST_FIELD_ID) {
            return refuse(format!("field id {} of column {:?} is reserved", column.field_id, column.name));
        }
        if let Some(pair) = own.windows(2).find(|pair| pair[0].field_id == pair[1].field_id) {
            return refuse(format!("columns {:?} and {:?} share a field id", pair[0].name, pair[1].name));
        }
        let mut fields = leading_fields();
        fields.extend(own.iter().map(|column| field(&column.name, column.kind.data_type(), true, column.field_id)));
        fields.push(field("_rest", DataType::Utf8, true, REST_ID));
        let mut names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("two columns are named {:?}", pair[0]));
        }
        let field_ids = fields.iter().filter_map(|field| field_id(field)).collect();
        let keys = own.iter().enumerate().filter(|(_, column)| column.is_key).map(|(i, _)| FIRST + i).collect();
        Ok(Self { table: table.to_owned(), version, own, schema: Arc::new(Schema::new(fields)), field_ids, keys })
    }

    /// Name of the table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Version of the schema.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// All columns in their order: device, time, `_time_ns`, `_seq`, `_received`, the table's own by
    /// field id, `_rest`.
    #[must_use]
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The table's own columns by field id; the first of them is column [`FIRST`].
    #[must_use]
    pub fn own(&self) -> &[OwnColumn] {
        &self.own
    }

    /// Indexes of the key columns, by field id.
    #[must_use]
    pub fn keys(&self) -> &[usize] {
        &self.keys
    }

    /// Index of `_rest`.
    #[must_use]
    pub fn rest(&self) -> usize {
        FIRST + self.own.len()
    }

    /// Field id of a column.
    pub(crate) fn field_id(&self, column: usize) -> i32 {
        self.field_ids[column]
    }

    /// The schema of some of the columns.
    pub(crate) fn projected(&self, projection: &[usize]) -> SchemaRef {
        let fields = self.schema.fields();
        Arc::new(Schema::new(projection.iter().map(|&column| fields[column].clone()).collect::<Fields>()))
    }

    /// Rows of an earlier version of this schema, or of some of its columns, as these columns of
    /// this version: what is missing is null, Int64 becomes Float64 where a column was widened.
    ///
    /// # Errors
    /// [`Error::Schema`] if a column has another type, or one is missing that every row has.
    pub fn upcast(&self, batch: &RecordBatch, projection: &[usize]) -> Result<RecordBatch> {
        let found: HashMap<i32, usize> =
            batch.schema_ref().fields().iter().enumerate().filter_map(|(i, f)| Some((field_id(f)?, i))).collect();
        let mut arrays = Vec::with_capacity(projection.len());
        for &column in projection {
            let wanted = self.schema.field(column);
            let array = match found.get(&self.field_ids[column]) {
                Some(&at) => self.upcast_array(batch.column(at), wanted)?,
                None if wanted.is_nullable() => new_null_array(wanted.data_type(), batch.num_rows()),
                None => return Err(self.mismatch(format!("column {:?} is missing", wanted.name()))),
            };
            arrays.push(array);
        }
        self.batch(self.projected(projection), arrays, batch.num_rows())
    }

    fn upcast_array(&self, array: &ArrayRef, wanted: &Field) -> Result<ArrayRef> {
        if array.data_type() == wanted.data_type() {
            return Ok(array.clone());
        }
        match (array.data_type(), wanted.data_type()) {
            // A column is widened only while all its integers have an equal float.
            (DataType::Int64, DataType::Float64) => {
                cast(array, &DataType::Float64).map_err(|error| self.failed("widen", error))
            }
            // The fields of a struct are compared with their metadata, which older files may lack.
            (DataType::Struct(_), DataType::Struct(fields)) => {
                let seq = array.as_struct();
                let same = seq.columns().len() == fields.len()
                    && seq.columns().iter().zip(fields).all(|(a, f)| a.data_type() == f.data_type());
                if !same {
                    return Err(self.mismatch(format!("column {:?} has other parts", wanted.name())));
                }
                StructArray::try_new(fields.clone(), seq.columns().to_vec(), seq.nulls().cloned())
                    .map(|array| Arc::new(array) as ArrayRef)
                    .map_err(|error| self.failed("cast", error))
            }
            (found, wanted_type) => {
                Err(self.mismatch(format!("column {:?} is {found}, not {wanted_type}", wanted.name())))
            }
        }
    }

    /// A batch of `rows` rows; `arrays` may be none.
    pub(crate) fn batch(&self, schema: SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|error| self.mismatch(error.to_string()))
    }

    pub(crate) fn mismatch(&self, reason: String) -> Error {
        Error::Schema { table: self.table.clone(), reason }
    }

    pub(crate) fn failed(&self, action: &'static str, error: impl Into<crate::error::Cause>) -> Error {
        Error::Compute { action, table: self.table.clone(), source: error.into() }
    }
}

fn field(name: &str, data_type: DataType, nullable: bool, id: i32) -> FieldRef {
    let metadata = HashMap::from([(FIELD_ID.to_owned(), id.to_string())]);
    Arc::new(Field::new(name, data_type, nullable).with_metadata(metadata))
}

fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(FIELD_ID)?.parse().ok()
}

/// Type of `time` and `_received`.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Parts of `_seq`. Unsigned positions are stored signed, because Parquet readers expect it.
pub(crate) fn seq_fields() -> Fields {
    vec![
        field("generation", DataType::Int32, false, 5),
        field("offset", DataType::Int64, false, 6),
        field("row", DataType::Int32, false, 7),
    ]
    .into()
}

fn leading_fields() -> Vec<FieldRef> {
    vec![
        field("device", DataType::Utf8, false, 1),
        field("time", timestamp_type(), false, 2),
        field("_time_ns", DataType::Int16, false, 3),
        field("_seq", DataType::Struct(seq_fields()), false, 4),
        field("_received", timestamp_type(), false, 8),
    ]
}

/// The values of the columns that every row has, of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Heads<'a> {
    pub(crate) device: &'a StringArray,
    keys: Vec<KeyArray<'a>>,
    pub(crate) time: &'a [i64],
    pub(crate) time_ns: &'a [i16],
    pub(crate) generation: &'a [i32],
    pub(crate) offset: &'a [i64],
    pub(crate) row: &'a [i32],
    pub(crate) received: &'a [i64],
}

impl<'a> Heads<'a> {
    /// `batch` has the columns of the table from the first to the last, or a projection of them;
    /// `at` says where a column is in it.
    ///
    /// # Errors
    /// [`Error::Schema`] if one is missing, has another type, or has nulls where it may not.
    pub(crate) fn of(columns: &Columns, batch: &'a RecordBatch, at: impl Fn(usize) -> Option<usize>) -> Result<Self> {
        let find = |column: usize| -> Result<&'a ArrayRef> {
            let field = columns.schema.field(column);
            let array = at(column).and_then(|i| batch.columns().get(i));
            let array = array.ok_or_else(|| columns.mismatch(format!("column {:?} is missing", field.name())))?;
            if array.data_type() != field.data_type() {
                return Err(columns.mismatch(format!("column {:?} is {}", field.name(), array.data_type())));
            }
            if !field.is_nullable() && array.null_count() > 0 {
                return Err(columns.mismatch(format!("column {:?} has nulls", field.name())));
            }
            Ok(array)
        };
        let seq = find(SEQ)?.as_struct();
        Ok(Self {
            device: find(DEVICE)?.as_string(),
            keys: columns.keys.iter().map(|&key| Ok(KeyArray::of(find(key)?))).collect::<Result<_>>()?,
            time: find(TIME)?.as_primitive::<TimestampMicrosecondType>().values(),
            time_ns: find(TIME_NS)?.as_primitive::<Int16Type>().values(),
            generation: seq.column(0).as_primitive::<Int32Type>().values(),
            offset: seq.column(1).as_primitive::<Int64Type>().values(),
            row: seq.column(2).as_primitive::<Int32Type>().values(),
            received: find(RECEIVED)?.as_primitive::<TimestampMicrosecondType>().values(),
        })
    }

    /// Of a batch with all columns.
    pub(crate) fn whole(columns: &Columns, batch: &'a RecordBatch) -> Result<Self> {
        Self::of(columns, batch, Some)
    }

    pub(crate) fn seq(&self, i: usize) -> (i32, i64, i32) {
        (self.generation[i], self.offset[i], self.row[i])
    }

    pub(crate) fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn key(&self, column: usize, i: usize) -> KeyCell<'a> {
        self.keys[column].cell(i)
    }

    /// Whether the row had no time of its own.
    pub(crate) fn is_append(&self, i: usize) -> bool {
        self.time[i] == self.received[i]
    }

    /// Whether two rows have one key. Times differ most often, so they are looked at first.
    pub(crate) fn is_same_key(&self, i: usize, j: usize) -> bool {
        self.time[i] == self.time[j]
            && self.time_ns[i] == self.time_ns[j]
            && self.device.value(i) == self.device.value(j)
            && (0..self.keys.len()).all(|k| self.key(k, i) == self.key(k, j))
    }

    /// Compares the keys of a row here and a row there: device, key columns (null first), time.
    pub(crate) fn compare_keys(&self, i: usize, other: &Heads<'_>, j: usize) -> std::cmp::Ordering {
        self.device.value(i).cmp(other.device.value(j)).then_with(|| {
            (0..self.keys.len()).map(|k| self.key(k, i).cmp(&other.key(k, j))).find(|o| o.is_ne()).unwrap_or_else(
                || self.time[i].cmp(&other.time[j]).then_with(|| self.time_ns[i].cmp(&other.time_ns[j])),
            )
        })
    }
}

/// A value of a key column. Null is before all others, 0 and -0 are one, and so is all that is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum KeyCell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// In the order of the numbers.
    Float(i64),
    Text(&'a str),
}

#[derive(Debug, Clone, Copy)]
enum KeyArray<'a> {
    Bool(&'a BooleanArray),
    Int(&'a Int64Array),
    Float(&'a Float64Array),
    Text(&'a StringArray),
}

impl<'a> KeyArray<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::Int64 => Self::Int(array.as_primitive()),
            DataType::Float64 => Self::Float(array.as_primitive()),
            _ => Self::Text(array.as_string()),
        }
    }

    fn cell(self, i: usize) -> KeyCell<'a> {
        match self {
            Self::Bool(array) if array.is_valid(i) => KeyCell::Bool(array.value(i)),
            Self::Int(array) if array.is_valid(i) => KeyCell::Int(array.value(i)),
            Self::Float(array) if array.is_valid(i) => KeyCell::Float(ordered(array.value(i))),
            Self::Text(array) if array.is_valid(i) => KeyCell::Text(array.value(i)),
            _ => KeyCell::Null,
        }
    }
}

/// A number that is ordered like `value`.
pub(crate) fn ordered(value: f64) -> i64 {
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// A text, or `None` for null.
pub(crate) fn text(array: &StringArray, i: usize) -> Option<&str> {
    array.is_valid(i).then(|| array.value(i))
}

/// Whether two values of one column are the same: 0 and -0 are, and so is what is not a number.
pub(crate) fn same_value(array: &ArrayRef, i: usize, j: usize) -> bool {
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(i) == array.as_boolean().value(j),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(i) == array.as_primitive::<Int64Type>().value(j),
        DataType::Float64 => {
            let floats = array.as_primitive::<Float64Type>();
            let (a, b) = (floats.value(i), floats.value(j));
            a == b || (a.is_nan() && b.is_nan())
        }
        _ => array.as_string::<i32>().value(i) == array.as_string::<i32>().value(j),
    }
}
