//! What is on the disk: as programs see it, and as a power cut leaves it.

use rand::{Rng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The number of a file, which does not change with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ino(u64);

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Default)]
struct Inode {
    /// As programs see it. Shared with `synced` and with other images while equal.
    seen: Arc<Vec<u8>>,
    /// As it is for certain after a power cut.
    synced: Arc<Vec<u8>>,
    /// Writes since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
}

/// A change of folder entries that is not synced yet.
#[derive(Debug, Clone)]
struct Change {
    /// Folders that must still be synced to make it certain.
    unsynced: Vec<PathBuf>,
    /// A name that goes, a name that comes.
    gone: Option<PathBuf>,
    come: Option<(PathBuf, Ino)>,
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<PathBuf, Ino>) {
        if let Some(path) = &self.gone {
            entries.remove(path);
        }
        if let Some((path, ino)) = &self.come {
            entries.insert(path.clone(), *ino);
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    inodes: HashMap<Ino, Inode>,
    next_ino: u64,
    entries: BTreeMap<PathBuf, Ino>,
    synced_entries: BTreeMap<PathBuf, Ino>,
    changes: Vec<Change>,
    /// Whether a failed folder sync forgets changes for good.
    forgets: bool,
    /// Always synced: `create_dir_all` promises it.
    dirs: BTreeSet<PathBuf>,
}

fn overlay(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl Inode {
    fn is_clean(&self) -> bool {
        self.pending.is_empty()
    }

    fn sync(&mut self) {
        if !self.is_clean() {
            let synced = Arc::make_mut(&mut self.synced);
            for (at, data) in self.pending.drain(..) {
                overlay(synced, at, &data);
            }
        }
    }

    /// The bytes after a power cut: each sector of what was not synced is there with the
    /// probability `keep`, and the length is any that the file had since.
    fn after_power_cut(&self, keep: f64, grain: usize, rng: &mut SmallRng) -> Arc<Vec<u8>> {
        if self.is_clean() {
            return Arc::clone(&self.synced);
        }
        let lengths: Vec<usize> = self.pending.iter().map(|(at, data)| at + data.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0).max(self.synced.len());
        let len = match rng.random_range(0..4) {
            0 => self.synced.len(),
            1 => lengths[rng.random_range(0..lengths.len())].max(self.synced.len()),
            2 => rng.random_range(self.synced.len()..=longest),
            _ => longest,
        };
        let mut bytes = self.synced.to_vec();
        bytes.resize(len, 0);
        for (at, data) in &self.pending {
            let (mut from, end) = (*at, (at + data.len()).min(len));
            while from < end {
                let to = end.min((from / grain + 1) * grain);
                if rng.random_bool(keep) {
                    bytes[from..to].copy_from_slice(&data[from - at..to - at]);
                }
                from = to;
            }
        }
        Arc::new(bytes)
    }
}

impl Image {
    fn inode(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.entry(ino).or_default()
    }

    fn parent(path: &Path) -> PathBuf {
        path.parent().unwrap_or(Path::new("")).to_owned()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.entries);
        self.changes.push(change);
    }

    pub(super) fn has_dir(&self, dir: &Path) -> bool {
        dir.as_os_str().is_empty() || self.dirs.contains(dir)
    }

    pub(super) fn lookup(&self, path: &Path) -> Option<Ino> {
        self.entries.get(path).copied()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&PathBuf, Ino)> {
        self.entries.iter().map(|(path, ino)| (path, *ino))
    }

    pub(super) fn bytes(&self, ino: Ino) -> &[u8] {
        self.inodes.get(&ino).map_or(&[], |inode| inode.seen.as_slice())
    }

    pub(super) fn len(&self, ino: Ino) -> u64 {
        self.bytes(ino).len() as u64
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.entries.values().map(|ino| self.len(*ino)).sum()
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Ino> {
        if self.entries.contains_key(path) || self.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let dir = Self::parent(path);
        if !self.has_dir(&dir) {
            return Err(super::not_found(&dir));
        }
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        self.inodes.insert(ino, Inode::default());
        self.change(Change { unsynced: vec![dir], gone: None, come: Some((path.to_owned(), ino)) });
        Ok(ino)
    }

    pub(super) fn create_dir_all(&mut self, dir: &Path) {
        self.dirs.extend(dir.ancestors().map(Path::to_owned));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ino = self.lookup(from).ok_or_else(|| super::not_found(from))?;
        let (source, target) = (Self::parent(from), Self::parent(to));
        if !self.has_dir(&target) {
            return Err(super::not_found(&target));
        }
        // Atomic, also between folders; then certain only when both are synced.
        let unsynced = if source == target { vec![source] } else { vec![source, target] };
        self.change(Change { unsynced, gone: Some(from.to_owned()), come: Some((to.to_owned(), ino)) });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.lookup(path).is_none() {
            return Err(super::not_found(path));
        }
        self.change(Change { unsynced: vec![Self::parent(path)], gone: Some(path.to_owned()), come: None });
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        for change in &mut self.changes {
            change.unsynced.retain(|unsynced| unsynced != dir);
        }
        let Self { changes, synced_entries, .. } = self;
        changes.retain(|change| {
            let certain = change.unsynced.is_empty();
            if certain {
                change.apply(synced_entries);
            }
            !certain
        });
        // A change that waits for its second folder comes after what is certain by now; what it
        // did to the names is seen already, so nothing else is to be done.
    }

    pub(super) fn set_forgets(&mut self) {
        self.forgets = true;
    }

    /// Some changes are certain; the others wait for the next sync, or, if this disk forgets, are
    /// there only until the power goes, as bytes are: no later sync makes them certain.
    pub(super) fn fail_sync_dir(&mut self, dir: &Path, rng: &mut SmallRng) {
        let Self { changes, synced_entries, forgets, .. } = self;
        // In order: what came later is not certain before what came first.
        let certain = rng.random_range(0..=changes.len());
        let mut idx = 0;
        changes.retain(|change| {
            idx += 1;
            let done = idx <= certain && change.unsynced.iter().all(|unsynced| unsynced == dir);
            if done {
                change.apply(synced_entries);
            }
            let is_forgotten = *forgets && change.unsynced.iter().any(|unsynced| unsynced == dir);
            !done && !is_forgotten
        });
    }

    pub(super) fn write(&mut self, ino: Ino, data: &[u8], at: u64) {
        if !data.is_empty() {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let inode = self.inode(ino);
            overlay(Arc::make_mut(&mut inode.seen), at, data);
            inode.pending.push((at, data.to_vec()));
        }
    }

    pub(super) fn sync(&mut self, ino: Ino) {
        self.inode(ino).sync();
    }

    /// After a failed sync Linux may take pages for clean that never reached the disk: of each
    /// pending write the seed says whether it did, and no later sync repeats it.
    pub(super) fn fail_sync(&mut self, ino: Ino, rng: &mut SmallRng) {
        let keep = [0.0, 0.5, 1.0][rng.random_range(0..3)];
        let inode = self.inode(ino);
        let bytes = inode.after_power_cut(keep, SECTOR_BYTES, rng);
        inode.synced = bytes;
        inode.pending.clear();
    }

    pub(super) fn damage(&mut self, ino: Ino, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = self.inode(ino);
        let bytes = Arc::make_mut(&mut inode.seen);
        change(bytes);
        inode.synced = Arc::clone(&inode.seen);
        inode.pending.clear();
    }

    /// The image that is found when the power comes back.
    pub(super) fn after_power_cut(&self, rng: &mut SmallRng) -> Self {
        // Extremes show other faults than the middle does.
        let share = |rng: &mut SmallRng| match rng.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => rng.random_range(0.0..1.0),
        };
        let keep_changes = share(rng);
        let mut entries = self.synced_entries.clone();
        for change in &self.changes {
            if rng.random_bool(keep_changes) {
                change.apply(&mut entries);
            }
        }
        let keep_writes = share(rng);
        // Disks write whole sectors, but what they promise is not what all of them do.
        let grain = if rng.random_ratio(1, 8) { rng.random_range(1..SECTOR_BYTES) } else { SECTOR_BYTES };
        let mut inodes = HashMap::with_capacity(entries.len());
        for ino in entries.values() {
            if let Some(inode) = self.inodes.get(ino) {
                let bytes = inode.after_power_cut(keep_writes, grain, rng);
                inodes.insert(*ino, Inode { seen: Arc::clone(&bytes), synced: bytes, pending: Vec::new() });
            }
        }
        let next_ino = self.next_ino;
        Self {
            inodes,
            next_ino,
            synced_entries: entries.clone(),
            entries,
            changes: Vec::new(),
            forgets: self.forgets,
            dirs: self.dirs.clone(),
        }
    }
}
