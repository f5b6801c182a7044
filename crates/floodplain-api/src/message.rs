//! A message of the log as JSON: `MESSAGE` of `ui/api.md`.

use crate::paging::rfc3339;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use floodplain_log::{DataStreams, MessageRef};
use floodplain_types::{Position, Timestamp};
use serde::Serialize;
use std::fmt;

/// The lasting name of a record's place: `telemetry/3/0/182`.
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

#[derive(Serialize)]
struct Message<'a> {
    position: String,
    topic: &'a str,
    device: &'a str,
    received: String,
    qos: u8,
    retain: bool,
    content_type: Option<&'a str>,
    user_properties: Vec<(&'a str, &'a str)>,
    payload: Option<&'a str>,
    payload_base64: Option<String>,
    size: usize,
}

/// One line of JSON.
pub(crate) fn to_json(place: Place<'_>, received: Timestamp, message: &MessageRef<'_>) -> String {
    let payload = std::str::from_utf8(message.payload).ok();
    let message = Message {
        position: place.to_string(),
        topic: message.topic,
        device: std::str::from_utf8(message.key).unwrap_or_default(),
        received: rfc3339(received),
        qos: message.qos,
        retain: message.retain,
        content_type: message.content_type,
        user_properties: message.user_properties().collect(),
        payload,
        payload_base64: payload.is_none().then(|| STANDARD.encode(message.payload)),
        size: message.payload.len(),
    };
    serde_json::to_string(&message).expect("a message holds only texts and numbers")
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
