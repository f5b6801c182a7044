//! What class `all` promises while the engine is hurt, its process dies, and answers are lost.

use super::{Case, Fault, Harness, batch, load::Load};
use crate::{
    folding::{FoldStreams, each},
    history::{Copies, History, Stamp},
    wait::{Outcomes, wait_until},
};
use floodplain_log::{
    Append, Batch, BatchBuilder, CompletionSink, Compression, InOrder, Outcome, Partition, Refusal, Reply, header,
};
use floodplain_types::Class;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub(super) const ALL: &[Case] = &[
    ("what is repeated counts once", repeats_count_once),
    ("what was acknowledged survives crashes", crashes),
    ("what was acknowledged survives faults", faults),
    ("class all waits for the engine, class none for nobody", classes_of_a_stopped_engine),
    ("a stopped engine fills a queue that has an end", a_stopped_engine_has_bounded_memory),
];

/// A record of a device that may be sent again.
fn record(id: u64) -> Batch {
    let mut builder = BatchBuilder::new();
    let (key, value) = ([(id % 3) as u8], id.to_string());
    builder.push(1, Some(&key), Some(value.as_bytes()), [(header::DEDUP_ID, value.as_bytes())]).expect("small");
    builder.finish(Compression::None).expect("one record")
}

/// Submits without waiting.
fn submit(h: &Harness, outcomes: &Arc<Outcomes>, class: Class, partition: Partition, batch: Batch, tag: u64) {
    let sink = Arc::clone(outcomes) as Arc<dyn CompletionSink>;
    h.log.submit(Append { batches: vec![(partition, batch)], class }, Some(Reply { sink, tag }));
}

/// Devices repeat what they were not told of, whether it was written or not: the acknowledgement was lost on its way, the
/// engine does not know, or its process has died.
fn repeats_count_once(mut h: Harness) {
    const ALONE: u64 = 40;
    const AT_ONCE: u64 = 60;
    let mut streams = FoldStreams::open(&*h.log, 1);
    let mut repeated = 0;
    for id in 0..ALONE {
        // Of every third the device has not heard.
        for _ in 0..1 + u64::from(id % 3 == 0) {
            h.append(Class::All, &[(streams.input.partition(0), record(id))]);
        }
        repeated += u64::from(id % 3 == 0);
    }
    let outcomes = Outcomes::new();
    let ids = ALONE..ALONE + AT_ONCE;
    ids.clone().for_each(|id| submit(&h, &outcomes, Class::All, streams.input.partition(0), record(id), id));
    wait_until("some have ended", &*h.pump, || outcomes.waiting() > 0);
    let acked: BTreeSet<u64> = outcomes
        .take_all()
        .into_iter()
        .filter_map(|(id, outcome)| matches!(outcome, Outcome::Committed(_)).then_some(id))
        .collect();
    let can_crash = h.crash.is_some();
    if can_crash {
        h = h.crash().expect("it can");
        streams = FoldStreams::open(&*h.log, 1);
    }
    // The device connects anew and sends in order what it has not heard of.
    for id in ids.clone().filter(|id| !acked.contains(id)) {
        h.append(Class::All, &[(streams.input.partition(0), record(id))]);
        repeated += 1;
    }
    let input = streams.input.partition(0);
    let end = h.append(Class::All, &[(input, record(ids.end))])[0];
    h.wait_for(input, end.next());
    let (counted, fold) = streams.expected(&*h.log, 0);
    let mut values: Vec<u64> =
        counted.iter().map(|one| String::from_utf8_lossy(&one.value).parse().expect("a number")).collect();
    if !h.exact {
        // What the log has lost, and says so, comes behind what was sent after it.
        values.sort_unstable();
    }
    assert_eq!(values, (0..=ids.end).collect::<Vec<u64>>(), "each once, in order");
    assert_eq!(fold.counts().values().sum::<u64>(), ids.end + 1);
    if h.exact && !can_crash {
        let mut raw = 0;
        each(&*h.log, &streams.input, 0, |_, _| raw += 1);
        assert_eq!(raw, ids.end + 1 + repeated, "the log has them as often as they were sent");
    }
}

