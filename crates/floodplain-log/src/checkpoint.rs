//! Where each partition starts and ends, so that positions are never used twice even when
//! retention has taken all records of a partition. Layout in `docs/formats/catalog.md`.

use crate::{
    FastMap, Partition,
    disk::Disk,
    files,
    frame::{u32_at, u64_at},
};
use std::{io, path::Path};

/// Kept twice, like the catalog.
pub(crate) const NAMES: [&str; 2] = ["checkpoint", "checkpoint.copy"];
const MAGIC: &[u8; 8] = b"FPCHECK\x01";
/// Magic, covered sequence, count, checksum.
const HEADER: usize = 24;
const ENTRY: usize = 32;
pub(crate) const MAX_FILE: u64 = 8 << 30;

/// Start and end of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bounds {
    /// The first offset that can be read.
    pub start: u64,
    /// The offset after the last committed record.
    pub end: u64,
    /// The byte position after the last committed batch.
    pub end_at: u64,
}

impl Bounds {
    /// Widens the end.
    pub(crate) fn reach(&mut self, end: u64, end_at: u64) {
        self.end = self.end.max(end);
        self.end_at = self.end_at.max(end_at);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Checkpoint {
    /// Ends take account of all segments and lost journals up to this sequence.
    pub covers: u64,
    pub parts: FastMap<Partition, Bounds>,
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_unstable_by_key(|(partition, _)| **partition);
        let mut bytes = vec![0; HEADER];
        for (partition, bounds) in parts {
            bytes.extend_from_slice(&partition.stream.to_le_bytes());
            bytes.extend_from_slice(&partition.index.to_le_bytes());
            for number in [bounds.start, bounds.end, bounds.end_at] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.covers.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.parts.len() as u32).to_le_bytes());
        let crc = crc(&bytes);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER || &bytes[..8] != MAGIC || crc(bytes) != u32_at(bytes, 20) {
            return None;
        }
        let entries = bytes[HEADER..].chunks_exact(ENTRY);
        if entries.len() != u32_at(bytes, 16) as usize || !entries.remainder().is_empty() {
            return None;
        }
        let parts = entries.map(|entry| {
            let partition = Partition { stream: u32_at(entry, 0), index: u32_at(entry, 4) };
            (partition, Bounds { start: u64_at(entry, 8), end: u64_at(entry, 16), end_at: u64_at(entry, 24) })
        });
        Some(Self { covers: u64_at(bytes, 8), parts: parts.collect() })
    }

    /// Writes both copies and makes them durable.
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let bytes = self.encode();
        for name in NAMES {
            files::replace(disk, &dir.join(name), &bytes)?;
            disk.sync_dir(dir)?;
        }
        Ok(())
    }
}

/// The version of a whole checkpoint that this program does not know.
pub(crate) fn other_version(bytes: &[u8]) -> Option<u8> {
    let is_other = bytes.len() >= HEADER && bytes[..7] == MAGIC[..7] && bytes[7] != MAGIC[7];
    (is_other && crc(bytes) == u32_at(bytes, 20)).then(|| bytes[7])
}

/// The newest whole copy, and the bytes of damaged ones.
#[derive(Debug, Default)]
pub(crate) struct LoadedCheckpoint {
    pub checkpoint: Option<Checkpoint>,
    pub damaged: Vec<(&'static str, Vec<u8>)>,
}

pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<LoadedCheckpoint> {
    let mut loaded = LoadedCheckpoint::default();
    for name in NAMES {
        let Some(bytes) = files::read_whole(disk, &dir.join(name), MAX_FILE)? else { continue };
        match Checkpoint::decode(&bytes) {
            // The first copy is written first, so it is never older than the second.
            Some(checkpoint) => drop(loaded.checkpoint.get_or_insert(checkpoint)),
            None => loaded.damaged.push((name, bytes)),
        }
    }
    Ok(loaded)
}

fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[HEADER..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsDisk;

    #[test]
    fn a_damaged_copy_never_decides() {
        let dir = tempfile::tempdir().unwrap();
        let parts = (0..3)
            .map(|index| (Partition { stream: 1, index }, Bounds { start: 1, end: u64::from(index) + 7, end_at: 99 }));
        let checkpoint = Checkpoint { covers: 5, parts: parts.collect() };
        checkpoint.store(&OsDisk, dir.path()).unwrap();
        let bytes = std::fs::read(dir.path().join("checkpoint")).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            std::fs::write(dir.path().join("checkpoint"), &bad).unwrap();
            let loaded = load(&OsDisk, dir.path()).unwrap();
            assert_eq!((loaded.checkpoint.as_ref(), loaded.damaged.len()), (Some(&checkpoint), 1), "byte {at}");
        }
    }
}
