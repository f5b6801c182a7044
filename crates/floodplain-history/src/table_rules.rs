//! How old rows of tables may become: what is set for a table, what the configuration says, and what bindings say.
//!
//! What is set while the server runs is one document with a version, key [`KEY`] in the stream `state`, and so is which bindings
//! have rows in a table that they do not name: topics or payloads do. It is written down before the first such row.

use crate::{
    bindings::{Binding, Bindings, retention},
    documents::Document,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Key of the document in the stream `state`.
pub const KEY: &str = "tables";
/// Pairs of a table and a binding that are written down. With more, the retention of a binding does not count for the rest.
const PAIRS_MAX: usize = 8192;

/// The document.
#[derive(Debug, Clone, Default)]
pub struct TableSettings {
    version: u32,
    tables: BTreeMap<String, Setting>,
    pairs: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Setting {
    retention: Option<Duration>,
    bindings: BTreeSet<String>,
}

impl TableSettings {
    /// What is set for a table.
    #[must_use]
    pub fn retention(&self, table: &str) -> Option<Duration> {
        self.tables.get(table)?.retention
    }

    /// Whether it is written down that a binding has rows in a table.
    pub(crate) fn has(&self, table: &str, binding: &str) -> bool {
        self.tables.get(table).is_some_and(|setting| setting.bindings.contains(binding))
    }

    /// The next document, with the retention of a table. The same if nothing changes.
    pub(crate) fn with_retention(&self, table: &str, retention: Option<Duration>) -> Self {
        let mut tables = self.tables.clone();
        tables.entry(table.to_owned()).or_default().retention = retention;
        self.next(tables)
    }

    /// The next document, with tables of a binding; `None` if there are too many.
    pub(crate) fn with_tables(&self, binding: &str, of: &BTreeSet<&str>) -> Option<Self> {
        let mut tables = self.tables.clone();
        for table in of {
            tables.entry((*table).to_owned()).or_default().bindings.insert(binding.to_owned());
        }
        Some(self.next(tables)).filter(|next| next.pairs <= PAIRS_MAX)
    }

    /// The next document, without bindings that are not there: one that gets their name must not get their tables. The same if all are there.
    pub(crate) fn without_gone(&self, bindings: &Bindings) -> Self {
        let mut tables = self.tables.clone();
        for setting in tables.values_mut() {
            setting.bindings.retain(|name| bindings.get(name).is_some());
        }
        self.next(tables)
    }

    fn next(&self, mut tables: BTreeMap<String, Setting>) -> Self {
        tables.retain(|_, setting| *setting != Setting::default());
        if tables == self.tables {
            return self.clone();
        }
        Self::of(self.version + 1, tables)
    }

    fn of(version: u32, tables: BTreeMap<String, Setting>) -> Self {
        let pairs = tables.values().map(|setting| setting.bindings.len()).sum();
        Self { version, tables, pairs }
    }
}

impl Document for TableSettings {
    const KEY: &'static str = KEY;

    fn decode(value: &[u8]) -> Option<Self> {
        let stored: v1::Stored = serde_json::from_slice(value).ok()?;
        (stored.format == 1).then_some(())?;
        let read = |(table, stored): (String, v1::Setting)| {
            let retention = stored.retention.as_deref().map(retention).transpose().ok()?;
            Some((table, Setting { retention, bindings: stored.bindings }))
        };
        Some(Self::of(stored.version, stored.tables.into_iter().map(read).collect::<Option<_>>()?))
    }

    fn encode(&self) -> Vec<u8> {
        let write = |(table, setting): (&String, &Setting)| {
            let (retention, bindings) = (setting.retention.map(age), setting.bindings.clone());
            (table.clone(), v1::Setting { retention, bindings })
        };
        let stored = v1::Stored { format: 1, version: self.version, tables: self.tables.iter().map(write).collect() };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    fn version(&self) -> u32 {
        self.version
    }
}

mod v1 {
    use serde::{Deserialize, Serialize};
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Debug, Serialize, Deserialize)]
    pub(super) struct Stored {
        pub(super) format: u32,
        pub(super) version: u32,
        pub(super) tables: BTreeMap<String, Setting>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    pub(super) struct Setting {
        pub(super) retention: Option<String>,
        #[serde(default)]
        pub(super) bindings: BTreeSet<String>,
    }
}

/// An age as people write it: `30d`, `36h`, `90s`.
#[must_use]
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let unit = [(86_400, "d"), (3600, "h"), (60, "m")].into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, name) = unit.unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

/// Reads an age such as `30d`: what [`age`] has written, and what bindings take.
///
/// # Errors
/// What is wrong with it.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    retention(text)
}

