//! The tables of both schemas: their columns, and their rows where there can be any.

use super::{
    DATABASE, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC,
    relations::{Relation, Relations},
    settings::SETTINGS,
    types::{self, PgType, TYPES},
};
use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch, new_empty_array},
        datatypes::{DataType, Field, Schema},
    },
    catalog::{MemTable, TableProvider},
    common::{Result, ScalarValue},
};
use std::sync::Arc;

/// A table and its columns, `name:type`; the types are those of `pg_type`.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) schema: &'static str,
    pub(super) name: &'static str,
    columns: &'static str,
    /// Without it, the table never has rows.
    rows: Option<fn(&Relations, &str) -> Vec<Row>>,
}

/// What is not the default of its type: zero, false, NULL.
type Row = Vec<(&'static str, ScalarValue)>;

const fn filled(name: &'static str, columns: &'static str, rows: fn(&Relations, &str) -> Vec<Row>) -> Table {
    Table { schema: PG_CATALOG, name, columns, rows: Some(rows) }
}

const fn empty(name: &'static str, columns: &'static str) -> Table {
    Table { schema: PG_CATALOG, name, columns, rows: None }
}

const fn information(name: &'static str, columns: &'static str, rows: fn(&Relations, &str) -> Vec<Row>) -> Table {
    Table { schema: INFORMATION_SCHEMA, name, columns, rows: Some(rows) }
}

/// PostgreSQL 16, chapters 37, 53 and 54. Columns that no client is known to ask for are left out.
pub(super) static TABLES: [Table; 49] = [
    filled("pg_namespace", "oid:oid nspname:name nspowner:oid nspacl:text[]", namespaces),
    filled(
        "pg_class",
        "oid:oid relname:name relnamespace:oid reltype:oid reloftype:oid relowner:oid relam:oid relfilenode:oid \
         reltablespace:oid relpages:int4 reltuples:float4 relallvisible:int4 reltoastrelid:oid relhasindex:bool \
         relisshared:bool relpersistence:char relkind:char relnatts:int2 relchecks:int2 relhasrules:bool \
         relhastriggers:bool relhassubclass:bool relrowsecurity:bool relforcerowsecurity:bool relispopulated:bool \
         relreplident:char relispartition:bool relacl:text[] reloptions:text[] relpartbound:text",
        classes,
    ),
    filled(
        "pg_attribute",
        "attrelid:oid attname:name atttypid:oid attlen:int2 attnum:int2 atttypmod:int4 attndims:int2 attbyval:bool \
         attstorage:char attcompression:char attnotnull:bool atthasdef:bool atthasmissing:bool attidentity:char \
         attgenerated:char attisdropped:bool attislocal:bool attinhcount:int2 attcollation:oid attstattarget:int2 \
         attacl:text[] attoptions:text[] attfdwoptions:text[]",
        attributes,
    ),
    filled(
        "pg_type",
        "oid:oid typname:name typnamespace:oid typowner:oid typlen:int2 typbyval:bool typtype:char typcategory:char \
         typispreferred:bool typisdefined:bool typdelim:char typrelid:oid typsubscript:text typelem:oid typarray:oid \
         typinput:text typoutput:text typnotnull:bool typbasetype:oid typtypmod:int4 typndims:int4 typcollation:oid \
         typdefault:text typacl:text[]",
        pg_types,
    ),
    filled(
        "pg_database",
        "oid:oid datname:name datdba:oid encoding:int4 datlocprovider:char datistemplate:bool datallowconn:bool \
         datconnlimit:int4 dattablespace:oid datcollate:text datctype:text daticulocale:text daticurules:text \
         datacl:text[]",
        databases,
    ),
    filled(
        "pg_roles",
        "oid:oid rolname:name rolsuper:bool rolinherit:bool rolcreaterole:bool rolcreatedb:bool rolcanlogin:bool \
         rolreplication:bool rolconnlimit:int4 rolpassword:text rolvaliduntil:timestamptz rolbypassrls:bool \
         rolconfig:text[]",
        roles,
    ),
    filled("pg_tablespace", "oid:oid spcname:name spcowner:oid spcacl:text[] spcoptions:text[]", tablespaces),
    filled("pg_user", "usesysid:oid usename:name usecreatedb:bool usesuper:bool passwd:text", users),
    filled("pg_settings", "name:text setting:text unit:text category:text short_desc:text", settings),
    filled("pg_tables", "schemaname:name tablename:name tableowner:name tablespace:name hasindexes:bool", pg_tables),
    information("schemata", "catalog_name:name schema_name:name schema_owner:name", schemata),
    information("tables", "table_catalog:name table_schema:name table_name:name table_type:text", information_tables),
    information(
        "columns",
        "table_catalog:name table_schema:name table_name:name column_name:name ordinal_position:int4 \
         column_default:text is_nullable:text data_type:text character_maximum_length:int4 \
         character_octet_length:int4 numeric_precision:int4 numeric_precision_radix:int4 numeric_scale:int4 \
         datetime_precision:int4 interval_type:text udt_catalog:name udt_schema:name udt_name:name is_identity:text \
         is_generated:text is_updatable:text",
        information_columns,
    ),
    empty("pg_am", "oid:oid amname:name amhandler:text amtype:char"),
    empty("pg_attrdef", "oid:oid adrelid:oid adnum:int2 adbin:text"),
    empty("pg_auth_members", "oid:oid roleid:oid member:oid grantor:oid admin_option:bool"),
    empty("pg_available_extensions", "name:name default_version:text installed_version:text comment:text"),
    empty("pg_cast", "oid:oid castsource:oid casttarget:oid castfunc:oid castcontext:char castmethod:char"),
    empty("pg_collation", "oid:oid collname:name collnamespace:oid collowner:oid collprovider:char"),
    empty(
        "pg_constraint",
        "oid:oid conname:name connamespace:oid contype:char condeferrable:bool condeferred:bool convalidated:bool \
         conrelid:oid contypid:oid conindid:oid conparentid:oid confrelid:oid confupdtype:char confdeltype:char \
         confmatchtype:char conislocal:bool coninhcount:int2 connoinherit:bool conkey:text[] confkey:text[] \
         conbin:text",
    ),
    empty("pg_depend", "classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid refobjsubid:int4 deptype:char"),
    empty("pg_description", "objoid:oid classoid:oid objsubid:int4 description:text"),
    empty("pg_enum", "oid:oid enumtypid:oid enumsortorder:float4 enumlabel:name"),
    empty("pg_event_trigger", "oid:oid evtname:name evtevent:name evtowner:oid evtfoid:oid evtenabled:char"),
    empty("pg_extension", "oid:oid extname:name extowner:oid extnamespace:oid extrelocatable:bool extversion:text"),
    empty("pg_foreign_data_wrapper", "oid:oid fdwname:name fdwowner:oid"),
    empty("pg_foreign_server", "oid:oid srvname:name srvowner:oid srvfdw:oid srvtype:text srvversion:text"),
    empty("pg_foreign_table", "ftrelid:oid ftserver:oid ftoptions:text[]"),
    empty(
        "pg_index",
        "indexrelid:oid indrelid:oid indnatts:int2 indnkeyatts:int2 indisunique:bool indnullsnotdistinct:bool \
         indisprimary:bool indisexclusion:bool indimmediate:bool indisclustered:bool indisvalid:bool \
         indisready:bool indislive:bool indisreplident:bool indkey:text indcollation:text indclass:text \
         indoption:text indexprs:text indpred:text",
    ),
    empty("pg_indexes", "schemaname:name tablename:name indexname:name tablespace:name indexdef:text"),
    empty("pg_inherits", "inhrelid:oid inhparent:oid inhseqno:int4 inhdetachpending:bool"),
    empty("pg_language", "oid:oid lanname:name lanowner:oid lanispl:bool lanpltrusted:bool"),
    empty("pg_matviews", "schemaname:name matviewname:name matviewowner:name definition:text"),
    empty("pg_opclass", "oid:oid opcmethod:oid opcname:name opcnamespace:oid opcowner:oid opcintype:oid"),
    empty("pg_operator", "oid:oid oprname:name oprnamespace:oid oprowner:oid oprkind:char oprleft:oid oprright:oid"),
    empty("pg_partitioned_table", "partrelid:oid partstrat:char partnatts:int2"),
    empty("pg_policy", "oid:oid polname:name polrelid:oid polcmd:char polpermissive:bool polroles:text[]"),
    empty(
        "pg_proc",
        "oid:oid proname:name pronamespace:oid proowner:oid prolang:oid prokind:char prosecdef:bool \
         proleakproof:bool proisstrict:bool proretset:bool provolatile:char proparallel:char pronargs:int2 \
         prorettype:oid proargtypes:text proallargtypes:text[] proargmodes:text[] proargnames:text[] prosrc:text \
         proacl:text[]",
    ),
    empty("pg_publication", "oid:oid pubname:name pubowner:oid puballtables:bool"),
    empty("pg_publication_namespace", "oid:oid pnpubid:oid pnnspid:oid"),
    empty("pg_publication_rel", "oid:oid prpubid:oid prrelid:oid prqual:text prattrs:text"),
    empty("pg_range", "rngtypid:oid rngsubtype:oid rngmultitypid:oid"),
    empty("pg_rewrite", "oid:oid rulename:name ev_class:oid ev_type:char ev_enabled:char is_instead:bool"),
    empty("pg_seclabel", "objoid:oid classoid:oid objsubid:int4 provider:text label:text"),
    empty("pg_sequence", "seqrelid:oid seqtypid:oid seqstart:int8 seqincrement:int8 seqmax:int8 seqmin:int8"),
    empty("pg_shdescription", "objoid:oid classoid:oid description:text"),
    empty("pg_statistic_ext", "oid:oid stxrelid:oid stxname:name stxnamespace:oid stxowner:oid stxstattarget:int4"),
    empty("pg_trigger", "oid:oid tgrelid:oid tgparentid:oid tgname:name tgfoid:oid tgtype:int2 tgenabled:char"),
    empty("pg_views", "schemaname:name viewname:name viewowner:name definition:text"),
];

pub(super) fn of(schema: &str) -> impl Iterator<Item = &'static Table> {
    TABLES.iter().filter(move |table| table.schema == schema)
}

