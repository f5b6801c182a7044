//! Reading: memory first, then segments and journals.

#[cfg(test)]
mod tests;

use super::{Inner, View, lock, read};
use crate::{
    Batch, BatchError, FetchedRecord, Locator, Partition, Read, ReadBatch, ReadError, RecordRef,
    checkpoint::Bounds,
    disk::DiskFile,
    files::{DataFile, read_up_to},
    frame::{FRAME_HEADER, Frame},
    journal::FrameAt,
    segment::{BLOCK_BYTES, PartEntry, Segment, SegmentError},
};
use bytes::Bytes;
use floodplain_types::Position;
use metrics::Counter;
use std::{cmp::Ordering, io, ops::Range, sync::Arc};

/// Read beyond what was asked for, so that the last batch is usually whole. It has the heads of all batches of a block,
/// so that a batch which is looked for is found with one read, and what is not there yet of it with a second one.
const READ_SLACK: u64 = BLOCK_BYTES + FRAME_HEADER as u64;
/// Reads of a segment are cut into pieces of this size.
const READ_MAX: u64 = 4 << 20;
/// So many places of damage are told apart; after that each is reported every time.
const DAMAGE_KNOWN_MAX: usize = 10_000;

/// Batches that are gathered for one answer.
struct Gathered {
    partition: Partition,
    generation: u32,
    batches: Vec<ReadBatch>,
    damaged: Vec<Range<Position>>,
    /// The offset to go on from.
    from: u64,
    /// Everything before it is in `batches` or in `damaged`.
    told: u64,
    left: usize,
}

impl Gathered {
    /// Whether a batch of this length is too much; the first never is.
    fn is_full_for(&self, len: usize) -> bool {
        !self.batches.is_empty() && len > self.left
    }

    fn push(&mut self, base: u64, at: u64, batch: Batch) {
        let len = batch.as_bytes().len();
        self.left = self.left.saturating_sub(len);
        self.lost_before(base);
        self.from = base + u64::from(batch.last_offset_delta()) + 1;
        self.told = self.from;
        self.batches.push(ReadBatch { base: Position::new(self.generation, base), batch, at });
    }

    /// This engine gives positions without gaps: one that is in no batch has been lost.
    fn lost_before(&mut self, offset: u64) {
        if self.told < offset {
            let position = |offset| Position::new(self.generation, offset);
            self.damaged.push(position(self.told)..position(offset));
            self.told = offset;
        }
    }

