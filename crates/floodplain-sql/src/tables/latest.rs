//! `latest('table')`: of each device, and each set of key columns, the newest value of each column.

use super::{
    filter,
    schema::{Found, PublicSchema},
};
use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    catalog::{MemTable, Session, TableFunctionArgs, TableFunctionImpl, TableProvider},
    common::{Column, DataFusionError, Result, ScalarValue, plan_err},
    datasource::provider_as_source,
    functions_aggregate::first_last::last_value_udaf,
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, col,
        expr::{AggregateFunction, NullTreatment, Sort},
        ident, lit,
    },
    physical_plan::ExecutionPlan,
};
use floodplain_history::{
    Handle,
    columns::Columns,
    filter::{Devices, Filter, TimeRange},
    latest::LatestRows,
};
use std::sync::Arc;

/// The function, as one query sees the tables.
///
/// A value that is NULL hides no older one, so the values of a row may be of several times; `time` is that of the
/// newest row. History's index answers, and a scan where it cannot.
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
        let Some(Found { table, columns }) = table else { return plan_err!("there is no table {name:?} of payloads") };
        let keys: Vec<_> = columns.keys().iter().map(|&key| columns.schema().field(key).name()).collect();
        let is_kept = |name: &str| !name.starts_with('_') || name == "_rest";
        let names: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
        let column = |name: &str| Expr::Column(Column::from_name(name));
        let by: Vec<Sort> = ["time", "_time_ns", "_seq"].map(|name| Sort::new(column(name), true, true)).into();
        let newest = |name: &String| {
            let (last, ignore) = (last_value_udaf(), Some(NullTreatment::IgnoreNulls));
            let value = AggregateFunction::new_udf(last, vec![column(name)], false, None, by.clone(), ignore);
            Expr::AggregateFunction(value).alias(name)
        };
        let is_group = |name: &String| name == "device" || keys.contains(&name);
        let group: Vec<Expr> = names.iter().filter(|name| is_group(name)).map(|name| column(name)).collect();
        let values = names.iter().filter(|name| is_kept(name) && !is_group(name)).map(newest);
        let scan = LogicalPlanBuilder::scan("t", provider_as_source(table), None)?
            .aggregate(group, values)?
            .project(names.iter().filter(|name| is_kept(name)).map(|name| column(name)))?
            .build()?;
        let schema = Arc::clone(scan.schema().inner());
        let Some(handle) = self.schema.handle().cloned() else { return plan_err!("there are no tables of payloads") };
        Ok::<_, DataFusionError>(Arc::new(LatestTable { handle, columns, schema, scan }))
    }
}

/// The newest values of one table.
#[derive(Debug)]
struct LatestTable {
    handle: Handle,
    columns: Arc<Columns>,
    schema: SchemaRef,
    /// All of it from a scan.
    scan: LogicalPlan,
}

#[async_trait::async_trait]
impl TableProvider for LatestTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let understood = filters.iter().map(|expr| {
            let mut filter = Filter::ALL;
            // Of a row, `time` is that of its newest value: a filter on it is none of the rows that are read.
            if filter::narrow(&mut filter, expr) && filter.time == TimeRange::ALL {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        });
        Ok(understood.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut filter = Filter::ALL;
        for expr in filters {
            filter::narrow(&mut filter, expr);
        }
        let failed = |error: floodplain_history::Error| DataFusionError::External(error.into());
        let found = self.handle.latest(&self.columns, &filter.devices).map_err(failed)?;
        let scan_of = |devices: &Devices| -> Result<LogicalPlanBuilder> {
            let scan = LogicalPlanBuilder::from(self.scan.clone());
            match devices {
                Devices::All => Ok(scan),
                Devices::In(devices) => scan.filter(col("device").in_list(devices.iter().map(lit).collect(), false)),
            }
        };
        let Some(LatestRows { rows, unsure, .. }) = found else {
            return self.plan(state, scan_of(&filter.devices)?, projection, limit).await;
        };
        // The same columns; of what the planner says about them beside their types, the scan's.
        let same = rows.iter().map(|rows| RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec()));
        let rows = MemTable::try_new(Arc::clone(&self.schema), vec![same.collect::<Result<_, _>>()?])?;
        if unsure.is_empty() {
            return rows.scan(state, projection, &[], limit).await;
        }
        let unsure = Devices::only(unsure.into_iter().map(String::from));
        let rows = LogicalPlanBuilder::scan("t", provider_as_source(Arc::new(rows)), None)?;
        self.plan(state, rows.union(scan_of(&unsure)?.build()?)?, projection, limit).await
    }
}

impl LatestTable {
    async fn plan(
        &self,
        state: &dyn Session,
        plan: LogicalPlanBuilder,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = match projection {
            Some(columns) => plan.project(columns.iter().map(|&at| ident(self.schema.field(at).name())))?,
            None => plan,
        };
        let plan = plan.limit(0, limit)?.build()?;
        state.create_physical_plan(&plan).await
    }
}
