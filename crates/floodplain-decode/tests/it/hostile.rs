//! Any bytes to every decoder: no panic, the same answer twice, and places that are in the payload.

use floodplain_decode::{
    Decoder, Input, Outcome, Rows,
    schema::{Assignment, TableSchema},
};
use floodplain_types::Position;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    allocations::allocated_bytes,
    check::{decoder, input},
};

fn decoders() -> Vec<Decoder> {
    [
        r#"{"decoder":"auto"}"#,
        r#"{"decoder":"auto","time":{"field":"a.b"},"keys":["k"]}"#,
        r#"{"decoder":"json","rows":"r.s","lists":["l"],"types":{"a":"int64","b":"text","c":"float64","d":"bool"}}"#,
        r#"{"decoder":"number"}"#,
        r#"{"decoder":"cbor","rows":"r","lists":["l"],"types":{"a":"text"}}"#,
        r#"{"decoder":"line-protocol"}"#,
        r#"{"decoder":"line-protocol","precision":"auto","device_tag":"t","attributes":["u"]}"#,
        r#"{"decoder":"struct","time":{"field":"at"},"fields":[{"name":"at","type":"i64"},{"name":"s","type":"text","length":"u8"},
            {"type":"bits","length":3,"bits":[{"name":"x","at":3,"width":20,"type":"signed"}]},
            {"type":"group","count":"u8","fields":[{"name":"z","type":"text","length":"zero"},{"name":"b","type":"bytes","length":"u16"}]},
            {"name":"f","type":"f32","scale":0.5}]}"#,
        r#"{"decoder":"struct","checksum":{"type":"crc32","at":2,"from":1,"to":9},"fields":[{"name":"b","type":"bytes","length":"rest"}]}"#,
        r#"{"decoder":"struct","fields":[{"type":"group","count":"end","fields":[{"name":"v","type":"u24"}]}]}"#,
    ]
    .map(decoder)
    .into()
}

fn run(decoder: &Decoder, input: &Input<'_>, rows: &mut Rows) -> String {
    let Outcome::Rows(decoded) = decoder.decode(input, rows) else { return "undecoded".to_owned() };
    for failure in decoded.failures() {
        assert!(failure.byte_position <= input.payload.len(), "{failure:?}");
        assert!(!failure.reason.is_empty());
    }
    let mut schema = TableSchema::new();
    let mut assignment = Assignment::new();
    for row in decoded.rows() {
        // Changes without end would be a loop of the caller.
        for round in 0.. {
            assert!(round < 3, "{row:?}");
            schema.assign(&row, Position::ZERO, &mut assignment);
            if assignment.changes().is_empty() {
                break;
            }
            for change in assignment.changes() {
                schema.apply(change);
            }
        }
        if let Some(rest) = assignment.rest() {
            // Numbers that no f64 holds are kept as they were sent.
            type Members<'r> = std::collections::BTreeMap<String, &'r serde_json::value::RawValue>;
            assert!(serde_json::from_str::<Members<'_>>(rest).is_ok(), "{rest}");
        }
    }
    assert_eq!(TableSchema::from_stored(&schema.to_stored()).unwrap(), schema);
    format!("{decoded:?}")
}

fn all(payload: &[u8], rows: &mut Rows) {
    for decoder in decoders() {
        for content_type in [None, Some("application/cbor"), Some("text/plain; precision=s")] {
            let input = Input { content_type, ..input(payload) };
            let first = run(&decoder, &input, rows);
            assert_eq!(first, run(&decoder, &input, &mut Rows::new()), "{:?}", decoder.version());
        }
    }
}

const CBOR_PIECES: &[&[u8]] = &[
    b"\xA1",
    b"\xA2",
    b"\xBF",
    b"\x9F",
    b"\x82",
    b"\x81",
    b"\xFF",
    b"\x61a",
    b"\x61l",
    b"\x61r",
    b"\x62ts",
    b"\x00",
    b"\x1A\x69\x25\x7E\xA0",
    b"\x1B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
    b"\xF5",
    b"\xF6",
    b"\xF9\x7E\0",
    b"\xC1",
    b"\xC2\x41\x05",
    b"\x5F",
    b"\x7F",
    b"\x41\0",
    b"\xF0",
    b"\xFB",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(payload in vec(any::<u8>(), 0..64)) {
        all(&payload, &mut Rows::new());
    }

    /// Bytes that decoders know.
    #[test]
    fn any_pieces(pieces in vec(select(&[
        "{", "}", "[", "]", ":", ",", "\"", "\"a\"", "\"b\"", "\"l\"", "\"r\":", "\"s\":", "\"time\":", "1", "-", "1e5", "9007199254740993",
        "99999999999999999999", "null", "true", "\\", "\\u00e9", " ", "\n", "\r\n", "=", "m", "t", "t=x", "f=1", "f=2i", "18446744073709551615u", "#",
        "2025-11-25T10:00:00Z", "1764064800", "\u{e9}", "\u{0}",
    ][..]), 0..24)) {
        all(pieces.concat().as_bytes(), &mut Rows::new());
    }

    #[test]
    fn any_cbor(pieces in vec(select(CBOR_PIECES), 0..20)) {
        all(&pieces.concat(), &mut Rows::new());
    }
}

/// A buffer that one large payload has filled gives the memory back.
#[test]
fn memory_is_bounded() {
    let mut rows = Rows::new();
    let [json, lines] = [r#"{"decoder":"json"}"#, r#"{"decoder":"line-protocol"}"#].map(decoder);
    let members: Vec<_> = (0..100_000).map(|idx| format!("\"{idx}\":[]")).collect();
    let large = format!("{{{}}}", members.join(","));
    let (_, bytes) = allocated_bytes(|| run_only(&json, large.as_bytes(), &mut rows));
    // Fields grow by doubling: 32 bytes each, twice; and an index of 8 bytes to find duplicates.
    assert!(bytes < 16 << 20, "{bytes} bytes for {}", large.len());
    let bad_lines = "x\n".repeat(1 << 20);
    let (_, bytes) = allocated_bytes(|| run_only(&lines, bad_lines.as_bytes(), &mut rows));
    // Each bad line has a reason of some bytes, which is dropped at once behind the first thousand.
    assert!(bytes < 32 << 20, "{bytes} bytes");
    // One nested name in front of many; arrays that say they are long.
    let members: Vec<_> = (0..100_000).map(|idx| format!("\"{idx}\":1")).collect();
    let nested = format!("{{\"{}\":{{{}}}}}", "n".repeat(200), members.join(","));
    let (_, bytes) = allocated_bytes(|| run_only(&json, nested.as_bytes(), &mut rows));
    assert!(bytes < 48 << 20, "{bytes} bytes for {}", nested.len());
}

fn run_only(decoder: &Decoder, payload: &[u8], rows: &mut Rows) {
    let _outcome = decoder.decode(&input(payload), rows);
}
