//! What a field of a row holds.

use std::fmt;

use crate::rows::Decoded;

/// The value of a field, borrowed from the payload or from the buffer of rows. A null is no value: such a field is absent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Bool(bool),
    Int(i64),
    /// From JSON and line protocol always finite; from binary formats as sent.
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Scalars of one type, only where a definition declares a list.
    List(List<'a>),
    /// JSON text of what cannot be the value of a column: an array that is no declared list, an object nested too
    /// deep, an integer above `i64`, a number above `f64`. It belongs into the overflow column.
    Rest(&'a str),
}

impl Value<'_> {
    /// The type that a column gets when this is its first value; `None` for [`Value::Rest`].
    #[must_use]
    pub fn column_type(&self) -> Option<ColumnType> {
        Some(match self {
            Self::Bool(_) => ColumnType::Bool,
            Self::Int(_) => ColumnType::Int64,
            Self::Float(_) => ColumnType::Float64,
            Self::Text(_) => ColumnType::Text,
            Self::Bytes(_) => ColumnType::Bytes,
            Self::List(list) => ColumnType::List(list.element()),
            Self::Rest(_) => return None,
        })
    }

    /// Appends the value as JSON text, as it stands in overflow columns: bytes are base64, numbers keep all their
    /// digits, and what is not finite is a text.
    pub fn write_json(self, out: &mut String) {
        crate::write_json::value(self, out);
    }
}

/// Scalars of one type.
#[derive(Clone, Copy)]
pub struct List<'a> {
    pub(crate) decoded: Decoded<'a>,
    pub(crate) element: ElementType,
    pub(crate) first: u32,
    pub(crate) len: u32,
    /// Items are stored as integers.
    pub(crate) widened: bool,
}

impl<'a> List<'a> {
    /// The type that every item has.
    #[must_use]
    pub const fn element(&self) -> ElementType {
        self.element
    }

    /// Number of items, at least one.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no item: never, an empty array has no type.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value<'a>> + use<'a> {
        let widened = self.widened;
        self.decoded.items(self.first, self.len).map(move |item| match item {
            Value::Int(value) if widened => Value::Float(value as f64),
            item => item,
        })
    }

    /// The same list for a column of floats.
    pub(crate) fn as_floats(self) -> Self {
        Self { element: ElementType::Float64, widened: true, ..self }
    }
}

impl PartialEq for List<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.element == other.element && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    Bool,
    Int64,
    Float64,
    Text,
    Bytes,
    List(ElementType),
}

/// The type of the items of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    Bool,
    Int64,
    Float64,
    Text,
}

impl ColumnType {
    const ALL: [Self; 9] = [
        Self::Bool,
        Self::Int64,
        Self::Float64,
        Self::Text,
        Self::Bytes,
        Self::List(ElementType::Bool),
        Self::List(ElementType::Int64),
        Self::List(ElementType::Float64),
        Self::List(ElementType::Text),
    ];

    /// The name in definitions, stored schemas and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::List(ElementType::Bool) => "list<bool>",
            Self::List(ElementType::Int64) => "list<int64>",
            Self::List(ElementType::Float64) => "list<float64>",
            Self::List(ElementType::Text) => "list<text>",
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ColumnType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|column| column.as_str() == s).ok_or_else(|| format!("unknown column type {s:?}"))
    }
}
