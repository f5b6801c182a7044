//! What a session was promised and does not get, as records of stream `dlq`: `docs/formats/dlq.md`.

use super::DLQ;
use floodplain_fold::Output;
use floodplain_log::{DataStreams, TELEMETRY, header};
use floodplain_types::Position;
use std::sync::Arc;

/// What the data streams are called, for letters. Streams only ever come behind the others, so a letter says the same
/// whenever it is written.
#[derive(Debug, Clone)]
pub struct StreamNames {
    /// Of each stream.
    partitions: u32,
    names: Arc<[Box<str>]>,
}

impl Default for StreamNames {
    /// `telemetry` alone.
    fn default() -> Self {
        Self { partitions: u32::MAX, names: Arc::new([TELEMETRY.into()]) }
    }
}

impl From<&DataStreams> for StreamNames {
    fn from(streams: &DataStreams) -> Self {
        let names = streams.list().iter().map(|stream| stream.id.stream.as_str().into());
        Self { partitions: streams.partitions_each(), names: names.collect() }
    }
}

impl StreamNames {
    /// The stream of a data partition, and the index of the partition in there.
    fn place(&self, index: u32) -> (&str, u32) {
        let name = self.names.get((index / self.partitions) as usize);
        (name.map_or("", |name| name), index % self.partitions)
    }
}

/// Messages of one data partition that one session does not get, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// For people.
    pub reason: Box<str>,
    /// Index of the partition among all data partitions.
    pub partition: u32,
    /// First and last position, both included.
    pub from: Position,
    pub to: Position,
    /// How many messages of the range.
    pub count: u64,
}

impl Letter {
    /// The value of the record.
    pub(crate) fn json(&self, client: &str, names: &StreamNames) -> String {
        let Self { reason, partition, from, to, count } = self;
        let (stream, partition) = names.place(*partition);
        format!(
            r#"{{"session":{},"reason":{},"stream":{},"partition":{partition},"from":"{from}","to":"{to}","count":{count}}}"#,
            quoted(client),
            quoted(reason),
            quoted(stream),
        )
    }

    pub(super) fn output(&self, client: &str, names: &StreamNames) -> Output {
        let (name, value) = letter_content_type();
        Output {
            stream: DLQ,
            key: client.as_bytes().to_vec(),
            value: Some(self.json(client, names).into_bytes()),
            headers: vec![(name.to_owned(), value.to_vec())],
        }
    }
}

/// The header of a letter's record.
pub(crate) const fn letter_content_type() -> (&'static str, &'static [u8]) {
    (header::CONTENT_TYPE, b"application/json")
}

/// Letters of one session, joined by reason and partition: a thousand expired messages are one letter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Letters(Vec<Letter>);

impl Letters {
    /// Adds a letter, or widens the one with the same reason and partition.
    pub fn note(&mut self, letter: Letter) {
        let same = |held: &&mut Letter| held.partition == letter.partition && held.reason == letter.reason;
        match self.0.iter_mut().find(same) {
            Some(held) => {
                held.from = held.from.min(letter.from);
                held.to = held.to.max(letter.to);
                held.count = held.count.saturating_add(letter.count);
            }
            None => self.0.push(letter),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all.
    #[must_use]
    pub fn take(&mut self) -> Vec<Letter> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn as_slice(&self) -> &[Letter] {
        &self.0
    }
}

impl From<Vec<Letter>> for Letters {
    fn from(letters: Vec<Letter>) -> Self {
        Self(letters)
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_written_as_json() {
        let mut letters = Letters::default();
        let letter = |from, to, count| Letter {
            reason: "expired".into(),
            partition: 3,
            from: Position::new(0, from),
            to: Position::new(0, to),
            count,
        };
        letters.note(letter(7, 7, 1));
        letters.note(letter(5, 6, 2));
        let json: Vec<_> = letters.take().iter().map(|letter| letter.json("a\"b", &StreamNames::default())).collect();
        assert_eq!(
            json,
            [
                r#"{"session":"a\"b","reason":"expired","stream":"telemetry","partition":3,"from":"0:5","to":"0:7","count":3}"#
            ]
        );
        assert!(letters.is_empty());
    }
}
