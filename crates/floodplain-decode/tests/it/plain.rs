//! Payloads that are one value.

use crate::check::{check, decode, decoder, input};
use floodplain_decode::Input;

#[test]
fn numbers_and_booleans() {
    for definition in [r#"{"decoder":"number"}"#, r#"{"decoder":"auto"}"#] {
        for (payload, expected) in [
            ("20.5", "value=20.5"),
            (" 20\r\n", "value=20.0"),
            ("-3", "value=-3.0"),
            ("+.5", "value=0.5"),
            ("5.", "value=5.0"),
            ("1e3", "value=1000.0"),
            ("true", "value=true"),
            ("false", "value=false"),
            ("9007199254740993", "value=9007199254740993i"),
            ("9223372036854775808", "value=~9223372036854775808"),
            ("+9223372036854775808", "value=~9223372036854775808"),
            ("1e999", "value=~1e999"),
            ("007e999", "value=~\"007e999\""),
        ] {
            check(definition, payload, &[expected]);
        }
    }
    check(r#"{"decoder":"number","column":"temp"}"#, "1", &["temp=1.0"]);
    let number = r#"{"decoder":"number"}"#;
    check(number, " 20 °C", &[r#"! decode 1: payload is "20 °C", which is no number, true or false"#]);
    check(number, "NaN", &[r#"! decode 0: payload is "NaN", which is no number, true or false"#]);
    check(number, "", &[r#"! decode 0: payload is "", which is no number, true or false"#]);
    check(number, b"1\xFF", &["! decode 1: payload is not utf-8"]);
}

#[test]
fn declared_texts_are_a_column_as_they_are() {
    let text = r#"{"decoder":"text","column":"note"}"#;
    for payload in ["on", " 20 °C\n", "", "{\"a\": 1}", "12"] {
        check(text, payload, &[&format!("note={payload:?}")]);
    }
    check(r#"{"decoder":"text"}"#, "on", &["value=\"on\""]);
    check(text, b"1\xFF", &["! decode 1: payload is not utf-8"]);
}

#[test]
fn undeclared_texts_are_a_column_and_all_else_is_kept() {
    let auto = r#"{"decoder":"auto"}"#;
    for (payload, expected) in [
        (&b"on"[..], r#"value="on""#),
        (" 20 °C\n".as_bytes(), r#"value="20 °C""#),
        (b"2025-11-25T10:00:00Z", r#"value="2025-11-25T10:00:00Z""#),
        (br#""on""#, r#"value="on""#),
        (b"NaN", r#"value="NaN""#),
        (b"null", ""),
        (b"a\tb\nc", r#"value="a\tb\nc""#),
        (b"", "undecoded"),
        (b" ", "undecoded"),
        (b"\0\x01\x02", "undecoded"),
        (b"a\0", "undecoded"),
        (b"a\x1b[0m", "undecoded"),
        (b"\xFF", "undecoded"),
        (b"{", "undecoded"),
        (b"[1", "undecoded"),
        (b"\"a", "undecoded"),
    ] {
        check(auto, payload, &[expected]);
    }
}

#[test]
fn the_content_type_tells_cbor() {
    let auto = decoder(r#"{"decoder":"auto"}"#);
    let payload = b"\xA1\x61a\x01";
    assert_eq!(decode(&auto, &input(payload)), ["undecoded"]);
    for content_type in ["application/cbor", "Application/CBOR; x=y", "application/senml+cbor"] {
        let input = Input { content_type: Some(content_type), ..input(payload) };
        assert_eq!(decode(&auto, &input), ["a=1i"], "{content_type}");
    }
    let broken = Input { content_type: Some("application/cbor"), ..input(b"\xA1\x61a") };
    assert_eq!(decode(&auto, &broken), ["undecoded"]);
}
