//! Frames and commit groups: what a journal is made of, byte for byte.
//!
//! `docs/formats/journal.md` has the tables. Integers are little-endian, except inside a batch.

use crate::{Partition, record_batch::patch_base_offset};

/// Bytes in front of the batch.
pub(crate) const FRAME_HEADER: usize = 44;
/// Bytes in front of the frames of a group.
pub(crate) const GROUP_HEADER: usize = 56;
/// What a group starts with: "FPGR".
pub(crate) const GROUP_MAGIC: [u8; 4] = *b"FPGR";
const VERSION: u16 = 2;
/// Where the checksum of the bytes before it is.
const HEAD_CRC_AT: usize = 48;
/// Where the checksum of a group is; it covers all other bytes.
const GROUP_CRC_AT: usize = 52;
/// No offset and no byte position is greater: what comes behind one can be computed.
const POSITION_MAX: u64 = 1 << 62;

/// The head of a frame, which names the place of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub partition: Partition,
    pub base_offset: u64,
    /// Byte position of the batch in the partition. The frame's header comes right before it and is
    /// counted too, so that neighbours in a segment are neighbours in this count.
    pub at: u64,
    pub ingest_ms: i64,
    pub batch_len: u32,
    /// How far the last offset is from the base. Also in the batch; here it has a checksum of its
    /// own, so that a damaged batch does not hide where the next one starts.
    pub last_delta: u32,
}

impl Frame {
    /// Appends head and batch, with the base offset put in place.
    pub(crate) fn write(&self, buf: &mut Vec<u8>, batch: &[u8]) {
        debug_assert_eq!(batch.len(), self.batch_len as usize);
        let start = buf.len();
        buf.extend_from_slice(&self.partition.stream.to_le_bytes());
        buf.extend_from_slice(&self.partition.index.to_le_bytes());
        buf.extend_from_slice(&self.base_offset.to_le_bytes());
        buf.extend_from_slice(&self.at.to_le_bytes());
        buf.extend_from_slice(&self.ingest_ms.to_le_bytes());
        buf.extend_from_slice(&self.batch_len.to_le_bytes());
        buf.extend_from_slice(&self.last_delta.to_le_bytes());
        let crc = crc32c::crc32c(&buf[start..]);
        buf.extend_from_slice(&crc.to_le_bytes());
        buf.extend_from_slice(batch);
        patch_base_offset(&mut buf[start + FRAME_HEADER..], self.base_offset);
    }

    /// Reads a head; `None` if it is cut short or its checksum is wrong.
    pub(crate) fn parse(head: &[u8]) -> Option<Self> {
        let head: &[u8; FRAME_HEADER] = head.first_chunk()?;
        if crc32c::crc32c(&head[..40]) != u32_at(head, 40) {
            return None;
        }
        let frame = Self {
            partition: Partition { stream: u32_at(head, 0), index: u32_at(head, 4) },
            base_offset: u64_at(head, 8),
            at: u64_at(head, 16),
            ingest_ms: u64_at(head, 24) as i64,
            batch_len: u32_at(head, 32),
            last_delta: u32_at(head, 36),
        };
        (frame.base_offset <= POSITION_MAX && frame.at <= POSITION_MAX).then_some(frame)
    }

    /// Bytes of head and batch.
    pub(crate) fn len(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.batch_len)
    }
}

/// A place in the journals: all bytes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct JournalPos {
    pub seq: u64,
    pub pos: u64,
}

/// The head of a commit group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// The journal it belongs to: a stale block of another file is never taken for ours.
    pub seq: u64,
    /// Grows by one with each group, also from file to file.
    pub number: u64,
    /// Bytes of head and frames.
    pub len: u32,
    pub frame_count: u32,
    /// Everything before this place was synced before the group was written.
    pub synced: JournalPos,
}

