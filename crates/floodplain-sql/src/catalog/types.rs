//! PostgreSQL's types, as far as columns have them or clients ask for them.

use datafusion::arrow::datatypes::DataType;

/// A row of `pg_type`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PgType {
    pub(super) oid: i32,
    /// `typname`.
    pub(super) name: &'static str,
    /// As SQL writes it: what `format_type` gives.
    pub(super) sql: &'static str,
    /// Bytes of a value, -1 if they vary.
    pub(super) len: i16,
    pub(super) category: &'static str,
    /// Of the type of its arrays.
    pub(super) array: i32,
}

const fn of(oid: i32, name: &'static str, sql: &'static str, len: i16, category: &'static str, array: i32) -> PgType {
    PgType { oid, name, sql, len, category, array }
}

/// The numbers are PostgreSQL's own (`pg_type.dat`).
pub(super) const TYPES: [PgType; 23] = [
    of(16, "bool", "boolean", 1, "B", 1000),
    of(17, "bytea", "bytea", -1, "U", 1001),
    of(18, "char", "\"char\"", 1, "Z", 1002),
    of(19, "name", "name", 64, "S", 1003),
    of(20, "int8", "bigint", 8, "N", 1016),
    of(21, "int2", "smallint", 2, "N", 1005),
    of(23, "int4", "integer", 4, "N", 1007),
    of(24, "regproc", "regproc", 4, "N", 1008),
    of(25, "text", "text", -1, "S", 1009),
    of(26, "oid", "oid", 4, "N", 1028),
    of(114, "json", "json", -1, "U", 199),
    of(700, "float4", "real", 4, "N", 1021),
    of(701, "float8", "double precision", 8, "N", 1022),
    of(1042, "bpchar", "character", -1, "S", 1014),
    of(1043, "varchar", "character varying", -1, "S", 1015),
    of(1082, "date", "date", 4, "D", 1182),
    of(1083, "time", "time without time zone", 8, "D", 1183),
    of(1114, "timestamp", "timestamp without time zone", 8, "D", 1115),
    of(1184, "timestamptz", "timestamp with time zone", 8, "D", 1185),
    of(1186, "interval", "interval", 16, "T", 1187),
    of(1700, "numeric", "numeric", -1, "N", 1231),
    of(2205, "regclass", "regclass", 4, "N", 2210),
    of(2206, "regtype", "regtype", 4, "N", 2211),
];

/// By `typname` or as SQL writes it.
pub(super) fn by_name(name: &str) -> Option<&'static PgType> {
    let name = name.trim().to_ascii_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    TYPES.iter().find(|found| found.name == name || found.sql == name)
}

pub(super) fn by_oid(oid: i64) -> Option<&'static PgType> {
    TYPES.iter().find(|found| i64::from(found.oid) == oid)
}

/// The type of a column of Arrow's, as it is on the PostgreSQL wire.
pub(super) fn of_arrow(data_type: &DataType) -> &'static PgType {
    let name = match data_type {
        DataType::Boolean => "bool",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "int2",
        DataType::Int32 | DataType::UInt16 => "int4",
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "int8",
        DataType::Float16 | DataType::Float32 => "float4",
        DataType::Float64 => "float8",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "bytea",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(_, Some(_)) => "timestamptz",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Dictionary(_, values) => return of_arrow(values),
        _ => "text",
    };
    by_name(name).expect("it is one of TYPES")
}
