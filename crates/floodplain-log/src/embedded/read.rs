//! Reading: memory first, then segments and journals.

use super::{Inner, View, read};
use crate::{
    Batch, FetchedRecord, Partition, Read, ReadBatch, ReadError, RecordRef,
    checkpoint::Bounds,
    disk::DiskFile,
    files::{DataFile, read_exact_at},
    frame::{FRAME_HEADER, Frame},
    journal::FrameAt,
};
use bytes::Bytes;
use floodplain_types::Position;
use std::sync::Arc;

/// One batch on the disk: where it is, and in what.
struct OnDisk {
    name: String,
    file: Arc<dyn DiskFile>,
    frame: FrameAt,
}

impl Inner {
    /// Generation and bounds of a partition, if it exists.
    pub(super) fn bounds(&self, partition: Partition) -> Option<(u32, Bounds)> {
        let generation = read(&self.streams).generation(partition)?;
        let bounds = read(&self.view).parts.get(&partition).copied().unwrap_or_default();
        Some((generation, bounds))
    }

    fn generation(&self, partition: Partition) -> Result<u32, ReadError> {
        read(&self.streams).generation(partition).ok_or(ReadError::UnknownPartition(partition))
    }

    /// `from` as an offset of this partition: positions of other generations are before or behind.
    fn offset(generation: u32, from: Position) -> u64 {
        match from.generation.cmp(&generation) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => from.offset,
            std::cmp::Ordering::Greater => u64::MAX,
        }
    }

    /// What memory alone can answer.
    fn from_memory(view: &View, generation: u32, partition: Partition, from: u64, max_bytes: usize) -> Option<Read> {
        let bounds = view.parts.get(&partition).copied().unwrap_or_default();
        if from >= bounds.end {
            return Some(Read { batches: Vec::new(), next: Position::new(generation, bounds.end.max(from)) });
        }
        if from < bounds.start {
            return None;
        }
        let batches = view.tail.read(partition, Position::new(generation, from), max_bytes)?;
        Some(Read { next: after(&batches, generation, bounds.end), batches })
    }

    pub(super) fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        let generation = self.generation(partition).ok()?;
        Self::from_memory(&read(&self.view), generation, partition, Self::offset(generation, from), max_bytes)
    }

    pub(super) fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        let generation = self.generation(partition)?;
        let offset = Self::offset(generation, from);
        let (found, end) = {
            let view = read(&self.view);
            let bounds = view.parts.get(&partition).copied().unwrap_or_default();
            if offset < bounds.start {
                drop(view);
                let partition = self.stream_partition_id(partition).ok_or(ReadError::UnknownPartition(partition))?;
                return Err(ReadError::Trimmed { partition, from, start: Position::new(generation, bounds.start) });
            }
            if let Some(answer) = Self::from_memory(&view, generation, partition, offset, max_bytes) {
                return Ok(answer);
            }
            (Self::in_journals(&view, partition, offset, max_bytes), bounds.end)
        };
        let mut batches = Vec::with_capacity(found.len());
        for place in found {
            batches.push(ReadBatch {
                base: Position::new(generation, place.frame.base),
                batch: read_batch(partition, &place)?,
                at: place.frame.at,
            });
        }
        Ok(Read { next: after(&batches, generation, end), batches })
    }

    /// The frames of a partition from the one that holds `from`.
    fn in_journals(view: &View, partition: Partition, from: u64, max_bytes: usize) -> Vec<OnDisk> {
        let mut found: Vec<OnDisk> = Vec::new();
        let mut left = max_bytes as u64;
        for journal in &view.journals {
            let frames = journal.frames(partition);
            let first = frames.partition_point(|frame| frame.last() < from);
            for frame in &frames[first..] {
                if !found.is_empty() && u64::from(frame.batch_len) > left {
                    return found;
                }
                left = left.saturating_sub(u64::from(frame.batch_len));
                found.push(OnDisk {
                    name: DataFile::Journal { seq: journal.seq }.name(),
                    file: Arc::clone(&journal.file),
                    frame: *frame,
                });
            }
        }
        found
    }

    pub(super) fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        self.generation(partition)?;
        let mut fetched = Vec::with_capacity(refs.len());
        for wanted in refs {
            if let Some(bytes) = self.fetch_bytes(partition, wanted)? {
                let (position, base_timestamp_ms) = (wanted.position, wanted.base_timestamp_ms);
                fetched.push(FetchedRecord { position, base_timestamp_ms, bytes });
            }
        }
        Ok(fetched)
    }

    /// The record's own bytes; `None` if retention has passed it.
    fn fetch_bytes(&self, partition: Partition, wanted: &RecordRef) -> Result<Option<Bytes>, ReadError> {
        let (at, len) = (wanted.locator.at, wanted.locator.len_bytes() as usize);
        let place = {
            let view = read(&self.view);
            let bounds = view.parts.get(&partition).copied().unwrap_or_default();
            if wanted.position.offset < bounds.start {
                return Ok(None);
            }
            if let Some(bytes) = view.tail.bytes_at(partition, at, len) {
                return cut(wanted, bytes, "memory", at).map(Some);
            }
            view.journals.iter().find_map(|journal| {
                let frames = journal.frames(partition);
                let frame = frames.get(frames.partition_point(|frame| frame.at <= at).checked_sub(1)?)?;
                let pos = frame.pos + FRAME_HEADER as u64 + (at - frame.at);
                (at + len as u64 <= frame.end_at()).then(|| (journal.seq, Arc::clone(&journal.file), pos))
            })
        };
        let Some((seq, file, pos)) = place else { return Ok(None) };
        let name = DataFile::Journal { seq }.name();
        let mut buf = vec![0; len];
        read_exact_at(&*file, &mut buf, pos).map_err(|source| ReadError::Io { file: name.clone(), at: pos, source })?;
        cut(wanted, buf.into(), &name, pos).map(Some)
    }

    pub(super) fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        let generation = self.generation(partition)?;
        let view = read(&self.view);
        let bounds = view.parts.get(&partition).copied().unwrap_or_default();
        let mut frames = view.journals.iter().flat_map(|journal| journal.frames(partition));
        let offset = frames.find(|frame| frame.ingest_ms >= time_ms).map_or(bounds.end, |frame| frame.base);
        Ok(Position::new(generation, offset.max(bounds.start)))
    }

    pub(super) fn trim(&self, partition: Partition, before: Position) {
        let Ok(generation) = self.generation(partition) else { return };
        if let Some(bounds) = super::write(&self.view).parts.get_mut(&partition) {
            bounds.start = bounds.start.max(Self::offset(generation, before).min(bounds.end));
        }
    }
}

