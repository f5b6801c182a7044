//! Segments: the frames of finished journals, sorted by partition, with an index behind them.
//!
//! One file holds all partitions (decision 0001). What stays in memory of it is one key per index
//! page. Byte layout in `docs/formats/segment.md`.

mod cache;
mod page;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use cache::PageCache;
pub(crate) use writer::{Source, is_whole_at, write_segment};

use crate::{
    Partition,
    disk::DiskFile,
    files::{DataFile, read_exact_at},
    frame::{FRAME_HEADER, Frame, u32_at, u64_at},
    journal::FrameAt,
};
use page::{PAGE, PageError, Pages};
use std::{
    io,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

/// Frames of a file, each with its partition.
pub(crate) type FrameList = Vec<(Partition, FrameAt)>;

pub(crate) const FILE_MAGIC: &[u8; 8] = b"FPSEGMT\x01";
const END_MAGIC: &[u8; 8] = b"FPSEGEND";
pub(crate) const FILE_HEADER: usize = 32;
const FOOTER: usize = 80;
const BLOCK_ENTRY: usize = 32;
const PART_ENTRY: usize = 72;
/// A block of a partition takes batches until it has this many bytes; one index entry each.
pub(crate) const BLOCK_BYTES: u64 = 4 << 10;
/// Segments that this process has opened: each is another one, also if it has the name of an earlier one.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentError {
    #[error("cannot read byte {at}")]
    Io { at: u64, source: io::Error },
    #[error("{reason} at byte {at}")]
    Damaged { at: u64, reason: &'static str },
}

impl From<PageError> for SegmentError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Io { at, source } => Self::Io { at, source },
            PageError::Damaged { at } => Self::Damaged { at, reason: "damaged index page" },
        }
    }
}

/// What a segment holds of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartEntry {
    pub partition: Partition,
    /// First offset, and the one after the last.
    pub base: u64,
    pub end: u64,
    /// Byte positions of the first batch and of the end of the last.
    pub base_at: u64,
    pub end_at: u64,
    /// Bytes of the file that hold its frames.
    pub pos: u64,
    pub end_pos: u64,
    pub max_ingest_ms: i64,
    /// Entries in the block index; none if there is only one block.
    pub first_block: u32,
    pub block_count: u32,
}

impl PartEntry {
    fn write(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.partition.stream.to_le_bytes());
        buf.extend_from_slice(&self.partition.index.to_le_bytes());
        for number in [self.base, self.end, self.base_at, self.end_at, self.pos, self.end_pos] {
            buf.extend_from_slice(&number.to_le_bytes());
        }
        buf.extend_from_slice(&self.max_ingest_ms.to_le_bytes());
        buf.extend_from_slice(&self.first_block.to_le_bytes());
        buf.extend_from_slice(&self.block_count.to_le_bytes());
    }

    fn parse(entry: &[u8]) -> Self {
        Self {
            partition: Partition { stream: u32_at(entry, 0), index: u32_at(entry, 4) },
            base: u64_at(entry, 8),
            end: u64_at(entry, 16),
            base_at: u64_at(entry, 24),
            end_at: u64_at(entry, 32),
            pos: u64_at(entry, 40),
            end_pos: u64_at(entry, 48),
            max_ingest_ms: u64_at(entry, 56) as i64,
            first_block: u32_at(entry, 64),
            block_count: u32_at(entry, 68),
        }
    }

    /// The byte of the file that holds byte position `at`, if nothing is missing here: then both grow alike from the
    /// first batch to the last, and no index is needed. Holes only ever add to byte positions.
    fn place_without_index(&self, at: u64) -> Option<u64> {
        let is_whole = self.end_pos - self.pos == self.end_at - self.base_at + FRAME_HEADER as u64;
        is_whole.then(|| self.pos + FRAME_HEADER as u64 + (at - self.base_at))
    }
}

/// A run of batches of one partition that follow each other in the file and in byte positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Offset and byte position of its first batch.
    pub base: u64,
    pub at: u64,
    /// Byte of the file at which the first frame's header starts.
    pub pos: u64,
    pub max_ingest_ms: i64,
}

impl Block {
    fn write(&self, buf: &mut Vec<u8>) {
        for number in [self.base, self.at, self.pos] {
            buf.extend_from_slice(&number.to_le_bytes());
        }
        buf.extend_from_slice(&self.max_ingest_ms.to_le_bytes());
    }

    fn parse(entry: &[u8]) -> Self {
        Self {
            base: u64_at(entry, 0),
            at: u64_at(entry, 8),
            pos: u64_at(entry, 16),
            max_ingest_ms: u64_at(entry, 24) as i64,
        }
    }
}

/// A segment that can be searched. The file itself is opened when it is needed.
#[derive(Debug)]
pub(crate) struct Segment {
    /// What its pages are known by.
    id: u64,
    /// The journals it was made from.
    pub first: u64,
    pub last: u64,
    pub len: u64,
    pub max_ingest_ms: i64,
    pub frame_count: u64,
    frames_end: u64,
    parts_pos: u64,
    part_count: u64,
    /// The first partition of every page of the partition index.
    top: Vec<Partition>,
}

