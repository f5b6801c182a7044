//! The commit thread: takes all that is queued, writes one group, syncs once, tells everyone.

use super::{
    GROUP_TARGET_BYTES, Inner, JOURNAL_FRAMES_MAX, JOURNAL_STUCK_FACTOR, Pending, lock, read, stopwatch, write,
};
use crate::{
    Completion, CompletionSink, FastMap, Outcome, Partition, Refusal,
    disk::DiskFile,
    files::{DataFile, write_all_at},
    frame::{FRAME_HEADER, Frame, GROUP_HEADER, Group, JournalPos},
    journal::{self, FrameAt, Journal},
};
use bytes::Bytes;
use floodplain_types::{Class, Position};
use std::{
    collections::VecDeque,
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
};

/// The journal that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    pub file: Arc<dyn DiskFile>,
    pub seq: u64,
    /// Of the log, for the checksums of groups.
    pub salt: u32,
    pub len: u64,
    pub frame_count: usize,
    pub next_group: u64,
    /// All journal bytes before this place are synced.
    pub synced: JournalPos,
}

/// The end of a partition as the writer knows it: ahead of the committed one during a group.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    offset: u64,
    at: u64,
    /// Group that moved it last, and its place among the partitions which that group moved.
    moved: (u64, usize),
}

#[derive(Debug)]
pub(super) struct Committer {
    inner: Arc<Inner>,
    writer: Writer,
    ends: FastMap<Partition, End>,
    backlog: VecDeque<Pending>,
    /// The next journal could not be created when it was last tried; said once.
    is_stuck: bool,
}

/// A group that is encoded and not yet written.
struct Built {
    buf: Vec<u8>,
    /// Positions of the first records of each unit's batches.
    positions: Vec<Vec<Position>>,
    frames: Vec<(Partition, FrameAt)>,
    moved: Vec<(Partition, Position)>,
    record_count: u64,
}

impl Committer {
    pub(super) fn new(inner: Arc<Inner>, writer: Writer) -> Self {
        let ends = read(&inner.view)
            .parts
            .iter()
            .map(|(partition, bounds)| (*partition, End { offset: bounds.end, at: bounds.end_at, moved: (0, 0) }))
            .collect();
        Self { inner, writer, ends, backlog: VecDeque::new(), is_stuck: false }
    }

    pub(super) fn run(mut self) {
        let _guard = PoisonOnPanic(Arc::clone(&self.inner));
        while self.take_queue() {
            self.commit_group();
        }
        if self.inner.poisoned.get().is_none() {
            self.seal();
        }
    }

