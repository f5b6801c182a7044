//! Index pages: fixed-size entries in pages of 4 KiB, each with its own checksum, so that a search
//! reads and checks only what it looks at.

use super::cache::PageCache;
use crate::{disk::DiskFile, files::read_exact_at, frame::u32_at};
use bytes::Bytes;
use std::io;

pub(super) const PAGE: usize = 4096;
/// Number of entries and checksum, at the end of a page.
const TRAILER: usize = 8;

pub(super) enum PageError {
    Io { at: u64, source: io::Error },
    Damaged { at: u64 },
}

/// Entries of `ENTRY` bytes in pages from `start` on.
pub(super) struct Pages<'f, const ENTRY: usize = 1> {
    file: &'f dyn DiskFile,
    start: u64,
    /// Where pages are looked for before they are read, and the segment that they are of there.
    cache: Option<(&'f PageCache, u64)>,
    /// Number of the page in `page`.
    loaded: Option<u64>,
    page: Bytes,
}

impl Pages<'_> {
    /// Bytes that `count` entries take.
    pub(super) fn bytes<const ENTRY: usize>(count: u64) -> u64 {
        count.div_ceil(Pages::<ENTRY>::PER_PAGE).saturating_mul(PAGE as u64)
    }

    /// Appends entries as pages.
    pub(super) fn encode<const ENTRY: usize>(entries: &[u8], out: &mut Vec<u8>) {
        for chunk in entries.chunks(Pages::<ENTRY>::PER_PAGE as usize * ENTRY) {
            let start = out.len();
            out.extend_from_slice(chunk);
            out.resize(start + PAGE - TRAILER, 0);
            out.extend_from_slice(&((chunk.len() / ENTRY) as u32).to_le_bytes());
            let crc = crc32c::crc32c(&out[start..]);
            out.extend_from_slice(&crc.to_le_bytes());
        }
    }
}

impl<'f, const ENTRY: usize> Pages<'f, ENTRY> {
    pub(super) const PER_PAGE: u64 = ((PAGE - TRAILER) / ENTRY) as u64;

    pub(super) fn new(file: &'f dyn DiskFile, start: u64, cache: Option<(&'f PageCache, u64)>) -> Self {
        Self { file, start, cache, loaded: None, page: Bytes::new() }
    }

    /// The entry with this number.
    pub(super) fn entry(&mut self, idx: u64) -> Result<&[u8], PageError> {
        let page = idx / Self::PER_PAGE;
        let at = self.start + page * PAGE as u64;
        if self.loaded != Some(page) {
            self.loaded = None;
            self.page = self.page_at(at)?;
            self.loaded = Some(page);
        }
        let within = (idx % Self::PER_PAGE) as usize;
        if within >= u32_at(&self.page, PAGE - TRAILER) as usize {
            return Err(PageError::Damaged { at });
        }
        Ok(&self.page[within * ENTRY..(within + 1) * ENTRY])
    }

    fn page_at(&self, at: u64) -> Result<Bytes, PageError> {
        if let Some(page) = self.cache.and_then(|(cache, segment)| cache.get((segment, at))) {
            return Ok(page);
        }
        let mut page = vec![0; PAGE];
        read_exact_at(self.file, &mut page, at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => PageError::Damaged { at },
            _ => PageError::Io { at, source },
        })?;
        if crc32c::crc32c(&page[..PAGE - 4]) != u32_at(&page, PAGE - 4) {
            return Err(PageError::Damaged { at });
        }
        let page = Bytes::from(page);
        if let Some((cache, segment)) = self.cache {
            cache.put((segment, at), &page);
        }
        Ok(page)
    }
}
