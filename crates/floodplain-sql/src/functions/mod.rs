//! Functions that DataFusion does not have.

mod bounded;
mod json;
mod seek;
mod text;
mod time;

use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::{
    common::Result,
    logical_expr::{AggregateUDF, ScalarUDF, WindowUDF},
};
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
    state.register_udf(Arc::new(ScalarUDF::new_from_impl(time::TimeBucket::new())))?;
    state.register_udaf(Arc::new(AggregateUDF::new_from_impl(time::End::first())))?;
    state.register_udaf(Arc::new(AggregateUDF::new_from_impl(time::End::last())))?;
    state.register_udwf(Arc::new(WindowUDF::new_from_impl(time::Locf::new())))?;
    state.register_expr_planner(Arc::new(json::Operators::new()))
}

/// `json_get_str` and its kind, for plans that are not made of text.
pub(crate) fn json_function(name: &str) -> Option<Arc<ScalarUDF>> {
    json::all().map(ScalarUDF::new_from_impl).find(|function| function.name() == name).map(Arc::new)
}
