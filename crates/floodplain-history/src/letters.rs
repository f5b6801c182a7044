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
use std::collections::BTreeMap;

/// Name of the stream.
pub const STREAM: &str = "dlq";
/// `kind` of what a decoder refused.
pub const DECODE: &str = "decode";
/// Reason of letters about rows that came when they were too old for their table.
pub const OLDER_THAN_RETENTION: &str = "older_than_retention";
/// `kind` of the mark that a letter was decoded after all.
pub const REPLAYED: &str = "replayed";

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

/// The last message of each partition that has a letter. Letters of one partition are appended in the order of its messages, so all
/// before it have theirs: what is decoded again after a start writes no letter twice. Those of a job are about messages that
/// had been decoded when it began.
#[derive(Debug, Default)]
pub(crate) struct LetterMarks(BTreeMap<String, Position>);

impl LetterMarks {
    pub(crate) fn get(&self, source: &str) -> Option<Position> {
        self.0.get(source).copied()
    }
}

impl Fold for LetterMarks {
    const NAME: &'static str = "letters";
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        let Some((head, position)) = Head::of_decoder(input.record.value.unwrap_or_default()) else { return };
        let mark = self.0.entry(format!("{}/{}", head.stream, head.partition)).or_default();
        *mark = position.max(*mark);
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.0.len() as u64);
        for (source, position) in &self.0 {
            out.put_str(source);
            out.put_position(*position);
        }
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        let marks = get.list(|get| Ok((get.str()?.to_owned(), get.position()?)))?;
        get.end()?;
        self.0 = marks.into_iter().collect();
        Ok(())
    }
}
