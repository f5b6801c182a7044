use super::*;
use proptest::prelude::*;

const AT: i64 = 1_764_064_800_000_000_000; // 2025-11-25T10:00:00Z

#[test]
fn texts() {
    for (text, expected) in [
        ("2025-11-25T10:00:00Z", Some(AT)),
        ("2025-11-25t10:00:00z", Some(AT)),
        ("2025-11-25 10:00:00", Some(AT)),
        (" 2025-11-25T10:00 ", Some(AT)),
        ("2025-11-25T12:30:00+02:30", Some(AT)),
        ("2025-11-25T12:30:00+0230", Some(AT)),
        ("2025-11-25T05:00:00-05", Some(AT)),
        ("2025-11-25 10:00:00 +00:00", Some(AT)),
        ("2025-11-25T10:00:00.5Z", Some(AT + 500_000_000)),
        ("2025-11-25T10:00:00,000000001", Some(AT + 1)),
        ("2025-11-25T10:00:00.0000000019Z", Some(AT + 1)),
        ("2025-11-25T09:59:60Z", Some(AT)),
        ("1969-12-31T23:59:59.999999999Z", Some(-1)),
        ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000_000)),
        ("2025-02-29T00:00:00Z", None),
        ("2025-11-25", None),
        ("2025-11-25T10", None),
        ("2025-11-25T10:00:00.", None),
        ("2025-11-25T10:00:00.Z", None),
        ("2025-11-25T10:00:00x", None),
        ("2025-11-25T10:00:00Zx", None),
        ("2025-11-25T10:00:00+2", None),
        ("2025-11-25T10:00:00+02:", None),
        ("2025-11-25T24:00:00Z", None),
        ("2025-13-25T10:00:00Z", None),
        ("2025-11-00T10:00:00Z", None),
        ("2025-11-25T10:00:61Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("2262-04-11T23:47:16.854775807Z", Some(i64::MAX)),
        ("2262-04-11T23:47:16.854775808Z", None),
        ("", None),
        ("ä", None),
        ("2025-11-25T10:0ä:00", None),
    ] {
        assert_eq!(of_text(text), expected, "{text}");
    }
}

#[test]
fn units_by_size() {
    for (text, unit, expected) in [
        ("1764064800", TimeUnit::Auto, Some(AT)),
        ("1764064800000", TimeUnit::Auto, Some(AT)),
        ("1764064800000000", TimeUnit::Auto, Some(AT)),
        ("1764064800000000000", TimeUnit::Auto, Some(AT)),
        ("1764064800.123456789", TimeUnit::Auto, Some(AT + 123_456_789)),
        ("1764064800.1234567899999999999999", TimeUnit::Auto, Some(AT + 123_456_789)),
        ("1.7640648e9", TimeUnit::Auto, Some(AT)),
        ("4999999999", TimeUnit::Auto, Some(4_999_999_999_000_000_000)),
        ("5000000000", TimeUnit::Auto, Some(5_000_000_000_000_000)),
        ("4999999999999", TimeUnit::Auto, Some(4_999_999_999_999_000_000)),
        ("5000000000000", TimeUnit::Auto, Some(5_000_000_000_000_000)),
        ("5000000000000000", TimeUnit::Auto, Some(5_000_000_000_000_000)),
        ("-5", TimeUnit::Auto, Some(-5_000_000_000)),
        ("490018", TimeUnit::Hours, Some(1_764_064_800_000_000_000)),
        ("1764064800000", TimeUnit::Seconds, None),
        ("1e400", TimeUnit::Auto, None),
        ("99999999999999999999999", TimeUnit::Auto, None),
    ] {
        let decimal = number::scan(text.as_bytes()).unwrap();
        assert_eq!(unit.of_decimal(decimal), expected, "{text}");
        if let Some(int) = decimal.to_i64() {
            assert_eq!(unit.of_int(int), expected, "{text}");
        }
    }
    assert_eq!(TimeUnit::Auto.of_float(1_764_064_800.5), Some(AT + 500_000_000));
    assert_eq!(TimeUnit::Auto.of_float(f64::NAN), None);
    assert_eq!(TimeUnit::Auto.of_float(1e300), None);
    assert_eq!(TimeUnit::Hours.of_float(1e19), None);
    for unit in ["auto", "ns", "us", "ms", "s", "m", "h"] {
        assert_eq!(unit.parse::<TimeUnit>().unwrap().as_str(), unit);
    }
    assert!("d".parse::<TimeUnit>().is_err());
}

#[test]
fn usual_names() {
    assert_eq!(usual_rank("time"), Some(0));
    assert_eq!(usual_rank("TimeStamp"), Some(1));
    assert!(usual_rank("_time").is_some() && usual_rank("createdAt").is_some());
    assert!(USUAL_NAMES.iter().all(|name| usual_rank(name).is_some()));
    assert_eq!(usual_rank("t"), None);
    assert_eq!(usual_rank(""), None);
    assert_eq!(usual_rank("temperature"), None);
}

proptest! {
    /// Against an independent calendar.
    #[test]
    fn texts_are_those_of_chrono(time in any::<i64>(), offset_minutes in -1439_i32..1440) {
        let zone = chrono::FixedOffset::east_opt(offset_minutes * 60).unwrap();
        let there = chrono::DateTime::from_timestamp_nanos(time).with_timezone(&zone);
        prop_assert_eq!(of_text(&there.to_rfc3339()), Some(time));
        prop_assert_eq!(of_text(&to_text(time)), Some(time));
        prop_assert_eq!(chrono::DateTime::parse_from_rfc3339(&to_text(time)).unwrap().timestamp_nanos_opt(), Some(time));
    }

    #[test]
    fn any_text_is_no_panic(text in "\\PC*", digits in "[0-9 :.TZ+-]{0,30}") {
        let _time = (of_text_or_number(&text, TimeUnit::Auto), of_text_or_number(&digits, TimeUnit::Hours));
    }
}
