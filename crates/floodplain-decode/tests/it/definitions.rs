//! What users write, and what is stored of it.

use floodplain_decode::{Decoder, Definition, DefinitionError};

#[test]
fn toml_and_json_say_the_same() {
    for (toml, json) in [
        ("decoder = \"auto\"", r#"{"decoder":"auto"}"#),
        (
            "decoder = \"json\"\nkeys = [\"s\"]\nrows = \"r\"\nlists = [\"l\"]\n[time]\nfield = \"at\"\nunit = \"ms\"\n[types]\nn = \"int64\"",
            r#"{"decoder":"json","time":{"field":"at","unit":"ms"},"keys":["s"],"rows":"r","lists":["l"],"types":{"n":"int64"}}"#,
        ),
        ("decoder = \"number\"\ncolumn = \"temp\"", r#"{"decoder":"number","column":"temp"}"#),
        ("decoder = \"text\"\ncolumn = \"note\"", r#"{"decoder":"text","column":"note"}"#),
        ("decoder = \"cbor\"", r#"{"decoder":"cbor"}"#),
        (
            "decoder = \"line-protocol\"\nprecision = \"s\"\ndevice_tag = \"host\"\nattributes = [\"fleet\"]",
            r#"{"decoder":"line-protocol","precision":"s","device_tag":"host","attributes":["fleet"]}"#,
        ),
        (
            "decoder = \"struct\"\nendian = \"little\"\nchecksum = { type = \"crc16-modbus\" }\n[[fields]]\nname = \"t\"\ntype = \"i16\"\nscale = 0.1",
            r#"{"decoder":"struct","endian":"little","checksum":{"type":"crc16-modbus"},"fields":[{"type":"i16","name":"t","scale":0.1}]}"#,
        ),
    ] {
        let (from_toml, from_json): (Definition, Definition) =
            (toml::from_str(toml).unwrap(), serde_json::from_str(json).unwrap());
        assert_eq!(from_toml, from_json);
        // The stored form is the same text with a format number, and is read back.
        let stored = from_json.to_stored();
        assert_eq!(stored, format!(r#"{{"format":1,"definition":{json}}}"#));
        assert_eq!(Definition::from_stored(&stored).unwrap(), from_json);
        let [one, two] = [from_toml, from_json].map(|definition| Decoder::new(definition).version());
        assert_eq!(one, two);
        assert!(json.contains(one.decoder));
    }
    assert_eq!(Definition::auto(), Definition::default());
}

#[test]
fn definitions_that_cannot_be() {
    for (json, reason) in [
        (r#"{}"#, "missing field `decoder`"),
        (r#"{"decoder":"xml"}"#, "unknown variant `xml`"),
        (r#"{"decoder":"json","tyme":1}"#, "unknown field `tyme`"),
        (r#"{"decoder":"auto","rows":"r"}"#, "unknown field `rows`"),
        (
            r#"{"decoder":"json","time":{"field":"a","unit":"days"}}"#,
            "unknown unit of time \"days\": use auto, ns, us, ms, s, m or h",
        ),
        (r#"{"decoder":"line-protocol","precision":"d"}"#, "unknown unit of time \"d\""),
        (r#"{"decoder":"json","types":{"a":"int"}}"#, "unknown column type \"int\""),
        (
            r#"{"decoder":"json","types":{"a":"bytes"}}"#,
            "field \"a\" is declared bytes: use bool, int64, float64 or text, or lists",
        ),
        (
            r#"{"decoder":"json","keys":["a"],"lists":["a"]}"#,
            "field \"a\" is a list: it cannot be a key or the event time",
        ),
        (r#"{"decoder":"struct"}"#, "missing field `fields`"),
    ] {
        let error = serde_json::from_str::<Definition>(json).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{json}\n{error}");
    }
    assert!(matches!(Definition::from_stored(r#"{"format":2,"x":1}"#), Err(DefinitionError::Format(2))));
    assert!(matches!(Definition::from_stored("{}"), Err(DefinitionError::Stored(_))));
}

#[test]
fn the_version_changes_with_the_definition() {
    let version = |json: &str| Decoder::new(serde_json::from_str(json).unwrap()).version();
    let one = version(r#"{"decoder":"json"}"#);
    assert_eq!(one, version(r#"{ "keys": [], "decoder": "json" }"#));
    assert_ne!(one, version(r#"{"decoder":"json","keys":["a"]}"#));
    assert_ne!(one, version(r#"{"decoder":"cbor"}"#));
    // Stored in dead letters: it stays as it is.
    assert_eq!(one.to_string(), "json/1/e7c6a42e");
}
