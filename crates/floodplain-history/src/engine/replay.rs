//! Jobs that decode records again, between what comes live.
//!
//! Rows of a job go to buffers like all others. Now and then, and at its end, all buffers are written to files, and then
//! one append unit says how far the job is and which letters are settled, and has the letters of what was refused. After a
//! crash it goes on from there: what is decoded twice has the same rows with the same `_seq`, and no letter was written.
//!
//! A log that does not keep units whole may have the letters without the record of the job, or that without them. There the
//! letters go first, in units of their own: after a crash those that are there are no new ones.

use super::{Engine, command::commit_document, commit, dead_letters::NewLetters};
use crate::{
    Result,
    jobs::{JobState, Jobs, Replay},
    letters::{self, Head, Letter, Place},
};
use floodplain_log::{Partition, ReadError};
use floodplain_types::Position;
use tracing::info;

/// Bytes that a job reads at once.
const READ_BYTES: usize = 256 << 10;
/// And of letters: each may need a read of its own.
const LETTERS_BYTES: usize = 16 << 10;
/// After so many records a job writes down how far it is.
const CHECKPOINT_RECORDS: u64 = 500_000;
/// And after so many letters.
const CHECKPOINT_LETTERS: usize = 1000;

/// What a job has done since its last record in the log.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    records: u64,
    pub(super) settled: Vec<Letter>,
    pub(super) refused: NewLetters,
    /// The record, once it was begun to append it: if the end of that is not known, the same is appended again.
    record: Option<Jobs>,
}

/// What became of the records of one step.
#[derive(Debug, Default)]
struct Step {
    records: u64,
    missing: u64,
    settled: Vec<Letter>,
}

impl Engine {
    /// Decodes some records of the job whose turn it is; `false` if there is none.
    pub(super) fn replay(&mut self) -> Result<bool> {
        let Some(at) = self.jobs.running() else { return Ok(false) };
        let left = self.jobs.list[at].left.iter().position(|left| left.from < left.to);
        let is_much = self.unsaved.records >= CHECKPOINT_RECORDS
            || self.unsaved.settled.len() >= CHECKPOINT_LETTERS
            || self.unsaved.refused.is_much()
            || self.unsaved.record.is_some();
        let Some(left_idx) = left.filter(|_| !is_much) else {
            if self.knows_new_letters()? {
                self.checkpoint(at, left.is_none())?;
            }
            return Ok(true);
        };
        let (replay, left) = (self.jobs.list[at].replay.clone(), self.jobs.list[at].left[left_idx].clone());
        (self.placing.rows, self.placing.failed) = (0, 0);
        self.placing.letters.clear();
        let mut step = Step::default();
        let next = match &replay {
            Replay::Range { .. } => self.replay_messages(&replay, left.partition, left.from, left.to, &mut step)?,
            Replay::Letters { .. } => {
                let job = self.jobs.list[at].name.clone();
                self.replay_letters(&replay, &job, left.partition, left.from, left.to, &mut step)?
            }
        };
        let job = &mut self.jobs.list[at];
        job.left[left_idx].from = next.min(left.to);
        job.progress.records += step.records;
        job.progress.rows += self.placing.rows;
        job.progress.failed += self.placing.failed + step.missing;
        self.unsaved.records += step.records;
        self.unsaved.settled.extend(step.settled);
        self.unsaved.refused.extend(std::mem::take(&mut self.placing.letters));
        self.shared.jobs.send_replace(std::sync::Arc::new(self.jobs.clone()));
        metrics::counter!("floodplain_history_replayed_records_total").increment(step.records);
        Ok(true)
    }

    fn replay_messages(
        &mut self,
        replay: &Replay,
        index: u32,
        from: Position,
        to: Position,
        step: &mut Step,
    ) -> Result<Position> {
        let Replay::Range { binding, from: since, to: until, .. } = replay else { return Ok(to) };
        let source = self.sources.iter().position(|source| source.index == index);
        let Some(source) = source else { return Ok(to) };
        if !self.knows_ids_again(source, from)? {
            return Ok(from);
        }
        let read = match self.log.read(self.sources[source].partition, from, READ_BYTES) {
            Err(ReadError::Trimmed { start: next, .. } | ReadError::Corrupt { next, .. }) if next > from => {
                return Ok(next);
            }
            read => read?,
        };
        for batch in &read.batches {
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().map_while(Result::ok) {
                let position = batch.position(&record);
                let received = batch.batch.timestamp_ms(&record);
                let is_in_time = since.is_none_or(|since| received >= since.as_millis())
                    && until.is_none_or(|until| received < until.as_millis());
                if position < from || position >= to {
                    continue;
                }
                step.records += 1;
                if is_in_time {
                    self.place_again(source, batch, &record, position, binding.as_deref())?;
                } else {
                    self.note_again(batch, &record, position);
                }
            }
        }
        self.pass_again(read.next.min(to));
        Ok(read.next)
    }

