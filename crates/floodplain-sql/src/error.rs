//! What can be wrong with a query, cut by what its author can do about it.

use datafusion::common::{DataFusionError, Diagnostic, SchemaError};
use std::time::Duration;

/// A place in the text of a query; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub line: u64,
    pub column: u64,
}

/// Why a query gave no (complete) result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not SQL.
    #[error("{message}")]
    Syntax { message: String, at: Option<Location> },
    /// The text is SQL, but names or types do not fit.
    #[error("{message}")]
    Invalid { message: String, at: Option<Location> },
    /// A table that the text names is not there.
    #[error("{message}")]
    UnknownTable { message: String, at: Option<Location> },
    /// A column that the text names is in none of its tables.
    #[error("{message}")]
    UnknownColumn { message: String, at: Option<Location> },
    /// A function that the text calls is not there.
    #[error("{message}")]
    UnknownFunction { message: String, at: Option<Location> },
    /// Queries only read.
    #[error("{statement} is refused: only SELECT, EXPLAIN, SHOW and DESCRIBE run here, data comes in by publishing it")]
    ReadOnly { statement: String },
    /// The text is longer than the limit.
    #[error("query has {bytes} bytes, the limit is {max_bytes}")]
    TooLong { bytes: usize, max_bytes: usize },
    /// The query is nested deeper than the planner can follow.
    #[error("query has {words} words and signs, the limit is {words_max}; long lists of constants do not count")]
    TooComplex { words: usize, words_max: usize },
    /// A value cannot be computed, for example a division by zero or text that is no number.
    #[error("{message}")]
    Execution { message: String },
    /// The query took too long.
    #[error("query took longer than {limit:?}: narrow it by stream, device or received, or raise the time limit")]
    Time { limit: Duration },
    /// All queries together would need more memory than they may have.
    #[error("queries may take {limit_bytes} bytes of memory together, this one needs more: {message}")]
    Memory { limit_bytes: usize, message: String },
    /// The result is larger than the limit; the rows so far were delivered.
    #[error("result has more than {limit} rows: add a LIMIT or narrow the query")]
    Rows { limit: u64 },
    /// Too many queries wait already.
    #[error("{running} queries are running and {waiting} are waiting: try again later")]
    Busy { running: usize, waiting: usize },
    /// Rows of what was acknowledged before the query are not there yet.
    #[error("tables are behind the log: {message}: try again, or ask the table records, which is never behind")]
    Lag { message: String },
    /// The disk failed under the query.
    #[error("{message}")]
    Log { message: String },
    /// The server is stopping.
    #[error("queries are stopping")]
    Stopping,
    /// A fault of ours.
    #[error("internal error: {message}")]
    Internal { message: String },
}

impl Error {
    /// Where in the text of the query the mistake is, if that is known.
    #[must_use]
    pub fn location(&self) -> Option<Location> {
        match self {
            Self::Syntax { at, .. }
            | Self::Invalid { at, .. }
            | Self::UnknownTable { at, .. }
            | Self::UnknownColumn { at, .. }
            | Self::UnknownFunction { at, .. } => *at,
            _ => None,
        }
    }

    /// Cuts DataFusion's error by what can be done about it.
    pub(crate) fn from_datafusion(error: &DataFusionError, memory_max_bytes: usize) -> Self {
        let at = span(error);
        let root = error.find_root();
        let message = plain(root);
        match root {
            DataFusionError::SQL(..) => {
                let at = at.or_else(|| location_in(&message));
                Self::Syntax { message, at }
            }
            DataFusionError::SchemaError(cause, _) if matches!(**cause, SchemaError::FieldNotFound { .. }) => {
                Self::UnknownColumn { message, at }
            }
            // The planner has no type for it.
            DataFusionError::Plan(text) if text.starts_with("Invalid function '") => {
                Self::UnknownFunction { message, at }
            }
            DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::Configuration(_) => {
                Self::Invalid { message, at }
            }
            DataFusionError::NotImplemented(_) => Self::Invalid { message: format!("not supported: {message}"), at },
            DataFusionError::ResourcesExhausted(_) => Self::Memory { limit_bytes: memory_max_bytes, message },
            DataFusionError::Execution(_) | DataFusionError::ArrowError(..) => Self::Execution { message },
            DataFusionError::External(cause) if cause.is::<floodplain_history::Lag>() => Self::Lag { message },
            DataFusionError::External(_) | DataFusionError::IoError(_) => Self::Log { message },
            _ => Self::Internal { message },
        }
    }
}

/// The message without DataFusion's own prefixes ("Error during planning: ") and backtraces.
fn plain(error: &DataFusionError) -> String {
    let message = match error {
        DataFusionError::SQL(error, _) => {
            let text = error.to_string();
            text.strip_prefix("sql parser error: ").unwrap_or(&text).to_owned()
        }
        DataFusionError::ArrowError(error, _) => error.to_string(),
        // From the log: file and byte, and what the system says.
        DataFusionError::External(error) => {
            let causes = std::iter::successors(error.source(), |cause| cause.source());
            causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
        }
        other => other.message().into_owned(),
    };
    message.trim().to_owned()
}

/// Unknown columns and the like carry a span of the text.
fn span(error: &DataFusionError) -> Option<Location> {
    let diagnostic: &Diagnostic = error.diagnostic()?;
    let start = diagnostic.span?.start;
    (start.line > 0).then_some(Location { line: start.line, column: start.column })
}

/// The parser writes " at Line: 1, Column: 8" at the end of its messages.
fn location_in(message: &str) -> Option<Location> {
    let (_, rest) = message.rsplit_once("Line: ")?;
    let (line, column) = rest.split_once(", Column: ")?;
    let digits = column.find(|c: char| !c.is_ascii_digit()).unwrap_or(column.len());
    Some(Location { line: line.parse().ok()?, column: column[..digits].parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_place_is_found() {
        let at = location_in("Expected: an expression, found: FROM at Line: 2, Column: 8");
        assert_eq!(at, Some(Location { line: 2, column: 8 }));
        assert_eq!(location_in("unexpected end"), None);
    }
}
