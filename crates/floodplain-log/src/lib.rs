//! The one durable log that everything else is derived from.
//!
//! [`Log`] is the contract; [`Disk`] is the only door to files.

mod contract;
mod disk;

pub use contract::{
    Append, Completion, CompletionSink, FetchedRecord, Locator, Log, Outcome, Partition, Read, ReadBatch, ReadError,
    RecordRef, Refusal, Reply, Stream, WatermarkSink, append,
};
pub use disk::{Disk, DiskFile, Entry, Space};

/// placeholder until record_batch.rs lands
#[derive(Debug, Clone)]
pub struct Batch;
#[derive(Debug, Clone)]
pub struct Record<'a> {
    pub offset_delta: u32,
    pub bytes: &'a [u8],
}
