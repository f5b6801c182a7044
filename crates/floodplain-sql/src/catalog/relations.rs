//! What there is: tables, and the columns of each.

use super::{
    PUBLIC, tables,
    types::{self, PgType},
};
use crate::tables::PublicSchema;
use datafusion::{catalog::SchemaProvider as _, common::Result};
use std::collections::BTreeSet;
use twox_hash::XxHash64;

/// A table as `pg_class` and `pg_attribute` show it. Those of the server are tables like all others, however they are made:
/// many clients list and reflect nothing else.
#[derive(Debug)]
pub(super) struct Relation {
    pub(super) oid: i32,
    pub(super) schema: &'static str,
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) pg: &'static PgType,
    pub(super) is_nullable: bool,
}

#[derive(Debug)]
pub(super) struct Relations(Vec<Relation>);

/// The least number that PostgreSQL gives to what users make.
const FIRST_OID: i32 = 16_384;
/// And one below it for tables of the system.
const SYSTEM_OID: i32 = 12_000;

impl Relations {
    pub(super) async fn load(public: &PublicSchema) -> Result<Self> {
        let mut relations = Vec::new();
        let mut taken = BTreeSet::new();
        for name in public.table_names().into_iter().collect::<BTreeSet<_>>() {
            // A table that has just gone is none.
            let Some(table) = public.table(&name).await? else { continue };
            let column = |field: &std::sync::Arc<datafusion::arrow::datatypes::Field>| Column {
                name: field.name().clone(),
                pg: types::of_arrow(field.data_type()),
                is_nullable: field.is_nullable(),
            };
            let columns = table.schema().fields().iter().map(column).collect();
            // Of the name alone: clients ask for a number in one query and use it in the next.
            let hash = XxHash64::oneshot(0, name.as_bytes());
            let mut oid = FIRST_OID + (hash % (i32::MAX - FIRST_OID) as u64) as i32;
            while !taken.insert(oid) {
                oid = oid.checked_add(1).unwrap_or(FIRST_OID);
            }
            relations.push(Relation { oid, schema: PUBLIC, name, columns });
        }
        for (table, oid) in tables::TABLES.iter().zip(SYSTEM_OID..) {
            let column = |(name, pg)| Column { name, pg, is_nullable: true };
            let columns = table.columns().map(column).collect();
            let name = table.name.to_owned();
            relations.push(Relation { oid, schema: table.schema, name, columns });
        }
        Ok(Self(relations))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Relation> {
        self.0.iter()
    }

    pub(super) fn by_oid(&self, oid: i64) -> Option<&Relation> {
        self.0.iter().find(|relation| i64::from(relation.oid) == oid)
    }

    /// By its name as SQL writes it, with or without a schema.
    pub(super) fn by_name(&self, name: &str) -> Option<&Relation> {
        let parts = super::functions::identifiers(name)?;
        let (schema, name) = match parts.as_slice() {
            [name] => (None, name),
            [.., schema, name] => (Some(schema), name),
            [] => return None,
        };
        let fits =
            |relation: &&Relation| relation.name == *name && schema.is_none_or(|schema| relation.schema == schema);
        self.0.iter().find(fits)
    }
}
