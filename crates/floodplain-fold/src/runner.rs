//! The owner of one fold of one partition.

use crate::{
    Emitted, Fold, Input, Loss, Output, Outputs, PositionRecord, STEP_ITEMS, Snapshot, SnapshotError, SnapshotMeta,
    Snapshots,
};
use floodplain_log::{
    Append, BatchBuilder, Compression, Log, Outcome, Partition, Read, ReadError, Refusal, Stream, header,
};
use floodplain_types::{Class, PartitionId, Position, Timestamp};
use std::{collections::VecDeque, iter::Peekable, ops::Range, path::PathBuf, time::Duration};
use tracing::{error, warn};

/// Bytes asked for in one read.
const READ_BYTES: usize = 256 << 10;
/// Outputs that wait for the log before no more input is taken.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// Outputs in one append unit: far below what engines accept, and much more than a sync costs.
const UNIT_BYTES_MAX: usize = 512 << 10;

/// Where a runner reads, and where its outputs go.
#[derive(Debug)]
pub struct RunnerConfig {
    pub partition: Partition,
    /// The lasting name of `partition`.
    pub id: PartitionId,
    /// The streams that the fold's outputs name.
    pub outputs: Vec<(&'static str, Stream)>,
    /// Stream `_folds`, which takes the positions; needed by folds that emit.
    pub folds: Option<Stream>,
    pub snapshots: Snapshots,
}

/// When a fold that has replayed something first writes a snapshot, after the start of the process.
const SNAPSHOT_FIRST: Duration = Duration::from_secs(10);
/// How often it does so for each [`SNAPSHOT_BYTES`] of state.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
const SNAPSHOT_BYTES: usize = 16 << 20;

/// What the caller is to do now.
#[derive(Debug)]
pub enum Next {
    /// Submit this unit and give its end to [`Runner::on_outcome`]. No other unit comes before that.
    Append(Append),
    /// Read this (cached or not) and give the answer to [`Runner::on_read`].
    Read { partition: Partition, from: Position, max_bytes: usize },
    /// Call [`Runner::step`]: a record has more to do than one step may. Serve others before, if there are any.
    Step,
    /// Nothing, until a watermark moves or an append ends.
    Idle,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// Records that were folded, replayed ones included.
    pub records: u64,
    /// A range that is gone unread: retention has passed the fold. It has been logged and counted.
    pub lost: Option<(Position, Position)>,
}

/// How an append of the runner ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The outputs are in the log, once.
    Committed,
    /// Nothing was written; [`Runner::next`] gives the unit again. Wait a little before asking.
    Retry(Refusal),
    /// Open; [`Runner::next`] now gives what is needed to find out.
    Unknown,
}

