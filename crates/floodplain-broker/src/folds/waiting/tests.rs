use super::*;
use crate::folds::{
    Positions,
    feed::{Feed, message, message_batch},
};
use floodplain_log::{Append, Log, Partition, Read, ReadBatch, RecordRef};
use floodplain_testkit::ModelLog;
use floodplain_types::{Class, ManualClock, StreamId, StreamName, TenantId, filter_matches};
use proptest::prelude::*;
use std::{collections::BTreeSet, sync::Arc};

type Index = Feed<WaitingIndex>;

fn at(offset: u64) -> Position {
    Position::new(0, offset)
}

fn filter(name: &str) -> TopicFilter {
    TopicFilter::new(name).unwrap()
}

fn offsets(page: &WaitingPage) -> Vec<u64> {
    page.postings.iter().map(|posting| posting.reference.position.offset).collect()
}

impl Index {
    fn add(&mut self, name: &str, from: u64) {
        let position = at(self.next);
        self.fold.add_filter(&filter(name), at(from), position);
    }

    fn page(&self, wanted: &[(&str, u64)], limit: usize) -> WaitingPage {
        self.fold.page(wanted.iter().map(|(filter, from)| (*filter, at(*from))), limit)
    }
}

#[test]
fn what_matches_waits_from_the_start_on() {
    let mut index = Index::default();
    index.message(0, &message("d", "a/1", b"before", 1));
    index.add("a/+", 1);
    index.message(0, &message("d", "a/1", b"x", 1));
    index.message(0, &message("d", "b", b"x", 2));
    index.message(0, &message("d", "a/2", b"x", 0));
    index.message(0, &message("d", "a/3", b"x", 2));
    index.add("b", 5);
    index.message(0, &message("d", "b", b"x", 2));
    let page = index.page(&[("a/+", 0), ("b", 0)], 10);
    assert_eq!(offsets(&page), [1, 4, 5], "QoS 0 does not wait");
    assert_eq!(page.postings.iter().map(|posting| posting.qos).collect::<Vec<_>>(), [1, 2, 2]);
    assert_eq!((page.next, page.known_from), (at(6), at(5)), "b is known from 5 only");
    let page = index.page(&[("a/+", 1), ("b", 5)], 2);
    assert_eq!((offsets(&page), page.next, page.known_from), (vec![1, 4], at(5), Position::ZERO));
    assert_eq!(offsets(&index.page(&[("a/+", 5), ("b", 5), ("gone", 0)], 2)), [5]);
}

#[test]
fn one_record_waits_once_for_overlapping_filters() {
    let mut index = Index::default();
    for name in ["#", "a", "+"] {
        index.add(name, 0);
    }
    for _ in 0..4 {
        index.message(0, &message("d", "a", b"x", 1));
    }
    assert_eq!(index.fold.len(), 12);
    let wanted = [("#", 0), ("a", 1), ("+", 0)];
    assert_eq!(offsets(&index.page(&wanted, 3)), [0, 1, 2]);
    index.fold.remove_filter("#");
    index.fold.remove_filter("nothing");
    assert_eq!((index.fold.len(), index.fold.filters().count()), (8, 2));
    index.message(0, &message("d", "a", b"x", 1));
    assert_eq!(index.fold.len(), 10);
}

