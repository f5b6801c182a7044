//! The index of what waits: for each filter of a lasting session, where the matching messages are.
//! A fold over each data stream.

mod backfill;
mod interest;
#[cfg(test)]
mod tests;

pub use interest::Interest;

use crate::router::Trie;
use backfill::{Backfill, Gap};
use floodplain_fold::{
    Copying, DedupWindow, Fold, Input, Loss, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use floodplain_log::{Locator, MessageRef, RecordRef, header};
use floodplain_types::{Position, TopicFilter};
use slab::Slab;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::{Bound, Range},
    sync::Arc,
};

/// Postings of one filter in one partition: 10 MiB. Beyond that the oldest go to `dlq`.
const PER_FILTER_MAX: usize = 262_144;
/// Postings of all filters in one partition: 40 MiB. Beyond that the longest lists give.
const TOTAL_MAX: usize = 1_048_576;
/// Ranges that damage has taken and one list remembers, to tell of them again after a restart. Of more the newest.
const DAMAGE_MAX: usize = 64;
/// So much room is made at once, so that not each message has all lists looked at.
const ROOM: usize = TOTAL_MAX / 16;
/// Topics whose filters are remembered; when full the memory is cleared and fills again.
const CACHED_TOPICS_MAX: usize = 16_384;

/// A message with QoS 1 or 2 that matches a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posting {
    pub reference: RecordRef,
    /// The QoS it was published with.
    pub qos: u8,
}

/// A part of what waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitingPage {
    /// By position, each record once.
    pub postings: Vec<Posting>,
    /// Ask for the next page from here. All that matches before this position is in `postings`.
    pub next: Position,
    /// Nothing is known before this position, for the filter that knows least: what was there is
    /// being looked for ([`WaitingIndex::needs_backfill`]) or was reported as [`Lost`].
    pub known_from: Position,
}

/// Why messages are not waiting any more although a session may want them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostReason {
    /// More messages wait than the index holds.
    QueueFull,
    /// Retention has removed them from the log.
    Retention,
    /// The log is damaged where they were.
    Damage,
}

impl LostReason {
    /// What `dlq` says.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::QueueFull => "too many messages wait",
            Self::Retention => "retention has removed it",
            Self::Damage => "the log is damaged",
        }
    }
}

/// Messages of a filter that were given up: for each session that still needs them, a `dlq` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub filter: TopicFilter,
    /// First and last position, both lost.
    pub first: Position,
    pub last: Position,
    /// How many messages, not counting those that were gone before they were indexed.
    pub count: u64,
    pub reason: LostReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    offset: u64,
    at: u64,
    base_timestamp_ms: i64,
    len: u32,
    crc: u32,
    generation: u32,
    qos: u8,
}

impl Packed {
    const fn new(reference: RecordRef, qos: u8) -> Self {
        let RecordRef { position, base_timestamp_ms, locator } = reference;
        let Locator { at, len, crc } = locator;
        Self { offset: position.offset, at, base_timestamp_ms, len, crc, generation: position.generation, qos }
    }

    const fn position(&self) -> Position {
        Position::new(self.generation, self.offset)
    }

    const fn posting(&self) -> Posting {
        let reference = RecordRef {
            position: self.position(),
            base_timestamp_ms: self.base_timestamp_ms,
            locator: Locator { at: self.at, len: self.len, crc: self.crc },
        };
        Posting { reference, qos: self.qos }
    }
}

/// The postings of one filter.
#[derive(Debug, PartialEq, Eq)]
struct List {
    filter: TopicFilter,
    /// All that matches from here to the index's position is in `postings`.
    known_from: Position,
    /// From where on somebody wants it; before `known_from` while it is being looked for.
    wanted_from: Position,
    postings: VecDeque<Packed>,
    /// First and last positions of what damage has taken. Whoever dies before it is told does not find it again.
    damage: VecDeque<(Position, Position)>,
    /// What was given up and some session may not have been told of; no part of the state.
    untold: Option<Lost>,
}

