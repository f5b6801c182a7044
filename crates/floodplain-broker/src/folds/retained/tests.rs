use super::*;
use floodplain_types::filter_matches;
use proptest::prelude::*;

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("a-b"), Just("a0"), Just("b"), Just(""), Just("$x"), Just("ä"), Just("~")]
}

fn filter() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => level(), 1 => Just("+")];
    (prop::collection::vec(part, 0..5), any::<bool>()).prop_map(|(mut parts, hash)| {
        if hash || parts.is_empty() || parts == [""] {
            parts.push("#");
        }
        parts.join("/")
    })
}

fn fold_of(topics: &[String]) -> RetainedFold {
    let mut fold = RetainedFold::default();
    for (offset, topic) in topics.iter().enumerate() {
        let stamp = Stamp { ingest: Timestamp(0), partition: 0, position: Position::new(0, offset as u64) };
        let record = RetainedRecord { bytes: Bytes::from_static(b"x"), base_timestamp_ms: 0, expires_at: None };
        fold.keep(topic, stamp, Some(record));
    }
    fold
}

fn all_pages(fold: &RetainedFold, filter: &str, limit: usize) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = fold.page(filter, after.as_deref(), limit);
        found.extend(page.candidates.iter().map(|candidate| candidate.topic.to_string()));
        let Some(next) = page.next else { return found };
        assert!(after.is_none_or(|after| after < next), "pages go forward");
        after = Some(next);
    }
}

proptest! {
    #[test]
    fn pages_hold_what_the_rule_matches(
        filter in filter(),
        topics in prop::collection::vec(prop::collection::vec(level(), 1..6), 0..60),
        limit in 1_usize..7,
    ) {
        let mut topics: Vec<String> =
            topics.iter().map(|levels| levels.join("/")).filter(|topic| !topic.is_empty()).collect();
        topics.sort();
        topics.dedup();
        let fold = fold_of(&topics);
        let expected: Vec<String> = topics.into_iter().filter(|topic| filter_matches(&filter, topic)).collect();
        prop_assert_eq!(all_pages(&fold, &filter, limit), expected);
    }
}

#[test]
fn a_filter_skips_what_cannot_match() {
    let topics: Vec<String> = (0..10_000).flat_map(|d| (0..10).map(move |m| format!("s/d{d:05}/m{m}"))).collect();
    let fold = fold_of(&topics);
    // 8,000 looked at in one page: 100,000 topics would take 13 pages if each were looked at.
    let page = fold.page("s/+/m9", None, 1000);
    assert_eq!(page.candidates.len(), 1000);
    assert_eq!(fold.page("s/d00500/#", None, 1000).candidates.len(), 10);
    assert_eq!(fold.page("s/d00500/m3", None, 1).candidates.len(), 1);
    assert_eq!(fold.page("t/#", None, 1000), RetainedPage::default());
}

fn candidate(topic: &str, ms: i64, partition: u32, alive: bool) -> Candidate {
    let record = RetainedRecord {
        bytes: Bytes::from_static(b"x"),
        base_timestamp_ms: 0,
        expires_at: Some(Timestamp::from_millis(100)),
    };
    Candidate {
        topic: topic.into(),
        stamp: Stamp { ingest: Timestamp::from_millis(ms), partition, position: Position::ZERO },
        record: alive.then_some(record),
    }
}

#[test]
fn the_newest_of_all_partitions_counts() {
    let pages = || {
        vec![
            RetainedPage {
                candidates: vec![
                    candidate("a", 5, 0, true),
                    candidate("b", 5, 0, true),
                    candidate("c", 5, 0, true),
                    candidate("e", 5, 0, true),
                ],
                next: None,
            },
            RetainedPage {
                candidates: vec![candidate("a", 6, 1, false), candidate("b", 5, 1, true), candidate("c", 4, 1, false)],
                next: Some("d".into()),
            },
        ]
    };
    let (found, next) = newest(pages(), Timestamp::from_millis(50));
    let found: Vec<_> = found.iter().map(|c| (&*c.topic, c.stamp.partition)).collect();
    assert_eq!(found, [("b", 1), ("c", 0)], "a is deleted in another partition, e comes with the next page");
    assert_eq!(next.as_deref(), Some("d"));
    assert_eq!(newest(pages(), Timestamp::from_millis(100)).0, [], "all have expired");
}

