//! Opening: brings the folder to a state in which nothing rests on unsynced bytes.

mod journals;
#[cfg(test)]
mod tests;

use super::{
    EmbeddedConfig, HouseCalls, Inner, JOURNAL_SIZE_PART, LockGuard, Queue, Streams, View, commit::Writer,
    house::House, open_files::OpenFiles, repair, repair::Cause,
};
use crate::{
    FastMap, Partition,
    catalog::{self, CatalogWriter, Rest},
    checkpoint::{self, Bounds},
    disk::{Disk, DiskFile},
    files::{self, DataFile, SET_ASIDE, TMP_SUFFIX},
    frame::{GROUP_MAGIC, JournalPos},
    journal::{self, Journal},
    metrics::LogMetrics,
    segment::{self, PageCache, Segment, SegmentError, Source},
    tail::Tail,
};
use floodplain_types::Clock;
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64},
    },
    time::Duration,
};

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two processes must not write one log.
    #[error("another process has the log in {dir} open")]
    Locked { dir: PathBuf },
    /// Another version of Floodplain has written it; nothing has been touched.
    #[error("{path} has format {version}, which this version of floodplain does not know")]
    OtherFormat { path: PathBuf, version: u8 },
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
    /// Segments in use.
    pub segments: u64,
    /// Segments whose index was damaged and has been made anew.
    pub rebuilt: Vec<String>,
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
    /// Known to nobody outside; in the checksums of groups.
    salt: u32,
    /// Of all streams that the catalog knows.
    all_partitions: Vec<Partition>,
    parts: FastMap<Partition, Bounds>,
    /// Ends are known for all segments and lost journals up to this sequence.
    covers: u64,
    segments: Vec<Arc<Segment>>,
    journals: Vec<Journal>,
    /// Where the journals that were added so far end.
    journal_ends: FastMap<Partition, u64>,
    next_seq: u64,
    next_group: u64,
    /// All journal bytes before this place count, and are synced.
    trusted: JournalPos,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    mut config: EmbeddedConfig,
) -> Result<(Inner, Writer, RecoveryReport), OpenError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long it takes, and how long ago it was, whatever the clock is set to"
    )]
    let started = std::time::Instant::now();
    let dir = config.dir.clone();
    disk.create_dir_all(&dir).context("create", &dir)?;
    let lock_path = dir.join("lock");
    let guard = disk.lock(&lock_path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.clone() },
        _ => OpenError::Io { action: "lock", path: lock_path, source },
    })?;
    let total_bytes = disk.space(&dir).context("ask for the space of", &dir)?.total_bytes;
    let retention_bytes = config.retention_bytes.unwrap_or(total_bytes / 5);
    // Retention takes whole segments: with larger ones it would take what was written a moment ago.
    let part = (total_bytes / 32).min(retention_bytes / JOURNAL_SIZE_PART);
    config.journal_bytes = config.journal_bytes.min(part.max(1 << 20));
    // Segments are written while their journals are still there, and so is the tail at a restart.
    let least_reserve = 4 * config.journal_bytes;
    let reserve_bytes = config.reserve_bytes.unwrap_or((total_bytes / 20).min(4 << 30).max(least_reserve));

    let mut recovery = Recovery {
        disk: Arc::clone(&disk),
        dir: dir.clone(),
        metrics: LogMetrics::new(),
        report: RecoveryReport::default(),
        salt: 0,
        all_partitions: Vec::new(),
        parts: FastMap::default(),
        covers: 0,
        segments: Vec::new(),
        journals: Vec::new(),
        journal_ends: FastMap::default(),
        next_seq: 1,
        next_group: 1,
        trusted: JournalPos::default(),
    };
    let salt = recovery.formats()?;
    let (streams, catalog) = recovery.catalog(salt)?;
    recovery.checkpoint()?;
    let journals = recovery.segments()?;
    recovery.journals(journals)?;
    let (writer, active) = recovery.new_journal()?;
    let kept = repair::set_aside_bytes_of(&*disk, &dir).context("list", &dir.join(SET_ASIDE))?;
    recovery.metrics.set_aside_bytes.set(kept as f64);
    let Recovery { metrics, mut report, parts, segments, journals, .. } = recovery;
    report.duration = started.elapsed();
    report.segments = segments.len() as u64;

    let view = View {
        parts,
        tail: Tail::new(config.tail_bytes),
        segments: Arc::new(segments),
        sealed: journals.into_iter().map(Arc::new).collect(),
        active,
        epoch: 0,
    };
    let inner = Inner {
        open_files: OpenFiles::new(Arc::clone(&disk), dir, config.open_files_max),
        index_pages: PageCache::new(config.index_bytes, metrics.index_read_bytes.clone()),
        disk,
        clock,
        config,
        reserve_bytes,
        retention_bytes,
        streams: RwLock::new(streams),
        catalog: Mutex::new(catalog),
        queue: Mutex::new(Queue::default()),
        queued: Condvar::new(),
        queued_bytes: AtomicU64::new(0),
        appended_bytes: AtomicU64::new(0),
        opened: started,
        sealed_count: AtomicU64::new(0),
        sealed_frames: AtomicU64::new(0),
        active_since_ms: AtomicI64::new(i64::MAX),
        view: RwLock::new(view),
        watchers: RwLock::default(),
        retention_watchers: RwLock::default(),
        house: Mutex::new(HouseCalls::default()),
        house_called: Condvar::new(),
        keeping: Mutex::new(House::default()),
        // A power cut may have brought back what had been removed.
        starts_moved: AtomicBool::new(true),
        hurt: Mutex::default(),
        damage: Mutex::default(),
        poisoned: OnceLock::new(),
        metrics,
        _lock: LockGuard(guard),
    };
    Ok((inner, writer, report))
}

