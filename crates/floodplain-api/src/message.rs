//! A message of the log as JSON: `MESSAGE` of `ui/api.md`.

use crate::time::Time;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use floodplain_log::{DataStreams, MessageRef};
use floodplain_types::{Position, Timestamp};
use serde::{Serialize, Serializer};
use std::{borrow::Cow, fmt};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Array, ArrayBuilder, ObjectBuilder, RefOr, Schema, Type},
};

/// The lasting name of a record's place: stream/partition/generation/offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) stream: &'a str,
    pub(crate) partition: u32,
    pub(crate) position: Position,
}

impl<'a> Place<'a> {
    /// A place in a data partition, which is known by its index among all.
    pub(crate) fn of(streams: &'a DataStreams, index: u32, position: Position) -> Self {
        let (stream, partition) = streams.place(index);
        Self { stream: stream.id.stream.as_str(), partition, position }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, partition, position } = self;
        write!(f, "{stream}/{partition}/{}/{}", position.generation, position.offset)
    }
}

impl PartialSchema for Place<'_> {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).examples(["telemetry/3/0/182"]);
        text.description(Some("The lasting name of a record's place: stream/partition/generation/offset.")).into()
    }
}

impl ToSchema for Place<'_> {
    fn name() -> Cow<'static, str> {
        "Position".into()
    }
}

impl Serialize for Place<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A message of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message<'a> {
    position: Place<'a>,
    topic: &'a str,
    /// What the topic names, or else the publisher.
    device: &'a str,
    /// When the server got it.
    received: Time,
    /// As it was published: 0, 1 or 2.
    qos: u8,
    /// Whether it was published to be retained.
    retain: bool,
    #[schema(required)]
    content_type: Option<&'a str>,
    #[schema(schema_with = pairs)]
    user_properties: Vec<(&'a str, &'a str)>,
    /// If it is UTF-8.
    #[schema(required)]
    payload: Option<&'a str>,
    /// If it is not: RFC 4648, section 4.
    #[schema(required)]
    payload_base64: Option<String>,
    /// Bytes of the payload.
    size: usize,
}

impl<'a> Message<'a> {
    pub(crate) fn new(position: Place<'a>, received: Timestamp, message: &MessageRef<'a>) -> Self {
        let payload = std::str::from_utf8(message.payload).ok();
        Self {
            position,
            topic: message.topic,
            device: std::str::from_utf8(message.key).unwrap_or_default(),
            received: Time(received),
            qos: message.qos,
            retain: message.retain,
            content_type: message.content_type,
            user_properties: message.user_properties().collect(),
            payload,
            payload_base64: payload.is_none().then(|| STANDARD.encode(message.payload)),
            size: message.payload.len(),
        }
    }
}

/// The schema of user properties.
pub(crate) fn pairs() -> Array {
    let pair = ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::String));
    let pair = pair.min_items(Some(2)).max_items(Some(2));
    ArrayBuilder::new()
        .items(pair)
        .description(Some("User properties of MQTT: names and values, in their order."))
        .build()
}

/// One line of JSON.
pub(crate) fn to_json(place: Place<'_>, received: Timestamp, message: &MessageRef<'_>) -> String {
    serde_json::to_string(&Message::new(place, received, message)).expect("a message holds only texts and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_text_or_base64() {
        let place = Place { stream: "telemetry", partition: 3, position: Position::new(0, 182) };
        let json = |payload| {
            let message = MessageRef { topic: "a/b", key: b"d", payload, qos: 1, ..MessageRef::default() };
            to_json(place, Timestamp(1_795_251_600_123_456_000), &message)
        };
        assert_eq!(
            json("1\n\u{fc}".as_bytes()),
            r#"{"position":"telemetry/3/0/182","topic":"a/b","device":"d","received":"2026-11-21T09:00:00.123456Z","#
                .to_owned()
                + r#""qos":1,"retain":false,"content_type":null,"user_properties":[],"payload":"1\nü","#
                + r#""payload_base64":null,"size":4}"#
        );
        assert!(json(b"\xff\x00").ends_with(r#""payload":null,"payload_base64":"/wA=","size":2}"#));
    }
}
