//! What can go wrong, by what the caller can do about it.

use std::{io, path::PathBuf};

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
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
