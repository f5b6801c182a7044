//! What can go wrong, by what the caller can do about it.

use floodplain_log::{ReadError, Refusal};
use floodplain_types::{PartitionId, Position};
use std::{io, path::PathBuf, time::Duration};

/// A cause from a library whose types stay inside.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why history could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused. Nothing that was there before is lost.
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The file is not what was written: set it aside, never delete it.
    #[error("history file {path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    /// Written by a newer version of this program: use that one.
    #[error("history file {path} was written by a newer version of this program: {reason}")]
    Newer { path: PathBuf, reason: String },
    /// Rows do not fit the columns of the table: a mistake of the caller, or a file of another table.
    #[error("rows do not fit table {table}: {reason}")]
    Schema { table: String, reason: String },
    /// Rows that were to be written are not in the order of their keys: a mistake of the caller.
    #[error("rows of {path} are not sorted (row {row})")]
    Unsorted { path: PathBuf, row: u64 },
    /// A kernel refused, mostly because a column would pass 2 GiB.
    #[error("cannot {action} rows of table {table}")]
    Compute { action: &'static str, table: String, source: Cause },
    /// The log takes no record of the engine; it tries again.
    #[error("cannot append a record of history")]
    Refused(#[from] Refusal),
    /// Whether a record of the engine is in the log is not known; it is appended again, and applies once.
    #[error("whether a record of history was appended is not known")]
    Unknown,
    /// The log cannot be read; the engine tries again.
    #[error("cannot read the log for history")]
    Log(#[from] ReadError),
    /// A fold of the engine cannot start or go on.
    #[error("fold of history fails")]
    Fold(#[source] Cause),
    /// Who observes rows cannot keep what they have caused; the engine tries again.
    #[error("what rows have caused cannot be kept")]
    Observer(#[source] Cause),
    /// Bindings of the configuration file cannot be taken up.
    #[error("bindings of the configuration file do not fit")]
    Bindings(#[source] crate::bindings::BindingError),
    /// Files, schemas and manifest do not fit each other, or another process writes the same manifest.
    #[error("manifest of history does not fit: {0}")]
    Manifest(String),
}

/// Decoding has not come as far as a reader needs in the time it had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("decoding of {partition} is at {decoded}, short of {wanted}, after {waited:?}")]
pub struct Lag {
    pub partition: PartitionId,
    pub decoded: Position,
    pub wanted: Position,
    pub waited: Duration,
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
