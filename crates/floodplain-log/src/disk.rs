//! The one door to files. Everything that Floodplain writes goes through [`Disk`], so that tests
//! can lose power, fill the disk and fail any call.

use std::{fmt, io, path::Path, sync::Arc};

/// Free and total bytes of the file system that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// Whether it is the bytes asked for that the disk cannot give, as opposed to a file that is not there, say, or a process
/// that may not open it: nobody will ever read them.
#[must_use]
pub fn is_unreadable(error: &io::Error) -> bool {
    // Linux: EIO, ENODATA (a bad sector), EBADMSG and EUCLEAN (a checksum of the file system).
    matches!(error.raw_os_error(), Some(5 | 61 | 74 | 117))
}

/// A file in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub len_bytes: u64,
}

/// A file system, as much of it as we use.
///
/// What a power cut leaves: bytes of a file up to its last [`DiskFile::sync`], and the entries of
/// a folder up to its last [`Disk::sync_dir`]; anything later may be there in part, in any order,
/// or not at all. A new file needs both syncs.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a new, empty file.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or what the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or what the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// The files of a folder (not its sub-folders), in any order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Creates a folder and those above it, and syncs each folder that got a new entry.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file, replacing the target; atomic, durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of a folder durable.
    ///
    /// # Errors
    /// What the system says; the state of the folder is then unknown.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Free and total space.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Takes the lock file `path` for this process, until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file. Shared by threads: positions are given, never kept.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads at `at`; fewer bytes than asked for only at the end of the file or if interrupted.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes at `at`; may write only a part.
    ///
    /// # Errors
    /// What the system says; how much was written is then unknown.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize>;

    /// Makes the bytes and the length durable (`fdatasync`).
    ///
    /// # Errors
    /// What the system says. The bytes may be lost even if a later sync succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
