//! `json_get` and its kin: elements of JSON texts, as text or typed.
//!
//! All take the JSON first (text, or the bytes of a payload), then a path of member names and indexes. What is not
//! JSON, not there, or of another type gives NULL, so that one odd payload does not end a query.

use super::seek::{Step, length, seek};
use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BooleanBuilder, Float64Builder, Int64Array, Int64Builder, StringArray,
            StringBuilder,
        },
        datatypes::{DataType, Int64Type},
    },
    common::{DFSchema, DataFusionError, Result, ScalarValue, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
        expr::ScalarFunction,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
        sqlparser::ast::BinaryOperator,
    },
};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Json,
    Text,
    Str,
    Int,
    Float,
    Bool,
    Length,
    Contains,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "json_get",
            Self::Text => "json_as_text",
            Self::Str => "json_get_str",
            Self::Int => "json_get_int",
            Self::Float => "json_get_float",
            Self::Bool => "json_get_bool",
            Self::Length => "json_length",
            Self::Contains => "json_contains",
        }
    }
}

/// One of the functions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Json {
    kind: Kind,
    signature: Signature,
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Json> {
    use Kind::{Bool, Contains, Float, Int, Json as Any, Length, Str, Text};
    [Any, Text, Str, Int, Float, Bool, Length, Contains].into_iter().map(Json::new)
}

impl Json {
    fn new(kind: Kind) -> Self {
        Self { kind, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Json {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let Some((json, path)) = types.split_first() else {
            return plan_err!("{} needs a JSON text or payload, and a path", self.name());
        };
        let json = match json {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                DataType::Binary
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
            other => return plan_err!("{} reads JSON from text or binary, not from {other}", self.name()),
        };
        let steps = path.iter().map(|step| match step {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(DataType::Utf8),
            integer if integer.is_integer() => Ok(DataType::Int64),
            other => plan_err!("a step of the path of {} is a name or an index, not {other}", self.name()),
        });
        std::iter::once(Ok(json)).chain(steps).collect()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Json | Kind::Text | Kind::Str => DataType::Utf8,
            Kind::Int | Kind::Length => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Bool | Kind::Contains => DataType::Boolean,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        // Steps of the path are constants nearly always: one row of each is enough then.
        let rows = if scalar { 1 } else { args.number_rows };
        let json = args.args[0].to_array(rows)?;
        let path = args.args[1..].iter().map(Steps::new).collect::<Result<Vec<_>>>()?;
        let found = self.evaluate(&json, &path)?;
        if scalar { Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?)) } else { Ok(found.into()) }
    }
}

/// One step of the path for all rows.
enum Steps {
    Same(ScalarValue),
    Names(StringArray),
    Indexes(Int64Array),
}

impl Steps {
    fn new(value: &ColumnarValue) -> Result<Self> {
        match value {
            ColumnarValue::Scalar(value) => Ok(Self::Same(value.clone())),
            ColumnarValue::Array(array) => match array.data_type() {
                DataType::Utf8 => Ok(Self::Names(array.as_string::<i32>().clone())),
                DataType::Int64 => Ok(Self::Indexes(array.as_primitive::<Int64Type>().clone())),
                other => Err(DataFusionError::Internal(format!("path of type {other} was not coerced"))),
            },
        }
    }

    /// `None` for NULL, which leads nowhere.
    fn at(&self, row: usize) -> Option<Step<'_>> {
        match self {
            Self::Same(ScalarValue::Utf8(name)) => name.as_deref().map(Step::Key),
            Self::Same(ScalarValue::Int64(idx)) => idx.map(Step::Index),
            Self::Same(_) => None,
            Self::Names(names) => names.is_valid(row).then(|| Step::Key(names.value(row))),
            Self::Indexes(indexes) => indexes.is_valid(row).then(|| Step::Index(indexes.value(row))),
        }
    }
}

