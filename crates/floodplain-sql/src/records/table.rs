//! What DataFusion's planner asks the table.

use super::{columns, plan::RecordsExec, plan::Unit, scope::Scope};
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::Result,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};
use floodplain_log::Log;
use floodplain_types::TenantId;
use std::sync::Arc;

/// The streams of one tenant as one table.
#[derive(Debug)]
pub(crate) struct RecordsTable {
    log: Arc<dyn Log>,
    tenant: TenantId,
    schema: SchemaRef,
}

impl RecordsTable {
    pub(crate) fn new(log: Arc<dyn Log>, tenant: TenantId) -> Self {
        Self { log, tenant, schema: columns::schema() }
    }

    /// The partitions that `scope` leaves, in a steady order.
    fn units(&self, scope: &Scope) -> Vec<Unit> {
        let mut streams = self.log.streams();
        streams.retain(|stream| {
            let id = &stream.id;
            id.tenant == self.tenant && scope.has_stream(id.stream.as_str()) && scope.has_generation(id.generation)
        });
        streams.sort_by(|a, b| a.id.cmp(&b.id));
        let partitions = streams.into_iter().flat_map(|stream| {
            let indexes = scope.partitions_of(stream.partitions);
            indexes.into_iter().map(move |index| Unit {
                id: Arc::clone(&stream.id),
                index,
                partition: stream.partition(index),
            })
        });
        partitions.collect()
    }
}

#[async_trait::async_trait]
impl TableProvider for RecordsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| {
                // What the scope understands it also applies to every row, so a LIMIT can go below it.
                if Scope::default().narrow(filter) {
                    TableProviderFilterPushDown::Exact
                } else {
                    TableProviderFilterPushDown::Unsupported
                }
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut scope = Scope::default();
        for filter in filters {
            scope.narrow(filter);
        }
        let units = self.units(&scope);
        let groups = state.config().target_partitions();
        let plan = RecordsExec::new(Arc::clone(&self.log), &self.schema, projection, scope, units, groups, limit)?;
        Ok(Arc::new(plan))
    }
}
