//! Retained messages: a fold over each data stream. The message is in the state, so that retention of
//! the stream does not take it.

#[cfg(test)]
mod tests;
mod walk;

use bytes::Bytes;
use floodplain_fold::{
    Copying, DedupWindow, Fold, Input, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use floodplain_log::{MessageRef, header};
use floodplain_types::{Position, Timestamp, validate_topic};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};
use walk::{Step, step};

/// Bytes of retained messages in one partition; a message that would go beyond that is not retained,
/// and counted, and then nothing is retained for its topic (MQTT 5.0 §3.3.1.3). With 16 partitions 1 GiB per stream.
const BYTES_MAX: usize = 64 << 20;
/// Deleted topics that one partition remembers. The message may be in another partition than its
/// deletion, and comes back when the deletion is forgotten: so they are kept by number, not by
/// time, and the oldest goes first, counted.
const DELETED_MAX: usize = 65_536;
/// The same in bytes: topics may be long.
const DELETED_BYTES_MAX: usize = 16 << 20;
/// What a topic costs besides its name and its message.
const ENTRY_BYTES: usize = 128;
/// Messages that one record may let expire, so that no step is long: far more than one record adds. What has expired
/// and is still here is delivered to nobody.
const EXPIRED_MAX: usize = 64;
/// Topics that one page may look at for each one that it may return.
const LOOKED_AT_PER_ITEM: usize = 8;

/// Which of two messages on one topic is the newer: by ingest time, partition, offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    pub ingest: Timestamp,
    /// Index among all data partitions.
    pub partition: u32,
    pub position: Position,
}

/// A record as it is in the log, for [`floodplain_log::Record::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedRecord {
    pub bytes: Bytes,
    /// What the record's timestamp delta adds to, in milliseconds since 1970.
    pub base_timestamp_ms: i64,
    /// When the message expires, if it does.
    pub expires_at: Option<Timestamp>,
}

/// What one partition knows of a topic. Another partition may know something newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub topic: Arc<str>,
    pub stamp: Stamp,
    /// `None` if the message was deleted.
    pub record: Option<RetainedRecord>,
}

/// A part of the candidates that match a filter, by topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetainedPage {
    pub candidates: Vec<Candidate>,
    /// Ask for the next page after this topic; `None` if this was the last one.
    pub next: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    stamp: Stamp,
    record: Option<RetainedRecord>,
}

/// The retained messages that were published in one partition.
#[derive(Debug)]
pub struct RetainedFold {
    topics: BTreeMap<Arc<str>, Held>,
    /// When messages expire.
    expiries: BTreeSet<(Timestamp, Arc<str>)>,
    /// What was deleted, oldest first.
    deleted: BTreeSet<(Stamp, Arc<str>)>,
    /// The newest stamp: ingest time never goes back within a partition.
    newest: Timestamp,
    bytes: usize,
    /// Those of what was deleted.
    deleted_bytes: usize,
    keeps_units_whole: bool,
    seen: DedupWindow,
    /// Where messages came again under the same dedup id, in order, until they are taken; nobody asks while it replays. No part
    /// of the state.
    repeats: Option<Vec<Position>>,
    /// A copy that is being made; no part of the state.
    copy: Option<Copying<Arc<str>>>,
    meters: Meters,
    /// Index among all of the first partition of this stream. No part of the state.
    first: u32,
}

impl Held {
    fn put(&self, out: &mut Vec<u8>, topic: &str) {
        let Self { stamp, record } = self;
        out.put_str(topic);
        out.put_time(stamp.ingest);
        out.put_u64(u64::from(stamp.partition));
        out.put_position(stamp.position);
        out.put_option(record.as_ref(), |out, record| {
            out.put_bytes(&record.bytes);
            out.put_time(Timestamp(record.base_timestamp_ms));
            out.put_option(record.expires_at, Vec::put_time);
        });
    }
}

#[derive(Debug)]
struct Meters {
    full: metrics::Counter,
    forgotten: metrics::Counter,
}

impl Default for RetainedFold {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            expiries: BTreeSet::new(),
            deleted: BTreeSet::new(),
            newest: Timestamp(i64::MIN),
            bytes: 0,
            deleted_bytes: 0,
            keeps_units_whole: true,
            seen: super::dedup_window(true),
            repeats: None,
            first: 0,
            copy: None,
            meters: Meters {
                full: metrics::counter!("floodplain_broker_retained_refused_total"),
                forgotten: metrics::counter!("floodplain_broker_retained_deletions_forgotten_total"),
            },
        }
    }
}

