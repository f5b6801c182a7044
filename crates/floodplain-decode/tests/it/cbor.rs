//! CBOR, in the shape of JSON.

use crate::check::check;

const CBOR: &str = r#"{"decoder":"cbor"}"#;

#[test]
fn values() {
    for (item, expected) in [
        (&b"\x17"[..], "a=23i"),
        (b"\x38\x63", "a=-100i"),
        (b"\x1B\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "a=9223372036854775807i"),
        (b"\x1B\x80\0\0\0\0\0\0\0", "a=~9223372036854775808"),
        (b"\x3B\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "a=-9223372036854775808i"),
        (b"\x3B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "a=~-18446744073709551616"),
        (b"\xF9\x3E\0", "a=1.5"),
        (b"\xFA\x47\xC3\x50\0", "a=100000.0"),
        (b"\xFB\x3F\xF1\x99\x99\x99\x99\x99\x9A", "a=1.1"),
        (b"\xF9\x7E\0", "a=NaN"),
        (b"\xF5", "a=true"),
        (b"\xF6", ""),
        (b"\xF7", ""),
        (b"\xF0", "a=~\"simple(16)\""),
        (b"\x62\xC3\xBC", "a=\"ü\""),
        (b"\x7F\x61a\x61b\xFF", "a=\"ab\""),
        (b"\x42\x01\xFF", "a=x01ff"),
        (b"\x5F\x41\x01\x41\x02\xFF", "a=x0102"),
        (b"\xC2\x49\x01\0\0\0\0\0\0\0\0", "a=~18446744073709551616"),
        (b"\xC3\x41\x09", "a=-10i"),
        (b"\xC2\x50\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "a=x01000000000000000000000000000000"),
        (b"\xD8\x20\x61u", "a=\"u\""),
        (b"\x82\x01\x02", "a=~[1,2]"),
        (b"\x9F\x01\x61x\xF5\xF6\x41\0\xFF", "a=~[1,\"x\",true,null,\"AA==\"]"),
        (b"\x81\xA2\x61b\xF9\x3E\0\x01\x80", "a=1i"),
        (b"\xA1\x61b\x01", "a.b=1i"),
        (b"\xBF\x61b\x01\x61c\x02\xFF", "a.b=1i a.c=2i"),
        (b"\xA1\x05\x01", "a.5=1i"),
        (b"\xA0", "a=~{}"),
        (b"\x80", "a=~[]"),
        (b"\x9F\xFF", "a=~[]"),
    ] {
        let payload = [b"\xA1\x61a", item].concat();
        if item.starts_with(b"\x81\xA2") {
            // The only array of objects: rows.
            check(CBOR, payload, &["b=1.5 1=~[]"]);
        } else {
            check(CBOR, payload, &[expected]);
        }
    }
}

#[test]
fn times() {
    check(CBOR, b"\xA1\x62ts\xC1\x1A\x69\x25\x7E\xA0", &["@1764064928000000000"]);
    check(CBOR, b"\xA1\x62ts\x1A\x69\x25\x7E\xA0", &["@1764064928000000000"]);
    check(CBOR, b"\xA1\x62ts\xC0\x74\x32025-11-25T10:00:00Z", &["@1764064800000000000"]);
    check(CBOR, b"\xA1\x61x\xC1\xFB\x41\xDA\x49\x5F\xA8\x20\0\0", &["x=\"2025-11-25T10:02:08.5Z\""]);
    check(CBOR, b"\xA1\x61x\xC1\x1B\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF", &["x=9223372036854775807i"]);
    let declared = r#"{"decoder":"cbor","time":{"field":"at","unit":"s"}}"#;
    check(declared, b"\xA1\x62at\x05", &["@5000000000"]);
    check(
        declared,
        b"\xA1\x62at\xF5",
        &[r#"! time 4: event time field "at" is true, which is no time in s from 1677 to 2262"#],
    );
}

#[test]
fn documents() {
    check(CBOR, b"\x82\xA1\x61a\x01\xA1\x61a\x02", &["a=1i", "a=2i"]);
    check(CBOR, b"\xD9\xD9\xF7\xA1\x61a\x01", &["a=1i"]);
    check(CBOR, b"\x05", &["value=5i"]);
    check(CBOR, b"\x82\x01\x02", &["value=~[1,2]"]);
    check(r#"{"decoder":"cbor","lists":["l"]}"#, b"\xA1\x61l\x83\x01\xF9\x3E\0\x02", &["l=[1.0,1.5,2.0]"]);
    check(r#"{"decoder":"cbor","lists":["l"]}"#, b"\xA1\x61l\x82\x01\x02", &["l=[1i,2i]"]);
    check(r#"{"decoder":"cbor","types":{"a":"float64","b":"text"}}"#, b"\xA2\x61a\x01\x61b\x02", &["a=1.0 b=\"2\""]);
    check(r#"{"decoder":"cbor","keys":["a"]}"#, b"\xA2\x61a\x01\x61b\x02", &["*a=1i b=2i"]);
}

#[test]
fn what_is_no_cbor_is_a_failure_with_its_place() {
    for (payload, expected) in [
        (&b""[..], "! decode 0: payload is not cbor: it ends inside of a value"),
        (b"\xA1\x61a", "! decode 3: payload is not cbor: it ends inside of a value"),
        (b"\x01\x02", "! decode 1: payload is not cbor: bytes are left after the first value: 1"),
        (b"\xFF", "! decode 0: payload is not cbor: a break without beginning"),
        (b"\xA1\x61a\xFF", "! decode 3: payload is not cbor: a break without beginning"),
        (b"\xBF\x61a\xFF", "! decode 3: payload is not cbor: a break without beginning"),
        (b"\x1C", "! decode 0: payload is not cbor: 1c begins no value"),
        (b"\xA1\xF5\x01", "! decode 1: a name is of type bool, neither text nor integer"),
        (b"\x9B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "! decode 9: payload is not cbor: it ends inside of a value"),
        (b"\x5B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "! decode 0: payload is not cbor: it ends inside of a value"),
    ] {
        check(CBOR, payload, &[expected]);
    }
    let deep = [&[0x81; 100_000][..], &[1]].concat();
    check(CBOR, &deep, &["! decode 65: payload is nested deeper than 64 levels"]);
    check(CBOR, [&[0xC6; 100_000][..], &[1]].concat(), &["! decode 65: payload is nested deeper than 64 levels"]);
    check(CBOR, [&[0x81; 64][..], &[1]].concat(), &[&format!("value=~{}1{}", "[".repeat(64), "]".repeat(64))]);
}
