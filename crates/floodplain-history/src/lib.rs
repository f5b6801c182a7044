//! Time series as sorted Parquet files: what was decoded is buffered, written, found again and merged.
//!
//! The log is the durability; everything here can be derived from it again. [`columns::Columns`] says
//! what a table looks like in Arrow, [`merge`] puts rows in order and makes one of those that share a
//! key, [`file`] writes and reads one file, [`manifest`] says
//! which files there are.

pub mod buffer;
pub mod columns;
mod error;
pub mod file;
pub mod filter;
pub mod manifest;
pub mod merge;
pub mod run;
pub mod snapshot;
pub mod window;

pub use error::{Error, Result};
