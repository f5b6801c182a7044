//! Where whole objects are kept: a folder here, object storage elsewhere.

use floodplain_log::{Disk, DiskFile};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Whole objects by their keys. A key is a path of plain names with `/` between them. All calls block.
pub trait Objects: Send + Sync + fmt::Debug {
    /// The last names of the objects directly below `prefix`, in any order; none is no error.
    ///
    /// # Errors
    /// What the store says.
    fn list(&self, prefix: &str) -> io::Result<Vec<String>>;

    /// The bytes of an object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`]; one that [`floodplain_log::is_unreadable`] knows, for bytes that nobody will ever read;
    /// or what the store says.
    fn get(&self, key: &str) -> io::Result<Vec<u8>>;

    /// Writes an object, in place of one that is there. Whatever is cut off, readers find it whole or not at all; when this
    /// returns it stays.
    ///
    /// # Errors
    /// What the store says; what was there before may still be there.
    fn put(&self, key: &str, bytes: Vec<u8>) -> io::Result<()>;

    /// Gives an object another key. What is cut off may leave it under both.
    ///
    /// # Errors
    /// What the store says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes an object; none is no error.
    ///
    /// # Errors
    /// What the store says.
    fn delete(&self, key: &str) -> io::Result<()>;

    /// Where that is, for people.
    fn place(&self, key: &str) -> String;
}

/// What the names of objects begin with that are not whole yet.
pub(crate) const TEMP: &str = "temp-";

/// A folder, in which a power cut leaves what [`Objects`] promises.
#[derive(Debug)]
pub struct Folder {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    temp: String,
}

impl Folder {
    /// A folder that nobody else writes to. It is made when something is put.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, root: &Path) -> Self {
        Self { disk, root: root.to_owned(), temp: TEMP.to_owned() }
    }

    /// A folder that others write to, too. `run` tells this process from all of them.
    #[must_use]
    pub fn shared(disk: Arc<dyn Disk>, root: &Path, run: u64) -> Self {
        Self { temp: format!("{TEMP}{run:016x}-"), ..Self::new(disk, root) }
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = match self.disk.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a write that failed or a crash: nobody has ever relied on it.
                self.disk.remove(path)?;
                self.disk.create(path)
            }
            other => other,
        }?;
        let mut at = 0;
        while at < bytes.len() {
            match file.write_at(&bytes[at..], at as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => at += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        file.sync()
    }
}

impl Objects for Folder {
    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        match again(|| self.disk.list(&self.root.join(prefix))) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn get(&self, key: &str) -> io::Result<Vec<u8>> {
        let file: Arc<dyn DiskFile> = again(|| self.disk.open(&self.root.join(key)))?;
        let mut bytes = vec![0; usize::try_from(again(|| file.len())?).map_err(io::Error::other)?];
        let mut at = 0;
        while at < bytes.len() {
            match again(|| file.read_at(&mut bytes[at..], at as u64))? {
                0 => break,
                read => at += read,
            }
        }
        bytes.truncate(at);
        Ok(bytes)
    }

    fn put(&self, key: &str, bytes: Vec<u8>) -> io::Result<()> {
        let path = self.root.join(key);
        let (dir, name) = parts(&path)?;
        self.disk.create_dir_all(dir)?;
        let temp = dir.join(format!("{}{name}", self.temp));
        self.write_file(&temp, &bytes)?;
        self.disk.rename(&temp, &path)?;
        self.disk.sync_dir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let to = self.root.join(to);
        self.disk.rename(&self.root.join(from), &to)?;
        self.disk.sync_dir(parts(&to)?.0)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        match self.disk.remove(&self.root.join(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn place(&self, key: &str) -> String {
        self.root.join(key).display().to_string()
    }
}

/// The folder and the name of a file.
fn parts(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Repeats a call that only asks while it is interrupted.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
