//! The first stored form of schemas and their changes.

use std::collections::HashSet;

use floodplain_types::Position;
use serde::{Deserialize, Serialize};

use super::{FIRST_FIELD_ID, FieldId, MAX_COLUMNS, SchemaError, is_int, is_reserved};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableSchema {
    format: u32,
    version: u64,
    columns: Vec<Column>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    field: String,
    name: String,
    #[serde(rename = "type")]
    column_type: String,
    field_id: u32,
    first_seen: String,
    #[serde(default, skip_serializing_if = "is_false")]
    wide: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    key: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub format: u32,
    #[serde(flatten)]
    pub change: Change,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub(super) enum Change {
    Add {
        field: String,
        #[serde(rename = "type")]
        column_type: String,
        first_seen: String,
        #[serde(default, skip_serializing_if = "is_false")]
        wide: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        key: bool,
    },
    ToFloat {
        field: String,
    },
    Widen {
        field: String,
    },
    MakeKey {
        field: String,
    },
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Refuses what a newer release has written, before its keys are looked at.
pub(super) fn check_format(stored: &str) -> Result<(), SchemaError> {
    match serde_json::from_str::<Format>(stored)?.format {
        1 => Ok(()),
        other => Err(SchemaError::Format(other)),
    }
}

fn position(text: &str) -> Result<Position, SchemaError> {
    text.parse().map_err(|_| SchemaError::Invalid(format!("{text:?} is no position")))
}

impl From<&super::TableSchema> for TableSchema {
    fn from(schema: &super::TableSchema) -> Self {
        let column = |column: &super::Column| Column {
            field: column.field.clone(),
            name: column.name.clone(),
            column_type: column.column_type.to_string(),
            field_id: column.field_id.0,
            first_seen: column.first_seen.to_string(),
            wide: column.wide,
            key: column.key,
        };
        Self { format: 1, version: schema.version, columns: schema.columns.iter().map(column).collect() }
    }
}

impl TryFrom<TableSchema> for super::TableSchema {
    type Error = SchemaError;

    fn try_from(stored: TableSchema) -> Result<Self, SchemaError> {
        let mut schema = Self { version: stored.version, ..Self::default() };
        let mut names = HashSet::new();
        if stored.columns.len() > MAX_COLUMNS {
            return Err(SchemaError::Invalid(format!("it has {} columns", stored.columns.len())));
        }
        for (idx, column) in stored.columns.into_iter().enumerate() {
            let column_type = column.column_type.parse().map_err(SchemaError::Invalid)?;
            if column.field_id != FIRST_FIELD_ID + idx as u32 {
                return Err(SchemaError::Invalid(format!("column {:?} has the id {}", column.name, column.field_id)));
            }
            if is_reserved(&column.name) || !names.insert(column.name.clone()) {
                return Err(SchemaError::Invalid(format!("the name {:?} is reserved or taken", column.name)));
            }
            if schema.by_field.insert(column.field.clone(), idx).is_some() {
                return Err(SchemaError::Invalid(format!("the field {:?} has two columns", column.field)));
            }
            schema.columns.push(super::Column {
                first_seen: position(&column.first_seen)?,
                wide: column.wide && is_int(column_type),
                column_type,
                field: column.field,
                name: column.name,
                field_id: FieldId(column.field_id),
                key: column.key,
            });
        }
        Ok(schema)
    }
}

impl From<&super::Change> for Change {
    fn from(change: &super::Change) -> Self {
        match change {
            super::Change::Add { field, column_type, wide, key, first_seen } => Self::Add {
                field: field.clone(),
                column_type: column_type.to_string(),
                first_seen: first_seen.to_string(),
                wide: *wide,
                key: *key,
            },
            super::Change::ToFloat { field } => Self::ToFloat { field: field.clone() },
            super::Change::Widen { field } => Self::Widen { field: field.clone() },
            super::Change::MakeKey { field } => Self::MakeKey { field: field.clone() },
        }
    }
}

impl TryFrom<Change> for super::Change {
    type Error = SchemaError;

    fn try_from(stored: Change) -> Result<Self, SchemaError> {
        Ok(match stored {
            Change::Add { field, column_type, first_seen, wide, key } => Self::Add {
                field,
                column_type: column_type.parse().map_err(SchemaError::Invalid)?,
                first_seen: position(&first_seen)?,
                wide,
                key,
            },
            Change::ToFloat { field } => Self::ToFloat { field },
            Change::Widen { field } => Self::Widen { field },
            Change::MakeKey { field } => Self::MakeKey { field },
        })
    }
}
