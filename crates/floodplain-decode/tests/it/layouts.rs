//! Declared binary layouts.

use floodplain_decode::Definition;

use crate::check::{check, decoder};

fn with(fields: &str) -> String {
    format!(r#"{{"decoder":"struct","fields":[{fields}]}}"#)
}

#[test]
fn numbers_of_all_widths_and_both_orders() {
    for (kind, bytes, big, little) in [
        ("u8", &b"\x80"[..], "128i", "128i"),
        ("i8", b"\x80", "-128i", "-128i"),
        ("u16", b"\x01\x80", "384i", "32769i"),
        ("i16", b"\x01\x80", "384i", "-32767i"),
        ("u24", b"\x01\0\x80", "65664i", "8388609i"),
        ("i24", b"\x01\0\x80", "65664i", "-8388607i"),
        ("u32", b"\x01\0\0\x80", "16777344i", "2147483649i"),
        ("i32", b"\x01\0\0\x80", "16777344i", "-2147483647i"),
        ("u64", b"\x01\0\0\0\0\0\0\x80", "72057594037928064i", "~9223372036854775809"),
        ("i64", b"\x01\0\0\0\0\0\0\x80", "72057594037928064i", "-9223372036854775807i"),
        ("f32", b"\x3F\xC0\0\0", "1.5", "6.9e-41"),
        ("f64", b"\x3F\xF8\0\0\0\0\0\0", "1.5", "3.14e-319"),
        ("bool", b"\x02", "true", "true"),
        ("bool", b"\0", "false", "false"),
    ] {
        check(&with(&format!(r#"{{"name":"a","type":"{kind}"}}"#)), bytes, &[&format!("a={big}")]);
        if !kind.starts_with('f') {
            let field = format!(r#"{{"name":"a","type":"{kind}","endian":"little"}}"#);
            check(&with(&field), bytes, &[&format!("a={little}")]);
        } else {
            let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
            let definition =
                format!(r#"{{"decoder":"struct","endian":"little","fields":[{{"name":"a","type":"{kind}"}}]}}"#);
            check(&definition, reversed, &[&format!("a={big}")]);
        }
    }
}

#[test]
fn readings() {
    check(&with(r#"{"name":"t","type":"i16","scale":0.1,"offset":-40}"#), b"\x02\x8F", &["t=25.5"]);
    check(&with(r#"{"name":"t","type":"f32","scale":2}"#), b"\x3F\xC0\0\0", &["t=3.0"]);
    check(&with(r#"{"name":"t","type":"u8","offset":1}"#), b"\x02", &["t=3.0"]);
    check(
        &with(r#"{"name":"t","type":"i16","null":-32768,"scale":0.1},{"name":"u","type":"u8","null":255}"#),
        b"\x80\0\xFF",
        &[""],
    );
    let labels = with(r#"{"name":"mode","type":"i8","labels":{"0":"off","1":"on","-1":"broken"}}"#);
    check(&labels, b"\x01", &[r#"mode="on""#]);
    check(&labels, b"\xFF", &[r#"mode="broken""#]);
    check(&labels, b"\x07", &[r#"mode="7""#]);
}

#[test]
fn bits_bytes_and_texts() {
    let bits = with(
        r#"{"type":"bits","length":2,"bits":[
            {"name":"door","at":0,"type":"bool"},
            {"name":"level","at":1,"width":3},
            {"name":"delta","at":4,"width":4,"type":"signed"},
            {"name":"mode","at":8,"width":2,"labels":{"2":"eco"}},
            {"name":"temp","at":10,"width":6,"scale":0.5}]}"#,
    );
    check(&bits, [0b1010_1010, 0b1111_1011], &[r#"door=true level=5i delta=-1i mode="eco" temp=21.0"#]);
    check(
        &with(r#"{"type":"bits","length":8,"bits":[{"name":"x","at":0,"width":64,"type":"signed"}]}"#),
        [0xFF; 8],
        &["x=-1i"],
    );
    check(
        &with(r#"{"type":"bits","length":8,"bits":[{"name":"x","at":0,"width":64}]}"#),
        [0xFF; 8],
        &["x=~18446744073709551615"],
    );
    let parts = with(
        r#"{"name":"a","type":"bytes","length":2},{"type":"skip","length":1},{"name":"b","type":"bytes","length":"u8"},
           {"name":"c","type":"text","length":4},{"name":"d","type":"text","length":"zero"},
           {"name":"e","type":"text","length":"u16"},{"name":"f","type":"text","length":"rest"}"#,
    );
    check(&parts, b"\x01\x02\xFF\x01\x03ab\0cde\0\0\x02fgh", &[r#"a=x0102 b=x03 c="ab" d="de" e="fg" f="h""#]);
    check(&parts, b"\x01\x02\xFF\0abcd\0\0\0", &[r#"a=x0102 b=x c="abcd" d="" e="" f="""#]);
    check(
        &with(r#"{"name":"t","type":"text","length":"zero"}"#),
        b"a\xFF\0",
        &[r#"! decode 1: field "t" is not utf-8"#],
    );
    check(
        &with(r#"{"name":"t","type":"text","length":"u8"}"#),
        b"\x03ab\xFF",
        &[r#"! decode 3: field "t" is not utf-8"#],
    );
}

#[test]
fn groups_are_rows() {
    let counted = r#"{"decoder":"struct","time":{"field":"at","unit":"s"},"fields":[
        {"name":"at","type":"u32"},
        {"type":"group","count":"u8","fields":[{"name":"port","type":"u8"},{"name":"v","type":"i16"}]},
        {"name":"battery","type":"u8"}]}"#;
    check(
        counted,
        b"\0\0\0\x05\x02\x01\0\x0A\x02\0\x0B\x63",
        &["@5000000000 battery=99i port=1i v=10i", "@5000000000 battery=99i port=2i v=11i *row_idx=1i"],
    );
    check(counted, b"\0\0\0\x05\0\x63", &[]);
    let keyed = counted.replace(
        r#""fields":[
        {"name":"at""#,
        r#""keys":["port"],"fields":[{"name":"at""#,
    );
    check(
        &keyed,
        b"\0\0\0\x05\x02\x01\0\x0A\x02\0\x0B\x63",
        &["@5000000000 battery=99i *port=1i v=10i", "@5000000000 battery=99i *port=2i v=11i"],
    );
    let to_end = r#"{"decoder":"struct","time":{"field":"at","unit":"ms"},"checksum":{"type":"sum8"},"fields":[
        {"name":"id","type":"u8"},
        {"type":"group","count":"end","fields":[{"name":"at","type":"u16"},{"name":"v","type":"u8"}]}]}"#;
    check(to_end, b"\x07\0\x01\x0A\0\x02\x0B\x1F", &["@1000000 id=7i v=10i", "@2000000 id=7i v=11i"]);
    check(
        to_end,
        b"\x07\0\x01\x0A\0\x02\x14",
        &[r#"! decode 6: payload is too short: field "v" needs 1 bytes at byte 6, 0 are left"#],
    );
    let fixed = with(r#"{"type":"group","count":2,"fields":[{"name":"v","type":"u8"}]}"#);
    check(&fixed, b"\x01\x02", &["v=1i", "v=2i"]);
}

#[test]
fn event_times() {
    let at = |kind: &str, unit: &str| {
        format!(
            r#"{{"decoder":"struct","time":{{"field":"at","unit":"{unit}"}},"fields":[{{"name":"at","type":"{kind}","null":0}}]}}"#
        )
    };
    check(&at("u32", "auto"), 1_764_064_800_u32.to_be_bytes(), &["@1764064800000000000"]);
    check(&at("u64", "ms"), 1_764_064_800_000_u64.to_be_bytes(), &["@1764064800000000000"]);
    check(&at("u32", "s"), 0_u32.to_be_bytes(), &[""]);
    check(&at("i64", "s"), (-1_i64).to_be_bytes(), &["@-1000000000"]);
    let reason = r#"! time 0: event time field "at" is 18446744073709551615, which is no time in s"#;
    check(&at("u64", "s"), u64::MAX.to_be_bytes(), &[reason]);
    let float = r#"{"decoder":"struct","time":{"field":"at","unit":"s"},"fields":[{"name":"at","type":"f64"}]}"#;
    check(float, 1_764_064_800.5_f64.to_be_bytes(), &["@1764064800500000000"]);
    check(float, f64::NAN.to_be_bytes(), &[r#"! time 0: event time field "at" is NaN, which is no time in s"#]);
}

#[test]
fn checksums_are_verified_first() {
    let modbus = r#"{"decoder":"struct","checksum":{"type":"crc16-modbus","endian":"little"},"fields":[{"name":"a","type":"u8"},{"name":"b","type":"u16"}]}"#;
    check(modbus, b"\x01\x00\x05\x51\x93", &["! checksum 3: checksum is 9351, bytes 0 to 3 give 03e0"]);
    check(modbus, b"\x01\x00\x05\xE0\x03", &["a=1i b=5i"]);
    check(modbus, b"\x01", &["! checksum 1: payload of 1 bytes is too short for its checksum"]);
    let front = r#"{"decoder":"struct","checksum":{"type":"xor8","at":0},"fields":[{"type":"skip","length":1},{"name":"a","type":"u16"}]}"#;
    check(front, b"\x03\x01\x02", &["a=258i"]);
    check(front, b"\x04\x01\x02", &["! checksum 0: checksum is 04, bytes 1 to 3 give 03"]);
    let middle = r#"{"decoder":"struct","checksum":{"type":"sum8","at":2,"from":1,"to":2},"fields":[{"name":"a","type":"u8"},{"name":"b","type":"u8"},{"type":"skip","length":1},{"name":"c","type":"u8"}]}"#;
    check(middle, b"\x01\x02\x02\x04", &["a=1i b=2i c=4i"]);
    check(middle, b"\x01\x02\x03\x04", &["! checksum 2: checksum is 03, bytes 1 to 2 give 02"]);
    let crc32c =
        r#"{"decoder":"struct","checksum":{"type":"crc32c"},"fields":[{"name":"a","type":"text","length":"rest"}]}"#;
    check(crc32c, b"123456789\xE3\x06\x92\x83", &[r#"a="123456789""#]);
}

#[test]
fn lengths_are_exact() {
    let layout = with(r#"{"name":"a","type":"u16"},{"type":"bits","length":1,"bits":[{"name":"b","at":0}]}"#);
    check(&layout, b"", &[r#"! decode 0: payload is too short: field "a" needs 2 bytes at byte 0, 0 are left"#]);
    check(
        &layout,
        b"\0\0",
        &[r#"! decode 2: payload is too short: bits of field "b" needs 1 bytes at byte 2, 0 are left"#],
    );
    check(&layout, b"\0\0\0\0\0", &["! decode 3: bytes are left after the last field: 2"]);
    let text = with(r#"{"name":"t","type":"text","length":"zero"}"#);
    check(&text, b"abc", &[r#"! decode 3: payload is too short: field "t" has no zero at its end"#]);
}

#[test]
fn columns_are_known_before_the_first_payload() {
    let decoder = decoder(
        r#"{"decoder":"struct","time":{"field":"at"},"keys":["port"],"fields":[
            {"name":"at","type":"u32"},{"name":"n","type":"i8"},{"name":"t","type":"i8","scale":0.5},
            {"name":"f","type":"f32"},{"name":"o","type":"bool"},{"name":"m","type":"u8","labels":{"0":"off"}},
            {"type":"bits","length":1,"bits":[{"name":"d","at":0,"type":"bool"}]},
            {"name":"b","type":"bytes","length":1},{"name":"s","type":"text","length":1},
            {"type":"group","count":"end","fields":[{"name":"port","type":"u8"}]}]}"#,
    );
    let columns: Vec<_> = decoder
        .columns()
        .unwrap()
        .iter()
        .map(|column| format!("{} {} {:?}", column.name, column.column_type, column.role))
        .collect();
    assert_eq!(
        columns,
        [
            "n int64 Value",
            "t float64 Value",
            "f float64 Value",
            "o bool Value",
            "m text Value",
            "d bool Value",
            "b bytes Value",
            "s text Value",
            "port int64 Key",
        ]
    );
}

/// Who reads the guide can declare all that there is.
#[test]
fn the_guide_names_all_that_a_layout_takes() {
    let guide = include_str!("../../../../docs/guides/bindings.md");
    let (_, section) = guide.split_once("\n## Layouts\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows: String = section.lines().filter(|line| line.starts_with('|')).collect();
    let check = |name: &str| {
        let forms = [format!("`{name}`"), format!("`\"{name}\"`"), format!("\"{name}\": ")];
        assert!(forms.iter().any(|form| rows.contains(form)), "{name} is not in the guide");
    };
    let parse = |definition: &str| serde_json::from_str::<Definition>(definition);
    let checksum = |members: &str| format!(r#"{{"decoder":"struct","checksum":{{{members}}},"fields":[]}}"#);
    // Errors name all members that there are.
    for (definition, count) in [
        (r#"{"decoder":"struct","?":1,"fields":[]}"#.to_owned(), 5),
        (with(r#"{"?":1}"#), 11),
        (with(r#"{"type":"bits","bits":[{"?":1}]}"#), 8),
        (checksum(r#""?":1"#), 5),
    ] {
        let error = parse(&definition).unwrap_err().to_string();
        let (_, members) = error.split_once("expected one of ").unwrap();
        let members: Vec<_> = members.split('`').skip(1).step_by(2).collect();
        assert_eq!(members.len(), count, "{error}");
        // Keys are those of the binding.
        members.into_iter().filter(|member| *member != "keys").for_each(check);
    }
    let error = parse(&checksum(r#""type":"?""#)).unwrap_err().to_string();
    let (_, algorithms) = error.split_once("use one of ").unwrap();
    let algorithms: Vec<_> = algorithms.split(", ").map(|name| name.split(' ').next().unwrap()).collect();
    assert_eq!(algorithms.len(), 8, "{error}");
    algorithms.into_iter().for_each(check);
    for (field, words) in [
        (r#"{"name":"a","type":"?"}"#, "u8 u16 u24 u32 u64 i8 i16 i24 i32 i64 f32 f64 bool"),
        (r#"{"name":"a","type":"?","length":1}"#, "text bytes"),
        (r#"{"type":"?","length":1,"bits":[{"name":"a","at":0}]}"#, "bits"),
        (r#"{"type":"?","length":1}"#, "skip"),
        (r#"{"type":"?","count":1,"fields":[{"name":"a","type":"u8"}]}"#, "group"),
        (r#"{"name":"a","type":"text","length":"?"}"#, "u8 u16 rest zero"),
        (r#"{"type":"group","count":"?","fields":[{"name":"a","type":"u8"}]}"#, "u8 u16 u32 end"),
        (r#"{"type":"bits","length":1,"bits":[{"name":"a","at":0,"type":"?"}]}"#, "unsigned signed bool"),
        (r#"{"name":"a","type":"u16","endian":"?"}"#, "big little"),
    ] {
        for word in words.split(' ') {
            let definition = with(&field.replace('?', word));
            assert!(parse(&definition).is_ok(), "{definition}");
            check(word);
        }
    }
}

#[test]
fn layouts_that_cannot_be() {
    for (fields, reason) in [
        (r#"{"type":"u8"}"#, "field 1: a name is needed"),
        (r#"{"name":"a","type":"u7"}"#, "field \"a\": unknown type \"u7\""),
        (r#"{"name":"a","type":"u8"},{"name":"a","type":"u8"}"#, "field \"a\": the name is used twice"),
        (r#"{"name":"a","type":"u8","length":2}"#, "field \"a\": length does not go with type \"u8\""),
        (r#"{"name":"a","type":"bool","scale":2,"null":0}"#, "field \"a\": scale, null does not go with type \"bool\""),
        (
            r#"{"name":"a","type":"f32","labels":{"0":"x"}}"#,
            "field \"a\": labels go with integers, without scale and offset",
        ),
        (
            r#"{"name":"a","type":"u8","labels":{"x":"y"}}"#,
            "field \"a\": label \"y\" is for \"x\", which is no integer",
        ),
        (r#"{"name":"a","type":"f32","null":0}"#, "field \"a\": null goes with integers; a float says NaN"),
        (r#"{"name":"a","type":"bytes"}"#, "field \"a\": a length is needed"),
        (
            r#"{"name":"a","type":"bytes","length":"zero"}"#,
            "field \"a\": unknown length \"zero\": use a number, u8, u16, rest, or zero for texts",
        ),
        (r#"{"type":"skip"}"#, "field 1: skip needs a length in bytes, more than 0"),
        (
            r#"{"type":"bits","length":9,"bits":[{"name":"a","at":0}]}"#,
            "field 1: a bit group has 1 to 8 bytes, and bits",
        ),
        (
            r#"{"type":"bits","length":1,"bits":[{"name":"a","at":7,"width":2}]}"#,
            "field 1: bits \"a\": 2 bits at 7 are not in a group of 8",
        ),
        (
            r#"{"name":"a","type":"text","length":"rest"},{"name":"b","type":"u8"}"#,
            "field 1 takes all that is left: it must be the last one",
        ),
        (
            r#"{"type":"group","count":"u9","fields":[{"name":"a","type":"u8"}]}"#,
            "field 1: unknown count \"u9\": use a number, u8, u16, u32 or end",
        ),
        (r#"{"type":"group","count":"u8"}"#, "field 1: an item of a group needs at least one byte"),
        (
            r#"{"type":"group","count":1,"fields":[{"type":"group","count":1}]}"#,
            "field 1: field 1: a group inside of a group",
        ),
        (
            r#"{"type":"group","count":1,"fields":[{"name":"a","type":"u8"}]},{"type":"group","count":1,"fields":[{"name":"b","type":"u8"}]}"#,
            "a layout has at most one group: its items are the rows",
        ),
        (
            r#"{"type":"group","count":1,"fields":[{"name":"a","type":"text","length":"rest"},{"name":"b","type":"u8"}]}"#,
            "field 1: no field of a group may take all that is left",
        ),
    ] {
        let error = serde_json::from_str::<Definition>(&with(fields)).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{fields}\n{error}");
    }
    for (keys, reason) in [
        (r#""keys":["b"]"#, "there is no field \"b\" in the layout"),
        (r#""time":{"field":"b"}"#, "there is no field \"b\" in the layout"),
        (r#""time":{"field":"s"}"#, "event time field \"s\" must be a number, without labels"),
        (r#""checksum":{"type":"md5"}"#, "unknown checksum \"md5\": use one of sum8, xor8,"),
        (r#""checksum":{"type":"sum8","from":3,"to":2}"#, "checksum from 3 to 2 covers nothing"),
    ] {
        let definition = format!(r#"{{"decoder":"struct",{keys},"fields":[{{"name":"s","type":"text","length":1}}]}}"#);
        let error = serde_json::from_str::<Definition>(&definition).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{keys}\n{error}");
    }
}
