//! Which streams there are: the numbers that frames carry, and their lasting names.
//!
//! The file is kept twice, because a lost name would lose all records of a stream. Layout in
//! `docs/formats/catalog.md`.

use crate::{
    disk::{Disk, DiskFile},
    files::{self, write_all_at},
    frame::u32_at,
};
use floodplain_types::{StreamId, StreamName, TenantId};
use std::{collections::BTreeMap, io, path::Path, sync::Arc};

pub(crate) const NAMES: [&str; 2] = ["catalog", "catalog.copy"];
pub(crate) const FILE_MAGIC: &[u8; 8] = b"FPCATLG\x02";
/// Magic, salt, checksum.
pub(crate) const FILE_HEADER: usize = 16;
const ENTRY_MAGIC: [u8; 4] = *b"FPCE";
/// Magic, payload length, checksum.
const ENTRY_HEADER: usize = 12;
/// Number, generation, partitions, two lengths, and two names of at most 64 and 128 bytes.
const MAX_PAYLOAD: usize = 16 + 64 + 128;
const MAX_FILE: u64 = 1 << 30;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatalogEntry {
    pub number: u32,
    pub partitions: u32,
    pub id: StreamId,
}

impl CatalogEntry {
    fn write(&self, buf: &mut Vec<u8>) {
        let (tenant, stream) = (self.id.tenant.as_str().as_bytes(), self.id.stream.as_str().as_bytes());
        let mut payload = Vec::with_capacity(MAX_PAYLOAD);
        for number in [self.number, self.id.generation, self.partitions] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        // Names are at most 128 bytes long, by their types.
        for name in [tenant, stream] {
            payload.extend_from_slice(&(name.len() as u16).to_le_bytes());
            payload.extend_from_slice(name);
        }
        buf.extend_from_slice(&ENTRY_MAGIC);
        buf.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        buf.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
        buf.extend_from_slice(&payload);
    }

    /// Reads one entry from the front; also gives its length.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let head: &[u8; ENTRY_HEADER] = bytes.first_chunk()?;
        let len = u32_at(head, 4) as usize;
        if head[..4] != ENTRY_MAGIC || len > MAX_PAYLOAD {
            return None;
        }
        let mut payload = bytes.get(ENTRY_HEADER..ENTRY_HEADER + len)?;
        if crc32c::crc32c(payload) != u32_at(head, 8) || len < 16 {
            return None;
        }
        let numbers = [u32_at(payload, 0), u32_at(payload, 4), u32_at(payload, 8)];
        payload = &payload[12..];
        let mut name = || {
            let len = usize::from(u16::from_le_bytes(*payload.first_chunk()?));
            let name = payload.get(2..2 + len)?;
            payload = &payload[2 + len..];
            std::str::from_utf8(name).ok()
        };
        let tenant = TenantId::new(name()?).ok()?;
        let stream = StreamName::new(name()?).ok()?;
        let [number, generation, partitions] = numbers;
        let entry = Self { number, partitions, id: StreamId { tenant, stream, generation } };
        (payload.is_empty() && partitions > 0).then_some((entry, ENTRY_HEADER + len))
    }
}

/// Bytes of one copy that are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    None,
    /// Only at the end: an entry that a crash has cut off before anyone was told of it.
    Torn,
    /// Whole entries follow.
    Damaged,
}

