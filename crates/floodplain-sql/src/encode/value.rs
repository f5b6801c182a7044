//! One value of a column, for both formats.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use datafusion::arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, StringArray, StructArray,
    },
    compute::cast,
    datatypes::{DataType, FieldRef},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use std::fmt::Write as _;

/// RFC 3339 with as many digits as there are.
const TIMES: FormatOptions<'static> = FormatOptions::new().with_display_error(true);

/// A column, made easy to read row by row.
pub(super) enum Values {
    Null,
    Boolean(BooleanArray),
    /// Integers and decimals: Arrow's digits are JSON's.
    Number(ArrayRef),
    Single(Float32Array),
    Double(Float64Array),
    Text(StringArray),
    Binary(BinaryArray),
    List(Vec<Option<Values>>),
    Struct(StructArray, Vec<(FieldRef, Values)>),
    /// Times, intervals and the rest, as Arrow shows them.
    Shown(ArrayRef),
}

impl Values {
    pub(super) fn new(array: &ArrayRef) -> Result<Self, ArrowError> {
        use DataType as T;
        Ok(match array.data_type() {
            T::Null => Self::Null,
            T::Boolean => Self::Boolean(array.as_boolean().clone()),
            number if number.is_integer() || number.is_decimal() => Self::Number(ArrayRef::clone(array)),
            T::Float16 | T::Float32 => Self::Single(cast(array, &T::Float32)?.as_primitive().clone()),
            T::Float64 => Self::Double(array.as_primitive().clone()),
            T::Utf8 | T::LargeUtf8 | T::Utf8View => Self::Text(cast(array, &T::Utf8)?.as_string::<i32>().clone()),
            T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => {
                Self::Binary(cast(array, &T::Binary)?.as_binary::<i32>().clone())
            }
            T::Dictionary(_, value) => Self::new(&cast(array, value)?)?,
            T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) => {
                let lists = cast(array, &T::LargeList(FieldRef::clone(item)))?;
                let lists = lists.as_list::<i64>().iter().map(|list| list.as_ref().map(Self::new).transpose());
                Self::List(lists.collect::<Result<_, _>>()?)
            }
            T::Struct(fields) => {
                let array = array.as_struct();
                let columns = fields.iter().zip(array.columns());
                let columns = columns.map(|(field, column)| Ok((FieldRef::clone(field), Self::new(column)?)));
                Self::Struct(array.clone(), columns.collect::<Result<_, ArrowError>>()?)
            }
            _ => Self::Shown(ArrayRef::clone(array)),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Boolean(array) => array.is_null(row),
            Self::Number(array) | Self::Shown(array) => array.is_null(row),
            Self::Single(array) => array.is_null(row),
            Self::Double(array) => array.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::Binary(array) => array.is_null(row),
            Self::List(lists) => lists[row].is_none(),
            Self::Struct(array, _) => array.is_null(row),
        }
    }

    /// Writes the value as JSON.
    pub(super) fn json(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Self::Number(array) => out.extend_from_slice(show(array, row)?.as_bytes()),
            Self::Single(array) => json_float(f64::from(array.value(row)), &array.value(row).to_string(), out),
            Self::Double(array) => json_double(array.value(row), out),
            Self::Text(array) => json_text(array.value(row), out),
            Self::Binary(array) => match std::str::from_utf8(array.value(row)) {
                Ok(text) => json_text(text, out),
                Err(_) => {
                    out.extend_from_slice(br#"{"base64":""#);
                    out.extend_from_slice(STANDARD.encode(array.value(row)).as_bytes());
                    out.extend_from_slice(br#""}"#);
                }
            },
            Self::List(lists) => {
                let list = lists[row].as_ref();
                out.push(b'[');
                for idx in 0..list.map_or(0, Self::len) {
                    if idx > 0 {
                        out.push(b',');
                    }
                    list.map_or(Ok(()), |list| list.json(idx, out))?;
                }
                out.push(b']');
            }
            Self::Struct(_, columns) => {
                out.push(b'{');
                for (idx, (field, column)) in columns.iter().enumerate() {
                    if idx > 0 {
                        out.push(b',');
                    }
                    json_text(field.name(), out);
                    out.push(b':');
                    column.json(row, out)?;
                }
                out.push(b'}');
            }
            Self::Shown(array) => json_text(&show(array, row)?, out),
        }
        Ok(())
    }

    /// Writes the value as plain text, for one field of CSV; nothing for NULL.
    pub(super) fn text(&self, row: usize, out: &mut String) -> Result<(), ArrowError> {
        if self.is_null(row) {
            return Ok(());
        }
        match self {
            Self::Text(array) => out.push_str(array.value(row)),
            Self::Binary(array) => match std::str::from_utf8(array.value(row)) {
                Ok(text) => out.push_str(text),
                Err(_) => {
                    out.push_str("base64:");
                    STANDARD.encode_string(array.value(row), out);
                }
            },
            Self::Double(array) => {
                write!(out, "{}", array.value(row)).map_err(|_| ArrowError::ComputeError("format".into()))?
            }
            Self::Number(array) | Self::Shown(array) => out.push_str(&show(array, row)?),
            Self::Null | Self::Boolean(_) | Self::Single(_) | Self::List(_) | Self::Struct(..) => {
                let mut json = Vec::new();
                self.json(row, &mut json)?;
                out.push_str(&String::from_utf8_lossy(&json));
            }
        }
        Ok(())
    }

    /// Whether an empty text stands for an empty value, and not for NULL.
    pub(super) fn is_empty_text(&self, row: usize) -> bool {
        match self {
            Self::Text(array) => array.is_valid(row) && array.value(row).is_empty(),
            Self::Binary(array) => array.is_valid(row) && array.value(row).is_empty(),
            _ => false,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Boolean(array) => array.len(),
            Self::Number(array) | Self::Shown(array) => array.len(),
            Self::Single(array) => array.len(),
            Self::Double(array) => array.len(),
            Self::Text(array) => array.len(),
            Self::Binary(array) => array.len(),
            Self::List(lists) => lists.len(),
            Self::Struct(array, _) => array.len(),
        }
    }
}

fn show(array: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    let formatter = ArrayFormatter::try_new(array, &TIMES)?;
    formatter.value(row).try_to_string()
}

fn json_double(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        // Shortest digits that read back as the same number.
        let number = serde_json::Number::from_f64(value).map_or_else(|| value.to_string(), |number| number.to_string());
        out.extend_from_slice(number.as_bytes());
    } else {
        json_float(value, "", out);
    }
}

/// JSON has no word for these three: they become the texts that PostgreSQL uses.
fn json_float(value: f64, digits: &str, out: &mut Vec<u8>) {
    let text = if value.is_nan() {
        "\"NaN\""
    } else if value == f64::INFINITY {
        "\"Infinity\""
    } else if value == f64::NEG_INFINITY {
        "\"-Infinity\""
    } else {
        digits
    };
    out.extend_from_slice(text.as_bytes());
}

/// Writes a JSON text, quotes and escapes included.
pub(super) fn json_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to a Vec cannot fail");
}
