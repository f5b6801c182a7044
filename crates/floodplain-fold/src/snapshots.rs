//! The newest states of one fold of one partition, as files. Format: `docs/formats/fold-snapshot.md`.

use crate::{
    Emitted, RestoreError, StateHash,
    wire::{Get, Put, WireError},
};
use floodplain_log::{Disk, DiskFile};
use floodplain_types::{Position, Timestamp};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing::warn;

const MAGIC: &[u8; 8] = b"FPFOLD\r\n";
const VERSION: u32 = 1;
/// Magic, version, length, checksum.
const HEADER_BYTES: usize = 8 + 4 + 8 + 4;
/// The newest may turn out to be damaged; the one before it is then the start of a longer replay.
const KEPT: usize = 2;
/// Level 1: the disk is slower than this, and the file is read once at most.
const ZSTD_LEVEL: i32 = 1;

/// What a snapshot says beside the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// [`crate::Fold::NAME`].
    pub fold: String,
    /// [`crate::Fold::FORMAT`].
    pub format: u16,
    /// The lasting name of the partition.
    pub partition: String,
    /// All records before this position are in the state, none from it on.
    pub position: Position,
    /// Log time after the last of these records.
    pub log_time: Timestamp,
    /// How far outputs were known to be committed.
    pub emitted: Emitted,
    /// Where to read on in `_folds`: no position record of this fold before it says more.
    pub folds_from: Position,
}

/// A state of a fold, ready to be written by a thread that may block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub meta: SnapshotMeta,
    /// What [`crate::Fold::snapshot`] wrote.
    pub state: Vec<u8>,
}

/// Why a snapshot was not written or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk refused.
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The file is not what was written.
    #[error("snapshot {path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    /// Written by a newer version of this program: use that one, or remove the file to replay the log.
    #[error("snapshot {path} was written by a newer version of this program: {reason}")]
    Newer { path: PathBuf, reason: String },
}

/// What [`Snapshots::load`] found.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Of the newest snapshot that could be used.
    pub meta: Option<SnapshotMeta>,
    /// Damaged files that were set aside; they are kept under their new names.
    pub set_aside: Vec<PathBuf>,
}