#[test]
fn what_all_have_passed_is_trimmed() {
    let mut index = Index::default();
    let starts = |offset| [(3, at(offset))].into_iter().collect::<Positions>();
    let mut interest = Interest::new(3);
    interest.wanted(&mut index.fold, at(0), 0, &filter("a"), &starts(0));
    interest.wanted(&mut index.fold, at(0), 1, &filter("a"), &starts(2));
    interest.wanted(&mut index.fold, at(0), 1, &filter("b"), &starts(0));
    for _ in 0..6 {
        index.message(0, &message("d", "a", b"x", 1));
    }
    interest.lowest(&mut index.fold, 1, &[(filter("a"), starts(5)), (filter("b"), starts(6))]);
    assert_eq!(index.fold.len(), 6, "the other source still needs them");
    interest.lowest(&mut index.fold, 0, &[(filter("a"), starts(4))]);
    assert_eq!(offsets(&index.page(&[("a", 0)], 10)), [4, 5]);
    interest.dropped(&mut index.fold, 0, &filter("a"));
    assert_eq!(index.fold.len(), 2);
    interest.dropped(&mut index.fold, 1, &filter("a"));
    assert_eq!((index.fold.len(), index.fold.filters().count()), (0, 1));
    // After a restart the index may remember what nobody tells of any more.
    index.add("old", 0);
    interest.settle(&mut index.fold);
    assert_eq!(index.fold.filters().map(TopicFilter::as_str).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn too_much_is_given_up_as_a_range() {
    let mut index = Index::default();
    index.add("#", 0);
    let mut builder = floodplain_log::BatchBuilder::new();
    for _ in 0..PER_FILTER_MAX / 4 + 1 {
        message("d", "t", b"", 1).write(&mut builder, 0, std::iter::empty()).unwrap();
    }
    let batch = builder.finish(floodplain_log::Compression::None).unwrap();
    for _ in 0..4 {
        assert_eq!(index.fold.take_lost(), []);
        index.batch(batch.clone());
    }
    let dropped = PER_FILTER_MAX / 16 + 1;
    let lost = Lost {
        filter: filter("#"),
        first: at(0),
        last: at(dropped as u64 - 1),
        count: dropped as u64,
        reason: LostReason::QueueFull,
    };
    assert_eq!(index.fold.take_lost(), [lost]);
    let page = index.page(&[("#", 0)], 1);
    assert_eq!((offsets(&page), page.known_from), (vec![dropped as u64], at(dropped as u64)));
    assert_eq!(index.fold.len(), PER_FILTER_MAX + 4 - dropped);
    assert_eq!(index.fold.needs_backfill(), None, "what was given up is not looked for again");
}

#[test]
fn all_filters_together_are_bounded() {
    let mut index = Index::default();
    // Nine filters that all match one topic.
    for n in 0..9 {
        index.add(&format!("a/{}#", "+/".repeat(n)), 0);
    }
    let mut builder = floodplain_log::BatchBuilder::new();
    let topic = format!("a{}", "/b".repeat(9));
    for _ in 0..TOTAL_MAX / 90 {
        message("d", &topic, b"", 1).write(&mut builder, 0, std::iter::empty()).unwrap();
    }
    let batch = builder.finish(floodplain_log::Compression::None).unwrap();
    for _ in 0..12 {
        index.batch(batch.clone());
        assert!(index.fold.len() <= TOTAL_MAX);
    }
    let lost: u64 = index.fold.take_lost().iter().map(|lost| lost.count).sum();
    assert_eq!(lost as usize + index.fold.len(), 12 * 9 * (TOTAL_MAX / 90), "nothing is lost without being told");
}

/// Of very many lists that are all equally long none gives by itself at each message.
#[test]
fn to_keep_very_many_filters_bounded_is_no_square_of_work() {
    let mut index = Index::default();
    // All filters of ten levels that match one topic.
    let filters = (0..1024_u32).map(|set| {
        let levels = (0..10).map(|level| if set >> level & 1 == 1 { "+" } else { "a" });
        levels.collect::<Vec<_>>().join("/")
    });
    filters.for_each(|filter| index.add(&filter, 0));
    let topic = ["a"; 10].join("/");
    let mut builder = floodplain_log::BatchBuilder::new();
    for _ in 0..1024 {
        message("d", &topic, b"", 1).write(&mut builder, 0, std::iter::empty()).unwrap();
    }
    index.batch(builder.finish(floodplain_log::Compression::None).unwrap());
    assert_eq!(index.fold.len(), TOTAL_MAX);
    crate::work::take();
    for n in 0..192 {
        index.message(0, &message("d", &topic, b"", 1));
        assert!(index.fold.len() <= TOTAL_MAX);
        index.copy_on(n);
    }
    index.copy_all();
    let lost: u64 = index.fold.take_lost().iter().map(|lost| lost.count).sum();
    assert_eq!(lost as usize + index.fold.len(), 1216 * 1024, "nothing is lost without being told");
    // 192 messages are 196,608 postings: room is made four times.
    let done = crate::work::take();
    assert!((1..=4 * 1024).contains(&done), "{done} lists were looked at");
}

#[test]
fn retention_is_told() {
    let mut index = Index::default();
    index.add("a", 0);
    index.add("b", 0);
    for topic in ["a", "a", "b", "a", "a"] {
        index.message(0, &message("d", topic, b"x", 1));
    }
    index.fold.retention(at(2));
    let lost = |first, last, count| Lost {
        filter: filter("a"),
        first: at(first),
        last: at(last),
        count,
        reason: LostReason::Retention,
    };
    assert_eq!(index.fold.take_lost(), [lost(0, 1, 2)], "b has lost nothing");
    index.fold.retention(at(2));
    assert_eq!(index.fold.take_lost(), []);
    assert_eq!(offsets(&index.page(&[("a", 0), ("b", 0)], 9)), [2, 3, 4]);
}

#[test]
fn what_damage_has_taken_is_told_to_those_who_may_have_wanted_it() {
    let mut index = Index::default();
    index.add("a", 0);
    for _ in 0..6 {
        index.message(0, &message("d", "a", b"x", 1));
    }
    // Wanted from 2 on, and not filled in yet; "c" begins behind the damage.
    index.add("b", 2);
    index.add("c", 5);
    let lost = |name, first, last| Lost {
        filter: filter(name),
        first: at(first),
        last: at(last),
        count: 0,
        reason: LostReason::Damage,
    };
    assert!(index.fold.needs_backfill().is_some());
    let read = Read { next: at(6), damaged: vec![at(1)..at(4)], ..Read::default() };
    index.fold.backfill(&read);
    assert_eq!(index.fold.take_lost(), [lost("b", 2, 3)], "a has all that there was");
    index.fold.missed(&(at(6)..at(9)), Loss::Damage);
    assert_eq!(index.fold.take_lost(), [lost("a", 6, 8), lost("b", 6, 8), lost("c", 6, 8)]);
}

#[test]
fn what_retention_takes_before_it_is_seen_is_told() {
    let mut index = Index::default();
    index.add("a", 0);
    index.add("b", 0);
    for topic in ["c", "a", "a"] {
        index.message(0, &message("d", topic, b"x", 1));
    }
    index.add("c", 9);
    index.fold.missed(&(at(3)..at(8)), Loss::Retention);
    let lost = |name, first, count| Lost {
        filter: filter(name),
        first: at(first),
        last: at(7),
        count,
        reason: LostReason::Retention,
    };
    // Of "b" none was seen; there may have been some.
    let told = [lost("a", 1, 2), lost("b", 3, 0)];
    assert_eq!(index.fold.take_lost(), told);
    index.fold.retention(at(8));
    assert_eq!(index.fold.take_lost(), []);
    // A session that has not been told still needs it: it is told again, until none does.
    index.fold.needed("a", at(8));
    assert_eq!(index.fold.take_lost(), []);
    index.fold.needed("a", at(7));
    assert_eq!(index.fold.take_lost(), [lost("a", 1, 2)]);
    index.fold.trim("a", at(8));
    index.fold.needed("a", at(7));
    assert_eq!(index.fold.take_lost(), []);
}

/// The log may have removed what the index has not come to.
#[test]
fn what_retention_removes_unseen_is_told_when_the_index_comes_there() {
    let mut index = Index::default();
    index.add("a", 0);
    for _ in 0..2 {
        index.message(0, &message("d", "a", b"x", 1));
    }
    index.fold.retention(at(8));
    let lost = |first, last, count| Lost { filter: filter("a"), first, last, count, reason: LostReason::Retention };
    assert_eq!(index.fold.take_lost(), [lost(at(0), at(1), 2)], "what was seen");
    index.fold.trim("a", at(2));
    index.fold.missed(&(at(2)..at(8)), Loss::Retention);
    assert_eq!(index.fold.take_lost(), [lost(at(2), at(7), 0)], "and what was not");
}

#[test]
fn what_is_filled_in_is_bounded_and_each_record_counts_once() {
    let mut builder = floodplain_log::BatchBuilder::new();
    for n in 0..PER_FILTER_MAX / 4 {
        let id = format!("id:{n}");
        let copied = MessageRef { dedup_id: Some(&id), ..message("d", "t", b"", 1) };
        copied.write(&mut builder, 0, std::iter::empty()).unwrap();
        if n % 1000 == 0 {
            copied.write(&mut builder, 0, std::iter::empty()).unwrap();
        }
    }
    let batch = builder.finish(floodplain_log::Compression::None).unwrap();
    let records = u64::from(batch.last_offset_delta()) + 1;
    let mut index = WaitingIndex::default();
    index.add_filter(&filter("#"), at(0), at(6 * records));
    while let Some((from, _)) = index.needs_backfill() {
        // All batches have the same ids, which the window has forgotten: it has 1,024 of a device.
        let base = Position::new(0, from.offset);
        let batches = vec![ReadBatch { base, batch: batch.clone(), at: from.offset * 100 }];
        index.backfill(&Read { next: at(from.offset + records), batches, ..Read::default() });
    }
    let lost: u64 = index.take_lost().iter().map(|lost| lost.count).sum();
    assert!(index.len() <= PER_FILTER_MAX && lost > 0);
    assert_eq!(lost + index.len() as u64, 6 * (PER_FILTER_MAX as u64 / 4), "each once, and nothing untold");
}

#[test]
fn a_copy_of_a_record_waits_once() {
    let mut index = Index::default();
    index.add("#", 0);
    let mut copy = message("d", "a", b"x", 2);
    copy.dedup_id = Some("w:1");
    index.message(0, &copy);
    index.message(0, &copy);
    assert_eq!(offsets(&index.page(&[("#", 0)], 9)), [0]);
}

#[test]
fn a_copy_that_came_once_somebody_wanted_it_waits_once_with_its_original_from_before() {
    let mut index = Index::default();
    let mut copy = message("d", "a", b"x", 2);
    copy.dedup_id = Some("w:1");
    index.message(0, &copy);
    // A session that the index learns of later than the messages are there.
    index.fold.add_filter(&filter("#"), at(0), at(1));
    index.message(0, &copy);
    assert_eq!(index.fold.needs_backfill(), Some((at(0), at(1))));
    let base = at(0);
    let batches = vec![ReadBatch { base, batch: message_batch(0, &copy), at: 0 }];
    index.fold.backfill(&Read { next: at(1), batches, ..Read::default() });
    assert_eq!(offsets(&index.page(&[("#", 0)], 9)), [0]);
}

/// A log with one partition of these messages: topic and QoS.
fn log_of(messages: &[(&str, u8)]) -> (ModelLog, Partition) {
    let log = ModelLog::new(Arc::new(ManualClock::default()));
    let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("t").unwrap(), generation: 0 };
    let partition = log.open_stream(&id, 1).unwrap().partition(0);
    for (topic, qos) in messages {
        let batches = vec![(partition, message_batch(0, &message("d", topic, b"x", *qos)))];
        log.submit(Append { batches, class: Class::All }, None);
    }
    (log, partition)
}

fn feed(index: &mut Index, log: &ModelLog, partition: Partition, until: u64) {
    let read = log.read(partition, at(index.next), usize::MAX).unwrap();
    for batch in
        read.batches.into_iter().filter(|batch| (index.next..until).contains(&batch.base.offset)).collect::<Vec<_>>()
    {
        index.batch(batch.batch);
    }
}

fn fill(index: &mut Index, log: &ModelLog, partition: Partition) {
    while let Some((from, until)) = index.fold.needs_backfill() {
        assert!(from < until);
        let read: Read = log.read(partition, from, 1).unwrap();
        index.fold.backfill(&read);
    }
}

const TOPICS: [&str; 4] = ["a", "a/b", "b", "c/b"];
const FILTERS: [&str; 5] = ["a", "a/#", "+/b", "#", "c/b"];

proptest! {
    /// Whenever filters come, whatever is trimmed, restarted and filled in: what waits is what the
    /// log holds.
    #[test]
    fn what_waits_is_what_the_log_holds(
        messages in prop::collection::vec((0_usize..4, 0_u8..3), 1..60),
        wishes in prop::collection::vec((0_u64..60, 0_usize..5, 0_u64..60, 0_u8..6), 0..12),
    ) {
        let messages: Vec<_> = messages.into_iter().map(|(topic, qos)| (TOPICS[topic], qos)).collect();
        let (log, partition) = log_of(&messages);
        let end = messages.len() as u64;
        let mut index = Index::default();
        let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
        let mut wishes = wishes;
        wishes.sort_unstable();
        for (when, name, from, what) in wishes {
            feed(&mut index, &log, partition, when);
            let (name, from) = (FILTERS[name], from.min(index.next));
            index.copy_on(from as usize * 3);
            match what {
                0 => {
                    index.fold.remove_filter(name);
                    wanted.remove(name);
                }
                1 => {
                    if let Some(low) = wanted.get_mut(name) {
                        index.fold.trim(name, at(from));
                        *low = (*low).max(from);
                    }
                }
                2 => fill(&mut index, &log, partition),
                3 => {
                    // A part of a walk through the log.
                    if let Some((from, _)) = index.fold.needs_backfill() {
                        let read = log.read(partition, from, 1).unwrap();
                        index.fold.backfill(&read);
                    }
                }
                4 => {
                    let bytes = index.bytes();
                    index.fold.restore(WaitingIndex::FORMAT, &bytes).unwrap();
                    index.drop_copy();
                    prop_assert_eq!(index.bytes(), bytes);
                }
                _ => {
                    index.add(name, from);
                    let low = wanted.entry(name).or_insert(from);
                    *low = (*low).min(from);
                }
            }
        }
        feed(&mut index, &log, partition, end);
        fill(&mut index, &log, partition);
        index.copy_all();
        let holds = |name: &str, low: u64| -> BTreeSet<u64> {
            (low..end)
                .filter(|offset| {
                    let (topic, qos) = messages[*offset as usize];
                    qos > 0 && filter_matches(name, topic)
                })
                .collect()
        };
        let mut all = 0;
        for (name, low) in &wanted {
            let page = index.page(&[(name, *low)], usize::MAX);
            prop_assert_eq!(page.known_from, Position::ZERO, "{} is known from {}", name, low);
            prop_assert_eq!(offsets(&page).into_iter().collect::<BTreeSet<_>>(), holds(name, *low), "{}", name);
            all += page.postings.len();
        }
        prop_assert_eq!(index.fold.len(), all, "and nothing else");
        // Page by page, for all filters at once, it is the same.
        let union: BTreeSet<u64> = wanted.iter().flat_map(|(name, low)| holds(name, *low)).collect();
        let (mut from, mut paged) = (0, Vec::new());
        loop {
            let wanted: Vec<(&str, u64)> = wanted.iter().map(|(name, low)| (*name, (*low).max(from))).collect();
            let page = index.page(&wanted, 3);
            paged.extend(offsets(&page));
            if page.postings.is_empty() {
                break;
            }
            from = page.next.offset;
        }
        prop_assert_eq!(paged, union.into_iter().collect::<Vec<_>>());
        // What a posting refers to is the record itself.
        let refs: Vec<RecordRef> =
            index.page(&[("#", 0)], usize::MAX).postings.iter().map(|posting| posting.reference).collect();
        prop_assert_eq!(log.fetch(partition, &refs).unwrap().len(), refs.len());
    }
}
