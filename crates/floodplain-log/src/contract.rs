//! What everything above the log may rely on, whatever the engine.

use crate::{Batch, Compression, HEADER_BYTES, Record};
use bytes::Bytes;
use floodplain_types::{Class, PartitionId, Position, StreamId};
use std::{fmt, ops::Range, sync::Arc};

/// A partition of an open stream of one [`Log`] instance; cheap to copy and to compare.
///
/// The lasting name is [`PartitionId`], from [`Log::partition_id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// Number of the stream within this log instance.
    pub stream: u32,
    /// Index of the partition within its stream.
    pub index: u32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of stream number {}", self.index, self.stream)
    }
}

/// An open stream: its lasting name and the number of its partitions, which never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub id: Arc<StreamId>,
    /// Number of the stream within this log instance.
    pub number: u32,
    /// Number of partitions, at least 1.
    pub partitions: u32,
}

impl Stream {
    /// The partition with this index, which must be less than [`Self::partitions`].
    #[must_use]
    pub fn partition(&self, index: u32) -> Partition {
        debug_assert!(index < self.partitions);
        Partition { stream: self.number, index }
    }

    /// The partition that holds the records with this key.
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> Partition {
        self.partition(floodplain_types::partition_index(key, self.partitions))
    }
}

/// Keeps the order of one submitter's appends where some of them are refused.
///
/// Without it a unit that is refused, and a smaller one behind it that still fits, would change places:
/// the first is only tried again later. With it, everything that the submitter gives to the log before it
/// has taken in a refusal is refused, too, and it can try all of it again in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InOrder {
    /// Number of the submitter, small and its own; it submits from one thread.
    pub submitter: u32,
    /// How many of its ordered appends it has seen come back refused since the log was opened.
    pub refusals_seen: u64,
}

/// One unit of appending: it is acknowledged, and refused, as a whole.
///
/// On the embedded engine its batches share one commit group, so recovery keeps all or none of them. On Kafka they are
/// written apart: a unit that was not acknowledged, because its outcome is unknown or its process died before, may be
/// found in part, and any part of it. What must not be seen apart belongs into one batch of one record, or is written
/// in a second unit after the first was committed, or goes through the transaction of a partition's owner.
#[derive(Debug)]
pub struct Append {
    /// At least one batch; several for one partition keep their order.
    pub batches: Vec<(Partition, Batch)>,
    pub class: Class,
}

/// How an append ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The promise of the append's class holds. Position of the first record of each batch, in order.
    ///
    /// An engine that hears nothing of what it wrote in class `none` gives a position there that no record of the batch
    /// is before. Where other writers share a partition, records of theirs may be between those of a batch.
    Committed(Vec<Position>),
    /// Nothing was written, and nothing will be.
    Refused(Refusal),
    /// The records may or may not be found later: hold the acknowledgement, let the sender repeat.
    Unknown,
}

/// Why nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue of the log is full; try again when [`Log::queued_bytes`] has fallen.
    #[error("append queue is full ({capacity_bytes} bytes)")]
    Overloaded { capacity_bytes: u64 },
    /// What was appended cannot be put in its place as fast as it came; try again when
    /// [`Log::queued_bytes`] has fallen.
    #[error("log is behind: {journals} journals with {frames} batches wait to become segments")]
    Behind { journals: u64, frames: u64 },
    /// An earlier append of the same submitter was refused, which it had not yet heard; try both again, in order.
    #[error("an append before this one was refused")]
    AfterRefused,
    /// The disk has less free space than the reserve; reads go on, appends resume by themselves.
    #[error("disk is full: {free_bytes} bytes free, {reserve_bytes} are kept in reserve")]
    DiskFull { free_bytes: u64, reserve_bytes: u64 },
    /// A write or a sync failed; nothing more is accepted until restart and recovery.
    #[error("log is poisoned by an earlier failure ({cause}); restart to recover")]
    Poisoned { cause: Arc<str> },
    /// A single append unit must fit the limit.
    #[error("append of {bytes} bytes is larger than the limit of {max_bytes}")]
    TooLarge { bytes: u64, max_bytes: u64 },
    /// The partition does not exist in this log.
    #[error("this log has no {0}: open its stream first")]
    UnknownPartition(Partition),
    /// The engine cannot be reached, or cannot do it now; try again later (never on the embedded engine).
    #[error("log is not available: {cause}")]
    Unavailable { cause: Arc<str> },
    /// This process does not own the partition any more (never on the embedded engine).
    #[error("ownership of the partition was lost")]
    Fenced,
    /// The log is closing.
    #[error("log is closing")]
    Closing,
}

/// The end of one append, as given to a [`CompletionSink`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The tag given to [`Log::submit`].
    pub tag: u64,
    pub outcome: Outcome,
}

/// Receives the ends of appends; usually the mailbox of a thread.
pub trait CompletionSink: Send + Sync + fmt::Debug {
    /// Takes all that ended for this sink in one commit group, in the order of submission.
    ///
    /// Called on the thread of the engine, or by [`Log::submit`] itself where it refuses at once:
    /// it must neither block nor call the log.
    fn complete(&self, completions: Vec<Completion>);
}

