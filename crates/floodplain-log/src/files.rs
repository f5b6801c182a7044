//! Names of the log's files, and reads and writes that finish what they start.

use crate::disk::{Disk, DiskFile};
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

/// Reads up to the end of `buf` or of the file, whichever comes first.
pub(crate) fn read_up_to(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
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
