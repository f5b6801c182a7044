//! Letters of sessions that end with their connection: no event tells of those, so they are appended as they are.

use crate::folds::{Letter, Letters, StreamNames, letter_content_type};
use floodplain_log::{BatchBuilder, BatchError};
use std::collections::BTreeMap;

/// Sessions gathered before their letters are written without waiting for the next tick.
const SESSIONS_MAX: usize = 1024;

/// Letters of one tick, by session.
#[derive(Debug, Default)]
pub(crate) struct Dlq {
    sessions: BTreeMap<Box<str>, Letters>,
}

impl Dlq {
    pub(crate) fn note(&mut self, client: &str, letter: Letter) {
        self.sessions.entry(client.into()).or_default().note(letter);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.sessions.len() >= SESSIONS_MAX
    }

    /// Takes what was noted.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (Box<str>, Letter)> + use<> {
        let sessions = std::mem::take(&mut self.sessions).into_iter();
        sessions
            .flat_map(|(client, mut letters)| letters.take().into_iter().map(move |letter| (client.clone(), letter)))
    }
}

/// Adds the record of a letter.
pub(crate) fn write(
    letter: &Letter,
    client: &str,
    names: &StreamNames,
    now_ms: i64,
    batch: &mut BatchBuilder,
) -> Result<u32, BatchError> {
    batch.push(now_ms, Some(client.as_bytes()), Some(letter.json(client, names).as_bytes()), [letter_content_type()])
}
