//! Bindings: which messages become rows of which table, and who decodes them.
//!
//! All bindings of a tenant are one document with a version, a record with the key [`KEY`] in the stream `state`. A
//! change is a new document. The engine takes it up only after all rows of the one before are in files, so each record is
//! decoded by one document, however often it is decoded again; and the version of the document is what files have
//! as version of their decoder.

mod current;
mod follow;
pub mod v1;

pub use current::CurrentBindings;
pub use follow::BindingsFollower;

use crate::{
    dedup::Dedup,
    documents::Document,
    route::{MESSAGES, RESERVED, TABLE_BYTES_MAX, Target},
};
use floodplain_decode::{Decoder, Definition};
use floodplain_log::{DataStreams, MessageRef, TELEMETRY};
use floodplain_types::{Class, StreamName, TopicFilter};
use serde_json::{Value, json};
use std::{
    cmp::Ordering as Order,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Key of the document in the stream `state`.
pub const KEY: &str = "bindings";
/// Name of what takes messages that no binding takes: `devices/{device}/{table}`, then the table of messages.
pub const BUILTIN: &str = "default";
/// More are refused: each message is compared with their filters one by one.
pub const BINDINGS_MAX: usize = 256;
/// Longest name.
const NAME_BYTES_MAX: usize = 128;
/// Bytes of one binding as JSON.
const BINDING_BYTES_MAX: usize = 64 << 10;
/// Bytes of the document, far below what the log takes at once.
const DOCUMENT_BYTES_MAX: usize = 2 << 20;

/// Why a binding was not taken, or a replay not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// It contradicts itself, or names what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// It asks for what is planned and not built.
    #[error("{0} of bindings is not built yet")]
    NotBuilt(&'static str),
    #[error("there is no binding {0:?}")]
    Unknown(String),
    #[error("there is no stream {0:?}: declare it under [[streams]] in the configuration file, and restart the server")]
    UnknownStream(String),
    #[error("there is no table {0:?}")]
    UnknownTable(String),
    /// It is built in, or one of the configuration file.
    #[error("binding {name:?} is of {origin}: it does not change while the server runs")]
    ReadOnly { name: String, origin: Origin },
    #[error("there may be {0} of them")]
    TooMany(usize),
    /// One replay runs at a time.
    #[error("replay {0} runs: another one begins when it has ended")]
    ReplayRunning(String),
    /// Too many changes wait. Try again.
    #[error("too many changes wait for the engine of history")]
    Busy,
    /// The engine has stopped, so nothing changes any more before the next start.
    #[error("history has stopped")]
    Stopped,
}

/// Where a binding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Builtin,
    /// The configuration file.
    Config,
    /// The API, while the server runs.
    Api,
}

impl Origin {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Config => "config",
            Self::Api => "api",
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Builtin => "the server",
            Self::Config => "the configuration file",
            Self::Api => "the API",
        })
    }
}

/// One binding.
#[derive(Debug)]
pub struct Binding {
    wire: v1::Binding,
    filter: TopicFilter,
    decoder: Decoder,
    is_declared: bool,
    retention: Option<Duration>,
    class: Option<Class>,
    dedup: Option<Dedup>,
    version: u32,
    origin: Origin,
    counts: Counts,
}

/// What the bindings say of a topic before there is a message of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<'b, 't> {
    /// The device that the topic names; `None` leaves it to the publisher.
    pub device: Option<&'t str>,
    /// The class of QoS 1 and 2; `None` leaves it to the server.
    pub class: Option<Class>,
    /// The stream that takes messages, if it is not `telemetry`.
    pub stream: Option<&'b str>,
}

/// What has happened to messages since the start of the process.
#[derive(Debug, Default)]
pub struct Counts {
    matched: AtomicU64,
    failed: AtomicU64,
    duplicates: AtomicU64,
}

impl Counts {
    pub(crate) fn matched(&self) {
        self.matched.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn duplicates(&self, count: u64) {
        self.duplicates.fetch_add(count, Ordering::Relaxed);
    }

    /// Messages that were taken, and those of them with something that was refused.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        (self.matched.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Messages, or rows where the id is a field of them, that repeat earlier ones.
    #[must_use]
    pub fn duplicate_count(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }
}

impl Binding {
    /// Checks a declaration: the members of `value` as `ui/api.md` has them, without those that the server adds.
    ///
    /// # Errors
    /// [`BindingError::Invalid`] and [`BindingError::NotBuilt`] say what is wrong.
    pub fn declare(name: &str, value: Value, origin: Origin) -> Result<Self, BindingError> {
        let invalid = BindingError::Invalid;
        let Value::Object(mut members) = value else { return Err(invalid("a binding is an object".to_owned())) };
        match members.insert("name".to_owned(), json!(name)) {
            Some(other) if other != json!(name) => return Err(invalid(format!("it is named {name:?} and {other}"))),
            _ => {}
        }
        let value = Value::Object(members);
        if value.to_string().len() > BINDING_BYTES_MAX {
            return Err(invalid(format!("it has more than {BINDING_BYTES_MAX} bytes")));
        }
        let wire: v1::Binding = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        Self::check(wire, origin, 0)
    }

