//! Where the fields of one row go.

use floodplain_types::Position;

use super::{Change, Column, MAX_COLUMNS, TableSchema, may_be_column};
use crate::{
    number::{is_exact, whole},
    rows::{Field, Role, Row},
    value::{ColumnType, ElementType, Value},
    write_json,
};

/// The answer for one row. The buffer is used again for the next row, and then knows where its fields probably go.
#[derive(Debug, Default)]
pub struct Assignment {
    places: Vec<Place>,
    /// Where the fields of the last row went, by their place in the row.
    guesses: Vec<u32>,
    changes: Vec<Change>,
    rest: String,
    overflow_count: usize,
    must_append: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Column {
        idx: u32,
        cast: Cast,
    },
    Overflow,
    /// A change decides.
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cast {
    None,
    IntToFloat,
    FloatToInt,
}

enum Fit {
    Column(Cast),
    Change(Change),
    Overflow,
}

impl Assignment {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the schema needs before this row can be stored. If there is any, nothing else here counts: get them
    /// ordered, apply what comes of it, and assign again.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The fields that go to columns, as places in [`TableSchema::columns`] with values of the columns' types. `row` is
    /// the row that was assigned.
    pub fn columns<'r>(&self, row: &Row<'r>) -> impl Iterator<Item = (usize, Value<'r>)> {
        self.fields(row).filter_map(|(_, column)| column)
    }

    /// All fields in their order, each with what [`Self::columns`] says of it; those without a column go to overflow, or wait
    /// for a change.
    pub fn fields<'r>(&self, row: &Row<'r>) -> impl Iterator<Item = (Field<'r>, Option<(usize, Value<'r>)>)> {
        self.places.iter().zip(row.fields()).map(|(place, field)| match place {
            Place::Column { idx, cast } => (field, Some((*idx as usize, cast.apply(field.value)))),
            Place::Overflow | Place::Open => (field, None),
        })
    }

    /// The fields that go to overflow, for counters and the catalogue.
    pub fn overflow<'r>(&self, row: &Row<'r>) -> impl Iterator<Item = Field<'r>> {
        self.places.iter().zip(row.fields()).filter(|(place, _)| **place == Place::Overflow).map(|(_, field)| field)
    }

    /// How many fields go to overflow.
    #[must_use]
    pub const fn overflow_count(&self) -> usize {
        self.overflow_count
    }

    /// The value of `_rest`: one JSON object of all fields in overflow, by their names as sent. Where a tag and a field of
    /// one name are both there, they are an array of two.
    #[must_use]
    pub fn rest(&self) -> Option<&str> {
        (self.overflow_count > 0).then_some(self.rest.as_str())
    }

    /// Whether a field of the row key is in overflow. Merged by what is left of its key, the row would replace others.
    #[must_use]
    pub const fn must_append(&self) -> bool {
        self.must_append
    }
}