/// The folder of snapshots of one fold of one partition. Cheap to clone.
///
/// Two calls of [`Self::write`] for one folder must not run at the same time.
#[derive(Debug, Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Snapshots {
    /// Snapshots in `<root>/<fold>/<stream>-<partition>/`, where `stream` is the lasting name.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, root: &Path, fold: &str, partition: &floodplain_types::PartitionId) -> Self {
        Self { disk, dir: root.join(fold).join(format!("{}-{}", partition.stream, partition.index)) }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `snapshot` so that a power cut leaves it whole or not there, then removes all but
    /// the two newest. Blocks. Returns the length of the file in bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the snapshots that were there are still there.
    pub fn write(&self, snapshot: &Snapshot) -> Result<u64, SnapshotError> {
        let bytes = encode(snapshot);
        self.disk.create_dir_all(&self.dir).map_err(|source| self.failed("create", &self.dir, source))?;
        let path = self.dir.join(file_name(snapshot.meta.position));
        let temp = self.dir.join(format!("temp-{}", file_name(snapshot.meta.position)));
        self.write_file(&temp, &bytes)?;
        self.disk.rename(&temp, &path).map_err(|source| self.failed("rename", &temp, source))?;
        self.disk.sync_dir(&self.dir).map_err(|source| self.failed("sync", &self.dir, source))?;
        self.prune();
        Ok(bytes.len() as u64)
    }

    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
        let file = match self.disk.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a write that failed or a crash: nobody has ever relied on it.
                self.disk.remove(path).map_err(|source| self.failed("remove", path, source))?;
                self.disk.create(path)
            }
            other => other,
        }
        .map_err(|source| self.failed("create", path, source))?;
        let mut at = 0;
        while at < bytes.len() {
            match file.write_at(&bytes[at..], at as u64) {
                Ok(0) => return Err(self.failed("write", path, io::ErrorKind::WriteZero.into())),
                Ok(written) => at += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed("write", path, source)),
            }
        }
        file.sync().map_err(|source| self.failed("sync", path, source))
    }

    /// Removes what is older than the two newest. A failure costs disk space and is tried again
    /// after the next write.
    fn prune(&self) {
        let Ok(found) = self.found() else { return };
        for (_, name) in found.iter().rev().skip(KEPT) {
            let path = self.dir.join(name);
            if let Err(error) = self.disk.remove(&path) {
                warn!(path = %path.display(), %error, "old snapshot could not be removed");
            }
        }
    }

    /// Names and positions of the snapshots that are there, oldest first.
    fn found(&self) -> io::Result<Vec<(Position, String)>> {
        let mut found: Vec<_> = match self.disk.list(&self.dir) {
            Ok(entries) => entries.into_iter().filter_map(|e| Some((position_of(&e.name)?, e.name))).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        found.sort();
        Ok(found)
    }

    /// Gives the newest usable snapshot to `restore`. Blocks.
    ///
    /// A damaged file, or one whose state `restore` cannot decode, is set aside and the one
    /// before it is tried. Nothing at all is a state too: the replay starts with the log.
    ///
    /// # Errors
    /// [`SnapshotError::Newer`] for a file of a newer version: to go on would throw state away.
    /// [`SnapshotError::Io`] if the folder or a file cannot be read.
    pub fn load(
        &self,
        mut restore: impl FnMut(&Snapshot) -> Result<(), RestoreError>,
    ) -> Result<Loaded, SnapshotError> {
        let mut loaded = Loaded::default();
        let found = self.found().map_err(|source| self.failed("list", &self.dir, source))?;
        for (position, name) in found.into_iter().rev() {
            let path = self.dir.join(&name);
            let bytes = self.read_file(&path)?;
            let damage = match decode(&bytes) {
                Ok(snapshot) if snapshot.meta.position != position => "position is not that of its name".to_owned(),
                Ok(snapshot) => match restore(&snapshot) {
                    Ok(()) => {
                        loaded.meta = Some(snapshot.meta);
                        break;
                    }
                    Err(RestoreError::Wire(error)) => error.to_string(),
                    Err(error @ RestoreError::Format { .. }) => {
                        return Err(SnapshotError::Newer { path, reason: error.to_string() });
                    }
                },
                Err(Damage::Newer(version)) => {
                    return Err(SnapshotError::Newer { path, reason: format!("file version {version}") });
                }
                Err(Damage::Broken(reason)) => reason,
            };
            warn!(path = %path.display(), damage, "snapshot is damaged and was set aside");
            let aside = self.dir.join(format!("damaged-{name}"));
            self.disk.rename(&path, &aside).map_err(|source| self.failed("rename", &path, source))?;
            self.disk.sync_dir(&self.dir).map_err(|source| self.failed("sync", &self.dir, source))?;
            loaded.set_aside.push(aside);
        }
        Ok(loaded)
    }

    fn read_file(&self, path: &Path) -> Result<Vec<u8>, SnapshotError> {
        let read = |file: Arc<dyn DiskFile>| {
            let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
            let mut at = 0;
            while at < bytes.len() {
                match file.read_at(&mut bytes[at..], at as u64) {
                    Ok(0) => break,
                    Ok(read) => at += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            bytes.truncate(at);
            Ok(bytes)
        };
        self.disk.open(path).and_then(read).map_err(|source| self.failed("read", path, source))
    }

    fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> SnapshotError {
        SnapshotError::Io { action, path: path.to_owned(), source }
    }
}

fn file_name(position: Position) -> String {
    format!("snapshot-{:08x}-{:016x}", position.generation, position.offset)
}

fn position_of(name: &str) -> Option<Position> {
    let (generation, offset) = name.strip_prefix("snapshot-")?.split_once('-')?;
    Some(Position::new(u32::from_str_radix(generation, 16).ok()?, u64::from_str_radix(offset, 16).ok()?))
}

enum Damage {
    Newer(u32),
    Broken(String),
}

impl From<WireError> for Damage {
    fn from(error: WireError) -> Self {
        Self::Broken(error.to_string())
    }
}

fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let meta = &snapshot.meta;
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.put_str(&meta.fold);
    bytes.put_u64(u64::from(meta.format));
    // One stream per fold: the vector has one position today.
    bytes.put_u64(1);
    bytes.put_str(&meta.partition);
    bytes.put_position(meta.position);
    bytes.put_time(meta.log_time);
    bytes.put_position(meta.emitted.position);
    bytes.put_u64(u64::from(meta.emitted.number));
    bytes.put_position(meta.folds_from);
    bytes.extend_from_slice(&StateHash::of(&snapshot.state).0.to_le_bytes());
    bytes.put_u64(snapshot.state.len() as u64);
    match zstd::bulk::compress(&snapshot.state, ZSTD_LEVEL) {
        Ok(compressed) if compressed.len() < snapshot.state.len() => {
            bytes.put_byte(1);
            bytes.extend_from_slice(&compressed);
        }
        _ => {
            bytes.put_byte(0);
            bytes.extend_from_slice(&snapshot.state);
        }
    }
    let (length, checksum) = ((bytes.len() - HEADER_BYTES) as u64, crc32c::crc32c(&bytes[HEADER_BYTES..]));
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..20].copy_from_slice(&length.to_le_bytes());
    bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Snapshot, Damage> {
    let broken = |reason: &str| Err(Damage::Broken(reason.to_owned()));
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return broken("shorter than its header") };
    if &header[..8] != MAGIC {
        return broken("no magic");
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    match number(8) {
        VERSION => {}
        0 => return broken("version 0"),
        newer => return Err(Damage::Newer(newer)),
    }
    let length = u64::from(number(12)) | u64::from(number(16)) << 32;
    if body.len() as u64 != length {
        return broken("length is not that of its header");
    }
    if crc32c::crc32c(body) != number(20) {
        return broken("checksum does not match");
    }
    let mut get = Get::new(body);
    let (fold, format) = (get.str()?.to_owned(), get.u16()?);
    if get.u64()? != 1 {
        return broken("more than one position");
    }
    let meta = SnapshotMeta {
        fold,
        format,
        partition: get.str()?.to_owned(),
        position: get.position()?,
        log_time: get.time()?,
        emitted: Emitted { position: get.position()?, number: get.u32()? },
        folds_from: get.position()?,
    };
    let mut hash = [0; 16];
    for byte in &mut hash {
        *byte = get.byte()?;
    }
    let state_bytes = usize::try_from(get.u64()?).map_err(|_| WireError::Number)?;
    let state = match get.byte()? {
        0 => get.rest().to_vec(),
        1 => match zstd::bulk::decompress(get.rest(), state_bytes) {
            Ok(state) => state,
            Err(error) => return Err(Damage::Broken(format!("does not decompress: {error}"))),
        },
        _ => return broken("unknown compression"),
    };
    if state.len() != state_bytes || StateHash::of(&state) != StateHash(u128::from_le_bytes(hash)) {
        return broken("state hash does not match");
    }
    Ok(Snapshot { meta, state })
}
