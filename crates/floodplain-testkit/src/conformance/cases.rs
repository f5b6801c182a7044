//! The cases. Each gets an empty log of its own.

use super::{Case, Harness, Seen, batch, passes};
use crate::history::{Copies, History, Stamp};
use crate::wait::{Outcomes, wait_until};
use floodplain_log::{
    Append, BatchBuilder, CompletionSink, Compression, Outcome, Partition, ReadError, Record, Refusal, Reply,
    RetentionSink, WatermarkSink,
};
use floodplain_types::{Class, Position};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

pub(super) const ALL: &[Case] = &[
    ("streams keep their names and partitions", streams_keep_names_and_partitions),
    ("order is kept per partition and writer", order_per_partition_and_writer),
    ("an append is read where it was committed", read_your_append),
    ("a read may start anywhere", read_from_anywhere),
    ("the end is the watermark", the_end_is_the_watermark),
    ("a trimmed position says where the log starts", trim),
    ("each class ends as promised", classes),
    ("a unit commits whole or not at all", units_are_atomic),
    ("a refusal leaves nothing", a_refusal_leaves_nothing),
    ("fetch by reference equals read", fetch_equals_read),
    ("watermarks grow and end at the end", watermarks_grow),
    ("a read has bounded memory", reads_are_bounded),
    ("a read from memory equals a read", cached_reads_equal_reads),
    ("a position is found by time, never late", positions_by_time),
    ("everything is the same after a restart", restart),
];

const FAR: usize = 1 << 20;

fn streams_keep_names_and_partitions(h: Harness) {
    let a = h.stream("a", 3);
    let b = h.stream("b", 1);
    assert_ne!(a.number, b.number);
    assert_eq!(h.stream("a", 99), a, "an existing stream keeps its partitions");
    let mut names: Vec<String> = h.log.streams().iter().map(|stream| stream.id.to_string()).collect();
    names.sort();
    assert_eq!(names, ["default.a", "default.b"]);
    let id = h.log.partition_id(a.partition(2)).expect("it exists");
    assert_eq!((id.to_string().as_str(), &id.stream), ("default.a/2", &*a.id));
    let unknown = Partition { stream: a.number, index: 3 };
    assert_eq!(h.log.partition_id(unknown), None);
    assert!(matches!(h.log.read(unknown, Position::ZERO, FAR), Err(ReadError::UnknownPartition(p)) if p == unknown));
}

/// Four threads, three partitions, many appends under way at once.
fn order_per_partition_and_writer(h: Harness) {
    const WRITERS: u64 = 4;
    const APPENDS: u64 = 150;
    let stream = h.stream("a", 3);
    let history = History::new();
    let (log, pump, exact) = (&h.log, &*h.pump, h.exact);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (history, stream) = (&history, &stream);
            scope.spawn(move || {
                let outcomes = Outcomes::new();
                let stamp = |i: u64| Stamp::new(&format!("w{writer}p{}", i % 3), i);
                for i in 0..APPENDS {
                    let partition = stream.partition((i % 3) as u32);
                    let mut builder = BatchBuilder::new();
                    builder.push(1, None, Some(&stamp(i).payload(0)), []).expect("small");
                    let batches = vec![(partition, builder.finish(Compression::None).expect("one record"))];
                    history.invoke(&stamp(i));
                    let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
                    log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: i }));
                }
                for i in 0..APPENDS {
                    match outcomes.wait(i, pump) {
                        Outcome::Committed(_) => history.ok(&stamp(i)),
                        Outcome::Unknown if !exact => history.unknown(&stamp(i)),
                        Outcome::Refused(refusal) if !exact && passes(&refusal) => history.fail(&stamp(i)),
                        other => panic!("append ended as {other:?}"),
                    }
                }
            });
        }
    });
    let mut payloads = Vec::new();
    for index in 0..3 {
        let partition = stream.partition(index);
        // Whatever is still on its way comes before this one.
        let end = h.write(partition, &["end"], Compression::None);
        h.wait_for(partition, end.next());
        let values = h.read(partition, h.log.start(partition), FAR).into_iter().map(|seen| seen.value.into_bytes());
        payloads.extend(values.filter(|value| value != b"end"));
    }
    let copies = if exact { Copies::PerAttempt } else { Copies::Any };
    let report = history.check(payloads.iter().map(Vec::as_slice), copies);
    report.assert_clean("writers");
    assert!(report.acked > WRITERS * APPENDS / 2, "{report}");
}

