//! Letters of what declared decoders refuse, on their way to the log.

use super::{Engine, READ_BYTES, commit};
use crate::{
    Result,
    letters::{Head, Letter, LetterId, LetterMarks},
};
use floodplain_fold::Runner;
use floodplain_log::{Partition, ReadError, Stream};
use floodplain_types::Position;
use std::collections::BTreeMap;

/// Bytes of letters in one append unit; more are appended one unit after another.
const UNIT_BYTES_MAX: usize = 1 << 20;
/// Letters of a job that wait for its next record: to know which of them are new, `dlq` is read once for so many.
const NEW_MAX: usize = 10_000;
/// And their bytes. All of them are one append unit.
const NEW_BYTES_MAX: usize = 4 << 20;

/// What is appended before the records that it is about count as decoded.
#[derive(Debug)]
pub(super) struct Letters {
    pub(super) stream: Stream,
    /// Which letters there are, of each partition of `stream`.
    pub(super) marks: Vec<Runner<LetterMarks>>,
    pub(super) waiting: Vec<Letter>,
    /// The end of the last append is not known.
    is_unsure: bool,
}

impl Letters {
    pub(super) const fn new(stream: Stream, marks: Vec<Runner<LetterMarks>>) -> Self {
        Self { stream, marks, waiting: Vec::new(), is_unsure: false }
    }

    pub(super) fn entry<'a>(&self, letter: &'a Letter) -> commit::Entry<'a> {
        let partition = self.stream.partition_of(&letter.key);
        commit::Entry { partition, key: &letter.key, value: &letter.value, is_json: true }
    }

    fn is_there(marks: &[Runner<LetterMarks>], letter: &Letter) -> bool {
        marks.iter().filter_map(|runner| runner.fold().get(&letter.source)).any(|mark| mark >= letter.position)
    }

    /// Keeps a letter for [`Engine::append_letters`], unless it is in the log since before the start.
    pub(super) fn push(&mut self, letter: Letter) {
        if !Self::is_there(&self.marks, &letter) {
            self.waiting.push(letter);
        }
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
}

impl Engine {
    /// Leaves out the letters of a job that are in the log; `false` if there is more to be read before all are known.
    pub(super) fn knows_new_letters(&mut self) -> Result<bool> {
        let new = &mut self.unsaved.refused;
        if new.letters.is_empty() {
            return Ok(true);
        }
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

    /// Appends the letters that wait, in their order. They are not appended a second time if the end of an append is not known.
    pub(super) fn append_letters(&mut self) -> Result<()> {
        let now = self.clock.now();
        let Letters { marks, waiting, is_unsure, .. } = &mut self.letters;
        if *is_unsure {
            marks.iter_mut().try_for_each(|runner| commit::fold(&*self.log, runner, now))?;
            waiting.retain(|letter| !Letters::is_there(marks, letter));
            *is_unsure = false;
        }
        while !self.letters.waiting.is_empty() {
            let mut bytes = 0;
            let fits = |letter: &&Letter| {
                bytes += letter.key.len() + letter.value.len();
                bytes <= UNIT_BYTES_MAX
            };
            let count = self.letters.waiting.iter().take_while(fits).count().max(1);
            let entries: Vec<_> =
                self.letters.waiting[..count].iter().map(|letter| self.letters.entry(letter)).collect();
            let appended = commit::append_unit(&*self.log, &self.wake, &entries, now);
            self.letters.is_unsure = appended.is_err();
            appended?;
            self.letters.waiting.drain(..count);
            metrics::counter!("floodplain_history_dead_letters_total").increment(count as u64);
        }
        Ok(())
    }
}
