//! Where each value of the configuration comes from: flag, environment, file or default.

use crate::units;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path; a relative one is taken from the working folder.
    Path,
    /// As [`Kind::Path`], or `none`.
    PathOrNone,
    /// An IP address and a port; port 0 takes a free port.
    Address,
    /// A number of bytes with its unit.
    Size,
    /// As [`Kind::Size`], or `auto`.
    SizeOrAuto,
    /// A length of time with its unit.
    Duration,
    /// A whole number of things.
    Count,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

impl Kind {
    fn expected(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::PathOrNone => "none, or a path".to_owned(),
            Self::Address => "an IP address and a port, such as \"127.0.0.1:1883\"".to_owned(),
            Self::Size => "a size with its unit, such as \"64MiB\"".to_owned(),
            Self::SizeOrAuto => "auto, or a size with its unit, such as \"64MiB\"".to_owned(),
            Self::Duration => "a duration with its unit, such as \"250ms\" or \"7d\"".to_owned(),
            Self::Count => "a whole number".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
        }
    }

    fn accepts(self, value: &str) -> bool {
        match self {
            Self::Text => true,
            Self::Path | Self::PathOrNone => !value.is_empty(),
            Self::Address => parse_address(value).is_some(),
            Self::Size => units::parse_size(value).is_some(),
            Self::SizeOrAuto => value == "auto" || units::parse_size(value).is_some(),
            Self::Duration => units::parse_duration(value).is_some(),
            Self::Count => value.parse::<u32>().is_ok(),
            Self::OneOf(words) => words.contains(&value),
        }
    }
}

impl Kind {
    /// The value as a number, to compare it with the limits.
    fn measure(self, value: &str) -> Option<u64> {
        match self {
            Self::Size | Self::SizeOrAuto => units::parse_size(value),
            Self::Duration => units::parse_duration(value).and_then(|time| time.as_millis().try_into().ok()),
            Self::Count => value.parse::<u32>().ok().map(u64::from),
            Self::Text | Self::Path | Self::PathOrNone | Self::Address | Self::OneOf(_) => None,
        }
    }
}

fn parse_address(value: &str) -> Option<SocketAddr> {
    match value.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => value.parse().ok(),
    }
}

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// `section.key`, or the bare key at the top of the file.
    pub name: &'static str,
    pub kind: Kind,
    /// Least and greatest value; outside of them a server would not work.
    pub limits: Option<(&'static str, &'static str)>,
    pub default: &'static str,
    /// One line for people.
    pub help: &'static str,
}

impl Key {
    /// The environment variable: `FLOODPLAIN_<SECTION>__<KEY>`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "__").to_uppercase())
    }

    fn expected(&self) -> String {
        let kind = self.kind.expected();
        self.limits.map_or(kind.clone(), |(min, max)| format!("{kind}, from {min} to {max}"))
    }

    fn accepts(&self, value: &str) -> bool {
        let within = |(min, max)| {
            let [min, value, max] = [min, value, max].map(|value| self.kind.measure(value));
            // What has no measure is a word such as `auto`.
            value.is_none() || (min <= value && value <= max)
        };
        self.kind.accepts(value) && self.limits.is_none_or(within)
    }
}

/// Who said it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    /// The name of the variable.
    Environment(String),
    /// The flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One value and its origin.