/// The process dies with appends under way: those that were acknowledged before are there, in their order.
fn crashes(mut h: Harness) {
    const ROUNDS: u64 = 3;
    const APPENDS: u64 = 90;
    let history = History::new();
    let stamp = |i: u64| Stamp::new(&format!("p{}", i % 3), i);
    for round in 0..ROUNDS {
        let stream = h.stream("a", 3);
        let outcomes = Outcomes::new();
        let all = round * APPENDS..(round + 1) * APPENDS;
        for i in all.clone() {
            let mut builder = BatchBuilder::new();
            builder.push(1, None, Some(&stamp(i).payload(0)), []).expect("small");
            history.invoke(&stamp(i));
            let batch = builder.finish(Compression::None).expect("one record");
            submit(&h, &outcomes, Class::All, stream.partition((i % 3) as u32), batch, i);
        }
        let few = APPENDS as usize / 3;
        wait_until("some are acknowledged", &*h.pump, || outcomes.waiting() >= few);
        for (i, outcome) in outcomes.take_all() {
            match outcome {
                Outcome::Committed(_) => history.ok(&stamp(i)),
                Outcome::Refused(_) => history.fail(&stamp(i)),
                Outcome::Unknown => history.unknown(&stamp(i)),
            }
        }
        let Some(next) = h.crash() else { return };
        h = next;
        let payloads = read_all(&h, "a", 3, round);
        let copies = if h.exact { Copies::PerAttempt } else { Copies::Any };
        let report = history.check(payloads.iter().map(Vec::as_slice), copies);
        report.assert_clean("a crash");
        // What is under way somewhere else may still come.
        history.keep(payloads.iter().map(Vec::as_slice));
    }
    assert!(history.acked() >= ROUNDS * APPENDS / 3 || !h.exact);
}

/// The payloads of a stream, once whatever is still on its way has come.
fn read_all(h: &Harness, name: &str, partitions: u32, round: u64) -> Vec<Vec<u8>> {
    let stream = h.stream(name, partitions);
    let mut payloads = Vec::new();
    for index in 0..partitions {
        let partition = stream.partition(index);
        let end = h.write(partition, &[format!("end {round}")], Compression::None);
        h.wait_for(partition, end.next());
        each(&*h.log, &stream, index, |_, record| payloads.push(record.value.unwrap_or_default().to_vec()));
    }
    payloads.retain(|payload| !payload.starts_with(b"end "));
    payloads
}

fn faults(mut h: Harness) {
    let (faults, disasters) = (std::mem::take(&mut h.faults), std::mem::take(&mut h.disasters));
    let loads = [strike(&h, "telemetry", &faults), strike(&h, "telemetry", &disasters)];
    let check = |h: &Harness, who: &str, round| {
        let payloads = read_all(h, "telemetry", PARTITIONS, round);
        for (load, copies) in loads.iter().zip([Copies::PerAttempt, Copies::Any]) {
            let of_load = payloads.iter().map(Vec::as_slice).filter(|payload| load.has_written(payload));
            let report = load.history.check(of_load, copies);
            println!("conformance: {who}: {report}, {} unknown", load.unknown());
            report.assert_clean(who);
            assert!(report.duplicates == 0 || copies == Copies::Any, "nothing was tried twice");
        }
    };
    check(&h, "the writer", 0);
    if let Some(h) = h.reopen() {
        check(&h, "another process", 1);
    }
}

const PARTITIONS: u32 = 3;

/// Several writers, several partitions, one fault after the other.
fn strike(h: &Harness, name: &'static str, faults: &[Fault]) -> Load {
    const WRITERS: u32 = 4;
    let stream = h.stream(name, PARTITIONS);
    let name = faults.first().map_or("nobody", |(name, _)| name).replace(' ', "-");
    let load = Load::new(&name, (0..PARTITIONS).map(|index| stream.partition(index)).collect());
    if faults.is_empty() {
        return load;
    }
    let (log, pump) = (&h.log, &h.pump);
    std::thread::scope(|scope| {
        let _stops = load.stops_at_end();
        for writer in 0..WRITERS {
            let load = &load;
            scope.spawn(move || load.write(&**log, writer, &**pump));
        }
        load.goes_on("the load runs");
        for (name, fault) in faults {
            println!("conformance: fault: {name}");
            fault(&load);
            load.goes_on(name);
        }
    });
    load
}

