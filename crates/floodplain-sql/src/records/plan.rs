//! The scan as DataFusion's executor sees it.

use super::{
    columns::{self, Columns},
    read::{Counters, Reader, Snapshot},
    scope::Scope,
};
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
use floodplain_log::{Log, Partition};
use floodplain_types::StreamId;
use std::{fmt, sync::Arc};

/// One partition of the log.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) id: Arc<StreamId>,
    pub(super) index: u32,
    pub(super) partition: Partition,
}

/// Reads the partitions of the log in groups, one group per partition of the plan.
#[derive(Debug)]
pub(super) struct RecordsExec {
    log: Arc<dyn Log>,
    scope: Arc<Scope>,
    projection: Vec<usize>,
    limit: Option<usize>,
    groups: Vec<Vec<Unit>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RecordsExec {
    pub(super) fn new(
        log: Arc<dyn Log>,
        table: &SchemaRef,
        projection: Option<&Vec<usize>>,
        scope: Scope,
        units: Vec<Unit>,
        groups_max: usize,
        limit: Option<usize>,
    ) -> Result<Self> {
        let projection = projection.cloned().unwrap_or_else(|| (0..table.fields().len()).collect());
        let schema = Arc::new(table.project(&projection)?);
        let count = groups_max.clamp(1, units.len().max(1));
        let mut groups = vec![Vec::new(); count];
        for (idx, unit) in units.into_iter().enumerate() {
            groups[idx % count].push(unit);
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(count),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            log,
            scope: Arc::new(scope),
            projection,
            limit,
            groups,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

impl DisplayAs for RecordsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions: usize = self.groups.iter().map(Vec::len).sum();
        let columns: Vec<_> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "RecordsExec: partitions={partitions}, columns=[{}], pushed=[{}]", columns.join(", "), self.scope)?;
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl ExecutionPlan for RecordsExec {
    fn name(&self) -> &'static str {
        "RecordsExec"
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

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let snapshot = context.session_config().get_extension::<Snapshot>().unwrap_or_default();
        let units = self.groups[partition].clone();
        let count = |name| MetricBuilder::new(&self.metrics).counter(name, partition);
        // One batch waits while the next is made.
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), 1);
        let reader = Reader {
            log: Arc::clone(&self.log),
            snapshot,
            scope: Arc::clone(&self.scope),
            need_headers: columns::need_headers(&self.projection),
            need_columns: !self.projection.is_empty(),
            columns: Columns::new(Arc::clone(&self.schema), &self.projection),
            left: self.limit.unwrap_or(usize::MAX),
            counters: Counters {
                bytes_read: count("bytes_read"),
                records_decoded: count("records_decoded"),
                output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
            },
            out: builder.tx(),
        };
        builder.spawn_blocking(move || reader.run(&units));
        Ok(builder.build())
    }
}
