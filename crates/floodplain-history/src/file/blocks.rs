//! Bytes on their way to a disk and back: checksums of whole blocks, so that no decoder ever sees
//! bytes other than those that were written.

use crate::{Error, Result};
use bytes::{Buf, Bytes};
use floodplain_log::{Disk, DiskFile};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use std::{
    fmt,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use twox_hash::XxHash3_128;

/// Bytes that share a checksum: the least that is read. Sums take a thousandth of the file.
pub(super) const BLOCK_BYTES: usize = 1 << 14;
/// What is collected before it is written.
const BUFFER_BYTES: usize = 64 * BLOCK_BYTES;

/// The lower half of XXH3 of 128 bits.
fn block_sum(bytes: &[u8]) -> u64 {
    XxHash3_128::oneshot(bytes) as u64
}

/// Writes a new file from its start to its end.
pub(super) struct Output {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    /// Bytes that were given to the file.
    written: u64,
    whole: XxHash3_128,
    blocks: Vec<u64>,
    tail: Option<Tail>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("file", &self.file).field("len", &self.len()).finish_non_exhaustive()
    }
}

struct Tail {
    at: u64,
    crc: u32,
}

/// Checksums of a finished file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) bytes: u64,
    pub(super) tail_at: u64,
    pub(super) tail_crc: u32,
    pub(super) checksum: u128,
}

impl Output {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Self { file, buffer, written: 0, whole: XxHash3_128::new(), blocks: Vec::new(), tail: None }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Ends the part that is checked in blocks; what comes now is the tail.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn end_blocks(&mut self) -> io::Result<&[u64]> {
        // Whole blocks leave, the rest of one is the last block.
        self.drain(false)?;
        if !self.buffer.is_empty() {
            self.blocks.push(block_sum(&self.buffer));
        }
        self.drain(true)?;
        self.tail = Some(Tail { at: self.len(), crc: 0 });
        Ok(&self.blocks)
    }

    /// Writes what was collected: whole blocks, or all of it.
    fn drain(&mut self, all: bool) -> io::Result<()> {
        let len = if all { self.buffer.len() } else { self.buffer.len() / BLOCK_BYTES * BLOCK_BYTES };
        let out = &self.buffer[..len];
        if let Some(tail) = &mut self.tail {
            tail.crc = crc32c::crc32c_append(tail.crc, out);
        } else if !all {
            self.blocks.extend(out.chunks(BLOCK_BYTES).map(block_sum));
        }
        self.whole.write(out);
        write_all_at(&*self.file, out, self.written)?;
        self.written += len as u64;
        self.buffer.drain(..len);
        Ok(())
    }

