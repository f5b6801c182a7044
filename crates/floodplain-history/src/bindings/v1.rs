//! The first form of bindings: what users write, and what the stream `state` keeps.

use crate::dedup;
use floodplain_decode::Definition;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::Duration;

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) filter: String,
    #[serde(default = "telemetry")]
    pub(super) stream: String,
    #[serde(default)]
    pub(super) device_level: Option<u16>,
    pub(super) table: Table,
    #[serde(default = "auto")]
    pub(super) decoder: Map<String, Value>,
    #[serde(default)]
    pub(super) time_field: Option<String>,
    #[serde(default)]
    pub(super) key_columns: Vec<String>,
    #[serde(default)]
    pub(super) class: Option<String>,
    #[serde(default)]
    pub(super) retention: Option<String>,
    #[serde(default)]
    pub(super) dedup: Option<Dedup>,
}

/// Where the id of a message is, and how long it is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dedup {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) property: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<String>,
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Table {
    Level(u16),
    Name(String),
}

fn telemetry() -> String {
    "telemetry".to_owned()
}

pub(super) fn auto() -> Map<String, Value> {
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
