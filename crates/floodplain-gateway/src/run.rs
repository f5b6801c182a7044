//! One run of the server.

use floodplain_log::Disk;
use floodplain_types::Clock;
use std::{io, path::Path};

/// What the names of files begin with that note a run.
const NOTE: &str = "run-";

/// Which run of the server this is.
#[derive(Debug, Clone)]
pub struct Run {
    pub(crate) id: u64,
    /// Those before of the same server, as far as they are known.
    pub(crate) previous: Vec<u64>,
}

impl Run {
    /// A run that nothing is known before. Its id is the time it started, mixed with its process id.
    #[must_use]
    pub fn new(clock: &dyn Clock) -> Self {
        let id = clock.now().0 as u64 ^ u64::from(std::process::id()).rotate_left(40);
        Self { id, previous: Vec::new() }
    }

    /// Notes in `dir`, which is this server's alone, that this run has it now, and learns which had it before: one, or more after a crash
    /// between the steps of this. The name of an empty file says it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn noted(mut self, disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let found = disk.list(dir)?.into_iter().map(|entry| entry.name);
        let earlier: Vec<_> = found.filter(|name| name.starts_with(NOTE)).collect();
        disk.create(&dir.join(format!("{NOTE}{:016x}", self.id)))?;
        for name in &earlier {
            disk.remove(&dir.join(name))?;
        }
        disk.sync_dir(dir)?;
        self.previous = earlier.iter().filter_map(|name| u64::from_str_radix(&name[NOTE.len()..], 16).ok()).collect();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_testkit::FaultDisk;
    use floodplain_types::{ManualClock, Timestamp};

    #[test]
    fn a_run_knows_those_before_it() {
        let (disk, dir, clock) = (FaultDisk::new(1), Path::new("/data"), ManualClock::new(Timestamp(1)));
        disk.create_dir_all(dir).unwrap();
        let mut before = Vec::new();
        for _ in 0..3 {
            clock.advance(std::time::Duration::from_secs(1));
            let run = Run::new(&clock).noted(&disk, dir).unwrap();
            assert_eq!(run.previous, before);
            before = vec![run.id];
        }
        assert_eq!(disk.list(dir).unwrap().len(), 1);
    }
}
