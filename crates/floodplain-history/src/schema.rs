//! What a decoder has found becomes columns of a table: how the schemas of the two crates fit together.
//!
//! Bytes are stored as base64 text and lists as JSON text, so a column of each is one of texts here.

use crate::{
    Result,
    buffer::Cell,
    catalog::Document,
    columns::{Columns, Kind, OwnColumn},
};
use floodplain_decode::{
    ColumnType, ElementType, Value,
    schema::{Column, TableSchema},
};

impl Document for TableSchema {
    fn decode(_table: &str, value: &[u8]) -> Option<Self> {
        let schema = Self::from_stored(std::str::from_utf8(value).ok()?).ok()?;
        // Files and columns number versions with 32 bits; only nonsense has more.
        (u32::try_from(schema.version()).is_ok() && columns_of("", &schema).is_ok()).then_some(schema)
    }

    fn version(&self) -> u32 {
        u32::try_from(self.version()).unwrap_or(u32::MAX)
    }

    fn follows(&self, before: &Self) -> bool {
        const INTS: ColumnType = ColumnType::List(ElementType::Int64);
        const FLOATS: ColumnType = ColumnType::List(ElementType::Float64);
        let follows = |(after, before): (&Column, &Column)| {
            let has_values = match (before.column_type, after.column_type) {
                // Integers become floats while none is wide.
                (ColumnType::Int64, ColumnType::Float64) | (INTS, FLOATS) => !before.wide,
                (before_type, after_type) => before_type == after_type && (after.wide || !before.wide),
            };
            has_values
                && after.field == before.field
                && after.name == before.name
                && after.field_id == before.field_id
                && after.first_seen == before.first_seen
                && (after.key || !before.key)
        };
        self.columns().len() >= before.columns().len() && self.columns().iter().zip(before.columns()).all(follows)
    }
}

/// How values of a type are stored.
const fn kind(column_type: ColumnType) -> Kind {
    match column_type {
        ColumnType::Bool => Kind::Bool,
        ColumnType::Int64 => Kind::Int,
        ColumnType::Float64 => Kind::Float,
        ColumnType::Text | ColumnType::Bytes | ColumnType::List(_) => Kind::Text,
    }
}

/// The stored columns of a table. Its own are in the order of `schema`'s, which is that of their field ids.
///
/// # Errors
/// [`crate::Error::Schema`] for a schema that no decoder makes.
pub fn columns_of(table: &str, schema: &TableSchema) -> Result<Columns> {
    let own = |column: &Column| OwnColumn {
        name: column.name.clone(),
        kind: kind(column.column_type),
        field_id: i32::try_from(column.field_id.0).unwrap_or_default(),
        is_key: column.key,
    };
    let version = u32::try_from(schema.version()).unwrap_or(u32::MAX);
    Columns::new(table, version, schema.columns().iter().map(own).collect())
}

/// The stored form of a value that a column takes. `text` gets what has to be written out, which is added to it;
/// `None` if that happened: [`Cell::Text`] of the new part is the cell.
pub(crate) fn cell<'a>(value: Value<'a>, text: &mut String) -> Option<Cell<'a>> {
    match value {
        Value::Bool(value) => Some(Cell::Bool(value)),
        Value::Int(value) => Some(Cell::Int(value)),
        Value::Float(value) => Some(Cell::Float(value)),
        Value::Text(value) => Some(Cell::Text(value)),
        Value::Bytes(_) => {
            let from = text.len();
            value.write_json(text);
            // Base64 needs no quotes in a column.
            text.pop();
            text.remove(from);
            None
        }
        Value::List(_) | Value::Rest(_) => {
            value.write_json(text);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogFold;
    use floodplain_decode::schema::Change;
    use floodplain_types::Position;
    use proptest::prelude::*;

    fn any_change() -> impl Strategy<Value = Change> {
        let field = || "[ab_]{1,2}";
        let column_type = prop::sample::select(vec![
            ColumnType::Bool,
            ColumnType::Int64,
            ColumnType::Float64,
            ColumnType::Text,
            ColumnType::Bytes,
            ColumnType::List(ElementType::Int64),
            ColumnType::List(ElementType::Text),
        ]);
        prop_oneof![
            (field(), column_type, any::<bool>(), any::<bool>(), 0..9_u64).prop_map(
                |(field, column_type, wide, key, offset)| Change::Add {
                    field,
                    column_type,
                    wide,
                    key,
                    first_seen: Position::new(0, offset),
                }
            ),
            field().prop_map(|field| Change::ToFloat { field }),
            field().prop_map(|field| Change::Widen { field }),
            field().prop_map(|field| Change::MakeKey { field }),
        ]
    }

    fn after(schema: &TableSchema, changes: &[Change]) -> TableSchema {
        let mut schema = schema.clone();
        changes.iter().for_each(|change| {
            schema.apply(change);
        });
        schema
    }

    proptest! {
        #[test]
        fn of_two_that_propose_at_once_the_second_never_undoes_the_first(
            before in prop::collection::vec(any_change(), 0..8),
            first in prop::collection::vec(any_change(), 0..4),
            second in prop::collection::vec(any_change(), 0..6),
        ) {
            let before = after(&TableSchema::new(), &before);
            let (first, second) = (after(&before, &first), after(&before, &second));
            let mut fold = CatalogFold::<TableSchema>::default();
            fold.apply_record(b"table/t", before.to_stored().as_bytes());
            let changed = fold.apply_record(b"table/t", first.to_stored().as_bytes());
            prop_assert_eq!(changed, first.version() > before.version(), "what a change makes always follows");
            let won = fold.apply_record(b"table/t", second.to_stored().as_bytes());
            let known = fold.get("t").unwrap();
            prop_assert!(known.follows(&first), "{first:?} became {known:?}");
            prop_assert_eq!(won, second.version() > first.version() && second.follows(&first));
            let columns = columns_of("t", known).unwrap();
            prop_assert_eq!(columns.own().len(), known.columns().len());
            // What files hold of earlier schemas can be read as the newest.
            let rows = arrow::array::RecordBatch::new_empty(columns_of("t", &before).unwrap().schema().clone());
            let every: Vec<usize> = (0..columns.schema().fields().len()).collect();
            prop_assert!(columns.upcast(&rows, &every).is_ok());
        }
    }

    #[test]
    fn what_is_no_schema_changes_nothing() {
        let mut fold = CatalogFold::<TableSchema>::default();
        for bad in
            ["", "{}", r#"{"format":2,"version":1,"columns":[]}"#, r#"{"format":1,"version":4294967296,"columns":[]}"#]
        {
            assert!(!fold.apply_record(b"table/t", bad.as_bytes()), "{bad}");
        }
        assert!(fold.apply_record(b"table/t", br#"{"format":1,"version":7,"columns":[]}"#));
    }

    #[test]
    fn bytes_and_lists_are_texts() {
        let mut text = "x".to_owned();
        assert_eq!(cell(Value::Bytes(&[0, 255]), &mut text), None);
        assert_eq!(text, "xAP8=");
        assert_eq!(cell(Value::Float(0.5), &mut text), Some(Cell::Float(0.5)));
    }
}
