//! Opening: brings the folder to a state in which nothing rests on unsynced bytes.

use super::{EmbeddedConfig, Inner, LockGuard, Queue, Streams, View, commit::Writer};
use crate::{
    FastMap, Partition,
    catalog::{self, CatalogWriter},
    checkpoint::{self, Bounds},
    disk::{Disk, DiskFile},
    files::{self, DataFile, SET_ASIDE, TMP_SUFFIX, read_up_to, write_all_at},
    frame::{GROUP_HEADER, Group, JournalPos},
    journal::{self, Journal, MAX_GROUP_BYTES, Scan},
    metrics::LogMetrics,
    tail::Tail,
};
use floodplain_types::Clock;
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, OnceLock, RwLock, atomic::AtomicU64},
    time::Duration,
};

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two processes must not write one log.
    #[error("another process has the log in {dir} open")]
    Locked { dir: PathBuf },
    /// The disk failed while the log was looked at or repaired.
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The system gives no thread.
    #[error("cannot start the threads of the log")]
    Thread { source: io::Error },
}

/// Bytes that are no part of the log any more; they are kept in `set-aside/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRange {
    pub file: String,
    pub bytes: Range<u64>,
}

/// What opening found and did.
#[derive(Debug, Clone, Default)]
pub struct RecoveryReport {
    pub duration: Duration,
    /// Bytes of journals that were read and checked.
    pub scanned_bytes: u64,
    pub groups: u64,
    /// Bytes above the last synced position that were whole and have been written again.
    pub copied_bytes: u64,
    /// Writes that a crash has cut off. Nothing in them was acknowledged with class `all`.
    pub torn: Vec<DamagedRange>,
    /// Damage below the last synced position: acknowledged records are missing, there is a hole.
    pub corrupt: Vec<DamagedRange>,
}

/// Names file and action in errors.
trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, OpenError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, OpenError> {
        self.map_err(|source| OpenError::Io { action, path: path.to_owned(), source })
    }
}

struct Recovery {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    metrics: LogMetrics,
    report: RecoveryReport,
    parts: FastMap<Partition, Bounds>,
    journals: Vec<Journal>,
    next_seq: u64,
    next_group: u64,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    mut config: EmbeddedConfig,
) -> Result<(Inner, Writer, RecoveryReport), OpenError> {
    #[expect(clippy::disallowed_methods, reason = "for the report only")]
    let started = std::time::Instant::now();
    let dir = config.dir.clone();
    disk.create_dir_all(&dir).context("create", &dir)?;
    let lock_path = dir.join("lock");
    let guard = disk.lock(&lock_path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.clone() },
        _ => OpenError::Io { action: "lock", path: lock_path, source },
    })?;
    let total_bytes = disk.space(&dir).context("ask for the space of", &dir)?.total_bytes;
    config.journal_bytes = config.journal_bytes.min((total_bytes / 32).max(1 << 20));
    let reserve_bytes = config.reserve_bytes.unwrap_or_else(|| {
        (total_bytes / 20).max(4 * config.journal_bytes).min((4 << 30).max(4 * config.journal_bytes))
    });

    let mut recovery = Recovery {
        disk: Arc::clone(&disk),
        dir: dir.clone(),
        metrics: LogMetrics::new(),
        report: RecoveryReport::default(),
        parts: FastMap::default(),
        journals: Vec::new(),
        next_seq: 1,
        next_group: 1,
    };
    let (streams, catalog) = recovery.catalog()?;
    recovery.checkpoint()?;
    recovery.journals()?;
    let writer = recovery.new_journal()?;
    let Recovery { metrics, mut report, parts, journals, .. } = recovery;
    report.duration = started.elapsed();

    let view = View { parts, tail: Tail::new(config.tail_bytes), journals };
    let inner = Inner {
        disk,
        clock,
        config,
        reserve_bytes,
        streams: RwLock::new(streams),
        catalog: Mutex::new(catalog),
        queue: Mutex::new(Queue::default()),
        queued: Condvar::new(),
        queued_bytes: AtomicU64::new(0),
        view: RwLock::new(view),
        watchers: RwLock::default(),
        poisoned: OnceLock::new(),
        metrics,
        _lock: LockGuard(guard),
    };
    Ok((inner, writer, report))
}

