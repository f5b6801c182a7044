//! Which columns a table has, and where the fields of a row go. Pure logic: someone else orders and stores.
//!
//! **Columns.** A field that no column is for becomes a column of the type of its first value. A column never
//! disappears and never changes its [`FieldId`]. Names are case-sensitive. A field gets no column, and all its
//! values go to the overflow column `_rest`, if
//! - its value is [`Value::Rest`](crate::Value::Rest) (until a value comes that a column can hold),
//! - the table has [`MAX_COLUMNS`] columns already,
//! - its name is longer than [`MAX_NAME_BYTES`] or has a control character.
//!
//! **Reserved names.** `device`, `time`, the empty name and names that start with `_` belong to the table. The column of
//! such a field is called otherwise: without the underscores and with `_field` behind it, and with a number where
//! that is taken, too. [`Column::field`] says what was sent.
//!
//! **Values in columns of another type:**
//!
//! | column | value | goes |
//! |---|---|---|
//! | `int64` | float | the column becomes `float64`, if all its integers are within ±2^53 ([`Column::wide`] is not set) |
//! | `int64`, wide | float that is whole and within ±2^53, not -0.0 | to the column as that integer |
//! | `int64`, wide | any other float | to overflow |
//! | `int64`, not wide | integer beyond ±2^53 | to the column, which becomes wide |
//! | `float64` | integer within ±2^53 | to the column as that float |
//! | `float64` | integer beyond ±2^53 | to overflow |
//! | `list<int64>`, `list<float64>` | list | as above, for all items at once; a list of floats never becomes integers |
//! | any other pair | | to overflow |
//!
//! So every value is, exactly, in its column or in `_rest`. (The rule asks whether every stored integer is within
//! ±2^53. Least and greatest integers would change with each row and would not be the same for all partitions; the
//! one bit that is asked for changes once and is ordered like all changes.)
//!
//! **Keys.** A column that a key field has gone to is a key column from then on. A row whose key field goes to overflow
//! must not be merged with any other: [`Assignment::must_append`].
//!
//! **One order.** [`TableSchema::assign`] never changes the schema. It says which [`Change`]s a row needs; the
//! caller puts them into the one order that all partitions agree on (the `state` stream), applies what comes out
//! of that order by [`TableSchema::apply`], and assigns again. The first change of a kind wins and a later one
//! without purpose does nothing: of two partitions that meet one new field with different types, the first types the column,
//! and the other finds its value a place by the table above. Equal orders give equal schemas.

use std::{collections::HashMap, fmt};

use floodplain_types::Position;

use crate::{
    layout::LayoutColumn,
    rows::Role,
    value::{ColumnType, ElementType},
};

mod assign;
mod v1;

pub use assign::Assignment;

/// Most columns of a table, besides its own. What Parquet's footers and people bear; further fields stay in `_rest`.
pub const MAX_COLUMNS: usize = 1_024;
/// Longest name of a column.
pub const MAX_NAME_BYTES: usize = crate::document::MAX_NAME_BYTES;
/// Below this are the ids of the columns that every table has: `device`, `time` and those that start with `_`.
pub const FIRST_FIELD_ID: u32 = 100;

/// Names a column in files, for ever: given once, never to another column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldId(pub u32);

impl fmt::Display for FieldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A column for one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name of the field, as sent.
    pub field: String,
    /// The name in SQL: that of the field, unless that is reserved.
    pub name: String,
    pub column_type: ColumnType,
    pub field_id: FieldId,
    /// The record that first had the field.
    pub first_seen: Position,
    /// Whether integers beyond ±2^53 may be stored here. Such a column stays one of integers.
    pub wide: bool,
    /// Whether it belongs to the row key.
    pub key: bool,
}

/// The columns of one table, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct TableSchema {
    columns: Vec<Column>,
    /// Only looked up, never walked: its order decides nothing.
    by_field: HashMap<String, usize>,
    version: u64,
}

/// One step of a schema. Steps are applied in the order that all agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A column for a new field. Nothing if the field has one, or the table is full.
    Add { field: String, column_type: ColumnType, wide: bool, key: bool, first_seen: Position },
    /// A column of integers becomes one of floats. Nothing if it is wide.
    ToFloat { field: String },
    /// A column of integers takes those beyond ±2^53. Nothing if it is one of floats.
    Widen { field: String },
    /// A column becomes a key column.
    MakeKey { field: String },
}

/// A stored schema or change that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("stored table schema is not readable")]
    Stored(#[from] serde_json::Error),
    #[error("stored table schema has format {0}, this release reads format 1")]
    Format(u32),
    #[error("stored table schema contradicts itself: {0}")]
    Invalid(String),
}

impl TableSchema {
    /// A table without columns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The columns; they keep their places.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many changes have had an effect.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The column for a field, by its place in [`Self::columns`].
    #[must_use]
    pub fn column_of(&self, field: &str) -> Option<usize> {
        self.by_field.get(field).copied()
    }

