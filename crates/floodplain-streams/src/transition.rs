//! An alert starts, or ends, to fire for a device: one record. Format: `docs/formats/alerts.md`.

use crate::rule::Rule;
use chrono::{DateTime, SecondsFormat};
use floodplain_log::{BatchBuilder, BatchError, MessageRef, Record};
use floodplain_types::{Position, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// First level of the topics of alerts. Messages to them never make an alert fire or end, whoever has sent them.
pub const TOPIC_PREFIX: &str = "alerts/";
/// Key of the messages that tell of transitions: they are not from the device, which may be silent.
pub const SENDER: &str = "floodplain";

const JSON: &str = "application/json";
const RULE: &str = "rule";
const CAUSE: &str = "cause";
const WEBHOOK: &str = "webhook";
const ALERT: &str = "alert";
const TOLD: &str = "told";

/// Which row was the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// Index of the partition among all data partitions.
    pub partition: u32,
    /// Position of the row's record.
    pub position: Position,
    /// Number of the row among those of its record.
    pub row: u32,
}

/// A change of one alert for one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub alert: Arc<str>,
    pub device: Arc<str>,
    pub firing: bool,
    /// Since when it is so: time of the row; for silence, when the device was last heard.
    pub since: Timestamp,
    /// The value that was the cause, finite.
    pub value: Option<f64>,
    /// When the rule was changed that says so, as in the document of rules.
    pub rule: Timestamp,
    /// `None` if it was silence, its end, or a change of the rules.
    pub cause: Option<Cause>,
}

impl Transition {
    /// What subscribers and webhooks get.
    #[must_use]
    pub fn to_json(&self) -> String {
        let state = if self.firing { "firing" } else { "resolved" };
        let since = rfc3339(self.since);
        json!({ "alert": &*self.alert, "device": &*self.device, "state": state, "since": since, "value": self.value })
            .to_string()
    }

    /// `alerts/{name}/{device}`, where the device is one level: what cannot be in one is percent-encoded.
    #[must_use]
    pub fn topic(&self) -> String {
        let mut topic = format!("{TOPIC_PREFIX}{}/", self.alert);
        for char in self.device.chars() {
            match char {
                '/' | '+' | '#' | '%' | '\0' => topic.push_str(&format!("%{:02X}", u32::from(char))),
                other => topic.push(other),
            }
        }
        topic
    }

    /// Adds the record of stream `alerts`. `is_owed` says that a webhook has to be told.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if the batch is full.
    pub(crate) fn write(&self, batch: &mut BatchBuilder, now_ms: i64, is_owed: bool) -> Result<u32, BatchError> {
        let (topic, payload) = (self.topic(), self.to_json());
        let message = self.message(&topic, &payload, self.device.as_bytes());
        let rule = self.rule.0.to_string();
        let cause = self.cause.map(|Cause { partition, position, row }| format!("{partition}/{position}/{row}"));
        let cause = cause.as_deref().map(|cause| (CAUSE, cause));
        let properties = [Some((RULE, rule.as_str())), cause, is_owed.then_some((WEBHOOK, "owed"))];
        message.write(batch, now_ms, properties.into_iter().flatten())
    }

    /// Adds the message of stream `telemetry` that subscribers get.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if the batch is full.
    pub(crate) fn write_message(&self, batch: &mut BatchBuilder, now_ms: i64) -> Result<u32, BatchError> {
        let (topic, payload) = (self.topic(), self.to_json());
        self.message(&topic, &payload, SENDER.as_bytes()).write(batch, now_ms, std::iter::empty())
    }

    fn message<'a>(&self, topic: &'a str, payload: &'a str, key: &'a [u8]) -> MessageRef<'a> {
        let (payload, content_type) = (payload.as_bytes(), Some(JSON));
        MessageRef { topic, payload, key, qos: 1, content_type, publisher: Some(SENDER), ..MessageRef::default() }
    }
}

/// The end of a delivery to a webhook: it was told, or given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub alert: Arc<str>,
    pub device: Arc<str>,
    /// Position of the transition's record.
    pub position: Position,
}

impl Receipt {
    /// Adds the record of stream `alerts`.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if the batch is full.
    pub(crate) fn write(&self, batch: &mut BatchBuilder, now_ms: i64) -> Result<u32, BatchError> {
        let position = self.position.to_string();
        let headers = [(ALERT, self.alert.as_bytes()), (TOLD, position.as_bytes())];
        batch.push(now_ms, Some(self.device.as_bytes()), None, headers)
    }
}

/// A record of stream `alerts`.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Transition {
        transition: Transition,
        /// A webhook has to be told.
        is_owed: bool,
    },
    Receipt(Receipt),
}

impl Entry {
    /// Reads a record; `None` if it is none of ours.
    #[must_use]
    pub fn read(record: &Record<'_>) -> Option<Self> {
        match MessageRef::parse(record) {
            Ok(message) => transition(&message),
            Err(_) => receipt(record).map(Self::Receipt),
        }
    }
}

