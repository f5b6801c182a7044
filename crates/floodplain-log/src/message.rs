//! A device's message as one record: which headers mean what.
//!
//! The table is in `docs/formats/record.md`, the reasons in `docs/decisions/0002-record-headers.md`.

use crate::{BatchBuilder, BatchError, Record, base64url, record_batch::HeaderParts};
use std::{borrow::Cow, io::Write as _};

/// Names of the headers that Floodplain writes; all others are user properties.
pub mod header {
    /// Topic name.
    pub const TOPIC: &str = "fp.t";
    /// QoS, retain flag, message expiry: `1`, `1r`, `2re60`. Absent is QoS 0 and nothing else.
    pub const FLAGS: &str = "fp.f";
    /// Content type.
    pub const CONTENT_TYPE: &str = "fp.c";
    /// Response topic.
    pub const RESPONSE_TOPIC: &str = "fp.r";
    /// Correlation data, base64url without padding.
    pub const CORRELATION: &str = "fp.k";
    /// Time that the sender claims, nanoseconds since 1970.
    pub const EVENT_TIME: &str = "fp.e";
    /// Ingest time in nanoseconds since 1970, where more than the milliseconds of the record is known.
    pub const INGEST_TIME: &str = "fp.i";
    /// Client id of the publisher, where it is not the key.
    pub const PUBLISHER: &str = "fp.p";
    /// Payload format indicator: `1` for UTF-8.
    pub const PAYLOAD_FORMAT: &str = "fp.u";
    /// Protocol and listener.
    pub const LISTENER: &str = "fp.l";
    /// Id by which a fold finds a repetition.
    pub const DEDUP_ID: &str = "fp.x";
    /// Epoch of the session that published.
    pub const SESSION_EPOCH: &str = "fp.s";
    /// What all names of ours start with.
    pub const PREFIX: &str = "fp.";
    /// What a user property that starts with [`PREFIX`] is stored behind.
    pub const ESCAPE: &str = "fp.u.";
}

/// Why a record is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The record itself is broken.
    #[error(transparent)]
    Record(#[from] BatchError),
    /// Written by something that knows no topics, a Kafka client for example.
    #[error("record has no topic header")]
    NoTopic,
    /// A header of ours holds what it must not.
    #[error("header {name} is malformed")]
    Header { name: &'static str },
}

/// Binary data that is base64url text while it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correlation<'a> {
    Raw(&'a [u8]),
    Base64Url(&'a [u8]),
}

impl<'a> Correlation<'a> {
    /// The data as the sender gave it.
    #[must_use]
    pub fn data(self) -> Cow<'a, [u8]> {
        match self {
            Self::Raw(data) => data.into(),
            // Text that does not decode was not written by us; it is kept as it is.
            Self::Base64Url(text) => base64url::decode(text).map_or(Cow::Borrowed(text), Cow::Owned),
        }
    }
}

/// A message, borrowed from a record or from a connection's read buffer.
///
/// User properties stay outside: [`Self::user_properties`] of a parsed message, an argument of
/// [`Self::write`].
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageRef<'a> {
    pub topic: &'a str,
    /// Untouched, and empty for a tombstone.
    pub payload: &'a [u8],
    /// The device: key of the record.
    pub key: &'a [u8],
    /// 0, 1 or 2.
    pub qos: u8,
    pub retain: bool,
    /// Message expiry interval, counted from ingest (MQTT 5.0 §3.3.2.3.3).
    pub expiry_seconds: Option<u32>,
    pub content_type: Option<&'a str>,
    pub response_topic: Option<&'a str>,
    pub correlation: Option<Correlation<'a>>,
    /// Time that the sender claims, nanoseconds since 1970.
    pub event_time_ns: Option<i64>,
    /// Ingest time in nanoseconds since 1970, where the record's milliseconds are not all.
    pub ingest_time_ns: Option<i64>,
    /// Client id of the publisher, where it is not the key.
    pub publisher: Option<&'a str>,
    /// Payload format indicator (MQTT 5.0 §3.3.2.3.2).
    pub payload_format: Option<u8>,
    /// Protocol and listener.
    pub listener: Option<&'a str>,
    pub dedup_id: Option<&'a str>,
    pub session_epoch: Option<&'a str>,
    /// Where [`Self::parse`] found it; `None` for a message on its way in.
    pub record: Option<Record<'a>>,
}

