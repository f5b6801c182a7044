//! House-keeping in the background: journals become segments, small segments become one, and
//! retention takes the oldest.

use super::{HouseCalls, Inner, lock, read, repair, repair::Cause, write};
use crate::{
    Partition,
    checkpoint::Checkpoint,
    files::DataFile,
    journal::Journal,
    segment::{Segment, SegmentError, Source},
};
use floodplain_types::Position;
use std::{
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

/// How often age and size are looked at when nothing else happens.
const ROUND: Duration = Duration::from_secs(60);
/// This many small neighbours are worth writing again as one.
const MERGE_COUNT: usize = 8;

/// What house-keeping remembers between rounds.
#[derive(Debug, Default)]
pub(super) struct House {
    /// Files whose records are elsewhere or passed. They must be gone, durably, before what replaced
    /// them is removed in its turn: else a power cut could bring them back.
    doomed: Vec<PathBuf>,
}

/// The loop of the thread.
pub(super) fn run(inner: &Inner) {
    loop {
        if let Err(error) = lock(&inner.keeping).keep(inner) {
            inner.metrics.house_errors.increment(1);
            tracing::warn!(%error, "house-keeping of the log has failed and is tried again");
        }
        let calls = lock(&inner.house);
        let waiting = |calls: &mut HouseCalls| !calls.work && !calls.closing;
        let (mut calls, _) =
            inner.house_called.wait_timeout_while(calls, ROUND, waiting).unwrap_or_else(PoisonError::into_inner);
        if calls.closing {
            return;
        }
        calls.work = false;
    }
}

impl Inner {
    pub(super) fn call_house(&self) {
        lock(&self.house).work = true;
        self.house_called.notify_one();
    }

    fn closing(&self) -> bool {
        lock(&self.house).closing
    }

    /// Notes a segment whose index is damaged, for making it anew.
    pub(super) fn report_hurt(&self, segment: &Segment) {
        lock(&self.hurt).insert((segment.first, segment.last));
        self.call_house();
    }

    /// Moves starts forward and tells those who asked for it. Gives how many did move.
    pub(super) fn advance_starts(&self, starts: impl IntoIterator<Item = (Partition, u64)>) -> usize {
        let mut moved = Vec::new();
        {
            let streams = read(&self.streams);
            let mut view = write(&self.view);
            for (partition, start) in starts {
                let bounds = view.parts.entry(partition).or_default();
                let start = start.min(bounds.end);
                if start > bounds.start {
                    bounds.start = start;
                    moved.push((partition, Position::new(streams.generation(partition).unwrap_or_default(), start)));
                }
            }
        }
        if !moved.is_empty() {
            self.starts_moved.store(true, Ordering::Relaxed);
            // Sinks are called without a lock of the log.
            let watchers = read(&self.retention_watchers).clone();
            watchers.iter().for_each(|watcher| watcher.passed(&moved));
        }
        moved.len()
    }
}

impl House {
    /// One round. What fails does not keep the other steps from their work; the first error is given.
    pub(super) fn keep(&mut self, inner: &Inner) -> io::Result<()> {
        if inner.is_journal_old() {
            lock(&inner.queue).rotate = true;
            inner.queued.notify_one();
        }
        let swept = self.sweep(inner);
        let moved = self.move_journals(inner);
        let healed = heal_all(inner);
        let merged = self.merge_small(inner);
        let is_early = inner.opened.elapsed() < inner.config.retention_delay;
        let retained = if inner.closing() || is_early { Ok(()) } else { self.retention(inner) };
        {
            // Groups are added to it while the view is locked, too.
            let view = read(&inner.view);
            inner.metrics.segments.set(view.segments.len() as f64);
            inner.metrics.log_bytes.set(view.len_bytes() as f64);
        }
        swept.and(moved).and(healed).and(merged).and(retained)
    }

    fn move_journals(&mut self, inner: &Inner) -> io::Result<()> {
        let mut swept = Ok(());
        while let Some(run) = next_run(inner).filter(|_| !inner.closing()) {
            self.journals_to_segment(inner, &run)?;
            swept = swept.and(self.sweep(inner));
        }
        swept
    }

    fn merge_small(&mut self, inner: &Inner) -> io::Result<()> {
        let mut swept = Ok(());
        while let Some(run) = next_merge(inner).filter(|_| !inner.closing()) {
            self.merge(inner, &run)?;
            swept = swept.and(self.sweep(inner));
        }
        swept
    }

    /// Removes what is doomed. What cannot be removed now is tried again in every round; until then
    /// the start of its partitions, or a segment that covers it, keeps it from coming back.
    fn sweep(&mut self, inner: &Inner) -> io::Result<()> {
        if self.doomed.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        let mut stuck = Vec::new();
        for path in &self.doomed {
            match inner.disk.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    stuck.push(path.clone());
                    result = result.and(Err(error));
                }
                _ => {}
            }
        }
        inner.disk.sync_dir(&inner.config.dir)?;
        self.doomed = stuck;
        result
    }

    fn journals_to_segment(&mut self, inner: &Inner, run: &[Arc<Journal>]) -> io::Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        let sources: Vec<Source> = run
            .iter()
            .map(|journal| Source {
                name: DataFile::Journal { seq: journal.seq }.name(),
                file: Arc::clone(&journal.file),
                frames: journal.all_frames(),
            })
            .collect();
        let range = (first.seq, last.seq);
        let segment = repair::make_segment(&*inner.disk, &inner.config.dir, &inner.metrics, range, &sources, &|| {
            store_checkpoint(inner)
        })?;
        {
            let mut view = write(&inner.view);
            let view = &mut *view;
            Arc::make_mut(&mut view.segments).push(Arc::new(segment));
            view.sealed.drain(..run.len());
            view.epoch += 1;
            inner.count_sealed(&view.sealed);
        }
        let name = |journal: &Arc<Journal>| inner.config.dir.join(DataFile::Journal { seq: journal.seq }.name());
        self.doomed.extend(run.iter().map(name));
        // Without it the next start reads more, and nothing is lost.
        if let Err(error) = store_checkpoint(inner) {
            tracing::warn!(%error, "cannot write the checkpoint of the log");
        }
        Ok(())
    }

    fn merge(&mut self, inner: &Inner, run: &[Arc<Segment>]) -> io::Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        let mut sources = Vec::with_capacity(run.len());
        for segment in run {
            let file = inner.open_files.get(segment)?;
            let (frames, bad) = Segment::scan(&*file, segment.frames_end())?;
            for range in bad {
                let name = segment.name();
                tracing::error!(file = name, from = range.start, to = range.end, "segment is damaged");
                let (disk, dir) = (&*inner.disk, &inner.config.dir);
                repair::set_aside_range(disk, dir, &inner.metrics, Cause::Damage, &name, &*file, &range)?;
                store_checkpoint(inner)?;
            }
            sources.push(Source { name: segment.name(), file, frames });
        }
        let range = (first.first, last.last);
        let keep_ends = || store_checkpoint(inner);
        let merged =
            repair::make_segment(&*inner.disk, &inner.config.dir, &inner.metrics, range, &sources, &keep_ends)?;
        replace_segments(inner, run, Some(merged));
        self.doomed.extend(run.iter().map(|segment| inner.config.dir.join(segment.name())));
        Ok(())
    }

    fn retention(&mut self, inner: &Inner) -> io::Result<()> {
        for segment in expired(inner) {
            let Some(ends) = ends(inner, &segment)? else { break };
            let moved = inner.advance_starts(ends);
            inner.metrics.retained_partitions.increment(moved as u64);
            tracing::info!(file = segment.name(), partitions = moved, "retention passes a segment");
        }
        if !inner.starts_moved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        // Before anything is removed: a partition without records must keep its positions.
        if let Err(error) = store_checkpoint(inner) {
            inner.starts_moved.store(true, Ordering::Relaxed);
            return Err(error);
        }
        let mut swept = Ok(());
        loop {
            let Some(oldest) = read(&inner.view).segments.first().cloned() else { return swept };
            let Some(ends) = ends(inner, &oldest)? else { return swept };
            let is_passed = {
                let view = read(&inner.view);
                ends.iter().all(|(partition, end)| view.parts.get(partition).is_some_and(|b| b.start >= *end))
            };
            if !is_passed {
                return swept;
            }
            inner.metrics.retained_segments.increment(1);
            inner.metrics.retained_bytes.increment(oldest.len);
            self.doomed.push(inner.config.dir.join(oldest.name()));
            replace_segments(inner, &[oldest], None);
            // Passed or not: the space of the next one may be needed all the more.
            swept = swept.and(self.sweep(inner));
        }
    }
}

