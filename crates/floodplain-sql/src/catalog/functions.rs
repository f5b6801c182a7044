//! Functions of PostgreSQL that clients call while they look around.

use super::{
    Catalog, DATABASE, INFORMATION_SCHEMA, PG_CATALOG, PUBLIC,
    settings::{SERVER_VERSION, setting},
    tables::{NAMESPACES, USER_OID},
    types,
};
use datafusion::{
    arrow::{
        array::{Array as _, StringArray, new_empty_array},
        datatypes::DataType,
    },
    common::{Result, ScalarValue, exec_err, utils::SingleRowListArrayBuilder},
    logical_expr::{ColumnarValue, ScalarUDF, Signature, SimpleScalarUDF, TypeSignature, Volatility},
};
use std::{ops::RangeInclusive, sync::Arc};

/// A function that is computed row by row: nobody calls these for many.
fn function(
    name: &str,
    arguments: RangeInclusive<usize>,
    returns: DataType,
    body: impl Fn(&[ScalarValue]) -> Result<ScalarValue> + Send + Sync + 'static,
) -> ScalarUDF {
    let arity = |count| if count == 0 { TypeSignature::Nullary } else { TypeSignature::Any(count) };
    let signature = Signature::one_of(arguments.map(arity).collect(), Volatility::Stable);
    let returned = returns.clone();
    let body = move |values: &[ColumnarValue]| {
        let rows = values.iter().find_map(|value| match value {
            ColumnarValue::Array(array) => Some(array.len()),
            ColumnarValue::Scalar(_) => None,
        });
        let Some(rows) = rows else {
            let scalars = values.iter().filter_map(|value| match value {
                ColumnarValue::Scalar(value) => Some(value.clone()),
                ColumnarValue::Array(_) => None,
            });
            return body(&scalars.collect::<Vec<_>>()).map(ColumnarValue::Scalar);
        };
        if rows == 0 {
            return Ok(ColumnarValue::Array(new_empty_array(&returned)));
        }
        let arrays = values.iter().map(|value| value.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let row = |at| {
            let values = arrays.iter().map(|array| ScalarValue::try_from_array(array, at));
            body(&values.collect::<Result<Vec<_>>>()?)
        };
        let results = (0..rows).map(row).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(results)?))
    };
    ScalarUDF::from(SimpleScalarUDF::new_with_signature(name, signature, returns, Arc::new(body)))
}

fn text(value: Option<impl Into<String>>) -> Result<ScalarValue> {
    Ok(ScalarValue::Utf8(value.map(Into::into)))
}

fn yes(value: bool) -> Result<ScalarValue> {
    Ok(ScalarValue::Boolean(Some(value)))
}

fn oid(value: Option<i32>) -> Result<ScalarValue> {
    Ok(ScalarValue::Int32(value))
}

fn to_text(value: &ScalarValue) -> Result<Option<String>> {
    match value.cast_to(&DataType::Utf8)? {
        ScalarValue::Utf8(text) => Ok(text),
        _ => Ok(None),
    }
}

fn to_int(value: &ScalarValue) -> Result<Option<i64>> {
    match value.cast_to(&DataType::Int64)? {
        ScalarValue::Int64(number) => Ok(number),
        _ => Ok(None),
    }
}

/// How many elements an array has.
fn length(value: &ScalarValue) -> Option<usize> {
    match value {
        ScalarValue::List(list) => (list.len() == 1 && !value.is_null()).then(|| list.value(0).len()),
        _ => None,
    }
}

/// Of the first dimension of an array that has elements.
fn bound(values: &[ScalarValue], of: impl Fn(i64) -> i64) -> Result<ScalarValue> {
    let length = length(&values[0]).and_then(|length| i64::try_from(length).ok()).filter(|length| *length > 0);
    let is_first = to_int(&values[1])? == Some(1);
    Ok(ScalarValue::Int64(length.filter(|_| is_first).map(of)))
}