impl<'a> MessageRef<'a> {
    /// Reads the headers of `record` in one pass, copying nothing.
    ///
    /// # Errors
    /// [`MessageError`]; [`MessageError::NoTopic`] for whole records that are not messages.
    pub fn parse(record: &Record<'a>) -> Result<Self, MessageError> {
        let mut message = Self {
            key: record.key.unwrap_or_default(),
            payload: record.value.unwrap_or_default(),
            record: Some(*record),
            ..Self::default()
        };
        let mut has_topic = false;
        for item in record.headers() {
            let (name, value) = item?;
            // Ours are `fp.` and one letter.
            let [b'f', b'p', b'.', letter] = name.as_bytes() else { continue };
            let value = value.unwrap_or_default();
            match letter {
                b't' => {
                    message.topic = text(value, header::TOPIC)?;
                    has_topic = true;
                }
                b'f' => (message.qos, message.retain, message.expiry_seconds) = parse_flags(value)?,
                b'c' => message.content_type = Some(text(value, header::CONTENT_TYPE)?),
                b'r' => message.response_topic = Some(text(value, header::RESPONSE_TOPIC)?),
                b'k' => message.correlation = Some(Correlation::Base64Url(value)),
                b'e' => message.event_time_ns = Some(number(value, header::EVENT_TIME)?),
                b'i' => message.ingest_time_ns = Some(number(value, header::INGEST_TIME)?),
                b'p' => message.publisher = Some(text(value, header::PUBLISHER)?),
                b'u' => message.payload_format = Some(number(value, header::PAYLOAD_FORMAT)?),
                b'l' => message.listener = Some(text(value, header::LISTENER)?),
                b'x' => message.dedup_id = Some(text(value, header::DEDUP_ID)?),
                b's' => message.session_epoch = Some(text(value, header::SESSION_EPOCH)?),
                // A later version's header: not ours to refuse.
                _ => {}
            }
        }
        if has_topic { Ok(message) } else { Err(MessageError::NoTopic) }
    }

    /// The client id of the publisher: the key, unless another one was written.
    ///
    /// Empty if the key is no UTF-8.
    #[must_use]
    pub fn publisher_or_key(&self) -> &'a str {
        self.publisher.unwrap_or_else(|| std::str::from_utf8(self.key).unwrap_or_default())
    }

    /// The user properties of a parsed message as they came: in order, repeated names included.
    /// Values that are not UTF-8 (no MQTT client writes them) are left out.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        self.record.into_iter().flat_map(|record| record.headers()).filter_map(|header| {
            let (name, value) = header.ok()?;
            let name = match name.strip_prefix(header::ESCAPE) {
                Some(escaped) => escaped,
                None if name.starts_with(header::PREFIX) => return None,
                None => name,
            };
            Some((name, std::str::from_utf8(value.unwrap_or_default()).ok()?))
        })
    }

    /// Adds the message to a batch, with the ingest time in milliseconds since 1970.
    ///
    /// Returns the offset delta of its record.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if the batch is full; nothing is added then.
    pub fn write<'u>(
        &self,
        batch: &mut BatchBuilder,
        ingest_ms: i64,
        user_properties: impl Iterator<Item = (&'u str, &'u str)> + Clone,
    ) -> Result<u32, BatchError> {
        // Numbers and base64 are written to one scratch buffer first, which the builder keeps.
        let mut scratch = std::mem::take(&mut batch.scratch);
        scratch.clear();
        let mut ends = [0_usize; 5];
        self.encode_values(&mut scratch, &mut ends);
        let encoded = |idx: usize| {
            let start = if idx == 0 { 0 } else { ends[idx - 1] };
            let value = &scratch[start..ends[idx]];
            (!value.is_empty()).then_some(value)
        };
        let correlation = self.correlation.map(|correlation| match correlation {
            Correlation::Raw(_) => encoded(1).unwrap_or_default(),
            Correlation::Base64Url(text) => text,
        });
        let ours = [
            (header::TOPIC, Some(self.topic.as_bytes())),
            (header::FLAGS, encoded(0)),
            (header::CONTENT_TYPE, self.content_type.map(str::as_bytes)),
            (header::RESPONSE_TOPIC, self.response_topic.map(str::as_bytes)),
            (header::CORRELATION, correlation),
            (header::EVENT_TIME, encoded(2)),
            (header::INGEST_TIME, encoded(3)),
            (header::PUBLISHER, self.publisher.map(str::as_bytes).filter(|publisher| *publisher != self.key)),
            (header::PAYLOAD_FORMAT, encoded(4)),
            (header::LISTENER, self.listener.map(str::as_bytes)),
            (header::DEDUP_ID, self.dedup_id.map(str::as_bytes)),
            (header::SESSION_EPOCH, self.session_epoch.map(str::as_bytes)),
        ];
        let ours = ours.iter().filter_map(|(name, value)| value.map(|value| HeaderParts { prefix: "", name, value }));
        let users = user_properties.map(|(name, value)| {
            let prefix = if name.starts_with(header::PREFIX) { header::ESCAPE } else { "" };
            HeaderParts { prefix, name, value: value.as_bytes() }
        });
        let pushed = batch.push_parts(ingest_ms, Some(self.key), Some(self.payload), ours.chain(users));
        batch.scratch = scratch;
        pushed
    }

    /// Writes flags, correlation, event time, ingest time and payload format, one after another.
    fn encode_values(&self, scratch: &mut Vec<u8>, ends: &mut [usize; 5]) {
        const NEVER: &str = "writing to a Vec cannot fail";
        if self.qos > 0 || self.retain || self.expiry_seconds.is_some() {
            scratch.push(b'0' + self.qos.min(2));
            if self.retain {
                scratch.push(b'r');
            }
            if let Some(seconds) = self.expiry_seconds {
                write!(scratch, "e{seconds}").expect(NEVER);
            }
        }
        ends[0] = scratch.len();
        if let Some(Correlation::Raw(data)) = self.correlation {
            base64url::encode_into(scratch, data);
        }
        ends[1] = scratch.len();
        if let Some(ns) = self.event_time_ns {
            write!(scratch, "{ns}").expect(NEVER);
        }
        ends[2] = scratch.len();
        if let Some(ns) = self.ingest_time_ns {
            write!(scratch, "{ns}").expect(NEVER);
        }
        ends[3] = scratch.len();
        if let Some(format) = self.payload_format {
            write!(scratch, "{format}").expect(NEVER);
        }
        ends[4] = scratch.len();
    }
}