impl Json {
    fn evaluate(&self, json: &ArrayRef, path: &[Steps]) -> Result<ArrayRef> {
        let bytes: Vec<Option<&[u8]>> = match json.data_type() {
            DataType::Utf8 => json.as_string::<i32>().iter().map(|text| text.map(str::as_bytes)).collect(),
            DataType::Binary => json.as_binary::<i32>().iter().collect(),
            other => return Err(DataFusionError::Internal(format!("JSON of type {other} was not coerced"))),
        };
        let mut steps = Vec::with_capacity(path.len());
        let mut find = |row: usize| -> Option<&str> {
            let json = bytes[row]?;
            steps.clear();
            for step in path {
                // The borrow of `path` outlives the rows.
                steps.push(step.at(row)?);
            }
            seek(json, &steps)
        };
        let rows = 0..json.len();
        Ok(match self.kind {
            Kind::Json => Arc::new(texts(rows.map(|row| find(row).map(str::to_owned)))),
            Kind::Text => Arc::new(texts(rows.map(|row| find(row).and_then(as_text)))),
            Kind::Str => Arc::new(texts(rows.map(|row| find(row).and_then(as_str)))),
            Kind::Int | Kind::Length => {
                let mut builder = Int64Builder::with_capacity(json.len());
                let convert = if self.kind == Kind::Int { as_int } else { length };
                rows.for_each(|row| builder.append_option(find(row).and_then(convert)));
                Arc::new(builder.finish())
            }
            Kind::Float => {
                let mut builder = Float64Builder::with_capacity(json.len());
                rows.for_each(|row| builder.append_option(find(row).and_then(as_float)));
                Arc::new(builder.finish())
            }
            Kind::Bool => {
                let mut builder = BooleanBuilder::with_capacity(json.len());
                rows.for_each(|row| builder.append_option(find(row).and_then(|raw| raw.parse().ok())));
                Arc::new(builder.finish())
            }
            Kind::Contains => {
                let mut builder = BooleanBuilder::with_capacity(json.len());
                rows.for_each(|row| builder.append_option(bytes[row].map(|_| find(row).is_some())));
                Arc::new(builder.finish())
            }
        })
    }
}

fn texts(values: impl Iterator<Item = Option<String>>) -> StringArray {
    let mut builder = StringBuilder::new();
    values.for_each(|value| builder.append_option(value));
    builder.finish()
}

fn as_str(raw: &str) -> Option<String> {
    raw.starts_with('"').then(|| serde_json::from_str(raw).ok())?
}

/// Texts without their quotes, JSON null as NULL, everything else as it stands.
fn as_text(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => as_str(raw),
        b'n' => None,
        _ => Some(raw.to_owned()),
    }
}

/// Whole numbers, also where they are written like `2.0` or `1e3`, if they fit.
fn as_int(raw: &str) -> Option<i64> {
    if let Ok(value) = raw.parse() {
        return Some(value);
    }
    // Up to 2^53 a float knows every whole number; beyond it the text must be one.
    let value = as_float(raw)?;
    (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i64)
}

fn as_float(raw: &str) -> Option<f64> {
    let number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    number.then(|| raw.parse().ok())?.filter(|value: &f64| value.is_finite())
}

/// `payload -> 'a'` is `json_get`, `payload ->> 'a'` is `json_as_text`.
#[derive(Debug)]
pub(super) struct Operators {
    get: Arc<ScalarUDF>,
    text: Arc<ScalarUDF>,
}

impl Operators {
    pub(super) fn new() -> Self {
        let function = |kind| Arc::new(ScalarUDF::new_from_impl(Json::new(kind)));
        Self { get: function(Kind::Json), text: function(Kind::Text) }
    }
}

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let function = match expr.op {
            BinaryOperator::Arrow => &self.get,
            BinaryOperator::LongArrow => &self.text,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // `a -> 'b' -> 'c'` is one path: read once, and not nested deeper with each step.
        let mut args = match expr.left {
            Expr::ScalarFunction(inner) if inner.func == self.get && !inner.args.is_empty() => inner.args,
            left => vec![left],
        };
        args.push(expr.right);
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args))))
    }
}
