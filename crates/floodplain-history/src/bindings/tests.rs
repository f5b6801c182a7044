use super::*;
use proptest::prelude::*;

fn binding(name: &str, value: Value) -> Binding {
    Binding::declare(name, value, Origin::Api).unwrap()
}

fn error(value: Value) -> BindingError {
    Binding::declare("b", value, Origin::Api).unwrap_err()
}

fn target(binding: &Binding, topic: &str) -> Option<(String, String)> {
    binding.target(topic, b"client").map(|target| (target.device.to_owned(), target.table.to_owned()))
}

fn pair(device: &str, table: &str) -> Option<(String, String)> {
    Some((device.to_owned(), table.to_owned()))
}

#[test]
fn device_and_table_come_from_levels_or_names() {
    let levels = binding("b", json!({ "filter": "plants/+/+", "device_level": 2, "table": { "level": 3 } }));
    assert_eq!(target(&levels, "plants/p1/temp"), pair("p1", "temp"));
    assert_eq!(target(&levels, "plants//temp"), None, "an empty level is no device");
    assert_eq!(target(&levels, "plants/p1/dlq"), None, "a table of the server");
    assert_eq!(target(&levels, "plants/p1"), None);
    let deep = binding("b", json!({ "filter": "plants/#", "device_level": 4, "table": { "name": "all" } }));
    assert_eq!(target(&deep, "plants/a/b/c/d"), pair("c", "all"));
    assert_eq!(target(&deep, "plants/a/b"), None, "without the level it is another one's");
    let name = binding("b", json!({ "filter": "roads/+", "table": { "name": "traffic" } }));
    assert_eq!(target(&name, "roads/a7"), pair("client", "traffic"));
    assert_eq!(name.target("roads/a7", b"\xff").map(|target| target.table.to_owned()), None);
}

#[test]
fn the_more_exact_filter_is_asked_first() {
    let of = |name: &str, filter: &str| binding(name, json!({ "filter": filter, "table": { "name": name } }));
    let mut bindings = Bindings::default();
    for (name, filter) in [
        ("e", "#"),
        ("d", "a/#"),
        ("c", "+/b"),
        ("b2", "a/+"),
        ("b1", "a/+"),
        ("a", "a/b"),
        ("f", "+/+/c"),
        ("g", "a/b/+"),
    ] {
        bindings = bindings.with(of(name, filter)).unwrap();
    }
    let asked: Vec<_> = bindings.list().iter().map(|binding| binding.name()).collect();
    assert_eq!(asked, ["a", "g", "b1", "b2", "d", "c", "f", "e"]);
    let table = |topic: &str| {
        let message = MessageRef { topic, ..MessageRef::default() };
        bindings.target(&message).map(|(_, target)| target.table.to_owned()).unwrap_or_default()
    };
    assert_eq!(["a/b", "a/x", "a/b/c", "x/b/c", "y/b", "y"].map(table), ["a", "b1", "g", "f", "c", "e"]);
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let check = |value: Value, expected: &str| assert_eq!(error(value).to_string(), expected);
    let ok = || json!({ "filter": "a/+", "table": { "name": "t" } });
    let with = |name: &str, value: Value| {
        let mut binding = ok();
        binding[name] = value;
        binding
    };
    binding("b", ok());
    check(with("filter", json!("a+")), "filter \"a+\": wildcard does not fill its level, or '#' is not the last one");
    check(with("device_level", json!(0)), "device_level is 0: levels count from 1");
    check(with("device_level", json!(3)), "device_level is 3, and topics of \"a/+\" have 2 levels");
    check(with("table", json!({ "level": 9 })), "level of the table is 9, and topics of \"a/+\" have 2 levels");
    let reserved = "\"Dlq\" is no name for a table: 1 to 256 bytes, no control characters, and no table of the server";
    check(with("table", json!({ "name": "Dlq" })), reserved);
    check(with("retention", json!("ever")), "retention \"ever\" is no duration such as 30d or 12h");
    check(with("name", json!("c")), "it is named \"b\" and \"c\"");
    check(
        with("decoder", json!({})),
        "decoder needs a format: auto, json, number, text, cbor, line_protocol or struct",
    );
    let number =
        json!({ "filter": "a", "table": { "name": "t" }, "decoder": { "format": "number" }, "time_field": "ts" });
    check(number, "time_field does not go with decoder number");
    let twice = json!({ "filter": "a", "table": { "name": "t" }, "key_columns": ["n"],
        "decoder": { "format": "json", "keys": ["m"] } });
    check(twice, "key_columns and the keys of the decoder are different");
    assert!(error(with("decoder", json!({ "format": "xml" }))).to_string().contains("unknown variant `xml`"));
    assert!(error(with("colour", json!(1))).to_string().contains("unknown field `colour`"));
    check(with("class", json!("most")), "unknown durability class \"most\": use none, leader or all");
    binding("b", with("class", json!("leader")));
    binding("b", with("dedup", json!({ "property": "id" })));
    binding("b", with("dedup", json!({ "field": "seq", "window": "1h" })));
    check(with("dedup", json!({})), "dedup has a property or a field, one of the two");
    check(with("dedup", json!({ "property": "id", "field": "n" })), "dedup has a property or a field, one of the two");
    check(with("dedup", json!({ "field": "" })), "the property or field of dedup has 1 to 256 bytes");
    for window in ["61m", "0s", "ever"] {
        let says = format!("window {window:?} of dedup is no duration from 1s to 1h");
        check(with("dedup", json!({ "field": "n", "window": window })), &says);
    }
    assert!(error(with("dedup", json!({ "header": "id" }))).to_string().contains("unknown field `header`"));
    for (stream, says) in
        [("alerts", "one of the server's own"), ("Fast", "no name for a stream"), ("a/b", "may only hold")]
    {
        let BindingError::Invalid(text) = error(with("stream", json!(stream))) else { panic!("{stream}") };
        assert!(text.contains(says), "{text}");
    }
    binding("b", json!({ "filter": "a/+", "table": { "level": 2 }, "retention": "1d" }));
    let builtin = Binding::declare(BUILTIN, ok(), Origin::Api).unwrap_err();
    assert_eq!(builtin, BindingError::ReadOnly { name: BUILTIN.to_owned(), origin: Origin::Builtin });
    assert!(Binding::declare("no name", ok(), Origin::Api).is_err());
    let long = with("key_columns", json!(["x".repeat(BINDING_BYTES_MAX)]));
    assert!(error(long).to_string().contains("more than 65536 bytes"));
}

