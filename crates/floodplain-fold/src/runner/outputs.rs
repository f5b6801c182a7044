//! Outputs on their way to the log, each once.

use super::{InFlight, Known, Pending, Runner, RunnerError, Settled};
use crate::{Emitted, Fold, PositionRecord};
use floodplain_log::{
    Append, Batch, BatchBuilder, BatchError, Compression, Fence, Log, Outcome, Partition, Read, Refusal, header,
};
use floodplain_types::{Class, PartitionId, Position, Timestamp};
use tracing::{error, warn};

impl<F: Fold> Runner<F> {
    /// The unit to append now, if any: a fence, or outputs with the position they lead up to.
    pub(super) fn unit(&mut self, folds: Partition, now: Timestamp) -> Option<Append> {
        let mut batches = Vec::new();
        let emitted = match self.known {
            Known::ReadUntil(_) | Known::Followed => return None,
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
                let mut dropped = 0;
                for chunk in placed.chunk_by(|a, b| a.0 == b.0) {
                    for (_, pending) in chunk {
                        let full = push_output::<F>(&mut self.builder, &self.config.id, pending, now, &mut dropped);
                        batches.extend(full.map(|batch| (chunk[0].0, batch)));
                    }
                    batches.extend(self.builder.finish(Compression::None).map(|batch| (chunk[0].0, batch)));
                }
                let emitted = match self.pending.get(count) {
                    Some(next) => next.cause,
                    None => Emitted { position: self.position, number: self.number },
                };
                self.in_flight = InFlight::Outputs { count, dropped, emitted };
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
    pub(super) fn unit_len(&self) -> Option<usize> {
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
    /// [`RunnerError::Fenced`]: its outputs are another owner's to emit now. It follows that one if it was told
    /// of owners, see [`Self::owned_by`]; else drop it.
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
            (Outcome::Committed(positions), InFlight::Outputs { count, dropped, emitted }) => {
                for pending in self.pending.drain(..count) {
                    self.pending_bytes -= pending.bytes;
                }
                self.meters.outputs.increment(count as u64 - dropped);
                self.meters.dropped.increment(dropped);
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
                | Refusal::DiskFull { .. }
                | Refusal::Unavailable { .. } => Ok(Settled::Retry(refusal)),
                Refusal::TooLarge { .. } if matches!(in_flight, InFlight::Outputs { count: 2.., .. }) => {
                    self.unit_bytes_max /= 2;
                    Ok(Settled::Retry(refusal))
                }
                Refusal::Fenced => {
                    if self.owner.is_some() {
                        self.known = Known::Followed;
                    } else {
                        self.is_stopped = true;
                    }
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

    /// Says by which fence this process owns the partition now, or that it does not: call it before each [`Self::next`], where a log is
    /// shared. Who was never told owns it.
    ///
    /// Without a fence the runner folds on, and keeps what the owner has not emitted yet. With another one than before it
    /// finds out first what others have emitted meanwhile. While a unit is under way nothing changes.
    pub fn owned_by(&mut self, fence: Option<Fence>) {
        if self.in_flight != InFlight::Nothing || self.owner == Some(fence) {
            return;
        }
        self.owner = Some(fence);
        if F::EMITS {
            self.known = if fence.is_some() { Known::Open } else { Known::Followed };
        }
    }

    /// The fence to commit by what [`Self::next`] gave, if [`Self::owned_by`] gave one.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.owner.flatten()
    }

    pub(super) fn read_back(&mut self, read: &Read, from: Position) {
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

    pub(super) fn check_read_back(&mut self, log: &dyn Log) -> Result<(), RunnerError> {
        match self.known {
            Known::ReadUntil(until) if self.folds_from < until => return Ok(()),
            Known::ReadUntil(_) => self.known = Known::Yes,
            Known::Open | Known::Yes | Known::Followed => {}
        }
        let watermark = log.watermark(self.config.partition);
        if self.emitted.position > watermark && !log.is_shared() {
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
        Ok(())
    }

    /// Queues outputs of the record at the runner's position; those that are out already (this is a replay) are dropped.
    pub(super) fn keep_outputs(&mut self) {
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
}

/// Adds an output; gives the batch before it if that has no room for it.
fn push_output<F: Fold>(
    builder: &mut BatchBuilder,
    partition: &PartitionId,
    pending: &Pending,
    now: Timestamp,
    dropped: &mut u64,
) -> Option<Batch> {
    let Pending { cause, output, .. } = pending;
    let dedup_id = format!("{}:{partition}:{cause}", F::NAME);
    let headers = output.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let headers = headers.chain([(header::DEDUP_ID, dedup_id.as_bytes())]);
    let push = |builder: &mut BatchBuilder| {
        builder.push(now.as_millis(), Some(&output.key), output.value.as_deref(), headers.clone())
    };
    let (mut pushed, mut full) = (push(builder), None);
    if let Err(BatchError::Full) = pushed {
        full = builder.finish(Compression::None);
        pushed = push(builder);
    }
    if let Err(error) = pushed {
        error!(fold = F::NAME, %partition, %cause, %error, "output is too large and was dropped");
        *dropped += 1;
    }
    full
}
