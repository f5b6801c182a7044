//! JSON, declared and not.

use crate::{
    allocations::allocated_bytes,
    check::{check, decoder, input},
};
use floodplain_decode::{Outcome, Rows};

const JSON: &str = r#"{"decoder":"json"}"#;
const AUTO: &str = r#"{"decoder":"auto"}"#;

/// The same for both.
fn both(payload: &str, expected: &[&str]) {
    check(JSON, payload, expected);
    check(AUTO, payload, expected);
}

#[test]
fn objects_are_rows() {
    both(r#"{"a":1,"b":-2.5,"c":true,"d":"x","e":null}"#, &[r#"a=1.0 b=-2.5 c=true d="x""#]);
    both(" \r\n\t{ \"a\" : 1 } \n", &["a=1.0"]);
    both("{}", &[""]);
    both(r#"{"":1," ":2,"ä":"€\n\u00e9\"\\"}"#, &[r#"=1.0  =2.0 ä="€\né\"\\""#]);
    both(r#"{"\u0061b":1}"#, &["ab=1.0"]);
}

#[test]
fn numbers_lose_nothing() {
    both(
        r#"{"a":9007199254740992,"b":9007199254740993,"c":-9223372036854775808,"d":9223372036854775808}"#,
        &["a=9007199254740992.0 b=9007199254740993i c=-9223372036854775808i d=~9223372036854775808"],
    );
    both(
        r#"{"a":123456789012345678901234567890,"b":1e400,"c":-0,"d":1E3,"e":0.1,"f":1e-400}"#,
        &["a=~123456789012345678901234567890 b=~1e400 c=-0.0 d=1000.0 e=0.1 f=0.0"],
    );
}

#[test]
fn of_equal_names_the_last_counts() {
    both(r#"{"a":1,"b":2,"a":"x"}"#, &[r#"b=2.0 a="x""#]);
    both(r#"{"a":1,"a":null}"#, &[""]);
    both(r#"{"a.b":1,"a":{"b":2}}"#, &["a.b=2.0"]);
    both(r#"{"time":"2025-11-25T10:00:00Z","time":"never"}"#, &[r#"time="never""#]);
    both(r#"{"time":"never","time":"2025-11-25T10:00:00Z"}"#, &["@1764064800000000000"]);
    both(r#"{"r":[{"a":1}],"r":5}"#, &["r=5.0"]);
    both(r#"{"r":5,"r":[{"a":1}]}"#, &["a=1.0"]);
    // Also in rows that are searched by sorting.
    let many: String = (0..200).map(|idx| format!("\"f{}\":{idx},", idx % 100)).collect();
    let expected: Vec<_> = (100..200).map(|idx| format!("f{}={idx}.0", idx - 100)).collect();
    both(&format!("{{{}}}", many.trim_end_matches(',')), &[&expected.join(" ")]);
}

#[test]
fn nesting_becomes_dots_down_to_depth_5() {
    both(r#"{"a":{"b":{"c":{"d":{"e":1}}}}}"#, &["a.b.c.d.e=1.0"]);
    both(r#"{"a":{"b":{"c":{"d":{"e":{"f":1}, "g":[]}}}}}"#, &[r#"a.b.c.d.e=~{"f":1} a.b.c.d.g=~[]"#]);
    both(r#"{"a":{},"b":{"c":{}},"d":{"e":null}}"#, &["a=~{} b.c=~{}"]);
    let long = "x".repeat(300);
    both(&format!(r#"{{"{long}":{{"b":1}},"c":{{"{long}":2}}}}"#), &[&format!(r#"{long}=~{{"b":1}} c.{long}=2.0"#)]);
}

#[test]
fn arrays_of_objects_are_rows() {
    both(r#"[{"a":1},{"b":2}]"#, &["a=1.0", "b=2.0"]);
    both("[]", &[]);
    both(r#"[{"a":1},2]"#, &[r#"value=~[{"a":1},2]"#]);
    both("[1,2]", &["value=~[1,2]"]);
    // The other fields of the object around are repeated; an own field counts more.
    both(
        r#"{"s":"x","v":0,"r":[{"v":1},{"n":{"w":2}}],"o":{"p":true}}"#,
        &[r#"s="x" o.p=true v=1.0"#, r#"s="x" v=0.0 o.p=true n.w=2.0"#],
    );
    // Two such fields: whoever knows declares one.
    both(r#"{"r":[{"a":1}],"q":[{"b":2}]}"#, &[r#"r=~[{"a":1}] q=~[{"b":2}]"#]);
    check(r#"{"decoder":"json","rows":"q"}"#, r#"{"r":[{"a":1}],"q":[{"b":2}]}"#, &[r#"r=~[{"a":1}] b=2.0"#]);
    check(
        r#"{"decoder":"json","rows":"x.q"}"#,
        r#"{"x":{"q":[{"b":2},{"b":3}],"y":1}}"#,
        &["x.y=1.0 b=2.0", "x.y=1.0 b=3.0"],
    );
    // Not nested, not empty, not among scalars.
    both(r#"{"x":{"r":[{"a":1}]}}"#, &[r#"x.r=~[{"a":1}]"#]);
    both(r#"{"x":1,"r":[]}"#, &["x=1.0 r=~[]"]);
    check(r#"{"decoder":"json","rows":"r"}"#, r#"{"x":1,"r":[]}"#, &["x=1.0 r=~[]"]);
    check(r#"{"decoder":"json","rows":"r"}"#, r#"{"x":1,"r":[{"a":1},7]}"#, &[r#"x=1.0 r=~[{"a":1},7]"#]);
    check(r#"{"decoder":"json","rows":"r"}"#, r#"{"x":1}"#, &["x=1.0"]);
    // Rows inside of rows stay values.
    both(r#"[{"r":[{"a":1}]}]"#, &[r#"r=~[{"a":1}]"#]);
    both(r#"{"r":[{"q":[{"a":1}]}]}"#, &[r#"q=~[{"a":1}]"#]);
}

#[test]
fn the_event_time_has_usual_names_and_forms() {
    const AT: &str = "@1764064800000000000 a=1.0";
    for (name, value) in [
        ("time", r#""2025-11-25T10:00:00Z""#),
        ("timestamp", r#""2025-11-25 10:00:00""#),
        ("ts", "1764064800"),
        ("_time", "1764064800000"),
        ("event_time", "1764064800000000"),
        ("datetime", "1764064800000000000"),
        ("created_at", r#""2025-11-25T12:00:00+02:00""#),
        ("createdAt", "1764064800.000"),
        ("TS", r#""1764064800""#),
        ("Time", "1.7640648e9"),
    ] {
        both(&format!(r#"{{"{name}":{value},"a":1}}"#), &[AT]);
        both(&format!(r#"{{"a":1,"{name}":{value}}}"#), &[AT]);
    }
    // The better name, not the first; the other stays.
    both(r#"{"ts":1764064801,"time":1764064800,"a":1}"#, &["@1764064800000000000 ts=1764064801.0 a=1.0"]);
    both(r#"{"time":"noon","ts":1764064800}"#, &[r#"@1764064800000000000 time="noon""#]);
    // A fraction is exact.
    both(r#"{"ts":1764064800.123456789}"#, &["@1764064800123456789"]);
    // What is more likely a duration stays a column, and the row is never merged.
    both(r#"{"time":35.5,"ts":0}"#, &["time=35.5 ts=0.0"]);
    both(r#"{"time":true,"ts":null,"timestamp":{"a":1}}"#, &["time=true timestamp.a=1.0"]);
    // Only at the top.
    both(r#"{"x":{"ts":1764064800}}"#, &["x.ts=1764064800.0"]);
}

#[test]
fn the_declared_event_time_is_a_time_or_an_error() {
    let at = r#"{"decoder":"json","time":{"field":"m.at","unit":"ms"}}"#;
    check(at, r#"{"m":{"at":1000},"ts":1764064800}"#, &["@1000000000 ts=1764064800.0"]);
    check(at, r#"{"m":{"at":"1970-01-01T00:00:01Z"}}"#, &["@1000000000"]);
    check(at, r#"{"m":{"at":null},"a":1}"#, &["a=1.0"]);
    check(at, r#"{"a":1}"#, &["a=1.0"]);
    let reason = r#"! time 11: event time field "m.at" is "noon", which is no time in ms from 1677 to 2262"#;
    check(at, r#"{"m":{"at":"noon"}}"#, &[reason]);
    check(
        at,
        r#"{"m":{"at":1e300}}"#,
        &[r#"! time 11: event time field "m.at" is 1e300, which is no time in ms from 1677 to 2262"#],
    );
    // Undeclared nothing is refused: here the binding names the field, so it is.
    check(r#"{"decoder":"auto","time":{"field":"at"}}"#, r#"{"at":1764064800}"#, &["@1764064800000000000"]);
    check(
        r#"{"decoder":"auto","time":{"field":"at"}}"#,
        r#"{"at":"x"}"#,
        &[r#"! time 6: event time field "at" is "x", which is no time from 1677 to 2262"#],
    );
    // A field that never comes switches the usual names off.
    check(r#"{"decoder":"json","time":{"field":"-"}}"#, r#"{"ts":1764064800}"#, &["ts=1764064800.0"]);
}

#[test]
fn rows_with_one_time_keep_apart() {
    both(
        r#"{"ts":1764064800,"r":[{"s":"a","v":1},{"s":"b","v":2},{"s":"c","v":3}]}"#,
        &[
            r#"@1764064800000000000 s="a" v=1.0"#,
            r#"@1764064800000000000 s="b" v=2.0 *row_idx=1i"#,
            r#"@1764064800000000000 s="c" v=3.0 *row_idx=2i"#,
        ],
    );
    check(
        r#"{"decoder":"json","keys":["s"]}"#,
        r#"{"ts":1764064800,"r":[{"s":"a","v":1},{"s":"b","v":2}]}"#,
        &[r#"@1764064800000000000 *s="a" v=1.0"#, r#"@1764064800000000000 *s="b" v=2.0"#],
    );
    both(
        r#"[{"ts":1764064800,"v":1},{"ts":1764064801,"v":2},{"ts":1764064800,"row_idx":3}]"#,
        &["@1764064800000000000 v=1.0", "@1764064801000000000 v=2.0", "@1764064800000000000 row_idx=3.0 *row_idx_=1i"],
    );
    // Own time before that of the object around, whose field stays if it has another name.
    both(
        r#"{"time":1764064800,"r":[{"ts":1764064801},{"time":1764064802}]}"#,
        &["@1764064801000000000 time=1764064800.0", "@1764064802000000000"],
    );
    // Without time nothing is merged.
    both("[{},{}]", &["", ""]);
}

#[test]
fn declared_types_and_lists() {
    let types = r#"{"decoder":"json","types":{"i":"int64","f":"float64","t":"text","b":"bool"},"lists":["l"]}"#;
    check(types, r#"{"i":20,"f":20,"t":"x","b":true}"#, &[r#"i=20i f=20.0 t="x" b=true"#]);
    check(types, r#"{"i":"-7","f":" 2.5 ","t":1.50,"b":"false"}"#, &[r#"i=-7i f=2.5 t="1.50" b=false"#]);
    check(types, r#"{"i":20.0,"t":true}"#, &[r#"i=20i t="true""#]);
    check(types, r#"{"t":99999999999999999999}"#, &[r#"t="99999999999999999999""#]);
    // What does not fit stays as it is, and the schema finds its place.
    check(types, r#"{"i":20.5,"f":9007199254740993,"b":1,"t":[1]}"#, &["i=20.5 f=9007199254740993i b=1.0 t=~[1]"]);
    check(types, r#"{"i":"x","f":"1e999","b":"yes"}"#, &[r#"i="x" f="1e999" b="yes""#]);
    for (list, expected) in [
        ("[1,2.5]", "l=[1.0,2.5]"),
        (r#"["a","b"]"#, r#"l=["a","b"]"#),
        ("[true]", "l=[true]"),
        ("[9007199254740993]", "l=[9007199254740993i]"),
        ("[1,9007199254740993]", "l=~[1,9007199254740993]"),
        (r#"[1,"a"]"#, r#"l=~[1,"a"]"#),
        ("[1,null]", "l=~[1,null]"),
        ("[1,[2]]", "l=~[1,[2]]"),
        ("[]", "l=~[]"),
        ("5", "l=5.0"),
        (r#"[{"a":1}]"#, r#"l=~[{"a":1}]"#),
    ] {
        check(types, format!(r#"{{"l":{list}}}"#), &[expected]);
    }
}

#[test]
fn what_is_no_json_is_a_failure_with_its_place() {
    for (payload, expected) in [
        ("", "! decode 0: payload is empty"),
        (" ", "! decode 1: payload is empty"),
        (r#"{"a":1"#, "! decode 5: payload is not json: EOF while parsing an object"),
        (r#"{"a":01}"#, "! decode 6: payload is not json: invalid number"),
        ("{\"a\":1,\n\"b\":x}", "! decode 12: payload is not json: expected value"),
        (r#"{"a":1}x"#, "! decode 7: payload is not json: trailing characters"),
        (r#"{"a":{"b":tru}}"#, "! decode 13: payload is not json: expected ident"),
        ("tru", "! decode 2: payload is not json: EOF while parsing a value"),
        (r#"{"a":"\ud800"}"#, "! decode 12: payload is not json: unexpected end of hex escape"),
    ] {
        check(JSON, payload, &[expected]);
    }
    check(JSON, b"{\"a\":\"\xFF\"}", &["! decode 6: payload is not utf-8"]);
    check(AUTO, r#"{"a":1"#, &["undecoded"]);
    check(AUTO, b"{\"a\":\"\xFF\"}", &["undecoded"]);
}

#[test]
fn deep_and_wide_documents_are_bounded() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    check(JSON, &deep, &[&format!("value=~{deep}")]);
    // A thousand fields around ten thousand rows would be ten million.
    let around: String = (0..1_000).map(|idx| format!("\"f{idx}\":1,")).collect();
    let rows = vec!["{}"; 10_000].join(",");
    let payload = format!("{{{around}\"r\":[{rows}]}}");
    check(JSON, &payload, &["! limit 0: payload gives more than 1048576 values"]);
    check(AUTO, &payload, &["undecoded"]);
    // Long names in front of many short ones.
    let members = (0..20_000).map(|idx| format!("\"{idx}\":1")).collect::<Vec<_>>().join(",");
    let payload = format!("{{\"{}\":{{{members}}}}}", "n".repeat(250));
    check(
        JSON,
        &payload,
        &[&format!("! limit 0: payload gives more than {} bytes of names and texts", 8 * payload.len() + (1 << 20))],
    );
}

#[test]
fn the_second_payload_allocates_nothing() {
    let decoder = decoder(JSON);
    let payload = br#"{"ts":"2025-11-25T10:00:00Z","speed":71.5,"engine":"on","ok":true,"odo":123456}"#;
    let mut rows = Rows::new();
    for _ in 0..2 {
        assert!(matches!(decoder.decode(&input(payload), &mut rows), Outcome::Rows(_)));
    }
    let (count, bytes) = allocated_bytes(|| match decoder.decode(&input(payload), &mut rows) {
        Outcome::Rows(decoded) => decoded.rows().map(|row| row.fields().count()).sum(),
        Outcome::Undecoded => 0,
    });
    assert_eq!((count, bytes), (4, 0));
}
