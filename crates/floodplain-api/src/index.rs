//! Which topics there are, and how much came on each: bounded, in memory, read from the log.

use crate::time::Time;
use floodplain_log::MessageRef;
use floodplain_sql::Traffic;
use floodplain_streams::transition::{SENDER, TOPIC_PREFIX};
use floodplain_types::{Position, Timestamp};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};
use utoipa::ToSchema;

/// Topics that are listed; messages on more are counted together.
const TOPICS_MAX: usize = 100_000;
/// Bytes of the names of all topics and devices.
const NAME_BYTES_MAX: usize = 32 << 20;
/// Devices that are counted; messages of more are counted together, by a metric.
const DEVICES_MAX: usize = 1_000_000;

/// Counts what the log held when the index was first asked for, and all since.
#[derive(Debug, Default)]
pub(crate) struct Index {
    topics: BTreeMap<Box<str>, Entry>,
    devices: BTreeMap<Box<str>, Traffic>,
    name_bytes: usize,
    unlisted: u64,
    is_complete: bool,
    /// By partition: all before is counted, but for what is past while that is being read.
    read: Vec<Position>,
}

#[derive(Debug, Default)]
struct Entry {
    messages: u64,
    bytes: u64,
    last: Timestamp,
    last_device: Box<str>,
    /// Of the last message with the retain flag: when it came, and whether it had a payload.
    retained: Option<(Timestamp, bool)>,
}

/// A node of the tree of topics, or a topic of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Topic)]
pub(crate) struct Node {
    /// Its last level; in a list all of it.
    pub(crate) name: String,
    /// All levels.
    pub(crate) topic: String,
    /// Messages on it and on those below it.
    pub(crate) messages: u64,
    /// Levels right below it.
    pub(crate) children: usize,
    /// Whether it has a retained message.
    pub(crate) retained: bool,
    pub(crate) last_received: Time,
    /// The device of the last message.
    pub(crate) last_device: String,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
}

/// Some topics, by name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Topics)]
pub(crate) struct Page {
    pub(crate) topics: Vec<Node>,
    /// What to send as `after` for more; null: these were the last.
    #[schema(required)]
    pub(crate) next: Option<String>,
    /// Whether the past of the log has been read; until then counts still grow.
    pub(crate) complete: bool,
    /// Messages on topics that have no place in the index.
    pub(crate) unlisted_messages: u64,
}

impl Index {
    /// Counts a message. Messages come in any order of time.
    pub(crate) fn add(&mut self, message: &MessageRef<'_>, received: Timestamp) {
        let device = std::str::from_utf8(message.key).unwrap_or_default();
        // What the server says of alerts is from no device.
        let is_device = device != SENDER || !message.topic.starts_with(TOPIC_PREFIX);
        if is_device && !self.devices.contains_key(device) && self.devices.len() < DEVICES_MAX && self.has_room(device)
        {
            self.name_bytes += device.len();
            self.devices.insert(device.into(), Traffic { first: received, last: received, ..Traffic::default() });
        }
        match self.devices.get_mut(device) {
            Some(traffic) => {
                traffic.messages += 1;
                traffic.bytes += message.payload.len() as u64;
                (traffic.first, traffic.last) = (traffic.first.min(received), traffic.last.max(received));
            }
            None if is_device => metrics::counter!("floodplain_http_uncounted_device_messages_total").increment(1),
            None => {}
        }
        if !self.topics.contains_key(message.topic) {
            if self.topics.len() >= TOPICS_MAX || !self.has_room(message.topic) {
                self.unlisted += 1;
                return;
            }
            self.name_bytes += message.topic.len();
            self.topics.insert(message.topic.into(), Entry::default());
        }
        let Some(entry) = self.topics.get_mut(message.topic) else { return };
        entry.messages += 1;
        entry.bytes += message.payload.len() as u64;
        if received >= entry.last {
            entry.last = received;
            if *entry.last_device != *device {
                entry.last_device = device.into();
            }
        }
        if message.retain && entry.retained.is_none_or(|(at, _)| received >= at) {
            entry.retained = Some((received, !message.payload.is_empty()));
        }
    }

