//! Letters of what declared decoders refuse, on their way to the log.

use super::{Engine, commit};
use crate::{
    Result,
    letters::{Letter, LetterMarks},
};
use floodplain_fold::Runner;
use floodplain_log::Stream;

/// Bytes of letters in one append unit; more are appended one unit after another.
const UNIT_BYTES_MAX: usize = 1 << 20;

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

impl Engine {
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