    fn answer(mut self, end: u64) -> Read {
        // Holes are passed when nothing is left behind them.
        if self.batches.is_empty() {
            self.lost_before(end);
        }
        Read { next: Position::new(self.generation, self.told), batches: self.batches, damaged: self.damaged }
    }
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
            Ordering::Less => 0,
            Ordering::Equal => from.offset,
            Ordering::Greater => u64::MAX,
        }
    }

    /// What memory alone can answer.
    fn from_memory(view: &View, generation: u32, partition: Partition, from: u64, max_bytes: usize) -> Option<Read> {
        let bounds = view.parts.get(&partition).copied().unwrap_or_default();
        if from >= bounds.end {
            return Some(Read { next: Position::new(generation, bounds.end), ..Read::default() });
        }
        if from < bounds.start {
            return None;
        }
        let batches = view.tail.read(partition, Position::new(generation, from), max_bytes)?;
        let last = batches.last().map(|last| last.base.offset + u64::from(last.batch.last_offset_delta()) + 1);
        Some(Read { next: Position::new(generation, last.unwrap_or(bounds.end)), batches, damaged: Vec::new() })
    }

    pub(super) fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        let generation = self.generation(partition).ok()?;
        let offset = Self::offset(generation, from);
        let read = Self::from_memory(&read(&self.view), generation, partition, offset, max_bytes)?;
        // Whoever asks for what is not there yet goes on asking for it.
        Some(Read { next: read.next.max(from), ..read })
    }

    pub(super) fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        let generation = self.generation(partition)?;
        let offset = Self::offset(generation, from);
        let mut out = Gathered {
            partition,
            generation,
            batches: Vec::new(),
            damaged: Vec::new(),
            from: offset,
            told: offset,
            left: max_bytes,
        };
        'moved: loop {
            let (segments, epoch, bounds) = {
                let view = read(&self.view);
                let bounds = view.parts.get(&partition).copied().unwrap_or_default();
                if out.told < bounds.start {
                    if !out.batches.is_empty() {
                        // What retention has taken meanwhile is not damage.
                        return Ok(out.answer(bounds.end));
                    }
                    drop(view);
                    let partition =
                        self.stream_partition_id(partition).ok_or(ReadError::UnknownPartition(partition))?;
                    let start = Position::new(generation, bounds.start);
                    return Err(ReadError::Trimmed { partition, from, start });
                }
                if out.from == offset
                    && let Some(answer) = Self::from_memory(&view, generation, partition, offset, max_bytes)
                {
                    return Ok(Read { next: answer.next.max(from), ..answer });
                }
                let first = view.journals().find_map(|journal| journal.frames(partition).first());
                let in_journals = first.is_some_and(|first| first.base <= out.from);
                let segments = if in_journals { Arc::default() } else { Arc::clone(&view.segments) };
                (segments, view.epoch, bounds)
            };
            match self.read_segments(&segments, &mut out) {
                Ok(true) => return Ok(out.answer(bounds.end)),
                Ok(false) => {}
                Err(error) if self.has_moved(&error, epoch) => continue,
                Err(error) => return Err(error),
            }
            loop {
                let places = {
                    let view = read(&self.view);
                    if view.epoch != epoch {
                        // What was in a journal may be in a segment now.
                        continue 'moved;
                    }
                    in_journals(&view, &out)
                };
                if places.is_empty() {
                    return Ok(out.answer(bounds.end));
                }
                for place in places {
                    match self.read_journal(partition, &place)? {
                        Some(batch) => out.push(place.frame.base, place.frame.at, batch),
                        None => out.from = place.frame.last() + 1,
                    }
                }
                if !out.batches.is_empty() {
                    return Ok(out.answer(bounds.end));
                }
            }
        }
    }

    /// Whether retention or merging took a file away since the view had this epoch.
    fn has_moved(&self, error: &ReadError, epoch: u64) -> bool {
        let gone = matches!(error, ReadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        gone && read(&self.view).epoch != epoch
    }

    /// Reads from segments; true when `out` is full.
    fn read_segments(&self, segments: &[Arc<Segment>], out: &mut Gathered) -> Result<bool, ReadError> {
        let from = out.from;
        let (mut idx, mut entry) = match self.find_segment(segments, out.partition, |part| part.end() <= from)? {
            Some((idx, entry)) => (idx, Some(entry)),
            None => return Ok(false),
        };
        loop {
            if let Some(part) = entry
                && self.read_segment(&segments[idx], part, out)?
            {
                return Ok(true);
            }
            idx += 1;
            let Some(segment) = segments.get(idx) else { return Ok(false) };
            entry = self.find(segment, out.partition)?;
        }
    }

    /// What a segment holds of a partition.
    fn find(&self, segment: &Segment, partition: Partition) -> Result<Option<Part>, ReadError> {
        self.in_segment(segment, |file| match segment.find(file, &self.index_pages, partition) {
            Ok(part) => Ok(part.map(Part::Indexed)),
            Err(error) => self.without_index(segment, file, partition, error),
        })
    }

    /// The frames of a partition in a segment whose index is damaged. They are looked for in all of
    /// the file, each time: it is made anew soon.
    fn without_index(
        &self,
        segment: &Segment,
        file: &dyn DiskFile,
        partition: Partition,
        error: SegmentError,
    ) -> Result<Option<Part>, SegmentError> {
        let SegmentError::Damaged { at, reason } = error else { return Err(error) };
        self.report_damage(&segment.name(), at, reason);
        self.report_hurt(segment);
        let (frames, _) =
            Segment::scan(file, segment.frames_end()).map_err(|source| SegmentError::Io { at, source })?;
        let mut frames: Vec<_> =
            frames.into_iter().filter(|(of, _)| *of == partition).map(|(_, frame)| frame).collect();
        // In order, unless bytes that only look like a frame came among them.
        let mut end = 0;
        frames.retain(|frame| {
            frame.base >= end && {
                end = frame.last().saturating_add(1);
                true
            }
        });
        Ok((!frames.is_empty()).then_some(Part::Scanned(frames)))
    }

    /// The first segment with a part of the partition that is not `before` what is looked for.
    fn find_segment(
        &self,
        segments: &[Arc<Segment>],
        partition: Partition,
        before: impl Fn(&Part) -> bool,
    ) -> Result<Option<(usize, Part)>, ReadError> {
        let (mut low, mut high) = (0, segments.len());
        let mut found = None;
        while low < high {
            // A segment without the partition says nothing: the next one that has it decides.
            let middle = low + (high - low) / 2;
            let mut probe = middle;
            let mut part = None;
            while probe < high && part.is_none() {
                part = self.find(&segments[probe], partition)?;
                probe += 1;
            }
            match part {
                Some(part) if before(&part) => low = probe,
                Some(part) => {
                    found = Some((probe - 1, part));
                    high = middle;
                }
                None => high = middle,
            }
        }
        Ok(found)
    }

    /// Reads the batches of one partition in one segment; true when `out` is full.
    fn read_segment(&self, segment: &Segment, part: Part, out: &mut Gathered) -> Result<bool, ReadError> {
        let partition = out.partition;
        self.in_segment(segment, |file| {
            let frames = match part {
                Part::Indexed(part) => match self.read_part(segment, file, &part, out) {
                    Err(error) => self.without_index(segment, file, partition, error)?,
                    full => return full,
                },
                scanned @ Part::Scanned(_) => Some(scanned),
            };
            let Some(Part::Scanned(frames)) = frames else { return Ok(false) };
            let first = frames.partition_point(|frame| frame.last() < out.from);
            for frame in &frames[first..] {
                if out.is_full_for(frame.batch_len as usize) {
                    return Ok(true);
                }
                let pos = frame.pos + FRAME_HEADER as u64;
                let bytes = read_piece(file, pos, frame.batch_len as usize).map_err(io_at(pos))?;
                match Batch::parse(bytes) {
                    Ok(batch) => out.push(frame.base, frame.at, batch),
                    Err(error) => self.report_damage(&segment.name(), frame.pos, &error.to_string()),
                }
            }
            Ok(false)
        })
    }

    /// The same by the index.
    fn read_part(
        &self,
        segment: &Segment,
        file: &dyn DiskFile,
        part: &PartEntry,
        out: &mut Gathered,
    ) -> Result<bool, SegmentError> {
        let from = out.from;
        let mut pos = segment.block(file, &self.index_pages, part, |block| block.base <= from)?.pos;
        while pos < part.end_pos {
            let want = (out.left as u64).saturating_add(READ_SLACK).min(READ_MAX).min(part.end_pos - pos);
            let piece = read_piece(file, pos, want as usize).map_err(io_at(pos))?;
            let mut done = 0;
            while let Some(head) = piece.get(done..).filter(|rest| rest.len() >= FRAME_HEADER) {
                let at = pos + done as u64;
                let frame = Frame::parse(head)
                    .filter(|frame| frame.partition == out.partition && at + frame.len() <= part.end_pos);
                let Some(frame) = frame else {
                    self.report_damage(&segment.name(), at, "head of a frame");
                    done = (segment.next_frame_pos(file, &self.index_pages, part, at)? - pos) as usize;
                    continue;
                };
                let range = done + FRAME_HEADER..done + frame.len() as usize;
                done = range.end;
                if frame.base_offset + u64::from(frame.last_delta) < from {
                    continue;
                }
                if out.is_full_for(frame.batch_len as usize) {
                    return Ok(true);
                }
                let bytes = if range.end <= piece.len() {
                    piece.slice(range)
                } else {
                    read_rest(file, piece.slice(range.start..), pos + range.start as u64, range.len())
                        .map_err(io_at(at))?
                };
                match Batch::parse(bytes) {
                    Ok(batch) => out.push(frame.base_offset, frame.at, batch),
                    Err(error) => self.report_damage(&segment.name(), at, &error.to_string()),
                }
            }
            // If less than a head is left of the piece, it is read again with what follows.
            if done == 0 {
                self.report_damage(&segment.name(), pos, "partition ends inside a frame");
                return Ok(false);
            }
            pos += done as u64;
        }
        Ok(false)
    }

    /// Does something with the file of a segment, naming it in errors.
    fn in_segment<T>(
        &self,
        segment: &Segment,
        run: impl FnOnce(&dyn DiskFile) -> Result<T, SegmentError>,
    ) -> Result<T, ReadError> {
        let file = self.open_files.get(segment).map_err(|source| SegmentError::Io { at: 0, source });
        let result = file.and_then(|file| run(&self.counted(&*file)));
        result.map_err(|error| match error {
            SegmentError::Io { at, source } => ReadError::Io { file: segment.name(), at, source },
            damaged @ SegmentError::Damaged { at, .. } => {
                ReadError::Io { file: segment.name(), at, source: io::Error::new(io::ErrorKind::InvalidData, damaged) }
            }
        })
    }

    fn counted<'f>(&'f self, file: &'f dyn DiskFile) -> Counted<'f> {
        Counted { file, bytes: &self.metrics.read_bytes }
    }

    /// Says once where a read has met damage. The bytes stay where they are.
    fn report_damage(&self, file: &str, at: u64, reason: &str) {
        let mut known = lock(&self.damage);
        if known.len() < DAMAGE_KNOWN_MAX && !known.insert((file.to_owned(), at)) {
            return;
        }
        drop(known);
        self.metrics.damaged_ranges.increment(1);
        tracing::error!(file, at, reason, "log is damaged, records are left out");
    }

    /// Reads one frame of a journal; `None` if it is damaged.
    fn read_journal(&self, partition: Partition, place: &InJournal) -> Result<Option<Batch>, ReadError> {
        let InJournal { seq, file, frame } = place;
        let name = || DataFile::Journal { seq: *seq }.name();
        let bytes = read_piece(&self.counted(&**file), frame.pos, FRAME_HEADER + frame.batch_len as usize)
            .map_err(|source| ReadError::Io { file: name(), at: frame.pos, source })?;
        let is_it = Frame::parse(&bytes).is_some_and(|head| {
            (head.partition, head.base_offset, head.batch_len) == (partition, frame.base, frame.batch_len)
        });
        let batch = if is_it {
            Batch::parse(bytes.slice(FRAME_HEADER..)).map_err(|error| error.to_string())
        } else {
            Err("head of a frame".into())
        };
        Ok(batch.inspect_err(|reason| self.report_damage(&name(), frame.pos, reason)).ok())
    }

    pub(super) fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        self.generation(partition)?;
        let mut fetched = Vec::with_capacity(refs.len());
        // References come in runs: the segment of the last one is likely that of the next, and so is
        // its compressed batch, which is read and decompressed once.
        let mut near = None;
        let mut unpacked = Unpacked { locator: None, records: Vec::new() };
        for wanted in refs {
            let bytes = if !wanted.locator.is_whole_batch() {
                self.fetch_bytes(partition, wanted, &mut near)?
            } else {
                if unpacked.locator != Some(wanted.locator) {
                    let bytes = self.fetch_bytes(partition, wanted, &mut near)?;
                    unpacked = Unpacked::new(wanted.locator, bytes).unwrap_or_else(|error| {
                        self.report_damage("batch", wanted.locator.at, &error.to_string());
                        Unpacked { locator: Some(wanted.locator), records: Vec::new() }
                    });
                }
                unpacked.record(wanted)
            };
            if let Some(bytes) = bytes {
                let (position, base_timestamp_ms) = (wanted.position, wanted.base_timestamp_ms);
                fetched.push(FetchedRecord { position, base_timestamp_ms, bytes });
            }
        }
        Ok(fetched)
    }

    /// The bytes that a reference leads to, checked; `None` if retention has passed them, or if they
    /// are damaged, which is reported.
    fn fetch_bytes(
        &self,
        partition: Partition,
        wanted: &RecordRef,
        near: &mut Option<(Arc<Segment>, Part)>,
    ) -> Result<Option<Bytes>, ReadError> {
        let (at, len) = (wanted.locator.at, wanted.locator.len_bytes() as usize);
        let end_at = at.saturating_add(len as u64);
        loop {
            let (segments, epoch) = {
                let view = read(&self.view);
                let bounds = view.parts.get(&partition).copied().unwrap_or_default();
                if wanted.position.offset < bounds.start {
                    return Ok(None);
                }
                if let Some(bytes) = view.tail.bytes_at(partition, at, len) {
                    return Ok(self.checked(wanted, bytes, "memory", at));
                }
                let in_journal = view.journals().find_map(|journal| {
                    let frames = journal.frames(partition);
                    let frame = frames.get(frames.partition_point(|frame| frame.at <= at).checked_sub(1)?)?;
                    Some((journal.seq, Arc::clone(&journal.file), pos_of(frame, at, end_at)?))
                });
                if let Some((seq, file, pos)) = in_journal {
                    drop(view);
                    let name = DataFile::Journal { seq }.name();
                    return match read_piece(&self.counted(&*file), pos, len) {
                        Ok(bytes) => Ok(self.checked(wanted, bytes, &name, pos)),
                        Err(source) => Err(ReadError::Io { file: name, at: pos, source }),
                    };
                }
                (Arc::clone(&view.segments), view.epoch)
            };
            if near.as_ref().is_none_or(|(_, part)| !part.holds(at, end_at)) {
                let found = self.find_segment(&segments, partition, |part| part.end_at() <= at);
                *near = match found {
                    Ok(found) => found.map(|(idx, part)| (Arc::clone(&segments[idx]), part)),
                    Err(error) if self.has_moved(&error, epoch) => continue,
                    Err(error) => return Err(error),
                };
            }
            // What is in no file was damaged, or trimmed while we looked.
            let Some((segment, part)) = near.as_mut().filter(|(_, part)| part.holds(at, end_at)) else {
                return Ok(None);
            };
            let bytes = self.in_segment(segment, |file| {
                if let Part::Indexed(entry) = part {
                    match segment.place(file, &self.index_pages, entry, at) {
                        Ok(pos) => return Ok(Some((read_piece(file, pos, len).map_err(io_at(pos))?, pos))),
                        Err(error) => {
                            let scanned = self.without_index(segment, file, partition, error)?;
                            *part = scanned.unwrap_or(Part::Scanned(Vec::new()));
                        }
                    }
                }
                let Part::Scanned(frames) = part else { return Ok(None) };
                let frame = frames.partition_point(|frame| frame.at <= at).checked_sub(1).map(|idx| &frames[idx]);
                let Some(pos) = frame.and_then(|frame| pos_of(frame, at, end_at)) else { return Ok(None) };
                Ok(Some((read_piece(file, pos, len).map_err(io_at(pos))?, pos)))
            });
            match bytes {
                Ok(None) => return Ok(None),
                Ok(Some((bytes, pos))) => return Ok(self.checked(wanted, bytes, &segment.name(), pos)),
                Err(error) if self.has_moved(&error, epoch) => *near = None,
                Err(error) => return Err(error),
            }
        }
    }

    /// Compares fetched bytes with the reference.
    fn checked(&self, wanted: &RecordRef, bytes: Bytes, file: &str, at: u64) -> Option<Bytes> {
        let locator = wanted.locator;
        let found = crc32c::crc32c(if locator.is_whole_batch() { bytes.get(8..).unwrap_or_default() } else { &bytes });
        if found == locator.crc {
            return Some(bytes);
        }
        let reason = format!("record has checksum {found:08x}, its reference says {:08x}", locator.crc);
        self.report_damage(file, at, &reason);
        None
    }

    pub(super) fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        let generation = self.generation(partition)?;
        loop {
            let (segments, epoch, bounds, in_journals) = {
                let view = read(&self.view);
                let bounds = view.parts.get(&partition).copied().unwrap_or_default();
                let mut frames = view.journals().flat_map(|journal| journal.frames(partition));
                let offset = frames.find(|frame| frame.ingest_ms >= time_ms).map_or(bounds.end, |frame| frame.base);
                (Arc::clone(&view.segments), view.epoch, bounds, offset)
            };
            let mut offset = in_journals;
            let mut gone = false;
            for segment in segments.iter().filter(|segment| segment.max_ingest_ms >= time_ms) {
                let found = self.in_segment(segment, |file| {
                    let pages = &self.index_pages;
                    let by_index = segment.find(file, pages, partition).and_then(|part| {
                        let part = part.filter(|part| part.max_ingest_ms >= time_ms);
                        part.map(|part| segment.offset_at(file, pages, &part, time_ms)).transpose()
                    });
                    by_index.or_else(|error| {
                        let part = self.without_index(segment, file, partition, error)?;
                        let Some(Part::Scanned(frames)) = part else { return Ok(None) };
                        Ok(frames.iter().find(|frame| frame.ingest_ms >= time_ms).map(|frame| frame.base))
                    })
                });
                match found {
                    Ok(None) => {}
                    Ok(Some(found)) => {
                        offset = found;
                        break;
                    }
                    Err(error) if self.has_moved(&error, epoch) => {
                        gone = true;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !gone {
                return Ok(Position::new(generation, offset.max(bounds.start)));
            }
        }
    }

    pub(super) fn trim(&self, partition: Partition, before: Position) {
        if let Ok(generation) = self.generation(partition) {
            self.advance_starts([(partition, Self::offset(generation, before))]);
        }
    }
}

/// One frame of a journal.
struct InJournal {
    seq: u64,
    file: Arc<dyn DiskFile>,
    frame: FrameAt,
}

/// The frames in journals that `out` has room for.
fn in_journals(view: &View, out: &Gathered) -> Vec<InJournal> {
    let mut found = Vec::new();
    let (mut left, mut is_first) = (out.left as u64, out.batches.is_empty());
    for journal in view.journals() {
        let frames = journal.frames(out.partition);
        let first = frames.partition_point(|frame| frame.last() < out.from);
        for frame in &frames[first..] {
            if !is_first && u64::from(frame.batch_len) > left {
                return found;
            }
            is_first = false;
            left = left.saturating_sub(u64::from(frame.batch_len));
            found.push(InJournal { seq: journal.seq, file: Arc::clone(&journal.file), frame: *frame });
        }
    }
    found
}

/// What a segment has of a partition.
enum Part {
    Indexed(PartEntry),
    /// Its index is damaged: the frames, in order, at least one.
    Scanned(Vec<FrameAt>),
}

impl Part {
    /// The offset after its last one.
    fn end(&self) -> u64 {
        match self {
            Self::Indexed(part) => part.end,
            Self::Scanned(frames) => frames.last().map_or(0, |frame| frame.last() + 1),
        }
    }

    /// The byte position after its last batch.
    fn end_at(&self) -> u64 {
        match self {
            Self::Indexed(part) => part.end_at,
            Self::Scanned(frames) => frames.last().map_or(0, FrameAt::end_at),
        }
    }

    /// Whether these byte positions lie between its first and its last.
    fn holds(&self, at: u64, end_at: u64) -> bool {
        let base_at = match self {
            Self::Indexed(part) => part.base_at,
            Self::Scanned(frames) => frames.first().map_or(u64::MAX, |frame| frame.at),
        };
        base_at <= at && end_at <= self.end_at()
    }
}

/// The byte of the file that holds byte position `at`, if the frame has all of `at..end_at`.
fn pos_of(frame: &FrameAt, at: u64, end_at: u64) -> Option<u64> {
    (frame.at <= at && end_at <= frame.end_at()).then(|| frame.pos + FRAME_HEADER as u64 + (at - frame.at))
}

/// A file of which it is counted how many bytes are read.
#[derive(Debug)]
struct Counted<'f> {
    file: &'f dyn DiskFile,
    bytes: &'f Counter,
}