impl RetainedFold {
    /// Nothing is retained yet in a partition of a stream whose first partition has the index `first` among all.
    /// `keeps_units_whole` is [`floodplain_log::Log::keeps_units_whole`].
    #[must_use]
    pub fn of(first: u32, keeps_units_whole: bool) -> Self {
        Self { first, keeps_units_whole, seen: super::dedup_window(keeps_units_whole), ..Self::default() }
    }

    /// How many messages are retained here, expired ones included until log time reaches them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len() - self.deleted.len()
    }

    /// Whether no message is retained here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all topics and messages.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Up to `limit` candidates that match `filter`, after the topic `after`, in the order of
    /// topics: a subscription to `#` takes a million of them page by page.
    ///
    /// Deleted and expired ones are among them, because they hide older ones of other partitions:
    /// [`newest`] sorts that out. A page may have fewer than `limit` and still not be the last.
    #[must_use]
    pub fn page(&self, filter: &str, after: Option<&str>, limit: usize) -> RetainedPage {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let levels: Vec<&str> = filter.split('/').collect();
        let mut page = RetainedPage::default();
        let first = walk::first(&levels);
        let mut range = match after {
            Some(after) if after >= first.as_str() => self.topics.range::<str, _>((Excluded(after), Unbounded)),
            _ => self.topics.range::<str, _>((Included(first.as_str()), Unbounded)),
        };
        let mut last = None;
        for _ in 0..limit.saturating_mul(LOOKED_AT_PER_ITEM).max(1) {
            if page.candidates.len() >= limit.max(1) {
                page.next = last;
                return page;
            }
            let Some((topic, held)) = range.next() else { return page };
            last = Some(topic.clone());
            match step(&levels, topic) {
                Step::Match => page.candidates.push(Candidate {
                    topic: topic.clone(),
                    stamp: held.stamp,
                    record: held.record.clone(),
                }),
                Step::Next => {}
                Step::Seek(to) => range = self.topics.range::<str, _>((Included(to.as_str()), Unbounded)),
                Step::End => return page,
            }
        }
        page.next = last;
        page
    }

    /// Keeps a message, if there is room.
    fn keep(&mut self, topic: &str, stamp: Stamp, record: Option<RetainedRecord>) {
        let old = self.topics.get(topic);
        let old_bytes = old.map_or(0, |held| cost(topic, held.record.as_ref()));
        if record.is_some() && self.bytes - old_bytes + cost(topic, record.as_ref()) > BYTES_MAX {
            self.meters.full.increment(1);
            if old.is_some() {
                // Not the older one as if it were the newest.
                self.put(topic, stamp, None);
            }
            return;
        }
        self.put(topic, stamp, record);
    }

    /// What is known of `topic` is about to change.
    fn touch(&mut self, topic: &str) {
        if let Some(copy) = &mut self.copy {
            let held = self.topics.get(topic);
            copy.touch(topic, || topic.into(), held.map(|held| |out: &mut Vec<u8>| held.put(out, topic)));
        }
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.put_time(self.newest);
        out.put_u64(self.topics.len() as u64);
    }

    fn put(&mut self, topic: &str, stamp: Stamp, record: Option<RetainedRecord>) {
        self.touch(topic);
        let old = self.topics.get_key_value(topic).map(|(topic, held)| (topic.clone(), held.clone()));
        let topic = match old {
            Some((topic, held)) => {
                self.bytes -= cost(&topic, held.record.as_ref());
                match held.record {
                    None => {
                        self.deleted_bytes -= cost(&topic, None);
                        self.deleted.remove(&(held.stamp, topic.clone()));
                    }
                    Some(RetainedRecord { expires_at: Some(time), .. }) => {
                        self.expiries.remove(&(time, topic.clone()));
                    }
                    Some(_) => {}
                }
                topic
            }
            None => topic.into(),
        };
        self.bytes += cost(&topic, record.as_ref());
        match &record {
            None => {
                self.deleted_bytes += cost(&topic, None);
                self.deleted.insert((stamp, topic.clone()));
            }
            Some(record) => {
                if let Some(time) = record.expires_at {
                    self.expiries.insert((time, topic.clone()));
                }
            }
        }
        self.topics.insert(topic, Held { stamp, record });
        while self.deleted.len() > DELETED_MAX || self.deleted_bytes > DELETED_BYTES_MAX {
            let Some((_, topic)) = self.deleted.pop_first() else { return };
            self.deleted_bytes -= cost(&topic, None);
            self.bytes -= cost(&topic, None);
            self.touch(&topic);
            self.topics.remove(&topic);
            self.meters.forgotten.increment(1);
        }
    }

    /// An expired message becomes a deleted one: it still hides older ones of other partitions.
    fn expire(&mut self, now: Timestamp) {
        for _ in 0..EXPIRED_MAX {
            if self.expiries.first().is_none_or(|(time, _)| *time > now) {
                return;
            }
            let Some((_, topic)) = self.expiries.pop_first() else { return };
            if let Some(stamp) = self.topics.get(&topic).map(|held| held.stamp) {
                self.keep(&topic, stamp, None);
            }
        }
    }
}