    fn check(wire: v1::Binding, origin: Origin, version: u32) -> Result<Self, BindingError> {
        let invalid = BindingError::Invalid;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if wire.name.is_empty() || wire.name.len() > NAME_BYTES_MAX || !wire.name.chars().all(is_plain) {
            let of = format!("1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-'");
            return Err(invalid(format!("{:?} is no name of a binding: {of}", wire.name)));
        }
        if wire.name == "test" {
            return Err(invalid("\"test\" is a path of the API and no name".to_owned()));
        }
        if wire.name == BUILTIN {
            return Err(BindingError::ReadOnly { name: wire.name, origin: Origin::Builtin });
        }
        let filter = TopicFilter::new(&wire.filter);
        let filter = filter.map_err(|error| invalid(format!("filter {:?}: {error}", wire.filter)))?;
        let levels = wire.filter.split('/').count();
        let check_level = |what: &str, level: u16| match usize::from(level) {
            0 => Err(invalid(format!("{what} is 0: levels count from 1"))),
            level if level > levels && !wire.filter.ends_with('#') => {
                Err(invalid(format!("{what} is {level}, and topics of {:?} have {levels} levels", wire.filter)))
            }
            _ => Ok(()),
        };
        wire.device_level.map_or(Ok(()), |level| check_level("device_level", level))?;
        match &wire.table {
            v1::Table::Level(level) => check_level("level of the table", *level)?,
            v1::Table::Name(name) if !may_be_table(name) => {
                let reason = "1 to 256 bytes, no control characters, and no table of the server";
                return Err(invalid(format!("{name:?} is no name for a table: {reason}")));
            }
            v1::Table::Name(_) => {}
        }
        if wire.stream != TELEMETRY {
            let name = StreamName::new(&wire.stream).map_err(|error| invalid(error.to_string()))?;
            DataStreams::check_name(&name).map_err(invalid)?;
        }
        let class = wire.class.as_deref().map(str::parse).transpose().map_err(invalid)?;
        let dedup = wire.dedup.as_ref().map(v1::Dedup::read).transpose().map_err(invalid)?;
        let retention = wire.retention.as_deref().map(retention).transpose().map_err(invalid)?;
        let definition = v1::definition(&wire).map_err(invalid)?;
        let is_declared = definition.decoder() != Definition::auto().decoder();
        let (decoder, counts) = (Decoder::new(definition), Counts::default());
        Ok(Self { wire, filter, decoder, is_declared, retention, class, dedup, version, origin, counts })
    }

    /// Its name, unique among those of a tenant.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.wire.name
    }

    /// The topics that it is for.
    #[must_use]
    pub const fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Reads its payloads.
    #[must_use]
    pub const fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Whether it says what payloads are: what is something else is then a dead letter, not a message without a table.
    #[must_use]
    pub const fn is_declared(&self) -> bool {
        self.is_declared
    }

    /// How messages that repeat earlier ones are known; `None` if they are not looked for.
    #[must_use]
    pub const fn dedup(&self) -> Option<&Dedup> {
        self.dedup.as_ref()
    }

    /// How old rows of its tables may become.
    #[must_use]
    pub const fn retention(&self) -> Option<Duration> {
        self.retention
    }

