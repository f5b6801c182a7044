//! The newest states of one fold of one partition, as files or objects. Format: `docs/formats/fold-snapshot.md`.

use crate::{
    Emitted, Folder, Objects, RestoreError, StateHash,
    objects::TEMP,
    wire::{Get, Put, WireError},
};
use floodplain_log::{Disk, is_unreadable};
use floodplain_types::{PartitionId, Position, Timestamp};
use std::{io, path::Path, sync::Arc};
use tracing::warn;

const MAGIC: &[u8; 8] = b"FPFOLD\r\n";
const VERSION: u32 = 2;
/// Magic, version, length, checksum of these three (in version 1: of the rest).
const HEADER_BYTES: usize = 8 + 4 + 8 + 4;
/// The checksum of the rest; version 1 has none here.
const CHECKSUM_BYTES: usize = 4;
/// The newest may turn out to be damaged; the one before it is then the start of a longer replay.
const KEPT: usize = 2;
/// How often a load looks for what is there: each look but the first means that another process has written in the meantime.
const LOOKS_MAX: usize = 5;
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
    /// The disk or the object storage refused.
    #[error("cannot {action} {place}")]
    Io { action: &'static str, place: String, source: io::Error },
    /// Written by a newer version of this program.
    #[error(
        "snapshot {place} was written by a newer version of this program ({reason}): start that version, or move it away to go on from an older state and the log"
    )]
    Newer { place: String, reason: String },
}

/// What [`Snapshots::load`] found.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// Of the newest snapshot that could be used.
    pub meta: Option<SnapshotMeta>,
    /// Damaged snapshots and those that the disk cannot read. They are kept under their new names, which are these, if the
    /// store lets them be renamed.
    pub set_aside: Vec<String>,
}

/// The snapshots of one fold of one partition. Cheap to clone.
///
/// In a folder of one process, two calls of [`Self::write`] must not run at the same time. Where several processes write, one that is
/// late does no harm: the same position has the same state, and an older one is pruned, or of no use.
#[derive(Debug, Clone)]
pub struct Snapshots {
    store: Arc<dyn Objects>,
    prefix: String,
}

