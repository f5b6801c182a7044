//! One journal file: the index of its frames in memory, and the scan that rebuilds it.

use crate::{
    FastMap, Partition,
    disk::{Disk, DiskFile},
    files::{read_exact_at, read_up_to, write_all_at},
    frame::{FRAME_HEADER, Frame, GROUP_HEADER, GROUP_MAGIC, Group, JournalPos, u32_at, u64_at},
};
use std::{io, ops::Range, path::Path, sync::Arc};

/// No group is longer: a scan need not believe more. See `MAX_UNIT_BYTES` and `GROUP_TARGET_BYTES`.
pub(crate) const MAX_GROUP_BYTES: u64 = 16 << 20;

/// Bytes in front of the first group.
pub(crate) const HEADER: usize = 32;
pub(crate) const MAGIC: &[u8; 8] = b"FPJOURN\x01";

/// Creates a journal file. When this returns, its header is durable, if its name is.
pub(crate) fn create(disk: &dyn Disk, path: &Path, seq: u64, salt: u32) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(path)?;
    write_header(&*file, seq, salt, 0)?;
    file.sync()?;
    Ok(file)
}

/// `settled`: what this file had before this place is in it, or is known to be lost.
pub(crate) fn write_header(file: &dyn DiskFile, seq: u64, salt: u32, settled: u64) -> io::Result<()> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&seq.to_le_bytes());
    header.extend_from_slice(&salt.to_le_bytes());
    header.extend_from_slice(&settled.to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    write_all_at(file, &header, 0)
}

/// A header, if it is whole.
fn whole_header(bytes: &[u8]) -> Option<&[u8; HEADER]> {
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    let is_whole = header.starts_with(MAGIC) && crc32c::crc32c(&header[..HEADER - 4]) == u32_at(header, HEADER - 4);
    is_whole.then_some(header)
}

/// The salt that a header gives; `None` if it is damaged.
pub(crate) fn salt_of(header: &[u8]) -> Option<u32> {
    whole_header(header).map(|header| u32_at(header, 16))
}

/// Where one batch is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameAt {
    pub base: u64,
    pub at: u64,
    /// Byte of the file at which the frame's header starts.
    pub pos: u64,
    pub ingest_ms: i64,
    pub batch_len: u32,
    pub last_delta: u32,
}

impl FrameAt {
    /// The place of a frame whose header starts at `pos`.
    pub(crate) fn of(frame: &Frame, pos: u64) -> Self {
        Self {
            base: frame.base_offset,
            at: frame.at,
            pos,
            ingest_ms: frame.ingest_ms,
            batch_len: frame.batch_len,
            last_delta: frame.last_delta,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        self.base + u64::from(self.last_delta)
    }

    pub(crate) fn end_at(&self) -> u64 {
        self.at + u64::from(self.batch_len)
    }
}

/// The frames of one partition in one journal. Most partitions of a wide log have one.
#[derive(Debug, Clone)]
pub(crate) enum Frames {
    One(FrameAt),
    Many(Vec<FrameAt>),
}

impl Frames {
    pub(crate) fn as_slice(&self) -> &[FrameAt] {
        match self {
            Self::One(frame) => std::slice::from_ref(frame),
            Self::Many(frames) => frames,
        }
    }

    fn push(&mut self, frame: FrameAt) {
        match self {
            Self::One(first) => *self = Self::Many(vec![*first, frame]),
            Self::Many(frames) => frames.push(frame),
        }
    }
}

/// A journal whose frames can be read.
#[derive(Debug)]
pub(crate) struct Journal {
    pub seq: u64,
    pub file: Arc<dyn DiskFile>,
    pub parts: FastMap<Partition, Frames>,
    pub frame_count: usize,
    pub len: u64,
}

impl Journal {
    pub(crate) fn new(seq: u64, file: Arc<dyn DiskFile>) -> Self {
        Self { seq, file, parts: FastMap::default(), frame_count: 0, len: 0 }
    }

