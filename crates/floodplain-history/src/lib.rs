//! Time series as sorted Parquet files: what was decoded is buffered, written, found again and merged.
//!
//! The log is the durability; everything here can be derived from it again.
//!
//! - [`columns`]: what a table looks like in Arrow. [`catalog`]: which schema it has.
//! - [`merge`]: rows in order, and one row of those that share a key.
//! - [`buffer`]: rows of a [`window`] until they are in a file; [`run`]: its sorted parts.
//! - [`mod@file`]: one Parquet file. [`manifest`]: which files there are.
//! - [`snapshot`]: a table at one moment; reading it, and making one file of many.
//! - [`bindings`] and [`route`]: which table a record is for. [`dedup`]: which repeat an earlier one. [`table_rules`]: how old rows become. [`documents`]: what `state` keeps of a tenant.
//!   [`letters`]: what was refused. [`jobs`]: what is decoded again. [`observe`]: who else wants the rows.
//!   [`engine`]: from the log to files. [`History`]: its thread and its readers.

pub mod catalog;
pub mod columns;
mod error;
pub mod filter;
pub mod schema;
pub mod window;

pub mod merge;
pub mod run;

pub mod buffer;
pub mod file;
pub mod manifest;
pub mod snapshot;

pub mod bindings;
pub mod dedup;
pub mod documents;
pub mod jobs;
pub mod letters;
pub mod route;

pub mod engine;
mod history;
pub mod latest;
pub mod observe;
mod raw;
mod summary;
pub mod table_rules;
mod tables;

pub use error::{Error, Lag, Result};
pub use history::{Handle, History};
pub use raw::Raw;
pub use summary::{ColumnSummary, TableSummary};