/// Whether the table of `pg_catalog` is one that never has rows.
pub(super) fn is_always_empty(name: &str) -> bool {
    of(PG_CATALOG).any(|table| table.name == name && table.rows.is_none())
}

impl Table {
    pub(super) fn columns(&self) -> impl Iterator<Item = (String, &'static PgType)> + use<> {
        self.columns.split_whitespace().map(|column| {
            let (name, pg) = column.split_once(':').expect("a column has a type");
            // Arrays are written as text.
            (name.to_owned(), types::by_name(pg.trim_end_matches("[]")).expect("it is one of TYPES"))
        })
    }

    pub(super) fn provider(&self, relations: &Relations, user: &str) -> Result<Arc<dyn TableProvider>> {
        let rows = self.rows.map(|rows| rows(relations, user)).unwrap_or_default();
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for column in self.columns.split_whitespace() {
            let (name, pg) = column.split_once(':').expect("a column has a type");
            let (data_type, default) = arrow(pg)?;
            let values = rows.iter().map(|row| {
                let given = row.iter().find(|(column, _)| *column == name);
                given.map_or_else(|| default.clone(), |(_, value)| value.clone())
            });
            let array: ArrayRef = match rows.is_empty() {
                true => new_empty_array(&data_type),
                false => ScalarValue::iter_to_array(values)?,
            };
            fields.push(Field::new(name, data_type, true));
            arrays.push(array);
        }
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
        Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
    }
}

