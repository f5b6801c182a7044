//! Which table the rows of a message are for, and who decodes it.

use floodplain_decode::{Decoder, Definition};
use floodplain_log::MessageRef;
use std::fmt;

/// Where all goes that has no table of its own, as it came.
pub const MESSAGES: &str = "messages";

/// Longest name of a table.
pub(crate) const TABLE_BYTES_MAX: usize = 256;

/// Names that SQL gives to tables of the server: no table of payloads has them.
pub const RESERVED: [&str; 9] =
    ["records", MESSAGES, "tables", "streams", "dlq", "devices", "sessions", "events", "alerts"];

/// The content type that says that a payload is line protocol, which nothing else can tell.
pub const LINE_PROTOCOL: &str = "text/vnd.influx.line-protocol";

/// Whether the content type says so.
pub(crate) fn is_line_protocol(message: &MessageRef<'_>) -> bool {
    let media = message.content_type.map(|text| text.split(';').next().unwrap_or_default().trim_ascii());
    media.is_some_and(|media| media.eq_ignore_ascii_case(LINE_PROTOCOL))
}

/// Where the rows of a message go.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub table: &'a str,
    pub device: &'a str,
    pub decoder: &'a Decoder,
}

/// Decides by the message alone, so that a record that is decoded again goes to the same table.
pub trait Route: fmt::Debug + Send + Sync {
    /// `None` sends the message to [`MESSAGES`].
    fn target<'a>(&'a self, message: &MessageRef<'a>) -> Option<Target<'a>>;
}

/// `devices/{device}/{table}`, each payload as it looks, or as line protocol where its content type says so, and then
/// its measurements are the tables. All else, and tables with names of the server, is for [`MESSAGES`].
#[derive(Debug)]
pub struct DefaultRoute {
    auto: Decoder,
    lines: Decoder,
}

impl Default for DefaultRoute {
    fn default() -> Self {
        Self { auto: Decoder::new(Definition::auto()), lines: Decoder::new(Definition::line_protocol()) }
    }
}

impl Route for DefaultRoute {
    fn target<'a>(&'a self, message: &MessageRef<'a>) -> Option<Target<'a>> {
        let (device, table) = message.topic.strip_prefix("devices/")?.split_once('/')?;
        let is_reserved = RESERVED.iter().any(|name| table.eq_ignore_ascii_case(name));
        if device.is_empty() || table.contains('/') || is_reserved {
            return None;
        }
        Some(Target { table, device, decoder: if is_line_protocol(message) { &self.lines } else { &self.auto } })
    }
}