/// Who says how old rows may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is set for the table.
    Table,
    /// The configuration file.
    Config,
    /// A binding; of several the longest counts.
    Binding,
}

impl Source {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Config => "config",
            Self::Binding => "binding",
        }
    }
}

/// What counts for a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableRule {
    /// The binding that has rows in it; of several the one whose rows may become the oldest.
    pub binding: Option<String>,
    /// How old rows may become; without limit if it is not here.
    pub retention: Option<(Duration, Source)>,
}

/// What counts for each table that something is said of.
#[derive(Debug, Default)]
pub(crate) struct TableRules(BTreeMap<String, TableRule>);

impl TableRules {
    /// What is set for a table counts, then the configuration, then bindings.
    pub(crate) fn new(settings: &TableSettings, config: &BTreeMap<String, Duration>, bindings: &Bindings) -> Self {
        let mut rules = BTreeMap::<String, TableRule>::new();
        let mut bind = |table: &str, binding: &Binding| {
            let rule = rules.entry(table.to_owned()).or_default();
            let kept = binding.retention().map(|keep| (keep, Source::Binding));
            let keep = |retention: Option<(Duration, Source)>| retention.map(|(keep, _)| keep);
            if rule.binding.is_none() || keep(kept) > keep(rule.retention) {
                *rule = TableRule { binding: Some(binding.name().to_owned()), retention: kept };
            }
        };
        for binding in bindings.list() {
            binding.table().into_iter().for_each(|table| bind(table, binding));
        }
        for (table, setting) in &settings.tables {
            let made = setting.bindings.iter().filter_map(|name| bindings.get(name));
            made.for_each(|binding| bind(table, binding));
        }
        for (table, keep) in config {
            rules.entry(table.clone()).or_default().retention = Some((*keep, Source::Config));
        }
        for (table, setting) in &settings.tables {
            let Some(keep) = setting.retention else { continue };
            rules.entry(table.clone()).or_default().retention = Some((keep, Source::Table));
        }
        Self(rules)
    }

    pub(crate) fn get(&self, table: &str) -> Option<&TableRule> {
        self.0.get(table)
    }

