//! Cases as text: `tests/slt/*.slt`. A query is followed by `----` and its answer as CSV, or by `error` and a part of
//! the error's text. Empty lines part the cases.

use crate::fleet::{Fleet, ask, embedded};
use floodplain_sql::{Format, Sql};
use floodplain_testkit::{AdverseLog, Adversity, ModelLog};
use std::{fmt::Write as _, sync::Arc};

/// Runs all cases of `text` and compares what comes out with what is written there.
fn check(file: &str, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    run("model", &Fleet::sample().sql(), file, text);
    run("embedded", &Fleet::on(|clock| embedded(dir.path(), clock)).filled().sql(), file, text);
    // What a query says must not depend on where records are.
    let adverse = Fleet::on(|clock| AdverseLog::start(Arc::new(ModelLog::new(clock)), Adversity::MILD, 1));
    run("adverse", &adverse.filled().sql(), file, text);
}

fn run(log: &str, sql: &Sql, file: &str, text: &str) {
    let mut wrong = String::new();
    let cases: Vec<&str> = text.split("\n\n").map(str::trim).filter(|case| !case.is_empty()).collect();
    assert!(!cases.is_empty(), "{file} has no cases");
    for case in cases {
        let case: Vec<&str> = case.lines().filter(|line| !line.starts_with('#')).collect();
        let Some(at) = case.iter().position(|line| *line == "----" || *line == "error") else {
            assert!(case.is_empty(), "{file}: no answer to {case:?}");
            continue;
        };
        let (query, expected) = (case[..at].join("\n"), case[at + 1..].join("\n"));
        let answer = ask(sql, &query, Format::Csv);
        let (good, found) = match (&answer, case[at]) {
            (Ok(csv), "----") => {
                let csv = csv.replace("\r\n", "\n");
                (csv.trim_end() == expected, csv)
            }
            (Ok(csv), _) => (false, csv.clone()),
            (Err(error), "error") => (error.to_string().contains(&expected), error.to_string()),
            (Err(error), _) => (false, format!("{error:?}")),
        };
        if !good {
            writeln!(wrong, "--- {file}\n{query}\n{}\n{}\n", case[at], found.trim_end()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "these came out differently on {log}:\n{wrong}");
}

#[test]
fn records() {
    check("records.slt", include_str!("../slt/records.slt"));
}

#[test]
fn functions() {
    check("functions.slt", include_str!("../slt/functions.slt"));
}

#[test]
fn statements() {
    check("statements.slt", include_str!("../slt/statements.slt"));
}
