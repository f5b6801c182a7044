//! The one durable log that everything else is derived from.
//!
//! [`Batch`] is the currency: whole RecordBatches v2, with [`MessageRef`] for what a record means.
//! [`Log`] is the contract, and [`Owners`] who may fold it; [`Disk`] is the only door to files.

mod message;
mod record_batch;

mod contract;
mod data_streams;
mod disk;
mod embedded;
mod os_disk;
mod owners;

mod catalog;
mod checkpoint;
mod files;
mod frame;
mod journal;
mod segment;
mod tail;

mod base64url;
mod fast_map;
mod metrics;
mod varint;

pub use contract::{
    Append, Completion, CompletionSink, FetchedRecord, InOrder, Locator, Log, Outcome, Partition, Read, ReadBatch,
    ReadError, RecordRef, Refusal, Reply, RetentionSink, Stream, WatermarkSink, append,
};
pub use data_streams::{DataStreams, DataStreamsError, TELEMETRY};
pub use disk::{Disk, DiskFile, Entry, Space, is_unreadable};
pub use embedded::{DamagedRange, Embedded, EmbeddedConfig, MAX_UNIT_BYTES, OpenError, RecoveryReport};
pub(crate) use fast_map::FastMap;
pub use message::{Correlation, MessageError, MessageRef, header};
pub use os_disk::OsDisk;
pub use owners::{AllSlots, Fence, OwnerSink, Owners, Slot, slot_of};
pub use record_batch::{
    BATCH_BYTES, Batch, BatchBuilder, BatchError, Compression, HEADER_BYTES, Headers, MAX_RECORDS_BYTES, Record,
    RecordIter, Records,
};