mod fold {
    use super::*;
    use crate::folds::feed::{Feed, message, message_batch, seconds};
    use floodplain_log::Record;

    fn publish(feed: &mut Feed<RetainedFold>, at_s: i64, topic: &str, payload: &[u8], expiry: Option<u32>) {
        let mut message = message("d", topic, payload, 1);
        (message.retain, message.expiry_seconds) = (true, expiry);
        feed.message(at_s, &message);
    }

    fn payload(candidate: &Candidate) -> Option<Vec<u8>> {
        let record = candidate.record.as_ref()?;
        Some(Record::parse(&record.bytes).unwrap().value.unwrap_or_default().to_vec())
    }

    fn held(feed: &Feed<RetainedFold>) -> Vec<(String, Option<Vec<u8>>)> {
        let page = feed.fold.page("#", None, 100);
        page.candidates.iter().map(|candidate| (candidate.topic.to_string(), payload(candidate))).collect()
    }

    fn some(topic: &str, payload: &[u8]) -> (String, Option<Vec<u8>>) {
        (topic.to_owned(), Some(payload.to_vec()))
    }

    #[test]
    fn the_newest_message_of_a_topic_is_kept_and_an_empty_one_deletes() {
        let mut feed = Feed::<RetainedFold>::default();
        publish(&mut feed, 1, "a", b"1", None);
        feed.message(2, &message("d", "a", b"not retained", 1));
        publish(&mut feed, 2, "b", b"1", None);
        // The clock of the writer went back: the order in the partition counts.
        publish(&mut feed, 0, "a", b"2", None);
        assert_eq!(held(&feed), [some("a", b"2"), some("b", b"1")]);
        assert_eq!(feed.fold.page("a", None, 1).candidates[0].stamp.ingest, seconds(2));
        publish(&mut feed, 3, "a", b"", None);
        assert_eq!(held(&feed), [("a".to_owned(), None), some("b", b"1")], "the deletion hides older ones elsewhere");
        assert_eq!(feed.fold.len(), 1);
        publish(&mut feed, 3, "a", b"3", None);
        assert_eq!(feed.fold.len(), 2);
        let mut restored = Feed::<RetainedFold>::default();
        restored.fold.restore(RetainedFold::FORMAT, &feed.bytes()).unwrap();
        assert_eq!((restored.bytes(), restored.fold.bytes()), (feed.bytes(), feed.fold.bytes()));
        assert_eq!(held(&restored), held(&feed));
    }

    #[test]
    fn an_expired_message_goes_with_log_time() {
        let mut feed = Feed::<RetainedFold>::default();
        publish(&mut feed, 10, "a", b"1", Some(5));
        publish(&mut feed, 10, "b", b"1", Some(50));
        publish(&mut feed, 11, "b", b"2", None);
        assert_eq!(newest(vec![feed.fold.page("#", None, 9)], seconds(14)).0.len(), 2);
        let late: Vec<_> = newest(vec![feed.fold.page("#", None, 9)], seconds(15)).0;
        assert_eq!(late.iter().map(|candidate| &*candidate.topic).collect::<Vec<_>>(), ["b"], "by the reader's clock");
        feed.message(15, &message("d", "x", b"", 0));
        assert_eq!(held(&feed), [("a".to_owned(), None), some("b", b"2")]);
        feed.message(99, &message("d", "x", b"", 0));
        assert_eq!(held(&feed)[1], some("b", b"2"), "the replaced one's expiry is void");
    }

    #[test]
    fn very_many_expire_record_by_record() {
        let mut feed = Feed::<RetainedFold>::default();
        for n in 0..3 * EXPIRED_MAX {
            publish(&mut feed, 10, &format!("t/{n}"), b"1", Some(5));
        }
        for left in [2 * EXPIRED_MAX, EXPIRED_MAX, 0] {
            feed.message(99, &message("d", "x", b"", 0));
            assert_eq!(feed.fold.len(), left);
            assert!(newest(vec![feed.fold.page("#", None, 999)], seconds(99)).0.is_empty(), "none is delivered");
        }
    }

    #[test]
    fn a_copy_does_not_come_back_over_a_newer_message() {
        let mut feed = Feed::<RetainedFold>::default();
        let mut first = message("d", "a", b"1", 1);
        (first.retain, first.dedup_id) = (true, Some("w:1"));
        feed.message(1, &first);
        publish(&mut feed, 2, "a", b"2", None);
        feed.message(3, &first);
        assert_eq!(held(&feed), [some("a", b"2")]);
    }

