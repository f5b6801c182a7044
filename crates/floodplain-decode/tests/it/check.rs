//! The one function that most statements go through: what a payload becomes, as text.

use std::fmt::Write as _;

use floodplain_decode::{Decoder, Input, Outcome, Role, Row, Rows, Value};

/// A decoder from the JSON form of its definition.
pub(crate) fn decoder(definition: &str) -> Decoder {
    Decoder::new(serde_json::from_str(definition).unwrap_or_else(|error| panic!("{definition}: {error}")))
}

pub(crate) const fn input(payload: &[u8]) -> Input<'_> {
    Input { payload, content_type: None, device: "d", table: "t" }
}

/// Floats have a point, integers an `i`, keys a `*`, attributes a `^`, what goes to overflow a `~`.
pub(crate) fn show_value(value: Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => format!("{value}i"),
        Value::Float(value) => format!("{value:?}"),
        Value::Text(value) => format!("{value:?}"),
        Value::Bytes(value) => format!("x{}", value.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        Value::List(list) => format!("[{}]", list.iter().map(show_value).collect::<Vec<_>>().join(",")),
        Value::Rest(value) => format!("~{value}"),
    }
}

/// Table and device only where they are not those of the input; the time behind `@`.
pub(crate) fn show(row: &Row<'_>) -> String {
    let mut text = String::new();
    if row.table() != "t" {
        write!(text, "{:?} ", row.table()).unwrap();
    }
    if row.device() != "d" {
        write!(text, "of {:?} ", row.device()).unwrap();
    }
    if let Some(time) = row.time() {
        write!(text, "@{} ", time.0).unwrap();
    }
    for field in row.fields() {
        let role = match field.role {
            Role::Value => "",
            Role::Key => "*",
            Role::Attribute => "^",
        };
        write!(text, "{role}{}={} ", field.name, show_value(field.value)).unwrap();
    }
    text.trim_end().to_owned()
}

/// Rows, then failures as `! stage position[ line n]: reason`.
pub(crate) fn decode(decoder: &Decoder, input: &Input<'_>) -> Vec<String> {
    let mut rows = Rows::new();
    let Outcome::Rows(decoded) = decoder.decode(input, &mut rows) else { return vec!["undecoded".to_owned()] };
    let mut lines: Vec<_> = decoded.rows().map(|row| show(&row)).collect();
    assert_eq!(decoded.refused_count(), decoded.failures().len() as u64);
    for failure in decoded.failures() {
        assert_eq!(failure.decoder_version, decoder.version());
        assert!(failure.byte_position <= input.payload.len());
        let line = failure.line.map_or_else(String::new, |line| format!(" line {line}"));
        lines.push(format!("! {} {}{line}: {}", failure.stage, failure.byte_position, failure.reason));
    }
    lines
}

/// `expected` are rows and failures.
pub(crate) fn check(definition: &str, payload: impl AsRef<[u8]>, expected: &[&str]) {
    let found = decode(&decoder(definition), &input(payload.as_ref()));
    if found != expected {
        let cut = |text: String| text.chars().take(2_000).collect::<String>();
        let (found, expected) = (cut(format!("{found:#?}")), cut(format!("{expected:#?}")));
        let payload = cut(String::from_utf8_lossy(payload.as_ref()).into_owned());
        panic!("{definition} {payload:?}\nfound {found}\nexpected {expected}");
    }
}
