//! Writes a segment from journals, or from smaller segments.

use super::{
    BLOCK_BYTES, BLOCK_ENTRY, Block, END_MAGIC, FILE_HEADER, FILE_MAGIC, FOOTER, PAGE, PART_ENTRY, Pages, PartEntry,
};
use crate::{
    Batch, Partition,
    disk::DiskFile,
    files::{read_up_to, write_all_at},
    frame::{FRAME_HEADER, Frame},
    journal::FrameAt,
};
use std::{io, ops::Range, sync::Arc};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// A file that frames are taken from.
#[derive(Debug)]
pub(crate) struct Source {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub frames: Vec<(Partition, FrameAt)>,
}

/// What was written, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub bytes: u64,
    /// Frames that are damaged in their source: its index among the sources, and the bytes.
    pub damaged: Vec<(usize, Range<u64>)>,
}

/// Writes all frames of `sources`, sorted by partition and offset, into the empty file `out`.
///
/// Of two frames with one position the first is taken. The caller syncs and names the file.
///
/// # Errors
/// What the system says; `out` is then worth nothing.
pub(crate) fn write_segment(out: &dyn DiskFile, first: u64, last: u64, sources: &[Source]) -> io::Result<Written> {
    let mut order: Vec<(Partition, FrameAt, usize)> = Vec::with_capacity(sources.iter().map(|s| s.frames.len()).sum());
    for (idx, source) in sources.iter().enumerate() {
        order.extend(source.frames.iter().map(|(partition, frame)| (*partition, *frame, idx)));
    }
    order.sort_unstable_by_key(|(partition, frame, source)| (*partition, frame.base, *source));
    order.dedup_by_key(|(partition, frame, _)| (*partition, frame.base));

    let mut writer = Writer { out, buf: Vec::with_capacity(BUFFER + (1 << 16)), pos: 0 };
    let mut header = Vec::with_capacity(FILE_HEADER);
    header.extend_from_slice(FILE_MAGIC);
    header.extend_from_slice(&first.to_le_bytes());
    header.extend_from_slice(&last.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    writer.put(&header)?;

    let mut index = Index::default();
    let mut written = Written::default();
    let mut frame_count = 0_u64;
    let mut bytes = Vec::new();
    for (partition, frame, source) in order {
        bytes.resize(FRAME_HEADER + frame.batch_len as usize, 0);
        let read = read_up_to(&*sources[source].file, &mut bytes, frame.pos)?;
        if !is_whole(&bytes[..read], partition, &frame) {
            written.damaged.push((source, frame.pos..frame.pos + bytes.len() as u64));
            continue;
        }
        index.add(partition, &frame, writer.at());
        writer.put(&bytes)?;
        frame_count += 1;
    }
    let (parts, blocks) = index.finish(writer.at());
    let frames_end = writer.at();

    let mut tail = Vec::new();
    let mut entries = Vec::with_capacity(blocks.len() * BLOCK_ENTRY);
    blocks.iter().for_each(|block| block.write(&mut entries));
    Pages::encode::<BLOCK_ENTRY>(&entries, &mut tail);
    entries.clear();
    parts.iter().for_each(|part| part.write(&mut entries));
    Pages::encode::<PART_ENTRY>(&entries, &mut tail);
    let top_start = tail.len();
    for part in parts.iter().step_by(Pages::<PART_ENTRY>::PER_PAGE as usize) {
        tail.extend_from_slice(&part.partition.stream.to_le_bytes());
        tail.extend_from_slice(&part.partition.index.to_le_bytes());
    }
    let top_crc = crc32c::crc32c(&tail[top_start..]);
    let footer = tail.len();
    tail.extend_from_slice(END_MAGIC);
    for number in [first, last, frames_end, blocks.len() as u64, parts.len() as u64, frame_count] {
        tail.extend_from_slice(&number.to_le_bytes());
    }
    let max_ingest_ms = parts.iter().map(|part| part.max_ingest_ms).max().unwrap_or(i64::MIN);
    tail.extend_from_slice(&max_ingest_ms.to_le_bytes());
    tail.resize(footer + FOOTER - 8, 0);
    tail.extend_from_slice(&top_crc.to_le_bytes());
    let crc = crc32c::crc32c(&tail[footer..]);
    tail.extend_from_slice(&crc.to_le_bytes());
    debug_assert_eq!(tail.len() - footer, FOOTER);
    debug_assert_eq!((top_start % PAGE, footer - top_start), (0, parts.len().div_ceil(56) * 8));
    writer.put(&tail)?;
    writer.flush()?;
    written.bytes = writer.pos;
    Ok(written)
}

/// Whether a whole frame is there, down to the checksum of its batch.
pub(crate) fn is_whole_at(file: &dyn DiskFile, partition: Partition, frame: &FrameAt) -> io::Result<bool> {
    let mut bytes = vec![0; FRAME_HEADER + frame.batch_len as usize];
    let read = read_up_to(file, &mut bytes, frame.pos)?;
    Ok(is_whole(&bytes[..read], partition, frame))
}

/// Whether the bytes are the frame that was looked for, down to the checksum of its batch.
fn is_whole(bytes: &[u8], partition: Partition, wanted: &FrameAt) -> bool {
    let matches = Frame::parse(bytes).is_some_and(|head| {
        (head.partition, head.base_offset, head.at, head.batch_len)
            == (partition, wanted.base, wanted.at, wanted.batch_len)
    });
    matches && Batch::check(&bytes[FRAME_HEADER..]).is_ok()
}

struct Writer<'o> {
    out: &'o dyn DiskFile,
    buf: Vec<u8>,
    /// Bytes that are in the file.
    pos: u64,
}