    /// Waits for work; false when the log is closing and nothing is left.
    fn take_queue(&mut self) -> bool {
        let inner = Arc::clone(&self.inner);
        let mut queue = lock(&inner.queue);
        while self.backlog.is_empty() && queue.pending.is_empty() {
            if queue.closing {
                return false;
            }
            if std::mem::take(&mut queue.rotate) {
                drop(queue);
                self.rotate_if_old();
                queue = lock(&inner.queue);
                continue;
            }
            queue = inner.queued.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if self.backlog.is_empty() {
            std::mem::swap(&mut self.backlog, &mut queue.pending);
        } else {
            self.backlog.append(&mut queue.pending);
        }
        true
    }

    fn commit_group(&mut self) {
        let mut bytes = GROUP_HEADER as u64;
        let mut count = 0;
        while let Some(unit) = self.backlog.get(count).filter(|_| bytes < GROUP_TARGET_BYTES) {
            bytes += unit.bytes;
            count += 1;
        }
        let units: Vec<Pending> = self.backlog.drain(..count).collect();
        if let Err(cause) = self.commit(units, bytes) {
            self.inner.poison(cause);
        }
    }

    /// Gives back the room in the queue that the units of a group had.
    fn release(&self, bytes: u64) {
        let unit_bytes = bytes - GROUP_HEADER as u64;
        let left = self.inner.queued_bytes.fetch_sub(unit_bytes, Ordering::Relaxed) - unit_bytes;
        self.inner.metrics.queue_bytes.set(left as f64);
    }

    /// Brings the units to their ends. An error poisons the log; the units have been answered.
    fn commit(&mut self, units: Vec<Pending>, bytes: u64) -> Result<(), String> {
        let refused = self.inner.poison_refusal().or_else(|| self.inner.check_space(bytes).err());
        if let Some(refusal) = refused {
            self.release(bytes);
            self.refuse(units, &refusal);
            return Ok(());
        }
        match self.rotate_if_full(bytes) {
            Ok(None) => {}
            Ok(Some(refusal)) => {
                self.release(bytes);
                self.refuse(units, &refusal);
                return Ok(());
            }
            Err(error) => {
                let cause = format!("cannot start a journal: {error}");
                self.release(bytes);
                self.refuse(units, &Refusal::Poisoned { cause: cause.as_str().into() });
                return Err(cause);
            }
        }
        let inner = Arc::clone(&self.inner);
        let built = self.build(&units, bytes);
        let mut answers = Answers::default();
        let mut waiting = Vec::with_capacity(units.len());
        let metrics = &inner.metrics;
        metrics.appends.increment(units.len() as u64);
        metrics.batches.increment(built.frames.len() as u64);
        metrics.records.increment(built.record_count);
        metrics.appended_bytes.increment(bytes);

        let started = stopwatch();
        let written = write_all_at(&*self.writer.file, &built.buf, self.writer.len);
        metrics.write_seconds.record(started.elapsed().as_secs_f64());
        self.release(bytes);
        if let Err(error) = written {
            // Some of the bytes may be there, and a later recovery may find them.
            metrics.unknown.increment(units.len() as u64);
            units.into_iter().for_each(|unit| answers.add(unit, Outcome::Unknown));
            answers.send();
            return Err(format!("cannot write journal {:016x}: {error}", self.writer.seq));
        }
        for (unit, positions) in units.into_iter().zip(built.positions) {
            if unit.append.class < Class::All || cfg!(floodplain_mutant = "ack_before_sync") {
                metrics.append_seconds.record(unit.queued_at.elapsed().as_secs_f64());
                answers.add(unit, Outcome::Committed(positions));
            } else {
                waiting.push((unit, positions));
            }
        }
        answers.send();

        let started = stopwatch();
        let synced = self.writer.file.sync();
        metrics.sync_seconds.record(started.elapsed().as_secs_f64());
        if let Err(error) = synced {
            metrics.unknown.increment(waiting.len() as u64);
            waiting.into_iter().for_each(|(unit, _)| answers.add(unit, Outcome::Unknown));
            answers.send();
            return Err(format!("cannot sync journal {:016x}: {error}", self.writer.seq));
        }
        self.writer.len += bytes;
        self.writer.frame_count += built.frames.len();
        self.writer.next_group += 1;
        self.writer.synced = JournalPos { seq: self.writer.seq, pos: self.writer.len };
        metrics.groups.increment(1);
        metrics.journal_bytes.increment(bytes);
        inner.appended_bytes.fetch_add(bytes, Ordering::Relaxed);

        self.publish(built.buf.into(), &built.frames);
        for (unit, positions) in waiting {
            metrics.append_seconds.record(unit.queued_at.elapsed().as_secs_f64());
            answers.add(unit, Outcome::Committed(positions));
        }
        answers.send();
        // Sinks are called without a lock of the log.
        let watchers = Arc::clone(&read(&inner.watchers));
        watchers.iter().for_each(|watcher| watcher.advanced(&built.moved));
        Ok(())
    }

    /// Refuses `units`, and everything that is queued behind them: what is smaller and might still fit
    /// must not be committed before what was refused.
    fn refuse(&mut self, mut units: Vec<Pending>, refusal: &Refusal) {
        let behind_bytes = {
            let mut queue = lock(&self.inner.queue);
            let taken = units.len();
            units.extend(self.backlog.drain(..));
            units.extend(queue.pending.drain(..));
            // In the same breath: what is submitted from now on is measured by it.
            units.iter().for_each(|unit| queue.count_refused(unit.submitter));
            units[taken..].iter().map(|unit| unit.bytes).sum::<u64>()
        };
        self.release(behind_bytes + GROUP_HEADER as u64);
        self.inner.metrics.refused.increment(units.len() as u64);
        let mut answers = Answers::default();
        units.into_iter().for_each(|unit| answers.add(unit, Outcome::Refused(refusal.clone())));
        answers.send();
    }

    /// Encodes one group and gives every batch its place.
    fn build(&mut self, units: &[Pending], bytes: u64) -> Built {
        let mut buf = Vec::with_capacity(bytes as usize);
        buf.resize(GROUP_HEADER, 0);
        let mut built = Built {
            buf,
            positions: Vec::with_capacity(units.len()),
            frames: Vec::with_capacity(units.len()),
            moved: Vec::new(),
            record_count: 0,
        };
        let number = self.writer.next_group;
        let ingest_ms = self.inner.clock.now().as_millis();
        self.inner.active_since_ms.fetch_min(ingest_ms, Ordering::Relaxed);
        let inner = Arc::clone(&self.inner);
        let streams = read(&inner.streams);
        for unit in units {
            let mut positions = Vec::with_capacity(unit.append.batches.len());
            for (partition, batch) in &unit.append.batches {
                let end = self.ends.entry(*partition).or_default();
                let frame = Frame {
                    partition: *partition,
                    base_offset: end.offset,
                    at: end.at + FRAME_HEADER as u64,
                    ingest_ms,
                    batch_len: batch.as_bytes().len() as u32,
                    last_delta: batch.last_offset_delta(),
                };
                let pos = self.writer.len + built.buf.len() as u64;
                frame.write(&mut built.buf, batch.as_bytes());
                built.frames.push((*partition, FrameAt::of(&frame, pos)));
                built.record_count += u64::from(batch.record_count());
                end.at += frame.len();
                end.offset += u64::from(frame.last_delta) + 1;

                // `submit` has checked that the partition exists.
                let generation = streams.generation(*partition).unwrap_or_default();
                positions.push(Position::new(generation, frame.base_offset));
                if end.moved.0 != number {
                    end.moved = (number, built.moved.len());
                    built.moved.push((*partition, Position::ZERO));
                }
                built.moved[end.moved.1].1 = Position::new(generation, end.offset);
            }
            built.positions.push(positions);
        }
        let group = Group {
            seq: self.writer.seq,
            number,
            len: built.buf.len() as u32,
            frame_count: built.frames.len() as u32,
            synced: self.writer.synced,
        };
        group.seal(&mut built.buf, self.writer.salt);
        built
    }

    /// Lets readers see a synced group.
    fn publish(&self, buf: Bytes, frames: &[(Partition, FrameAt)]) {
        let group_start = self.writer.len - buf.len() as u64;
        let mut view = write(&self.inner.view);
        let view = &mut *view;
        for (partition, frame) in frames {
            view.parts.entry(*partition).or_default().reach(frame.last() + 1, frame.end_at());
            let start = (frame.pos - group_start) as usize + FRAME_HEADER;
            let bytes = buf.slice(start..start + frame.batch_len as usize);
            view.tail.push(*partition, frame.base, frame.last(), frame.at, bytes);
        }
        frames.iter().for_each(|(partition, frame)| view.active.push(*partition, *frame));
        let before = std::mem::replace(&mut view.active.len, self.writer.len);
        self.inner.metrics.log_bytes.increment((self.writer.len - before) as f64);
    }

    /// Starts the next journal when this group would make the present one too long, or when that has
    /// been written for long. Gives a refusal where there should be a new one and cannot be.
    fn rotate_if_full(&mut self, bytes: u64) -> io::Result<Option<Refusal>> {
        let (len, frame_count) = (self.writer.len + bytes, self.writer.frame_count);
        let full = len > self.inner.config.journal_bytes || frame_count > JOURNAL_FRAMES_MAX;
        if frame_count == 0 || !(full || self.inner.is_journal_old()) || self.rotate()? {
            return Ok(None);
        }
        // Nothing is torn by a file that is not there (too many open files, say): the present one
        // grows meanwhile, and with it what it takes in memory, but not for ever.
        let is_stuck = len > JOURNAL_STUCK_FACTOR * self.inner.config.journal_bytes
            || frame_count as u64 > JOURNAL_STUCK_FACTOR * JOURNAL_FRAMES_MAX as u64;
        Ok(is_stuck.then_some(Refusal::Behind { journals: 1, frames: frame_count as u64 }))
    }

    /// Ends the present journal where nothing else would, so that age retention can take it one day.
    fn rotate_if_old(&mut self) {
        if self.writer.frame_count == 0 || !self.inner.is_journal_old() || self.inner.poisoned.get().is_some() {
            return;
        }
        if let Err(error) = self.rotate() {
            self.inner.poison(format!("cannot start a journal: {error}"));
        }
    }

    /// Starts the next journal; false if it cannot be created now.
    fn rotate(&mut self) -> io::Result<bool> {
        let seq = self.writer.seq + 1;
        let path = self.inner.config.dir.join(DataFile::Journal { seq }.name());
        let create = || journal::create(&*self.inner.disk, &path, seq, self.writer.salt);
        let created = create().or_else(|error| match error.kind() {
            // Left by a creation that failed: nobody has ever written to it.
            io::ErrorKind::AlreadyExists => {
                self.inner.disk.remove(&path)?;
                create()
            }
            _ => Err(error),
        });
        let file = match created {
            Ok(file) => file,
            Err(error) => {
                self.inner.metrics.house_errors.increment(1);
                if !std::mem::replace(&mut self.is_stuck, true) {
                    tracing::warn!(%error, path = %path.display(), "cannot create the next journal, going on with this one");
                }
                return Ok(false);
            }
        };
        self.inner.disk.sync_dir(&self.inner.config.dir)?;
        self.is_stuck = false;
        self.writer.file = Arc::clone(&file);
        self.writer.seq = seq;
        self.writer.len = journal::HEADER as u64;
        self.writer.frame_count = 0;
        self.inner.active_since_ms.store(i64::MAX, Ordering::Relaxed);
        {
            let mut view = write(&self.inner.view);
            let finished = std::mem::replace(&mut view.active, Journal::new(seq, file));
            view.sealed.push(Arc::new(finished));
            self.inner.count_sealed(&view.sealed);
        }
        self.inner.call_house();
        Ok(true)
    }

    /// Writes an empty group that says how far the journal is synced, so that the next start
    /// finds nothing to doubt.
    fn seal(&mut self) {
        if self.writer.len == journal::HEADER as u64 {
            return;
        }
        let mut buf = vec![0; GROUP_HEADER];
        Group {
            seq: self.writer.seq,
            number: self.writer.next_group,
            len: GROUP_HEADER as u32,
            frame_count: 0,
            synced: self.writer.synced,
        }
        .seal(&mut buf, self.writer.salt);
        let sealed = write_all_at(&*self.writer.file, &buf, self.writer.len).and_then(|()| self.writer.file.sync());
        if let Err(error) = sealed {
            // Everything acknowledged is synced; the next start copies the tail instead.
            tracing::warn!(%error, "cannot seal the journal");
        }
    }
}

/// A sink that panics, say, must not leave callers waiting for a thread that is gone.
struct PoisonOnPanic(Arc<Inner>);

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the commit thread has panicked".to_owned());
            // Who still waits is told when they are dropped, which is behind the lock.
            let pending = std::mem::take(&mut lock(&self.0.queue).pending);
            drop(pending);
        }
    }
}

/// Completions of one group, one list per sink.
#[derive(Default)]
struct Answers {
    sinks: Vec<(Arc<dyn CompletionSink>, Vec<Completion>)>,
    /// By address of the sink.
    idx: FastMap<usize, usize>,
}

impl Answers {
    fn add(&mut self, mut unit: Pending, outcome: Outcome) {
        let Some(reply) = unit.reply.take() else { return };
        let address = Arc::as_ptr(&reply.sink).cast::<()>() as usize;
        let idx = *self.idx.entry(address).or_insert(self.sinks.len());
        let completion = Completion { tag: reply.tag, outcome };
        match self.sinks.get_mut(idx) {
            Some((_, completions)) => completions.push(completion),
            None => self.sinks.push((reply.sink, vec![completion])),
        }
    }

    /// A sink that panics does so when all others have been told.
    fn send(&mut self) {
        self.idx.clear();
        let mut panicked = Ok(());
        for (sink, completions) in self.sinks.drain(..) {
            let told = panic::catch_unwind(AssertUnwindSafe(|| sink.complete(completions)));
            panicked = panicked.and(told);
        }
        if let Err(payload) = panicked {
            panic::resume_unwind(payload);
        }
    }
}
