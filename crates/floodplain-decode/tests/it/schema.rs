//! Columns: the rules, and that no interleaving of partitions loses a value.

use std::collections::{BTreeMap, BTreeSet};

use floodplain_decode::{
    Outcome, Role, Rows, Value,
    schema::{Assignment, Change, FIRST_FIELD_ID, MAX_COLUMNS, SchemaError, TableSchema},
};
use floodplain_types::Position;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::check::{decoder, input, show_value};

/// Assigns, and applies what is needed, until nothing is. Returns columns by name, and `_rest`.
fn store(schema: &mut TableSchema, definition: &str, payload: &str) -> Vec<String> {
    let decoder = decoder(definition);
    let (mut rows, mut assignment) = (Rows::new(), Assignment::new());
    let Outcome::Rows(decoded) = decoder.decode(&input(payload.as_bytes()), &mut rows) else { panic!("{payload}") };
    assert_eq!(decoded.failures(), []);
    let mut stored = Vec::new();
    for row in decoded.rows() {
        schema.assign(&row, Position::new(0, 7), &mut assignment);
        let changes = assignment.changes().to_vec();
        assert!(changes.iter().all(|change| schema.apply(change)), "{changes:?}");
        schema.assign(&row, Position::new(0, 8), &mut assignment);
        assert_eq!(assignment.changes(), []);
        let mut text: Vec<_> = assignment
            .columns(&row)
            .map(|(idx, value)| {
                assert_eq!(value.column_type(), Some(schema.columns()[idx].column_type));
                format!("{}={}", schema.columns()[idx].name, show_value(value))
            })
            .collect();
        text.extend(assignment.rest().map(|rest| format!("_rest={rest}")));
        if assignment.must_append() {
            text.push("append".to_owned());
        }
        stored.push(text.join(" "));
    }
    stored
}

