//! Statements with parameters.

use datafusion::{
    arrow::datatypes::{DataType, Field, SchemaRef},
    common::{
        Result, ScalarValue,
        tree_node::{Transformed, TreeNode as _},
    },
    logical_expr::{Expr, LogicalPlan, expr_rewriter::NamePreserver},
};
use floodplain_types::Parameter;
use std::sync::Arc;

/// What is known of a statement before it runs.
#[derive(Debug, Clone)]
pub struct Description {
    /// Types of the parameters, as far as the statement tells.
    pub parameters: Vec<Option<DataType>>,
    pub schema: SchemaRef,
}

/// Gives parameters whose type the plan does not tell the one that was declared.
pub(crate) fn declare(plan: LogicalPlan, declared: &[Option<DataType>]) -> Result<LogicalPlan> {
    let type_of = |id: &str| {
        let idx = id.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)?;
        declared.get(idx).cloned().flatten()
    };
    let typed = |expr: Expr| {
        expr.transform_up(|expr| match expr {
            Expr::Placeholder(mut placeholder) if placeholder.field.is_none() => {
                placeholder.field = type_of(&placeholder.id).map(|found| Arc::new(Field::new("", found, true)));
                Ok(Transformed::yes(Expr::Placeholder(placeholder)))
            }
            other => Ok(Transformed::no(other)),
        })
    };
    let typed_plan = plan.transform_up_with_subqueries(|plan| {
        let names = NamePreserver::new(&plan);
        let expressions = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(typed(expr)?.update_data(|expr| name.restore(expr)))
        })?;
        if expressions.transformed { expressions.map_data(LogicalPlan::recompute_schema) } else { Ok(expressions) }
    });
    Ok(typed_plan?.data)
}

/// As DataFusion has it.
pub(crate) fn scalar(parameter: &Parameter) -> ScalarValue {
    match parameter {
        Parameter::Null => ScalarValue::Null,
        Parameter::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Parameter::Int(value) => ScalarValue::Int64(Some(*value)),
        Parameter::Float(value) => ScalarValue::Float64(Some(*value)),
        Parameter::Text(value) => ScalarValue::Utf8(Some(value.clone())),
        Parameter::Bytes(value) => ScalarValue::Binary(Some(value.clone())),
        Parameter::Timestamp(us) => ScalarValue::TimestampMicrosecond(Some(*us), Some("UTC".into())),
        Parameter::Date(days) => ScalarValue::Date32(Some(*days)),
    }
}