fn texts(values: Vec<String>) -> ScalarValue {
    let array = StringArray::from(values);
    SingleRowListArrayBuilder::new(Arc::new(array)).with_nullable(true).build_list_scalar()
}

/// A pattern of LIKE with another escape character, as one with the backslash.
fn like_escape(pattern: &str, escape: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if escape.starts_with(c) {
            out.push('\\');
            out.extend(chars.next());
        } else {
            if c == '\\' {
                out.push(c);
            }
            out.push(c);
        }
    }
    out
}

/// An identifier as SQL must write it: in quotes if it is not plain lower case.
fn quote_ident(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    match starts && name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// The parts of a name as SQL writes it; `None` if it is none.
pub(super) fn identifiers(name: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = name.trim();
    loop {
        let part = if let Some(quoted) = rest.strip_prefix('"') {
            let (mut part, mut from) = (String::new(), quoted);
            loop {
                let (before, after) = from.split_once('"')?;
                part.push_str(before);
                match after.strip_prefix('"') {
                    Some(after) => {
                        part.push('"');
                        from = after;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            part
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            rest = after;
            part.to_lowercase()
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        rest = rest.trim_start();
        match rest.strip_prefix('.') {
            Some(after) => rest = after.trim_start(),
            None => return rest.is_empty().then_some(parts),
        }
    }
}

pub(super) fn constant() -> Vec<ScalarUDF> {
    use DataType::{Boolean, Int32, Int64, Utf8};
    let strings = || DataType::new_list(Utf8, true);
    let null = |_: &[ScalarValue]| text(None::<String>);
    let granted = |_: &[ScalarValue]| yes(true);
    let no_size = |_: &[ScalarValue]| Ok(ScalarValue::Int64(None));
    vec![
        function("version", 0..=0, Utf8, |_| {
            text(Some(format!("PostgreSQL {SERVER_VERSION} (Floodplain {})", env!("CARGO_PKG_VERSION"))))
        }),
        function("current_schema", 0..=0, Utf8, |_| text(Some(PUBLIC))),
        function("current_schemas", 1..=1, strings(), |values| {
            let with_system = matches!(values, [ScalarValue::Boolean(Some(true))]);
            let schemas = if with_system { vec![PG_CATALOG, PUBLIC] } else { vec![PUBLIC] };
            Ok(texts(schemas.into_iter().map(str::to_owned).collect()))
        }),
        function("current_database", 0..=0, Utf8, |_| text(Some(DATABASE))),
        function("current_catalog", 0..=0, Utf8, |_| text(Some(DATABASE))),
        function("current_setting", 1..=2, Utf8, |values| {
            let Some(name) = to_text(&values[0])? else { return text(None::<String>) };
            let missing_ok = matches!(values.get(1), Some(ScalarValue::Boolean(Some(true))));
            match setting(&name) {
                None if !missing_ok => exec_err!("unrecognized configuration parameter \"{name}\""),
                value => text(value),
            }
        }),
        // As SET: accepted, and without effect.
        function("set_config", 3..=3, Utf8, |values| text(to_text(&values[1])?)),
        function("pg_is_in_recovery", 0..=0, Boolean, |_| yes(false)),
        function("pg_encoding_to_char", 1..=1, Utf8, |values| {
            text(Some(if to_int(&values[0])? == Some(6) { "UTF8" } else { "" }))
        }),
        function("format_type", 2..=2, Utf8, |values| {
            let Some(oid) = to_int(&values[0])? else { return text(None::<String>) };
            text(Some(type_name(oid).unwrap_or_else(|| "???".to_owned())))
        }),
        function("to_regtype", 1..=1, Int32, |values| {
            oid(to_text(&values[0])?.and_then(|name| types::by_name(&name)).map(|found| found.oid))
        }),
        function("regtype", 1..=1, Int32, |values| {
            let Some(name) = to_text(&values[0])? else { return oid(None) };
            match types::by_name(&name) {
                Some(found) => oid(Some(found.oid)),
                None => exec_err!("type \"{name}\" does not exist"),
            }
        }),
        function("regtype_name", 1..=1, Utf8, |values| {
            text(to_int(&values[0])?.map(|oid| type_name(oid).unwrap_or_else(|| oid.to_string())))
        }),
        function("regnamespace", 1..=1, Int32, |values| {
            let Some(name) = to_text(&values[0])? else { return oid(None) };
            match NAMESPACES.iter().find(|(_, known)| *known == name) {
                Some((found, _)) => oid(Some(*found)),
                None => exec_err!("schema \"{name}\" does not exist"),
            }
        }),
        function("regnamespace_name", 1..=1, Utf8, |values| {
            let name = |oid: i64| {
                let found = NAMESPACES.iter().find(|(known, _)| i64::from(*known) == oid);
                found.map_or_else(|| oid.to_string(), |(_, name)| (*name).to_owned())
            };
            text(to_int(&values[0])?.map(name))
        }),
        function("like_escape", 2..=2, Utf8, |values| {
            let (pattern, escape) = (to_text(&values[0])?, to_text(&values[1])?);
            text(pattern.zip(escape).map(|(pattern, escape)| like_escape(&pattern, &escape)))
        }),
        function("quote_ident", 1..=1, Utf8, |values| text(to_text(&values[0])?.map(|name| quote_ident(&name)))),
        function("parse_ident", 1..=2, strings(), |values| {
            let Some(name) = to_text(&values[0])? else {
                return ScalarValue::try_from(&DataType::new_list(Utf8, true));
            };
            match identifiers(&name) {
                Some(parts) => Ok(texts(parts)),
                None => exec_err!("string is not a valid identifier: \"{name}\""),
            }
        }),
        // Bigint, because generate_series wants it.
        function("array_lower", 2..=2, Int64, |values| bound(values, |_| 1)),
        function("array_upper", 2..=2, Int64, |values| bound(values, |length| length)),
        // Nothing has a default, a comment, an index, a constraint or a known size.
        function("pg_get_expr", 2..=3, Utf8, null),
        function("pg_get_viewdef", 1..=2, Utf8, null),
        function("pg_get_indexdef", 1..=3, Utf8, null),
        function("pg_get_constraintdef", 1..=2, Utf8, null),
        function("pg_get_partkeydef", 1..=1, Utf8, null),
        function("pg_get_function_result", 1..=1, Utf8, null),
        function("pg_get_function_arguments", 1..=1, Utf8, null),
        function("pg_get_function_identity_arguments", 1..=1, Utf8, null),
        function("pg_get_serial_sequence", 2..=2, Utf8, null),
        function("obj_description", 1..=2, Utf8, null),
        function("col_description", 2..=2, Utf8, null),
        function("shobj_description", 2..=2, Utf8, null),
        function("pg_database_size", 1..=1, Int64, no_size),
        function("pg_tablespace_size", 1..=1, Int64, no_size),
        function("pg_tablespace_location", 1..=1, Utf8, |_| text(Some(""))),
        function("pg_relation_size", 1..=2, Int64, no_size),
        function("pg_table_size", 1..=1, Int64, no_size),
        function("pg_total_relation_size", 1..=1, Int64, no_size),
        function("pg_size_pretty", 1..=1, Utf8, |values| text(to_int(&values[0])?.map(pretty_size))),
        // Who may ask may read everything.
        function("has_table_privilege", 2..=3, Boolean, granted),
        function("has_schema_privilege", 2..=3, Boolean, granted),
        function("has_database_privilege", 2..=3, Boolean, granted),
        function("pg_function_is_visible", 1..=1, Boolean, granted),
        function("pg_type_is_visible", 1..=1, Boolean, granted),
        function("pg_relation_is_publishable", 1..=1, Boolean, |_| yes(false)),
    ]
}

/// As PostgreSQL rounds: a larger unit from ten thousand on.
fn pretty_size(bytes: i64) -> String {
    let (mut size, mut units) = (bytes, ["kB", "MB", "GB", "TB", "PB"].into_iter());
    let mut unit = "bytes";
    while size.unsigned_abs() >= 10 * 1024 {
        let Some(larger) = units.next() else { break };
        (size, unit) = ((size + 512 * size.signum()) / 1024, larger);
    }
    format!("{size} {unit}")
}

fn type_name(oid: i64) -> Option<String> {
    let array = || types::TYPES.iter().find(|found| i64::from(found.array) == oid);
    let base = types::by_oid(oid).map(|found| found.sql.to_owned());
    base.or_else(|| array().map(|found| format!("{}[]", found.sql)))
}

/// Those that look at the tables, or at who asks.
pub(super) fn of(catalog: &Catalog) -> Vec<ScalarUDF> {
    use DataType::{Boolean, Int32, Utf8};
    let visible = catalog.clone();
    let to_oid = catalog.clone();
    let find = catalog.clone();
    let to_name = catalog.clone();
    let user = Arc::clone(&catalog.shared.user);
    vec![
        function("pg_table_is_visible", 1..=1, Boolean, move |values| {
            let Some(oid) = to_int(&values[0])? else { return Ok(ScalarValue::Boolean(None)) };
            yes(visible.known()?.by_oid(oid).is_some_and(|found| found.schema != INFORMATION_SCHEMA))
        }),
        function("regclass", 1..=1, Int32, move |values| {
            let Some(name) = to_text(&values[0])? else { return oid(None) };
            // A number in quotes is one, too.
            if let Ok(number) = name.parse() {
                return oid(Some(number));
            }
            match to_oid.known()?.by_name(&name) {
                Some(found) => oid(Some(found.oid)),
                None => exec_err!("relation \"{name}\" does not exist"),
            }
        }),
        function("to_regclass", 1..=1, Int32, move |values| {
            let name = to_text(&values[0])?;
            let relations = find.known()?;
            oid(name.and_then(|name| relations.by_name(&name)).map(|found| found.oid))
        }),
        function("regclass_name", 1..=1, Utf8, move |values| {
            let relations = to_name.known()?;
            let name = |oid: i64| match relations.by_oid(oid) {
                Some(found) if found.schema == INFORMATION_SCHEMA => {
                    format!("{}.{}", found.schema, quote_ident(&found.name))
                }
                Some(found) => quote_ident(&found.name),
                None => oid.to_string(),
            };
            text(to_int(&values[0])?.map(name))
        }),
        function("pg_get_userbyid", 1..=1, Utf8, move |values| {
            let name = |oid| if oid == i64::from(USER_OID) { user.to_string() } else { format!("unknown (OID={oid})") };
            text(to_int(&values[0])?.map(name))
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_taken_apart() {
        for (name, quoted) in [("engine", "engine"), ("Engine", "\"Engine\""), ("a\"b", "\"a\"\"b\""), ("1a", "\"1a\"")]
        {
            assert_eq!(quote_ident(name), quoted);
            assert_eq!(identifiers(quoted), Some(vec![name.to_owned()]));
        }
        let parts = |parts: &[&str]| Some(parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
        assert_eq!(identifiers(" Public . \"Oil.x\" "), parts(&["public", "Oil.x"]));
        assert_eq!(like_escape(r"a/_b\c//%", "/"), r"a\_b\\c\/%");
        assert_eq!([5, 20_000, 3 << 40].map(pretty_size), ["5 bytes", "20 kB", "3072 GB"]);
        for wrong in ["", "a.", "\"a", "a b", ".a"] {
            assert_eq!(identifiers(wrong), None, "{wrong}");
        }
    }
}