    #[test]
    fn deletions_are_bounded() {
        let mut feed = Feed::<RetainedFold>::default();
        for n in 0..DELETED_MAX + 10 {
            publish(&mut feed, 1, &format!("t/{n:08}"), b"", None);
        }
        assert_eq!(feed.fold.topics.len(), DELETED_MAX);
        assert_eq!(&*feed.fold.page("#", None, 1).candidates[0].topic, "t/00000010", "the oldest went");
        assert_eq!(feed.fold.bytes(), DELETED_MAX * ("t/00000010".len() + ENTRY_BYTES));
    }

    #[test]
    fn deletions_of_long_topics_are_bounded() {
        let mut feed = Feed::<RetainedFold>::default();
        let long = "x".repeat(60_000);
        for n in 0..400 {
            publish(&mut feed, 1, &format!("{n}/{long}"), b"", None);
        }
        assert!(feed.fold.bytes() <= DELETED_BYTES_MAX && feed.fold.topics.len() > 200);
    }

    #[test]
    fn messages_are_bounded() {
        let mut feed = Feed::<RetainedFold>::default();
        let large = vec![1; 8 << 20];
        for n in 0..12 {
            publish(&mut feed, 1, &format!("t/{n}"), &large, None);
        }
        assert_eq!(feed.fold.len(), 7, "64 MiB, and what topics cost");
        publish(&mut feed, 1, "t/0", &large, None);
        publish(&mut feed, 1, "t/1", b"", None);
        publish(&mut feed, 1, "t/12", b"there is room again", None);
        assert_eq!(feed.fold.len(), 7);
        // A topic that is there may grow, but not beyond the limit: then the older message does not stay either.
        publish(&mut feed, 1, "t/12", &large, None);
        assert_eq!(feed.fold.len(), 7);
        publish(&mut feed, 1, "t/0", &[large.clone(), large].concat(), None);
        assert_eq!(feed.fold.len(), 6);
        assert!(feed.fold.bytes() <= BYTES_MAX);
        let mut restored = RetainedFold::default();
        restored.restore(RetainedFold::FORMAT, &feed.bytes()).unwrap();
        assert_eq!((restored.len(), restored.bytes()), (feed.fold.len(), feed.fold.bytes()));
    }

    proptest! {
        #[test]
        fn a_replay_is_equal_and_a_restored_fold_goes_on_alike(
            steps in prop::collection::vec((0_i64..9, 0_usize..5, any::<Option<u8>>(), proptest::option::of(0_u32..20)), 1..50),
            cut in 0_usize..50,
        ) {
            let (mut feed, mut replay) = (Feed::<RetainedFold>::default(), Feed::<RetainedFold>::default());
            let mut now = 0;
            for (idx, (passes, topic, payload, expiry)) in steps.into_iter().enumerate() {
                now += passes;
                let payload: Vec<u8> = payload.into_iter().collect();
                for feed in [&mut feed, &mut replay] {
                    publish(feed, now, ["a", "b", "a/b", "c", "d"][topic], &payload, expiry);
                }
                if idx == cut {
                    let bytes = feed.bytes();
                    feed.fold.restore(RetainedFold::FORMAT, &bytes).unwrap();
                }
                prop_assert_eq!(feed.bytes(), replay.bytes());
                replay.copy_on(usize::from(payload.first().copied().unwrap_or_default()));
                prop_assert_eq!(feed.fold.bytes(), replay.fold.bytes());
                let deleted = feed.fold.topics.values().filter(|held| held.record.is_none()).count();
                prop_assert_eq!(deleted, feed.fold.deleted.len());
            }
            replay.copy_all();
        }
    }

    #[test]
    fn what_is_no_message_is_skipped() {
        let mut feed = Feed::<RetainedFold>::default();
        let mut builder = floodplain_log::BatchBuilder::new();
        builder.push(0, None, Some(b"no topic"), []).unwrap();
        builder.push(0, None, Some(b"wild"), [("fp.t", &b"a/+"[..]), ("fp.f", b"1r")]).unwrap();
        feed.batch(builder.finish(floodplain_log::Compression::None).unwrap());
        assert_eq!(held(&feed), []);
        feed.batch(message_batch(0, &message("d", "a", b"", 0)));
        assert_eq!(held(&feed), []);
    }
}