/// Where to send the end of an append.
#[derive(Debug, Clone)]
pub struct Reply {
    pub sink: Arc<dyn CompletionSink>,
    pub tag: u64,
}

/// Receives commit watermarks; usually the mailbox of a thread.
pub trait WatermarkSink: Send + Sync + fmt::Debug {
    /// Takes the new watermark of each partition that moved, at most once per commit group.
    ///
    /// A watermark is the position after the last committed record: everything below it has the
    /// promise of class `all`. Watermarks of a partition only grow; a late one may be skipped.
    /// Called on the thread of the engine: it must neither block nor call the log.
    fn advanced(&self, watermarks: &[(Partition, Position)]);
}

/// Learns what retention and trimming take.
pub trait RetentionSink: Send + Sync + fmt::Debug {
    /// Takes the new start of each partition that lost records: what is before it can no longer be
    /// read. Retention waits for nobody, so whoever still stood before it counts and reports that.
    ///
    /// Called on a thread of the engine: it must neither block nor call the log.
    fn passed(&self, starts: &[(Partition, Position)]);
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Retention or trimming has passed the position; the first one still there is given.
    #[error("position {from} of {partition} is gone, the log starts at {start}")]
    Trimmed { partition: PartitionId, from: Position, start: Position },
    /// The partition does not exist in this log.
    #[error("this log has no {0}: open its stream first")]
    UnknownPartition(Partition),
    /// The disk failed; other partitions may still be read.
    #[error("cannot read {file} at byte {at}")]
    Io { file: String, at: u64, source: std::io::Error },
    /// The bytes are damaged; they have been reported and are left where they are. Reading goes on
    /// at `next`. Only from an engine that does not step over damage by itself.
    #[error("{file} is damaged at byte {at}: {reason}")]
    Corrupt { file: String, at: u64, reason: String, next: Position },
}

/// Where the bytes of one record are; only the engine that made it understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Locator {
    /// Byte position in the partition's own sequence of batches, which no file move changes.
    pub at: u64,
    /// Length in bytes, with [`Self::WHOLE_BATCH`] where a record cannot be cut out of its batch.
    pub len: u32,
    /// CRC-32C of these bytes, in a whole batch of those behind its base offset.
    pub crc: u32,
}

impl Locator {
    /// Marks the bytes as a whole batch: the record's own are compressed.
    pub const WHOLE_BATCH: u32 = 1 << 31;

    /// Length in bytes of what has to be read.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        self.len & !Self::WHOLE_BATCH
    }

    /// Whether the bytes are those of the record's whole batch.
    #[must_use]
    pub fn is_whole_batch(&self) -> bool {
        self.len & Self::WHOLE_BATCH != 0
    }
}

/// A record that can be fetched without reading its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordRef {
    pub position: Position,
    /// Ingest time of the batch in milliseconds since 1970: what a record's timestamp delta adds to.
    pub base_timestamp_ms: i64,
    pub locator: Locator,
}

/// A committed batch as it was read: not always one that was appended, since an engine may cut batches otherwise. It
/// cuts them the same for whoever reads, from wherever, at any time, so that references into them are the same, too.
#[derive(Debug, Clone)]
pub struct ReadBatch {
    /// Position of the first record.
    pub base: Position,
    pub batch: Batch,
    /// Byte position of the batch in the partition's own sequence of batches.
    pub at: u64,
}

impl ReadBatch {
    /// The position of `record`, which must come from this batch.
    #[must_use]
    pub fn position(&self, record: &Record<'_>) -> Position {
        Position { generation: self.base.generation, offset: self.base.offset + u64::from(record.offset_delta) }
    }

    /// A reference by which `record`, which must come from this batch, can be fetched alone.
    #[must_use]
    pub fn record_ref(&self, record: &Record<'_>) -> RecordRef {
        let locator = if self.batch.compression() == Compression::None {
            let bytes = record.bytes;
            let at = self.at + HEADER_BYTES as u64 + u64::from(record.at);
            Locator { at, len: bytes.len() as u32, crc: crc32c::crc32c(bytes) }
        } else {
            let bytes = self.batch.as_bytes();
            let len = bytes.len() as u32 | Locator::WHOLE_BATCH;
            Locator { at: self.at, len, crc: crc32c::crc32c(&bytes[8..]) }
        };
        RecordRef { position: self.position(record), base_timestamp_ms: self.batch.timestamp_base_ms(record), locator }
    }
}

/// The answer to a read.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// In order. The first one may start before the position that was asked for.
    pub batches: Vec<ReadBatch>,
    /// Where to read on; equal to the watermark when everything committed was read.
    pub next: Position,
    /// Positions before `next` whose records are lost to damage, however long ago that was found. In
    /// order. Where the damage took what said how many records there were, a range is longer than
    /// what was lost. Holes that never held a record are not here.
    pub damaged: Vec<Range<Position>>,
}