fn write_header(salt: u32) -> Vec<u8> {
    let mut header = FILE_MAGIC.to_vec();
    header.extend_from_slice(&salt.to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    header
}

/// The salt that a header gives; `None` if it is damaged.
fn salt_of(header: &[u8]) -> Option<u32> {
    let header: &[u8; FILE_HEADER] = header.first_chunk()?;
    let is_whole = header.starts_with(FILE_MAGIC) && crc32c::crc32c(&header[..12]) == u32_at(header, 12);
    is_whole.then(|| u32_at(header, 8))
}

/// All whole entries of one copy.
fn parse_file(bytes: &[u8], entries: &mut BTreeMap<u32, CatalogEntry>) -> Rest {
    let mut at = if salt_of(bytes).is_some() { FILE_HEADER } else { 0 };
    let mut rest = if at == 0 { Rest::Torn } else { Rest::None };
    while at < bytes.len() {
        if let Some((entry, len)) = CatalogEntry::parse(&bytes[at..]) {
            entries.insert(entry.number, entry);
            at += len;
            if rest == Rest::Torn {
                rest = Rest::Damaged;
            }
        } else {
            rest = if rest == Rest::Damaged { rest } else { Rest::Torn };
            at += 1;
        }
    }
    rest
}

/// What was found of the catalog.
#[derive(Debug, Default)]
pub(crate) struct LoadedCatalog {
    pub entries: BTreeMap<u32, CatalogEntry>,
    pub salt: Option<u32>,
    /// Copies that held bytes which are no entry, for setting aside.
    pub damaged: Vec<(&'static str, Rest, Vec<u8>)>,
}

/// Reads both copies; what one has lost, the other may have.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<LoadedCatalog> {
    let mut loaded = LoadedCatalog::default();
    for name in NAMES {
        let Some(bytes) = files::read_whole(disk, &dir.join(name), MAX_FILE)? else { continue };
        loaded.salt = loaded.salt.or(salt_of(&bytes));
        match parse_file(&bytes, &mut loaded.entries) {
            Rest::None => {}
            rest => loaded.damaged.push((name, rest, bytes)),
        }
    }
    Ok(loaded)
}

/// Appends to both copies.
#[derive(Debug)]
pub(crate) struct CatalogWriter {
    files: [Arc<dyn DiskFile>; 2],
    len: u64,
}

impl CatalogWriter {
    /// Writes both copies anew, one after the other, so that nothing rests on bytes that a failed
    /// sync may have left in memory only.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        salt: u32,
        entries: &BTreeMap<u32, CatalogEntry>,
    ) -> io::Result<Self> {
        let mut bytes = write_header(salt);
        for entry in entries.values() {
            entry.write(&mut bytes);
        }
        let open = |name: &str| {
            let path = dir.join(name);
            files::replace(disk, &path, &bytes)?;
            disk.sync_dir(dir)?;
            disk.open(&path)
        };
        Ok(Self { files: [open(NAMES[0])?, open(NAMES[1])?], len: bytes.len() as u64 })
    }

    /// Writes and syncs one entry; after an error it may be there or not.
    pub(crate) fn append(&mut self, entry: &CatalogEntry) -> io::Result<()> {
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        for file in &self.files {
            write_all_at(&**file, &bytes, self.len)?;
            file.sync()?;
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsDisk;

    fn entry(number: u32) -> CatalogEntry {
        let id = StreamId {
            tenant: TenantId::default_tenant(),
            stream: StreamName::new(&format!("s{number}")).unwrap(),
            generation: 0,
        };
        CatalogEntry { number, partitions: 16, id }
    }

    #[test]
    fn one_damaged_copy_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = CatalogWriter::create(&OsDisk, dir.path(), 5, &BTreeMap::new()).unwrap();
        for number in 0..5 {
            writer.append(&entry(number)).unwrap();
        }
        let whole: BTreeMap<_, _> = (0..5).map(|number| (number, entry(number))).collect();
        let bytes = std::fs::read(dir.path().join("catalog")).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            std::fs::write(dir.path().join("catalog"), &bad).unwrap();
            let loaded = load(&OsDisk, dir.path()).unwrap();
            assert_eq!((&loaded.entries, loaded.salt), (&whole, Some(5)), "byte {at}");
            assert_eq!(loaded.damaged.len(), 1, "byte {at}");
        }
        std::fs::remove_file(dir.path().join("catalog")).unwrap();
        assert_eq!(load(&OsDisk, dir.path()).unwrap().entries, whole);
    }

    #[test]
    fn a_damaged_entry_does_not_hide_the_next() {
        let mut bytes = write_header(5);
        entry(0).write(&mut bytes);
        let second = bytes.len();
        entry(1).write(&mut bytes);
        let third = bytes.len();
        entry(2).write(&mut bytes);
        let mut entries = BTreeMap::new();
        assert_eq!(parse_file(&bytes[..third - 1], &mut entries), Rest::Torn);
        assert_eq!(entries.into_keys().collect::<Vec<_>>(), [0]);
        bytes[second + 20] ^= 1;
        let mut entries = BTreeMap::new();
        assert_eq!(parse_file(&bytes, &mut entries), Rest::Damaged);
        assert_eq!(entries.into_keys().collect::<Vec<_>>(), [0, 2]);
    }
}