impl Recovery {
    /// Sees to it that nothing of another format is touched. Gives the salt of the journals, if any.
    fn formats(&self) -> Result<Option<u32>, OpenError> {
        let mut salt = None;
        for entry in self.disk.list(&self.dir).context("list", &self.dir)? {
            let path = self.dir.join(&entry.name);
            let name = entry.name.as_str();
            let (magic, len) = match DataFile::parse(name) {
                Some(DataFile::Journal { .. }) => (journal::MAGIC, journal::HEADER),
                Some(DataFile::Segment { .. }) => (segment::FILE_MAGIC, segment::FILE_HEADER),
                None if catalog::NAMES.contains(&name) => (catalog::FILE_MAGIC, catalog::FILE_HEADER),
                None if checkpoint::NAMES.contains(&name) => {
                    let bytes = files::read_whole(&*self.disk, &path, checkpoint::MAX_FILE).context("read", &path)?;
                    if let Some(version) = bytes.as_deref().and_then(checkpoint::other_version) {
                        return Err(OpenError::OtherFormat { path, version });
                    }
                    continue;
                }
                None => continue,
            };
            let file = self.disk.open(&path).context("open", &path)?;
            let mut head = vec![0; len];
            let read = files::read_up_to(&*file, &mut head, 0).context("read", &path)?;
            if let Some(version) = files::other_version(&head[..read], magic) {
                return Err(OpenError::OtherFormat { path, version });
            }
            if magic == journal::MAGIC {
                if head.starts_with(&GROUP_MAGIC) {
                    // Written before there was a header.
                    return Err(OpenError::OtherFormat { path, version: 0 });
                }
                salt = salt.or(journal::salt_of(&head[..read]));
            }
        }
        Ok(salt)
    }

