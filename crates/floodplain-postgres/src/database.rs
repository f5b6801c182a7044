//! What answers the statements.

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, SchemaRef},
};
use floodplain_types::Parameter;
use futures::stream::BoxStream;
use std::fmt;

/// What is known of a statement before it runs.
#[derive(Debug, Clone)]
pub struct Described {
    /// Types of the parameters, as far as the statement tells.
    pub parameters: Vec<Option<DataType>>,
    pub schema: SchemaRef,
}

/// A running query; dropping it ends the query.
pub struct Rows {
    pub schema: SchemaRef,
    pub batches: BoxStream<'static, Result<RecordBatch, QueryError>>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Why there is no (complete) answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    /// SQLSTATE (PostgreSQL, appendix A).
    pub sqlstate: &'static str,
    pub message: String,
    /// Where in the text, in characters from 1.
    pub position: Option<usize>,
}

/// Plans and runs one read-only statement.
#[async_trait::async_trait]
pub trait Database: fmt::Debug + Send + Sync + 'static {
    /// What clients are told, some of which decide by it what they may ask: `16.6` or `16.6 (name)`.
    fn server_version(&self) -> String;

    /// Plans a statement. `declared` has the types that the client says its parameters have.
    ///
    /// # Errors
    /// [`QueryError`].
    async fn describe(&self, user: &str, text: &str, declared: &[Option<DataType>]) -> Result<Described, QueryError>;

    /// Runs a statement.
    ///
    /// # Errors
    /// [`QueryError`], before any row.
    ///
    /// # Cancel safety
    /// A dropped call ends the query.
    async fn query(&self, user: &str, text: &str, parameters: Vec<Parameter>) -> Result<Rows, QueryError>;
}
