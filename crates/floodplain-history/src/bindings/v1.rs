//! The first form of bindings: what users write, and what the stream `state` keeps.

use crate::dedup;
use floodplain_decode::Definition;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::Duration;
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, Type, schema::AdditionalProperties},
};

/// Formats of payloads, as `decoder` names them.
const FORMATS: [&str; 7] = ["auto", "json", "number", "text", "cbor", "line_protocol", "struct"];

/// All bindings of a tenant: the value of a record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) format: u32,
    pub(super) version: u32,
    pub(super) bindings: Vec<StoredBinding>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Format {
    pub(super) format: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredBinding {
    pub(super) version: u32,
    /// It is one of the configuration file.
    #[serde(default)]
    pub(super) fixed: bool,
    pub(super) binding: Binding,
}

/// Which messages become rows of which table, and who decodes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = BindingDraft)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// 1 to 128 letters, digits, `.`, `_` and `-`. The path of the request says it, too.
    #[schema(required = false)]
    pub name: String,
    /// The topics that it is for: a filter of MQTT.
    pub filter: String,
    /// The stream that takes the messages: `telemetry`, or one that the configuration has declared under `[[streams]]`.
    #[serde(default = "telemetry")]
    #[schema(default = "telemetry", pattern = "^[a-z][a-z0-9_-]{0,63}$")]
    pub stream: String,
    /// Which level of the topic is the device, counted from 1; if it is null, the publisher is.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub device_level: Option<u16>,
    pub table: Table,
    #[serde(default = "auto")]
    #[schema(schema_with = decoder)]
    pub decoder: Map<String, Value>,
    /// The field of payloads that is the event time. Null leaves it to the decoder.
    #[serde(default)]
    pub time_field: Option<String>,
    /// Fields of payloads by which rows of one device and time differ.
    #[serde(default)]
    pub key_columns: Vec<String>,
    /// What an acknowledgement of QoS 1 and 2 promises at least: `all`, `leader` or `none`. Null leaves it to the server.
    #[serde(default)]
    pub class: Option<String>,
    /// How old rows may become, such as `30d` or `12h`. Null leaves it to the configuration.
    #[serde(default)]
    pub retention: Option<String>,
    /// How messages that repeat earlier ones are known. Null: they are not looked for.
    #[serde(default)]
    pub dedup: Option<Dedup>,
}

fn decoder() -> Object {
    let format = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(FORMATS));
    ObjectBuilder::new()
        .description(Some(
            "What payloads are, and what the decoder of that format is told beside: see the guide on bindings.",
        ))
        .property("format", format)
        .required("format")
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
        .default(Some(auto().into()))
        .build()
}

/// Where the id is by which repeats are known, `property` or `field`, one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Dedup {
    /// A user property of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub property: Option<String>,
    /// A field of each row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub field: Option<String>,
    /// How long an id is known, from `1s` to `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(default = "10m", nullable = false)]
    pub window: Option<String>,
}

impl Dedup {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(&self) -> Result<dedup::Dedup, String> {
        let id = match (&self.property, &self.field) {
            (Some(name), None) => dedup::Id::Property(name.clone()),
            (None, Some(name)) => dedup::Id::Field(name.clone()),
            _ => return Err("dedup has a property or a field, one of the two".to_owned()),
        };
        let (dedup::Id::Property(name) | dedup::Id::Field(name)) = &id;
        if name.is_empty() || name.len() > dedup::NAME_BYTES_MAX {
            return Err(format!("the property or field of dedup has 1 to {} bytes", dedup::NAME_BYTES_MAX));
        }
        let Some(text) = &self.window else { return Ok(dedup::Dedup { id, window: dedup::WINDOW }) };
        let window = duration(text).filter(|window| *window <= dedup::WINDOW_MAX);
        let window = window.ok_or_else(|| format!("window {text:?} of dedup is no duration from 1s to 1h"))?;
        Ok(dedup::Dedup { id, window })
    }
}

/// The table of the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = BindingTable)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// The level of the topic that names it, counted from 1.
    Level(u16),
    /// One for all.
    Name(String),
}

fn telemetry() -> String {
    "telemetry".to_owned()
}

fn auto() -> Map<String, Value> {
    Map::from_iter([("format".to_owned(), json!("auto"))])
}

/// The definition of a decoder, with the time and the keys that the binding names.
pub(super) fn definition(binding: &Binding) -> Result<Definition, String> {
    let mut wire = binding.decoder.clone();
    let Some(Value::String(format)) = wire.remove("format") else {
        return Err("decoder needs a format: auto, json, number, text, cbor, line_protocol or struct".to_owned());
    };
    let takes_names = matches!(format.as_str(), "auto" | "json" | "cbor" | "struct");
    if let Some(field) = &binding.time_field {
        if !takes_names {
            return Err(format!("time_field does not go with decoder {format}"));
        }
        let time = wire.entry("time").or_insert_with(|| json!({ "field": field }));
        if time.get("field") != Some(&json!(field)) {
            return Err(format!("time_field is {field:?}, and the decoder has another one"));
        }
    }
    if !binding.key_columns.is_empty() {
        if !takes_names {
            return Err(format!("key_columns do not go with decoder {format}"));
        }
        let keys = wire.entry("keys").or_insert_with(|| json!(binding.key_columns));
        if *keys != json!(binding.key_columns) {
            return Err("key_columns and the keys of the decoder are different".to_owned());
        }
    }
    wire.insert("decoder".to_owned(), json!(format.replace('_', "-")));
    serde_json::from_value(Value::Object(wire)).map_err(|error| format!("decoder: {error}"))
}

/// `30d`, `12h`, `45m`, `90s`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(seconds).filter(|seconds| (1..=36_500 * 86_400).contains(seconds)).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_of_the_schema_are_those_that_are_decoded() {
        let definition = |format: &str| {
            let declared =
                json!({ "name": "b", "filter": "a", "table": { "level": 1 }, "decoder": { "format": format } });
            definition(&serde_json::from_value(declared).unwrap())
        };
        let refused = definition("no_such").unwrap_err();
        let (_, known) = refused.split_once("expected one of ").unwrap();
        let known: Vec<String> = known.split('`').skip(1).step_by(2).map(|format| format.replace('-', "_")).collect();
        assert!(FORMATS.iter().all(|format| known.iter().any(|known| known == format)), "{known:?}");
        assert_eq!(known.len(), FORMATS.len(), "{known:?}");
    }
}