impl Recovery {
    fn catalog(&mut self) -> Result<(Streams, CatalogWriter), OpenError> {
        let path = self.dir.join(catalog::NAMES[0]);
        let loaded = catalog::load(&*self.disk, &self.dir).context("read", &path)?;
        for (name, bytes) in loaded.damaged {
            self.set_aside_bytes(name, &bytes)?;
        }
        let writer = CatalogWriter::create(&*self.disk, &self.dir, &loaded.entries).context("write", &path)?;
        let mut streams = Streams::default();
        for entry in loaded.entries.into_values() {
            streams.insert(entry);
        }
        Ok((streams, writer))
    }

    fn checkpoint(&mut self) -> Result<(), OpenError> {
        let path = self.dir.join(checkpoint::NAMES[0]);
        let loaded = checkpoint::load(&*self.disk, &self.dir).context("read", &path)?;
        for (name, bytes) in loaded.damaged {
            self.set_aside_bytes(name, &bytes)?;
        }
        self.parts = loaded.checkpoint.unwrap_or_default().parts;
        Ok(())
    }

    /// Checks all journals, sets damage aside, and writes again what was not known to be synced.
    fn journals(&mut self) -> Result<(), OpenError> {
        let mut seqs = Vec::new();
        for entry in self.disk.list(&self.dir).context("list", &self.dir)? {
            if entry.name.ends_with(TMP_SUFFIX) {
                // Cut off before it got its name: nothing rests on it.
                let path = self.dir.join(&entry.name);
                self.disk.remove(&path).context("remove", &path)?;
            } else if let Some(DataFile::Journal { seq }) = DataFile::parse(&entry.name) {
                seqs.push(seq);
            }
        }
        seqs.sort_unstable();
        self.next_seq = seqs.last().map_or(1, |seq| seq + 1);

        let mut scans = Vec::with_capacity(seqs.len());
        for seq in seqs {
            let path = self.dir.join(DataFile::Journal { seq }.name());
            let file = self.disk.open(&path).context("open", &path)?;
            let scan = journal::scan(&*file, seq).context("read", &path)?;
            self.report.scanned_bytes += scan.len;
            self.report.groups += scan.groups.len() as u64;
            let last = scan.groups.last().map_or(0, |(_, group)| group.number);
            self.next_group = self.next_group.max(last + 1);
            scans.push((seq, path, file, scan));
        }
        let synced = scans.iter().map(|(.., scan)| scan.synced).max().unwrap_or_default();
        for (seq, path, file, scan) in scans {
            self.journal(seq, &path, file, scan, synced)?;
        }
        Ok(())
    }

    fn journal(
        &mut self,
        seq: u64,
        path: &Path,
        file: Arc<dyn DiskFile>,
        scan: Scan,
        synced: JournalPos,
    ) -> Result<(), OpenError> {
        let is_synced = |pos: u64| JournalPos { seq, pos } < synced;
        for bytes in &scan.bad {
            let range = DamagedRange { file: DataFile::Journal { seq }.name(), bytes: bytes.clone() };
            self.set_aside_range(&range, &*file)?;
            if is_synced(bytes.start) {
                tracing::error!(file = range.file, from = bytes.start, to = bytes.end, "journal is damaged");
                self.report.corrupt.push(range);
            } else {
                self.report.torn.push(range);
            }
        }
        let data_end = scan.data_end();
        if data_end == 0 {
            // Started and never used, or nothing whole in it: what was bad has been set aside.
            return self.disk.remove(path).context("remove", path);
        }
        let whole_and_synced =
            scan.bad.is_empty() && (data_end == 0 || JournalPos { seq, pos: data_end } <= synced || seq < synced.seq);
        let (file, scan) = if whole_and_synced {
            (file, scan)
        } else {
            let file = self.write_again(seq, path, &*file, &scan, synced)?;
            let scan = journal::scan(&*file, seq).context("read", path)?;
            (file, scan)
        };
        let mut journal = Journal::new(seq, file);
        journal.len = scan.len;
        for (partition, frame) in scan.frames {
            let bounds = self.parts.entry(partition).or_default();
            // Offsets only grow within a journal; what the checkpoint knows may be ahead of it.
            if journal.frames(partition).last().is_some_and(|last| frame.base <= last.last()) {
                tracing::error!(seq, pos = frame.pos, "frame repeats positions, leaving it out");
                continue;
            }
            bounds.reach(frame.last() + 1, frame.end_at());
            journal.push(partition, frame);
        }
        self.journals.push(journal);
        Ok(())
    }