#[test]
fn those_of_the_configuration_stay_as_they_are() {
    let of = |origin| Binding::declare("b", json!({ "filter": "a", "table": { "name": "t" } }), origin).unwrap();
    let fixed = [Arc::new(of(Origin::Config))];
    let bindings = Bindings::default().with(of(Origin::Api)).unwrap().with_fixed(&fixed).unwrap();
    assert_eq!((bindings.version(), bindings.list().len()), (2, 1));
    assert_eq!(bindings.with_fixed(&fixed).unwrap().version(), 2, "nothing changes");
    let read_only = BindingError::ReadOnly { name: "b".to_owned(), origin: Origin::Config };
    assert_eq!(bindings.with(of(Origin::Api)).unwrap_err(), read_only);
    assert_eq!(bindings.without("b").unwrap_err(), read_only);
    assert_eq!(bindings.without("c").unwrap_err(), BindingError::Unknown("c".to_owned()));
    let restored = Bindings::decode(&bindings.encode()).unwrap();
    assert_eq!(restored.get("b").unwrap().origin(), Origin::Config);
    assert_eq!(restored.with_fixed(&[]).unwrap().list().len(), 0);
}

#[test]
fn there_is_a_limit() {
    let of = |n: usize| Arc::new(binding(&format!("b{n}"), json!({ "filter": "a", "table": { "name": "t" } })));
    let full = Bindings { version: 1, list: (0..BINDINGS_MAX).map(of).collect(), ..Bindings::default() };
    let more = binding("more", json!({ "filter": "a", "table": { "name": "t" } }));
    assert_eq!(full.with(more).unwrap_err(), BindingError::TooMany(BINDINGS_MAX));
}

proptest! {
    #[test]
    fn a_document_is_read_as_it_was_written(names in prop::collection::btree_set("[a-z.]{1,8}", 0..8), level in 1..3_u16) {
        let mut bindings = Bindings::default();
        for name in names {
            let value = json!({ "filter": "+/+", "table": { "level": level }, "key_columns": ["n"], "time_field": "ts",
                "decoder": { "format": "json", "types": { "x": "int64" } } });
            bindings = bindings.with(binding(&name, value)).unwrap();
        }
        let read = Bindings::decode(&bindings.encode()).unwrap();
        prop_assert_eq!(read.encode(), bindings.encode());
        for (read, written) in read.list().iter().zip(bindings.list()) {
            prop_assert_eq!(read.decoder().version(), written.decoder().version());
        }
    }
}