/// Why a runner could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A snapshot cannot be read, or is from a newer version.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log has lost records that were committed. Nothing is repaired by guessing.
    #[error(
        "fold {fold} of {partition} has seen {seen}, but the log ends at {watermark}: restore the log, or remove the snapshot {dir} to fold what is left"
    )]
    LogBehind { fold: &'static str, partition: PartitionId, seen: Position, watermark: Position, dir: PathBuf },
    /// A snapshot of something else is in the folder.
    #[error("snapshot in {dir} is of {found}, not of {expected}")]
    Foreign { dir: PathBuf, found: String, expected: String },
    /// The fold emits, but there is no stream for its positions.
    #[error("fold {0} emits and needs the stream of positions")]
    NoFoldsStream(&'static str),
}

/// Why a runner cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// Another process owns the partition now.
    #[error("ownership of {partition} was lost")]
    Fenced { partition: PartitionId },
    /// The log accepts nothing any more, or never this: poisoned, closing, or an output that is too large.
    #[error("outputs of fold {fold} of {partition} cannot be appended")]
    Append { fold: &'static str, partition: PartitionId, source: Refusal },
    /// The disk or the bytes failed; the same read may be tried again.
    #[error("fold {fold} of {partition} cannot read")]
    Read { fold: &'static str, partition: PartitionId, source: Box<ReadError> },
    /// Like [`OpenError::LogBehind`], found in `_folds`.
    #[error("fold {fold} of {partition} has emitted up to {emitted}, but the log ends at {watermark}: restore the log")]
    LogBehind { fold: &'static str, partition: PartitionId, emitted: Emitted, watermark: Position },
}

#[derive(Debug)]
struct Pending {
    cause: Emitted,
    output: Output,
    bytes: usize,
}

/// What is known of the position records in `_folds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// An earlier append may have been committed or not: a fence must be appended.
    Open,
    /// The fence is at the position before this one; all up to there must be read.
    ReadUntil(Position),
    /// `emitted` is the truth.
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Nothing,
    Fence,
    /// So many outputs from the front of the queue, after which this much is emitted.
    Outputs {
        count: usize,
        emitted: Emitted,
    },
}

/// How far the record at the runner's position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing of it is folded: the state is that between two records.
    Whole,
    /// Timers are due before it.
    Timers,
    /// They are done; the record itself comes next.
    Timed,
    /// It is applied, and the fold has more.
    Applied,
}

#[derive(Debug)]
struct Meters {
    records: metrics::Counter,
    outputs: metrics::Counter,
    unreadable: metrics::Counter,
    lost: metrics::Counter,
    unknown: metrics::Counter,
}

impl Meters {
    fn new(fold: &'static str) -> Self {
        Self {
            records: metrics::counter!("floodplain_fold_records_total", "fold" => fold),
            outputs: metrics::counter!("floodplain_fold_outputs_total", "fold" => fold),
            unreadable: metrics::counter!("floodplain_fold_unreadable_batches_total", "fold" => fold),
            lost: metrics::counter!("floodplain_fold_lost_ranges_total", "fold" => fold),
            unknown: metrics::counter!("floodplain_fold_unknown_outcomes_total", "fold" => fold),
        }
    }
}

/// Owns one fold of one partition: start, replay, steps, outputs, snapshots.
///
/// The caller drives it in a loop: ask [`Self::next`], do it, feed the answer back. It may also
/// feed reads it made for its own purposes; what was folded already is skipped.
///
/// A call folds records until they have done [`STEP_ITEMS`] items of work beyond themselves, and no more: see
/// [`Fold`]. A read may so be folded in part, even a record: [`Next::Step`] goes on with that.
///
/// Outputs appear once. They go out with the position they lead up to in one append unit of class
/// `all`, one unit at a time. After a restart, and after an outcome that stayed open, the runner
/// first appends a fence to its partition of `_folds` and reads that partition up to the fence:
/// appends of one writer to one partition get growing positions, so what it does not find there
/// will never come. Outputs are numbered within the record that caused them, and the newest
/// position record says how many of them are out, so neither a crash in the middle of a record
/// nor a unit that holds only a part of its outputs doubles one. Each output carries
/// `fold:partition:position:number` as its dedup id, for readers of a log that may double records.
#[derive(Debug)]
pub struct Runner<F: Fold> {
    fold: F,
    config: RunnerConfig,
    /// The next record to fold, or the one that is folded in part.
    position: Position,
    stage: Stage,
    /// So many outputs it has caused so far.
    number: u32,
    step_items: usize,
    log_time: Timestamp,
    known: Known,
    emitted: Emitted,
    /// Where to read on in `_folds`.
    folds_from: Position,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    in_flight: InFlight,
    /// Nothing can be appended any more.
    is_stopped: bool,
    unit_bytes_max: usize,
    /// A state that is being copied.
    copying: Option<Snapshot>,
    /// Bytes of the newest whole copy: the next one gets so much room at once, and is not moved while it grows.
    state_len: usize,
    /// A state whose outputs are not all out yet.
    held: Option<Snapshot>,
    bytes_since_snapshot: u64,
    /// From then on the next record is reason enough for a snapshot; by the owner's steady clock.
    snapshot_due: Timestamp,
    out: Outputs,
    builder: BatchBuilder,
    meters: Meters,
}

impl<F: Fold> Runner<F> {
    /// Starts from the newest usable snapshot, or from nothing. Blocks while it reads the disk.
    ///
    /// `fold` must be empty.
    ///
    /// # Errors
    /// [`OpenError`]; each says what to do.
    pub fn open(mut fold: F, config: RunnerConfig, log: &dyn Log) -> Result<Self, OpenError> {
        if F::EMITS && config.folds.is_none() {
            return Err(OpenError::NoFoldsStream(F::NAME));
        }
        let mut state_len = 0;
        let loaded = config.snapshots.load(|snapshot| {
            state_len = snapshot.state.len();
            fold.restore(snapshot.meta.format, &snapshot.state)
        })?;
        let meta = loaded.meta.unwrap_or_else(|| SnapshotMeta {
            fold: F::NAME.to_owned(),
            format: F::FORMAT,
            partition: config.id.to_string(),
            position: Position::ZERO,
            log_time: Timestamp(i64::MIN),
            emitted: Emitted::default(),
            folds_from: Position::ZERO,
        });
        if meta.fold != F::NAME || meta.partition != config.id.to_string() {
            return Err(OpenError::Foreign {
                dir: config.snapshots.dir().to_owned(),
                found: format!("{} of {}", meta.fold, meta.partition),
                expected: format!("{} of {}", F::NAME, config.id),
            });
        }
        let watermark = log.watermark(config.partition);
        if meta.position > watermark {
            return Err(OpenError::LogBehind {
                fold: F::NAME,
                partition: config.id,
                seen: meta.position,
                watermark,
                dir: config.snapshots.dir().to_owned(),
            });
        }
        Ok(Self {
            fold,
            config,
            position: meta.position,
            stage: Stage::Whole,
            number: 0,
            step_items: STEP_ITEMS,
            log_time: meta.log_time,
            known: if F::EMITS { Known::Open } else { Known::Yes },
            emitted: meta.emitted,
            folds_from: meta.folds_from,
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: InFlight::Nothing,
            is_stopped: false,
            unit_bytes_max: UNIT_BYTES_MAX,
            copying: None,
            state_len,
            held: None,
            bytes_since_snapshot: 0,
            snapshot_due: Timestamp(0) + SNAPSHOT_FIRST,
            out: Outputs::default(),
            builder: BatchBuilder::new(),
            meters: Meters::new(F::NAME),
        })
    }

    /// The state.
    #[must_use]
    pub const fn fold(&self) -> &F {
        &self.fold
    }

    /// The state, for what is no part of the snapshot: notifications to be taken away, caches.
    /// What a snapshot holds may change by records only.
    pub const fn fold_mut(&mut self) -> &mut F {
        &mut self.fold
    }

    /// Lets a step do so many items of work instead of [`STEP_ITEMS`]: for tests that look between the steps.
    pub const fn limit_steps(&mut self, items: usize) {
        self.step_items = items;
    }

    /// The position after the last record that was folded whole.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The greatest record timestamp that was folded; the least `i64` before the first.
    #[must_use]
    pub const fn log_time(&self) -> Timestamp {
        self.log_time
    }

    /// The partition that is folded.
    #[must_use]
    pub const fn partition(&self) -> Partition {
        self.config.partition
    }

    /// Where snapshots go: clone it for the thread that writes them.
    #[must_use]
    pub const fn snapshots(&self) -> &Snapshots {
        &self.config.snapshots
    }

    /// Whether all outputs of all folded records are committed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.known == Known::Yes
            && self.in_flight == InFlight::Nothing
            && self.pending.is_empty()
            && self.stage == Stage::Whole
    }

    /// Whether the owner should append a tick: a timer is due by the wall clock `now`, and no
    /// record has said so yet.
    #[must_use]
    pub fn is_tick_due(&self, now: Timestamp) -> bool {
        self.stage == Stage::Whole && self.fold.next_timer().is_some_and(|timer| timer <= now)
    }

    /// What to do now. Asks `log` for watermarks only; `now` becomes the ingest time of outputs.
    ///
    /// [`Next::Append`] is given once. [`Next::Read`] is given until it was answered, so ask again
    /// only after the answer.
    pub fn next(&mut self, log: &dyn Log, now: Timestamp) -> Next {
        if let Some(folds) = self.folds_partition() {
            if self.in_flight == InFlight::Nothing
                && !self.is_stopped
                && let Some(unit) = self.unit(folds, now)
            {
                return Next::Append(unit);
            }
            if let Known::ReadUntil(until) = self.known {
                // The fence is committed, but its watermark may still be on its way.
                let readable = log.watermark(folds) >= until;
                let read = Next::Read { partition: folds, from: self.folds_from, max_bytes: READ_BYTES };
                return if readable { read } else { Next::Idle };
            }
        }
        if self.has_room() && matches!(self.stage, Stage::Timers | Stage::Applied) {
            return Next::Step;
        }
        if self.takes_input() && self.position < log.watermark(self.config.partition) {
            return Next::Read { partition: self.config.partition, from: self.position, max_bytes: READ_BYTES };
        }
        Next::Idle
    }

    /// Whether a read of the input partition would be folded now: not before the start is done, not while too many
    /// outputs wait, and not in the middle of a record.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        self.has_room() && matches!(self.stage, Stage::Whole | Stage::Timed)
    }

    fn has_room(&self) -> bool {
        self.known == Known::Yes && self.pending_bytes < PENDING_BYTES_MAX
    }

    /// Goes on with the record that is folded in part; nothing if there is none.
    pub fn step(&mut self) {
        self.out.begin_step(self.step_items);
        match self.stage {
            Stage::Whole | Stage::Timed => {}
            Stage::Timers => self.pass_time(self.position),
            Stage::Applied => {
                self.fold.go_on(&mut self.out);
                self.keep_outputs();
                self.end_record();
            }
        }
    }

    /// Does what is due before the record at `position`, as much as the step may.
    fn pass_time(&mut self, position: Position) {
        self.stage = Stage::Timed;
        let is_due = |fold: &F| fold.next_timer().is_some_and(|timer| timer <= self.log_time);
        if is_due(&self.fold) {
            self.fold.on_time(self.log_time, position, &mut self.out);
            if is_due(&self.fold) {
                self.stage = Stage::Timers;
            }
            self.keep_outputs();
        }
    }

    /// The record at the runner's position was applied: goes behind it, unless there is more to do.
    fn end_record(&mut self) {
        if self.fold.has_more() {
            self.stage = Stage::Applied;
        } else {
            self.pass(self.position.next());
            self.meters.records.increment(1);
        }
    }

    /// Leaves everything before `to` behind.
    fn pass(&mut self, to: Position) {
        if to > self.position {
            (self.position, self.stage, self.number) = (to, Stage::Whole, 0);
        }
    }

    fn folds_partition(&self) -> Option<Partition> {
        let folds = self.config.folds.as_ref().filter(|_| F::EMITS)?;
        Some(folds.partition_of(&PositionRecord::key(F::NAME, &self.config.id)))
    }

    /// The unit to append now, if any: a fence, or outputs with the position they lead up to.
    fn unit(&mut self, folds: Partition, now: Timestamp) -> Option<Append> {
        let mut batches = Vec::new();
        let emitted = match self.known {
            Known::ReadUntil(_) => return None,
            Known::Open => {
                self.in_flight = InFlight::Fence;
                self.emitted
            }
            Known::Yes => {
                let count = self.unit_len()?;
                // All of one partition in order, partitions by number.
                let mut placed: Vec<(Partition, &Pending)> = Vec::with_capacity(count);
                for pending in self.pending.range(..count) {
                    let stream = self.config.outputs.iter().find(|(name, _)| *name == pending.output.stream);
                    let Some((_, stream)) = stream else {
                        // A fold and its configuration disagree: a fault of the program.
                        error!(fold = F::NAME, stream = pending.output.stream, "output names an unknown stream");
                        continue;
                    };
                    placed.push((stream.partition_of(&pending.output.key), pending));
                }
                placed.sort_by_key(|(partition, _)| *partition);
                for chunk in placed.chunk_by(|a, b| a.0 == b.0) {
                    for (_, pending) in chunk {
                        push_output::<F>(&mut self.builder, &self.config.id, pending, now);
                    }
                    batches.extend(self.builder.finish(Compression::None).map(|batch| (chunk[0].0, batch)));
                }
                let emitted = match self.pending.get(count) {
                    Some(next) => next.cause,
                    None => Emitted { position: self.position, number: self.number },
                };
                self.in_flight = InFlight::Outputs { count, emitted };
                emitted
            }
        };
        let key = PositionRecord::key(F::NAME, &self.config.id);
        let value = PositionRecord { emitted }.encode();
        self.builder
            .push(now.as_millis(), Some(&key), Some(&value), std::iter::empty::<(&str, &[u8])>())
            .expect("a position record fits an empty batch");
        batches.extend(self.builder.finish(Compression::None).map(|batch| (folds, batch)));
        Some(Append { batches, class: Class::All })
    }

    /// How many outputs go into the next unit: at least one, if there is one.
    fn unit_len(&self) -> Option<usize> {
        let mut bytes = 0;
        let fits = |pending: &&Pending| {
            bytes += pending.bytes;
            bytes <= self.unit_bytes_max
        };
        (!self.pending.is_empty()).then(|| self.pending.iter().take_while(fits).count().max(1))
    }

    /// Takes the end of the unit that [`Self::next`] gave.
    ///
    /// # Errors
    /// [`RunnerError::Fenced`]: drop the runner, its state is another owner's now.
    /// [`RunnerError::Append`]: it appends nothing more, but goes on folding while outputs have room.
    pub fn on_outcome(&mut self, outcome: Outcome) -> Result<Settled, RunnerError> {
        let in_flight = std::mem::replace(&mut self.in_flight, InFlight::Nothing);
        let partition = || self.config.id.clone();
        match (outcome, in_flight) {
            (Outcome::Committed(positions), InFlight::Fence) => {
                let fence = positions.last().copied().unwrap_or_default();
                self.known = Known::ReadUntil(fence.next());
                Ok(Settled::Committed)
            }
            (Outcome::Committed(positions), InFlight::Outputs { count, emitted }) => {
                for pending in self.pending.drain(..count) {
                    self.pending_bytes -= pending.bytes;
                }
                self.meters.outputs.increment(count as u64);
                self.emitted = emitted;
                // The position record is the last batch of the unit, and nothing before it says more.
                self.folds_from = positions.last().map_or(self.folds_from, |last| last.next());
                Ok(Settled::Committed)
            }
            (Outcome::Committed(_), InFlight::Nothing) => Ok(Settled::Committed),
            (Outcome::Unknown, _) => {
                self.meters.unknown.increment(1);
                if F::EMITS {
                    self.known = Known::Open;
                }
                Ok(Settled::Unknown)
            }
            (Outcome::Refused(refusal), in_flight) => match refusal {
                Refusal::Overloaded { .. }
                | Refusal::Behind { .. }
                | Refusal::AfterRefused
                | Refusal::DiskFull { .. } => Ok(Settled::Retry(refusal)),
                Refusal::TooLarge { .. } if matches!(in_flight, InFlight::Outputs { count: 2.., .. }) => {
                    self.unit_bytes_max /= 2;
                    Ok(Settled::Retry(refusal))
                }
                Refusal::Fenced => {
                    self.is_stopped = true;
                    Err(RunnerError::Fenced { partition: partition() })
                }
                Refusal::TooLarge { .. }
                | Refusal::Poisoned { .. }
                | Refusal::UnknownPartition(_)
                | Refusal::Closing => {
                    self.is_stopped = true;
                    Err(RunnerError::Append { fold: F::NAME, partition: partition(), source: refusal })
                }
            },
        }
    }

    /// Takes the answer to a read of `partition` from `from`: one that [`Self::next`] asked for, or
    /// any other. What does not continue the runner's own position, or comes while
    /// [`Self::takes_input`] says no, changes nothing: the runner will ask for it.
    ///
    /// # Errors
    /// [`RunnerError::Read`] may be tried again; [`RunnerError::LogBehind`] may not.
    pub fn on_read(
        &mut self,
        log: &dyn Log,
        partition: Partition,
        from: Position,
        read: Result<&Read, ReadError>,
    ) -> Result<Folded, RunnerError> {
        let failed = |id: &PartitionId, source: ReadError| RunnerError::Read {
            fold: F::NAME,
            partition: id.clone(),
            source: Box::new(source),
        };
        if Some(partition) == self.folds_partition() && matches!(self.known, Known::ReadUntil(_)) {
            match read {
                Ok(read) => self.read_back(read, from),
                // Position records that retention took are older than the snapshot's own.
                // What damage took may say of an emission that it was made: then it is made again.
                Err(ReadError::Trimmed { start: next, .. } | ReadError::Corrupt { next, .. }) => {
                    self.folds_from = self.folds_from.max(next);
                }
                Err(source) => return Err(failed(&self.config.id, source)),
            }
            return self.check_read_back(log).map(|()| Folded::default());
        }
        if partition != self.config.partition || !self.takes_input() || from > self.position {
            return Ok(Folded::default());
        }
        match read {
            Ok(read) => Ok(Folded { records: self.fold_batches(read), lost: None }),
            Err(ReadError::Trimmed { start, .. }) if start > self.position => {
                let lost = (self.position, start);
                self.report(&(lost.0..lost.1), Loss::Retention);
                self.pass(start);
                Ok(Folded { records: 0, lost: Some(lost) })
            }
            Err(ReadError::Trimmed { .. }) => Ok(Folded::default()),
            Err(ReadError::Corrupt { next, .. }) if next > self.position => {
                self.report(&(self.position..next), Loss::Damage);
                self.pass(next);
                Ok(Folded::default())
            }
            Err(source) => Err(failed(&self.config.id, source)),
        }
    }

    fn read_back(&mut self, read: &Read, from: Position) {
        if from > self.folds_from {
            return;
        }
        let key = PositionRecord::key(F::NAME, &self.config.id);
        for batch in &read.batches {
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().map_while(Result::ok).filter(|record| record.key == Some(&key)) {
                match PositionRecord::decode(record.value.unwrap_or_default()) {
                    Ok(found) => self.emitted = self.emitted.max(found.emitted),
                    Err(error) => {
                        warn!(fold = F::NAME, partition = %self.config.id, %error, "position record does not decode");
                    }
                }
            }
        }
        self.folds_from = self.folds_from.max(read.next);
    }

    fn check_read_back(&mut self, log: &dyn Log) -> Result<(), RunnerError> {
        let Known::ReadUntil(until) = self.known else { return Ok(()) };
        if self.folds_from < until {
            return Ok(());
        }
        let watermark = log.watermark(self.config.partition);
        if self.emitted.position > watermark {
            return Err(RunnerError::LogBehind {
                fold: F::NAME,
                partition: self.config.id.clone(),
                emitted: self.emitted,
                watermark,
            });
        }
        while self.pending.front().is_some_and(|pending| pending.cause < self.emitted) {
            let out = self.pending.pop_front().expect("there is a front");
            self.pending_bytes -= out.bytes;
        }
        self.known = Known::Yes;
        Ok(())
    }

    /// Counts what is gone from the log before the fold saw it.
    fn report(&mut self, lost: &Range<Position>, loss: Loss) {
        let lost = lost.start.max(self.position)..lost.end;
        self.fold.missed(&lost, loss);
        self.meters.lost.increment(1);
        let why = match loss {
            Loss::Retention => "retention has removed records before the fold saw them",
            Loss::Damage => "damage of the log has taken records before the fold saw them",
        };
        error!(fold = F::NAME, partition = %self.config.id, from = %lost.start, to = %lost.end, "{why}");
    }

    /// Folds what was read, as far as one step goes; gives the number of records that are folded whole.
    fn fold_batches(&mut self, read: &Read) -> u64 {
        self.out.begin_step(self.step_items);
        let mut damaged = read.damaged.iter().peekable();
        let mut count = 0;
        for batch in &read.batches {
            self.pass_damage(&mut damaged, batch.base);
            let records = match batch.batch.records() {
                Ok(records) => records,
                Err(error) => {
                    self.meters.unreadable.increment(1);
                    warn!(fold = F::NAME, partition = %self.config.id, position = %batch.base, %error, "batch cannot be folded");
                    continue;
                }
            };
            for record in &records {
                let record = match record {
                    Ok(record) => record,
                    Err(error) => {
                        self.meters.unreadable.increment(1);
                        warn!(fold = F::NAME, partition = %self.config.id, position = %batch.base, %error, "rest of a batch cannot be folded");
                        break;
                    }
                };
                let position = batch.position(&record);
                if position < self.position {
                    continue;
                }
                if self.out.is_spent() {
                    return count;
                }
                self.pass(position);
                self.log_time = self.log_time.max(Timestamp::from_millis(batch.batch.timestamp_ms(&record)));
                self.pass_time(position);
                if self.stage == Stage::Timers {
                    return count;
                }
                let input = Input {
                    partition: self.config.partition.index,
                    position,
                    log_time: self.log_time,
                    record: &record,
                    batch,
                };
                self.fold.apply(&input, &mut self.out);
                self.keep_outputs();
                self.bytes_since_snapshot += record.bytes.len() as u64;
                self.end_record();
                if self.stage == Stage::Applied {
                    return count;
                }
                count += 1;
            }
        }
        self.pass_damage(&mut damaged, read.next);
        self.pass(read.next);
        count
    }

    /// Reports what damage has taken before `until`, once.
    fn pass_damage<'r>(&mut self, damaged: &mut Peekable<impl Iterator<Item = &'r Range<Position>>>, until: Position) {
        while let Some(lost) = damaged.next_if(|lost| lost.start < until) {
            if lost.end > self.position {
                self.report(lost, Loss::Damage);
                self.pass(lost.end);
            }
        }
    }

    /// Queues outputs of the record at the runner's position; those that are out already (this is a replay) are dropped.
    fn keep_outputs(&mut self) {
        for output in self.out.items.drain(..) {
            let cause = Emitted { position: self.position, number: self.number };
            self.number += 1;
            if cause >= self.emitted {
                let bytes = output.len_bytes();
                self.pending_bytes += bytes;
                self.pending.push_back(Pending { cause, output, bytes });
            }
        }
    }

    /// Bytes of records folded since the last [`Self::begin_snapshot`].
    #[must_use]
    pub const fn bytes_since_snapshot(&self) -> u64 {
        self.bytes_since_snapshot
    }

    /// Whether a snapshot should be begun: between two records, after `every_bytes` of records, or in time, since retention does not wait
    /// for a fold with few records. A large state, which takes long to copy, is copied less often.
    ///
    /// `steady` counts from the start of the process.
    #[must_use]
    pub fn is_snapshot_due(&self, every_bytes: u64, steady: Timestamp) -> bool {
        let bytes = self.bytes_since_snapshot;
        let may_begin = self.stage == Stage::Whole && self.copying.is_none();
        may_begin && (bytes >= every_bytes || (bytes > 0 && steady >= self.snapshot_due))
    }

    /// Copies the state for a snapshot, whole. [`Self::take_snapshot`] gives it out once all outputs up to
    /// this point are committed: a state that is ahead of its outputs would lose them in a crash.
    ///
    /// `steady` counts from the start of the process. In the middle of a record there is no state to copy, and nothing
    /// happens.
    pub fn begin_snapshot(&mut self, steady: Timestamp) {
        if self.stage != Stage::Whole {
            return;
        }
        let mut state = Vec::new();
        self.fold.snapshot(&mut state);
        let meta = self.meta();
        self.copying = None;
        self.hold(Snapshot { meta, state }, steady);
    }

    /// Begins to copy the state as it is now; [`Self::copy_on`] does so part by part, while records are folded.
    pub fn begin_copy(&mut self) {
        if self.stage == Stage::Whole {
            self.fold.begin_copy();
            let room = self.state_len + self.state_len / 8;
            self.copying = Some(Snapshot { meta: self.meta(), state: Vec::with_capacity(room) });
            self.bytes_since_snapshot = 0;
        }
    }

    /// Whether a copy is begun and not done: call [`Self::copy_on`], the first time before anything else is folded.
    #[must_use]
    pub const fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Copies about `max_bytes` more; gives how many there were. When it is done the copy is a snapshot that was begun
    /// when the copy began.
    ///
    /// `steady` counts from the start of the process.
    pub fn copy_on(&mut self, max_bytes: usize, steady: Timestamp) -> usize {
        let Some(mut copying) = self.copying.take() else { return 0 };
        let before = copying.state.len();
        let is_done = self.fold.copy_part(&mut copying.state, before.saturating_add(max_bytes));
        let len = copying.state.len() - before;
        if is_done {
            let since = self.bytes_since_snapshot;
            self.hold(copying, steady);
            self.bytes_since_snapshot = since;
        } else {
            self.copying = Some(copying);
        }
        len
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            fold: F::NAME.to_owned(),
            format: F::FORMAT,
            partition: self.config.id.to_string(),
            position: self.position,
            log_time: self.log_time,
            emitted: self.emitted,
            folds_from: self.folds_from,
        }
    }

    fn hold(&mut self, snapshot: Snapshot, steady: Timestamp) {
        self.snapshot_due = steady + SNAPSHOT_EVERY * (1 + (snapshot.state.len() / SNAPSHOT_BYTES) as u32);
        self.state_len = snapshot.state.len();
        self.held = Some(snapshot);
        self.bytes_since_snapshot = 0;
    }

    /// The snapshot that was begun, when it may be written: give it to [`Snapshots::write`] on a
    /// thread that may block.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        let begun = self.held.as_ref()?.meta.position;
        let outputs_are_out = self.pending.front().is_none_or(|pending| pending.cause.position >= begun);
        if outputs_are_out && self.known == Known::Yes { self.held.take() } else { None }
    }
}

fn push_output<F: Fold>(builder: &mut BatchBuilder, partition: &PartitionId, pending: &Pending, now: Timestamp) {
    let Pending { cause, output, .. } = pending;
    let dedup_id = format!("{}:{partition}:{cause}", F::NAME);
    let headers = output.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let headers = headers.chain([(header::DEDUP_ID, dedup_id.as_bytes())]);
    let pushed = builder.push(now.as_millis(), Some(&output.key), output.value.as_deref(), headers);
    if let Err(error) = pushed {
        error!(fold = F::NAME, %partition, %cause, %error, "output is too large and was dropped");
        metrics::counter!("floodplain_fold_dropped_outputs_total", "fold" => F::NAME).increment(1);
    }
}