fn lines(schema: &mut TableSchema, line: &str) -> String {
    store(schema, r#"{"decoder":"line-protocol","attributes":["fleet"]}"#, line).concat()
}

fn json(schema: &mut TableSchema, payload: &str) -> String {
    store(schema, r#"{"decoder":"json","lists":["l"],"types":{"i":"int64"}}"#, payload).concat()
}

fn types(schema: &TableSchema) -> String {
    let column = |column: &floodplain_decode::schema::Column| {
        let (wide, key) = (if column.wide { " wide" } else { "" }, if column.key { " key" } else { "" });
        format!("{} {}{wide}{key}", column.name, column.column_type)
    };
    schema.columns().iter().map(column).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_first_value_types_the_column() {
    let mut schema = TableSchema::new();
    assert_eq!(
        json(&mut schema, r#"{"a":1,"b":true,"c":"x","d":9007199254740993,"l":[1]}"#),
        r#"a=1.0 b=true c="x" d=9007199254740993i l=[1.0]"#
    );
    assert_eq!(types(&schema), "a float64, b bool, c text, d int64 wide, l list<float64>");
    assert_eq!(lines(&mut schema, "m,k=v a=2i,n=3i"), r#"k="v" a=2.0 n=3i"#);
    assert_eq!(types(&schema), "a float64, b bool, c text, d int64 wide, l list<float64>, k text key, n int64");
    let ids: Vec<_> = schema.columns().iter().map(|column| column.field_id.0).collect();
    assert_eq!(ids, (FIRST_FIELD_ID..FIRST_FIELD_ID + 7).collect::<Vec<_>>());
    assert!(schema.columns().iter().all(|column| column.first_seen == Position::new(0, 7)));
    assert_eq!(schema.version(), 7);
}

#[test]
fn any_other_conflict_goes_to_overflow() {
    let mut schema = TableSchema::new();
    json(&mut schema, r#"{"n":1,"t":"x","b":true}"#);
    assert_eq!(
        json(&mut schema, r#"{"n":"1","t":2,"b":"true","x":{"y":"ä\n"},"o":[1,{"p":null}]}"#),
        r#"x.y="ä\n" _rest={"n":"1","t":2.0,"b":"true","o":[1,{"p":null}]}"#
    );
    assert_eq!(
        json(&mut schema, r#"{"n":99999999999999999999,"":false}"#),
        r#"field=false _rest={"n":99999999999999999999}"#
    );
    assert_eq!(types(&schema), "n float64, t text, b bool, x.y text, field bool");
}

#[test]
fn integers_meet_floats() {
    // All stored integers are floats, too: the column widens.
    let mut schema = TableSchema::new();
    assert_eq!(lines(&mut schema, "m n=9007199254740992i"), "n=9007199254740992i");
    assert_eq!(lines(&mut schema, "m n=0.5"), "n=0.5");
    assert_eq!(lines(&mut schema, "m n=7i"), "n=7.0");
    assert_eq!(lines(&mut schema, "m n=9007199254740993i"), r#"_rest={"n":9007199254740993}"#);
    assert_eq!(types(&schema), "n float64");
    // One is not: the column stays, and takes what is whole.
    let mut schema = TableSchema::new();
    assert_eq!(lines(&mut schema, "m n=1i"), "n=1i");
    assert_eq!(lines(&mut schema, "m n=-9007199254740993i"), "n=-9007199254740993i");
    assert_eq!(types(&schema), "n int64 wide");
    assert_eq!(lines(&mut schema, "m n=0.5"), r#"_rest={"n":0.5}"#);
    assert_eq!(lines(&mut schema, "m n=20"), "n=20i");
    assert_eq!(lines(&mut schema, "m n=-0"), r#"_rest={"n":-0.0}"#);
    assert_eq!(lines(&mut schema, "m n=1e300"), r#"_rest={"n":1e300}"#);
    assert_eq!(schema.version(), 2);
    // Lists, all items at once.
    let cbor = r#"{"decoder":"cbor","lists":["l"]}"#;
    let mut schema = TableSchema::new();
    assert_eq!(store(&mut schema, cbor, "\u{0}").concat(), "value=0i");
    let mut list = |payload: &[u8]| {
        let decoder = decoder(cbor);
        let (mut rows, mut assignment) = (Rows::new(), Assignment::new());
        let Outcome::Rows(decoded) = decoder.decode(&input(payload), &mut rows) else { panic!("cbor") };
        let row = decoded.rows().next().unwrap();
        schema.assign(&row, Position::ZERO, &mut assignment);
        for change in assignment.changes() {
            assert!(schema.apply(change));
        }
        schema.assign(&row, Position::ZERO, &mut assignment);
        let columns: Vec<_> = assignment.columns(&row).map(|(_, value)| show_value(value)).collect();
        (columns.concat(), assignment.rest().map(str::to_owned))
    };
    assert_eq!(list(b"\xA1\x61l\x82\x01\x02"), ("[1i,2i]".to_owned(), None));
    assert_eq!(list(b"\xA1\x61l\x81\xF9\x3E\0"), ("[1.5]".to_owned(), None));
    assert_eq!(list(b"\xA1\x61l\x82\x01\x02"), ("[1.0,2.0]".to_owned(), None));
    assert_eq!(list(b"\xA1\x61l\x81\x1B\x7F\0\0\0\0\0\0\x01").1.as_deref(), Some(r#"{"l":[9151314442816847873]}"#));
}

#[test]
fn reserved_names_get_a_suffix() {
    let mut schema = TableSchema::new();
    let stored = json(
        &mut schema,
        r#"{"device":1,"time":2,"_rest":3,"__x":4,"_":5,"Time":6,"device_field":7,"rest_field":8,"x":9}"#,
    );
    assert_eq!(
        stored,
        "device_field=1.0 time_field=2.0 rest_field=3.0 x_field=4.0 field=5.0 Time=6.0 device_field_field=7.0 rest_field_field=8.0 x=9.0"
    );
    assert_eq!(schema.column_of("_rest"), Some(2));
    assert_eq!(schema.columns()[2].field, "_rest");
    let mut schema = TableSchema::new();
    assert_eq!(
        json(&mut schema, r#"{"device_field":1,"device":2,"_device":3}"#),
        "device_field=1.0 device_field2=2.0 device_field3=3.0"
    );
}

#[test]
fn columns_are_bounded() {
    let mut schema = TableSchema::new();
    let members: String = (0..MAX_COLUMNS - 1).map(|idx| format!("\"f{idx}\":1,")).collect();
    json(&mut schema, &format!("{{{}}}", members.trim_end_matches(',')));
    assert!(json(&mut schema, r#"{"x":1,"y":2,"f0":3}"#).ends_with(r#"x=1.0 f0=3.0 _rest={"y":2.0}"#));
    assert_eq!(schema.columns().len(), MAX_COLUMNS);
    assert_eq!(lines(&mut schema, "m,k=v f0=1"), r#"f0=1.0 _rest={"k":"v"} append"#);
    let mut schema = TableSchema::new();
    let long = "n".repeat(256);
    assert_eq!(
        json(&mut schema, &format!(r#"{{"{long}":1,"{}":2}}"#, &long[1..])),
        format!(r#"{}=2.0 _rest={{"{long}":1.0}}"#, &long[1..])
    );
    assert_eq!(json(&mut schema, r#"{"a\u0000b":1}"#), r#"_rest={"a\u0000b":1.0}"#);
}

#[test]
fn keys_are_told_and_never_lost() {
    let mut schema = TableSchema::new();
    assert_eq!(lines(&mut schema, "m host=1"), "host=1.0");
    // A tag is a text, the column has numbers: without its key the row must not replace others.
    assert_eq!(lines(&mut schema, "m,host=a x=1"), r#"x=1.0 _rest={"host":"a"} append"#);
    assert_eq!(lines(&mut schema, "m text=\"a\""), r#"text="a""#);
    assert_eq!(lines(&mut schema, "m,text=b x=1"), r#"text="b" x=1.0"#);
    assert_eq!(types(&schema), "host float64, x float64, text text key");
    assert_eq!(lines(&mut schema, "m,host=a host=5,x=t"), r#"_rest={"host":["a",5.0],"x":true} append"#);
    assert_eq!(lines(&mut schema, "m,text=b text=5"), r#"text="b" _rest={"text":5.0}"#);
}

#[test]
fn attributes_are_columns_and_no_keys() {
    let mut schema = TableSchema::new();
    assert_eq!(lines(&mut schema, "m,k=v,fleet=north n=1"), r#"k="v" fleet="north" n=1.0"#);
    assert_eq!(types(&schema), "k text key, fleet text, n float64");
    assert_eq!(lines(&mut schema, "m,fleet=north fleet=5"), r#"fleet="north" _rest={"fleet":5.0}"#);
    // What has no column is no part of the key that is missing.
    let mut schema = TableSchema::new();
    assert_eq!(lines(&mut schema, "m fleet=1"), "fleet=1.0");
    assert_eq!(lines(&mut schema, "m,fleet=north n=1"), r#"n=1.0 _rest={"fleet":"north"}"#);
    assert_eq!(lines(&mut schema, "m,fleet=north fleet=5"), r#"_rest={"fleet":["north",5.0]}"#);
    // A key stays one, whatever a later decoder makes of it.
    let mut schema = TableSchema::new();
    assert_eq!(
        store(&mut schema, r#"{"decoder":"line-protocol"}"#, "m,fleet=north n=1").concat(),
        r#"fleet="north" n=1.0"#
    );
    assert_eq!(lines(&mut schema, "m,fleet=south n=2"), r#"fleet="south" n=2.0"#);
    assert_eq!(types(&schema), "fleet text key, n float64");
}

#[test]
fn the_first_change_wins() {
    let add = |column_type: &str, wide| Change::Add {
        field: "f".into(),
        column_type: column_type.parse().unwrap(),
        wide,
        key: false,
        first_seen: Position::ZERO,
    };
    let field = || "f".to_owned();
    let mut schema = TableSchema::new();
    assert!(!schema.apply(&Change::Widen { field: field() }), "there is no such column");
    assert!(schema.apply(&add("int64", false)) && !schema.apply(&add("text", false)));
    let mut widened = schema.clone();
    assert!(widened.apply(&Change::Widen { field: field() }) && !widened.apply(&Change::Widen { field: field() }));
    assert!(!widened.apply(&Change::ToFloat { field: field() }));
    assert!(schema.apply(&Change::ToFloat { field: field() }) && !schema.apply(&Change::ToFloat { field: field() }));
    assert!(!schema.apply(&Change::Widen { field: field() }));
    assert!(schema.apply(&Change::MakeKey { field: field() }) && !schema.apply(&Change::MakeKey { field: field() }));
    assert_eq!((types(&schema), types(&widened)), ("f float64 key".to_owned(), "f int64 wide".to_owned()));
}

#[test]
fn schemas_and_changes_are_stored() {
    let mut schema = TableSchema::new();
    lines(&mut schema, "m,k=v n=9007199254740993i,device=1");
    let stored = schema.to_stored();
    assert_eq!(
        stored,
        r#"{"format":1,"version":3,"columns":[{"field":"k","name":"k","type":"text","field_id":100,"first_seen":"0:7","key":true},{"field":"n","name":"n","type":"int64","field_id":101,"first_seen":"0:7","wide":true},{"field":"device","name":"device_field","type":"float64","field_id":102,"first_seen":"0:7"}]}"#
    );
    assert_eq!(TableSchema::from_stored(&stored).unwrap(), schema);
    for (from, to) in [
        ("\"format\":1", "\"format\":2"),
        ("\"type\":\"text\"", "\"type\":\"blob\""),
        ("\"field_id\":101", "\"field_id\":100"),
        ("\"name\":\"n\"", "\"name\":\"k\""),
        ("\"name\":\"n\"", "\"name\":\"time\""),
        ("\"field\":\"n\"", "\"field\":\"k\""),
        ("\"0:7\"", "\"x\""),
        ("\"wide\":true", "\"wise\":true"),
    ] {
        assert!(TableSchema::from_stored(&stored.replacen(from, to, 1)).is_err(), "{to}");
    }
    assert!(matches!(TableSchema::from_stored("{\"format\":2,\"new\":1}"), Err(SchemaError::Format(2))));
    let add = Change::Add {
        field: "f".into(),
        column_type: "list<text>".parse().unwrap(),
        wide: false,
        key: true,
        first_seen: Position::new(1, 2),
    };
    assert_eq!(
        add.to_stored(),
        r#"{"format":1,"change":"add","field":"f","type":"list<text>","first_seen":"1:2","key":true}"#
    );
    for change in [
        add,
        Change::ToFloat { field: "ä".into() },
        Change::Widen { field: String::new() },
        Change::MakeKey { field: "\"".into() },
    ] {
        assert_eq!(Change::from_stored(&change.to_stored()).unwrap(), change);
    }
    assert!(Change::from_stored(r#"{"format":2,"change":"add"}"#).is_err());
}

/// A row of a partition: names with values as line protocol writes them, and whether they are tags.
fn row() -> impl Strategy<Value = String> {
    let name = select(&["a", "b", "c", "d", "time", "_x"][..]);
    let value = select(
        &[
            "1",
            "2.5",
            "-0",
            "7i",
            "9007199254740993i",
            "9007199254740993",
            "18446744073709551615u",
            "t",
            "\"x\"",
            "1e300",
        ][..],
    );
    let tags = vec((select(&["a", "k"][..]), select(&["x", "y"][..])), 0..2);
    (tags, vec((name, value), 1..5)).prop_map(|(tags, fields)| {
        let tags: BTreeMap<_, _> = tags.into_iter().collect();
        let tags: String = tags.iter().map(|(name, value)| format!(",{name}={value}")).collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("m{tags} {}", fields.join(","))
    })
}

/// What stands for a value wherever it is: a number by its digits.
fn canonical(value: Value<'_>) -> String {
    match value {
        Value::Int(value) => value.to_string(),
        Value::Float(value)
            if value.fract() == 0.0
                && value.abs() <= 9_007_199_254_740_992.0
                && value.to_bits() != (-0.0_f64).to_bits() =>
        {
            format!("{value:.0}")
        }
        Value::Float(value) => format!("{value:?}"),
        Value::Text(value) => format!("{value:?}"),
        other => show_value(other).trim_start_matches('~').to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two partitions, each with rows of its own and a schema that lags behind the one order of changes.
    #[test]
    fn no_interleaving_loses_a_value(
        partitions in [vec(row(), 1..6), vec(row(), 1..6)],
        turns in vec((0_usize..2, any::<bool>()), 40),
        attributes in select(&["", r#""a""#, r#""a","k""#][..]),
    ) {
        let decoder = decoder(&format!(r#"{{"decoder":"line-protocol","attributes":[{attributes}]}}"#));
        let mut order: Vec<Change> = Vec::new();
        let mut seen = [TableSchema::new(), TableSchema::new()];
        let mut applied = [0, 0];
        let mut next = [0, 0];
        let mut waits = [false, false];
        let mut tables: Vec<(TableSchema, Vec<(usize, String)>)> = Vec::new();
        // Random turns first, then both to their ends.
        let rest = (0..400).map(|turn| (turn % 2, true));
        for (who, catch_up) in turns.into_iter().chain(rest) {
            // A partition that waits for its changes sees them before it goes on.
            if catch_up || waits[who] {
                for change in &order[applied[who]..] {
                    seen[who].apply(change);
                }
                applied[who] = order.len();
                waits[who] = false;
            }
            let Some(line) = partitions[who].get(next[who]) else { continue };
            let (mut rows, mut assignment) = (Rows::new(), Assignment::new());
            let Outcome::Rows(decoded) = decoder.decode(&input(line.as_bytes()), &mut rows) else { panic!() };
            let row = decoded.rows().next().unwrap();
            seen[who].assign(&row, Position::ZERO, &mut assignment);
            if !assignment.changes().is_empty() {
                order.extend_from_slice(assignment.changes());
                waits[who] = true;
                continue;
            }
            next[who] += 1;
            // Every field is in a column of its type or in overflow, with its value.
            let mut found: Vec<(String, String)> = Vec::new();
            let mut stored = Vec::new();
            for (idx, value) in assignment.columns(&row) {
                let column = &seen[who].columns()[idx];
                prop_assert_eq!(value.column_type(), Some(column.column_type));
                if let Value::Int(value) = value {
                    prop_assert!(column.wide || value.unsigned_abs() <= 1 << 53);
                }
                found.push((column.field.clone(), canonical(value)));
                stored.push((idx, canonical(value)));
            }
            let rest: serde_json::Value = serde_json::from_str(assignment.rest().unwrap_or("{}")).unwrap();
            let names: BTreeSet<_> = assignment.overflow(&row).map(|field| field.name).collect();
            prop_assert!(rest.as_object().unwrap().keys().map(String::as_str).collect::<BTreeSet<_>>() == names, "{rest}");
            prop_assert_eq!(assignment.overflow(&row).count(), assignment.overflow_count());
            found.extend(assignment.overflow(&row).map(|field| (field.name.to_owned(), canonical(field.value))));
            let mut expected: Vec<_> = row.fields().map(|field| (field.name.to_owned(), canonical(field.value))).collect();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
            let lost_key = assignment.overflow(&row).any(|field| field.role == Role::Key);
            prop_assert_eq!(assignment.must_append(), lost_key);
            tables.push((seen[who].clone(), stored));
        }
        for who in 0..2 {
            prop_assert_eq!(next[who], partitions[who].len(), "a row never found its place");
            for change in &order[applied[who]..] {
                seen[who].apply(change);
            }
        }
        prop_assert_eq!(&seen[0], &seen[1]);
        // What was stored with an older schema is read by the last one: same columns, same values after widening.
        for (then, stored) in tables {
            for (idx, value) in stored {
                let (old, new) = (&then.columns()[idx], &seen[0].columns()[idx]);
                prop_assert_eq!((&old.field, &old.name, old.field_id), (&new.field, &new.name, new.field_id));
                if old.column_type != new.column_type {
                    prop_assert_eq!((old.column_type.as_str(), new.column_type.as_str()), ("int64", "float64"));
                    prop_assert!(value.parse::<i64>().unwrap().unsigned_abs() <= 1 << 53);
                }
            }
        }
        prop_assert_eq!(&TableSchema::from_stored(&seen[0].to_stored()).unwrap(), &seen[0]);
    }
}