    fn replay_letters(
        &mut self,
        replay: &Replay,
        job: &str,
        index: u32,
        from: Position,
        to: Position,
        step: &mut Step,
    ) -> Result<Position> {
        let Replay::Letters { ids, reason } = replay else { return Ok(to) };
        let partition = self.letters.stream.partition(index);
        let read = match self.log.read(partition, from, LETTERS_BYTES) {
            Err(ReadError::Trimmed { start: next, .. } | ReadError::Corrupt { next, .. }) if next > from => {
                return Ok(next);
            }
            read => read?,
        };
        for batch in &read.batches {
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().map_while(Result::ok) {
                let at = batch.position(&record);
                let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
                if at < from || at >= to {
                    continue;
                }
                let id = || format!("{}/{index}/{}/{}", letters::STREAM, at.generation, at.offset);
                let wanted = Head::of_decoder(value).filter(|(head, _)| {
                    reason.as_ref().is_none_or(|reason| *reason == head.reason)
                        && ids.as_ref().is_none_or(|ids| ids.contains(&id()))
                });
                let Some((head, position)) = wanted else {
                    step.records += 1;
                    continue;
                };
                let source = self.source_of(&head);
                if let Some(source) = source
                    && !self.knows_ids_of_letter(source, position)?
                {
                    // The letters up to here are done; this one is next.
                    return Ok(at);
                }
                step.records += 1;
                let failed = self.placing.failed;
                if !self.replay_one(source, position)? {
                    step.missing += 1;
                } else if self.placing.failed == failed {
                    let place = Place { stream: &head.stream, partition: head.partition, position };
                    step.settled.push(letters::replayed(place, key, job));
                }
            }
        }
        Ok(read.next)
    }

    /// The partition that the message of a letter is in.
    fn source_of(&self, head: &Head) -> Option<usize> {
        let stream = self.config.inputs.iter().find(|stream| stream.id.stream.as_str() == head.stream)?;
        let partition = Partition { stream: stream.number, index: head.partition };
        self.sources.iter().position(|source| source.partition == partition)
    }

    /// Decodes the message of a letter again; `false` if the log does not have it any more.
    fn replay_one(&mut self, source: Option<usize>, position: Position) -> Result<bool> {
        let Some(source) = source else { return Ok(false) };
        let read = match self.log.read(self.sources[source].partition, position, 1) {
            Err(ReadError::Trimmed { .. } | ReadError::Corrupt { .. }) => return Ok(false),
            read => read?,
        };
        for batch in &read.batches {
            let Ok(records) = batch.batch.records() else { continue };
            let mut records = records.iter().map_while(Result::ok);
            if let Some(record) = records.find(|record| batch.position(record) == position) {
                self.place_again(source, batch, &record, position, None)?;
                self.pass_again(position.next());
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The jobs as they are now, and whether one is over.
    fn next_jobs(&self, at: usize, is_over: bool) -> Jobs {
        let mut next = self.jobs.clone();
        next.version = self.documents.jobs.fold().document().version + 1;
        if is_over {
            let job = &mut next.list[at];
            (job.state, job.ended) = (JobState::Done, Some(self.clock.now()));
            job.left.clear();
            if let Replay::Letters { ids: Some(ids), .. } = &mut job.replay {
                ids.clear();
            }
        }
        next
    }

    /// Writes all rows to files, and then how far the job is, with its letters.
    fn checkpoint(&mut self, at: usize, is_over: bool) -> Result<()> {
        self.flush_all()?;
        if !self.log.keeps_units_whole() {
            self.append_letters_of_job()?;
        }
        let next = match self.unsaved.record.take() {
            Some(next) => next,
            None => self.next_jobs(at, is_over),
        };
        self.unsaved.record = Some(next.clone());
        let letters = self.unsaved.settled.iter().chain(self.unsaved.refused.iter());
        let entries: Vec<commit::Entry<'_>> = letters.map(|letter| self.letters.entry(letter)).collect();
        let now = self.clock.now();
        commit_document(&self.log, &self.wake, &self.config.state, &mut self.documents.jobs, &next, &entries, now)?;
        let refused = self.unsaved.refused.iter().len() as u64;
        metrics::counter!("floodplain_history_dead_letters_total").increment(refused);
        self.unsaved = Unsaved::default();
        if is_over {
            let job = &next.list[at];
            self.again = None;
            info!(job = job.name, records = job.progress.records, failed = job.progress.failed, "replay has ended");
        }
        self.set_jobs(next);
        Ok(())
    }
}
