//! Statements with parameters.

use datafusion::{
    arrow::datatypes::{DataType, SchemaRef},
    common::ScalarValue,
};

/// A value for `$1`, `$2` and so on.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
    /// Days since 1970.
    Date(i32),
}

/// What is known of a statement before it runs.
#[derive(Debug, Clone)]
pub struct Description {
    /// Types of the parameters, as far as the statement tells.
    pub parameters: Vec<Option<DataType>>,
    pub schema: SchemaRef,
}

impl Parameter {
    pub(crate) fn scalar(&self) -> ScalarValue {
        match self {
            Self::Null => ScalarValue::Null,
            Self::Bool(value) => ScalarValue::Boolean(Some(*value)),
            Self::Int(value) => ScalarValue::Int64(Some(*value)),
            Self::Float(value) => ScalarValue::Float64(Some(*value)),
            Self::Text(value) => ScalarValue::Utf8(Some(value.clone())),
            Self::Bytes(value) => ScalarValue::Binary(Some(value.clone())),
            Self::Timestamp(us) => ScalarValue::TimestampMicrosecond(Some(*us), Some("UTC".into())),
            Self::Date(days) => ScalarValue::Date32(Some(*days)),
        }
    }
}