impl Segment {
    /// Reads footer and top of the index, and checks both.
    pub(crate) fn open(file: &dyn DiskFile, first: u64, last: u64) -> Result<Self, SegmentError> {
        let io = |at| move |source| SegmentError::Io { at, source };
        let len = file.len().map_err(io(0))?;
        let damaged = |at, reason| SegmentError::Damaged { at, reason };
        if len < (FILE_HEADER + FOOTER) as u64 {
            return Err(damaged(0, "segment is too short"));
        }
        let footer_pos = len - FOOTER as u64;
        let mut footer = [0; FOOTER];
        read_exact_at(file, &mut footer, footer_pos).map_err(io(footer_pos))?;
        if !footer.starts_with(END_MAGIC) || crc32c::crc32c(&footer[..FOOTER - 4]) != u32_at(&footer, FOOTER - 4) {
            return Err(damaged(footer_pos, "damaged footer"));
        }
        let frames_end = u64_at(&footer, 24);
        let block_count = u64_at(&footer, 32);
        let part_count = u64_at(&footer, 40);
        let parts_pos = frames_end.saturating_add(Pages::bytes::<BLOCK_ENTRY>(block_count));
        let top_pos = parts_pos.saturating_add(Pages::bytes::<PART_ENTRY>(part_count));
        let top_len = part_count.div_ceil(Pages::<PART_ENTRY>::PER_PAGE).saturating_mul(8);
        if (u64_at(&footer, 8), u64_at(&footer, 16)) != (first, last) || top_pos.saturating_add(top_len) != footer_pos {
            return Err(damaged(footer_pos, "footer of another segment"));
        }
        let mut top = vec![0; (footer_pos - top_pos) as usize];
        read_exact_at(file, &mut top, top_pos).map_err(io(top_pos))?;
        if crc32c::crc32c(&top) != u32_at(&footer, FOOTER - 8) {
            return Err(damaged(top_pos, "damaged top of the index"));
        }
        let top = top.chunks_exact(8).map(|key| Partition { stream: u32_at(key, 0), index: u32_at(key, 4) }).collect();
        Ok(Self {
            id: OPENED.fetch_add(1, Ordering::Relaxed),
            first,
            last,
            len,
            max_ingest_ms: u64_at(&footer, 56) as i64,
            frame_count: u64_at(&footer, 48),
            frames_end,
            parts_pos,
            part_count,
            top,
        })
    }

    pub(crate) fn name(&self) -> String {
        DataFile::Segment { first: self.first, last: self.last }.name()
    }

    fn blocks<'f>(&self, file: &'f dyn DiskFile, cache: &'f PageCache) -> Pages<'f, BLOCK_ENTRY> {
        Pages::new(file, self.frames_end, Some((cache, self.id)))
    }

