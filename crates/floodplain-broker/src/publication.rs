//! A message on its way to subscribers.

use floodplain_log::{Correlation, MessageRef};
use floodplain_types::{Position, Timestamp};
use std::{sync::Arc, time::Duration};

const PAYLOAD_FORMAT: u8 = 0x01;
const MESSAGE_EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
const SUBSCRIPTION_ID: u8 = 0x0b;
const TOPIC_ALIAS: u8 = 0x23;
const USER_PROPERTY: u8 = 0x26;

/// A message, encoded once and shared by all that deliver it.
///
/// The body is kept in the order of the wire (topic, properties, payload), so every version, QoS
/// and retain flag is a small head, and at most three copies out of one buffer.
#[derive(Debug)]
pub(crate) struct Publication {
    /// Topic with its length, properties without their length, payload.
    body: Box<[u8]>,
    topic_end: u32,
    properties_end: u32,
    /// QoS it was published with.
    pub(crate) qos: u8,
    /// Retain flag it was published with.
    pub(crate) retain: bool,
    /// Index of its partition among all data partitions.
    pub(crate) partition: u32,
    expiry_seconds: Option<u32>,
    /// When it came in: what the expiry counts from.
    pub(crate) ingest: Timestamp,
    /// For No Local.
    pub(crate) publisher: Arc<str>,
}

/// How one delivery differs from the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub(crate) v5: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// Ignored at QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) subscription_ids: &'a [u32],
    /// Seconds left, from [`Publication::expiry_left`].
    pub(crate) expiry_seconds: Option<u32>,
    /// Only where `v5`.
    pub(crate) topic_alias: Option<TopicAlias>,
}

/// A number that stands for a topic on one connection (MQTT 5.0 §3.3.2.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicAlias {
    pub(crate) number: u16,
    /// The client has it already, so the topic is left out.
    pub(crate) is_known: bool,
}

impl Publication {
    /// Encodes `message`; `ingest` is when it came in.
    pub(crate) fn new<'u>(
        message: &MessageRef<'_>,
        user_properties: impl Iterator<Item = (&'u str, &'u str)>,
        partition: u32,
        ingest: Timestamp,
        publisher: Arc<str>,
    ) -> Self {
        #[cfg(test)]
        MADE.set(MADE.get() + 1);
        let mut body = Vec::with_capacity(2 + message.topic.len() + message.payload.len());
        put_text(&mut body, message.topic.as_bytes());
        let topic_end = body.len() as u32;
        if let Some(format) = message.payload_format {
            body.extend([PAYLOAD_FORMAT, format]);
        }
        if let Some(content_type) = message.content_type {
            body.push(CONTENT_TYPE);
            put_text(&mut body, content_type.as_bytes());
        }
        if let Some(topic) = message.response_topic {
            body.push(RESPONSE_TOPIC);
            put_text(&mut body, topic.as_bytes());
        }
        if let Some(correlation) = message.correlation {
            body.push(CORRELATION_DATA);
            put_text(&mut body, &Correlation::data(correlation));
        }
        for (name, value) in user_properties {
            body.push(USER_PROPERTY);
            put_text(&mut body, name.as_bytes());
            put_text(&mut body, value.as_bytes());
        }
        let properties_end = body.len() as u32;
        body.extend_from_slice(message.payload);
        Self {
            body: body.into_boxed_slice(),
            topic_end,
            properties_end,
            qos: message.qos,
            retain: message.retain,
            partition,
            expiry_seconds: message.expiry_seconds,
            ingest,
            publisher,
        }
    }

    pub(crate) fn topic(&self) -> &str {
        // Checked when it came in; a damaged record gives a topic that nobody can subscribe to.
        std::str::from_utf8(&self.body[2..self.topic_end as usize]).unwrap_or_default()
    }

    fn properties(&self) -> &[u8] {
        &self.body[self.topic_end as usize..self.properties_end as usize]
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.body[self.properties_end as usize..]
    }

    /// Bytes it holds in memory, about.
    pub(crate) fn len_bytes(&self) -> usize {
        self.body.len() + size_of::<Self>()
    }

    /// Whether its time has passed before delivery started [MQTT-3.3.2-5].
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expiry_seconds.is_some_and(|s| now.since(self.ingest) >= Duration::from_secs(u64::from(s)))
    }

    /// What is left of the expiry interval, in whole seconds [MQTT-3.3.2-6].
    pub(crate) fn expiry_left(&self, now: Timestamp) -> Option<u32> {
        let waited = u32::try_from(now.since(self.ingest).as_secs()).unwrap_or(u32::MAX);
        self.expiry_seconds.map(|s| s.saturating_sub(waited))
    }

    fn properties_len(&self, how: &Delivery<'_>) -> usize {
        let ids: usize = how.subscription_ids.iter().map(|id| 1 + varint_len(*id as usize)).sum();
        self.properties().len() + ids + how.expiry_seconds.map_or(0, |_| 5) + how.topic_alias.map_or(0, |_| 3)
    }

    /// The topic with its length, as it is sent.
    fn topic_field(&self, how: &Delivery<'_>) -> &[u8] {
        match how.topic_alias {
            Some(TopicAlias { is_known: true, .. }) => &[0, 0],
            _ => &self.body[..self.topic_end as usize],
        }
    }

    fn remaining_len(&self, how: &Delivery<'_>) -> usize {
        let mut len = self.topic_field(how).len() + self.payload().len() + if how.qos > 0 { 2 } else { 0 };
        if how.v5 {
            let properties = self.properties_len(how);
            len += varint_len(properties) + properties;
        }
        len
    }

    /// Length of the whole packet in bytes.
    pub(crate) fn encoded_len(&self, how: &Delivery<'_>) -> usize {
        let remaining = self.remaining_len(how);
        1 + varint_len(remaining) + remaining
    }

    /// Appends the PUBLISH packet (MQTT 5.0 §3.3, 3.1.1 §3.3).
    pub(crate) fn encode(&self, how: &Delivery<'_>, out: &mut Vec<u8>) {
        let remaining = self.remaining_len(how);
        out.reserve(5 + remaining);
        out.push(0x30 | u8::from(how.dup) << 3 | how.qos << 1 | u8::from(how.retain));
        put_varint(out, remaining);
        if how.qos == 0 && !how.v5 && self.topic_end == self.properties_end {
            out.extend_from_slice(&self.body);
            return;
        }
        out.extend_from_slice(self.topic_field(how));
        if how.qos > 0 {
            out.extend_from_slice(&how.packet_id.to_be_bytes());
        }
        if how.v5 {
            put_varint(out, self.properties_len(how));
            if let Some(seconds) = how.expiry_seconds {
                out.push(MESSAGE_EXPIRY);
                out.extend_from_slice(&seconds.to_be_bytes());
            }
            if let Some(alias) = how.topic_alias {
                out.push(TOPIC_ALIAS);
                out.extend_from_slice(&alias.number.to_be_bytes());
            }
            for id in how.subscription_ids {
                out.push(SUBSCRIPTION_ID);
                put_varint(out, *id as usize);
            }
            out.extend_from_slice(&self.body[self.topic_end as usize..]);
        } else {
            out.extend_from_slice(self.payload());
        }
    }
}