    /// Writes the rest and syncs the file.
    pub(super) fn finish(&mut self) -> io::Result<Sums> {
        self.drain(true)?;
        self.file.sync()?;
        let (tail_at, tail_crc) = self.tail.as_ref().map_or((self.written, 0), |tail| (tail.at, tail.crc));
        Ok(Sums { bytes: self.written, tail_at, tail_crc, checksum: self.whole.finish_128() })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.drain(false)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                at += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A file of which every byte is checked before it is used. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Input(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    len: u64,
    tail_at: u64,
    tail: Bytes,
    /// Checksums of the blocks before the tail; empty until they are known.
    blocks: Arc<[u64]>,
    /// Why a read failed: libraries in between keep only its text.
    fault: Mutex<Option<Error>>,
}

impl Input {
    /// Opens a file and reads its tail.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if the file has another length than `len` or another tail.
    pub(super) fn open(disk: &dyn Disk, path: &Path, len: u64, tail_at: u64, tail_crc: Option<u32>) -> Result<Self> {
        let failed = |source| Error::Io { action: "open", path: path.to_owned(), source };
        let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
        let file = disk.open(path).map_err(failed)?;
        let found = file.len().map_err(failed)?;
        if found != len {
            return Err(damaged(format!("it has {found} bytes, not {len}")));
        }
        let size = len.checked_sub(tail_at).and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| damaged(format!("its tail cannot start at byte {tail_at}")))?;
        let tail = read_exact(&*file, path, size, tail_at)?;
        if tail_crc.is_some_and(|crc| crc32c::crc32c(&tail) != crc) {
            return Err(damaged("checksum of its tail does not match".to_owned()));
        }
        Ok(Self(Arc::new(Inner {
            file,
            path: path.to_owned(),
            len,
            tail_at,
            tail,
            blocks: Arc::new([]),
            fault: Mutex::new(None),
        })))
    }

    /// The same file with the checksums of its blocks, which its tail has told.
    pub(super) fn with_blocks(self, tail_at: u64, blocks: Arc<[u64]>) -> Result<Self> {
        if tail_at > self.0.len || blocks.len() as u64 != tail_at.div_ceil(BLOCK_BYTES as u64) {
            return Err(self.damaged("checksums of its blocks do not fit its length"));
        }
        let Inner { file, path, len, tail_at: have, tail, .. } = &*self.0;
        let Some(skip) = tail_at.checked_sub(*have).and_then(|skip| usize::try_from(skip).ok()) else {
            return Err(self.damaged("its tail starts before that of its entry"));
        };
        let fault = Mutex::new(None);
        let (file, path, tail) = (file.clone(), path.clone(), tail.slice(skip.min(tail.len())..));
        Ok(Self(Arc::new(Inner { file, path, len: *len, tail_at, tail, blocks, fault })))
    }

    /// Opens a file whose tail was read before.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if the file has another length than `len`.
    pub(super) fn reopen(disk: &dyn Disk, path: &Path, len: u64, tail_at: u64, blocks: Arc<[u64]>) -> Result<Self> {
        let mut input = Self::open(disk, path, len, len, None)?;
        if let Some(inner) = Arc::get_mut(&mut input.0) {
            (inner.tail_at, inner.blocks) = (tail_at, blocks);
        }
        Ok(input)
    }

    /// The whole file, to be checked against the checksum of its entry.
    pub(super) fn checksum(&self) -> Result<u128> {
        let (mut whole, mut at) = (XxHash3_128::new(), 0);
        while at < self.0.len {
            let size = (self.0.len - at).min(BUFFER_BYTES as u64);
            whole.write(&read_exact(&*self.0.file, &self.0.path, size as usize, at)?);
            at += size;
        }
        Ok(whole.finish_128())
    }

    pub(super) fn tail_at(&self) -> u64 {
        self.0.tail_at
    }

    /// The tail, checked.
    pub(super) fn tail(&self) -> &Bytes {
        &self.0.tail
    }

    pub(super) fn damaged(&self, reason: impl ToString) -> Error {
        Error::Damaged { path: self.0.path.clone(), reason: reason.to_string() }
    }

    pub(super) fn newer(&self, reason: String) -> Error {
        Error::Newer { path: self.0.path.clone(), reason }
    }

    /// What was behind an error of a decoder: a read that failed, or bytes that make no sense.
    pub(super) fn explain(&self, error: &dyn std::error::Error) -> Error {
        let fault = self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        fault.unwrap_or_else(|| self.damaged(error))
    }

    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        let Inner { file, path, tail_at, tail, blocks, .. } = &*self.0;
        let end = at.checked_add(len as u64).filter(|&end| end <= self.0.len);
        let end = end.ok_or_else(|| self.damaged(format!("it refers to {len} bytes at {at}")))?;
        if let Some(from) = at.checked_sub(*tail_at) {
            let from = usize::try_from(from).ok().filter(|from| from + len <= tail.len());
            let from = from.ok_or_else(|| self.damaged("its data refers to its tail"))?;
            return Ok(tail.slice(from..from + len));
        }
        if end > *tail_at {
            return Err(self.damaged(format!("it refers to {len} bytes at {at}, across its parts")));
        }
        let block = BLOCK_BYTES as u64;
        let (from, to) = (at / block * block, end.next_multiple_of(block).min(*tail_at));
        let bytes = read_exact(&**file, path, (to - from) as usize, from)?;
        for (i, bytes) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let i = (from / block) as usize + i;
            if blocks.get(i) != Some(&block_sum(bytes)) {
                return Err(self.damaged(format!("checksum of block {i} does not match")));
            }
        }
        Ok(bytes.slice((at - from) as usize..(end - from) as usize))
    }

    fn read_noting(&self, at: u64, len: usize) -> io::Result<Bytes> {
        self.read(at, len).map_err(|error| {
            let text = error.to_string();
            *self.0.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::Error::other(text)
        })
    }
}

fn read_exact(file: &dyn DiskFile, path: &Path, len: usize, at: u64) -> Result<Bytes> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(0) => {
                let reason = format!("it ends at byte {}", at + done as u64);
                return Err(Error::Damaged { path: path.to_owned(), reason });
            }
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Io { action: "read", path: path.to_owned(), source }),
        }
    }
    Ok(bytes.into())
}

impl Length for Input {
    fn len(&self) -> u64 {
        self.0.len
    }
}

impl ChunkReader for Input {
    type T = Sequence;

    fn get_read(&self, start: u64) -> Result<Sequence, ParquetError> {
        Ok(Sequence { input: self.clone(), at: start, ready: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.read_noting(start, length).map_err(|error| ParquetError::External(error.into()))
    }
}

/// Reads on from a byte, block by block.
#[derive(Debug)]
pub(super) struct Sequence {
    input: Input,
    at: u64,
    ready: Bytes,
}

impl Read for Sequence {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            let Inner { len, tail_at, .. } = *self.input.0;
            let end = if self.at < tail_at { tail_at } else { len };
            let block_end = (self.at / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64;
            let size = end.min(block_end).saturating_sub(self.at);
            if size == 0 {
                return Ok(0);
            }
            self.ready = self.input.read_noting(self.at, size as usize)?;
            self.at += size;
        }
        let size = buf.len().min(self.ready.len());
        self.ready.copy_to_slice(&mut buf[..size]);
        Ok(size)
    }
}
