//! Line protocol: what an encoder writes is read as the same points, also between bad lines.

use floodplain_decode::{Outcome, Role, Rows};
use proptest::{
    collection::{btree_map, vec},
    option::of,
    prelude::*,
    sample::select,
};

use crate::check::{decoder, input, show_value};

#[derive(Debug, Clone)]
struct Point {
    measurement: String,
    tags: Vec<(String, String)>,
    fields: Vec<(String, Field)>,
    time: Option<i64>,
}

#[derive(Debug, Clone)]
enum Field {
    Float(f64),
    Int(i64),
    Unsigned(u64),
    Bool(&'static str),
    Text(String),
}

/// No newline, which no escape allows; no backslash, which would bend what comes behind it; no first `#`.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}", "[a-z,= \"ä€#]{0,6}[a-z]"].prop_filter("a comment", |name| !name.starts_with('#'))
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(Field::Float),
        (-1000_i32..1000).prop_map(|value| Field::Float(f64::from(value) / 8.0)),
        any::<i64>().prop_map(Field::Int),
        any::<u64>().prop_map(Field::Unsigned),
        select(&["t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"][..]).prop_map(Field::Bool),
        "[a-z,= \"\\\\\n\r#ä€]{0,12}".prop_map(Field::Text),
    ]
}

fn point() -> impl Strategy<Value = Point> {
    (name(), btree_map(name(), name(), 0..4), btree_map(name(), field(), 1..6), of(any::<i64>()))
        .prop_map(|(measurement, tags, fields, time)| {
            let fields = fields.into_iter().filter(|(name, _)| !tags.contains_key(name)).collect();
            Point { measurement, tags: tags.into_iter().collect(), fields, time }
        })
        .prop_filter("a point has a field", |point| !point.fields.is_empty())
}

fn escape(text: &str, escaped: &str) -> String {
    text.chars().flat_map(|char| escaped.contains(char).then_some('\\').into_iter().chain([char])).collect()
}

fn encode(point: &Point) -> String {
    // A space at the start of a line would be none of the measurement: here all are escaped.
    let mut line = escape(&point.measurement, ", ");
    for (name, value) in &point.tags {
        line += &format!(",{}={}", escape(name, ",= "), escape(value, ",= "));
    }
    for (idx, (name, value)) in point.fields.iter().enumerate() {
        line.push(if idx == 0 { ' ' } else { ',' });
        line += &format!("{}=", escape(name, ",= "));
        line += &match value {
            Field::Float(value) => format!("{value}"),
            Field::Int(value) => format!("{value}i"),
            Field::Unsigned(value) => format!("{value}u"),
            Field::Bool(value) => (*value).to_owned(),
            Field::Text(text) => format!("\"{}\"", escape(text, "\"\\")),
        };
    }
    line + &point.time.map_or_else(String::new, |time| format!(" {time}"))
}

fn shown(field: &Field) -> String {
    match field {
        Field::Float(value) => format!("{value:?}"),
        Field::Int(value) => format!("{value}i"),
        Field::Unsigned(value) => {
            i64::try_from(*value).map_or_else(|_| format!("~{value}"), |value| format!("{value}i"))
        }
        Field::Bool(text) => text.to_lowercase().starts_with('t').to_string(),
        Field::Text(text) => format!("{text:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn points_survive(
        points in vec((point(), select(&["\n", "\r\n", "\n\n", "\n# no, f=1 1\n", "\nbad\n", "\nm,t= f=\"a\nb f=1\"\n"][..])), 0..8),
        last_newline in any::<bool>(),
    ) {
        let (mut payload, mut bad_lines, mut line) = (String::new(), Vec::new(), 1);
        for (point, end) in &points {
            payload += &encode(point);
            payload += end;
            if end.contains("bad") || end.contains("t=") {
                let text = encode(point);
                bad_lines.push(line + text.matches('\n').count() as u32 + 1);
            }
            line += payload.matches('\n').count() as u32 - (line - 1);
        }
        if !last_newline && payload.ends_with('\n') {
            payload.pop();
        }
        let mut rows = Rows::new();
        let decoder = decoder(r#"{"decoder":"line-protocol"}"#);
        let Outcome::Rows(decoded) = decoder.decode(&input(payload.as_bytes()), &mut rows) else { panic!("lines") };
        let lines: Vec<_> = decoded.failures().iter().map(|failure| failure.line.unwrap()).collect();
        prop_assert_eq!(lines, bad_lines, "{:?}", decoded.failures());
        prop_assert_eq!(decoded.rows().len(), points.len());
        for (row, (point, _)) in decoded.rows().zip(&points) {
            prop_assert_eq!(row.table(), &point.measurement);
            prop_assert_eq!(row.time().map(|time| time.0), point.time);
            let found: Vec<_> = row.fields().map(|field| (field.name.to_owned(), show_value(field.value), field.role)).collect();
            let tags = point.tags.iter().map(|(name, value)| (name.clone(), format!("{value:?}"), Role::Key));
            let fields = point.fields.iter().map(|(name, value)| (name.clone(), shown(value), Role::Value));
            prop_assert_eq!(found, tags.chain(fields).collect::<Vec<_>>());
        }
    }
}