impl Cast {
    fn apply(self, value: Value<'_>) -> Value<'_> {
        match (self, value) {
            (Self::IntToFloat, Value::Int(value)) => Value::Float(value as f64),
            (Self::IntToFloat, Value::List(list)) => Value::List(list.as_floats()),
            (Self::FloatToInt, Value::Float(value)) => Value::Int(value as i64),
            (_, value) => value,
        }
    }
}

impl TableSchema {
    /// Says where the fields of `row` go, with the schema as it is. `at` is the position of the row's record.
    pub fn assign(&self, row: &Row<'_>, at: Position, assignment: &mut Assignment) {
        let Assignment { places, guesses, changes, rest, overflow_count, must_append } = assignment;
        places.clear();
        changes.clear();
        rest.clear();
        (*overflow_count, *must_append) = (0, false);
        let mut room = MAX_COLUMNS.saturating_sub(self.columns.len());
        let mut has_tag_in_rest = false;
        for (idx, field) in row.fields().enumerate() {
            let is_tag = field.role != Role::Value;
            let guess = guesses.get(idx).copied().unwrap_or(u32::MAX);
            let found = match self.columns.get(guess as usize) {
                Some(column) if column.field == field.name => Some(guess as usize),
                _ => self.column_of(field.name),
            };
            let fit = match found {
                Some(found) => self.columns[found].fit(&field),
                None => new_column(&field, at, &mut room),
            };
            let place = match fit {
                Fit::Column(cast) => {
                    let found = found.unwrap_or_default();
                    if field.role == Role::Key && !self.columns[found].key {
                        changes.push(Change::MakeKey { field: field.name.to_owned() });
                    }
                    if guesses.len() <= idx {
                        guesses.resize(idx + 1, u32::MAX);
                    }
                    guesses[idx] = found as u32;
                    Place::Column { idx: found as u32, cast }
                }
                Fit::Change(change) => {
                    changes.push(change);
                    Place::Open
                }
                Fit::Overflow => {
                    *overflow_count += 1;
                    // A line may have a tag and a field of one name; both in overflow are one member.
                    let twin = |other: &Field<'_>| other.name == field.name && other.role != field.role;
                    let is_second = has_tag_in_rest
                        && row
                            .fields()
                            .zip(places.iter())
                            .any(|(other, place)| *place == Place::Overflow && twin(&other));
                    if !is_second {
                        let second = if is_tag { row.fields().skip(idx + 1).find(twin) } else { None };
                        overflow(&field, second.as_ref(), rest);
                    }
                    has_tag_in_rest |= is_tag;
                    *must_append |= field.role == Role::Key;
                    Place::Overflow
                }
            };
            places.push(place);
        }
        if !rest.is_empty() {
            rest.push('}');
        }
    }
}

/// Appends a member of `_rest`: the value, or an array of the tag's and the field's.
fn overflow(field: &Field<'_>, second: Option<&Field<'_>>, rest: &mut String) {
    rest.push(if rest.is_empty() { '{' } else { ',' });
    write_json::text(field.name, rest);
    rest.push(':');
    match second {
        None => write_json::value(field.value, rest),
        Some(second) => {
            rest.push('[');
            write_json::value(field.value, rest);
            rest.push(',');
            write_json::value(second.value, rest);
            rest.push(']');
        }
    }
}

fn new_column(field: &Field<'_>, at: Position, room: &mut usize) -> Fit {
    let Some(column_type) = field.value.column_type() else { return Fit::Overflow };
    if *room == 0 || !may_be_column(field.name) {
        return Fit::Overflow;
    }
    *room -= 1;
    Fit::Change(Change::Add {
        field: field.name.to_owned(),
        column_type,
        wide: has_wide_int(field.value),
        key: field.role == Role::Key,
        first_seen: at,
    })
}

/// Whether there is an integer that a float does not hold.
fn has_wide_int(value: Value<'_>) -> bool {
    match value {
        Value::Int(value) => !is_exact(value),
        Value::List(list) if list.element() == ElementType::Int64 => list.iter().any(has_wide_int),
        _ => false,
    }
}

impl Column {
    fn fit(&self, field: &Field<'_>) -> Fit {
        const INTS: ColumnType = ColumnType::List(ElementType::Int64);
        const FLOATS: ColumnType = ColumnType::List(ElementType::Float64);
        let Some(given) = field.value.column_type() else { return Fit::Overflow };
        let name = || field.name.to_owned();
        match (self.column_type, given) {
            (ColumnType::Int64, ColumnType::Int64) | (INTS, INTS) if !self.wide && has_wide_int(field.value) => {
                Fit::Change(Change::Widen { field: name() })
            }
            (column, given) if column == given => Fit::Column(Cast::None),
            (ColumnType::Int64, ColumnType::Float64) | (INTS, FLOATS) if !self.wide => {
                Fit::Change(Change::ToFloat { field: name() })
            }
            (ColumnType::Int64, ColumnType::Float64) => match field.value {
                Value::Float(value) if whole(value).is_some() => Fit::Column(Cast::FloatToInt),
                _ => Fit::Overflow,
            },
            (ColumnType::Float64, ColumnType::Int64) | (FLOATS, INTS) if !has_wide_int(field.value) => {
                Fit::Column(Cast::IntToFloat)
            }
            _ => Fit::Overflow,
        }
    }
}
