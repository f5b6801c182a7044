//! Functions of time series. Each stands for an expression of DataFusion's own and becomes that when a query is planned.

use datafusion::{
    arrow::{
        array::{ArrayRef, UInt64Array},
        compute::take,
        datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit},
    },
    common::{Result, ScalarValue, exec_err, plan_err},
    functions_aggregate::first_last::{first_value_udaf, last_value_udaf},
    logical_expr::{
        Accumulator, AggregateUDFImpl, ColumnarValue, Expr, PartitionEvaluator, ScalarFunctionArgs, ScalarUDFImpl,
        Signature, Volatility, WindowUDFImpl,
        expr::{AggregateFunction, AggregateFunctionParams, NullTreatment, Sort, WindowFunction},
        function::{
            AccumulatorArgs, AggregateFunctionSimplification, PartitionEvaluatorArgs, WindowFunctionSimplification,
            WindowUDFFieldArgs,
        },
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};
use std::sync::Arc;

/// 2000-01-03, a Monday: buckets of weeks begin on Mondays.
const MONDAY_NS: i64 = 946_857_600_000_000_000;
/// 2000-01-01, for buckets of months and years.
const FIRST_OF_MONTH_NS: i64 = 946_684_800_000_000_000;

/// `time_bucket(width, time[, origin])`: the start of the bucket that a time is in.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TimeBucket {
    signature: Signature,
}

impl TimeBucket {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &'static str {
        "time_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (width, time, origin) = match types {
            [width, time] => (width, time, None),
            [width, time, origin] => (width, time, Some(origin)),
            _ => return plan_err!("time_bucket takes a width, a time and, if wanted, an origin"),
        };
        let is_text = matches!(width, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        if !is_text && !matches!(width, DataType::Interval(_)) {
            return plan_err!("the width of time_bucket is an interval, such as INTERVAL '5 minutes' or '5 minutes'");
        }
        let (time, zone) = match time {
            DataType::Timestamp(unit, zone) => (DataType::Timestamp(*unit, zone.clone()), zone.clone()),
            DataType::Date32 | DataType::Date64 => (DataType::Timestamp(TimeUnit::Microsecond, None), None),
            _ => return plan_err!("the second argument of time_bucket is a time, not {time}"),
        };
        let width = DataType::Interval(IntervalUnit::MonthDayNano);
        let origin = origin.map(|_| DataType::Timestamp(TimeUnit::Nanosecond, zone));
        Ok([width, time].into_iter().chain(origin).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[1].clone())
    }

    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let mut args = args;
        if args.len() == 2 {
            let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(width)), _) = &args[0] else {
                return plan_err!("the width of time_bucket is a constant where no origin is given");
            };
            let origin = if width.months == 0 { MONDAY_NS } else { FIRST_OF_MONTH_NS };
            args.push(Expr::Literal(ScalarValue::TimestampNanosecond(Some(origin), Some("+00:00".into())), None));
        }
        Ok(ExprSimplifyResult::Simplified(datafusion::functions::datetime::date_bin().call(args)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("the width of time_bucket is a constant")
    }
}

/// `first(value, time)` and `last(value, time)`: the value that is not NULL with the least, or greatest, time.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct End {
    signature: Signature,
    is_first: bool,
}

impl End {
    pub(super) fn first() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable), is_first: true }
    }

    pub(super) fn last() -> Self {
        Self { is_first: false, ..Self::first() }
    }
}

impl AggregateUDFImpl for End {
    fn name(&self) -> &'static str {
        if self.is_first { "first" } else { "last" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let is_first = self.is_first;
        Some(Box::new(move |function: AggregateFunction, _: &SimplifyContext| {
            let AggregateFunctionParams { mut args, filter, .. } = function.params;
            let by = args.pop().into_iter().map(|time| Sort::new(time, true, !is_first)).collect();
            let end = if is_first { first_value_udaf() } else { last_value_udaf() };
            let ignore = Some(NullTreatment::IgnoreNulls);
            Ok(Expr::AggregateFunction(AggregateFunction::new_udf(end, args, false, filter, by, ignore)))
        }))
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let name = self.name();
        exec_err!("{name}(value, time) is an aggregate; over a window use {name}_value(value) OVER (ORDER BY time)")
    }
}

/// `locf(value) OVER (... ORDER BY time)`: the last value that is not NULL up to this row, carried forward.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Locf {
    signature: Signature,
}

impl Locf {
    pub(super) fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl WindowUDFImpl for Locf {
    fn name(&self) -> &'static str {
        "locf"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let data_type = args.input_fields().first().map_or(DataType::Null, |field| field.data_type().clone());
        Ok(Arc::new(Field::new(args.name(), data_type, true)))
    }

    fn simplify(&self) -> Option<WindowFunctionSimplification> {
        Some(Box::new(|function: WindowFunction, _: &SimplifyContext| {
            if function.params.order_by.is_empty() {
                return plan_err!("locf needs an order: locf(value) OVER (ORDER BY time)");
            }
            Ok(Expr::from(function))
        }))
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(CarryForward))
    }
}

/// One pass over a partition; whatever frame is given, it ends at the row.
#[derive(Debug)]
struct CarryForward;

impl PartitionEvaluator for CarryForward {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let values = &values[0];
        let mut last = None;
        let indices: UInt64Array = (0..rows)
            .map(|row| {
                last = if values.is_null(row) { last } else { Some(row as u64) };
                last
            })
            .collect();
        Ok(take(values, &indices, None)?)
    }
}
