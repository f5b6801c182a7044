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
