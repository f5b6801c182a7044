//! Letters of what declared decoders refuse, on their way to the log.
//!
//! A log that does not keep units whole may have any part of a unit whose end is not known, or whose process has died, and some
//! of it may show late. So before letters are appended to a partition of `dlq` for the first time, and again once an end was not
//! known, a record goes there that is no letter ([`letters::FENCE`]), and what is in front of it is read: what is not there then
//! never will be.

use super::{Engine, READ_BYTES, commit};
use crate::{
    Error, Result,
    letters::{self, Head, Letter, LetterId, LetterMarks, UNIT_LETTERS_MAX},
};
use floodplain_fold::Runner;
use floodplain_log::{Log, Partition, ReadError, Stream};
use floodplain_types::Position;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of letters in one append unit; more are appended one unit after another.
const UNIT_BYTES_MAX: usize = 1 << 20;
/// Letters of a job that wait for its next record: to know which of them are new, `dlq` is read once for so many.
const NEW_MAX: usize = 10_000;
/// And their bytes. All of them are one append unit, where the log keeps units whole.
const NEW_BYTES_MAX: usize = 4 << 20;

/// What is appended before the records that it is about count as decoded.
#[derive(Debug)]
pub(super) struct Letters {
    pub(super) stream: Stream,
    /// Which letters there are, of each partition of `stream`.
    pub(super) marks: Vec<Runner<LetterMarks>>,
    pub(super) waiting: Vec<Letter>,
    /// Partitions that may have letters of which nobody knows.
    unsure: BTreeSet<Partition>,
}

impl Letters {
    pub(super) fn new(log: &dyn Log, stream: Stream, marks: Vec<Runner<LetterMarks>>) -> Self {
        // What a process that died has appended may still come.
        let is_unsure = !log.keeps_units_whole();
        let unsure = (0..stream.partitions).filter(|_| is_unsure).map(|index| stream.partition(index)).collect();
        Self { stream, marks, waiting: Vec::new(), unsure }
    }

    fn partition(&self, letter: &Letter) -> Partition {
        self.stream.partition_of(&letter.key)
    }

    fn marks(&self, letter: &Letter) -> &LetterMarks {
        self.marks[self.partition(letter).index as usize].fold()
    }

    pub(super) fn entry<'a>(&self, letter: &'a Letter) -> commit::Entry<'a> {
        commit::Entry { partition: self.partition(letter), key: &letter.key, value: &letter.value, is_json: true }
    }

    fn is_there(&self, letter: &Letter) -> bool {
        self.marks(letter).has(&letter.source, letter.position)
    }

    /// Keeps a letter for [`Engine::append_letters`], unless it is in the log since before the start.
    pub(super) fn push(&mut self, letter: Letter) {
        if !self.is_there(&letter) {
            self.waiting.push(letter);
        }
    }

    /// What was left out of a unit comes first, and before anything else is appended; gives its number.
    fn put_late_first(&mut self) -> usize {
        let waiting = std::mem::take(&mut self.waiting);
        let is_late = |letter: &Letter| self.marks(letter).has_later(&letter.source, letter.position);
        let (mut late, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_late);
        let count = late.len();
        late.extend(rest);
        self.waiting = late;
        count
    }
}

/// Letters of what a job has refused. Those that `dlq` has already are left out before they are appended.
#[derive(Debug, Default)]
pub(super) struct NewLetters {
    letters: BTreeMap<LetterId, Letter>,
    bytes: usize,
    /// What is still to be read of each partition of `dlq`; `None` before it was begun.
    unread: Option<Vec<(Partition, Position, Position)>>,
}

impl NewLetters {
    pub(super) fn extend(&mut self, letters: Vec<Letter>) {
        for letter in letters {
            self.bytes += letter.key.len() + letter.value.len();
            self.letters.insert(letter.id(), letter);
        }
    }

