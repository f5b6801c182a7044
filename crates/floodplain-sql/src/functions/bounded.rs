//! Functions whose result may be far longer than what they are given. The memory limit counts what sorts, joins and
//! aggregates hold, not the values of one batch that a function computes: these bound themselves.

use datafusion::{
    arrow::{
        array::AsArray,
        compute::{cast, kernels::length::length},
        datatypes::{DataType, FieldRef, Int64Type},
    },
    common::{Result, resources_err},
    execution::{FunctionRegistry, SessionState},
    logical_expr::{
        ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    },
};
use std::sync::Arc;

/// Arrays of any length out of a few numbers. As a table, `generate_series` makes its rows one batch after the other
/// and stays.
const REMOVED: [&str; 4] = ["range", "generate_series", "array_repeat", "array_resize"];
/// Texts of any length out of a short one and a number.
const BOUNDED: [&str; 3] = ["repeat", "lpad", "rpad"];
/// The part of the memory of all queries that one batch of one function may take.
const PART: usize = 8;
/// Of one character in UTF-8.
const CHAR_BYTES_MAX: i64 = 4;

pub(super) fn register(state: &mut SessionState, memory_max_bytes: usize) -> Result<()> {
    for name in REMOVED {
        state.deregister_udf(name)?;
    }
    for name in BOUNDED {
        let inner = state.udf(name)?;
        state
            .register_udf(Arc::new(ScalarUDF::new_from_impl(Bounded { inner, max_bytes: memory_max_bytes / PART })))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    max_bytes: usize,
}

impl Bounded {
    /// At least as many bytes as the result has.
    fn result_bytes(&self, args: &ScalarFunctionArgs) -> Result<i64> {
        let [text, count, ..] = &args.args[..] else { return Ok(0) };
        let counts = cast(&count.to_array(args.number_rows)?, &DataType::Int64)?;
        let counts = counts.as_primitive::<Int64Type>().iter().map(|count| count.unwrap_or(0).max(0));
        if self.name() != "repeat" {
            // To so many characters.
            return Ok(counts.fold(0, |sum, count| sum.saturating_add(count.saturating_mul(CHAR_BYTES_MAX))));
        }
        let bytes = cast(&length(&text.to_array(args.number_rows)?)?, &DataType::Int64)?;
        let bytes = bytes.as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default);
        Ok(counts.zip(bytes).fold(0, |sum: i64, (count, bytes)| sum.saturating_add(count.saturating_mul(bytes))))
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (bytes, max_bytes) = (self.result_bytes(&args)?, self.max_bytes);
        if usize::try_from(bytes).is_ok_and(|bytes| bytes <= max_bytes) {
            return self.inner.invoke_with_args(args);
        }
        let name = self.name();
        resources_err!("{name} would make up to {bytes} bytes for {} rows, {max_bytes} are allowed", args.number_rows)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
