//! A disk in memory that loses power, fills up and fails, all from a seed.

mod faults;
mod gate;
mod image;

#[cfg(test)]
mod tests;

pub use faults::{Fault, Op, Rule, file_kind};
pub use gate::Gate;

use faults::{Faults, Verdict};
use floodplain_log::{Disk, DiskFile, Entry, Space};
use image::{Image, Ino};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// Counts of what was asked of a [`FaultDisk`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of each kind.
    pub calls: BTreeMap<Op, u64>,
    /// Calls of each kind on each [`file_kind`].
    pub calls_on: BTreeMap<(Op, String), u64>,
    pub written_bytes: u64,
    pub read_bytes: u64,
    /// Files that are open now, and the most that were open at once.
    pub open_files: u64,
    pub open_files_max: u64,
}

impl Stats {
    /// Calls of all kinds.
    #[must_use]
    pub fn all_calls(&self) -> u64 {
        self.calls.values().sum()
    }
}

/// The [`Disk`] double: a file system that keeps what was synced and what was not apart.
///
/// Cheap to clone; clones are the same disk. Everything it decides comes from seeds, so equal
/// calls in equal order have equal results.
#[derive(Clone)]
pub struct FaultDisk(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Signalled when a gate opens, and when a caller begins to wait at one.
    gates: Condvar,
}

struct State {
    image: Image,
    faults: Faults,
    rng: SmallRng,
    stats: Stats,
    locked: BTreeSet<PathBuf>,
    total_bytes: u64,
    gates: Vec<gate::Closed>,
    gates_made: u64,
    /// The newest calls but successful questions, for those who look for the cause of a failure.
    recent: VecDeque<Call>,
}

/// A call and how it ended.
struct Call {
    op: Op,
    path: Arc<Path>,
    ended: &'static str,
}

const RECENT_CALLS: usize = 400;

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultDisk").field("calls", &self.calls()).finish_non_exhaustive()
    }
}

impl FaultDisk {
    /// An empty disk of 1 TiB. `seed` decides what a failed call leaves behind.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(Image::default(), seed, 1 << 40)
    }

    fn with(image: Image, seed: u64, total_bytes: u64) -> Self {
        let state = State {
            image,
            faults: Faults::default(),
            rng: SmallRng::seed_from_u64(seed),
            stats: Stats::default(),
            locked: BTreeSet::new(),
            total_bytes,
            gates: Vec::new(),
            gates_made: 0,
            recent: VecDeque::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), gates: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as it is found after a power cut at this moment: what was synced, and of the rest
    /// what `seed` chooses: whole sectors mostly, lengths without their bytes, folder entries
    /// without their files and files without their folder entries.
    ///
    /// This disk is frozen from now on: every call on it fails.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Self {
        let mut state = self.state();
        state.faults.freeze();
        self.wake();
        let mut rng = SmallRng::seed_from_u64(seed);
        let image = state.image.after_power_cut(&mut rng);
        Self::with(image, rng.random(), state.total_bytes)
    }

    /// The disk as it is found after the process was killed at this moment: everything that was
    /// written, and what was not synced is still not synced. This disk is frozen from now on.
    #[must_use]
    pub fn process_crash(&self) -> Self {
        let mut state = self.state();
        state.faults.freeze();
        self.wake();
        Self::with(state.image.clone(), state.rng.random(), state.total_bytes)
    }

    /// A second disk with the same contents, synced and not; this one goes on.
    #[must_use]
    pub fn duplicate(&self, seed: u64) -> Self {
        let state = self.state();
        Self::with(state.image.clone(), seed, state.total_bytes)
    }

    /// Cuts the power at the `n`-th call from now (1 is the next one): that call fails, may have
    /// had any part of its effect, and all later calls fail. Look at the result with
    /// [`Self::power_cut`].
    pub fn cut_at_call(&self, n: u64) {
        self.state().faults.cut_in(n);
    }

    /// Forgets [`Self::cut_at_call`], unless the power is cut already.
    pub fn cancel_cut(&self) {
        self.state().faults.cancel_cut();
    }

    /// Whether the power is cut.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.state().faults.is_frozen()
    }

    /// Adds a rule for a call that shall fail. Rules count calls from now.
    pub fn fail(&self, rule: Rule) {
        self.state().faults.add(rule);
    }

    /// Forgets all rules.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Makes a failed folder sync strict: entries that it did not make certain are seen until the
    /// power goes, and are gone then, whatever later syncs of the folder say.
    pub fn forget_failed_entries(&self) {
        self.state().image.set_forgets();
    }

    /// The kinds of calls, and of the files they were on, that have failed by a rule, or by which
    /// the power went.
    #[must_use]
    pub fn hit(&self) -> BTreeSet<(Op, String)> {
        self.state().faults.hit().clone()
    }

    /// How many calls have failed by a rule.
    #[must_use]
    pub fn faults_fired(&self) -> u64 {
        self.state().faults.fired()
    }

    /// Sets the size of the disk; it may be smaller than what is on it.
    pub fn set_total_bytes(&self, total_bytes: u64) {
        self.state().total_bytes = total_bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().image.used_bytes()
    }

    /// Calls so far, of all kinds.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().stats.all_calls()
    }

    /// What was asked of this disk so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().stats.clone()
    }

    /// The newest few hundred calls that changed something or failed, oldest first, one a line: what
    /// to look at when a test fails.
    #[must_use]
    pub fn recent_calls(&self) -> String {
        let state = self.state();
        let lines = state.recent.iter().map(|Call { op, path, ended }| format!("{op:?} {} {ended}\n", path.display()));
        lines.collect()
    }

    /// All files that can be seen now, with their lengths, by path.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        state.image.entries().map(|(path, ino)| (path.clone(), state.image.len(ino))).collect()
    }

    /// The bytes of a file, past all faults and counters.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.image.bytes(state.image.lookup(path)?).to_vec())
    }

    /// Damages a file, in what is synced as well as in what is seen: `change` gets its bytes.
    /// Returns whether the file exists.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let Some(ino) = state.image.lookup(path) else { return false };
        state.image.damage(ino, change);
        true
    }
}