impl List {
    /// Nobody needs, or nobody can get, what is before this.
    fn raise(&mut self, from: Position) {
        self.known_from = self.known_from.max(from);
        self.wanted_from = self.wanted_from.max(from);
        let wanted_from = self.wanted_from;
        self.damage.retain(|(_, last)| *last >= wanted_from);
    }

    fn damaged(&self, first: Position, last: Position) -> Lost {
        Lost { filter: self.filter.clone(), first, last, count: 0, reason: LostReason::Damage }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_str(self.filter.as_str());
        out.put_position(self.known_from);
        out.put_position(self.wanted_from);
        out.put_u64(self.damage.len() as u64);
        for (first, last) in &self.damage {
            out.put_position(*first);
            out.put_position(*last);
        }
        out.put_u64(self.postings.len() as u64);
        for posting in &self.postings {
            let Packed { offset: _, at, base_timestamp_ms, len, crc, generation: _, qos } = posting;
            out.put_position(posting.position());
            out.put_u64(*at);
            out.put_u64(u64::from(*len));
            out.extend_from_slice(&crc.to_le_bytes());
            out.put_u64(base_timestamp_ms.cast_unsigned());
            out.put_byte(*qos);
        }
    }
}

/// A list is about to change, or to go: a copy that has not come to it keeps it as it is.
fn touch(copy: &mut Option<Copying<TopicFilter>>, list: &List) {
    if let Some(copy) = copy {
        copy.touch(&list.filter, || list.filter.clone(), Some(|out: &mut Vec<u8>| list.put(out)));
    }
}

/// Postings lists of one data partition, one per distinct filter whatever the number of
/// sessions that have it. A posting takes 40 bytes.
///
/// A list is a pure function of the log: all records with QoS 1 or 2 that match, from
/// `known_from` on. Which filters there are, and from where, comes from the session folds and is
/// told by the worker; a filter that is wanted from an earlier position than the list knows is
/// filled in from the log ([`Self::needs_backfill`]). What all sessions have passed is trimmed.
#[derive(Debug)]
pub struct WaitingIndex {
    lists: Slab<List>,
    by_filter: BTreeMap<TopicFilter, u32>,
    trie: Trie<u32>,
    /// Lists by topic; cleared when a filter comes or goes.
    cache: HashMap<Box<str>, Arc<[u32]>>,
    total: usize,
    /// The position after the last record that was indexed.
    position: Position,
    backfill: Option<Backfill>,
    lost: Vec<Lost>,
    keeps_units_whole: bool,
    seen: DedupWindow,
    /// A copy that is being made; no part of the state.
    copy: Option<Copying<TopicFilter>>,
    lost_meter: metrics::Counter,
}

impl Default for WaitingIndex {
    fn default() -> Self {
        Self::of(true)
    }
}

impl WaitingIndex {
    /// Nothing waits. `keeps_units_whole` is [`floodplain_log::Log::keeps_units_whole`].
    #[must_use]
    pub fn of(keeps_units_whole: bool) -> Self {
        Self {
            keeps_units_whole,
            lists: Slab::new(),
            by_filter: BTreeMap::new(),
            trie: Trie::default(),
            cache: HashMap::new(),
            total: 0,
            position: Position::ZERO,
            backfill: None,
            lost: Vec::new(),
            seen: super::dedup_window(keeps_units_whole),
            copy: None,
            lost_meter: metrics::counter!("floodplain_broker_waiting_lost_messages_total"),
        }
    }

    /// Wants the messages of `filter` from `from` on. `position` is where the index is: the
    /// runner's position, which a filter that is new is known from.
    ///
    /// A filter that is known keeps its list; an earlier `from` widens it.
    pub fn add_filter(&mut self, filter: &TopicFilter, from: Position, position: Position) {
        self.position = self.position.max(position);
        let idx = match self.by_filter.get(filter) {
            Some(idx) => *idx,
            None => self.new_list(filter, self.position.max(from)),
        };
        let list = &mut self.lists[idx as usize];
        if from < list.wanted_from {
            touch(&mut self.copy, list);
            list.wanted_from = from;
        }
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        out.put_position(self.position);
        out.put_u64(self.by_filter.len() as u64);
    }

