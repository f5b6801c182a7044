//! The table `records`: the log as rows, one per record.
//!
//! Reading it is a scan of the partitions that the predicates leave, each from the first position that can matter to
//! the watermark that stood when the query started.

mod columns;
mod plan;
mod read;
mod scope;
mod table;

pub(crate) use read::Snapshot;
pub(crate) use table::RecordsTable;