    /// What is here of a partition.
    pub(crate) fn find(
        &self,
        file: &dyn DiskFile,
        cache: &PageCache,
        wanted: Partition,
    ) -> Result<Option<PartEntry>, SegmentError> {
        let Some(page) = self.top.partition_point(|first| *first <= wanted).checked_sub(1) else { return Ok(None) };
        let mut pages = Pages::<PART_ENTRY>::new(file, self.parts_pos, Some((cache, self.id)));
        let per_page = Pages::<PART_ENTRY>::PER_PAGE;
        let (mut low, mut high) = (page as u64 * per_page, ((page as u64 + 1) * per_page).min(self.part_count));
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = PartEntry::parse(pages.entry(middle)?);
            match entry.partition.cmp(&wanted) {
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Calls `visit` for every partition here, in order. Pages are read, and not kept: most are not asked for again.
    pub(crate) fn each_part(&self, file: &dyn DiskFile, mut visit: impl FnMut(PartEntry)) -> Result<(), SegmentError> {
        let mut pages = Pages::<PART_ENTRY>::new(file, self.parts_pos, None);
        for idx in 0..self.part_count {
            visit(PartEntry::parse(pages.entry(idx)?));
        }
        Ok(())
    }

    /// The last block for which `before` holds, or the first one; `before` must hold for a front
    /// part of the blocks.
    pub(crate) fn block(
        &self,
        file: &dyn DiskFile,
        cache: &PageCache,
        part: &PartEntry,
        before: impl Fn(&Block) -> bool,
    ) -> Result<Block, SegmentError> {
        let mut found = Block { base: part.base, at: part.base_at, pos: part.pos, max_ingest_ms: part.max_ingest_ms };
        let mut pages = self.blocks(file, cache);
        let (mut low, mut high) =
            (u64::from(part.first_block), u64::from(part.first_block) + u64::from(part.block_count));
        while low < high {
            let middle = low + (high - low) / 2;
            let block = Block::parse(pages.entry(middle)?);
            if before(&block) {
                found = block;
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(found)
    }

    /// The byte of the file that holds byte position `at` of a partition, which must be one of `part`.
    pub(crate) fn place(
        &self,
        file: &dyn DiskFile,
        cache: &PageCache,
        part: &PartEntry,
        at: u64,
    ) -> Result<u64, SegmentError> {
        if let Some(pos) = part.place_without_index(at) {
            return Ok(pos);
        }
        let block = self.block(file, cache, part, |block| block.at <= at)?;
        // In a block, byte positions and bytes of the file grow alike.
        Ok(block.pos + FRAME_HEADER as u64 + (at - block.at))
    }

    /// Offset of the first block with a batch ingested at `time_ms` or later.
    pub(crate) fn offset_at(
        &self,
        file: &dyn DiskFile,
        cache: &PageCache,
        part: &PartEntry,
        time_ms: i64,
    ) -> Result<u64, SegmentError> {
        let mut pages = self.blocks(file, cache);
        let first = u64::from(part.first_block);
        // Clocks may step back, so times are not sorted and every block is asked.
        for idx in first..first + u64::from(part.block_count) {
            let block = Block::parse(pages.entry(idx)?);
            if block.max_ingest_ms >= time_ms {
                return Ok(block.base);
            }
        }
        Ok(part.base)
    }

    /// Where the next whole head of a frame of this partition is behind damage at `pos`.
    pub(crate) fn next_frame_pos(
        &self,
        file: &dyn DiskFile,
        cache: &PageCache,
        part: &PartEntry,
        pos: u64,
    ) -> Result<u64, SegmentError> {
        let block = self.block(file, cache, part, |block| block.pos <= pos)?;
        let mut bytes = vec![0; (part.end_pos - pos).min(2 * BLOCK_BYTES) as usize];
        read_exact_at(file, &mut bytes, pos).map_err(|source| SegmentError::Io { at: pos, source })?;
        for idx in 1..bytes.len() {
            // In a block, byte positions and bytes of the file grow alike. So a payload that looks
            // like a head is not taken for one.
            let at = block.at + (pos + idx as u64 - block.pos);
            if Frame::parse(&bytes[idx..]).is_some_and(|frame| frame.partition == part.partition && frame.at == at) {
                return Ok(pos + idx as u64);
            }
        }
        // The damage is longer than a block.
        let mut pages = self.blocks(file, cache);
        let first = u64::from(part.first_block);
        for idx in first..first + u64::from(part.block_count) {
            let block = Block::parse(pages.entry(idx)?);
            if block.pos > pos {
                return Ok(block.pos);
            }
        }
        Ok(part.end_pos)
    }

    /// All frames by their heads, for writing them elsewhere; needs no index. Ranges that hold no
    /// whole frame come second.
    pub(crate) fn scan(file: &dyn DiskFile, frames_end: u64) -> io::Result<(FrameList, Vec<Range<u64>>)> {
        let mut window = Window { file, buf: Vec::new(), start: 0 };
        let mut pos = FILE_HEADER as u64;
        let (mut frames, mut bad) = (Vec::new(), Vec::<Range<u64>>::new());
        while pos < frames_end {
            let head = window.get(pos, FRAME_HEADER)?;
            let frame = Frame::parse(head)
                .filter(|frame| pos + frame.len() <= frames_end && frame.batch_len as usize >= crate::HEADER_BYTES);
            if let Some(frame) = frame {
                frames.push((frame.partition, FrameAt::of(&frame, pos)));
                pos += frame.len();
            } else {
                match bad.last_mut() {
                    Some(range) if range.end == pos => range.end += 1,
                    _ => bad.push(pos..pos + 1),
                }
                pos += 1;
            }
        }
        Ok((frames, bad))
    }

    /// Where the frames end.
    pub(crate) fn frames_end(&self) -> u64 {
        self.frames_end
    }
}

/// Bytes that a scan reads at once.
const WINDOW: usize = 1 << 20;

/// Reads a file from front to back through a buffer.
struct Window<'f> {
    file: &'f dyn DiskFile,
    buf: Vec<u8>,
    start: u64,
}

impl Window<'_> {
    /// Up to `len` bytes at `pos`, fewer at the end of the file.
    fn get(&mut self, pos: u64, len: usize) -> io::Result<&[u8]> {
        // A buffer that is not full ends where the file does.
        let end = self.start + self.buf.len() as u64;
        let inside =
            pos >= self.start && (pos + len as u64 <= end || (self.buf.len() < WINDOW && pos <= end && end > 0));
        if !inside {
            self.buf.resize(WINDOW, 0);
            let read = crate::files::read_up_to(self.file, &mut self.buf, pos)?;
            self.buf.truncate(read);
            self.start = pos;
        }
        let from = (pos - self.start) as usize;
        Ok(&self.buf[from..self.buf.len().min(from + len)])
    }
}