    fn has_room(&self, name: &str) -> bool {
        self.name_bytes + name.len() <= NAME_BYTES_MAX
    }

    /// All up to these positions, by partition, has been counted.
    pub(crate) fn read_to(&mut self, read: &[Position]) {
        self.read.clear();
        self.read.extend_from_slice(read);
    }

    /// Whether all before these positions, by partition, has been counted.
    pub(crate) fn has_read(&self, to: &[Position]) -> bool {
        self.is_complete && self.read.len() == to.len() && self.read.iter().zip(to).all(|(read, to)| read >= to)
    }

    /// The first `limit` devices behind `after`, by name.
    pub(crate) fn devices_after(&self, after: Option<&str>, limit: usize) -> Vec<(String, Traffic)> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let found = self.devices.range::<str, _>(range).take(limit);
        found.map(|(device, traffic)| (device.to_string(), *traffic)).collect()
    }

    pub(crate) fn device(&self, device: &str) -> Option<Traffic> {
        self.devices.get(device).copied()
    }

    /// The past has been read.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// How many topics and devices there are; `None` until the past has been read.
    pub(crate) fn counts(&self) -> Option<(usize, usize)> {
        self.is_complete.then_some((self.topics.len(), self.devices.len()))
    }

    /// One level below `prefix`, which is the empty text for the first level.
    pub(crate) fn level(&self, prefix: Option<&str>, after: Option<&str>, limit: usize) -> Page {
        let start = prefix.map_or(String::new(), |prefix| format!("{prefix}/"));
        let mut nodes: BTreeMap<&str, Sum<'_>> = BTreeMap::new();
        let from = (Bound::Included(start.as_str()), Bound::Unbounded);
        let below = self.topics.range::<str, _>(from).take_while(|(topic, _)| topic.starts_with(&start));
        for (topic, entry) in below {
            let rest = &topic[start.len()..];
            let (name, rest) = rest.split_once('/').map_or((rest, None), |(name, rest)| (name, Some(rest)));
            if after.is_some_and(|after| name <= after) {
                continue;
            }
            nodes.entry(name).or_default().add(entry, rest.map(|rest| rest.split('/').next().unwrap_or_default()));
        }
        let topics = nodes.into_iter().map(|(name, sum)| sum.node(name.to_owned(), format!("{start}{name}")));
        self.page(topics, limit, |node| &node.name)
    }

    /// Topics that contain `text`.
    pub(crate) fn search(&self, text: &str, after: Option<&str>, limit: usize) -> Page {
        let found = self.topics.iter().filter(|(topic, _)| topic.contains(text));
        let found = found.filter(|(topic, _)| after.is_none_or(|after| &***topic > after));
        let topics = found.map(|(topic, entry)| {
            let mut sum = Sum::default();
            sum.add(entry, None);
            sum.node(topic.to_string(), topic.to_string())
        });
        self.page(topics, limit, |node| &node.topic)
    }

    fn page(&self, nodes: impl Iterator<Item = Node>, limit: usize, key: impl Fn(&Node) -> &String) -> Page {
        let mut topics: Vec<Node> = nodes.take(limit + 1).collect();
        let more = topics.len() > limit;
        topics.truncate(limit);
        let next = topics.last().filter(|_| more).map(|last| key(last).clone());
        Page { topics, next, complete: self.is_complete, unlisted_messages: self.unlisted }
    }
}

#[derive(Default)]
struct Sum<'a> {
    messages: u64,
    bytes: u64,
    last: Option<&'a Entry>,
    retained: bool,
    children: BTreeSet<&'a str>,
}

impl<'a> Sum<'a> {
    /// `child` is the next level, where the entry is below the node.
    fn add(&mut self, entry: &'a Entry, child: Option<&'a str>) {
        self.messages += entry.messages;
        self.bytes += entry.bytes;
        if self.last.is_none_or(|last| entry.last >= last.last) {
            self.last = Some(entry);
        }
        match child {
            Some(child) => {
                self.children.insert(child);
            }
            None => self.retained = entry.retained.is_some_and(|(_, is_there)| is_there),
        }
    }

