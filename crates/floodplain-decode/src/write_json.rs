//! Values as JSON text, for the overflow column.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::value::Value;

/// Appends a value. Bytes become base64; what is not finite becomes a text, JSON has no such numbers.
pub(crate) fn value(value: Value<'_>, out: &mut String) {
    match value {
        Value::Bool(value) => out.push_str(if value { "true" } else { "false" }),
        Value::Int(value) => write(out, format_args!("{value}")),
        Value::Float(value) => float(value, out),
        Value::Text(value) => text(value, out),
        Value::Bytes(value) => bytes(value, out),
        Value::Rest(value) => out.push_str(value),
        Value::List(list) => {
            out.push('[');
            for (idx, item) in list.iter().enumerate() {
                if idx > 0 {
                    out.push(',');
                }
                self::value(item, out);
            }
            out.push(']');
        }
    }
}

pub(crate) fn write(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a String takes all");
}

/// The shortest digits that are read as the same number.
pub(crate) fn float(value: f64, out: &mut String) {
    if value.is_finite() {
        write(out, format_args!("{value:?}"));
    } else {
        out.push_str(if value.is_nan() {
            "\"NaN\""
        } else if value > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        });
    }
}

/// A text in quotes.
pub(crate) fn text(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => write(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// Base64 with padding, in quotes.
pub(crate) fn bytes(bytes: &[u8], out: &mut String) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_and_floats_are_read_back(text in any::<String>(), float in any::<f64>()) {
            let mut out = String::new();
            super::text(&text, &mut out);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
            if float.is_finite() {
                out.clear();
                super::float(float, &mut out);
                prop_assert_eq!(out.parse::<f64>().unwrap().to_bits(), float.to_bits());
                prop_assert!(serde_json::from_str::<f64>(&out).is_ok());
            }
        }
    }
}