#[derive(Debug, Clone)]
pub struct Setting {
    pub key: &'static Key,
    pub value: String,
    pub origin: Origin,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}")]
    ReadFile { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid TOML: {message}")]
    Syntax { path: PathBuf, message: String },
    /// A typing error must never become a default.
    #[error("unknown key \"{name}\" ({origin}); the nearest is \"{nearest}\"")]
    UnknownKey { name: String, origin: Origin, nearest: String },
    #[error("{key} = \"{value}\" ({origin}) must be {expected}")]
    BadValue { key: &'static str, value: String, origin: Origin, expected: String },
    /// The value itself is left out: it may be a secret.
    #[error("{kind} {entry} of {path} is not valid: {reason}")]
    BadEntry { path: PathBuf, kind: &'static str, entry: String, reason: String },
    #[error("{key}: cannot read {path}")]
    ReadValue { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{key} cannot be used from {path}")]
    Tls { key: &'static str, path: PathBuf, source: floodplain_postgres::TlsError },
}

/// Arrays of tables that the file may have beside the keys, and what one of them is; who needs one reads it.
const TABLES: [(&str, &str); 4] =
    [("alerts", "alert"), ("bindings", "binding"), ("streams", "stream"), ("tables", "table")];

const PREFIX: &str = "FLOODPLAIN_";

/// Variables with our prefix that are not keys: the path of the file, the API token of the commands, and what belongs to the
/// tests.
const FILE: &str = "FLOODPLAIN_CONFIG";
const TOKEN: &str = "FLOODPLAIN_TOKEN";
const TESTS: &str = "FLOODPLAIN_TEST_";

/// What to read besides the defaults, weakest first.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file that the caller asks for, which must exist.
    pub file: Option<PathBuf>,
    /// The environment; variables without our prefix are skipped.
    pub environment: Vec<(OsString, OsString)>,
    /// Name of the flag, key, value.
    pub flags: Vec<(String, String, String)>,
}

/// All keys with their values, each checked against its kind.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Setting>,
    /// By [`TABLES`], each with the file it is from.
    tables: BTreeMap<&'static str, (Vec<toml::Value>, PathBuf)>,
}

/// One of an array of tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) value: &'a toml::Value,
    /// What all of them have, and no two the same; empty if it has none.
    pub(crate) name: &'a str,
    number: usize,
    kind: &'static str,
    path: &'a Path,
}

impl Entry<'_> {
    /// Why it is not valid; the reason quotes no value that may be a secret.
    pub(crate) fn bad(&self, reason: impl fmt::Display) -> ConfigError {
        let entry = match self.name {
            "" => format!("number {}", self.number),
            name => format!("{name:?}"),
        };
        ConfigError::BadEntry { path: self.path.to_owned(), kind: self.kind, entry, reason: reason.to_string() }
    }

    /// Refuses whatever is none of `members`.
    pub(crate) fn has_only(&self, members: &[&str]) -> Result<(), ConfigError> {
        let mut found = self.value.as_table().into_iter().flat_map(toml::Table::keys);
        let Some(other) = found.find(|member| !members.contains(&member.as_str())) else { return Ok(()) };
        let nearest = nearest(other, members.iter().map(|&member| member.to_owned()));
        Err(self.bad(format!("unknown key {other:?}; the nearest is {nearest:?}")))
    }
}