    fn node(self, name: String, topic: String) -> Node {
        let (last_received, last_device) =
            self.last.map(|last| (last.last, last.last_device.to_string())).unwrap_or_default();
        let last_received = Time(last_received);
        let Self { messages, bytes, retained, children, .. } = self;
        Node { name, topic, messages, children: children.len(), retained, last_received, last_device, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(index: &mut Index, topic: &str, payload: &str, retain: bool, seconds: i64) {
        let message = MessageRef { topic, payload: payload.as_bytes(), key: b"d", retain, ..MessageRef::default() };
        index.add(&message, Timestamp::from_millis(seconds * 1000));
    }

    fn fleet() -> Index {
        let mut index = Index::default();
        add(&mut index, "a/x/1", "12", false, 5);
        add(&mut index, "a/x/2", "3", true, 7);
        add(&mut index, "a/x", "4", false, 6);
        add(&mut index, "a/y", "5", true, 2);
        add(&mut index, "a/y", "", true, 1);
        add(&mut index, "ab", "6", false, 3);
        add(&mut index, "a//z", "7", false, 3);
        index
    }

    #[test]
    fn what_the_server_says_of_alerts_is_from_no_device() {
        let mut index = fleet();
        let message = MessageRef { topic: "alerts/hot/d", key: SENDER.as_bytes(), ..MessageRef::default() };
        index.add(&message, Timestamp::from_millis(1));
        let devices: Vec<String> = index.devices_after(None, 10).into_iter().map(|(device, _)| device).collect();
        assert_eq!(devices, ["d"]);
        assert_eq!(index.search("alerts", None, 10).topics.len(), 1);
    }

    #[test]
    fn a_level_sums_what_is_below() {
        let index = fleet();
        let names = |prefix| {
            let page = index.level(prefix, None, 10);
            page.topics.into_iter().map(|node| (node.topic, node.messages, node.children)).collect::<Vec<_>>()
        };
        assert_eq!(names(None), [("a".to_owned(), 6, 3), ("ab".to_owned(), 1, 0)]);
        assert_eq!(names(Some("a")), [("a/".to_owned(), 1, 1), ("a/x".to_owned(), 3, 2), ("a/y".to_owned(), 2, 0)]);
        assert_eq!(names(Some("a/")), [("a//z".to_owned(), 1, 0)]);
        let x = index.level(Some("a"), None, 10).topics.remove(1);
        assert_eq!((x.retained, x.bytes, x.last_received), (false, 4, Time(Timestamp::from_millis(7_000))));
        // The older deletion of y came to the index after the message: it changes nothing.
        assert!(index.level(Some("a"), None, 10).topics[2].retained);
        assert_eq!(index.counts(), None);
        let mut index = index;
        index.complete();
        assert_eq!(index.counts(), Some((6, 1)));
    }

    #[test]
    fn pages_go_on_behind_the_last_name() {
        let index = fleet();
        let page = index.level(Some("a"), None, 2);
        assert_eq!((page.topics.len(), page.next.as_deref()), (2, Some("x")));
        let page = index.level(Some("a"), Some("x"), 2);
        assert_eq!((page.topics.len(), page.next), (1, None));
        let page = index.search("a/x", None, 1);
        assert_eq!((page.topics[0].topic.as_str(), page.next.as_deref()), ("a/x", Some("a/x")));
        let page = index.search("a/x", Some("a/x"), 9);
        assert_eq!(page.topics.iter().map(|node| node.topic.as_str()).collect::<Vec<_>>(), ["a/x/1", "a/x/2"]);
    }

    #[test]
    fn more_topics_than_there_is_room_for_are_counted() {
        let mut index = Index::default();
        let long = "x".repeat(60_000);
        for n in 0..600 {
            add(&mut index, &format!("{long}/{n}"), "1", false, n);
        }
        let listed = index.topics.len() as u64;
        assert!(listed < 600 && index.name_bytes <= NAME_BYTES_MAX);
        assert_eq!(index.level(None, None, 1).unlisted_messages, 600 - listed);
    }
}