    pub(crate) fn push(&mut self, partition: Partition, frame: FrameAt) {
        self.frame_count += 1;
        self.parts.entry(partition).and_modify(|frames| frames.push(frame)).or_insert(Frames::One(frame));
    }

    /// All frames, in no order.
    pub(crate) fn all_frames(&self) -> Vec<(Partition, FrameAt)> {
        let mut all = Vec::with_capacity(self.frame_count);
        for (partition, frames) in &self.parts {
            all.extend(frames.as_slice().iter().map(|frame| (*partition, *frame)));
        }
        all
    }

    pub(crate) fn frames(&self, partition: Partition) -> &[FrameAt] {
        self.parts.get(&partition).map_or(&[], Frames::as_slice)
    }
}

/// What a scan found in one journal file.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Whole groups, in order: start, and head.
    pub groups: Vec<(u64, Group)>,
    pub frames: Vec<(Partition, FrameAt)>,
    /// Ranges without a whole group.
    pub bad: Vec<Range<u64>>,
    /// Length of the file.
    pub len: u64,
    /// The greatest place that any group here knows to be synced.
    pub synced: JournalPos,
    /// As the header says: what is missing before this place has been reported.
    pub settled: u64,
}

impl Scan {
    /// Where the last group with frames ends.
    pub(crate) fn data_end(&self) -> u64 {
        let last = self.groups.iter().rev().find(|(_, group)| group.frame_count > 0);
        last.map_or(0, |(pos, group)| pos + u64::from(group.len))
    }
}

/// Reads a journal from its first byte to its last. `salt` is that of the log.
///
/// Behind damage it goes on with the next whole group of this journal that has a higher number.
///
/// # Errors
/// Only what the disk says: damage is in the result.
pub(crate) fn scan(file: &dyn DiskFile, seq: u64, salt: u32) -> io::Result<Scan> {
    let mut scan = Scan { len: file.len()?, ..Scan::default() };
    let mut buf = vec![0; HEADER];
    let mut pos = scan.len.min(HEADER as u64);
    let read = read_up_to(file, &mut buf, 0)?;
    match whole_header(&buf[..read]) {
        Some(header) => scan.settled = u64_at(header, 20),
        None if scan.len > 0 => scan.bad.push(0..pos),
        None => {}
    }
    let mut next_number = 0;
    while pos < scan.len {
        let place = JournalPos { seq, pos };
        if let Some(group) = read_group(file, place, salt, next_number, scan.len, &mut buf, &mut scan.frames)? {
            next_number = group.number + 1;
            scan.synced = scan.synced.max(group.synced);
            scan.groups.push((pos, group));
            pos += u64::from(group.len);
            continue;
        }
        let bad_from = pos;
        loop {
            pos = find_magic(file, pos + 1, scan.len)?;
            // Not read twice: the outer loop takes it from here.
            if pos >= scan.len
                || read_group(file, JournalPos { seq, pos }, salt, next_number, scan.len, &mut buf, &mut Vec::new())?
                    .is_some()
            {
                break;
            }
        }
        scan.bad.push(bad_from..pos);
    }
    Ok(scan)
}

/// What the heads of frames still say of a group that is not whole.
#[derive(Debug, Default)]
pub(crate) struct Salvage {
    pub frames: Vec<(Partition, FrameAt)>,
    /// Bytes behind the last head that could be read.
    pub unknown_bytes: u64,
}

/// Walks over the frames of a damaged group, as far as their heads lead.
pub(crate) fn salvage(file: &dyn DiskFile, range: &Range<u64>) -> io::Result<Salvage> {
    let mut salvage = Salvage::default();
    let mut pos = range.start + GROUP_HEADER as u64;
    let mut head = [0; FRAME_HEADER];
    while pos + (FRAME_HEADER as u64) < range.end {
        read_exact_at(file, &mut head, pos)?;
        let Some(frame) = Frame::parse(&head) else { break };
        salvage.frames.push((frame.partition, FrameAt::of(&frame, pos)));
        pos += frame.len();
    }
    salvage.unknown_bytes = range.end.saturating_sub(pos);
    Ok(salvage)
}

