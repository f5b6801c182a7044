//! Dead letters of decoders: what a declared decoder refused, as records of the stream `dlq` (`docs/formats/dlq.md`).

use crate::route::Target;
use floodplain_decode::Failure;
use floodplain_fold::{
    Fold, Input, Outputs, RestoreError,
    wire::{Get, Put},
};
use floodplain_log::MessageRef;
use floodplain_types::Position;
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Name of the stream.
pub const STREAM: &str = "dlq";
/// `kind` of what a decoder refused.
pub const DECODE: &str = "decode";
/// Reason of letters about rows that came when they were too old for their table.
pub const OLDER_THAN_RETENTION: &str = "older_than_retention";
/// `kind` of the mark that a letter was decoded after all.
pub const REPLAYED: &str = "replayed";
/// `kind` of a record that concerns no message: the end of an append before it was not known, and what is in front of it is all
/// that there will be of that.
pub const FENCE: &str = "fence";
/// So many letters are appended as one unit where a part of it may be all that is found, and so many messages with a letter are
/// known one by one.
pub(crate) const UNIT_LETTERS_MAX: usize = 256;

/// A record of `dlq` that is to be appended.
#[derive(Debug)]
pub(crate) struct Letter {
    /// Where the message is: `stream/partition`, and the position.
    pub(crate) source: String,
    pub(crate) position: Position,
    /// Version of the decoder that refused it; of a mark, none.
    pub(crate) decoder: String,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// What there is one letter of: a message, and a version of a decoder.
pub(crate) type LetterId = (String, Position, String);

/// Where a message is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) stream: &'a str,
    pub(crate) partition: u32,
    pub(crate) position: Position,
}

impl Place<'_> {
    fn source(&self) -> String {
        format!("{}/{}", self.stream, self.partition)
    }
}

/// What `binding` refused of a message for `device`: the first failure, and how many there were.
pub(crate) fn refused(
    place: Place<'_>,
    message: &MessageRef<'_>,
    device: &str,
    binding: &str,
    failure: &Failure,
    count: u64,
) -> Letter {
    let (at, decoder) = (place.position.to_string(), failure.decoder_version.to_string());
    let value = json!({
        "kind": DECODE,
        "stage": failure.stage.as_str(),
        "reason": failure.reason,
        "stream": place.stream,
        "partition": place.partition,
        "from": at,
        "to": at,
        "count": count,
        "binding": binding,
        "topic": message.topic,
        "device": device,
        "byte_position": failure.byte_position,
        "line": failure.line,
        "decoder": decoder,
    });
    let value = value.to_string().into_bytes();
    Letter { source: place.source(), position: place.position, decoder, key: message.key.to_vec(), value }
}

/// Rows of a message that were older than their table keeps rows when it was received.
pub(crate) fn too_old(
    place: Place<'_>,
    message: &MessageRef<'_>,
    target: &Target<'_>,
    binding: &str,
    count: u64,
) -> Letter {
    let (at, decoder) = (place.position.to_string(), target.decoder.version().to_string());
    let value = json!({
        "kind": DECODE,
        "stage": "retention",
        "reason": OLDER_THAN_RETENTION,
        "stream": place.stream,
        "partition": place.partition,
        "from": at,
        "to": at,
        "count": count,
        "binding": binding,
        "topic": message.topic,
        "device": target.device,
        "byte_position": null,
        "line": null,
        "decoder": decoder,
    });
    let value = value.to_string().into_bytes();
    Letter { source: place.source(), position: place.position, decoder, key: message.key.to_vec(), value }
}

/// The mark that the message of a letter was decoded after all, by the job `job`.
pub(crate) fn replayed(place: Place<'_>, key: &[u8], job: &str) -> Letter {
    let at = place.position.to_string();
    let Place { stream, partition, .. } = place;
    let value = json!({ "kind": REPLAYED, "stream": stream, "partition": partition, "from": at, "job": job });
    let value = value.to_string().into_bytes();
    Letter { source: place.source(), position: place.position, decoder: String::new(), key: key.to_vec(), value }
}

/// What is read of a letter. Those of sessions have no kind.
#[derive(Debug, Deserialize)]
pub(crate) struct Head {
    #[serde(default)]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) reason: String,
    pub(crate) stream: String,
    pub(crate) partition: u32,
    pub(crate) from: String,
    #[serde(default)]
    pub(crate) decoder: String,
}

impl Letter {
    pub(crate) fn id(&self) -> LetterId {
        (self.source.clone(), self.position, self.decoder.clone())
    }
}

impl Head {
    /// Which letter it is, if its message is at `position`.
    pub(crate) fn id(self, position: Position) -> LetterId {
        (format!("{}/{}", self.stream, self.partition), position, self.decoder)
    }

    /// Of a letter of a decoder, and where its message is.
    pub(crate) fn of_decoder(value: &[u8]) -> Option<(Self, Position)> {
        let head: Self = serde_json::from_slice(value).ok()?;
        let position = head.from.parse().ok()?;
        (head.kind.as_deref() == Some(DECODE)).then_some((head, position))
    }
}

/// The value of a [`FENCE`].
pub(crate) fn fence() -> Vec<u8> {
    let reason = "no message: it was not known which letters were there";
    json!({ "kind": FENCE, "reason": reason }).to_string().into_bytes()
}