fn read_your_append(h: Harness) {
    let partition = h.stream("a", 2).partition(1);
    let mut last = None;
    for i in 0..20 {
        let values = [format!("{i}.0"), format!("{i}.1")];
        let position = h.write(partition, &values, Compression::None);
        assert!(Some(position) > last, "positions grow with each append");
        last = Some(position);
        h.wait_for(partition, position.next());
        let seen = h.read(partition, position, FAR);
        assert_eq!((seen[0].position, &seen[0].value), (position, &values[0]));
        assert_eq!(seen[1].value, values[1], "the batch is whole");
    }
}

/// Batches of many sizes, compressed and not; returns what is in the partition.
fn fill(h: &Harness, partition: Partition) -> Vec<Seen> {
    for i in 0..40_usize {
        let values: Vec<String> = (0..=i % 7).map(|j| format!("value {i}.{j} {}", "x".repeat(i * 13 % 200))).collect();
        let compression = if i % 3 == 0 { Compression::Zstd } else { Compression::None };
        let position = h.write(partition, &values, compression);
        h.wait_for(partition, position.next());
    }
    h.read(partition, h.log.start(partition), FAR)
}

/// Compares what was read with what it should be. An engine that doubles appends may have added
/// copies behind it meanwhile.
fn same(h: &Harness, read: Vec<Seen>, expected: &[Seen], context: impl std::fmt::Display) {
    let known = expected.last().map_or(Position::ZERO, |last| last.position);
    let read: Vec<_> = read.into_iter().filter(|seen| h.exact || seen.position <= known).collect();
    for (i, expected) in expected.iter().enumerate() {
        assert_eq!(read.get(i), Some(expected), "{context}: record {i}");
    }
    assert_eq!(read.len(), expected.len(), "{context}");
}

/// From every position there is: first in a batch, inside one, in a hole.
fn read_from_anywhere(h: Harness) {
    let partition = h.stream("a", 2).partition(0);
    let all = fill(&h, partition);
    let (first, end) = (all[0].position, h.log.watermark(partition));
    for offset in first.offset..end.offset {
        let from = Position { offset, ..first };
        let expected: Vec<_> = all.iter().filter(|seen| seen.position >= from).cloned().collect();
        for max_bytes in [1, 500, usize::MAX] {
            same(&h, h.read(partition, from, max_bytes), &expected, format_args!("from {from} by {max_bytes}"));
        }
    }
}

fn the_end_is_the_watermark(h: Harness) {
    let partition = h.stream("a", 1).partition(0);
    let empty = h.log.read(partition, h.log.start(partition), FAR).expect("an empty partition can be read");
    assert!(empty.batches.is_empty());
    assert_eq!(empty.next, h.log.watermark(partition));
    assert_eq!(h.log.start(partition), h.log.watermark(partition));
    let all = fill(&h, partition);
    let end = h.log.watermark(partition);
    assert!(end > all[all.len() - 1].position);
    let read = h.log.read(partition, end, FAR).expect("the end can be read");
    assert!(read.batches.is_empty());
    assert!(read.next == end || !h.exact && read.next > end);
}

#[derive(Debug, Default)]
struct Passed(Mutex<Vec<(Partition, Position)>>);

impl RetentionSink for Passed {
    fn passed(&self, starts: &[(Partition, Position)]) {
        self.0.lock().expect("no test panics here").extend(starts);
    }
}

fn trim(h: Harness) {
    let stream = h.stream("a", 2);
    let (partition, other) = (stream.partition(0), stream.partition(1));
    let all = fill(&h, partition);
    let untouched = fill(&h, other);
    let start = h.log.start(partition);
    let passed = Arc::new(Passed::default());
    h.log.watch_retention(Arc::clone(&passed) as Arc<dyn RetentionSink>);
    let middle = all[all.len() / 2].position;
    h.log.trim(partition, middle);
    // Allowed, not demanded: the engine may keep more.
    let now = h.log.start(partition);
    assert!(start <= now && now <= middle, "{start} <= {now} <= {middle}");
    let expected: Vec<_> = all.iter().filter(|seen| seen.position >= middle).cloned().collect();
    same(&h, h.read(partition, middle, FAR), &expected, "from the trimmed position");
    if start < now {
        match h.log.read(partition, start, FAR) {
            Err(ReadError::Trimmed { partition: id, from, start: told }) => {
                assert_eq!((Some(id), from), (h.log.partition_id(partition), start));
                assert!(now <= told && told <= middle, "{told} can be read");
            }
            other => panic!("a read of what is gone gave {other:?}"),
        }
    }
    if start < now {
        let told = || passed.0.lock().expect("no test panics here").clone();
        wait_until("the new start is told", &*h.pump, || told().last() == Some(&(partition, h.log.start(partition))));
        assert!(told().iter().all(|(told, _)| *told == partition), "{:?}", told());
    }
    h.log.trim(partition, start);
    assert!(h.log.start(partition) >= now, "the start never goes back");
    h.log.trim(partition, h.log.watermark(partition));
    let position = h.write(partition, &["after"], Compression::None);
    h.wait_for(partition, position.next());
    assert_eq!(h.read(partition, position, FAR)[0].value, "after");
    same(&h, h.read(other, h.log.start(other), FAR), &untouched, "other partitions stay");
}