impl Writer<'_> {
    fn at(&self) -> u64 {
        self.pos + self.buf.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        write_all_at(self.out, &self.buf, self.pos)?;
        self.pos += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }
}

/// Gathers index entries while frames go by.
#[derive(Default)]
struct Index {
    parts: Vec<PartEntry>,
    blocks: Vec<Block>,
}

impl Index {
    fn add(&mut self, partition: Partition, frame: &FrameAt, pos: u64) {
        let block = Block { base: frame.base, at: frame.at, pos, max_ingest_ms: frame.ingest_ms };
        let new_part = self.parts.last().is_none_or(|part| part.partition != partition);
        if new_part {
            self.close_part(pos);
            self.parts.push(PartEntry {
                partition,
                base: frame.base,
                end: frame.base,
                base_at: frame.at,
                end_at: frame.at,
                pos,
                end_pos: pos,
                max_ingest_ms: frame.ingest_ms,
                first_block: self.blocks.len() as u32,
                block_count: 1,
            });
            self.blocks.push(block);
        }
        let (Some(part), Some(last)) = (self.parts.last_mut(), self.blocks.last_mut()) else { return };
        if !new_part {
            // Inside a block a byte position leads to a byte of the file, so holes end it.
            let follows = frame.at == part.end_at + FRAME_HEADER as u64;
            if follows && pos - last.pos < BLOCK_BYTES {
                last.max_ingest_ms = last.max_ingest_ms.max(frame.ingest_ms);
            } else {
                part.block_count += 1;
                self.blocks.push(block);
            }
        }
        part.end = frame.last() + 1;
        part.end_at = frame.end_at();
        part.max_ingest_ms = part.max_ingest_ms.max(frame.ingest_ms);
    }

    /// A partition with one block needs no entry for it: its own has the same.
    fn close_part(&mut self, end_pos: u64) {
        if let Some(part) = self.parts.last_mut() {
            part.end_pos = end_pos;
            if part.block_count == 1 {
                self.blocks.pop();
                part.block_count = 0;
            }
        }
    }

    fn finish(mut self, end_pos: u64) -> (Vec<PartEntry>, Vec<Block>) {
        self.close_part(end_pos);
        (self.parts, self.blocks)
    }
}