impl DiskFile for Counted<'_> {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at).inspect(|read| self.bytes.increment(*read as u64))
    }
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.file.write_at(buf, at)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

/// Reads these bytes; those behind the end of a file that has become shorter are zeros.
fn read_piece(file: &dyn DiskFile, at: u64, len: usize) -> io::Result<Bytes> {
    let mut buf = vec![0; len];
    read_up_to(file, &mut buf, at)?;
    Ok(buf.into())
}

/// The `len` bytes at `at`, of which the first ones have been read.
fn read_rest(file: &dyn DiskFile, first: Bytes, at: u64, len: usize) -> io::Result<Bytes> {
    let have = first.len();
    let mut buf = Vec::from(first);
    buf.resize(len, 0);
    read_up_to(file, &mut buf[have..], at + have as u64)?;
    Ok(buf.into())
}

fn io_at(at: u64) -> impl Fn(io::Error) -> SegmentError {
    move |source| SegmentError::Io { at, source }
}

/// The records of a compressed batch.
struct Unpacked {
    locator: Option<Locator>,
    /// By offset.
    records: Vec<(u64, Bytes)>,
}

impl Unpacked {
    fn new(locator: Locator, bytes: Option<Bytes>) -> Result<Self, BatchError> {
        let mut unpacked = Self { locator: Some(locator), records: Vec::new() };
        let Some(bytes) = bytes else { return Ok(unpacked) };
        let batch = Batch::parse(bytes)?;
        for record in &batch.records()? {
            let record = record?;
            let offset = batch.base_offset() + u64::from(record.offset_delta);
            unpacked.records.push((offset, Bytes::copy_from_slice(record.bytes)));
        }
        Ok(unpacked)
    }

    fn record(&self, wanted: &RecordRef) -> Option<Bytes> {
        let idx = self.records.binary_search_by_key(&wanted.position.offset, |(offset, _)| *offset).ok()?;
        Some(self.records[idx].1.clone())
    }
}