/// What was fetched by [`Log::fetch`].
#[derive(Debug, Clone)]
pub struct FetchedRecord {
    pub position: Position,
    pub base_timestamp_ms: i64,
    /// The bytes of the record as RecordBatch v2 encodes it, for [`Record::parse`].
    pub bytes: Bytes,
}

/// One durable, partitioned log.
///
/// Methods block for at most a file read unless they say otherwise, so threads that serve sockets
/// use [`Log::submit`] and [`Log::read_cached`] and leave the rest to `spawn_blocking`.
pub trait Log: Send + Sync + fmt::Debug {
    /// Opens a stream, creating it durably with `partitions` partitions if it is new.
    ///
    /// An existing stream keeps its own number of partitions, whatever is asked for.
    ///
    /// # Errors
    /// [`Refusal`] if the stream is new and cannot be written.
    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal>;

    /// All streams that exist.
    fn streams(&self) -> Vec<Stream>;

    /// The lasting name of a partition, for messages and files.
    fn partition_id(&self, partition: Partition) -> Option<PartitionId>;

    /// Queues `append` and returns at once; how it ended goes to `reply`, if one is given.
    ///
    /// Appends of one class that one thread submits to one partition get growing positions in that order. (The
    /// embedded engine keeps it over all classes. On Kafka each class has connections of its own; to wait for one
    /// before the other would cost a round trip at each change.)
    fn submit(&self, append: Append, reply: Option<Reply>);

    /// Like [`Log::submit`], and nothing that this submitter appends later is committed before
    /// `append` once that was refused: see [`InOrder`].
    ///
    /// An engine that never refuses what it will take later needs no more than [`Log::submit`].
    fn submit_in_order(&self, append: Append, reply: Reply, order: InOrder) {
        let _ = order;
        self.submit(append, Some(reply));
    }

    /// Whether a unit that was not acknowledged is found whole or not at all. Else see [`Append`].
    fn keeps_units_whole(&self) -> bool;

    /// Whether other processes append, too. Then a position of theirs may be known before the watermark has come there,
    /// and that of a record of class `none` is not known, see [`Outcome::Committed`].
    fn is_shared(&self) -> bool {
        false
    }

    /// Bytes that are queued and not yet written; the capacity while the log takes nothing for
    /// being behind.
    fn queued_bytes(&self) -> u64;

    /// How many bytes may be queued; beyond that appends are refused. Callers stop taking work
    /// from their clients at half of it.
    fn queue_capacity_bytes(&self) -> u64;

    /// The first position that can be read.
    fn start(&self, partition: Partition) -> Position;

    /// The commit watermark: the position after the last committed record.
    fn watermark(&self, partition: Partition) -> Position;

    /// Sends every advance of every watermark to `sink` from now on.
    fn watch(&self, sink: Arc<dyn WatermarkSink>);

    /// Tells `sink` from now on what retention and trimming take. An engine without retention of its
    /// own says nothing.
    fn watch_retention(&self, sink: Arc<dyn RetentionSink>) {
        drop(sink);
    }

    /// Reads committed batches from the one that holds `from`, about `max_bytes` of them, at least
    /// one if there is one. Damaged batches are reported and left out, as holes: see
    /// [`Read::damaged`]. What a disk cannot read is damage, too.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the start; other disk errors name file and byte.
    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError>;

    /// Like [`Log::read`], but from memory only: `None` if that would need the disk.
    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read>;

    /// Fetches single records by reference, in the order of `refs`, reading only their bytes.
    /// References of records that retention has passed give no record, nor do those of damaged ones,
    /// which are reported: a record that is missing at or behind [`Log::start`] is lost.
    ///
    /// # Errors
    /// Disk errors name file and byte.
    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError>;

    /// The first position at or after the first record ingested at `time_ms` or later, by the
    /// index; may be early, never late.
    ///
    /// # Errors
    /// Disk errors name file and byte.
    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError>;

    /// Allows everything before `before` to be removed.
    fn trim(&self, partition: Partition, before: Position);
}

/// Appends and waits for the end.
///
/// # Cancel safety
/// A dropped call may still append: the batches are accepted as soon as they are queued.
pub async fn append(log: &dyn Log, append: Append) -> Outcome {
    #[derive(Debug)]
    struct Once(std::sync::Mutex<Option<tokio::sync::oneshot::Sender<Outcome>>>);
    impl CompletionSink for Once {
        fn complete(&self, completions: Vec<Completion>) {
            let sender = self.0.lock().ok().and_then(|mut slot| slot.take());
            if let (Some(sender), Some(completion)) = (sender, completions.into_iter().next()) {
                // The caller may have gone away; the append has happened all the same.
                drop(sender.send(completion.outcome));
            }
        }
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sink = Arc::new(Once(std::sync::Mutex::new(Some(sender))));
    log.submit(append, Some(Reply { sink, tag: 0 }));
    // An engine that dies without an answer leaves the outcome open.
    receiver.await.unwrap_or(Outcome::Unknown)
}
