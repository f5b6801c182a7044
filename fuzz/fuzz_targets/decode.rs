//! Any bytes to every decoder: no panic, the same rows from a used buffer as from a new one, places inside of the
//! payload, and a place for every field in a table.
#![no_main]

use std::{collections::BTreeMap, sync::OnceLock};

use floodplain_decode::{
    Decoder, Input, Outcome, Rows,
    schema::{Assignment, TableSchema},
};
use floodplain_types::Position;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const DEFINITIONS: [&str; 8] = [
    r#"{"decoder":"auto"}"#,
    r#"{"decoder":"json","time":{"field":"a.b"},"keys":["k"],"rows":"r.s","lists":["l"],"types":{"a":"int64","b":"text"}}"#,
    r#"{"decoder":"number"}"#,
    r#"{"decoder":"cbor","rows":"r","lists":["l"],"types":{"a":"float64"}}"#,
    r#"{"decoder":"line-protocol"}"#,
    r#"{"decoder":"line-protocol","precision":"auto","device_tag":"t","attributes":["u"]}"#,
    r#"{"decoder":"struct","time":{"field":"at"},"fields":[{"name":"at","type":"i64"},{"name":"s","type":"text","length":"u8"},
        {"type":"bits","length":3,"bits":[{"name":"x","at":3,"width":20,"type":"signed"}]},
        {"type":"group","count":"u8","fields":[{"name":"z","type":"text","length":"zero"},{"name":"b","type":"bytes","length":"u16"}]},
        {"name":"f","type":"f32","scale":0.5}]}"#,
    r#"{"decoder":"struct","checksum":{"type":"sum8"},"fields":[{"type":"group","count":"end","fields":[{"name":"v","type":"u24"}]}]}"#,
];

fn decoders() -> &'static [Decoder] {
    static DECODERS: OnceLock<Vec<Decoder>> = OnceLock::new();
    DECODERS.get_or_init(|| {
        let decoder = |json| Decoder::new(serde_json::from_str(json).expect("a definition"));
        DEFINITIONS.into_iter().map(decoder).collect()
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&who, payload)) = bytes.split_first() else { return };
    let content_type = (who & 0x80 != 0).then_some("application/cbor; precision=s");
    let input = Input { payload, content_type, device: "d", table: "t" };
    let decoder = &decoders()[usize::from(who & 7)];
    let (mut used, mut new) = (Rows::new(), Rows::new());
    let _before = decoders()[usize::from(who >> 3 & 7)].decode(&input, &mut used);
    let outcomes = (decoder.decode(&input, &mut used), decoder.decode(&input, &mut new));
    let (Outcome::Rows(decoded), Outcome::Rows(again)) = outcomes else {
        assert!(matches!(outcomes, (Outcome::Undecoded, Outcome::Undecoded)));
        return;
    };
    assert_eq!(format!("{decoded:?}"), format!("{again:?}"));
    assert!(decoded.failures().iter().all(|failure| failure.byte_position <= payload.len()));
    let (mut schema, mut assignment) = (TableSchema::new(), Assignment::new());
    for row in decoded.rows() {
        for round in 0.. {
            assert!(round < 3, "a row never finds its place");
            schema.assign(&row, Position::ZERO, &mut assignment);
            if assignment.changes().is_empty() {
                break;
            }
            for change in assignment.changes() {
                schema.apply(change);
            }
        }
        let fields = row.fields().count();
        assert_eq!(assignment.columns(&row).count() + assignment.overflow_count(), fields);
        if let Some(rest) = assignment.rest() {
            // Numbers are kept as they came, whether a float can hold them or not.
            serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(rest).expect("an object");
        }
    }
});