/// Reads the group at `place`, if a whole one is there, and adds its frames.
fn read_group(
    file: &dyn DiskFile,
    place: JournalPos,
    salt: u32,
    next_number: u64,
    file_len: u64,
    buf: &mut Vec<u8>,
    frames: &mut Vec<(Partition, FrameAt)>,
) -> io::Result<Option<Group>> {
    let pos = place.pos;
    buf.resize(GROUP_HEADER, 0);
    if read_up_to(file, buf, pos)? < GROUP_HEADER {
        return Ok(None);
    }
    let Some(head) = Group::parse_head(buf, salt) else { return Ok(None) };
    let len = u64::from(head.len);
    // Only what comes before it can be known to be synced.
    let is_ours = head.seq == place.seq && head.synced <= place && head.number >= next_number;
    if !is_ours || head.number == u64::MAX || len > MAX_GROUP_BYTES || len > file_len - pos {
        return Ok(None);
    }
    buf.resize(head.len as usize, 0);
    read_exact_at(file, &mut buf[GROUP_HEADER..], pos + GROUP_HEADER as u64)?;
    let Some((group, found)) = Group::parse(buf, salt) else { return Ok(None) };
    for (start, frame) in found {
        frames.push((frame.partition, FrameAt::of(&frame, pos + start as u64)));
    }
    Ok(Some(group))
}

