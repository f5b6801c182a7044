//! Joins that give way: what is cancelled, or has run out of time, stops within moments.
//!
//! A task can be stopped only where it waits. DataFusion makes sources wait now and then, which is enough where the work
//! grows with what they bring. Joins multiply it: one batch of a source may be minutes of work.

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TransformedResult as _, TreeNode as _, TreeNodeRecursion},
    },
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
        coop::CooperativeExec,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec},
    },
};
use futures::{Stream, StreamExt as _, ready};
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;

/// A nested loop compares so many rows with all of its other side before it looks up.
const SLICE_ROWS: usize = 64;
/// How long it computes before it gives way.
const TURN: Duration = Duration::from_millis(10);

/// Has joins take turns with what else runs on their thread.
#[derive(Debug)]
pub(crate) struct TakeTurns;

impl PhysicalOptimizerRule for TakeTurns {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let plan = if plan.is::<NestedLoopJoinExec>() {
                let children: Vec<_> = plan.children().into_iter().map(Arc::clone).collect();
                let [left, right] = <[_; 2]>::try_from(children).expect("a join has two inputs");
                let children = vec![left, Arc::new(SliceExec { input: right }) as _];
                plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?
            } else if plan.is::<CrossJoinExec>() || plan.is::<HashJoinExec>() || plan.is::<SortMergeJoinExec>() {
                plan
            } else {
                return Ok(Transformed::no(plan));
            };
            Ok(Transformed::yes(Arc::new(CooperativeExec::new(plan)) as _))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "TakeTurns"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The rows of its input, few at a time.
#[derive(Debug)]
struct SliceExec {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for SliceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SliceExec: rows={SLICE_ROWS}")
    }
}

impl ExecutionPlan for SliceExec {
    fn name(&self) -> &'static str {
        "SliceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = <[_; 1]>::try_from(children).expect("it has one input");
        Ok(Arc::new(Self { input }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let rest = RecordBatch::new_empty(input.schema());
        Ok(Box::pin(Slices { input, rest, since: Instant::now() }))
    }
}

struct Slices {
    input: SendableRecordBatchStream,
    rest: RecordBatch,
    /// When it last gave way.
    since: Instant,
}

impl Stream for Slices {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.since.elapsed() >= TURN {
            self.since = Instant::now();
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while self.rest.num_rows() == 0 {
            match ready!(self.input.poll_next_unpin(context)).transpose()? {
                Some(batch) => self.rest = batch,
                None => return Poll::Ready(None),
            }
        }
        let rows = self.rest.num_rows().min(SLICE_ROWS);
        let slice = self.rest.slice(0, rows);
        self.rest = self.rest.slice(rows, self.rest.num_rows() - rows);
        Poll::Ready(Some(Ok(slice)))
    }
}

impl RecordBatchStream for Slices {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