    fn new_list(&mut self, filter: &TopicFilter, known_from: Position) -> u32 {
        if let Some(copy) = &mut self.copy {
            copy.touch(filter, || filter.clone(), None::<fn(&mut Vec<u8>)>);
        }
        let list = List {
            filter: filter.clone(),
            known_from,
            wanted_from: known_from,
            postings: VecDeque::new(),
            damage: VecDeque::new(),
            untold: None,
        };
        let idx = self.lists.insert(list) as u32;
        self.by_filter.insert(filter.clone(), idx);
        self.trie.entry(filter.as_str()).push(idx);
        self.cache.clear();
        idx
    }

    /// Forgets a filter: no lasting session has it any more.
    pub fn remove_filter(&mut self, filter: &str) {
        let Some((filter, idx)) = self.by_filter.remove_entry(filter) else { return };
        let list = self.lists.remove(idx as usize);
        touch(&mut self.copy, &list);
        self.total -= list.postings.len();
        if let Some(values) = self.trie.get_mut(filter.as_str()) {
            values.retain(|value| *value != idx);
        }
        self.trie.prune(filter.as_str());
        self.cache.clear();
        if let Some(backfill) = &mut self.backfill {
            backfill.forget(idx);
        }
    }

    /// The filters that are indexed.
    pub fn filters(&self) -> impl Iterator<Item = &TopicFilter> {
        self.by_filter.keys()
    }