    fn catalog(&mut self, salt: Option<u32>) -> Result<(Streams, CatalogWriter), OpenError> {
        let path = self.dir.join(catalog::NAMES[0]);
        let loaded = catalog::load(&*self.disk, &self.dir).context("read", &path)?;
        for (name, rest, bytes) in loaded.damaged {
            self.set_aside_bytes(name, &bytes, rest == Rest::Damaged)?;
        }
        self.salt = loaded.salt.or(salt).unwrap_or_else(|| {
            // The only chance that is not passed in: it must differ from log to log, and decides nothing.
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &self.dir) as u32
        });
        let writer =
            CatalogWriter::create(&*self.disk, &self.dir, self.salt, &loaded.entries).context("write", &path)?;
        let mut streams = Streams::default();
        for entry in loaded.entries.into_values() {
            let stream = streams.insert(entry);
            self.all_partitions.extend((0..stream.partitions).map(|index| stream.partition(index)));
        }
        Ok((streams, writer))
    }

    fn checkpoint(&mut self) -> Result<(), OpenError> {
        let path = self.dir.join(checkpoint::NAMES[0]);
        let loaded = checkpoint::load(&*self.disk, &self.dir).context("read", &path)?;
        for (name, bytes) in loaded.damaged {
            self.set_aside_bytes(name, &bytes, true)?;
        }
        if let Some(checkpoint) = loaded.checkpoint {
            self.parts = checkpoint.parts;
            self.covers = checkpoint.covers;
        }
        Ok(())
    }

    /// Opens the segments and gives the journals that no segment holds.
    fn segments(&mut self) -> Result<Vec<u64>, OpenError> {
        let (mut segments, mut journals) = (Vec::new(), Vec::new());
        for entry in self.disk.list(&self.dir).context("list", &self.dir)? {
            if entry.name.ends_with(TMP_SUFFIX) {
                // Cut off before it got its name: nothing rests on it.
                self.remove(&entry.name)?;
                continue;
            }
            match DataFile::parse(&entry.name) {
                Some(DataFile::Segment { first, last }) => segments.push((first, last)),
                Some(DataFile::Journal { seq }) => journals.push(seq),
                None => {}
            }
        }
        let last = segments.iter().map(|(_, last)| last).chain(&journals).max();
        self.next_seq = last.map_or(1, |last| last + 1);
        // A file whose records are all in a segment was about to be removed. Segments get their
        // names when they are whole and synced.
        let covering = |range: (u64, u64)| {
            segments.iter().find(|other| **other != range && other.0 <= range.0 && range.1 <= other.1).copied()
        };
        let (mut kept, mut left) = (Vec::new(), Vec::new());
        let mut stale = BTreeMap::<_, Vec<_>>::new();
        for range in &segments {
            match covering(*range) {
                None => kept.push(*range),
                Some(by) => stale.entry(by).or_default().push(DataFile::Segment { first: range.0, last: range.1 }),
            }
        }
        for seq in journals {
            let by = segments.iter().find(|(first, last)| (*first..=*last).contains(&seq));
            match by {
                None => left.push(seq),
                Some(by) => {
                    let by = covering(*by).unwrap_or(*by);
                    stale.entry(by).or_default().push(DataFile::Journal { seq });
                }
            }
        }
        for (range, files) in stale {
            self.take_over(range, &files)?;
            files.iter().try_for_each(|file| self.remove(&file.name()))?;
        }
        kept.sort_unstable();
        for range in kept {
            self.segment(range)?;
        }
        left.sort_unstable();
        Ok(left)
    }

    /// Makes sure of a segment before the files go that it was made from.
    ///
    /// They may be there because its name was not durable, so that is given anew; and where its own
    /// bytes are damaged, theirs are taken.
    fn take_over(&mut self, (first, last): (u64, u64), files: &[DataFile]) -> Result<(), OpenError> {
        let name = DataFile::Segment { first, last }.name();
        let path = self.dir.join(&name);
        let (disk, dir) = (&*self.disk, &self.dir);
        let frames = repair::whole_frames(disk, dir, (first, last)).context("read", &path)?;
        let frames = match frames {
            (_, true) => return repair::write_file_again(disk, dir, &name).context("copy", &path),
            (frames, false) => frames,
        };
        tracing::error!(file = name, "segment is damaged and is made anew from what it was made from");
        let file = disk.open(&path).context("open", &path)?;
        let len = file.len().context("read", &path)?;
        repair::set_aside_range(disk, dir, &self.metrics, Cause::Damage, &name, &*file, &(0..len))
            .context("set aside", &path)?;
        let mut sources = vec![Source { name: name.clone(), file, frames }];
        for stale in files {
            let path = dir.join(stale.name());
            let file = disk.open(&path).context("open", &path)?;
            let frames = match stale {
                DataFile::Journal { seq } => journal::scan(&*file, *seq, self.salt).context("read", &path)?.frames,
                DataFile::Segment { first, last } => {
                    repair::whole_frames(disk, dir, (*first, *last)).context("read", &path)?.0
                }
            };
            sources.push(Source { name: stale.name(), file, frames });
        }
        repair::leave_out_overlaps(&mut sources);
        repair::make_segment(disk, dir, &self.metrics, (first, last), &sources, &|| Ok(())).context("write", &path)?;
        self.report.rebuilt.push(name);
        Ok(())
    }

    fn segment(&mut self, (first, last): (u64, u64)) -> Result<(), OpenError> {
        let name = DataFile::Segment { first, last }.name();
        let path = self.dir.join(&name);
        let segment = match self.open_segment(&path, (first, last)) {
            Err(SegmentError::Damaged { at, reason }) => {
                tracing::error!(file = name, at, reason, "segment is made anew from its frames");
                repair::rebuild_segment(&*self.disk, &self.dir, &self.metrics, (first, last), &|| Ok(()))
                    .context("rebuild", &path)?;
                self.report.rebuilt.push(name);
                self.open_segment(&path, (first, last))
            }
            other => other,
        };
        match segment {
            Ok(segment) => self.segments.push(Arc::new(segment)),
            Err(SegmentError::Io { source, .. }) => return Err(source).context("read", &path),
            Err(error) => return Err(io::Error::other(error)).context("read", &path),
        }
        Ok(())
    }

    /// Opens a segment, and reads where its partitions end unless the checkpoint knows.
    fn open_segment(&mut self, path: &Path, (first, last): (u64, u64)) -> Result<Segment, SegmentError> {
        let file = self.disk.open(path).map_err(|source| SegmentError::Io { at: 0, source })?;
        let segment = Segment::open(&*file, first, last)?;
        if last > self.covers {
            segment.each_part(&*file, |part| {
                self.parts.entry(part.partition).or_default().reach(part.end, part.end_at);
            })?;
        }
        Ok(segment)
    }

    fn remove(&self, name: &str) -> Result<(), OpenError> {
        let path = self.dir.join(name);
        self.disk.remove(&path).context("remove", &path)
    }

    /// The journal that the commit thread begins with.
    fn new_journal(&mut self) -> Result<(Writer, Journal), OpenError> {
        let seq = self.next_seq;
        let path = self.dir.join(DataFile::Journal { seq }.name());
        let file = journal::create(&*self.disk, &path, seq, self.salt).context("create", &path)?;
        self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        let writer = Writer {
            file: Arc::clone(&file),
            seq,
            salt: self.salt,
            len: journal::HEADER as u64,
            frame_count: 0,
            next_group: self.next_group,
            synced: self.trusted,
        };
        Ok((writer, Journal::new(seq, file)))
    }

    fn set_aside_range(&mut self, cause: Cause, range: &DamagedRange, file: &dyn DiskFile) -> Result<(), OpenError> {
        let path = self.dir.join(&range.file);
        repair::set_aside_range(&*self.disk, &self.dir, &self.metrics, cause, &range.file, file, &range.bytes)
            .context("set aside bytes of", &path)
    }

    fn set_aside_bytes(&mut self, file: &str, bytes: &[u8], is_damage: bool) -> Result<(), OpenError> {
        let range = DamagedRange { file: file.to_owned(), bytes: 0..bytes.len() as u64 };
        if is_damage {
            tracing::error!(file, "file is damaged; its copy and the rest of it are used");
            self.report.corrupt.push(range);
        } else {
            self.report.torn.push(range);
        }
        let cause = if is_damage { Cause::Damage } else { Cause::Torn };
        repair::set_aside_bytes(&*self.disk, &self.dir, &self.metrics, cause, file, bytes)
            .context("set aside", &self.dir.join(file))
    }
}