fn classes(h: Harness) {
    let stream = h.stream("a", 1);
    let partition = stream.partition(0);
    let mut expected: Vec<(Class, String)> = Vec::new();
    let mut told = Vec::new();
    let of = |expected: &[(Class, String)], least: Class| -> Vec<String> {
        expected.iter().filter(|(class, _)| *class >= least).map(|(_, value)| value.clone()).collect()
    };
    for i in 0..30 {
        let class = [Class::None, Class::Leader, Class::All][i % 3];
        let value = format!("{i} {class}");
        let position = h.append(class, &[(partition, batch(&[&value], Compression::None, 1))])[0];
        expected.push((class, value.clone()));
        told.push((class, value, position));
        if class == Class::All {
            h.wait_for(partition, position.next());
            let mut seen = h.values(partition);
            // What nobody hears of may come later.
            let least = if h.orders_classes { Class::None } else { Class::Leader };
            let known = of(&expected, least);
            seen.retain(|value| known.contains(value));
            assert_eq!(seen, known, "everything before a committed append is committed too");
        }
    }
    // Nobody has to listen.
    let unheard = batch(&["unheard"], Compression::None, 1);
    h.log.submit(Append { batches: vec![(partition, unheard)], class: Class::None }, None);
    expected.push((Class::None, "unheard".to_owned()));
    let last = h.write(partition, &["last"], Compression::None);
    expected.push((Class::All, "last".to_owned()));
    h.wait_for(partition, last.next());
    if !h.exact {
        return;
    }
    wait_until("all have come", &*h.pump, || h.values(partition).len() >= expected.len());
    let seen = h.read(partition, h.log.start(partition), FAR);
    let mut values: Vec<(Class, String)> = Vec::new();
    for seen in &seen {
        let class = expected.iter().find(|(_, value)| *value == seen.value).map(|(class, _)| *class);
        values.push((class.expect("it was written"), seen.value.clone()));
    }
    if !h.orders_classes {
        // Within each class they still are in order.
        expected.sort_by_key(|(class, _)| *class);
        values.sort_by_key(|(class, _)| *class);
    }
    assert_eq!(values, expected);
    for (class, value, position) in told {
        let at = seen.iter().find(|seen| seen.value == value).map(|seen| seen.position);
        assert!(at == Some(position) || class == Class::None && at > Some(position), "{value} is at {at:?}");
    }
}

fn units_are_atomic(h: Harness) {
    let (a, b) = (h.stream("a", 4), h.stream("b", 4));
    let mut written = 0;
    for i in 0..30 {
        let values = [format!("{i}")];
        let unit: Vec<_> = (0..4)
            .flat_map(|p| [a.partition(p), b.partition(p)])
            .map(|partition| (partition, batch(&values, Compression::None, 1)))
            .collect();
        match h.attempt(Class::All, unit) {
            Outcome::Committed(positions) => {
                assert_eq!(positions.len(), 8);
                written += 1;
            }
            Outcome::Unknown if !h.exact => {}
            Outcome::Refused(refusal) if !h.exact && passes(&refusal) => {}
            other => panic!("append ended as {other:?}"),
        }
    }
    let partitions: Vec<_> = (0..4).flat_map(|p| [a.partition(p), b.partition(p)]).collect();
    for partition in &partitions {
        let end = h.write(*partition, &["end"], Compression::None);
        h.wait_for(*partition, end.next());
    }
    let first = h.values(partitions[0]);
    assert!(first.len() > written, "{written} units and the end: {first:?}");
    for partition in &partitions {
        assert_eq!(h.values(*partition), first, "each unit is in all of its partitions or in none");
    }
    // Two batches for one partition keep their order.
    let partition = partitions[0];
    let two = [(partition, batch(&["x"], Compression::None, 1)), (partition, batch(&["y"], Compression::None, 1))];
    let positions = h.append(Class::All, &two);
    assert!(positions[0] < positions[1]);
    h.wait_for(partition, positions[1].next());
    let seen = h.read(partition, positions[0], FAR);
    assert_eq!([seen[0].value.as_str(), seen[1].value.as_str()], ["x", "y"]);
}