fn classes_of_a_stopped_engine(h: Harness) {
    /// Far longer than a healthy engine needs.
    const LOOK: Duration = Duration::from_millis(500);
    let Some(stop) = h.stop.as_ref().filter(|_| h.exact) else { return };
    let partition = h.stream("a", 1).partition(0);
    let before = h.write(partition, &["before"], Compression::None);
    h.wait_for(partition, before.next());
    let stopped = stop();
    let outcomes = Outcomes::new();
    submit(&h, &outcomes, Class::All, partition, batch(&["all"], Compression::None, 1), 0);
    // The call itself does not wait.
    for tag in 1..=20 {
        submit(&h, &outcomes, Class::None, partition, batch(&["none"], Compression::None, 1), tag);
    }
    std::thread::park_timeout(LOOK);
    assert_eq!(outcomes.take(0), None, "the engine has confirmed nothing");
    assert_eq!(h.values(partition), ["before"], "and nothing can be read");
    drop(stopped);
    let Outcome::Committed(positions) = outcomes.wait(0, &*h.pump) else { panic!("it goes on") };
    (1..=20).for_each(|tag| assert!(matches!(outcomes.wait(tag, &*h.pump), Outcome::Committed(_)), "{tag}"));
    h.wait_for(partition, positions[0].next());
    assert!(h.values(partition).contains(&"all".to_owned()));
}

/// What is taken then is committed when it goes on, in order; what is refused leaves nothing, and keeps what came after
/// it from overtaking it.
fn a_stopped_engine_has_bounded_memory(h: Harness) {
    const RECORD: usize = 20_000;
    let Some(stop) = h.stop.as_ref().filter(|_| h.exact) else { return };
    let partition = h.stream("a", 1).partition(0);
    let before = h.write(partition, &["before"], Compression::None);
    h.wait_for(partition, before.next());
    let capacity = h.log.queue_capacity_bytes();
    let stopped = stop();
    let outcomes = Outcomes::new();
    let send = |tag: u64, len: usize, refusals_seen: u64| {
        let batches = vec![(partition, batch(&[format!("{tag} {}", "x".repeat(len))], Compression::None, 1))];
        let reply = Reply { sink: Arc::clone(&outcomes) as Arc<dyn CompletionSink>, tag };
        h.log.submit_in_order(Append { batches, class: Class::All }, reply, InOrder { submitter: 1, refusals_seen });
        (h.pump)();
    };
    let mut sent = 0;
    // An engine may tell late.
    let (first, refusal) = loop {
        assert!(sent * RECORD as u64 <= 2 * capacity, "it takes more than it says");
        send(sent, RECORD, 0);
        sent += 1;
        let refused = (0..sent).find_map(|tag| Some((tag, outcomes.take(tag)?)));
        if let Some((tag, outcome)) = refused {
            break (tag, outcome);
        }
    };
    assert_eq!(refusal, Outcome::Refused(Refusal::Overloaded { capacity_bytes: capacity }));
    assert!(first > 3 && h.log.queued_bytes() <= capacity);
    // They would fit, and must not overtake the one before them.
    send(sent, 1, 0);
    sent += 1;
    for tag in first + 1..sent {
        assert_eq!(outcomes.wait(tag, &*h.pump), Outcome::Refused(Refusal::AfterRefused));
    }
    drop(stopped);
    wait_until("the queue is empty", &*h.pump, || h.log.queued_bytes() == 0);
    (0..first).for_each(|tag| assert!(matches!(outcomes.wait(tag, &*h.pump), Outcome::Committed(_)), "{tag}"));
    // All refusals were heard.
    send(sent, 1, sent - first);
    let Outcome::Committed(last) = outcomes.wait(sent, &*h.pump) else { panic!("there is room") };
    h.wait_for(partition, last[0].next());
    let tags: Vec<String> =
        h.values(partition).iter().map(|value| value.split(' ').next().unwrap_or_default().to_owned()).collect();
    let expected = (0..first).chain([sent]).map(|tag| tag.to_string());
    assert_eq!(tags, ["before".to_owned()].into_iter().chain(expected).collect::<Vec<String>>());
}
