//! `docs/mqtt-conformance.md`: each numbered statement of MQTT 5.0 and 3.1.1 with the tests that show it.
//!
//! A test shows the statements that are named in it, or right above it: `[MQTT-3.1.0-1]`, `[MQTT-3.3.2-4, -15 to -18]`,
//! `[MQTT-3.8.4-6; 3:3.8.4-5]`, where `3:` is for 3.1.1. What is named elsewhere counts for nothing. The statements are those of
//! `mqtt_statements.tsv`: version, number, whom it binds, what it says and, if no test can show it, why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// A folder of tests and what the table calls it.
const TESTS: [(&str, &str); 3] = [
    ("crates/floodplain/tests/blackbox", "program"),
    ("crates/floodplain-mqtt/tests/it", "codec"),
    ("crates/floodplain-broker/src/tests", "broker"),
];

/// The version of the protocol, 3 or 5, and the number, in the order of the standard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Number {
    version: u8,
    parts: [u32; 4],
}

impl Number {
    /// `3.1.2-22`
    fn parse(version: u8, text: &str) -> Option<Self> {
        let mut parts = [0; 4];
        let (section, number) = text.split_once('-')?;
        let mut words = section.split('.').chain([number]);
        for part in &mut parts {
            *part = words.next()?.parse().ok()?;
        }
        words.next().is_none().then_some(Self { version, parts })
    }

    fn text(&self) -> String {
        let [a, b, c, n] = self.parts;
        format!("{a}.{b}.{c}-{n}")
    }
}

struct Statement {
    number: Number,
    /// It binds clients alone.
    is_of_clients: bool,
    says: &'static str,
    /// Why no test can show it.
    reason: Option<&'static str>,
}

fn statements() -> Vec<Statement> {
    let parse = |line: &'static str| {
        let mut columns = line.split('\t');
        let version = columns.next()?.parse().ok()?;
        let number = Number::parse(version, columns.next()?)?;
        let binds = columns.next().filter(|binds| ["server", "client", "both"].contains(binds))?;
        let (says, reason) = (columns.next()?, columns.next());
        columns.next().is_none().then_some(Statement { number, is_of_clients: binds == "client", says, reason })
    };
    let lines = include_str!("mqtt_statements.tsv").lines();
    lines.map(|line| parse(line).unwrap_or_else(|| panic!("not a statement: {line}"))).collect()
}

/// The statements that a line names, or what is wrong with its way to name them.
fn named(line: &str) -> Result<Vec<Number>, String> {
    let mut numbers = Vec::new();
    for (open, _) in line.match_indices('[') {
        let Some((inside, _)) = line[open + 1..].split_once(']') else { continue };
        if !inside.starts_with("MQTT-") && !inside.starts_with("3:") {
            continue;
        }
        let wrong = || format!("cannot be read: [{inside}]");
        for group in inside.split("; ") {
            let mut version = 5;
            let mut section = "";
            for item in group.split(", ") {
                let item = match (item.strip_prefix("MQTT-"), item.strip_prefix("3:")) {
                    (Some(item), _) => item,
                    (None, Some(item)) => {
                        version = 3;
                        item
                    }
                    (None, None) => item,
                };
                let (first, last) = item.split_once(" to -").map_or((item, None), |(first, last)| (first, Some(last)));
                let (of, first) = first.split_once('-').ok_or_else(wrong)?;
                section = if of.is_empty() { section } else { of };
                let number = |n: u32| Number::parse(version, &format!("{section}-{n}")).ok_or_else(wrong);
                let first: u32 = first.parse().map_err(|_| wrong())?;
                let last = last.map_or(Ok(first), str::parse).map_err(|_| wrong())?;
                for n in first..=last {
                    numbers.push(number(n)?);
                }
            }
        }
    }
    Ok(numbers)
}

/// Of a source file the names of tests, each with what it shows.
fn shown(source: &str) -> Result<Vec<(String, Vec<Number>)>, String> {
    let mut tests: Vec<(String, Vec<Number>)> = Vec::new();
    // Comments that may stand above a test; whether one begins; and how deep its braces lie.
    let (mut above, mut begins, mut end) = (Vec::new(), false, None::<String>);
    for line in source.lines() {
        let numbers = named(line)?;
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        if let Some(of_test) = &end {
            tests.last_mut().ok_or("no test")?.1.extend(numbers);
            if line == of_test {
                end = None;
            }
        } else if code == "#[test]" {
            begins = true;
        } else if let Some(rest) = code.strip_prefix("fn ").filter(|_| begins) {
            let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
            tests.push((name, [std::mem::take(&mut above), numbers].concat()));
            begins = false;
            end = (!code.ends_with('}')).then(|| format!("{indent}}}"));
        } else if code.starts_with("//") || code.starts_with("#[") {
            above.extend(numbers);
        } else {
            above.clear();
        }
    }
    Ok(tests)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// By statement the tests that name it: kind and `module::test`.
fn evidence() -> BTreeMap<Number, BTreeSet<(&'static str, String)>> {
    let mut evidence: BTreeMap<Number, BTreeSet<_>> = BTreeMap::new();
    for (folder, kind) in TESTS {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            let module = path.file_stem().unwrap().to_str().unwrap();
            for (test, numbers) in shown(&source).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
                for number in numbers {
                    evidence.entry(number).or_default().insert((kind, format!("{module}::{test}")));
                }
            }
        }
    }
    evidence
}

