//! What DataFusion's planner asks a table of history.

use super::{filter, plan::HistoryExec};
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::{DataFusionError, Result},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};
use floodplain_history::{filter::Filter, snapshot::TableSnapshot};
use std::sync::Arc;

/// A table as it was when the query named it.
#[derive(Debug)]
pub(super) struct HistoryTable {
    snapshot: TableSnapshot,
}

impl HistoryTable {
    pub(super) const fn new(snapshot: TableSnapshot) -> Self {
        Self { snapshot }
    }
}

#[async_trait::async_trait]
impl TableProvider for HistoryTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.snapshot.columns().schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // What the filter understands it also applies to every row, so a LIMIT can go below it.
        let understood = filters.iter().map(|filter| {
            if filter::narrow(&mut Filter::ALL.clone(), filter) {
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
        let parts = self.snapshot.parts(&filter).map_err(|error| DataFusionError::External(error.into()))?;
        let groups = state.config().target_partitions();
        let plan = HistoryExec::new(self.snapshot.columns(), projection, filter, parts, groups, limit)?;
        Ok(Arc::new(plan))
    }
}
