//! `alerts`: when alerts began and ended to fire, read from the log when it is asked for.

use super::fleet::{texts, times};
use crate::{
    fleet::{Fleet, Unanswered},
    functions::json_function,
};
use datafusion::{
    arrow::{
        array::{Float64Array, RecordBatch},
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    },
    catalog::{TableProvider, streaming::StreamingTable, view::ViewTable},
    common::{DataFusionError, Result, ScalarValue},
    datasource::provider_as_source,
    execution::{SendableRecordBatchStream, TaskContext},
    functions::expr_fn::split_part,
    functions_window::expr_fn::row_number,
    logical_expr::{
        Expr, ExprFunctionExt as _, LogicalPlan, LogicalPlanBuilder, cast, col, ident, lit, try_cast, when,
    },
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use floodplain_log::Stream;
use std::sync::Arc;

/// The columns of a transition, in order; then comes `active`.
const COLUMNS: [&str; 11] = [
    "time",
    "rule",
    "device",
    "state",
    "since",
    "value",
    "cause_stream",
    "cause_partition",
    "cause_position",
    "partition",
    "position",
];
/// In the payload, and as a property, `docs/formats/alerts.md`.
const FIRING: &str = "firing";

/// A row for each transition that the log holds, and for each alert that fires by one that retention has taken, if there
/// is somebody who knows them. `inputs` are the streams of messages, as their indexes count them.
pub(super) fn alerts(
    records: Arc<dyn TableProvider>,
    inputs: &[Stream],
    fleet: Option<Arc<dyn Fleet>>,
) -> Result<Arc<dyn TableProvider>> {
    let member = |from: &str, name: &str, function: &str| {
        let function = json_function(function).expect("it is one of ours");
        function.call(vec![col(from), lit(name)])
    };
    let text = |name| member("payload", name, "json_get_str");
    // The message, and the number of its row, which is left out: `index/position/row`, `floodplain_log::DataStreams`.
    let cause = |part: i64| split_part(member("user_properties", "cause", "json_get_str"), lit("/"), lit(part));
    let index = || try_cast(cause(1), DataType::Int32);
    let partitions = inputs.first().and_then(|stream| i32::try_from(stream.partitions).ok()).unwrap_or(i32::MAX);
    let mut stream = when(index().lt(lit(0)), null(DataType::Utf8));
    for (input, behind) in inputs.iter().zip((1..).map(|number| partitions.saturating_mul(number))) {
        stream = stream.when(index().lt(lit(behind)), lit(input.id.stream.as_str()));
    }
    let transitions = LogicalPlanBuilder::scan("records", provider_as_source(records), None)?
        .filter(col("stream").eq(lit("alerts")).and(col("topic").is_not_null()))?
        .project(vec![
            col("received").alias("time"),
            text("alert").alias("rule"),
            col("device"),
            text("state").alias("state"),
            try_cast(text("since"), time_type()).alias("since"),
            member("payload", "value", "json_get_float").alias("value"),
            stream.end()?.alias("cause_stream"),
            (index() % lit(partitions)).alias("cause_partition"),
            cause(2).alias("cause_position"),
            col("partition"),
            col("position"),
            col("generation"),
            ident("offset"),
        ])?
        .build()?;
    // The last one of a rule and a device says whether it fires now.
    let latest_first = vec![col("generation").sort(false, false), ident("offset").sort(false, false)];
    let number = row_number().partition_by(vec![col("rule"), col("device")]).order_by(latest_first).build()?;
    let number = number.alias("number");
    let is_active = col("number").eq(lit(1_u64)).and(col("state").eq(lit(FIRING))).alias("active");
    let mut plan = LogicalPlanBuilder::from(transitions)
        .window(vec![number])?
        .project(COLUMNS.map(ident).into_iter().chain([is_active]).collect::<Vec<_>>())?
        .build()?;
    if let Some(fleet) = fleet {
        plan = LogicalPlanBuilder::from(plan).union(long_firing(fleet)?)?.build()?;
    }
    Ok(Arc::new(ViewTable::new(plan, None)))
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn null(data_type: DataType) -> Expr {
    cast(lit(ScalarValue::Null), data_type)
}

/// Alerts that fire by a transition that is not in the log any more: what is left of it.
fn long_firing(fleet: Arc<dyn Fleet>) -> Result<LogicalPlan> {
    let (text, number) = (DataType::Utf8, DataType::Float64);
    let fields = [("rule", text.clone()), ("device", text), ("since", time_type()), ("value", number)];
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let rows = Arc::new(LongRows { fleet, schema: Arc::clone(&schema) });
    let table: Arc<dyn TableProvider> = Arc::new(StreamingTable::try_new(schema, vec![rows])?);
    let received = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    LogicalPlanBuilder::scan("long_firing", provider_as_source(table), None)?
        .project(vec![
            null(received).alias("time"),
            col("rule"),
            col("device"),
            lit(FIRING).alias("state"),
            col("since"),
            col("value"),
            null(DataType::Utf8).alias("cause_stream"),
            null(DataType::Int32).alias("cause_partition"),
            null(DataType::Utf8).alias("cause_position"),
            null(DataType::Int32).alias("partition"),
            null(DataType::Utf8).alias("position"),
            lit(true).alias("active"),
        ])?
        .build()
}

/// Asked when the query runs, not when it is planned: whoever knows may be busy.
#[derive(Debug)]
struct LongRows {
    fleet: Arc<dyn Fleet>,
    schema: SchemaRef,
}

impl PartitionStream for LongRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (fleet, schema) = (Arc::clone(&self.fleet), Arc::clone(&self.schema));
        let rows = futures::stream::once(async move {
            let failed = |error: Unanswered| DataFusionError::External(Box::new(error));
            let rows = fleet.long_firing().await.map_err(failed)?;
            let columns = vec![
                texts(&rows, |row| Some(&row.rule)),
                texts(&rows, |row| Some(&row.device)),
                times(&rows, |row| Some(row.since)),
                Arc::new(rows.iter().map(|row| row.value).collect::<Float64Array>()),
            ];
            Ok(RecordBatch::try_new(schema, columns)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
