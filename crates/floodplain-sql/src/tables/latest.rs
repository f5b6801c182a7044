//! `latest('table')`: of each device, and each set of key columns, the newest value of each column.

use super::schema::PublicSchema;
use datafusion::{
    catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider, view::ViewTable},
    common::{Column, DataFusionError, Result, ScalarValue, plan_err},
    datasource::provider_as_source,
    functions_aggregate::first_last::last_value_udaf,
    logical_expr::{
        Expr, LogicalPlanBuilder,
        expr::{AggregateFunction, NullTreatment, Sort},
    },
};
use std::sync::Arc;

/// The function, as one query sees the tables.
///
/// A value that is NULL hides no older one, so the values of a row may be of several times; `time` is that of the
/// newest row. All rows of the table are read.
#[derive(Debug)]
pub(crate) struct Latest {
    schema: Arc<PublicSchema>,
}

impl Latest {
    pub(crate) const fn new(schema: Arc<PublicSchema>) -> Self {
        Self { schema }
    }
}

impl TableFunctionImpl for Latest {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)), _)] = args.exprs() else {
            return plan_err!("latest takes the name of a table as text: latest('engine')");
        };
        // The planner calls this without awaiting it; the pool's threads may block.
        let table =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.schema.history(name)))?;
        let Some((table, keys)) = table else { return plan_err!("there is no table {name:?} of payloads") };
        let is_kept = |name: &str| !name.starts_with('_') || name == "_rest";
        let names: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
        let column = |name: &str| Expr::Column(Column::from_name(name));
        let by: Vec<Sort> = ["time", "_time_ns", "_seq"].map(|name| Sort::new(column(name), true, true)).into();
        let newest = |name: &String| {
            let (last, ignore) = (last_value_udaf(), Some(NullTreatment::IgnoreNulls));
            let value = AggregateFunction::new_udf(last, vec![column(name)], false, None, by.clone(), ignore);
            Expr::AggregateFunction(value).alias(name)
        };
        let is_group = |name: &String| name == "device" || keys.contains(name);
        let group: Vec<Expr> = names.iter().filter(|name| is_group(name)).map(|name| column(name)).collect();
        let values = names.iter().filter(|name| is_kept(name) && !is_group(name)).map(newest);
        let plan = LogicalPlanBuilder::scan("t", provider_as_source(table), None)?
            .aggregate(group, values)?
            .project(names.iter().filter(|name| is_kept(name)).map(|name| column(name)))?
            .build()?;
        Ok::<_, DataFusionError>(Arc::new(ViewTable::new(plan, None)))
    }
}