/// The oldest finished journals that fit into one segment; one at least.
fn next_run(inner: &Inner) -> Option<Vec<Arc<Journal>>> {
    let view = read(&inner.view);
    let mut run = vec![Arc::clone(view.sealed.first()?)];
    let (mut bytes, mut frames) = (run[0].len, run[0].frame_count);
    for journal in &view.sealed[1..] {
        bytes += journal.len;
        frames += journal.frame_count;
        if bytes > inner.config.journal_bytes || frames > super::JOURNAL_FRAMES_MAX {
            break;
        }
        run.push(Arc::clone(journal));
    }
    Some(run)
}

/// The oldest small neighbours that are worth merging.
fn next_merge(inner: &Inner) -> Option<Vec<Arc<Segment>>> {
    let segments = Arc::clone(&read(&inner.view).segments);
    let mut start = 0;
    while start < segments.len() {
        let (mut bytes, mut frames, mut end) = (0, 0, start);
        while let Some(segment) = segments.get(end) {
            bytes += segment.len;
            frames += segment.frame_count;
            if bytes > inner.config.journal_bytes || frames > super::JOURNAL_FRAMES_MAX as u64 {
                break;
            }
            end += 1;
        }
        if end - start >= MERGE_COUNT {
            return Some(segments[start..end].to_vec());
        }
        start = end.max(start + 1);
    }
    None
}