impl Settings {
    /// Reads the sources; a later one wins: default, file, environment, flag.
    ///
    /// # Errors
    /// [`ConfigError`] names the place and what would be right.
    pub(crate) fn load(keys: &'static [Key], sources: &Sources) -> Result<Self, ConfigError> {
        let mut settings = Self { values: BTreeMap::new(), tables: BTreeMap::new() };
        for key in keys {
            settings.set(key, key.default.to_owned(), Origin::Default)?;
        }
        if let Some(path) = &sources.file {
            settings.read_file(keys, path)?;
        }
        for (name, value) in &sources.environment {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) || name == FILE || name == TOKEN || name.starts_with(TESTS) {
                continue;
            }
            let origin = Origin::Environment(name.clone());
            let Some(key) = keys.iter().find(|key| key.variable() == name) else {
                let nearest = nearest(&name, keys.iter().map(Key::variable));
                return Err(ConfigError::UnknownKey { name, origin, nearest });
            };
            let Some(value) = value.to_str() else {
                let (value, expected) = (value.to_string_lossy().into_owned(), "UTF-8".to_owned());
                return Err(ConfigError::BadValue { key: key.name, value, origin, expected });
            };
            settings.set(key, value.to_owned(), origin)?;
        }
        for (flag, name, value) in &sources.flags {
            settings.set_named(keys, name, value.clone(), Origin::Flag(flag.clone()))?;
        }
        Ok(settings)
    }

    fn read_file(&mut self, keys: &'static [Key], path: &Path) -> Result<(), ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::ReadFile { path: path.to_owned(), source })?;
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        for (name, _) in TABLES {
            match table.remove(name) {
                Some(toml::Value::Array(entries)) => {
                    self.tables.insert(name, (entries, path.to_owned()));
                }
                // Anything else is an unknown key.
                Some(other) => drop(table.insert(name.to_owned(), other)),
                None => {}
            }
        }
        let mut flat = Vec::new();
        flatten("", &table, &mut flat);
        for (name, value) in flat {
            let origin = Origin::File(path.to_owned());
            let is_section = matches!(value, toml::Value::Table(_))
                && keys.iter().any(|key| key.name.starts_with(&format!("{name}.")));
            if is_section {
                continue;
            }
            let text = match value {
                toml::Value::String(text) => text.clone(),
                // A list, a date or a table is never right; its text makes the message.
                other => other.to_string(),
            };
            self.set_named(keys, &name, text, origin)?;
        }
        Ok(())
    }

    fn set_named(
        &mut self,
        keys: &'static [Key],
        name: &str,
        value: String,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        match keys.iter().find(|key| key.name == name) {
            Some(key) => self.set(key, value, origin),
            None => {
                let arrays = TABLES.iter().map(|(array, _)| *array);
                let mut nearest =
                    nearest(name, keys.iter().map(|key| key.name).chain(arrays.clone()).map(str::to_owned));
                if arrays.clone().any(|array| array == nearest) {
                    nearest = format!("[[{nearest}]]");
                }
                Err(ConfigError::UnknownKey { name: name.to_owned(), origin, nearest })
            }
        }
    }

    fn set(&mut self, key: &'static Key, value: String, origin: Origin) -> Result<(), ConfigError> {
        if !key.accepts(&value) {
            return Err(ConfigError::BadValue { key: key.name, value, origin, expected: key.expected() });
        }
        self.values.insert(key.name, Setting { key, value, origin });
        Ok(())
    }

    /// Every key with its value, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.values.values()
    }

    /// Reads the entries of an array of tables, in order.
    ///
    /// # Errors
    /// That of `read`, and of two entries with one name.
    pub(crate) fn entries<T>(
        &self,
        array: &str,
        read: impl Fn(&Entry<'_>) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let kind = TABLES.iter().find(|(name, _)| *name == array).map_or("entry", |(_, kind)| kind);
        let Some((values, path)) = self.tables.get(array) else { return Ok(Vec::new()) };
        let entry = |(number, value)| {
            let name = toml::Value::get(value, "name").and_then(toml::Value::as_str).unwrap_or_default();
            Entry { value, name, number, kind, path }
        };
        let entries: Vec<Entry<'_>> = (1..).zip(values).map(entry).collect();
        let mut found = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            found.push(read(entry)?);
            if entries[..at].iter().any(|other| other.name == entry.name) {
                return Err(entry.bad("another one has this name"));
            }
        }
        Ok(found)
    }

    /// Why an entry of an array is not valid among the others.
    pub(crate) fn bad_entry(&self, array: &str, name: &str, reason: String) -> ConfigError {
        let kind = TABLES.iter().find(|(known, _)| *known == array).map_or("entry", |(_, kind)| kind);
        let path = self.tables.get(array).map(|(_, path)| path.clone()).unwrap_or_default();
        ConfigError::BadEntry { path, kind, entry: format!("{name:?}"), reason }
    }

    /// The value of a key that is in the table of keys.
    pub(crate) fn get(&self, name: &str) -> &Setting {
        self.values.get(name).unwrap_or_else(|| panic!("key {name} is not in the table of keys"))
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        &self.get(name).value
    }

    /// The value does not do.
    pub(crate) fn bad(&self, name: &str, expected: &str) -> ConfigError {
        let Setting { key, value, origin } = self.get(name);
        let (value, origin) = (value.clone(), origin.clone());
        ConfigError::BadValue { key: key.name, value, origin, expected: expected.to_owned() }
    }

    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        parse_address(&self.get(name).value).expect("checked when it was set")
    }

    pub(crate) fn size(&self, name: &str) -> u64 {
        units::parse_size(&self.get(name).value).expect("checked when it was set")
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        units::parse_duration(&self.get(name).value).expect("checked when it was set")
    }

    /// `None` is `auto`.
    pub(crate) fn size_or_auto(&self, name: &str) -> Option<u64> {
        units::parse_size(&self.get(name).value)
    }

    /// `None` is `none`.
    pub(crate) fn path_or_none(&self, name: &str) -> Option<PathBuf> {
        Some(&self.get(name).value).filter(|value| *value != "none").map(PathBuf::from)
    }

    pub(crate) fn count(&self, name: &str) -> u32 {
        self.get(name).value.parse().expect("checked when it was set")
    }
}

/// Leaves of a TOML table with their dotted names; an empty table is a leaf, so that it is checked.
fn flatten<'a>(prefix: &str, table: &'a toml::Table, out: &mut Vec<(String, &'a toml::Value)>) {
    for (name, value) in table {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => flatten(&name, inner, out),
            leaf => out.push((name, leaf)),
        }
    }
}