impl Snapshots {
    /// Snapshots in `<root>/<fold>/<stream>-<partition>/`, where `stream` is the lasting name.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, root: &Path, fold: &str, partition: &PartitionId) -> Self {
        Self::of(Arc::new(Folder::new(disk, root)), fold, partition)
    }

    /// Snapshots in `<folder>/<stream>-<partition>/` of a store; `folder` is the fold's own.
    #[must_use]
    pub fn of(store: Arc<dyn Objects>, folder: &str, partition: &PartitionId) -> Self {
        Self { store, prefix: format!("{folder}/{}-{}", partition.stream, partition.index) }
    }

    /// Where they are, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.store.place(&self.prefix)
    }

    /// Writes `snapshot` so that a power cut leaves it whole or not there, then removes all but
    /// the two newest. Blocks. Returns its length in bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the snapshots that were there are still there.
    pub fn write(&self, snapshot: &Snapshot) -> Result<u64, SnapshotError> {
        let (bytes, key) = (encode(snapshot), self.key(&name_of(snapshot.meta.position)));
        let length = bytes.len() as u64;
        self.store.put(&key, bytes).map_err(|source| self.failed("write", &key, source))?;
        self.prune();
        Ok(length)
    }

    /// Removes what is older than the two newest, and what writes of before them have left. A failure costs space and is
    /// tried again after the next write.
    fn prune(&self) {
        let Ok(names) = self.store.list(&self.prefix) else { return };
        let found = snapshots(&names);
        let Some(&(oldest, _)) = found.get(found.len().saturating_sub(KEPT)) else { return };
        let position =
            |name: &str| position_of(if name.starts_with(TEMP) { &name[name.find("snapshot-")?..] } else { name });
        for name in names.iter().filter(|name| position(name).is_some_and(|position| position < oldest)) {
            let key = self.key(name);
            if let Err(error) = self.store.delete(&key) {
                warn!(place = self.store.place(&key), %error, "old snapshot could not be removed");
            }
        }
    }

    /// Gives the newest usable snapshot to `restore`. Blocks.
    ///
    /// One that is damaged or that the disk cannot read, or whose state `restore` cannot decode, is set aside
    /// and the one before it is tried. Nothing at all is a state too: the replay starts with the log. `restore` may
    /// then have been called all the same, and what it made is of no use.
    ///
    /// # Errors
    /// [`SnapshotError::Newer`] for one of a newer version: to go on would throw state away.
    /// [`SnapshotError::Io`] if they cannot be listed, or if one cannot be read for a reason that lies not in
    /// its bytes (no right to open it, too many open files, no network): that passes, and what retention has taken from the log is
    /// nowhere else.
    pub fn load(
        &self,
        mut restore: impl FnMut(&Snapshot) -> Result<(), RestoreError>,
    ) -> Result<Loaded, SnapshotError> {
        let mut loaded = Loaded::default();
        let mut looks = 1;
        let mut found = self.found()?;
        while let Some((position, name)) = found.pop() {
            let key = self.key(&name);
            // What cannot be read is asked for twice.
            let read = match self.store.get(&key) {
                Err(error) if is_unreadable(&error) => self.store.get(&key),
                other => other,
            };
            let decoded = match read {
                Ok(bytes) => decode(&bytes),
                Err(error) if is_unreadable(&error) => Err(Damage::Broken(format!("the disk cannot read it: {error}"))),
                // Another process has pruned it, so there are newer ones.
                Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS_MAX => {
                    looks += 1;
                    found = self.found()?;
                    found.retain(|(_, name)| !loaded.set_aside.contains(&self.aside(name).1));
                    continue;
                }
                Err(source) => return Err(self.failed("read", &key, source)),
            };
            let damage = match decoded {
                Ok(snapshot) if snapshot.meta.position != position => "position is not that of its name".to_owned(),
                Ok(snapshot) => match restore(&snapshot) {
                    Ok(()) => {
                        loaded.meta = Some(snapshot.meta);
                        break;
                    }
                    Err(RestoreError::Wire(error)) => error.to_string(),
                    Err(error @ RestoreError::Format { .. }) => {
                        return Err(SnapshotError::Newer { place: self.store.place(&key), reason: error.to_string() });
                    }
                },
                Err(Damage::Newer(version)) => {
                    let reason = format!("file version {version}");
                    return Err(SnapshotError::Newer { place: self.store.place(&key), reason });
                }
                Err(Damage::Broken(reason)) => reason,
            };
            loaded.set_aside.push(self.set_aside(&name, &damage));
        }
        Ok(loaded)
    }

    /// Positions and names of the snapshots that are there, oldest first.
    fn found(&self) -> Result<Vec<(Position, String)>, SnapshotError> {
        let names = self.store.list(&self.prefix).map_err(|source| self.failed("list", &self.prefix, source))?;
        Ok(snapshots(&names))
    }

    /// Keeps one that is no snapshot any more under another name, and gives the place that it has now.
    fn set_aside(&self, name: &str, damage: &str) -> String {
        let (aside, place) = self.aside(name);
        // A store that does not let it be renamed need not keep the older state from being used; the next start tries again.
        match self.store.rename(&self.key(name), &aside) {
            Ok(()) => warn!(place, damage, "snapshot is damaged and was set aside"),
            Err(error) => warn!(place, damage, %error, "snapshot is damaged and cannot be set aside for good"),
        }
        place
    }

    /// The key that a damaged one gets, and where that is.
    fn aside(&self, name: &str) -> (String, String) {
        let key = self.key(&format!("damaged-{name}"));
        let place = self.store.place(&key);
        (key, place)
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn failed(&self, action: &'static str, key: &str, source: io::Error) -> SnapshotError {
        SnapshotError::Io { action, place: self.store.place(key), source }
    }
}

/// Those of `names` that are names of snapshots, with their positions, oldest first.
fn snapshots(names: &[String]) -> Vec<(Position, String)> {
    let mut found: Vec<_> = names.iter().filter_map(|name| Some((position_of(name)?, name.clone()))).collect();
    found.sort();
    found
}

fn name_of(position: Position) -> String {
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
    const BODY: usize = HEADER_BYTES + CHECKSUM_BYTES;
    let mut bytes = vec![0; BODY];
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
    let (length, checksum) = ((bytes.len() - HEADER_BYTES) as u64, crc32c::crc32c(&bytes[BODY..]));
    bytes[HEADER_BYTES..BODY].copy_from_slice(&checksum.to_le_bytes());
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..20].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..20]);
    bytes[20..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Snapshot, Damage> {
    let broken = |reason: &str| Err(Damage::Broken(reason.to_owned()));
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return broken("shorter than its header") };
    if &header[..8] != MAGIC {
        return broken("no magic");
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (version, length) = (number(8), u64::from(number(12)) | u64::from(number(16)) << 32);
    // All versions but the first have this checksum: so a version that nobody has written is not taken for a newer one.
    if version != 1 && crc32c::crc32c(&header[..20]) != number(20) {
        return broken("checksum of its header does not match");
    }
    if version > VERSION {
        return Err(Damage::Newer(version));
    }
    if body.len() as u64 != length {
        return broken("length is not that of its header");
    }
    let (checksum, body) = match (version, body.split_first_chunk::<CHECKSUM_BYTES>()) {
        (1, _) => (number(20), body),
        (VERSION, Some((checksum, rest))) => (u32::from_le_bytes(*checksum), rest),
        _ => return broken("no such version, or shorter than its checksum"),
    };
    if crc32c::crc32c(body) != checksum {
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
