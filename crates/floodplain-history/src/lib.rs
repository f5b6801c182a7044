//! Time series as sorted Parquet files: what was decoded is buffered, written, found again and merged.
//!
//! The log is the durability; everything here can be derived from it again. [`columns::Columns`] says
//! what a table looks like in Arrow, [`merge`] puts rows in order and makes one of those that share a
//! key, [`file`] writes and reads one file.

pub mod columns;
mod error;
pub mod file;
pub mod filter;
pub mod merge;

pub use error::{Error, Result};