/// How a type is stored here, and what a row has that says nothing.
fn arrow(pg: &str) -> Result<(DataType, ScalarValue)> {
    let default = match pg {
        "bool" => ScalarValue::Boolean(Some(false)),
        "int2" => ScalarValue::Int16(Some(0)),
        "int4" | "oid" => ScalarValue::Int32(Some(0)),
        "int8" => ScalarValue::Int64(Some(0)),
        "float4" => ScalarValue::Float32(Some(0.0)),
        "timestamptz" => ScalarValue::TimestampMicrosecond(None, Some("UTC".into())),
        "text[]" => ScalarValue::try_from(&DataType::new_list(DataType::Utf8, true))?,
        _ => ScalarValue::Utf8(None),
    };
    Ok((default.data_type(), default))
}

fn text(value: &str) -> ScalarValue {
    ScalarValue::from(value)
}

fn yes() -> ScalarValue {
    ScalarValue::Boolean(Some(true))
}

fn int2(value: usize) -> ScalarValue {
    ScalarValue::Int16(Some(i16::try_from(value).unwrap_or(i16::MAX)))
}

fn int4(value: i32) -> ScalarValue {
    ScalarValue::Int32(Some(value))
}

/// PostgreSQL's own numbers where it has them.
pub(super) const NAMESPACES: [(i32, &str); 3] = [(11, PG_CATALOG), (2200, PUBLIC), (13_000, INFORMATION_SCHEMA)];
/// Of whoever asks: everything belongs to them, as far as they can tell.
pub(super) const USER_OID: i32 = 10;

