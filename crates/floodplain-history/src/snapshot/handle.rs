//! A file of the manifest that queries use.

use crate::{
    Result,
    file::{FileEntry, FileReader, Known},
};
use floodplain_log::Disk;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};
use tracing::warn;

/// A file that is in the manifest, or was when a query began. Shared by the snapshots that use it:
/// once it is replaced, the last of them removes it.
#[derive(Debug)]
pub struct FileHandle {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    entry: Arc<FileEntry>,
    /// The footer, once it was read. The file itself is open only while it is read.
    known: OnceLock<Arc<Known>>,
    is_replaced: AtomicBool,
}

impl FileHandle {
    /// The file of `entry` in the folder `dir`. Nothing is read yet.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, entry: Arc<FileEntry>) -> Self {
        Self { disk, dir: dir.to_owned(), entry, known: OnceLock::new(), is_replaced: AtomicBool::new(false) }
    }

    /// What the manifest says of the file.
    #[must_use]
    pub const fn entry(&self) -> &Arc<FileEntry> {
        &self.entry
    }

    /// Opens the file. Blocks; the footer is read and checked once.
    ///
    /// # Errors
    /// Those of [`FileReader::open`].
    pub fn open(&self) -> Result<FileReader> {
        if let Some(known) = self.known.get() {
            return FileReader::reopen(&*self.disk, &self.dir, &self.entry, known);
        }
        let reader = FileReader::open(&*self.disk, &self.dir, &self.entry)?;
        // Of two who come at once, one footer stays; both are the same.
        self.known.get_or_init(|| reader.known().clone());
        Ok(reader)
    }

    /// The manifest does not name the file any more: it is removed when the last handle is dropped.
    pub fn replaced(&self) {
        self.is_replaced.store(true, Ordering::Release);
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if self.is_replaced.load(Ordering::Acquire) {
            let path = self.dir.join(&self.entry.name);
            // It costs space until the next start, which removes what no manifest names.
            if let Err(error) = self.disk.remove(&path) {
                warn!(path = %path.display(), %error, "replaced history file could not be removed");
            }
        }
    }
}