/// Where to read on after `batches`: holes are passed when nothing else is left.
fn after(batches: &[ReadBatch], generation: u32, end: u64) -> Position {
    let last = batches.last().map(|last| last.base.offset + u64::from(last.batch.last_offset_delta()) + 1);
    Position::new(generation, last.unwrap_or(end))
}

/// Checks fetched bytes against the reference, and finds the record if they are a whole batch.
fn cut(wanted: &RecordRef, bytes: Bytes, file: &str, at: u64) -> Result<Bytes, ReadError> {
    let corrupt = |reason: String| ReadError::Corrupt { file: file.to_owned(), at, reason };
    let whole = wanted.locator.is_whole_batch();
    let found = crc32c::crc32c(if whole { bytes.get(8..).unwrap_or_default() } else { &bytes });
    if found != wanted.locator.crc {
        let expected = wanted.locator.crc;
        return Err(corrupt(format!("record has checksum {found:08x}, its reference says {expected:08x}")));
    }
    if !whole {
        return Ok(bytes);
    }
    let batch = Batch::parse(bytes).map_err(|error| corrupt(error.to_string()))?;
    let records = batch.records().map_err(|error| corrupt(error.to_string()))?;
    let delta = wanted.position.offset.wrapping_sub(batch.base_offset());
    for record in &records {
        let record = record.map_err(|error| corrupt(error.to_string()))?;
        if u64::from(record.offset_delta) == delta {
            return Ok(Bytes::copy_from_slice(record.bytes));
        }
    }
    Err(corrupt(format!("no record {}", wanted.position)))
}

/// Reads one frame and checks that it is the one that was looked for.
fn read_batch(partition: Partition, place: &OnDisk) -> Result<Batch, ReadError> {
    let OnDisk { name, file, frame } = place;
    let mut buf = vec![0; FRAME_HEADER + frame.batch_len as usize];
    read_exact_at(&**file, &mut buf, frame.pos).map_err(|source| ReadError::Io {
        file: name.clone(),
        at: frame.pos,
        source,
    })?;
    let corrupt = |reason: String| ReadError::Corrupt { file: name.clone(), at: frame.pos, reason };
    let head = Frame::parse(&buf).ok_or_else(|| corrupt("the head of the frame".to_owned()))?;
    if (head.partition, head.base_offset, head.batch_len) != (partition, frame.base, frame.batch_len) {
        return Err(corrupt("another frame is in its place".to_owned()));
    }
    Batch::parse(Bytes::from(buf).slice(FRAME_HEADER..)).map_err(|error| corrupt(error.to_string()))
}