    /// Whether they are to be appended before there are more.
    pub(super) fn is_much(&self) -> bool {
        self.unread.is_some() || self.letters.len() >= NEW_MAX || self.bytes >= NEW_BYTES_MAX
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Letter> {
        self.letters.values()
    }

    /// Takes all of them, to be appended.
    fn take(&mut self) -> Vec<Letter> {
        std::mem::take(self).letters.into_values().collect()
    }

    /// Takes back those that were not appended; `are_known` if `dlq` has none of them.
    fn take_back(&mut self, letters: Vec<Letter>, are_known: bool) {
        self.extend(letters);
        self.unread = are_known.then(Vec::new);
    }
}

impl Engine {
    /// Leaves out the letters of a job that are in the log; `false` if there is more to be read before all are known.
    pub(super) fn knows_new_letters(&mut self) -> Result<bool> {
        if self.unsaved.refused.letters.is_empty() {
            return Ok(true);
        }
        if self.unsaved.refused.unread.is_none() {
            let partitions = self.unsaved.refused.iter().map(|letter| self.letters.partition(letter)).collect();
            self.fence_letters(&partitions)?;
        }
        let new = &mut self.unsaved.refused;
        let stream = &self.letters.stream;
        let whole = |index| {
            let partition = stream.partition(index);
            (partition, self.log.start(partition), self.log.watermark(partition))
        };
        let unread = new.unread.get_or_insert_with(|| (0..stream.partitions).map(whole).collect());
        let Some((partition, from, to)) = unread.last_mut().filter(|(_, from, to)| from < to) else {
            return Ok(unread.pop().is_none());
        };
        let read = match self.log.read(*partition, *from, READ_BYTES) {
            Err(ReadError::Trimmed { start: next, .. } | ReadError::Corrupt { next, .. }) if next > *from => {
                *from = next;
                return Ok(false);
            }
            read => read?,
        };
        for batch in &read.batches {
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().map_while(Result::ok) {
                let known = Head::of_decoder(record.value.unwrap_or_default());
                known.and_then(|(head, position)| new.letters.remove(&head.id(position)));
            }
        }
        *from = if read.next > *from { read.next } else { *to };
        Ok(false)
    }

    /// Appends the letters that wait: of one partition of messages in the order of these, each once.
    pub(super) fn append_letters(&mut self) -> Result<()> {
        if self.letters.waiting.is_empty() {
            return Ok(());
        }
        let partitions = self.letters.waiting.iter().map(|letter| self.letters.partition(letter)).collect();
        if self.fence_letters(&partitions)? {
            let waiting = std::mem::take(&mut self.letters.waiting);
            self.letters.waiting = waiting.into_iter().filter(|letter| !self.letters.is_there(letter)).collect();
        }
        let mut late = self.letters.put_late_first();
        while !self.letters.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.letters.waiting);
            // What is new goes into no unit with what was left out of one: see [`LetterMarks`].
            let appended = self.append_some(if late > 0 { &waiting[..late] } else { &waiting });
            self.letters.waiting = waiting;
            let count = appended?;
            self.letters.waiting.drain(..count);
            late = late.saturating_sub(count);
            metrics::counter!("floodplain_history_dead_letters_total").increment(count as u64);
        }
        Ok(())
    }

    /// Appends the letters of a job before its record, where they would not be one unit with that: a part of them does no harm.
    /// Marks may be there twice after a crash, and say the same.
    pub(super) fn append_letters_of_job(&mut self) -> Result<()> {
        while !self.unsaved.settled.is_empty() {
            let settled = std::mem::take(&mut self.unsaved.settled);
            let appended = self.append_some(&settled);
            self.unsaved.settled = settled;
            self.unsaved.settled.drain(..appended?);
        }
        let mut refused = self.unsaved.refused.take();
        while !refused.is_empty() {
            match self.append_some(&refused) {
                Ok(count) => {
                    refused.drain(..count);
                    metrics::counter!("floodplain_history_dead_letters_total").increment(count as u64);
                }
                Err(error) => {
                    self.unsaved.refused.take_back(refused, !matches!(error, Error::Unknown));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Appends the first of these letters as one unit; gives their number.
    fn append_some(&mut self, letters: &[Letter]) -> Result<usize> {
        let count_max = if self.log.keeps_units_whole() { usize::MAX } else { UNIT_LETTERS_MAX };
        let mut bytes = 0;
        let fits = |letter: &&Letter| {
            bytes += letter.key.len() + letter.value.len();
            bytes <= UNIT_BYTES_MAX
        };
        let count = letters.iter().take(count_max).take_while(fits).count().max(1);
        let entries: Vec<_> = letters[..count].iter().map(|letter| self.letters.entry(letter)).collect();
        let appended = commit::append_unit(&*self.log, &self.wake, &entries, self.clock.now());
        if let Err(Error::Unknown) = appended {
            self.letters.unsure.extend(entries.iter().map(|entry| entry.partition));
        }
        appended.map(|_| count)
    }

    /// Knows which letters there are in these partitions, where that was not sure; whether it was so in any.
    fn fence_letters(&mut self, partitions: &BTreeSet<Partition>) -> Result<bool> {
        let unsure: Vec<_> = self.letters.unsure.intersection(partitions).copied().collect();
        for &partition in &unsure {
            let (now, value) = (self.clock.now(), letters::fence());
            let fence = commit::Entry { partition, key: b"history", value: &value, is_json: true };
            let position = commit::append_unit(&*self.log, &self.wake, &[fence], now)?;
            let marks = &mut self.letters.marks[partition.index as usize];
            commit::fold_past(&*self.log, &self.wake, marks, position, now)?;
            self.letters.unsure.remove(&partition);
        }
        Ok(!unsure.is_empty())
    }
}