const TABLESPACE: i32 = 1663;

fn namespace(schema: &str) -> ScalarValue {
    int4(NAMESPACES.iter().find(|(_, name)| *name == schema).map_or(0, |(oid, _)| *oid))
}

fn namespaces(_: &Relations, _: &str) -> Vec<Row> {
    let row = |(oid, name)| vec![("oid", int4(oid)), ("nspname", text(name)), ("nspowner", int4(USER_OID))];
    NAMESPACES.map(row).into()
}

fn classes(relations: &Relations, _: &str) -> Vec<Row> {
    let row = |relation: &Relation| {
        vec![
            ("oid", int4(relation.oid)),
            ("relname", text(&relation.name)),
            ("relnamespace", namespace(relation.schema)),
            ("relowner", int4(USER_OID)),
            ("reltuples", ScalarValue::Float32(Some(-1.0))),
            ("relpersistence", text("p")),
            ("relkind", text("r")),
            ("relnatts", int2(relation.columns.len())),
            ("relispopulated", yes()),
            ("relreplident", text("d")),
        ]
    };
    relations.all().map(row).collect()
}

fn attributes(relations: &Relations, _: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for relation in relations.all() {
        for (column, number) in relation.columns.iter().zip(1..) {
            rows.push(vec![
                ("attrelid", int4(relation.oid)),
                ("attname", text(&column.name)),
                ("atttypid", int4(column.pg.oid)),
                ("attlen", ScalarValue::Int16(Some(column.pg.len))),
                ("attnum", int2(number)),
                ("atttypmod", int4(-1)),
                ("attstorage", text("p")),
                ("attcompression", text("")),
                ("attnotnull", ScalarValue::Boolean(Some(!column.is_nullable))),
                ("attidentity", text("")),
                ("attgenerated", text("")),
                ("attislocal", yes()),
                ("attstattarget", ScalarValue::Int16(Some(-1))),
            ]);
        }
    }
    rows
}

fn pg_types(_: &Relations, _: &str) -> Vec<Row> {
    let row = |oid, name: &str, len, category, element, array, input: &str| {
        vec![
            ("oid", int4(oid)),
            ("typname", text(name)),
            ("typnamespace", namespace(PG_CATALOG)),
            ("typowner", int4(USER_OID)),
            ("typlen", ScalarValue::Int16(Some(len))),
            ("typtype", text("b")),
            ("typcategory", text(category)),
            ("typisdefined", yes()),
            ("typdelim", text(",")),
            ("typelem", int4(element)),
            ("typarray", int4(array)),
            ("typinput", text(input)),
            ("typtypmod", int4(-1)),
        ]
    };
    let one = |pg: &PgType| {
        let base = row(pg.oid, pg.name, pg.len, pg.category, 0, pg.array, &format!("{}in", pg.name));
        [base, row(pg.array, &format!("_{}", pg.name), -1, "A", pg.oid, 0, "array_in")]
    };
    TYPES.iter().flat_map(one).collect()
}