fn a_refusal_leaves_nothing(h: Harness) {
    let stream = h.stream("a", 2);
    let partition = stream.partition(0);
    let position = h.write(partition, &["before"], Compression::None);
    h.wait_for(partition, position.next());

    let unknown = Partition { stream: stream.number, index: 2 };
    let good = (partition, batch(&["refused"], Compression::None, 1));
    let bad = (unknown, batch(&["refused"], Compression::None, 1));
    let huge = "x".repeat(usize::try_from(h.log.queue_capacity_bytes()).expect("fits") + 1);
    let too_large = (partition, batch(&[huge], Compression::None, 1));
    for (batches, allowed) in [
        (
            vec![good.clone(), bad],
            &(|r: &Refusal| *r == Refusal::UnknownPartition(unknown)) as &dyn Fn(&Refusal) -> bool,
        ),
        (vec![good, too_large], &|r| matches!(r, Refusal::TooLarge { .. } | Refusal::Overloaded { .. })),
    ] {
        let refusal = loop {
            match h.attempt(Class::All, batches.clone()) {
                Outcome::Unknown if !h.exact => {}
                Outcome::Refused(refusal) if !h.exact && passes(&refusal) && !allowed(&refusal) => {}
                Outcome::Refused(refusal) => break refusal,
                other => panic!("append ended as {other:?}"),
            }
        };
        assert!(allowed(&refusal), "{refusal}");
    }
    let position = h.write(partition, &["after"], Compression::None);
    h.wait_for(partition, position.next());
    assert_eq!(h.values(partition), ["before", "after"]);
    wait_until("the queue is empty", &*h.pump, || h.log.queued_bytes() == 0);
}

/// What a record holds, past its place.
type Content = (Position, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>, i64);

fn content(position: Position, base_timestamp_ms: i64, record: &Record<'_>) -> Content {
    let headers = record.headers().map(|header| {
        let (name, value) = header.expect("we wrote it");
        (name.to_owned(), value.unwrap_or_default().to_vec())
    });
    let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
    (position, key, value, headers.collect(), base_timestamp_ms + record.timestamp_delta_ms)
}

/// References to all records of a partition, with what they hold.
fn references(h: &Harness, partition: Partition) -> Vec<(floodplain_log::RecordRef, Content)> {
    let (mut at, mut all) = (h.log.start(partition), Vec::new());
    while at < h.log.watermark(partition) {
        let read = h.log.read(partition, at, FAR).expect("healthy");
        for read_batch in &read.batches {
            for record in &read_batch.batch.records().expect("we wrote it") {
                let record = record.expect("we wrote it");
                let time = read_batch.batch.timestamp_ms(&record) - record.timestamp_delta_ms;
                all.push((read_batch.record_ref(&record), content(read_batch.position(&record), time, &record)));
            }
        }
        at = read.next;
    }
    all
}

fn check_fetch(h: &Harness, partition: Partition, all: &[(floodplain_log::RecordRef, Content)], step: usize) {
    let some: Vec<_> = all.iter().step_by(step).cloned().collect();
    let refs: Vec<_> = some.iter().map(|(reference, _)| *reference).collect();
    let fetched = h.log.fetch(partition, &refs).expect("healthy");
    assert_eq!(fetched.len(), refs.len());
    for (fetched, (_, expected)) in fetched.iter().zip(&some) {
        let record = Record::parse(&fetched.bytes).expect("we wrote it");
        assert_eq!(content(fetched.position, fetched.base_timestamp_ms, &record), *expected);
    }
}

fn fetch_equals_read(h: Harness) {
    let stream = h.stream("a", 2);
    let partition = stream.partition(0);
    fill(&h, partition);
    fill(&h, stream.partition(1));
    let all = references(&h, partition);
    assert!(all.len() > 100);
    for step in [1, 2, 7, all.len()] {
        check_fetch(&h, partition, &all, step);
    }
    let backwards: Vec<_> = all.iter().rev().cloned().collect();
    check_fetch(&h, partition, &backwards, 3);
    assert!(h.log.fetch(partition, &[]).expect("nothing to do").is_empty());
}

