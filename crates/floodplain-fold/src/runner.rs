//! The owner of one fold of one partition.

mod api;
mod copies;
mod outputs;

pub use api::{Folded, Next, OpenError, RunnerConfig, RunnerError, Settled};

use crate::{
    Emitted, Fold, Input, Loss, Output, Outputs, PositionRecord, STEP_ITEMS, Snapshot, SnapshotMeta, Snapshots,
};
use copies::SNAPSHOT_FIRST;
use floodplain_log::{BATCH_BYTES, BatchBuilder, Fence, Log, Partition, Read, ReadError};
use floodplain_types::{PartitionId, Position, Timestamp};
use std::{collections::VecDeque, iter::Peekable, ops::Range};
use tracing::{error, warn};

/// Outputs in one append unit: far below what engines accept, and much more than a sync costs.
const UNIT_BYTES_MAX: usize = 512 << 10;
/// Bytes asked for in one read.
const READ_BYTES: usize = 256 << 10;
/// Outputs that wait for the log before no more input is taken.
const PENDING_BYTES_MAX: usize = 4 << 20;

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
    /// Another process emits, and says so there: that is read as it comes.
    Followed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Nothing,
    Fence,
    /// So many outputs from the front of the queue, after which this much is emitted. Some of them are too large and are left out.
    Outputs {
        count: usize,
        dropped: u64,
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
    dropped: metrics::Counter,
}

impl Meters {
    fn new(fold: &'static str) -> Self {
        Self {
            records: metrics::counter!("floodplain_fold_records_total", "fold" => fold),
            outputs: metrics::counter!("floodplain_fold_outputs_total", "fold" => fold),
            unreadable: metrics::counter!("floodplain_fold_unreadable_batches_total", "fold" => fold),
            lost: metrics::counter!("floodplain_fold_lost_ranges_total", "fold" => fold),
            unknown: metrics::counter!("floodplain_fold_unknown_outcomes_total", "fold" => fold),
            dropped: metrics::counter!("floodplain_fold_dropped_outputs_total", "fold" => fold),
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
    /// Who emits: `None` if nobody has said, and then it is us.
    owner: Option<Option<Fence>>,
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
        let (mut state_len, mut empty) = (0, Vec::new());
        fold.snapshot(&mut empty);
        let loaded = config.snapshots.load(|snapshot| {
            state_len = snapshot.state.len();
            fold.restore(snapshot.meta.format, &snapshot.state)
        })?;
        metrics::counter!("floodplain_fold_damaged_snapshots_total", "fold" => F::NAME)
            .increment(loaded.set_aside.len() as u64);
        if loaded.meta.is_none() && !loaded.set_aside.is_empty() {
            // A state that could not be decoded may be there in part.
            state_len = 0;
            fold.restore(F::FORMAT, &empty).expect("a fold restores what it has just written");
        }
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
                place: config.snapshots.place(),
                found: format!("{} of {}", meta.fold, meta.partition),
                expected: format!("{} of {}", F::NAME, config.id),
            });
        }
        let watermark = log.watermark(config.partition);
        if meta.position > watermark && !log.is_shared() {
            return Err(OpenError::LogBehind {
                fold: F::NAME,
                partition: config.id,
                seen: meta.position,
                watermark,
                place: config.snapshots.place(),
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
            owner: None,
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
            builder: BatchBuilder::limited(BATCH_BYTES),
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

    /// Whether all outputs of all folded records are committed, or another's to commit.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.in_flight == InFlight::Nothing
            && self.stage == Stage::Whole
            && (self.known == Known::Followed || (self.known == Known::Yes && self.pending.is_empty()))
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
            let read = Next::Read { partition: folds, from: self.folds_from, max_bytes: READ_BYTES };
            match self.known {
                // The fence is committed, but its watermark may still be on its way.
                Known::ReadUntil(until) => return if log.watermark(folds) >= until { read } else { Next::Idle },
                Known::Followed if log.watermark(folds) > self.folds_from => return read,
                Known::Open | Known::Yes | Known::Followed => {}
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
        matches!(self.known, Known::Yes | Known::Followed) && self.pending_bytes < PENDING_BYTES_MAX
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
        if Some(partition) == self.folds_partition() && matches!(self.known, Known::ReadUntil(_) | Known::Followed) {
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
}
