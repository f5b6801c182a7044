//! Functions that DataFusion does not have.

mod bounded;
mod json;
mod seek;
mod text;

use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::{common::Result, logical_expr::ScalarUDF};
use std::sync::Arc;

/// Adds all functions and the operators `->` and `->>`, and bounds those that make much out of little.
pub(crate) fn register(state: &mut SessionState, memory_max_bytes: usize) -> Result<()> {
    bounded::register(state, memory_max_bytes)?;
    for function in json::all() {
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
    }
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(text::Utf8::new())))?;
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(text::OctetLength::new())))?;
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(text::TopicMatches::new())))?;
    state.register_expr_planner(Arc::new(json::Operators::new()))
}