    /// How many postings there are in all lists.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.total
    }

    /// Whether there are no postings.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Up to `limit` messages that wait for any of `wanted`, each a filter and the first position
    /// that is of interest: merged, in order, each record once. Filters that are not indexed are
    /// skipped.
    #[must_use]
    pub fn page<'f>(&self, wanted: impl IntoIterator<Item = (&'f str, Position)>, limit: usize) -> WaitingPage {
        let mut page = WaitingPage { next: self.position, ..WaitingPage::default() };
        for (filter, from) in wanted {
            let Some(idx) = self.by_filter.get(filter) else { continue };
            let list = &self.lists[*idx as usize];
            if list.known_from > from {
                page.known_from = page.known_from.max(list.known_from);
            }
            let start = list.postings.partition_point(|posting| posting.position() < from);
            let found = list.postings.range(start..).take(limit);
            page.postings.extend(found.map(Packed::posting));
        }
        page.postings.sort_unstable_by_key(|posting| posting.reference.position);
        page.postings.dedup_by_key(|posting| posting.reference.position);
        // Each list gave its first `limit`, so the first `limit` of all are complete.
        if page.postings.len() >= limit {
            page.postings.truncate(limit);
            page.next = page.postings.last().map_or(page.next, |last| last.reference.position.next());
        }
        page
    }

    /// Drops the postings of `filter` before `below`: no session needs them any more.
    pub fn trim(&mut self, filter: &str, below: Position) {
        let Some(idx) = self.by_filter.get(filter) else { return };
        let list = &mut self.lists[*idx as usize];
        if list.known_from < below || list.wanted_from < below {
            touch(&mut self.copy, list);
        }
        let gone = list.postings.partition_point(|posting| posting.position() < below);
        list.postings.drain(..gone);
        self.total -= gone;
        list.raise(below);
        list.untold.take_if(|untold| untold.last < below);
        if gone > 1024 {
            list.postings.shrink_to(list.postings.len() * 2);
        }
    }

    /// Gives up what is before `start`: retention has removed it. What the index has not seen of that it is told by
    /// [`Fold::missed`]. Look at [`Self::take_lost`].
    pub fn retention(&mut self, start: Position) {
        self.pass(start.min(self.position), None);
    }

    /// Gives up what is before `start`; from `unseen` on, the index has not seen it.
    fn pass(&mut self, start: Position, unseen: Option<Position>) {
        for (_, list) in &mut self.lists {
            if list.wanted_from >= start {
                continue;
            }
            touch(&mut self.copy, list);
            let gone = list.postings.partition_point(|posting| posting.position() < start);
            let is_known = list.known_from <= list.wanted_from;
            let first = match (list.postings.front().filter(|_| gone > 0), unseen) {
                (Some(front), _) if is_known => front.position(),
                (None, Some(unseen)) if is_known => unseen.max(list.wanted_from),
                // It was still being filled in, and may have lost what it never saw.
                _ => list.wanted_from,
            };
            if gone > 0 || !is_known || unseen.is_some() {
                let seen_last = list.postings.get(gone.wrapping_sub(1)).map_or(first, Packed::position);
                let is_whole = is_known && unseen.is_none();
                let last = if is_whole { seen_last } else { before(start).max(first) };
                let (filter, count) = (list.filter.clone(), gone as u64);
                self.lost_meter.increment(count);
                give_up(list, &mut self.lost, Lost { filter, first, last, count, reason: LostReason::Retention });
            }
            list.postings.drain(..gone);
            self.total -= gone;
            list.raise(start);
        }
    }

    /// Gives up what damage has taken, for the filters that may have been among it.
    fn lose(&mut self, lost: &Range<Position>, is_hit: impl Fn(u32, &List) -> bool) {
        for (idx, list) in self.lists.iter_mut().filter(|(_, list)| list.wanted_from < lost.end) {
            if is_hit(idx as u32, list) {
                let first = lost.start.max(list.wanted_from);
                let last = before(lost.end).max(first);
                touch(&mut self.copy, list);
                if list.damage.len() == DAMAGE_MAX {
                    list.damage.pop_front();
                }
                list.damage.push_back((first, last));
                self.lost.push(list.damaged(first, last));
            }
        }
    }

    /// The sessions of some source need `filter` from `from` on. If what they need was given up, they have not been
    /// told, and are told again.
    pub fn needed(&mut self, filter: &str, from: Position) {
        let Some(idx) = self.by_filter.get(filter) else { return };
        if let Some(untold) = self.lists[*idx as usize].untold.as_ref().filter(|untold| from <= untold.last) {
            self.lost.push(untold.clone());
        }
    }

    /// Whether some of these filters are still being looked for in the log: what waits for them is
    /// not all known yet.
    pub fn is_short<'f>(&self, mut filters: impl Iterator<Item = &'f str>) -> bool {
        filters.any(|filter| {
            let list = self.by_filter.get(filter).map(|idx| &self.lists[*idx as usize]);
            list.is_some_and(|list| list.wanted_from < list.known_from)
        })
    }

    /// Takes what was given up since the last call.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// The range of the log that must be read for filters that are wanted from before what their
    /// lists know: give its batches to [`Self::backfill`], in order, from the first position on.
    #[must_use]
    pub fn needs_backfill(&mut self) -> Option<(Position, Position)> {
        if self.backfill.is_none() {
            let short = self.lists.iter().filter(|(_, list)| list.wanted_from < list.known_from);
            let gaps: Vec<_> = short.map(|(idx, list)| (idx as u32, list.wanted_from, list.known_from)).collect();
            self.backfill = Backfill::new(gaps, self.keeps_units_whole);
        }
        self.backfill.as_ref().map(|backfill| (backfill.next, backfill.until))
    }

    /// Takes what was read for [`Self::needs_backfill`]: from its first position on.
    pub fn backfill(&mut self, read: &floodplain_log::Read) {
        let Some(mut backfill) = self.backfill.take() else { return };
        for lost in read.damaged.iter().filter(|lost| lost.end > backfill.next && lost.start < backfill.until) {
            self.lose(lost, |idx, _| backfill.is_missing(idx, lost));
        }
        for batch in &read.batches {
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().map_while(Result::ok) {
                let position = batch.position(&record);
                if position < backfill.next || position >= backfill.until {
                    continue;
                }
                let Ok(message) = MessageRef::parse(&record) else { continue };
                if message.qos == 0 || message.dedup_id.is_some_and(|id| !backfill.is_new(message.key, id)) {
                    continue;
                }
                let lists = self.lists_of(message.topic);
                if lists.iter().any(|idx| backfill.wants(*idx, position)) {
                    let packed = Packed::new(batch.record_ref(&record), message.qos);
                    for idx in lists.iter() {
                        backfill.add(*idx, packed);
                    }
                }
            }
        }
        backfill.next = backfill.next.max(read.next);
        if backfill.next < backfill.until {
            self.backfill = Some(backfill);
            return;
        }
        for Gap { list: idx, from, until, postings, dropped } in backfill.finish() {
            let Some(list) = self.lists.get_mut(idx as usize) else { continue };
            if until < list.known_from {
                // Trimmed to behind the end of this walk: what is wanted from before that again takes another one.
                continue;
            }
            touch(&mut self.copy, list);
            if let Some((first, last, count)) = dropped {
                let (filter, reason) = (list.filter.clone(), LostReason::QueueFull);
                self.lost_meter.increment(count);
                give_up(list, &mut self.lost, Lost { filter, first, last, count, reason });
                list.wanted_from = list.wanted_from.max(from);
            }
            // Trimmed meanwhile: what everybody has passed is not put back.
            let low = from.max(list.wanted_from);
            let known_from = list.known_from;
            let wanted = postings.into_iter().filter(|posting| (low..known_from).contains(&posting.position()));
            let before = list.postings.len();
            for posting in wanted.rev() {
                list.postings.push_front(posting);
            }
            list.known_from = known_from.min(low);
            self.total += list.postings.len() - before;
            self.limit_list(idx);
        }
        self.limit_total();
    }

    fn lists_of(&mut self, topic: &str) -> Arc<[u32]> {
        if let Some(lists) = self.cache.get(topic) {
            return lists.clone();
        }
        let mut lists = Vec::new();
        self.trie.matches(topic, &mut |idx| lists.push(*idx));
        let lists: Arc<[u32]> = lists.into();
        if topic.len() <= crate::router::CACHED_TOPIC_BYTES_MAX {
            if self.cache.len() >= CACHED_TOPICS_MAX {
                self.cache.clear();
            }
            self.cache.insert(topic.into(), lists.clone());
        }
        lists
    }

    /// Indexes one message.
    fn index(&mut self, reference: impl FnOnce() -> RecordRef, topic: &str, qos: u8) {
        let lists = self.lists_of(topic);
        if lists.is_empty() {
            return;
        }
        let packed = Packed::new(reference(), qos);
        for idx in lists.iter() {
            let list = &mut self.lists[*idx as usize];
            if packed.position() >= list.known_from {
                touch(&mut self.copy, list);
                list.postings.push_back(packed);
                self.total += 1;
                self.limit_list(*idx);
            }
        }
        self.limit_total();
    }

    fn limit_list(&mut self, idx: u32) {
        let len = self.lists[idx as usize].postings.len();
        if len > PER_FILTER_MAX {
            // A sixteenth at once, so that a full list does not report each message.
            self.drop_oldest(idx, len - PER_FILTER_MAX + PER_FILTER_MAX / 16);
        }
    }

    fn limit_total(&mut self) {
        if self.total <= TOTAL_MAX {
            return;
        }
        crate::work::done(self.by_filter.len());
        let lists = self.by_filter.values().map(|idx| (self.lists[*idx as usize].postings.len(), *idx));
        for (idx, count) in who_gives(lists, self.total - (TOTAL_MAX - ROOM)) {
            self.drop_oldest(idx, count);
        }
    }

    fn drop_oldest(&mut self, idx: u32, count: usize) {
        let list = &mut self.lists[idx as usize];
        let count = count.min(list.postings.len());
        touch(&mut self.copy, list);
        let mut gone = list.postings.drain(..count);
        let Some(first) = gone.next().map(|posting| posting.position()) else { return };
        let last = gone.next_back().map_or(first, |posting| posting.position());
        drop(gone);
        self.total -= count;
        list.raise(last.next());
        let (filter, count) = (list.filter.clone(), count as u64);
        self.lost_meter.increment(count);
        give_up(list, &mut self.lost, Lost { filter, first, last, count, reason: LostReason::QueueFull });
    }
}

