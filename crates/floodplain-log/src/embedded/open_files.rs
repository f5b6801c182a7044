//! A few open segments: their number does not grow with the log.

use crate::{disk::Disk, disk::DiskFile, segment::Segment};
use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

/// The most recently used files, at most `max` of them.
#[derive(Debug)]
pub(super) struct OpenFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    max: usize,
    /// Least recently used first. Keyed by the range of the segment.
    files: Mutex<Vec<OpenFile>>,
}

type OpenFile = ((u64, u64), Arc<dyn DiskFile>);

impl OpenFiles {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, max: usize) -> Self {
        Self { disk, dir, max: max.max(1), files: Mutex::default() }
    }

    pub(super) fn get(&self, segment: &Segment) -> io::Result<Arc<dyn DiskFile>> {
        let key = (segment.first, segment.last);
        let mut files = super::lock(&self.files);
        if let Some(idx) = files.iter().rposition(|(other, _)| *other == key) {
            // Most reads come back to the file of the last one.
            let last = files.len() - 1;
            files[idx..=last].rotate_left(1);
            return Ok(Arc::clone(&files[last].1));
        }
        let file = self.disk.open(&self.dir.join(segment.name()))?;
        if files.len() >= self.max {
            files.remove(0);
        }
        files.push((key, Arc::clone(&file)));
        Ok(file)
    }

    /// Lets go of a file that is removed or replaced.
    pub(super) fn forget(&self, first: u64, last: u64) {
        super::lock(&self.files).retain(|(key, _)| *key != (first, last));
    }
}
