//! Arrow's types and values as PostgreSQL's.

use crate::QueryError;
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{
        DataType, Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit,
        TimestampMicrosecondType,
    },
    util::display::{ArrayFormatter, FormatOptions},
};
use bytes::{BufMut as _, BytesMut};
use chrono::{DateTime, NaiveDate, TimeDelta};
use pgwire::{
    api::{
        Type,
        portal::Format,
        results::{FieldFormat, FieldInfo},
    },
    messages::data::DataRow,
};
use std::{fmt::Write as _, sync::Arc};

/// 2000-01-01, from which PostgreSQL counts, in µs and days since 1970.
const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The type that a column of Arrow's has on the wire; what PostgreSQL has no type for is text.
pub(crate) fn pg_type(data_type: &DataType) -> Type {
    match data_type {
        DataType::Boolean => Type::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Type::INT2,
        DataType::Int32 | DataType::UInt16 => Type::INT4,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => Type::INT8,
        DataType::Float16 | DataType::Float32 => Type::FLOAT4,
        DataType::Float64 => Type::FLOAT8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Type::BYTEA,
        DataType::Timestamp(_, None) => Type::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => Type::TIMESTAMPTZ,
        DataType::Date32 | DataType::Date64 => Type::DATE,
        DataType::Dictionary(_, values) => pg_type(values),
        _ => Type::TEXT,
    }
}

/// The type of a parameter that a client declares; `None` for those that are text here.
pub(crate) fn arrow_type(pg: &Type) -> Option<DataType> {
    Some(match *pg {
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::NUMERIC => DataType::Float64,
        Type::OID => DataType::Int64,
        _ => Some(plain(pg)).filter(|plain| *plain != DataType::Utf8)?,
    })
}

/// What the array becomes before its values are written.
fn plain(pg: &Type) -> DataType {
    match *pg {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::BYTEA => DataType::Binary,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::DATE => DataType::Date32,
        _ => DataType::Utf8,
    }
}

/// RowDescription of a schema.
pub(crate) fn fields(schema: &SchemaRef, format: &Format) -> Vec<FieldInfo> {
    let field = |(idx, field): (usize, &Arc<arrow::datatypes::Field>)| {
        let pg = pg_type(field.data_type());
        let size = match pg {
            Type::BOOL => 1,
            Type::INT2 => 2,
            Type::INT4 | Type::FLOAT4 | Type::DATE => 4,
            Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ => 8,
            _ => -1,
        };
        FieldInfo::new(field.name().clone(), None, None, pg, format.format_for(idx)).with_type_size(size)
    };
    schema.fields().iter().enumerate().map(field).collect()
}

/// Whether a client asks for so many formats that not every column has one: none, one, or one each (message Bind).
pub(crate) fn has_formats(format: &Format, columns: usize) -> bool {
    match format {
        Format::UnifiedText | Format::UnifiedBinary => true,
        Format::Individual(codes) => codes.len() == columns,
    }
}

fn failed(message: impl std::fmt::Display) -> QueryError {
    QueryError { sqlstate: "22000", message: message.to_string(), position: None }
}

/// The rows of a batch.
///
/// # Errors
/// [`QueryError`] for a value that its type on the wire cannot hold.
pub(crate) fn rows(batch: &RecordBatch, fields: &[FieldInfo]) -> Result<Vec<DataRow>, QueryError> {
    let mut columns = Vec::with_capacity(fields.len());
    for (array, field) in batch.columns().iter().zip(fields) {
        columns.push(prepare(array, field.datatype())?);
    }
    let mut rows = Vec::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        let mut row = DataRow::new(BytesMut::with_capacity(16 * fields.len()), fields.len() as i16);
        for (array, field) in columns.iter().zip(fields) {
            if array.is_null(at) {
                row.data.put_i32(-1);
                continue;
            }
            let start = row.data.len();
            row.data.put_i32(0);
            match field.format() {
                FieldFormat::Text => put_text(&mut row.data, array, at, field.datatype())?,
                FieldFormat::Binary => put_binary(&mut row.data, array, at, field.datatype()),
            }
            let len = i32::try_from(row.data.len() - start - 4).map_err(|_| failed("a value has more than 2 GiB"))?;
            row.data[start..start + 4].copy_from_slice(&len.to_be_bytes());
        }
        rows.push(row);
    }
    Ok(rows)
}

fn prepare(array: &ArrayRef, pg: &Type) -> Result<ArrayRef, QueryError> {
    let wanted = plain(pg);
    if *array.data_type() == wanted {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    if wanted != DataType::Utf8
        || matches!(array.data_type(), DataType::Utf8View | DataType::LargeUtf8 | DataType::Null)
    {
        return cast_with_options(array, &wanted, &options).map_err(failed);
    }
    if let DataType::List(_) = array.data_type() {
        let lists = array.as_list::<i32>();
        let text = |at| (!lists.is_null(at)).then(|| list(&lists.value(at))).transpose();
        let texts: Result<StringArray, _> = (0..lists.len()).map(text).collect();
        return Ok(Arc::new(texts?));
    }
    // Structs, intervals and decimals as people read them.
    let format = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &format).map_err(failed)?;
    let text = |at| (!array.is_null(at)).then(|| formatter.value(at).try_to_string()).transpose();
    let texts: Result<StringArray, _> = (0..array.len()).map(text).collect();
    Ok(Arc::new(texts.map_err(failed)?))
}

