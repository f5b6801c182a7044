//! The scan as DataFusion's executor sees it.

use datafusion::{
    arrow::datatypes::SchemaRef,
    common::{DataFusionError, Result, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet},
        stream::RecordBatchReceiverStreamBuilder,
    },
};
use floodplain_history::{columns::Columns, filter::Filter, snapshot::ScanPart};
use std::{fmt, sync::Arc};

/// Reads the parts of a table in groups, one group per partition of the plan.
#[derive(Debug)]
pub(super) struct HistoryExec {
    table: String,
    filter: Filter,
    projection: Vec<usize>,
    limit: Option<usize>,
    groups: Vec<Vec<ScanPart>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl HistoryExec {
    pub(super) fn new(
        columns: &Columns,
        projection: Option<&Vec<usize>>,
        filter: Filter,
        parts: Vec<ScanPart>,
        groups_max: usize,
        limit: Option<usize>,
    ) -> Result<Self> {
        let projection = projection.cloned().unwrap_or_else(|| (0..columns.schema().fields().len()).collect());
        let schema = Arc::new(columns.schema().project(&projection)?);
        let count = groups_max.clamp(1, parts.len().max(1));
        let mut groups = vec![Vec::new(); count];
        for (idx, part) in parts.into_iter().enumerate() {
            groups[idx % count].push(part);
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(count),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let (table, properties) = (columns.table().to_owned(), Arc::new(properties));
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { table, filter, projection, limit, groups, schema, properties, metrics })
    }
}

impl DisplayAs for HistoryExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let parts: usize = self.groups.iter().map(Vec::len).sum();
        let merged = self.groups.iter().flatten().filter(|part| part.merges()).count();
        let Self { table, filter, .. } = self;
        write!(f, "HistoryExec: table={table}, parts={parts}, merged={merged}, columns=[{}]", columns.join(", "))?;
        if *filter != Filter::ALL {
            write!(f, ", pushed={filter:?}")?;
        }
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl ExecutionPlan for HistoryExec {
    fn name(&self) -> &'static str {
        "HistoryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { Err(DataFusionError::Internal("a scan has no children".into())) }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let parts = self.groups[partition].clone();
        let projection = self.projection.clone();
        let mut left = self.limit.unwrap_or(usize::MAX);
        let output_rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        // One batch waits while the next is made.
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 1);
        let out = builder.tx();
        builder.spawn_blocking(move || {
            let failed = |error: floodplain_history::Error| DataFusionError::External(error.into());
            for part in parts {
                for rows in part.rows(&projection).map_err(failed)? {
                    if left == 0 {
                        return Ok(());
                    }
                    let rows = rows.map_err(failed)?;
                    let rows = rows.slice(0, rows.num_rows().min(left));
                    left -= rows.num_rows();
                    output_rows.add(rows.num_rows());
                    if rows.num_rows() > 0 && out.blocking_send(Ok(rows)).is_err() {
                        // Whoever asked has gone away, or has all the rows that were asked for.
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        Ok(builder.build())
    }
}