/// The next byte at or after `from` where a group may start, or the end of the file.
fn find_magic(file: &dyn DiskFile, mut from: u64, file_len: u64) -> io::Result<u64> {
    let mut window = vec![0; 1 << 16];
    while from < file_len {
        let read = read_up_to(file, &mut window, from)?;
        if let Some(idx) = window[..read].windows(GROUP_MAGIC.len()).position(|bytes| bytes == GROUP_MAGIC) {
            return Ok(from + idx as u64);
        }
        if read < window.len() {
            break;
        }
        // The magic may lie across the border of two windows.
        from += (read - (GROUP_MAGIC.len() - 1)) as u64;
    }
    Ok(file_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, BatchBuilder, Compression, OsDisk};
    use proptest::prelude::*;

    fn batch(len: usize) -> Batch {
        let mut builder = BatchBuilder::new();
        builder.push(1, None, Some(&vec![b'x'; len]), []).unwrap();
        builder.finish(Compression::None).unwrap()
    }

    const SALT: u32 = 77;

    /// Groups with these numbers of frames, as the commit thread writes them.
    fn journal(groups: &[usize]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        create(&OsDisk, &dir.path().join("journal"), 4, SALT).unwrap();
        let mut bytes = std::fs::read(dir.path().join("journal")).unwrap();
        let mut offset = 0;
        for (idx, count) in groups.iter().enumerate() {
            let mut buf = vec![0; GROUP_HEADER];
            for n in 0..*count {
                let batch = batch(n * 7);
                let frame = Frame {
                    partition: Partition { stream: 0, index: 0 },
                    base_offset: offset,
                    at: 0,
                    ingest_ms: 0,
                    batch_len: batch.as_bytes().len() as u32,
                    last_delta: 0,
                };
                frame.write(&mut buf, batch.as_bytes());
                offset += 1;
            }
            let synced = JournalPos { seq: 4, pos: bytes.len() as u64 };
            let (number, len) = (idx as u64 + 10, buf.len() as u32);
            Group { seq: 4, number, len, frame_count: *count as u32, synced }.seal(&mut buf, SALT);
            bytes.extend(buf);
        }
        bytes
    }

    fn scan_bytes(bytes: &[u8]) -> Scan {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("journal")).unwrap();
        write_all_at(&*file, bytes, 0).unwrap();
        scan(&*file, 4, SALT).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        /// Whatever happens to the bytes: groups that were not hit are found, those that were are
        /// not, and every byte is in a group or in a bad range.
        #[test]
        fn damage_costs_the_groups_that_it_hits(
            groups in proptest::collection::vec(0_usize..6, 1..12),
            hits in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..=255), 0..4),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let whole = journal(&groups);
            let starts: Vec<_> = scan_bytes(&whole).groups;
            prop_assert_eq!(starts.len(), groups.len());
            let mut bytes = whole.clone();
            for (at, change) in hits {
                let at = at.index(bytes.len());
                bytes[at] ^= change;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let scan = scan_bytes(&bytes);
            let untouched: Vec<_> = starts
                .into_iter()
                .filter(|(pos, group)| {
                    let range = *pos as usize..(pos + u64::from(group.len)) as usize;
                    bytes.get(range.clone()) == Some(&whole[range])
                })
                .collect();
            prop_assert_eq!(&scan.groups, &untouched);
            let in_groups: u64 = scan.groups.iter().map(|(_, group)| u64::from(group.len)).sum();
            let in_bad: u64 = scan.bad.iter().map(|range| range.end - range.start).sum();
            let header = if salt_of(&bytes) == Some(SALT) { HEADER as u64 } else { 0 };
            prop_assert_eq!(header + in_groups + in_bad, bytes.len() as u64);
            for range in scan.bad.iter().filter(|range| range.start > 0) {
                let dir = tempfile::tempdir().unwrap();
                let file = OsDisk.create(&dir.path().join("journal")).unwrap();
                write_all_at(&*file, &bytes, 0).unwrap();
                prop_assert!(salvage(&*file, range).unwrap().unknown_bytes <= range.end - range.start);
            }
        }
    }

    /// A client may write into its payload whatever it likes, for the day on which the group around it
    /// is damaged. It does not know the salt, and it cannot make a scan read without end.
    #[test]
    fn a_payload_is_never_a_group() {
        let forged = |number, synced| {
            let mut forged = vec![0; GROUP_HEADER];
            let batch = batch(3);
            let frame = Frame {
                partition: Partition { stream: 9, index: 9 },
                base_offset: 1 << 40,
                at: 44,
                ingest_ms: 0,
                batch_len: batch.as_bytes().len() as u32,
                last_delta: 0,
            };
            frame.write(&mut forged, batch.as_bytes());
            let len = forged.len() as u32;
            Group { seq: 4, number, len, frame_count: 1, synced }.seal(&mut forged, 0);
            forged
        };
        let mut bytes = journal(&[1, 2]);
        let whole = scan_bytes(&bytes);
        let end = bytes.len() as u64;
        bytes.extend(forged(20, JournalPos { seq: 5, pos: 1 << 40 }));
        bytes.extend(forged(u64::MAX, JournalPos::default()));
        let found = scan_bytes(&bytes);
        assert_eq!((found.groups, found.frames, found.synced), (whole.groups, whole.frames, whole.synced));
        assert_eq!((found.bad.len(), &found.bad[0]), (1, &(end..bytes.len() as u64)));
    }

    /// Of a group that is ours: what it says of itself and of what comes behind it is a lie.
    #[test]
    fn a_group_knows_only_what_is_before_it() {
        for (number, ahead) in [(30, 1), (u64::MAX, 0)] {
            let mut bytes = journal(&[1]);
            let pos = bytes.len() as u64;
            let mut lie = vec![0; GROUP_HEADER];
            let synced = JournalPos { seq: 4, pos: pos + ahead };
            Group { seq: 4, number, len: GROUP_HEADER as u32, frame_count: 0, synced }.seal(&mut lie, SALT);
            bytes.extend(lie);
            assert_eq!(scan_bytes(&bytes).groups.len(), 1);
        }
    }
}