fn databases(_: &Relations, _: &str) -> Vec<Row> {
    vec![vec![
        ("oid", int4(5)),
        ("datname", text(DATABASE)),
        ("datdba", int4(USER_OID)),
        // UTF-8 (PostgreSQL 16, pg_wchar.h).
        ("encoding", int4(6)),
        ("datlocprovider", text("c")),
        ("datallowconn", yes()),
        ("datconnlimit", int4(-1)),
        ("dattablespace", int4(TABLESPACE)),
        ("datcollate", text("C")),
        ("datctype", text("C")),
    ]]
}

fn tablespaces(_: &Relations, _: &str) -> Vec<Row> {
    vec![vec![("oid", int4(TABLESPACE)), ("spcname", text("pg_default")), ("spcowner", int4(USER_OID))]]
}

fn roles(_: &Relations, user: &str) -> Vec<Row> {
    vec![vec![
        ("oid", int4(USER_OID)),
        ("rolname", text(user)),
        ("rolinherit", yes()),
        ("rolcanlogin", yes()),
        ("rolconnlimit", int4(-1)),
    ]]
}

fn users(_: &Relations, user: &str) -> Vec<Row> {
    vec![vec![("usesysid", int4(USER_OID)), ("usename", text(user))]]
}

fn settings(_: &Relations, _: &str) -> Vec<Row> {
    SETTINGS.iter().map(|(name, value)| vec![("name", text(name)), ("setting", text(value))]).collect()
}

fn pg_tables(relations: &Relations, user: &str) -> Vec<Row> {
    let row = |table: &Relation| {
        vec![("schemaname", text(table.schema)), ("tablename", text(&table.name)), ("tableowner", text(user))]
    };
    relations.all().map(row).collect()
}

fn schemata(_: &Relations, user: &str) -> Vec<Row> {
    let row =
        |(_, name)| vec![("catalog_name", text(DATABASE)), ("schema_name", text(name)), ("schema_owner", text(user))];
    NAMESPACES.map(row).into()
}

/// Without those of the system: `SHOW TABLES` asks here, too.
fn public(relations: &Relations) -> impl Iterator<Item = &Relation> {
    relations.all().filter(|relation| relation.schema == PUBLIC)
}

fn information_tables(relations: &Relations, _: &str) -> Vec<Row> {
    let row = |table: &Relation| {
        vec![
            ("table_catalog", text(DATABASE)),
            ("table_schema", text(table.schema)),
            ("table_name", text(&table.name)),
            ("table_type", text("BASE TABLE")),
        ]
    };
    public(relations).map(row).collect()
}

fn information_columns(relations: &Relations, _: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in public(relations) {
        for (column, position) in table.columns.iter().zip(1..) {
            let null = || ScalarValue::Int32(None);
            let (precision, radix, scale) = match column.pg.name {
                "int2" => (int4(16), int4(2), int4(0)),
                "int4" => (int4(32), int4(2), int4(0)),
                "int8" => (int4(64), int4(2), int4(0)),
                "float4" => (int4(24), int4(2), null()),
                "float8" => (int4(53), int4(2), null()),
                _ => (null(), null(), null()),
            };
            let datetime = match column.pg.name {
                "timestamp" | "timestamptz" => int4(6),
                "date" => int4(0),
                _ => null(),
            };
            rows.push(vec![
                ("table_catalog", text(DATABASE)),
                ("table_schema", text(table.schema)),
                ("table_name", text(&table.name)),
                ("column_name", text(&column.name)),
                ("ordinal_position", int4(position)),
                ("is_nullable", text(if column.is_nullable { "YES" } else { "NO" })),
                ("data_type", text(column.pg.sql)),
                ("character_maximum_length", null()),
                ("character_octet_length", null()),
                ("numeric_precision", precision),
                ("numeric_precision_radix", radix),
                ("numeric_scale", scale),
                ("datetime_precision", datetime),
                ("udt_catalog", text(DATABASE)),
                ("udt_schema", text(PG_CATALOG)),
                ("udt_name", text(column.pg.name)),
                ("is_identity", text("NO")),
                ("is_generated", text("NEVER")),
                ("is_updatable", text("NO")),
            ]);
        }
    }
    rows
}