impl State {
    /// Counts a call and decides how it ends.
    fn enter(&mut self, op: Op, path: &Path) -> Verdict {
        *self.stats.calls.entry(op).or_default() += 1;
        *self.stats.calls_on.entry((op, file_kind(path))).or_default() += 1;
        let verdict = self.faults.judge(op, path);
        let asks = matches!(op, Op::Open | Op::List | Op::Space | Op::Read | Op::Len);
        if !asks || !matches!(verdict, Verdict::Pass) {
            if self.recent.len() == RECENT_CALLS {
                self.recent.pop_front();
            }
            self.recent.push_back(Call { op, path: path.into(), ended: verdict.name() });
        }
        verdict
    }

    /// For calls that only ask: they have no effect when they fail.
    fn ask(&mut self, op: Op, path: &Path) -> io::Result<()> {
        match self.enter(op, path) {
            Verdict::Pass => Ok(()),
            Verdict::Fail(error) | Verdict::Cut(error) | Verdict::Frozen(error) => Err(error),
            Verdict::Short => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    /// For calls that change entries: `effect` runs if the call passes, and by the seed also if it
    /// fails, because the caller of a failed call does not know.
    fn change(&mut self, op: Op, path: &Path, effect: impl FnOnce(&mut Image) -> io::Result<()>) -> io::Result<()> {
        match self.enter(op, path) {
            Verdict::Pass => effect(&mut self.image),
            Verdict::Short => Err(io::ErrorKind::Interrupted.into()),
            Verdict::Frozen(error) => Err(error),
            Verdict::Fail(error) | Verdict::Cut(error) => {
                if self.rng.random() {
                    drop(effect(&mut self.image));
                }
                Err(error)
            }
        }
    }

    fn opened(&mut self) {
        self.stats.open_files += 1;
        self.stats.open_files_max = self.stats.open_files_max.max(self.stats.open_files);
    }

    fn free_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.image.used_bytes())
    }
}