    /// The table that all its rows are for; `None` if topics or payloads name them.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        match &self.wire.table {
            v1::Table::Name(name) => Some(name),
            v1::Table::Level(_) => None,
        }
    }

    /// The version of the document in which it last changed.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The stream that takes the messages of its topics.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.wire.stream
    }

    /// The class that messages of QoS 1 and 2 get at least, if it is not that of the server.
    #[must_use]
    pub const fn class(&self) -> Option<Class> {
        self.class
    }

    /// Where it comes from.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// What has happened since the start.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The declaration.
    #[must_use]
    pub const fn wire(&self) -> &v1::Binding {
        &self.wire
    }

    /// The declaration, every member of it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::to_value(&self.wire).unwrap_or_default()
    }

    /// Where a message of `topic` goes. `key` is the device that has published it. `None` if the filter does not match,
    /// or the topic does not have the levels that device or table are to come from.
    #[must_use]
    pub fn target<'a>(&'a self, topic: &'a str, key: &'a [u8]) -> Option<Target<'a>> {
        if !self.filter.matches(topic) {
            return None;
        }
        let level = |level: u16| topic.split('/').nth(usize::from(level) - 1).filter(|text| !text.is_empty());
        let device = match self.wire.device_level {
            Some(at) => level(at)?,
            None => std::str::from_utf8(key).ok()?,
        };
        let table = match &self.wire.table {
            v1::Table::Level(at) => level(*at).filter(|table| may_be_table(table))?,
            v1::Table::Name(name) => name,
        };
        Some(Target { table, device, decoder: &self.decoder })
    }

    /// The more exact filter comes first: at the first level in which two filters differ, a name is before `+`, and
    /// `+` before `#`. Of equal filters, and of those that share no topic, the name decides.
    fn compare(&self, other: &Self) -> Order {
        let rank = |level: &str| match level {
            "+" => 1,
            "#" => 2,
            _ => 0,
        };
        let ranks = |binding: &Self| binding.wire.filter.split('/').map(rank).collect::<Vec<_>>();
        ranks(self).cmp(&ranks(other)).then_with(|| self.wire.name.cmp(&other.wire.name))
    }
}

/// Reads an age such as `30d`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn retention(text: &str) -> Result<Duration, String> {
    v1::duration(text).ok_or_else(|| format!("retention {text:?} is no duration such as 30d or 12h"))
}

/// Whether payloads may have a table of this name.
pub(crate) fn may_be_table(name: &str) -> bool {
    let is_reserved = RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved));
    !name.is_empty() && name.len() <= TABLE_BYTES_MAX && !name.chars().any(char::is_control) && !is_reserved
}

/// All bindings of a tenant, in the order in which they are asked.
#[derive(Debug, Clone, Default)]
pub struct Bindings {
    version: u32,
    list: Vec<Arc<Binding>>,
    /// Those that are named.
    tables: BTreeSet<Box<str>>,
    builtin: Arc<Counts>,
}

impl Bindings {
    /// How many changes there were.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The bindings, in the order in which they are asked.
    #[must_use]
    pub fn list(&self) -> &[Arc<Binding>] {
        &self.list
    }

    /// What has happened to messages that no binding takes.
    #[must_use]
    pub fn builtin(&self) -> &Counts {
        &self.builtin
    }