/// The candidate with the fewest changed letters.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    candidates.min_by_key(|candidate| edit_distance(name, candidate)).unwrap_or_default()
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (above + 1).min(row[j] + 1).min(diagonal + usize::from(from != *to));
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    static KEYS: [Key; 3] = [
        Key { name: "data_dir", kind: Kind::Path, limits: None, default: "data", help: "" },
        Key { name: "mqtt.address", kind: Kind::Address, limits: None, default: "127.0.0.1:1883", help: "" },
        Key { name: "log.retention", kind: Kind::Duration, limits: None, default: "7d", help: "" },
    ];

    fn env(name: &str, value: &str) -> Vec<(OsString, OsString)> {
        vec![(name.into(), value.into())]
    }

    fn flag(key: &str, value: &str) -> Vec<(String, String, String)> {
        vec![("--set".to_owned(), key.to_owned(), value.to_owned())]
    }

    fn file(text: &str) -> (tempfile::TempDir, Option<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floodplain.toml");
        std::fs::write(&path, text).unwrap();
        (dir, Some(path))
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let (_dir, path) = file("[log]\nretention = \"1d\"\n");
        let mut sources = Sources::default();
        let check = |sources: &Sources, value: &str, origin: &str| {
            let settings = Settings::load(&KEYS, sources).unwrap();
            let setting = settings.get("log.retention");
            assert_eq!(setting.value, value);
            assert!(setting.origin.to_string().starts_with(origin), "{}", setting.origin);
        };
        check(&sources, "7d", "default");
        sources.file = path;
        check(&sources, "1d", "file ");
        sources.environment = env("FLOODPLAIN_LOG__RETENTION", "2d");
        check(&sources, "2d", "environment FLOODPLAIN_LOG__RETENTION");
        sources.flags = flag("log.retention", "3d");
        check(&sources, "3d", "flag --set");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let check = |sources: Sources, text: &str| {
            assert_eq!(Settings::load(&KEYS, &sources).unwrap_err().to_string(), text);
        };
        check(
            Sources { environment: env("FLOODPLAIN_MQTT__ADRESS", "x"), ..Sources::default() },
            "unknown key \"FLOODPLAIN_MQTT__ADRESS\" (environment FLOODPLAIN_MQTT__ADRESS); \
             the nearest is \"FLOODPLAIN_MQTT__ADDRESS\"",
        );
        check(
            Sources { flags: flag("log.retentoin", "7d"), ..Sources::default() },
            "unknown key \"log.retentoin\" (flag --set); the nearest is \"log.retention\"",
        );
        for text in ["[mqqt]\naddress = \"127.0.0.1:1\"", "mqtt.addres = 1", "[mqtt.address.x]"] {
            let (_dir, file) = file(text);
            let error = Settings::load(&KEYS, &Sources { file, ..Sources::default() }).unwrap_err().to_string();
            assert!(error.contains("mqtt.address"), "{text}: {error}");
        }
        for text in ["[[binding]]\nname = \"b\"\n", "bindings = 1\n", "[bindings]\nname = \"b\"\n"] {
            let (_dir, file) = file(text);
            let error = Settings::load(&KEYS, &Sources { file, ..Sources::default() }).unwrap_err().to_string();
            assert!(error.ends_with("the nearest is \"[[bindings]]\""), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_section_is_fine_if_it_exists() {
        let (_dir, path) = file("[mqtt]\n");
        Settings::load(&KEYS, &Sources { file: path, ..Sources::default() }).unwrap();
        let (_dir, path) = file("[kafka]\n");
        let error = Settings::load(&KEYS, &Sources { file: path, ..Sources::default() }).unwrap_err();
        assert!(matches!(error, ConfigError::UnknownKey { .. }), "{error}");
    }

    #[test]
    fn reserved_and_foreign_variables_are_left_alone() {
        for name in ["FLOODPLAIN_CONFIG", "FLOODPLAIN_TOKEN", "FLOODPLAIN_TEST_TOOLS", "PATH"] {
            Settings::load(&KEYS, &Sources { environment: env(name, "x"), ..Sources::default() }).unwrap();
        }
        let settings =
            Settings::load(&KEYS, &Sources { environment: env("FLOODPLAIN_DATA_DIR", "/x"), ..Sources::default() });
        assert_eq!(settings.unwrap().get("data_dir").value, "/x");
    }

    #[test]
    fn a_name_that_only_starts_like_a_reserved_one_is_unknown() {
        let environment = env("FLOODPLAIN_CONFIG_FILE", "x");
        let error = Settings::load(&KEYS, &Sources { environment, ..Sources::default() }).unwrap_err();
        assert!(matches!(error, ConfigError::UnknownKey { .. }), "{error}");
    }

    #[test]
    fn a_value_that_is_no_text_is_not_left_out() {
        use std::os::unix::ffi::OsStringExt as _;
        let environment = vec![("FLOODPLAIN_DATA_DIR".into(), OsString::from_vec(b"/data/\xff".to_vec()))];
        let error = Settings::load(&KEYS, &Sources { environment, ..Sources::default() }).unwrap_err().to_string();
        assert!(error.starts_with("data_dir = ") && error.ends_with("must be UTF-8"), "{error}");
    }

    #[test]
    fn a_bad_value_says_what_would_be_right() {
        let (_dir, path) = file("[log]\nretention = 7\n");
        let error = Settings::load(&KEYS, &Sources { file: path, ..Sources::default() }).unwrap_err().to_string();
        assert!(error.starts_with("log.retention = \"7\" (file "), "{error}");
        assert!(error.ends_with("must be a duration with its unit, such as \"250ms\" or \"7d\""), "{error}");
        let (_dir, path) = file("mqtt = [\n");
        let error = Settings::load(&KEYS, &Sources { file: path, ..Sources::default() }).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { .. }), "{error}");
    }
}