fn transition(message: &MessageRef<'_>) -> Option<Entry> {
    let property = |name: &str| message.user_properties().find(|(found, _)| *found == name).map(|(_, value)| value);
    let rule = Timestamp(property(RULE)?.parse().ok()?);
    let cause = match property(CAUSE) {
        None => None,
        Some(text) => {
            let mut parts = text.split('/');
            let cause = Cause {
                partition: parts.next()?.parse().ok()?,
                position: parts.next()?.parse().ok()?,
                row: parts.next()?.parse().ok()?,
            };
            Some(cause)
        }
    };
    let json: Value = serde_json::from_slice(message.payload).ok()?;
    let firing = match json["state"].as_str()? {
        "firing" => true,
        "resolved" => false,
        _ => return None,
    };
    let since = DateTime::parse_from_rfc3339(json["since"].as_str()?).ok()?.timestamp_nanos_opt()?;
    let transition = Transition {
        alert: json["alert"].as_str()?.into(),
        device: json["device"].as_str()?.into(),
        firing,
        since: Timestamp(since),
        value: json["value"].as_f64(),
        rule,
        cause,
    };
    Some(Entry::Transition { transition, is_owed: property(WEBHOOK).is_some() })
}

fn receipt(record: &Record<'_>) -> Option<Receipt> {
    let header = |name: &str| {
        let found = record.headers().map_while(Result::ok).find(|(found, _)| *found == name)?.1;
        std::str::from_utf8(found.unwrap_or_default()).ok()
    };
    let device = std::str::from_utf8(record.key?).ok()?.into();
    Some(Receipt { alert: header(ALERT)?.into(), device, position: header(TOLD)?.parse().ok()? })
}

/// Whether a message with this topic tells of alerts, or says that it does.
#[must_use]
pub fn is_of_alerts(topic: &str) -> bool {
    topic.starts_with(TOPIC_PREFIX)
}

/// The transition that ends what `rule` cannot end itself, because it is gone or another one now.
pub(crate) fn ended(alert: &Arc<str>, device: &Arc<str>, rule: Timestamp, now: Timestamp) -> Transition {
    Transition {
        alert: alert.clone(),
        device: device.clone(),
        firing: false,
        since: now,
        value: None,
        rule,
        cause: None,
    }
}

/// RFC 3339 in UTC, with as many digits of the second as there are.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    DateTime::from_timestamp_nanos(time.0).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Where the rule wants to be told, if anywhere.
pub(crate) fn webhook_of<'r>(
    rules: impl IntoIterator<Item = &'r Rule>,
    alert: &str,
) -> Option<&'r crate::rule::Webhook> {
    rules.into_iter().find(|rule| &*rule.name == alert)?.webhook.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_log::Compression;

    fn transition() -> Transition {
        Transition {
            alert: "oil-hot".into(),
            device: "a/b+#%".into(),
            firing: true,
            since: Timestamp(1_700_000_000_123_456_789),
            value: Some(131.25),
            rule: Timestamp(5),
            cause: Some(Cause { partition: 3, position: Position::new(0, 182), row: 2 }),
        }
    }

    #[test]
    fn a_record_reads_back() {
        let resolved = Transition {
            device: "ü".into(),
            firing: false,
            value: None,
            cause: None,
            rule: Timestamp(-1),
            ..transition()
        };
        for (transition, is_owed) in [(transition(), true), (resolved, false)] {
            let mut builder = BatchBuilder::new();
            transition.write(&mut builder, 1, is_owed).unwrap();
            let batch = builder.finish(Compression::None).unwrap();
            let records = batch.records().unwrap();
            let record = records.iter().next().unwrap().unwrap();
            assert_eq!(record.key, Some(transition.device.as_bytes()));
            assert_eq!(Entry::read(&record), Some(Entry::Transition { transition, is_owed }));
        }
        let receipt = Receipt { alert: "a".into(), device: "ü".into(), position: Position::new(1, 7) };
        let mut builder = BatchBuilder::new();
        receipt.write(&mut builder, 1).unwrap();
        let batch = builder.finish(Compression::None).unwrap();
        let records = batch.records().unwrap();
        assert_eq!(Entry::read(&records.iter().next().unwrap().unwrap()), Some(Entry::Receipt(receipt)));
    }

    #[test]
    fn subscribers_get_the_json_of_the_contract() {
        let transition = transition();
        assert_eq!(transition.topic(), "alerts/oil-hot/a%2Fb%2B%23%25");
        assert_eq!(
            transition.to_json(),
            r#"{"alert":"oil-hot","device":"a/b+#%","state":"firing","since":"2023-11-14T22:13:20.123456789Z","value":131.25}"#
        );
        let mut builder = BatchBuilder::new();
        transition.write_message(&mut builder, 1).unwrap();
        let batch = builder.finish(Compression::None).unwrap();
        let records = batch.records().unwrap();
        let record = records.iter().next().unwrap().unwrap();
        let message = MessageRef::parse(&record).unwrap();
        assert_eq!((message.topic, message.key, message.qos), (transition.topic().as_str(), SENDER.as_bytes(), 1));
        assert_eq!(Entry::read(&record), None, "what is told is not what is kept");
    }
}