impl Group {
    /// Fills the first bytes of `group`, which already holds the frames behind them.
    ///
    /// Nobody outside knows the `salt` of the log, so no payload can pass for a group.
    pub(crate) fn seal(&self, group: &mut [u8], salt: u32) {
        debug_assert_eq!(group.len(), self.len as usize);
        group[..4].copy_from_slice(&GROUP_MAGIC);
        group[4..6].copy_from_slice(&VERSION.to_le_bytes());
        group[6..8].fill(0);
        group[8..16].copy_from_slice(&self.seq.to_le_bytes());
        group[16..24].copy_from_slice(&self.number.to_le_bytes());
        group[24..28].copy_from_slice(&self.len.to_le_bytes());
        group[28..32].copy_from_slice(&self.frame_count.to_le_bytes());
        group[32..40].copy_from_slice(&self.synced.seq.to_le_bytes());
        group[40..48].copy_from_slice(&self.synced.pos.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &group[..HEAD_CRC_AT]);
        group[HEAD_CRC_AT..GROUP_CRC_AT].copy_from_slice(&crc.to_le_bytes());
        let crc = group_crc(group, salt);
        group[GROUP_CRC_AT..GROUP_HEADER].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a head, by its own checksum: that of the group needs all of it.
    pub(crate) fn parse_head(head: &[u8], salt: u32) -> Option<Self> {
        let head: &[u8; GROUP_HEADER] = head.first_chunk()?;
        if head[..4] != GROUP_MAGIC || u16::from_le_bytes([head[4], head[5]]) != VERSION {
            return None;
        }
        if crc32c::crc32c_append(salt, &head[..HEAD_CRC_AT]) != u32_at(head, HEAD_CRC_AT) {
            return None;
        }
        let group = Self {
            seq: u64_at(head, 8),
            number: u64_at(head, 16),
            len: u32_at(head, 24),
            frame_count: u32_at(head, 28),
            synced: JournalPos { seq: u64_at(head, 32), pos: u64_at(head, 40) },
        };
        (group.len as usize >= GROUP_HEADER).then_some(group)
    }

    /// Checks a whole group and gives the frames with their positions inside it.
    ///
    /// `None` if anything is wrong: a group is there whole or not at all.
    pub(crate) fn parse(bytes: &[u8], salt: u32) -> Option<(Self, Vec<(usize, Frame)>)> {
        let group = Self::parse_head(bytes, salt)?;
        if bytes.len() != group.len as usize || group_crc(bytes, salt) != u32_at(bytes, GROUP_CRC_AT) {
            return None;
        }
        let mut frames = Vec::with_capacity((group.frame_count as usize).min(bytes.len() / FRAME_HEADER));
        let mut pos = GROUP_HEADER;
        while pos < bytes.len() {
            let frame = Frame::parse(&bytes[pos..])?;
            let end = pos + FRAME_HEADER + frame.batch_len as usize;
            if end > bytes.len() || (frame.batch_len as usize) < crate::HEADER_BYTES {
                return None;
            }
            frames.push((pos, frame));
            pos = end;
        }
        (frames.len() == group.frame_count as usize).then_some((group, frames))
    }
}

fn group_crc(group: &[u8], salt: u32) -> u32 {
    let head = crc32c::crc32c_append(salt, &group[..GROUP_CRC_AT]);
    crc32c::crc32c_append(head, &group[GROUP_HEADER..])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: u32 = 0x5a17;

    fn group(batches: &[Vec<u8>]) -> Vec<u8> {
        let mut buf = vec![0; GROUP_HEADER];
        for (idx, batch) in batches.iter().enumerate() {
            let frame = Frame {
                partition: Partition { stream: 1, index: idx as u32 },
                base_offset: idx as u64 * 10,
                at: 40,
                ingest_ms: -5,
                batch_len: batch.len() as u32,
                last_delta: 0,
            };
            frame.write(&mut buf, batch);
        }
        let head = Group {
            seq: 7,
            number: 9,
            len: buf.len() as u32,
            frame_count: batches.len() as u32,
            synced: JournalPos { seq: 6, pos: 123 },
        };
        head.seal(&mut buf, SALT);
        buf
    }

    proptest! {
        #[test]
        fn round_trip(batches in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 61..200), 0..5)) {
            let bytes = group(&batches);
            let (head, frames) = Group::parse(&bytes, SALT).unwrap();
            prop_assert_eq!((head.seq, head.number, head.synced), (7, 9, JournalPos { seq: 6, pos: 123 }));
            prop_assert_eq!(frames.len(), batches.len());
            for ((pos, frame), batch) in frames.iter().zip(&batches) {
                prop_assert_eq!(&bytes[pos + FRAME_HEADER + 8..pos + frame.len() as usize], &batch[8..]);
                prop_assert_eq!(&bytes[pos + FRAME_HEADER..][..8], &frame.base_offset.to_be_bytes()[..]);
            }
        }

        #[test]
        fn any_change_is_found(at: prop::sample::Index, bit in 0..8) {
            let mut bytes = group(&[vec![1; 70], vec![2; 61]]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Group::parse(&bytes, SALT).is_none());
        }

        #[test]
        fn a_cut_is_found(cut: prop::sample::Index) {
            let bytes = group(&[vec![1; 70]]);
            prop_assert!(Group::parse(&bytes[..cut.index(bytes.len())], SALT).is_none());
        }
    }
}