fn table() -> String {
    let statements = statements();
    let mut evidence = evidence();
    let mut page = "# MQTT conformance\n\n\
        Each numbered statement of the standards (`[MQTT-x.y.z-n]`; OASIS, MQTT 5.0 of 7 March 2019 and MQTT 3.1.1 of 29 October 2014), in a few\n\
        words of ours, and the tests that show it. `program` tests talk to a server over TCP (`crates/floodplain/tests/blackbox`), `codec` tests are of bytes\n\
        (`crates/floodplain-mqtt/tests/it`), `broker` tests drive the broker with a log that fails (`crates/floodplain-broker/src/tests`). The page is\n\
        written by `FLOODPLAIN_WRITE_CONFORMANCE=1 cargo test --release -p floodplain --test it conformance` from what the tests say of themselves, and the same test\n\
        fails while it says anything else.\n"
        .to_owned();
    for (version, name) in [(5, "MQTT 5.0"), (3, "MQTT 3.1.1")] {
        let (mut tested, mut of_clients, mut reasoned, mut open) = (0, 0, 0, 0);
        let mut rows = String::new();
        for Statement { number, is_of_clients, says, reason } in
            statements.iter().filter(|s| s.number.version == version)
        {
            let tests = evidence.remove(number).unwrap_or_default();
            let by = if !tests.is_empty() {
                tested += 1;
                assert!(reason.is_none(), "{}: there is a test, so {reason:?} is no reason", number.text());
                let tests: Vec<String> = tests.iter().map(|(kind, test)| format!("{kind} `{test}`")).collect();
                tests.join(", ")
            } else if let Some(reason) = reason {
                reasoned += 1;
                (*reason).to_owned()
            } else if *is_of_clients {
                of_clients += 1;
                "binds clients alone".to_owned()
            } else {
                open += 1;
                "**no test yet**".to_owned()
            };
            writeln!(rows, "| {} | {says} | {by} |", number.text()).unwrap();
        }
        let all = tested + of_clients + reasoned + open;
        write!(
            page,
            "\n## {name}\n\n{all} statements: {tested} are shown by tests, {of_clients} bind clients alone, {reasoned} cannot be shown for the reason that stands there, \
             {open} have no test yet.\n\n| | | shown by |\n|---|---|---|\n{rows}"
        )
        .unwrap();
    }
    let unknown: Vec<_> = evidence.iter().map(|(number, tests)| (number.version, number.text(), tests)).collect();
    assert!(unknown.is_empty(), "tests name statements that do not exist: {unknown:?}");
    page
}

#[test]
fn the_page_is_what_the_tests_say() {
    let path = root().join("docs/mqtt-conformance.md");
    let page = table();
    if std::env::var_os("FLOODPLAIN_WRITE_CONFORMANCE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let differs = kept.lines().zip(page.lines()).find(|(kept, page)| kept != page);
    assert!(
        kept == page,
        "docs/mqtt-conformance.md is not what the tests say: write it with FLOODPLAIN_WRITE_CONFORMANCE=1. First difference: {differs:?}"
    );
}

#[test]
fn statements_are_in_order() {
    let numbers: Vec<_> =
        statements().into_iter().map(|statement| (5 - statement.number.version, statement.number)).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
}

#[test]
fn a_test_shows_what_is_named_in_it_and_above_it() {
    let source = "\
/// [MQTT-9.9.9-9]
fn helper() {}

/// [MQTT-1.5.4-1, -3 to -5; 3:1.5.3-1, -2]
#[test]
fn first() {
    // [3:1.5.3-3], not [4] or [0x00]
}

mod inner {
    #[test]
    fn second() {
        // [MQTT-4.2.0-1]
    }
}
";
    let texts: Vec<(String, Vec<String>)> = shown(source)
        .unwrap()
        .into_iter()
        .map(|(test, numbers)| (test, numbers.iter().map(|n| format!("{}:{}", n.version, n.text())).collect()))
        .collect();
    let first = ["5:1.5.4-1", "5:1.5.4-3", "5:1.5.4-4", "5:1.5.4-5", "3:1.5.3-1", "3:1.5.3-2", "3:1.5.3-3"];
    let expected = [("first", first.map(str::to_owned).to_vec()), ("second", vec!["5:4.2.0-1".to_owned()])];
    assert_eq!(texts, expected.map(|(test, numbers)| (test.to_owned(), numbers)));
    assert!(named("// [MQTT-3.1]").is_err());
}