#[derive(Debug, Default)]
struct Watcher(Mutex<BTreeMap<Partition, Vec<Position>>>);

impl WatermarkSink for Watcher {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        let mut all = self.0.lock().expect("no test panics here");
        for (partition, watermark) in watermarks {
            all.entry(*partition).or_default().push(*watermark);
        }
    }
}

fn watermarks_grow(h: Harness) {
    let stream = h.stream("a", 2);
    let watcher = Arc::new(Watcher::default());
    h.log.watch(Arc::clone(&watcher) as Arc<dyn WatermarkSink>);
    for i in 0..50 {
        h.write(stream.partition(i % 2), &[i.to_string()], Compression::None);
    }
    for index in 0..2 {
        let partition = stream.partition(index);
        let end = h.write(partition, &["end"], Compression::None);
        h.wait_for(partition, end.next());
        let told = || watcher.0.lock().expect("no test panics here").get(&partition).cloned().unwrap_or_default();
        wait_until("the last watermark is told", &*h.pump, || told().last() > Some(&end));
        assert!(told().is_sorted_by(|a, b| a < b), "{:?}", told());
    }
}

fn reads_are_bounded(h: Harness) {
    const BATCH: usize = 20_000;
    let partition = h.stream("a", 1).partition(0);
    for i in 0..40 {
        let position = h.write(partition, &[format!("{i:0BATCH$}")], Compression::None);
        h.wait_for(partition, position.next());
    }
    for max_bytes in [0, 1, BATCH, 3 * BATCH, 10 * BATCH] {
        let mut at = h.log.start(partition);
        while at < h.log.watermark(partition) {
            let read = h.log.read(partition, at, max_bytes).expect("healthy");
            let bytes: usize = read.batches.iter().map(|b| b.batch.as_bytes().len()).sum();
            assert!(bytes <= max_bytes + BATCH + 200, "{bytes} bytes where {max_bytes} were asked for");
            assert!(read.next > at, "at least one batch");
            at = read.next;
        }
    }
}

fn cached_reads_equal_reads(h: Harness) {
    let partition = h.stream("a", 1).partition(0);
    let all = fill(&h, partition);
    for seen in &all {
        let Some(cached) = h.log.read_cached(partition, seen.position, 2_000) else { continue };
        let read = h.log.read(partition, seen.position, FAR).expect("healthy");
        assert!(cached.next > seen.position && cached.next <= read.next);
        assert!(cached.batches.len() <= read.batches.len());
        for (cached, read) in cached.batches.iter().zip(&read.batches) {
            assert_eq!((cached.base, cached.at, &cached.batch), (read.base, read.at, &read.batch));
        }
    }
}

fn positions_by_time(h: Harness) {
    let partition = h.stream("a", 1).partition(0);
    let mut ingested = Vec::new();
    for i in 0..30 {
        h.clock.advance(Duration::from_secs(10));
        let ms = floodplain_types::Clock::now(&*h.clock).as_millis();
        let position = h.append(Class::All, &[(partition, batch(&[i.to_string()], Compression::None, ms))])[0];
        h.wait_for(partition, position.next());
        ingested.push((ms, position));
    }
    for (ms, position) in &ingested {
        for time in [ms - 1, *ms] {
            let found = h.log.position_at(partition, time).expect("healthy");
            assert!(found <= *position, "{found} is later than {position}, which came at {ms}");
        }
    }
    let (first_ms, first) = ingested[0];
    assert!(h.log.position_at(partition, first_ms - 1_000).expect("healthy") <= first);
}

fn restart(h: Harness) {
    let stream = h.stream("a", 2);
    let partition = stream.partition(0);
    let all = fill(&h, partition);
    let references = references(&h, partition);
    let end = h.log.watermark(partition);
    let Some(h) = h.reopen() else { return };
    assert_eq!(h.stream("a", 9).partitions, 2);
    let partition = h.stream("a", 2).partition(0);
    same(&h, h.read(partition, h.log.start(partition), FAR), &all, "after the restart");
    assert!(h.log.watermark(partition) >= end, "positions are not given again");
    check_fetch(&h, partition, &references, 2);
    let position = h.write(partition, &["after"], Compression::None);
    assert!(position >= end);
    h.wait_for(partition, position.next());
    assert_eq!(h.read(partition, end, FAR).last().map(|seen| seen.value.clone()), Some("after".to_owned()));
}
