//! What a row of the table of messages says of a message that no decoder took.

use crate::schema::cell;
use floodplain_decode::Value;
use floodplain_log::MessageRef;
use std::borrow::Cow;

/// Columns of the table of messages. A payload that is no UTF-8 is in the last one, as base64.
pub(crate) const TOPIC: &str = "topic";
pub(crate) const PAYLOAD: &str = "payload";
pub(crate) const PAYLOAD_BASE64: &str = "payload_base64";

/// The cells of such a row, beside device, time and topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw<'m> {
    /// The column that has the payload: `payload` if that is text, else `payload_base64`.
    pub column: &'static str,
    pub payload: Cow<'m, str>,
    /// The cell of `_rest`: the payload if it is a JSON object, or why it was refused.
    pub rest: Option<Cow<'m, str>>,
}

impl<'m> Raw<'m> {
    /// `refused` is why a decoder did not take it.
    #[must_use]
    pub fn of(message: &MessageRef<'m>, refused: Option<&str>) -> Self {
        let (column, payload) = match std::str::from_utf8(message.payload) {
            Ok(text) => (PAYLOAD, Cow::Borrowed(text)),
            Err(_) => {
                let mut text = String::new();
                cell(Value::Bytes(message.payload), &mut text);
                (PAYLOAD_BASE64, text.into())
            }
        };
        let is_object = column == PAYLOAD
            && payload.trim_start().starts_with('{')
            && serde_json::from_str::<serde::de::IgnoredAny>(&payload).is_ok();
        let rest = match refused {
            Some(reason) => Some(serde_json::json!({ "_refused": reason }).to_string().into()),
            None => is_object.then(|| payload.clone()),
        };
        Self { column, payload, rest }
    }
}