    /// The binding of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Binding>> {
        self.list.iter().find(|binding| binding.name() == name)
    }

    /// What the binding says that takes a topic; `None` if none does.
    #[must_use]
    pub fn bound<'b, 't>(&'b self, topic: &'t str) -> Option<Bound<'b, 't>> {
        self.list.iter().find_map(|binding| {
            binding.target(topic, b"")?;
            let device = binding.wire.device_level.and_then(|at| topic.split('/').nth(usize::from(at) - 1));
            let stream = Some(binding.stream()).filter(|stream| *stream != TELEMETRY);
            Some(Bound { device, class: binding.class, stream })
        })
    }

    /// The first binding that takes a message, and where it goes.
    #[must_use]
    pub fn target<'a>(&'a self, message: &MessageRef<'a>) -> Option<(&'a Binding, Target<'a>)> {
        self.list.iter().find_map(|binding| Some((&**binding, binding.target(message.topic, message.key)?)))
    }

    /// The tables that bindings name, each once.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().map(|table| &**table)
    }

    /// Whether a binding names this table.
    pub(crate) fn names_table(&self, table: &str) -> bool {
        self.tables.contains(table)
    }

    /// Whether a table may be made, or is there, of `count` that there are. Those that bindings name are as many as there are
    /// bindings, and take no place of the `max` that make themselves.
    pub(crate) fn may_have_table(
        &self,
        table: &str,
        max: usize,
        is_known: impl Fn(&str) -> bool,
        count: usize,
    ) -> bool {
        if !may_be_table(table) {
            return false;
        }
        let named = || self.tables().chain([MESSAGES]).filter(|name| is_known(name)).count();
        is_known(table) || self.names_table(table) || count.saturating_sub(named()) < max
    }

    /// How long ids of messages must be known; `None` if no binding looks for them.
    pub(crate) fn dedup_window_max(&self) -> Option<Duration> {
        self.list.iter().filter_map(|binding| Some(binding.dedup.as_ref()?.window)).max()
    }

    /// The next document, with `binding` new or instead of the one of its name. The same if nothing changes.
    pub(crate) fn with(&self, binding: Binding) -> Result<Self, BindingError> {
        if let Some(known) = self.get(binding.name()) {
            if known.origin == Origin::Config {
                return Err(BindingError::ReadOnly { name: binding.name().to_owned(), origin: Origin::Config });
            }
            if known.wire == binding.wire {
                return Ok(self.clone());
            }
        }
        let mut list: Vec<_> = self.list.iter().filter(|known| known.name() != binding.name()).cloned().collect();
        list.push(Arc::new(binding));
        self.next(list)
    }

    /// The next document, without the binding `name`.
    pub(crate) fn without(&self, name: &str) -> Result<Self, BindingError> {
        match self.get(name) {
            Some(known) if known.origin == Origin::Api => {}
            Some(known) => return Err(BindingError::ReadOnly { name: name.to_owned(), origin: known.origin }),
            None if name == BUILTIN => {
                return Err(BindingError::ReadOnly { name: name.to_owned(), origin: Origin::Builtin });
            }
            None => return Err(BindingError::Unknown(name.to_owned())),
        }
        self.next(self.list.iter().filter(|known| known.name() != name).cloned().collect())
    }

    /// The next document, with just these of the configuration file. The same if they are there.
    pub(crate) fn with_fixed(&self, fixed: &[Arc<Binding>]) -> Result<Self, BindingError> {
        let of_config = |binding: &&Arc<Binding>| binding.origin == Origin::Config;
        let by_name = |list: &[Arc<Binding>]| -> BTreeMap<String, Value> {
            list.iter().filter(of_config).map(|binding| (binding.name().to_owned(), binding.to_json())).collect()
        };
        if by_name(&self.list) == by_name(fixed) {
            return Ok(self.clone());
        }
        let is_kept = |known: &&Arc<Binding>| {
            known.origin == Origin::Api && !fixed.iter().any(|binding| binding.name() == known.name())
        };
        let kept = self.list.iter().filter(is_kept).chain(fixed);
        self.next(kept.cloned().collect())
    }

    fn next(&self, list: Vec<Arc<Binding>>) -> Result<Self, BindingError> {
        if list.len() > BINDINGS_MAX {
            return Err(BindingError::TooMany(BINDINGS_MAX));
        }
        let version = self.version + 1;
        let is_known = |binding: &Arc<Binding>| self.list.iter().any(|known| Arc::ptr_eq(known, binding));
        let renew = |binding: Arc<Binding>| {
            if is_known(&binding) {
                return Ok(binding);
            }
            Binding::check(binding.wire.clone(), binding.origin, version).map(Arc::new)
        };
        let list = list.into_iter().map(renew).collect::<Result<Vec<_>, _>>()?;
        let next = Self { builtin: self.builtin.clone(), ..Self::sorted(version, list) };
        if next.encode().len() > DOCUMENT_BYTES_MAX {
            return Err(BindingError::Invalid(format!("all bindings have more than {DOCUMENT_BYTES_MAX} bytes")));
        }
        Ok(next)
    }

    fn sorted(version: u32, mut list: Vec<Arc<Binding>>) -> Self {
        list.sort_by(|a, b| a.compare(b));
        let tables = list.iter().filter_map(|binding| binding.table()).map(Into::into).collect();
        Self { version, list, tables, builtin: Arc::default() }
    }
}

impl Document for Bindings {
    const KEY: &'static str = KEY;

    fn decode(value: &[u8]) -> Option<Self> {
        let v1::Format { format: 1 } = serde_json::from_slice(value).ok()? else { return None };
        let stored: v1::Stored = serde_json::from_slice(value).ok()?;
        let read = |stored: v1::StoredBinding| {
            let origin = if stored.fixed { Origin::Config } else { Origin::Api };
            Binding::check(stored.binding, origin, stored.version).ok().map(Arc::new)
        };
        Some(Self::sorted(stored.version, stored.bindings.into_iter().map(read).collect::<Option<_>>()?))
    }

    fn encode(&self) -> Vec<u8> {
        let bindings = self.list.iter().map(|binding| v1::StoredBinding {
            version: binding.version,
            fixed: binding.origin == Origin::Config,
            binding: binding.wire.clone(),
        });
        let stored = v1::Stored { format: 1, version: self.version, bindings: bindings.collect() };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    fn version(&self) -> u32 {
        self.version
    }
}

#[cfg(test)]
mod tests;
