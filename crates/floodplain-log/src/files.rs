//! Names of the log's files, and reads and writes that finish what they start.

use crate::disk::{Disk, DiskFile, is_unreadable};
use std::{
    io,
    path::{Path, PathBuf},
};

/// What is written here has no lasting name yet; recovery removes it.
pub(crate) const TMP_SUFFIX: &str = ".tmp";
/// Folder of damaged bytes, below the log's own.
pub(crate) const SET_ASIDE: &str = "set-aside";

/// The files that hold records. Sequences are ordered by time and never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DataFile {
    Journal {
        seq: u64,
    },
    /// Made from the journals `first..=last`.
    Segment {
        first: u64,
        last: u64,
    },
}

impl DataFile {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let hex = |digits: &str| {
            (digits.len() == 16 && !digits.starts_with('+')).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        if let Some(seq) = name.strip_prefix("journal-") {
            return Some(Self::Journal { seq: hex(seq)? });
        }
        let (first, last) = name.strip_prefix("segment-")?.split_once('-')?;
        let (first, last) = (hex(first)?, hex(last)?);
        (first <= last).then_some(Self::Segment { first, last })
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Journal { seq } => format!("journal-{seq:016x}"),
            Self::Segment { first, last } => format!("segment-{first:016x}-{last:016x}"),
        }
    }
}

/// `path` with `.tmp` behind it.
pub(crate) fn tmp(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TMP_SUFFIX);
    name.into()
}

/// Writes all of `buf`, however often the system interrupts or writes a part.
pub(crate) fn write_all_at(file: &dyn DiskFile, mut buf: &[u8], mut at: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a disk loses at once when it cannot read a sector.
const BLOCK: u64 = 4 << 10;

/// Reads up to the end of `buf` or of the file, whichever comes first.
///
/// A block that the disk cannot read, also not when it is asked once more, is given as zeros: the
/// checksums tell what that has damaged, and everything else goes its way.
pub(crate) fn read_up_to(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    let mut by_block = false;
    while done < buf.len() {
        let at = at + done as u64;
        let block = (BLOCK - at % BLOCK).min((buf.len() - done) as u64) as usize;
        let want = if by_block { done + block } else { buf.len() };
        match file.read_at(&mut buf[done..want], at) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if !is_unreadable(&error) => return Err(error),
            Err(_) if !by_block => by_block = true,
            Err(error) => {
                let left = file.len()?.saturating_sub(at).min(block as u64) as usize;
                tracing::warn!(at, bytes = left, %error, "disk cannot read a block of the log");
                buf[done..done + left].fill(0);
                done += left;
                if left < block {
                    break;
                }
            }
        }
    }
    Ok(done)
}

/// Whether the disk cannot read some of these bytes.
pub(crate) fn is_any_unreadable(file: &dyn DiskFile, range: &std::ops::Range<u64>) -> bool {
    let mut buf = [0; BLOCK as usize];
    (range.start..range.end).step_by(buf.len()).any(|at| {
        let len = (range.end - at).min(BLOCK) as usize;
        file.read_at(&mut buf[..len], at).is_err_and(|error| is_unreadable(&error))
    })
}

/// The version in a header that is whole and has this magic, but not its version (the last byte).
///
/// Headers of all versions end in the checksum of what comes before it.
pub(crate) fn other_version(header: &[u8], magic: &[u8; 8]) -> Option<u8> {
    let crc = header.last_chunk::<4>()?;
    let is_other = header.len() > 12 && header[..7] == magic[..7] && header[7] != magic[7];
    (is_other && crc32c::crc32c(&header[..header.len() - 4]) == u32::from_le_bytes(*crc)).then(|| header[7])
}

/// Fills `buf`; [`io::ErrorKind::UnexpectedEof`] if the file is too short.
pub(crate) fn read_exact_at(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<()> {
    if read_up_to(file, buf, at)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads a whole file of at most `max_bytes`; `None` if there is none.
pub(crate) fn read_whole(disk: &dyn Disk, path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{len} bytes, at most {max_bytes} expected")));
    }
    let mut buf = vec![0; len as usize];
    let read = read_up_to(&*file, &mut buf, 0)?;
    buf.truncate(read);
    Ok(Some(buf))
}

/// Creates a file that nobody needs if it exists already, by a writer that was cut off.
pub(crate) fn create_afresh(disk: &dyn Disk, path: &Path) -> io::Result<std::sync::Arc<dyn DiskFile>> {
    match disk.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(path)?;
            disk.create(path)
        }
        other => other,
    }
}

/// Replaces a file by `bytes`: after a power cut there is the old one or the new one, whole.
///
/// The file may still be the old one until its folder is synced.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = tmp(path);
    let file = create_afresh(disk, &tmp)?;
    write_all_at(&*file, bytes, 0)?;
    file.sync()?;
    disk.rename(&tmp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ones, but for a sector that cannot be read.
    #[derive(Debug)]
    struct BadSector {
        len: u64,
        bad: std::ops::Range<u64>,
    }

    impl DiskFile for BadSector {
        fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
            let len = self.len.saturating_sub(at).min(buf.len() as u64);
            if at < self.bad.end && self.bad.start < at + len {
                return Err(io::Error::from_raw_os_error(5));
            }
            buf[..len as usize].fill(1);
            Ok(len as usize)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            unreachable!()
        }
        fn sync(&self) -> io::Result<()> {
            unreachable!()
        }
        fn len(&self) -> io::Result<u64> {
            Ok(self.len)
        }
    }

    #[test]
    fn what_cannot_be_read_is_zeros_and_no_more_than_that() {
        for (len, bad) in [(50_000, 9_000..9_512), (50_000, 49_500..50_000), (50_000, 0..1), (100, 0..100)] {
            let file = BadSector { len, bad: bad.clone() };
            for at in [0, 1, 4_096, 8_999, 9_100, 49_999].into_iter().filter(|at| *at < len) {
                let mut buf = vec![7; 60_000];
                let read = read_up_to(&file, &mut buf, at).unwrap();
                assert_eq!(read as u64, len - at, "{bad:?} from {at}");
                for (byte, idx) in buf[..read].iter().zip(at..) {
                    let is_bad = bad.start / BLOCK <= idx / BLOCK && idx / BLOCK <= (bad.end - 1) / BLOCK;
                    assert!(*byte == u8::from(!is_bad) || is_bad && *byte == 1, "{bad:?} from {at}: {idx}");
                }
                assert!(bad.clone().all(|idx| idx < at || buf[(idx - at) as usize] == 0 || idx >= len));
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for file in [
            DataFile::Journal { seq: 0 },
            DataFile::Journal { seq: u64::MAX },
            DataFile::Segment { first: 3, last: 17 },
        ] {
            assert_eq!(DataFile::parse(&file.name()), Some(file));
        }
        for other in
            ["journal-1", "journal-000000000000000g", "segment-0000000000000002-0000000000000001", "catalog", "lock"]
        {
            assert_eq!(DataFile::parse(other), None, "{other}");
        }
    }
}
