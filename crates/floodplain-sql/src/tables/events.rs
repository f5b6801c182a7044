//! `events`: what happened to clients, read from the log when it is asked for.

use crate::fleet::Fleet;
use datafusion::{
    arrow::{
        array::{Array as _, ArrayRef, AsArray as _, ListBuilder, StringBuilder, StructBuilder},
        datatypes::{DataType, Field, Fields},
    },
    catalog::{TableProvider, view::ViewTable},
    common::{Column, Result, UnnestOptions, plan_err},
    datasource::provider_as_source,
    functions::core::expr_fn::get_field,
    logical_expr::{
        ColumnarValue, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col,
        lit,
    },
};
use serde::Deserialize;
use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

/// The table, over those records of `requests` and `dlq` that tell of something.
pub(super) fn events(records: Arc<dyn TableProvider>, fleet: Arc<dyn Fleet>) -> Result<Arc<dyn TableProvider>> {
    let happenings = ScalarUDF::new_from_impl(Happenings::new(fleet));
    let options = UnnestOptions::default().with_preserve_nulls(false);
    let happened = |field: &'static str| get_field(col("happened"), field).alias(field);
    let plan = LogicalPlanBuilder::scan("records", provider_as_source(records), None)?
        .filter(col("stream").in_list(vec![lit("requests"), lit("dlq")], false))?
        .project(vec![
            col("received").alias("time"),
            col("device"),
            col("stream"),
            col("partition"),
            col("position"),
            happenings.call(vec![col("stream"), col("payload")]).alias("happened"),
        ])?
        .unnest_column_with_options(Column::from_name("happened"), options)?
        .project(vec![
            col("time"),
            col("device"),
            // Everybody is who they say they are: the device is the client id.
            col("device").alias("client_id"),
            happened("kind"),
            happened("detail"),
            col("stream"),
            col("partition"),
            col("position"),
        ])?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// What a dead letter says, as far as it is told here: `docs/formats/dlq.md`.
#[derive(Deserialize)]
struct Letter {
    reason: Option<String>,
    count: Option<u64>,
    topic: Option<String>,
}

/// A list of kind and detail for each record.
#[derive(Debug)]
struct Happenings {
    fleet: Arc<dyn Fleet>,
    signature: Signature,
}

impl Happenings {
    fn new(fleet: Arc<dyn Fleet>) -> Self {
        Self { fleet, signature: Signature::exact(vec![DataType::Utf8, DataType::Binary], Volatility::Immutable) }
    }

    fn fields() -> Fields {
        ["kind", "detail"].map(|name| Field::new(name, DataType::Utf8, true)).into_iter().collect()
    }
}

impl PartialEq for Happenings {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fleet, &other.fleet)
    }
}

impl Eq for Happenings {}

impl Hash for Happenings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl ScalarUDFImpl for Happenings {
    fn name(&self) -> &'static str {
        "happenings"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Struct(Self::fields()), true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [streams, payloads] = &arrays[..] else { return plan_err!("happenings takes a stream and a payload") };
        let (streams, payloads) = (streams.as_string::<i32>(), payloads.as_binary::<i32>());
        let mut lists = ListBuilder::new(StructBuilder::from_fields(Self::fields(), 0));
        let push = |lists: &mut ListBuilder<StructBuilder>, kind: &str, detail: &str| {
            let row = lists.values();
            for (idx, text) in [kind, detail].into_iter().enumerate() {
                if let Some(builder) = row.field_builder::<StringBuilder>(idx) {
                    builder.append_value(text);
                }
            }
            row.append(true);
        };
        for row in 0..payloads.len() {
            let payload = if payloads.is_valid(row) { payloads.value(row) } else { &[] };
            if streams.value(row) == "dlq" {
                push(&mut lists, "dead_letter", &letter_text(payload));
            } else {
                for happening in self.fleet.happenings(payload) {
                    push(&mut lists, happening.kind, &happening.detail);
                }
            }
            lists.append(true);
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish()) as ArrayRef))
    }
}

/// What a record of the dead-letter stream says, for people.
#[must_use]
pub fn letter_text(payload: &[u8]) -> String {
    let Ok(Letter { reason, count, topic }) = serde_json::from_slice(payload) else {
        return "the letter cannot be read".to_owned();
    };
    let mut detail = reason.unwrap_or_else(|| "no reason is given".to_owned());
    if let Some(topic) = topic {
        detail.push_str(&format!(", topic {topic}"));
    }
    match count {
        None => {}
        Some(1) => detail.push_str(", 1 message"),
        Some(count) => detail.push_str(&format!(", {count} messages")),
    }
    detail
}
