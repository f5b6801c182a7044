//! Index pages: fixed-size entries in pages of 4 KiB, each with its own checksum, so that a search
//! reads and checks only what it looks at.

use crate::{disk::DiskFile, files::read_exact_at, frame::u32_at};
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
    /// Number of the page in `buf`.
    loaded: Option<u64>,
    buf: Vec<u8>,
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

    pub(super) fn new(file: &'f dyn DiskFile, start: u64) -> Self {
        Self { file, start, loaded: None, buf: Vec::new() }
    }

    /// The entry with this number.
    pub(super) fn entry(&mut self, idx: u64) -> Result<&[u8], PageError> {
        let page = idx / Self::PER_PAGE;
        let at = self.start + page * PAGE as u64;
        if self.loaded != Some(page) {
            self.loaded = None;
            self.buf.resize(PAGE, 0);
            read_exact_at(self.file, &mut self.buf, at).map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => PageError::Damaged { at },
                _ => PageError::Io { at, source },
            })?;
            if crc32c::crc32c(&self.buf[..PAGE - 4]) != u32_at(&self.buf, PAGE - 4) {
                return Err(PageError::Damaged { at });
            }
            self.loaded = Some(page);
        }
        let within = (idx % Self::PER_PAGE) as usize;
        if within >= u32_at(&self.buf, PAGE - TRAILER) as usize {
            return Err(PageError::Damaged { at });
        }
        Ok(&self.buf[within * ENTRY..(within + 1) * ENTRY])
    }
}