    /// How old rows of a table may become.
    pub(crate) fn retention(&self, table: &str) -> Option<Duration> {
        self.get(table)?.retention.map(|(keep, _)| keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::Origin;
    use serde_json::{Value, json};

    const HOUR: Duration = Duration::from_secs(3600);

    fn bindings(list: &[(&str, Value)]) -> Bindings {
        let declare = |(name, value): &(&str, Value)| Binding::declare(name, value.clone(), Origin::Api).unwrap();
        list.iter().map(declare).fold(Bindings::default(), |all, binding| all.with(binding).unwrap())
    }

    fn of(filter: &str, table: Value, retention: &str) -> Value {
        json!({ "filter": filter, "table": table, "retention": retention })
    }

    #[test]
    fn what_is_set_for_the_table_counts_then_the_file_then_the_longest_of_the_bindings() {
        let level = || json!({ "level": 2 });
        let bindings = bindings(&[
            ("one", of("a/+", level(), "2h")),
            ("two", of("b/+", level(), "3h")),
            ("three", of("c/+", json!({ "name": "t" }), "1h")),
            ("four", json!({ "filter": "d/+", "table": { "name": "free" } })),
        ]);
        let rule = |settings: &TableSettings, config: &[(&str, Duration)], table: &str| {
            let config = config.iter().map(|(name, keep)| ((*name).to_owned(), *keep)).collect();
            TableRules::new(settings, &config, &bindings).get(table).cloned().unwrap_or_default()
        };
        let none = TableSettings::default();
        let is = |binding: &str, hours: u32, source| TableRule {
            binding: Some(binding.to_owned()),
            retention: Some((HOUR * hours, source)),
        };
        assert_eq!(rule(&none, &[], "t"), is("three", 1, Source::Binding));
        assert_eq!(rule(&none, &[], "other"), TableRule::default(), "nobody has rows there yet");
        let made = none.with_tables("one", &["t", "other"].into()).unwrap();
        let made = made.with_tables("two", &["other"].into()).unwrap();
        assert_eq!(rule(&made, &[], "t"), is("one", 2, Source::Binding));
        assert_eq!(rule(&made, &[], "other"), is("two", 3, Source::Binding));
        let file = [("t", HOUR * 5), ("new", HOUR * 6)];
        assert_eq!(rule(&made, &file, "t"), is("one", 5, Source::Config), "shorter or longer");
        assert_eq!(rule(&made, &file, "new").retention, Some((HOUR * 6, Source::Config)));
        let set = made.with_retention("t", Some(HOUR * 4));
        assert_eq!(rule(&set, &file, "t"), is("one", 4, Source::Table));
        assert_eq!(rule(&set.with_retention("t", None), &file, "t"), is("one", 5, Source::Config));
        assert_eq!(rule(&none, &[], "free"), TableRule { binding: Some("four".to_owned()), retention: None });
    }

    #[test]
    fn a_binding_that_gets_the_name_of_one_that_is_gone_does_not_get_its_tables() {
        let made = TableSettings::default().with_tables("one", &["t"].into()).unwrap();
        let made = made.with_retention("u", Some(HOUR));
        assert_eq!(made.without_gone(&bindings(&[("one", of("a/+", json!({ "level": 2 }), "2h"))])).version(), 2);
        let left = made.without_gone(&Bindings::default());
        assert!(left.version() == 3 && !left.has("t", "one") && left.retention("u") == Some(HOUR));
        assert_eq!(left.tables.len(), 1);
    }

    #[test]
    fn the_document_is_read_as_it_was_written_and_nothing_changes_twice() {
        let first = TableSettings::default().with_retention("a b", Some(HOUR * 36));
        let first = first.with_tables("one", &["a b", "c"].into()).unwrap();
        assert_eq!(first.version(), 2);
        assert_eq!(first.with_tables("one", &["c"].into()).unwrap().version(), 2);
        assert_eq!(first.with_retention("a b", Some(HOUR * 36)).version(), 2);
        let read = TableSettings::decode(&first.encode()).unwrap();
        assert_eq!((read.version, &read.tables, read.pairs), (2, &first.tables, 2));
        assert!(TableSettings::decode(br#"{"format":2,"version":1,"tables":{}}"#).is_none());
    }

    #[test]
    fn pairs_are_bounded() {
        let names: Vec<String> = (0..=PAIRS_MAX).map(|n| n.to_string()).collect();
        let all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        assert!(TableSettings::default().with_tables("b", &all).is_none());
    }

    #[test]
    fn ages_are_read_as_they_are_written() {
        for (text, written) in
            [("30d", "30d"), ("36h", "36h"), ("48h", "2d"), ("90s", "90s"), ("60s", "1m"), ("5m", "5m")]
        {
            assert_eq!(age(parse_age(text).unwrap()), written);
        }
        assert!(parse_age("0s").is_err() && parse_age("ever").is_err() && parse_age("").is_err());
    }
}