/// Which messages have a letter in one partition of `dlq`, so that what is decoded again after a crash writes none twice and
/// leaves none out.
///
/// Letters of one partition of messages are appended in the order of its messages, and a unit only when all of those before are
/// there. A log that does not keep units whole may have a part of the last one: so of a unit of at most [`UNIT_LETTERS_MAX`]
/// letters fewer are behind one that is missing. Letters of a job are about messages that had been decoded when it began.
#[derive(Debug, Default)]
pub(crate) struct LetterMarks(BTreeMap<String, Mark>);

/// The messages of one partition.
#[derive(Debug, Default)]
struct Mark {
    /// Up to it all that were refused have their letters.
    until: Option<Position>,
    /// Those behind it that have one: the newest [`UNIT_LETTERS_MAX`].
    newest: BTreeSet<Position>,
}

impl LetterMarks {
    /// Whether the letter of a message that was refused is there.
    pub(crate) fn has(&self, source: &str, position: Position) -> bool {
        self.0.get(source).is_some_and(|mark| mark.until >= Some(position) || mark.newest.contains(&position))
    }

    /// Whether there is a letter of a later message of the partition.
    pub(crate) fn has_later(&self, source: &str, position: Position) -> bool {
        let newest = |mark: &Mark| mark.newest.last().copied().max(mark.until);
        self.0.get(source).and_then(newest).is_some_and(|newest| newest > position)
    }

    fn note(&mut self, source: String, position: Position) {
        let mark = self.0.entry(source).or_default();
        if mark.until < Some(position) {
            mark.newest.insert(position);
        }
        if mark.newest.len() > UNIT_LETTERS_MAX {
            mark.until = mark.newest.pop_first();
        }
    }
}

impl Fold for LetterMarks {
    const NAME: &'static str = "letters";
    const FORMAT: u16 = 2;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        let Some((head, position)) = Head::of_decoder(input.record.value.unwrap_or_default()) else { return };
        self.note(format!("{}/{}", head.stream, head.partition), position);
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.0.len() as u64);
        for (source, mark) in &self.0 {
            out.put_str(source);
            out.put_option(mark.until, |out, until| out.put_position(until));
            out.put_u64(mark.newest.len() as u64);
            mark.newest.iter().for_each(|position| out.put_position(*position));
        }
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut get = Get::new(bytes);
        let marks = match format {
            // The last message that had a letter; units were whole.
            1 => get.list(|get| {
                let (source, until) = (get.str()?.to_owned(), Some(get.position()?));
                Ok((source, Mark { until, newest: BTreeSet::new() }))
            })?,
            Self::FORMAT => get.list(|get| {
                let (source, until) = (get.str()?.to_owned(), get.option(Get::position)?);
                Ok((source, Mark { until, newest: get.list(Get::position)?.into_iter().collect() }))
            })?,
            found => return Err(RestoreError::Format { found, newest: Self::FORMAT }),
        };
        get.end()?;
        self.0 = marks.into_iter().collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: u64) -> Position {
        Position::new(0, offset)
    }

    fn restored(format: u16, bytes: &[u8]) -> LetterMarks {
        let mut marks = LetterMarks::default();
        marks.restore(format, bytes).unwrap();
        marks
    }

    proptest! {
        /// Units, each of which is torn any number of times, with a start after each: what was left out comes before what is new.
        #[test]
        fn each_message_has_one_letter_whatever_is_torn(
            refused in prop::collection::btree_set(0..4000_u64, 0..900),
            kept in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..40), 1..12),
        ) {
            let (mut marks, mut there) = (LetterMarks::default(), Vec::new());
            let mut tears = kept.iter();
            loop {
                let mut bytes = Vec::new();
                marks.snapshot(&mut bytes);
                marks = restored(LetterMarks::FORMAT, &bytes);
                let missing = || refused.iter().copied().filter(|offset| !marks.has("t/0", at(*offset)));
                let late: Vec<u64> = missing().filter(|offset| marks.has_later("t/0", at(*offset))).collect();
                let unit: Vec<u64> = if late.is_empty() { missing().take(UNIT_LETTERS_MAX).collect() } else { late };
                if unit.is_empty() {
                    break;
                }
                prop_assert!(unit.len() <= UNIT_LETTERS_MAX);
                let torn = tears.next();
                for (idx, offset) in unit.into_iter().enumerate() {
                    if torn.is_none_or(|torn| torn[idx % torn.len()]) {
                        marks.note("t/0".to_owned(), at(offset));
                        there.push(offset);
                    }
                }
            }
            there.sort_unstable();
            prop_assert_eq!(there, refused.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_snapshot_of_version_1_has_all_up_to_the_last() {
        let mut bytes = Vec::new();
        bytes.put_u64(1);
        bytes.put_str("t/0");
        bytes.put_position(at(7));
        let mut marks = restored(1, &bytes);
        assert!(marks.has("t/0", at(3)) && marks.has("t/0", at(7)) && !marks.has("t/0", at(8)));
        marks.note("t/0".to_owned(), at(10));
        assert!(!marks.has("t/0", at(8)) && marks.has_later("t/0", at(8)) && !marks.has_later("t/0", at(10)));
        assert!(!marks.has("t/1", at(3)));
    }
}
