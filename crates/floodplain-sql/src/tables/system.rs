//! Tables that tell of the server itself.

use crate::functions::json_function;
use datafusion::{
    arrow::{
        array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
        datatypes::{DataType, Field, Schema},
    },
    catalog::{MemTable, TableProvider, view::ViewTable},
    common::{JoinType, Result},
    datasource::provider_as_source,
    functions::expr_fn::concat,
    functions_aggregate::expr_fn::max,
    logical_expr::{LogicalPlanBuilder, cast, col, ident, lit, when},
};
use floodplain_history::{TableSummary, filter::TimeRange, table_rules};
use floodplain_log::Log;
use std::sync::Arc;

/// Their names.
pub(super) const NAMES: [&str; 4] = ["alerts", "dlq", "streams", "tables"];

/// `tables`: a row for each table of payloads.
pub(super) fn tables(tables: &[TableSummary]) -> Result<Arc<dyn TableProvider>> {
    let count = |count: fn(&TableSummary) -> u64| -> ArrayRef {
        Arc::new(tables.iter().map(|table| i64::try_from(count(table)).ok()).collect::<Int64Array>())
    };
    let time = |time: fn(TimeRange) -> i64| -> ArrayRef {
        let times: TimestampMicrosecondArray = tables.iter().map(|table| table.times.map(time)).collect();
        Arc::new(times.with_timezone("UTC"))
    };
    let kept = tables.iter().map(|table| table.rule.retention.map(|(keep, _)| table_rules::age(keep)));
    let names: StringArray = tables.iter().map(|table| Some(table.table.as_str())).collect();
    memory(vec![
        ("table_name", Arc::new(names)),
        ("columns", count(|table| table.columns.iter().filter(|column| column.role != "system").count() as u64)),
        ("rows", count(|table| table.rows)),
        ("files", count(|table| table.files)),
        ("bytes", count(|table| table.bytes)),
        ("oldest", time(|times| times.min_us)),
        ("newest", time(|times| times.max_us)),
        ("overwritten_values", count(|table| table.overwritten_values)),
        ("retention", Arc::new(kept.collect::<StringArray>())),
    ])
}

/// `streams`: a row for each partition of each stream.
pub(super) fn streams(log: &dyn Log) -> Result<Arc<dyn TableProvider>> {
    let streams = log.streams();
    let partitions: Vec<_> = streams
        .iter()
        .flat_map(|stream| (0..stream.partitions).map(move |index| (stream, stream.partition(index))))
        .map(|(stream, partition)| (stream, partition, log.start(partition), log.watermark(partition)))
        .collect();
    let text = |text: fn(&floodplain_log::Stream) -> &str| -> ArrayRef {
        Arc::new(partitions.iter().map(|(stream, ..)| Some(text(stream))).collect::<StringArray>())
    };
    let generations: Int32Array =
        partitions.iter().map(|(stream, ..)| i32::try_from(stream.id.generation).ok()).collect();
    let indexes: Int32Array = partitions.iter().map(|(_, partition, ..)| i32::try_from(partition.index).ok()).collect();
    let offset = |which: usize| -> ArrayRef {
        let offsets = partitions.iter().map(|(_, _, start, end)| i64::try_from([start, end][which].offset).ok());
        Arc::new(offsets.collect::<Int64Array>())
    };
    memory(vec![
        ("tenant", text(|stream| stream.id.tenant.as_str())),
        ("stream", text(|stream| stream.id.stream.as_str())),
        ("generation", Arc::new(generations)),
        ("partition", Arc::new(indexes)),
        ("start_offset", offset(0)),
        ("end_offset", offset(1)),
    ])
}

fn memory(columns: Vec<(&str, ArrayRef)>) -> Result<Arc<dyn TableProvider>> {
    let fields = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays)?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
}

/// `dlq`: a row for each letter of the dead-letter stream, `docs/formats/dlq.md`.
pub(super) fn dlq(records: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let member = |name: &str, function: &str| {
        let function = json_function(function).expect("it is one of ours");
        function.call(vec![col("payload"), lit(name)])
    };
    let text = |name| member(name, "json_get_str").alias(name);
    let int = |name| member(name, "json_get_int").alias(name);
    let kind = || member("kind", "json_get_str");
    let scan = || {
        let records = LogicalPlanBuilder::scan("records", provider_as_source(Arc::clone(&records)), None)?;
        records.filter(col("stream").eq(lit("dlq")))
    };
    // Which letters of decoders were decoded after all, and when for the last time.
    let replayed = scan()?
        .filter(kind().eq(lit("replayed")))?
        .project(vec![
            col("received"),
            lit("decode").alias("replayed_kind"),
            member("stream", "json_get_str").alias("replayed_stream"),
            member("partition", "json_get_int").alias("replayed_partition"),
            member("from", "json_get_str").alias("replayed_from"),
        ])?
        .aggregate(
            ["kind", "stream", "partition", "from"].map(|name| col(format!("replayed_{name}"))),
            vec![max(col("received")).alias("replayed")],
        )?
        .build()?;
    let id = concat(vec![
        lit("dlq/"),
        cast(col("records.partition"), DataType::Utf8),
        lit("/"),
        cast(col("generation"), DataType::Utf8),
        lit("/"),
        cast(col("offset"), DataType::Utf8),
    ]);
    let names = [
        "received",
        "session",
        "reason",
        "stream",
        "partition",
        "from",
        "to",
        "count",
        "position",
        "id",
        "kind",
        "stage",
        "binding",
        "topic",
        "device",
        "byte_position",
        "line",
        "decoder",
        "replayed",
    ];
    // A message that was decoded, and refused by a later decoder, has not been decoded since.
    let replayed_since = when(col("replayed").gt_eq(col("received")), col("replayed")).end()?.alias("replayed");
    let mark = ["replayed_kind", "replayed_stream", "replayed_partition", "replayed_from"];
    let plan = scan()?
        .filter(kind().is_null().or(kind().eq(lit("decode"))))?
        .project(vec![
            col("received"),
            text("session"),
            text("reason"),
            text("stream"),
            int("partition"),
            text("from"),
            text("to"),
            int("count"),
            ident("position"),
            id.alias("id"),
            kind().alias("kind"),
            text("stage"),
            text("binding"),
            text("topic"),
            text("device"),
            int("byte_position"),
            int("line"),
            text("decoder"),
        ])?
        // Both sides come from one table, so names need no qualifier.
        .alias("letters")?
        .join(
            replayed,
            JoinType::Left,
            (
                ["kind", "stream", "partition", "from"].map(|name| format!("letters.{name}")).to_vec(),
                mark.map(str::to_owned).to_vec(),
            ),
            None,
        )?
        .project(names.map(|name| match name {
            "replayed" => replayed_since.clone(),
            name => ident(name),
        }))?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}