/// Who gives how much so that at least `wanted` is free: half of the longest list, then half of the next. `lists` are
/// lengths and numbers; of lists with the same length the first gives.
fn who_gives(lists: impl Iterator<Item = (usize, u32)>, wanted: usize) -> Vec<(u32, usize)> {
    let mut lists: Vec<_> = lists.filter(|(len, _)| *len > 0).collect();
    lists.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    let (mut free, mut give) = (0, Vec::new());
    for (len, list) in lists {
        if free >= wanted {
            break;
        }
        free += len.div_ceil(2);
        give.push((list, len.div_ceil(2)));
    }
    give
}

/// A place in a range that ends before `end`.
const fn before(end: Position) -> Position {
    Position::new(end.generation, end.offset.saturating_sub(1))
}

/// Tells of a loss, and remembers it until all who need the filter are behind it.
fn give_up(list: &mut List, told: &mut Vec<Lost>, lost: Lost) {
    list.untold = Some(match list.untold.take() {
        Some(before) => Lost {
            first: before.first.min(lost.first),
            last: before.last.max(lost.last),
            count: before.count + lost.count,
            ..lost.clone()
        },
        None => lost.clone(),
    });
    told.push(lost);
}

impl Fold for WaitingIndex {
    const NAME: &'static str = "waiting";
    const FORMAT: u16 = 2;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        self.position = input.position.next();
        // QoS 0 has no flags, or flags that start with 0: no need to look at the rest.
        if input.header(header::FLAGS).is_none_or(|flags| flags.starts_with(b"0")) {
            return;
        }
        // Also while nobody wants any: who does later may get the original from the past, and then not its copy.
        if let Some(id) = input.dedup_id()
            && !self.seen.is_new(input.record.key.unwrap_or_default(), id)
        {
            return;
        }
        if self.by_filter.is_empty() {
            return;
        }
        let Ok(message) = MessageRef::parse(input.record) else { return };
        if message.qos == 0 {
            return;
        }
        self.index(|| input.reference(), message.topic, message.qos);
    }

    fn missed(&mut self, lost: &Range<Position>, loss: Loss) {
        match loss {
            Loss::Retention => self.pass(lost.end, Some(lost.start)),
            Loss::Damage => self.lose(lost, |_, list| list.known_from < lost.end),
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        self.put_head(out);
        self.by_filter.values().for_each(|idx| self.lists[*idx as usize].put(out));
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
        let from = |from: Bound<&TopicFilter>| self.by_filter.range::<TopicFilter, _>((from, Bound::Unbounded));
        let put = |out: &mut Vec<u8>, _: &TopicFilter, idx: &u32| self.lists[*idx as usize].put(out);
        let is_done = copy.part(from, put, out, max_len) && self.seen.copy_part(out, max_len);
        if is_done {
            self.copy = None;
        }
        is_done
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if !(1..=Self::FORMAT).contains(&format) {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        *self = Self::of(self.keeps_units_whole);
        let mut get = Get::new(bytes);
        self.position = get.position()?;
        for _ in 0..get.count()? {
            let filter = TopicFilter::new(get.str()?).map_err(|_| WireError::Invalid("topic filter"))?;
            let idx = self.new_list(&filter, get.position()?);
            let list = &mut self.lists[idx as usize];
            list.wanted_from = get.position()?;
            for _ in 0..if format == 1 { 0 } else { get.count()? } {
                let (first, last) = (get.position()?, get.position()?);
                list.damage.push_back((first, last));
                // Said again it changes nothing.
                self.lost.push(list.damaged(first, last));
            }
            for _ in 0..get.count()? {
                let position = get.position()?;
                let (at, len) = (get.u64()?, get.u32()?);
                let crc = u32::from_le_bytes([get.byte()?, get.byte()?, get.byte()?, get.byte()?]);
                let locator = Locator { at, len, crc };
                let base_timestamp_ms = get.u64()?.cast_signed();
                let qos = get.byte()?;
                list.postings.push_back(Packed::new(RecordRef { position, base_timestamp_ms, locator }, qos));
                self.total += 1;
            }
        }
        self.seen.restore(&mut get)?;
        Ok(get.end()?)
    }
}