fn cost(topic: &str, record: Option<&RetainedRecord>) -> usize {
    topic.len() + record.map_or(0, |record| record.bytes.len()) + ENTRY_BYTES
}

/// Of pages for the same filter and the same `after`, one from each partition: what is to be
/// delivered at wall time `now`, by topic, and the topic to ask all partitions to go on after.
#[must_use]
pub fn newest(pages: Vec<RetainedPage>, now: Timestamp) -> (Vec<Candidate>, Option<Arc<str>>) {
    // Beyond the shortest unfinished page not every partition has spoken.
    let next = pages.iter().filter_map(|page| page.next.clone()).min();
    let mut all: Vec<Candidate> = pages.into_iter().flat_map(|page| page.candidates).collect();
    if let Some(next) = &next {
        all.retain(|candidate| candidate.topic <= *next);
    }
    all.sort_unstable_by(|a, b| a.topic.cmp(&b.topic).then(b.stamp.cmp(&a.stamp)));
    all.dedup_by(|older, newer| older.topic == newer.topic);
    let lives = |record: &RetainedRecord| record.expires_at.is_none_or(|time| time > now);
    all.retain(|candidate| candidate.record.as_ref().is_some_and(lives));
    (all, next)
}

impl RetainedFold {
    /// Where messages came again that were there before, in order: since this was asked last, and from the first time on.
    pub(crate) fn take_repeats(&mut self) -> Vec<Position> {
        self.repeats.replace(Vec::new()).unwrap_or_default()
    }
}

impl Fold for RetainedFold {
    const NAME: &'static str = "retained";
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        self.expire(input.log_time);
        if let Some(id) = input.dedup_id()
            && !self.seen.is_new(input.record.key.unwrap_or_default(), id)
        {
            self.repeats.iter_mut().for_each(|repeats| repeats.push(input.position));
            return;
        }
        // Most messages are not retained, and their flags say so before the rest is looked at.
        if !input.header(header::FLAGS).is_some_and(|flags| flags.contains(&b'r')) {
            return;
        }
        let Ok(message) = MessageRef::parse(input.record) else { return };
        if !message.retain || validate_topic(message.topic).is_err() {
            return;
        }
        let ingest = message.ingest_time_ns.map_or_else(|| input.ingest_time(), Timestamp);
        self.newest = self.newest.max(ingest);
        let stamp = Stamp { ingest: self.newest, partition: self.first + input.partition, position: input.position };
        // An empty payload deletes [MQTT-3.3.1-6].
        let record = (!message.payload.is_empty()).then(|| RetainedRecord {
            bytes: Bytes::copy_from_slice(input.record.bytes),
            base_timestamp_ms: input.reference().base_timestamp_ms,
            expires_at: message.expiry_seconds.map(|seconds| ingest + Duration::from_secs(u64::from(seconds))),
        });
        self.keep(message.topic, stamp, record);
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        self.put_head(out);
        self.topics.iter().for_each(|(topic, held)| held.put(out, topic));
        self.seen.snapshot(out);
    }

    fn begin_copy(&mut self) {
        let mut head = Vec::new();
        self.put_head(&mut head);
        self.copy = Some(Copying::new(head));
        self.seen.begin_copy();
    }

    fn copy_part(&mut self, out: &mut Vec<u8>, max_len: usize) -> bool {
        let Some(copy) = &mut self.copy else { return true };
        let from = |from: Bound<&Arc<str>>| self.topics.range::<Arc<str>, _>((from, Bound::Unbounded));
        let is_done =
            copy.part(from, |out, topic, held| held.put(out, topic), out, max_len) && self.seen.copy_part(out, max_len);
        if is_done {
            self.copy = None;
        }
        is_done
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        *self = Self::of(self.first, self.keeps_units_whole);
        let mut get = Get::new(bytes);
        self.newest = get.time()?;
        for _ in 0..get.count()? {
            let topic = get.str()?;
            let stamp = Stamp { ingest: get.time()?, partition: get.u32()?, position: get.position()? };
            let record = get.option(|get| {
                Ok::<_, WireError>(RetainedRecord {
                    bytes: Bytes::copy_from_slice(get.bytes()?),
                    base_timestamp_ms: get.time()?.0,
                    expires_at: get.option(Get::time)?,
                })
            })?;
            // There was room for it then: the order here is another one.
            self.put(topic, stamp, record);
        }
        self.seen.restore(&mut get)?;
        Ok(get.end()?)
    }
}