/// The error that every call gives once the power is cut.
fn power_is_cut() -> io::Error {
    io::Error::other("power is cut")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl FaultDisk {
    fn handle(&self, ino: Ino, path: &Path) -> Arc<dyn DiskFile> {
        Arc::new(FaultFile { disk: self.clone(), ino, path: path.to_owned() })
    }
}

impl Disk for FaultDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let ino = {
            let mut state = self.state();
            match state.enter(Op::Create, path) {
                Verdict::Pass => {}
                Verdict::Cut(error) => {
                    drop(state.image.create(path));
                    return Err(error);
                }
                Verdict::Fail(error) | Verdict::Frozen(error) => return Err(error),
                Verdict::Short => return Err(io::ErrorKind::Interrupted.into()),
            }
            let ino = state.image.create(path)?;
            state.opened();
            ino
        };
        Ok(self.handle(ino, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let ino = {
            let mut state = self.state();
            state.ask(Op::Open, path)?;
            let ino = state.image.lookup(path).ok_or_else(|| not_found(path))?;
            state.opened();
            ino
        };
        Ok(self.handle(ino, path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.state();
        state.ask(Op::List, dir)?;
        if !state.image.has_dir(dir) {
            return Err(not_found(dir));
        }
        let mut entries: Vec<Entry> = state
            .image
            .entries()
            .filter(|(path, _)| path.parent() == Some(dir))
            .filter_map(|(path, ino)| {
                let name = path.file_name()?.to_str()?.to_owned();
                Some(Entry { name, len_bytes: state.image.len(ino) })
            })
            .collect();
        // File systems promise no order; nobody may come to rely on one.
        let turn = if entries.is_empty() { 0 } else { state.rng.random_range(0..entries.len()) };
        entries.rotate_left(turn);
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.state().change(Op::CreateDirAll, dir, |image| {
            image.create_dir_all(dir);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state().change(Op::Rename, from, |image| image.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state().change(Op::Remove, path, |image| image.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.pass(Op::SyncDir, dir);
        match state.enter(Op::SyncDir, dir) {
            Verdict::Pass if state.image.has_dir(dir) => {
                if !cfg!(floodplain_mutant = "no_folder_sync") {
                    state.image.sync_dir(dir);
                }
                Ok(())
            }
            Verdict::Pass => Err(not_found(dir)),
            Verdict::Short => Err(io::ErrorKind::Interrupted.into()),
            Verdict::Cut(error) | Verdict::Frozen(error) => Err(error),
            Verdict::Fail(error) => {
                let State { image, rng, .. } = &mut *state;
                image.fail_sync_dir(dir, rng);
                Err(error)
            }
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let mut state = self.state();
        state.ask(Op::Space, path)?;
        Ok(Space { free_bytes: state.free_bytes(), total_bytes: state.total_bytes })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state();
        state.ask(Op::Lock, path)?;
        if !state.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Guard { disk: self.clone(), path: path.to_owned() }))
    }
}

struct Guard {
    disk: FaultDisk,
    path: PathBuf,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.path);
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    ino: Ino,
    /// The name it was opened by, for rules.
    path: PathBuf,
}

impl DiskFile for FaultFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.pass(Op::Read, &self.path);
        state.ask(Op::Read, &self.path)?;
        let bytes = state.image.bytes(self.ino);
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let len = buf.len().min(bytes.len() - start);
        buf[..len].copy_from_slice(&bytes[start..start + len]);
        state.stats.read_bytes += len as u64;
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.pass(Op::Write, &self.path);
        let state = &mut *state;
        let verdict = state.enter(Op::Write, &self.path);
        // A full disk takes what still fits.
        let grows_by = (at + buf.len() as u64).saturating_sub(state.image.len(self.ino));
        let excess = grows_by.saturating_sub(state.free_bytes());
        let fits = buf.len() - usize::try_from(excess).unwrap_or(usize::MAX).min(buf.len());
        let (len, result) = match verdict {
            Verdict::Pass if fits == 0 && !buf.is_empty() => (0, Err(Fault::Enospc.error())),
            Verdict::Pass => (fits, Ok(fits)),
            Verdict::Short => {
                let len = state.rng.random_range(1..=buf.len().max(2) - 1).min(fits);
                (len, Ok(len))
            }
            Verdict::Fail(error) => (state.rng.random_range(0..=fits), Err(error)),
            // What of it arrives is decided when the disk is looked at again.
            Verdict::Cut(error) => (fits, Err(error)),
            Verdict::Frozen(error) => (0, Err(error)),
        };
        state.image.write(self.ino, &buf[..len], at);
        state.stats.written_bytes += len as u64;
        result
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.pass(Op::Sync, &self.path);
        match state.enter(Op::Sync, &self.path) {
            Verdict::Pass => {
                state.image.sync(self.ino);
                Ok(())
            }
            Verdict::Short => Err(io::ErrorKind::Interrupted.into()),
            Verdict::Cut(error) | Verdict::Frozen(error) => Err(error),
            Verdict::Fail(error) => {
                let State { image, rng, .. } = &mut *state;
                image.fail_sync(self.ino, rng);
                Err(error)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.ask(Op::Len, &self.path)?;
        Ok(state.image.len(self.ino))
    }
}

impl Drop for FaultFile {
    fn drop(&mut self) {
        self.disk.state().stats.open_files -= 1;
    }
}