/// A publication with QoS 1 or 2 and where it is in its partition.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) position: Position,
    pub(crate) publication: Arc<Publication>,
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    // Both sources of text, packets and record headers made from them, are limited to 65,535 bytes.
    let text = &text[..text.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

const fn varint_len(n: usize) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn put_varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[cfg(test)]
thread_local! {
    /// How many were encoded on this thread.
    pub(crate) static MADE: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_mqtt::{Decoder, Packet, QoS, Version};
    use proptest::{collection::vec, option::of, prelude::*, sample::select};

    const PLAIN: Delivery<'_> = Delivery {
        v5: false,
        qos: 0,
        retain: false,
        dup: false,
        packet_id: 0,
        subscription_ids: &[],
        expiry_seconds: None,
        topic_alias: None,
    };

    fn check(publication: &Publication, how: Delivery<'_>, expected: &[u8]) {
        let mut out = Vec::new();
        publication.encode(&how, &mut out);
        assert_eq!(out, expected);
        assert_eq!(publication.encoded_len(&how), expected.len());
    }

    #[test]
    fn one_body_serves_every_version_and_qos() {
        let message = MessageRef {
            topic: "a",
            payload: b"xy",
            content_type: Some("c"),
            expiry_seconds: Some(9),
            ..MessageRef::default()
        };
        let p = Publication::new(&message, [("k", "v")].into_iter(), 0, Timestamp(0), "p".into());
        check(&p, PLAIN, b"\x30\x05\x00\x01axy");
        check(&p, Delivery { qos: 1, packet_id: 7, dup: true, ..PLAIN }, b"\x3a\x07\x00\x01a\x00\x07xy");
        check(
            &p,
            Delivery { v5: true, retain: true, ..PLAIN },
            b"\x31\x11\x00\x01a\x0b\x03\x00\x01c\x26\x00\x01k\x00\x01vxy",
        );
        for (is_known, expected) in [
            (false, &b"\x30\x14\x00\x01a\x0e\x23\x00\x09\x03\x00\x01c\x26\x00\x01k\x00\x01vxy"[..]),
            (true, b"\x30\x13\x00\x00\x0e\x23\x00\x09\x03\x00\x01c\x26\x00\x01k\x00\x01vxy"),
        ] {
            check(&p, Delivery { v5: true, topic_alias: Some(TopicAlias { number: 9, is_known }), ..PLAIN }, expected);
        }
        check(
            &p,
            Delivery { v5: true, qos: 2, packet_id: 258, subscription_ids: &[1, 200], expiry_seconds: Some(4), ..PLAIN },
            b"\x34\x1d\x00\x01a\x01\x02\x15\x02\x00\x00\x00\x04\x0b\x01\x0b\xc8\x01\x03\x00\x01c\x26\x00\x01k\x00\x01vxy",
        );
    }

    #[test]
    fn expiry_counts_from_ingest() {
        let message = MessageRef { topic: "a", expiry_seconds: Some(10), ..MessageRef::default() };
        let start = Timestamp::from_millis(5_000);
        let p = Publication::new(&message, [].into_iter(), 0, start, "p".into());
        assert_eq!(p.expiry_left(start + Duration::from_millis(2_900)), Some(8));
        assert!(!p.is_expired(start + Duration::from_millis(9_999)));
        assert!(p.is_expired(start + Duration::from_secs(10)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// What a client reads is what was published, and what this delivery adds.
        #[test]
        fn a_delivery_says_what_it_was_told(
            (v5, qos, retain, dup, packet_id) in (any::<bool>(), 0..=2_u8, any::<bool>(), any::<bool>(), 1..=u16::MAX),
            topic in "[a-zü/]{1,200}",
            (published_expiry, waited) in (of(0..100_000_u32), 0..200_000_u32),
            subscription_ids in vec(1..=268_435_455_u32, 0..4),
            (payload_format, content_type, response) in (of(0..=1_u8), of("[a-z]{0,99}"), of("[a-z]{1,99}")),
            correlation in of(vec(any::<u8>(), 1..60)),
            alias in of((1..=u16::MAX, any::<bool>())),
            users in vec(("[a-z]{0,9}", "[a-z]{0,90}"), 0..3),
            payload in select(&[0, 1, 100, 127, 128, 16_383, 20_000][..]).prop_flat_map(|len| vec(any::<u8>(), len)),
        ) {
            let message = MessageRef {
                topic: &topic, payload: &payload, qos, retain, payload_format, expiry_seconds: published_expiry,
                content_type: content_type.as_deref(), response_topic: response.as_deref(),
                correlation: correlation.as_deref().map(Correlation::Raw), ..MessageRef::default()
            };
            let users_of = || users.iter().map(|(name, value)| (&name[..], &value[..]));
            let ingest = Timestamp::from_millis(1_000);
            let publication = Publication::new(&message, users_of(), 0, ingest, "p".into());
            prop_assert_eq!((publication.topic(), publication.payload()), (&topic[..], &payload[..]));
            let expiry_seconds = publication.expiry_left(ingest + Duration::from_secs(u64::from(waited)));
            prop_assert_eq!(expiry_seconds, published_expiry.map(|seconds| seconds.saturating_sub(waited)));
            let topic_alias = alias.filter(|_| v5).map(|(number, is_known)| TopicAlias { number, is_known });
            let how = Delivery {
                v5, qos, retain, dup: dup && qos > 0, packet_id, subscription_ids: &subscription_ids, expiry_seconds, topic_alias,
            };
            let mut out = b"before".to_vec();
            publication.encode(&how, &mut out);
            let bytes = &out[6..];
            prop_assert_eq!(publication.encoded_len(&how), bytes.len());
            let version = if v5 { Version::V5 } else { Version::V311 };
            let found = match Decoder::client(version, u32::MAX).next(bytes) {
                Ok(Some((Packet::Publish(publish), len))) if len == bytes.len() => publish,
                other => panic!("{bytes:02x?}: {other:?}"),
            };
            prop_assert_eq!((found.qos as u8, found.retain, found.dup), (qos, retain, how.dup));
            let id = (found.qos != QoS::AtMostOnce).then_some(packet_id);
            prop_assert_eq!(found.packet_id.map(|id| id.get()), id);
            let is_left_out = topic_alias.is_some_and(|alias| alias.is_known);
            prop_assert_eq!((found.topic, found.payload), (if is_left_out { "" } else { &topic[..] }, &payload[..]));
            let p = found.properties;
            prop_assert_eq!(p.topic_alias().map(|alias| alias.get()), topic_alias.map(|alias| alias.number));
            if v5 {
                prop_assert_eq!(p.message_expiry_secs(), expiry_seconds);
                prop_assert!(p.subscription_ids().eq(subscription_ids.iter().copied()));
                prop_assert_eq!(p.payload_is_utf8().map(u8::from), payload_format);
                prop_assert_eq!((p.content_type(), p.response_topic()), (content_type.as_deref(), response.as_deref()));
                prop_assert_eq!(p.correlation_data(), correlation.as_deref());
                prop_assert!(p.user_properties().iter().eq(users_of()));
            } else {
                prop_assert!(p.is_empty());
            }
            // Into a buffer with room nothing but copies.
            let mut room = Vec::with_capacity(bytes.len() + 5);
            let at = room.as_ptr();
            publication.encode(&how, &mut room);
            prop_assert_eq!((&room[..], room.as_ptr()), (bytes, at));
        }
    }
}