    /// Copies the whole groups into a new file, syncs it, and puts it in the place of the old one.
    fn write_again(
        &mut self,
        seq: u64,
        path: &Path,
        old: &dyn DiskFile,
        scan: &Scan,
        synced: JournalPos,
    ) -> Result<Arc<dyn DiskFile>, OpenError> {
        let tmp = files::tmp(path);
        let new = files::create_afresh(&*self.disk, &tmp).context("create", &tmp)?;
        let mut len = 0;
        let mut buf = Vec::new();
        for (pos, group) in scan.groups.iter().filter(|(_, group)| group.frame_count > 0) {
            buf.resize(group.len as usize, 0);
            files::read_exact_at(old, &mut buf, *pos).context("read", path)?;
            // The file counts as a whole only with the seal at its end.
            Group { synced: JournalPos::default(), ..*group }.seal(&mut buf);
            write_all_at(&*new, &buf, len).context("write", &tmp)?;
            len += u64::from(group.len);
            if (JournalPos { seq, pos: *pos }) >= synced {
                self.report.copied_bytes += u64::from(group.len);
            }
        }
        buf.clear();
        buf.resize(GROUP_HEADER, 0);
        let number = self.next_group;
        self.next_group += 1;
        let synced = JournalPos { seq, pos: len };
        Group { seq, number, len: GROUP_HEADER as u32, frame_count: 0, synced }.seal(&mut buf);
        write_all_at(&*new, &buf, len).context("write", &tmp)?;
        new.sync().context("sync", &tmp)?;
        self.disk.rename(&tmp, path).context("rename", &tmp)?;
        self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        Ok(new)
    }

    /// The journal that the commit thread begins with.
    fn new_journal(&mut self) -> Result<Writer, OpenError> {
        let seq = self.next_seq;
        let path = self.dir.join(DataFile::Journal { seq }.name());
        let file = self.disk.create(&path).context("create", &path)?;
        if !cfg!(floodplain_mutant = "no_folder_sync") {
            self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        }
        let synced =
            self.journals.last().map_or(JournalPos::default(), |last| JournalPos { seq: last.seq, pos: last.len });
        self.journals.push(Journal::new(seq, Arc::clone(&file)));
        Ok(Writer { file, seq, len: 0, frame_count: 0, next_group: self.next_group, synced })
    }

    fn set_aside_range(&mut self, range: &DamagedRange, file: &dyn DiskFile) -> Result<(), OpenError> {
        let name = format!("{}-{:x}-{:x}", range.file, range.bytes.start, range.bytes.end);
        let source = self.dir.join(&range.file);
        self.set_aside(&name, range.bytes.end - range.bytes.start, |buf, at| {
            read_up_to(file, buf, range.bytes.start + at).context("read", &source)
        })
    }

    fn set_aside_bytes(&mut self, file: &str, bytes: &[u8]) -> Result<(), OpenError> {
        let range = DamagedRange { file: file.to_owned(), bytes: 0..bytes.len() as u64 };
        tracing::error!(file, "file is damaged; its copy and the rest of it are used");
        self.report.corrupt.push(range);
        // Named after what is in it: the same damage found twice is kept once.
        let name = format!("{file}-{:08x}", crc32c::crc32c(bytes));
        self.set_aside(&name, bytes.len() as u64, |buf, at| {
            let rest = &bytes[at as usize..];
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        })
    }

    /// Keeps `len` bytes under `name`, durably, unless they are there already.
    fn set_aside(
        &mut self,
        name: &str,
        len: u64,
        mut fill: impl FnMut(&mut [u8], u64) -> Result<usize, OpenError>,
    ) -> Result<(), OpenError> {
        let dir = self.dir.join(SET_ASIDE);
        self.disk.create_dir_all(&dir).context("create", &dir)?;
        let path = dir.join(name);
        let tmp = files::tmp(&path);
        let file = files::create_afresh(&*self.disk, &tmp).context("create", &tmp)?;
        let mut buf = vec![0; len.min(MAX_GROUP_BYTES) as usize];
        let mut at = 0;
        while at < len {
            let want = (len - at).min(buf.len() as u64) as usize;
            let read = fill(&mut buf[..want], at)?;
            if read == 0 {
                break;
            }
            write_all_at(&*file, &buf[..read], at).context("write", &tmp)?;
            at += read as u64;
        }
        file.sync().context("sync", &tmp)?;
        self.disk.rename(&tmp, &path).context("rename", &tmp)?;
        self.disk.sync_dir(&dir).context("sync", &dir)?;
        self.metrics.damaged_ranges.increment(1);
        self.metrics.set_aside_bytes.increment(at);
        Ok(())
    }
}
