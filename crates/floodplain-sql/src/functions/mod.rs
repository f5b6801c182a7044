//! Functions that DataFusion does not have.

mod json;
mod seek;
mod text;

use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::{common::Result, logical_expr::ScalarUDF};
use std::sync::Arc;

/// Adds all functions and the operators `->` and `->>`.
pub(crate) fn register(state: &mut SessionState) -> Result<()> {
    for function in json::all() {
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
    }
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(text::Utf8::new())))?;
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(text::OctetLength::new())))?;
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(text::TopicMatches::new())))?;
    state.register_expr_planner(Arc::new(json::Operators::new()))
}