/// `{1,NULL,"a b"}` (PostgreSQL 16, "Array Input and Output Syntax").
fn list(values: &ArrayRef) -> Result<String, QueryError> {
    let (pg, is_nested) = (pg_type(values.data_type()), matches!(values.data_type(), DataType::List(_)));
    let values = prepare(values, &pg)?;
    let mut out = String::from("{");
    for at in 0..values.len() {
        if at > 0 {
            out.push(',');
        }
        if values.is_null(at) {
            out.push_str("NULL");
            continue;
        }
        let mut value = BytesMut::new();
        put_text(&mut value, &values, at, &pg)?;
        let value = String::from_utf8_lossy(&value);
        let needs_quotes = value.is_empty()
            || value.eq_ignore_ascii_case("null")
            || value.contains(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | ',' | '"' | '\\'));
        if needs_quotes && !is_nested {
            out.push('"');
            out.push_str(&value.replace('\\', "\\\\").replace('"', "\\\""));
            out.push('"');
        } else {
            out.push_str(&value);
        }
    }
    out.push('}');
    Ok(out)
}

fn put_text(out: &mut BytesMut, array: &ArrayRef, at: usize, pg: &Type) -> Result<(), QueryError> {
    let mut write = |text: std::fmt::Arguments<'_>| out.write_fmt(text).map_err(failed);
    match *pg {
        Type::BOOL => write(format_args!("{}", if array.as_boolean().value(at) { 't' } else { 'f' })),
        Type::INT2 => write(format_args!("{}", array.as_primitive::<Int16Type>().value(at))),
        Type::INT4 => write(format_args!("{}", array.as_primitive::<Int32Type>().value(at))),
        Type::INT8 => write(format_args!("{}", array.as_primitive::<Int64Type>().value(at))),
        Type::FLOAT4 => {
            put_float(out, f64::from(array.as_primitive::<Float32Type>().value(at)), |value| (value as f32).to_string())
        }
        Type::FLOAT8 => put_float(out, array.as_primitive::<Float64Type>().value(at), |value| value.to_string()),
        Type::BYTEA => {
            write(format_args!("\\x"))?;
            array.as_binary::<i32>().value(at).iter().try_for_each(|byte| write(format_args!("{byte:02x}")))
        }
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let us = array.as_primitive::<TimestampMicrosecondType>().value(at);
            let time = DateTime::from_timestamp_micros(us).ok_or_else(|| failed(format!("time {us} µs is too far")))?;
            write(format_args!("{}", time.format("%Y-%m-%d %H:%M:%S%.f")))?;
            if *pg == Type::TIMESTAMPTZ { write(format_args!("+00")) } else { Ok(()) }
        }
        Type::DATE => {
            let days = array.as_primitive::<Date32Type>().value(at);
            let date = NaiveDate::default().checked_add_signed(TimeDelta::days(days.into()));
            write(format_args!("{}", date.ok_or_else(|| failed(format!("date {days} is too far")))?))
        }
        _ => {
            out.put_slice(array.as_string::<i32>().value(at).as_bytes());
            Ok(())
        }
    }
}

fn put_float(out: &mut BytesMut, value: f64, text: impl Fn(f64) -> String) -> Result<(), QueryError> {
    let text = match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => text(value),
    };
    out.put_slice(text.as_bytes());
    Ok(())
}

fn put_binary(out: &mut BytesMut, array: &ArrayRef, at: usize, pg: &Type) {
    match *pg {
        Type::BOOL => out.put_u8(array.as_boolean().value(at).into()),
        Type::INT2 => out.put_i16(array.as_primitive::<Int16Type>().value(at)),
        Type::INT4 => out.put_i32(array.as_primitive::<Int32Type>().value(at)),
        Type::INT8 => out.put_i64(array.as_primitive::<Int64Type>().value(at)),
        Type::FLOAT4 => out.put_f32(array.as_primitive::<Float32Type>().value(at)),
        Type::FLOAT8 => out.put_f64(array.as_primitive::<Float64Type>().value(at)),
        Type::BYTEA => out.put_slice(array.as_binary::<i32>().value(at)),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            out.put_i64(array.as_primitive::<TimestampMicrosecondType>().value(at).saturating_sub(EPOCH_US));
        }
        Type::DATE => out.put_i32(array.as_primitive::<Date32Type>().value(at).saturating_sub(EPOCH_DAYS)),
        _ => out.put_slice(array.as_string::<i32>().value(at).as_bytes()),
    }
}

/// The value of a timestamp or date parameter in binary.
pub(crate) const fn timestamp_us(since_2000: i64) -> i64 {
    since_2000.saturating_add(EPOCH_US)
}

pub(crate) const fn date_days(since_2000: i32) -> i32 {
    since_2000.saturating_add(EPOCH_DAYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Builder, ListBuilder, StringBuilder};

    #[test]
    fn lists_are_written_as_arrays() {
        let mut texts = ListBuilder::new(StringBuilder::new());
        texts.append_value([Some("a b"), None, Some("c\"\\"), Some(""), Some("null"), Some("d")]);
        texts.append_null();
        texts.append_value([Option::<&str>::None; 0]);
        let written = prepare(&(Arc::new(texts.finish()) as ArrayRef), &Type::TEXT).unwrap();
        let written: Vec<_> = written.as_string::<i32>().iter().collect();
        assert_eq!(written, [Some(r#"{"a b",NULL,"c\"\\","","null",d}"#), None, Some("{}")]);
        let mut nested = ListBuilder::new(ListBuilder::new(Int32Builder::new()));
        nested.values().append_value([Some(1), Some(-2)]);
        nested.values().append_value([None]);
        nested.append(true);
        let written = prepare(&(Arc::new(nested.finish()) as ArrayRef), &Type::TEXT).unwrap();
        assert_eq!(written.as_string::<i32>().value(0), "{{1,-2},{NULL}}");
    }
}