/// Makes all segments anew whose index was found damaged.
fn heal_all(inner: &Inner) -> io::Result<()> {
    let hurt: Vec<_> = std::mem::take(&mut *lock(&inner.hurt)).into_iter().collect();
    let mut result = Ok(());
    for range in hurt {
        let healed = heal(inner, range);
        if healed.is_err() {
            lock(&inner.hurt).insert(range);
        }
        result = result.and(healed);
    }
    result
}

/// Makes a segment with a damaged index anew, under the same name.
fn heal(inner: &Inner, range: (u64, u64)) -> io::Result<()> {
    let Some(old) = read(&inner.view).segments.iter().find(|s| (s.first, s.last) == range).cloned() else {
        return Ok(());
    };
    tracing::error!(file = old.name(), "segment has a damaged index and is made anew from its frames");
    let keep_ends = || store_checkpoint(inner);
    let new = repair::rebuild_segment(&*inner.disk, &inner.config.dir, &inner.metrics, range, &keep_ends)?;
    replace_segments(inner, &[old], Some(new));
    Ok(())
}

/// Takes `old` out of the log, with `new` in their place.
fn replace_segments(inner: &Inner, old: &[Arc<Segment>], new: Option<Segment>) {
    {
        let mut view = write(&inner.view);
        let view = &mut *view;
        let segments = Arc::make_mut(&mut view.segments);
        let is_old = |segment: &Arc<Segment>| old.iter().any(|old| Arc::ptr_eq(old, segment));
        let at = segments.iter().position(is_old).unwrap_or(segments.len());
        segments.retain(|segment| !is_old(segment));
        if let Some(new) = new {
            segments.insert(at, Arc::new(new));
        }
        view.epoch += 1;
    }
    old.iter().for_each(|segment| inner.open_files.forget(segment.first, segment.last));
}

/// The oldest segments that age or size has passed.
fn expired(inner: &Inner) -> Vec<Arc<Segment>> {
    let view = read(&inner.view);
    let age_ms = i64::try_from(inner.config.retention_age.as_millis()).unwrap_or(i64::MAX);
    let oldest_ms = inner.clock.now().as_millis().saturating_sub(age_ms);
    let mut bytes = view.len_bytes();
    let mut expired = Vec::new();
    for segment in view.segments.iter() {
        if segment.max_ingest_ms >= oldest_ms && bytes <= inner.retention_bytes {
            break;
        }
        bytes -= segment.len;
        expired.push(Arc::clone(segment));
    }
    expired
}

/// Where each partition of a segment ends; `None` if its index is damaged and must heal first.
fn ends(inner: &Inner, segment: &Segment) -> io::Result<Option<Vec<(Partition, u64)>>> {
    let file = inner.open_files.get(segment)?;
    let mut ends = Vec::new();
    match segment.each_part(&*file, |part| ends.push((part.partition, part.end))) {
        Ok(()) => Ok(Some(ends)),
        Err(SegmentError::Io { source, .. }) => Err(source),
        Err(SegmentError::Damaged { .. }) => {
            inner.report_hurt(segment);
            Ok(None)
        }
    }
}

fn store_checkpoint(inner: &Inner) -> io::Result<()> {
    let checkpoint = {
        let view = read(&inner.view);
        // What came before the oldest journal is in segments, or passed.
        let covers = view.sealed.first().map_or(view.active.seq, |journal| journal.seq) - 1;
        Checkpoint { covers, parts: view.parts.clone() }
    };
    checkpoint.store(&*inner.disk, &inner.config.dir)
}