fn text<'a>(value: &'a [u8], name: &'static str) -> Result<&'a str, MessageError> {
    std::str::from_utf8(value).map_err(|_| MessageError::Header { name })
}

fn number<T: std::str::FromStr>(value: &[u8], name: &'static str) -> Result<T, MessageError> {
    text(value, name)?.parse().map_err(|_| MessageError::Header { name })
}

fn parse_flags(value: &[u8]) -> Result<(u8, bool, Option<u32>), MessageError> {
    const BAD: MessageError = MessageError::Header { name: header::FLAGS };
    let (qos, rest) = value.split_first().ok_or(BAD)?;
    if !(b'0'..=b'2').contains(qos) {
        return Err(BAD);
    }
    let (retain, rest) = rest.strip_prefix(b"r").map_or((false, rest), |rest| (true, rest));
    let expiry = match rest.split_first() {
        None => None,
        Some((b'e', seconds)) => Some(number(seconds, header::FLAGS)?),
        Some(_) => return Err(BAD),
    };
    Ok((qos - b'0', retain, expiry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Compression};
    use proptest::prelude::*;

    fn write(message: &MessageRef<'_>, user: &[(&str, &str)]) -> Batch {
        let mut builder = BatchBuilder::new();
        message.write(&mut builder, 1, user.iter().copied()).unwrap();
        builder.finish(Compression::None).unwrap()
    }

    fn header_names(batch: &Batch) -> Vec<String> {
        let records = batch.records().unwrap();
        let record = records.iter().next().unwrap().unwrap();
        record.headers().map(|header| header.unwrap().0.to_owned()).collect()
    }

    #[test]
    fn only_headers_that_say_something_are_written() {
        let message = MessageRef { topic: "a/b", key: b"dev", publisher: Some("dev"), ..MessageRef::default() };
        assert_eq!(header_names(&write(&message, &[])), ["fp.t"]);
        let message = MessageRef { qos: 1, publisher: Some("other"), ..message };
        assert_eq!(header_names(&write(&message, &[])), ["fp.t", "fp.f", "fp.p"]);
    }

    #[test]
    fn user_names_that_look_like_ours_come_back() {
        let user = [("fp.t", "1"), ("a", "2"), ("fp.u.x", "3"), ("a", "4"), ("", "5"), ("fp.", "6")];
        let batch = write(&MessageRef { topic: "t", ..MessageRef::default() }, &user);
        assert_eq!(header_names(&batch), ["fp.t", "fp.u.fp.t", "a", "fp.u.fp.u.x", "a", "", "fp.u.fp."]);
        let records = batch.records().unwrap();
        let message = MessageRef::parse(&records.iter().next().unwrap().unwrap()).unwrap();
        assert_eq!(message.topic, "t");
        assert_eq!(message.user_properties().collect::<Vec<_>>(), user);
    }

    #[test]
    fn flags() {
        for (text, expected) in [
            ("0", Some((0, false, None))),
            ("1r", Some((1, true, None))),
            ("2re60", Some((2, true, Some(60)))),
            ("0e0", Some((0, false, Some(0)))),
            ("", None),
            ("3", None),
            ("1x", None),
            ("1e", None),
            ("1e4294967296", None),
        ] {
            assert_eq!(parse_flags(text.as_bytes()).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_record_without_topic_is_not_a_message() {
        let mut builder = BatchBuilder::new();
        builder.push(0, None, None, [("x", &b"y"[..])]).unwrap();
        let batch = builder.finish(Compression::None).unwrap();
        let records = batch.records().unwrap();
        assert_eq!(MessageRef::parse(&records.iter().next().unwrap().unwrap()).unwrap_err(), MessageError::NoTopic);
    }

    fn option_text() -> impl Strategy<Value = Option<String>> {
        proptest::option::of(".{0,20}")
    }

    proptest! {
        #[test]
        fn round_trip(
            (topic, key, payload) in (".{1,40}", ".{0,20}", proptest::collection::vec(any::<u8>(), 0..100)),
            (qos, retain, expiry) in (0_u8..3, any::<bool>(), any::<Option<u32>>()),
            (content, response, publisher, dedup, epoch) in (option_text(), option_text(), option_text(), option_text(), option_text()),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..30)),
            (event, ingest, format) in any::<(Option<i64>, Option<i64>, Option<u8>)>(),
            user in proptest::collection::vec(("(fp\\.)?.{0,9}", ".{0,9}"), 0..5),
        ) {
            let message = MessageRef {
                topic: &topic,
                payload: &payload,
                key: key.as_bytes(),
                qos,
                retain,
                expiry_seconds: expiry,
                content_type: content.as_deref(),
                response_topic: response.as_deref(),
                correlation: correlation.as_deref().map(Correlation::Raw),
                event_time_ns: event,
                ingest_time_ns: ingest,
                publisher: publisher.as_deref(),
                payload_format: format,
                listener: None,
                dedup_id: dedup.as_deref(),
                session_epoch: epoch.as_deref(),
                record: None,
            };
            let user: Vec<_> = user.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let first = write(&message, &user);
            // What was parsed writes the same bytes again.
            let records = first.records().unwrap();
            let parsed = MessageRef::parse(&records.iter().next().unwrap().unwrap()).unwrap();
            let mut builder = BatchBuilder::new();
            parsed.write(&mut builder, 1, parsed.user_properties()).unwrap();
            prop_assert_eq!(builder.finish(Compression::None).unwrap(), first.clone());

            prop_assert_eq!((parsed.topic, parsed.key, parsed.payload), (message.topic, message.key, message.payload));
            prop_assert_eq!((parsed.qos, parsed.retain, parsed.expiry_seconds), (qos, retain, expiry));
            prop_assert_eq!((parsed.content_type, parsed.response_topic), (message.content_type, message.response_topic));
            prop_assert_eq!(parsed.publisher_or_key(), publisher.as_deref().unwrap_or(&key));
            prop_assert_eq!((parsed.event_time_ns, parsed.ingest_time_ns, parsed.payload_format), (event, ingest, format));
            prop_assert_eq!((parsed.dedup_id, parsed.session_epoch), (message.dedup_id, message.session_epoch));
            prop_assert_eq!(parsed.correlation.map(|c| c.data().into_owned()), correlation);
            prop_assert_eq!(parsed.user_properties().collect::<Vec<_>>(), user);
        }
    }
}