    /// Applies one change. Returns whether it had an effect.
    pub fn apply(&mut self, change: &Change) -> bool {
        let changed = match change {
            Change::Add { field, column_type, wide, key, first_seen } => {
                self.add(field, *column_type, *wide, *key, *first_seen)
            }
            Change::ToFloat { field } => self.with(field, |column| match column.column_type {
                ColumnType::Int64 if !column.wide => {
                    column.column_type = ColumnType::Float64;
                    true
                }
                ColumnType::List(ElementType::Int64) if !column.wide => {
                    column.column_type = ColumnType::List(ElementType::Float64);
                    true
                }
                _ => false,
            }),
            Change::Widen { field } => self.with(field, |column| {
                let change = is_int(column.column_type) && !column.wide;
                column.wide |= change;
                change
            }),
            Change::MakeKey { field } => self.with(field, |column| !std::mem::replace(&mut column.key, true)),
        };
        self.version += u64::from(changed);
        changed
    }

    fn with(&mut self, field: &str, change: impl FnOnce(&mut Column) -> bool) -> bool {
        let column = self.by_field.get(field).and_then(|idx| self.columns.get_mut(*idx));
        column.is_some_and(change)
    }

    fn add(&mut self, field: &str, column_type: ColumnType, wide: bool, key: bool, first_seen: Position) -> bool {
        if self.by_field.contains_key(field) || self.columns.len() >= MAX_COLUMNS || !may_be_column(field) {
            return false;
        }
        // Columns are never taken away, so their number counts the ids that were given.
        let field_id = FieldId(FIRST_FIELD_ID + self.columns.len() as u32);
        let (name, wide) = (self.free_name(field), wide && is_int(column_type));
        self.by_field.insert(field.to_owned(), self.columns.len());
        self.columns.push(Column { field: field.to_owned(), name, column_type, field_id, first_seen, wide, key });
        true
    }

    fn free_name(&self, field: &str) -> String {
        let taken = |name: &str| is_reserved(name) || self.columns.iter().any(|column| column.name == name);
        if !taken(field) {
            return field.to_owned();
        }
        let bare = field.trim_start_matches('_');
        let base = if bare.is_empty() { "field".to_owned() } else { format!("{bare}_field") };
        if !taken(&base) {
            return base;
        }
        let mut number = 2_usize;
        loop {
            let name = format!("{base}{number}");
            if !taken(&name) {
                return name;
            }
            number += 1;
        }
    }

    /// The changes that give a table the columns of a layout before its first row comes.
    #[must_use]
    pub fn declare(columns: &[LayoutColumn], first_seen: Position) -> Vec<Change> {
        let change = |column: &LayoutColumn| Change::Add {
            field: column.name.clone(),
            column_type: column.column_type,
            wide: false,
            key: column.role == Role::Key,
            first_seen,
        };
        columns.iter().map(change).collect()
    }

    /// The form that is stored: one line of JSON with a format number.
    #[must_use]
    pub fn to_stored(&self) -> String {
        serde_json::to_string(&v1::TableSchema::from(self)).expect("names and numbers can be written")
    }

    /// Reads [`Self::to_stored`].
    ///
    /// # Errors
    /// [`SchemaError`] if it is not that, or from a newer release.
    pub fn from_stored(stored: &str) -> Result<Self, SchemaError> {
        v1::check_format(stored)?;
        Self::try_from(serde_json::from_str::<v1::TableSchema>(stored)?)
    }
}

impl PartialEq for TableSchema {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.columns == other.columns
    }
}

impl Change {
    /// The field that the change is about.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::Add { field, .. } | Self::ToFloat { field } | Self::Widen { field } | Self::MakeKey { field } => {
                field
            }
        }
    }

    /// The form that is stored: one line of JSON with a format number.
    #[must_use]
    pub fn to_stored(&self) -> String {
        serde_json::to_string(&v1::Stored { format: 1, change: self.into() }).expect("names can be written")
    }

    /// Reads [`Self::to_stored`].
    ///
    /// # Errors
    /// [`SchemaError`] if it is not that, or from a newer release.
    pub fn from_stored(stored: &str) -> Result<Self, SchemaError> {
        v1::check_format(stored)?;
        serde_json::from_str::<v1::Stored>(stored)?.change.try_into()
    }
}

fn is_int(column_type: ColumnType) -> bool {
    matches!(column_type, ColumnType::Int64 | ColumnType::List(ElementType::Int64))
}

/// Names that belong to the table itself.
fn is_reserved(name: &str) -> bool {
    name.is_empty() || name == "device" || name == "time" || name.starts_with('_')
}

fn may_be_column(field: &str) -> bool {
    field.len() <= MAX_NAME_BYTES && !field.chars().any(char::is_control)
}
