//! Line protocol.

use crate::{
    allocations::allocated_bytes,
    check::{check, decode, decoder, input},
};
use floodplain_decode::{Input, Outcome, Rows};

const LINES: &str = r#"{"decoder":"line-protocol"}"#;

#[test]
fn lines_are_rows() {
    check(
        LINES,
        "cpu,host=a,core=0 idle=90.5,n=3i,u=4u,ok=t,s=\"x y\" 1764064800000000000\n",
        &[r#""cpu" @1764064800000000000 *host="a" *core="0" idle=90.5 n=3i u=4i ok=true s="x y""#],
    );
    check(LINES, "m f=1", &[r#""m" f=1.0"#]);
    check(LINES, "m f=1\r\nm f=2\r\n", &[r#""m" f=1.0"#, r#""m" f=2.0"#]);
    check(
        LINES,
        "m f=1 5\r\nm f=t\r\nm f=\"a\"\r\nm f=1i\r",
        &[r#""m" @5 f=1.0"#, r#""m" f=true"#, r#""m" f="a""#, r#""m" f=1i"#],
    );
    check(LINES, "", &[]);
    check(LINES, "\n\n# a comment, b=1\n  # another\n \t\r\n", &[]);
    check(LINES, "  m   f=1   7  \n", &[r#""m" @7 f=1.0"#]);
    check(LINES, "m f=1 -1", &[r#""m" @-1 f=1.0"#]);
    check(LINES, "m#x f=1", &[r#""m#x" f=1.0"#]);
    check(LINES, "m f=\"# no\n# comment\"\nm g=1", &[r##""m" f="# no\n# comment""##, r#""m" g=1.0"#]);
}

#[test]
fn types() {
    for (value, expected) in [
        ("1", "1.0"),
        ("-1.5e-3", "-0.0015"),
        ("1.", "1.0"),
        (".5", "0.5"),
        ("+2", "2.0"),
        ("1E5", "100000.0"),
        ("0.1", "0.1"),
        ("9223372036854775807i", "9223372036854775807i"),
        ("-9223372036854775808i", "-9223372036854775808i"),
        ("9223372036854775807u", "9223372036854775807i"),
        ("9223372036854775808u", "~9223372036854775808"),
        ("18446744073709551615u", "~18446744073709551615"),
        ("t", "true"),
        ("T", "true"),
        ("true", "true"),
        ("True", "true"),
        ("TRUE", "true"),
        ("f", "false"),
        ("F", "false"),
        ("false", "false"),
        ("False", "false"),
        ("FALSE", "false"),
        ("\"\"", "\"\""),
        (r#""a\"b\\c\d\n""#, r#""a\"b\\c\\d\\n""#),
        ("\"a,b=c d\"", "\"a,b=c d\""),
        ("\"ä\"", "\"ä\""),
    ] {
        check(LINES, format!("m f={value}"), &[&format!("\"m\" f={expected}")]);
        check(LINES, format!("m f={value},g=1 5\n"), &[&format!("\"m\" @5 f={expected} g=1.0")]);
    }
    for (value, position, reason) in [
        ("", 4, "field \"f\" has no value"),
        ("x", 4, "field \"f\" is x, which is no number, text or boolean"),
        ("NaN", 4, "field \"f\" is NaN, which is no number, text or boolean"),
        ("inf", 4, "field \"f\" is inf, which is no number, text or boolean"),
        ("1e999", 4, "field \"f\" is beyond the range of a float"),
        ("1.5i", 4, "field \"f\" is 1.5i, which is no number, text or boolean"),
        ("-1u", 4, "field \"f\" is -1u, which is no number, text or boolean"),
        ("9223372036854775808i", 4, "field \"f\" is beyond the range of an integer"),
        ("18446744073709551616u", 4, "field \"f\" is beyond the range of an integer"),
        ("1x", 4, "field \"f\" is 1x, which is no number, text or boolean"),
        ("tRUE", 4, "field \"f\" is tRUE, which is no number, text or boolean"),
        ("\"a\"b", 4, "field \"f\" is \"a\"b, which is no number, text or boolean"),
        ("\"a", 4, "text of field \"f\" has no end"),
        ("\"a\\\"", 4, "text of field \"f\" has no end"),
    ] {
        check(LINES, format!("m f={value}"), &[&format!("! decode {position} line 1: {reason}")]);
    }
    let longest = "x".repeat(65_536);
    check(LINES, format!("m f=\"{longest}\""), &[&format!("\"m\" f=\"{longest}\"")]);
    check(
        LINES,
        format!("m f=\"{longest}x\""),
        &["! decode 65542 line 1: text of field \"f\" has 65537 bytes, more than 65536"],
    );
}

#[test]
fn escapes() {
    check(LINES, r"a\,b\ c=d,t\,u\=v\ w=x\,y\=z\ 1 f\,g\=h\ i=1", &[r#""a,b c=d" *t,u=v w="x,y=z 1" f,g=h i=1.0"#]);
    // Any other backslash is one.
    check(LINES, r"a\b\=c,t\u=\v f\g=1", &[r#""a\\b\\=c" *t\u="\\v" f\g=1.0"#]);
    check(LINES, r"a\\,t=v f=1", &[r#""a\\,t=v" f=1.0"#]);
    check(LINES, "a,t=v\\ f=1", &["! decode 8 line 1: value of tag \"t\" has a bare '='"]);
    check(LINES, "a,t=v\\\nb f=1", &["\"b\" f=1.0", "! decode 6 line 1: line has no fields"]);
}

#[test]
fn names_that_come_twice() {
    check(LINES, "m f=1,g=2,f=3", &[r#""m" g=2.0 f=3.0"#]);
    check(LINES, "m,a=1,b=2,a=3 f=1", &["! decode 10 line 1: tag \"a\" is given twice"]);
    // Both are kept: one as the key, one in overflow.
    check(LINES, "m,a=1 a=2,f=3", &[r#""m" *a="1" a=~2.0 f=3.0"#]);
    check(LINES, "m,a=1 a=\"x\\\"y\"", &[r#""m" *a="1" a=~"x\"y""#]);
    let many: String = (0..100).map(|idx| format!("f{idx}=1,")).collect();
    let expected: Vec<_> = (1..100).map(|idx| format!("f{idx}=1.0")).collect();
    check(
        LINES,
        format!("m,a=1 {many}f0=2,a=3,a=4"),
        &[&format!("\"m\" *a=\"1\" {} f0=2.0 a=~4.0", expected.join(" "))],
    );
}

#[test]
fn bad_lines_leave_the_others() {
    check(
        LINES,
        "m f=1\nbad\nm f=2\n,x f=1\nm f=\nm,t f=1\nm,=1 f=1\nm,t= f=1\nm f=1 x\nm f=1 1 2\nm =1\nm f\nm f=1,\nm f=3",
        &[
            r#""m" f=1.0"#,
            r#""m" f=2.0"#,
            r#""m" f=3.0"#,
            "! decode 9 line 2: line has no fields",
            "! decode 16 line 4: line has no measurement",
            "! decode 27 line 5: field \"f\" has no value",
            "! decode 31 line 6: tag \"t\" has no value",
            "! decode 38 line 7: tag has no name",
            "! decode 49 line 8: tag \"t\" is empty",
            "! time 60 line 9: timestamp is \"x\", which is no integer",
            "! decode 70 line 10: line goes on behind its timestamp",
            "! decode 74 line 11: field has no name",
            "! decode 80 line 12: field \"f\" has no value",
            "! decode 87 line 13: field has no name",
        ],
    );
    // Lines are counted in texts, too, and what stands in a text is no line.
    check(
        LINES,
        "m f=\"a\nb\"\nbad\nm g=1",
        &[r#""m" f="a\nb""#, r#""m" g=1.0"#, "! decode 13 line 3: line has no fields"],
    );
    check(
        LINES,
        "m,t= f=\"a\nevil f=1\n\\\"x\" 5\nm f=1\nbad\n",
        &[r#""m" f=1.0"#, "! decode 4 line 1: tag \"t\" is empty", "! decode 35 line 5: line has no fields"],
    );
    // A text without end does not swallow the lines behind.
    check(LINES, "m f=\"a\nm f=2\n", &[r#""m" f=2.0"#, "! decode 4 line 1: text of field \"f\" has no end"]);
    check(
        LINES,
        b"m f=1\nm,t=\xFF\xC3 f=2\nm s=\"\xE2\x82\"\nm s=\"\xE2\x82\xAC\"",
        &[
            r#""m" f=1.0"#,
            r#""m" s="€""#,
            "! decode 10 line 2: line is not utf-8",
            "! decode 22 line 3: line is not utf-8",
        ],
    );
}

#[test]
fn failures_are_bounded_and_counted() {
    let decoder = decoder(LINES);
    let mut rows = Rows::new();
    let payload = format!("m f=1\n{}m f=2", "x\n".repeat(5_000));
    let Outcome::Rows(decoded) = decoder.decode(&input(payload.as_bytes()), &mut rows) else { panic!("lines") };
    assert_eq!((decoded.rows().len(), decoded.failures().len(), decoded.refused_count()), (2, 1_000, 5_000));
    let fields = vec!["f=1"; 1 << 20].join(",");
    check(
        LINES,
        format!("a f=1\nb {fields},f=1\nc f=1"),
        &["\"a\" f=1.0", "! limit 6 line 2: payload gives more than 1048576 values"],
    );
    let tags: String = (0..1_100).map(|idx| format!(",t{idx}=1")).collect();
    check(
        LINES,
        format!("m{tags} f=1"),
        &[&format!("! decode {} line 1: line has more than 1024 tags", tags.find("t1024=").unwrap() + 1)],
    );
}

#[test]
fn precision() {
    for (precision, given, time) in [
        ("ns", "1764064800000000000", 1_764_064_800_000_000_000_i64),
        ("n", "1", 1),
        ("u", "1", 1_000),
        ("us", "1", 1_000),
        ("µ", "1", 1_000),
        ("ms", "-1", -1_000_000),
        ("s", "1764064800", 1_764_064_800_000_000_000),
        ("m", "1", 60_000_000_000),
        ("h", "1", 3_600_000_000_000),
        ("second", "1", 1_000_000_000),
        ("auto", "1764064800", 1_764_064_800_000_000_000),
        ("auto", "1764064800000", 1_764_064_800_000_000_000),
    ] {
        let expected = format!("\"m\" @{time} f=1.0");
        let payload = format!("m f=1 {given}");
        check(&format!(r#"{{"decoder":"line-protocol","precision":"{precision}"}}"#), &payload, &[&expected]);
        let content_type = format!("text/plain; charset=utf-8; Precision={precision}");
        let input = Input { content_type: Some(&content_type), ..input(payload.as_bytes()) };
        assert_eq!(decode(&decoder(LINES), &input), [expected], "{content_type}");
    }
    check(
        r#"{"decoder":"line-protocol","precision":"s"}"#,
        "m f=1 1764064800000000000",
        &["! time 6 line 1: timestamp 1764064800000000000 in s is outside of the years 1677 to 2262"],
    );
    check(LINES, "m f=1 1.5", &["! time 6 line 1: timestamp is \"1.5\", which is no integer"]);
    check(
        LINES,
        "m f=1 99999999999999999999",
        &["! time 6 line 1: timestamp 99999999999999999999 in ns is outside of the years 1677 to 2262"],
    );
}

#[test]
fn senders_for_many_devices() {
    let tagged = r#"{"decoder":"line-protocol","device_tag":"host","attributes":["fleet"]}"#;
    check(
        tagged,
        "cpu,core=0,host=a\\ b,fleet=north idle=1\ncpu,core=1 idle=2\nmem,host=c free=3",
        &[
            r#""cpu" of "a b" *core="0" ^fleet="north" idle=1.0"#,
            r#""mem" of "c" free=3.0"#,
            "! device 40 line 2: line has no tag \"host\" to name its device",
        ],
    );
    check(tagged, "cpu,host=a,host=b f=1", &["! decode 11 line 1: tag \"host\" is given twice"]);
    // A text in a line without device is no line either.
    check(tagged, "m f=\"x\nm,host=a f=1\"\n", &["! device 0 line 1: line has no tag \"host\" to name its device"]);
}

#[test]
fn the_second_payload_allocates_nothing() {
    let decoder = decoder(LINES);
    let payload = b"cpu,host=a,core=0 idle=90.5,n=3i,s=\"x y\" 1764064800000000000\ncpu,host=b x=1 1\n";
    let mut rows = Rows::new();
    for _ in 0..2 {
        assert!(matches!(decoder.decode(&input(payload), &mut rows), Outcome::Rows(_)));
    }
    let (count, bytes) = allocated_bytes(|| match decoder.decode(&input(payload), &mut rows) {
        Outcome::Rows(decoded) => decoded.rows().map(|row| row.fields().count()).sum(),
        Outcome::Undecoded => 0,
    });
    assert_eq!((count, bytes), (7, 0));
}
