use super::*;
use crate::folds::{
    CloseReason, DLQ, Lost, LostReason, NEVER_EXPIRES, Outbound, OutboundState, PartitionProgress, Progress, RunId,
    TELEMETRY, Will,
    feed::{Feed, seconds},
};
use bytes::Bytes;
use floodplain_fold::{Output, STEP_ITEMS};
use floodplain_log::{Compression, MessageRef, ReadBatch};
use floodplain_types::Topic;
use proptest::prelude::*;

type Sessions = Feed<SessionFold>;

const RUN: RunId = RunId(7);

fn open(clean_start: bool, session_expiry_s: u32) -> Open {
    Open {
        run: RUN,
        protocol_level: 5,
        takes_over: false,
        clean_start,
        session_expiry_s,
        keep_alive_s: 60,
        peer: "127.0.0.1:5".to_owned(),
        will: None,
    }
}

fn with_will(open: Open, delay_s: u32) -> Event {
    let will = Will {
        topic: Topic::new("gone/c").unwrap(),
        payload: Bytes::from_static(b"bye"),
        qos: 1,
        retain: true,
        delay_s,
        expiry_s: Some(30),
        payload_format: Some(1),
        content_type: Some("text/plain".to_owned()),
        response_topic: None,
        correlation: Some(Bytes::from_static(&[0, 255])),
        user_properties: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
        stream: 0,
    };
    Event::Open(Box::new(Open { will: Some(will), ..open }))
}

fn opens(open: Open) -> Event {
    Event::Open(Box::new(open))
}

fn close(epoch: Position, fires_will: bool) -> Close {
    Close {
        epoch,
        reason: if fires_will { CloseReason::ConnectionLost } else { CloseReason::Disconnect },
        fires_will,
        session_expiry_s: None,
        progress: Progress::default(),
    }
}

fn closes(epoch: Position, fires_will: bool) -> Event {
    Event::Close(Box::new(close(epoch, fires_will)))
}

fn filter(name: &str) -> TopicFilter {
    TopicFilter::new(name).unwrap()
}

fn subscription(name: &str, qos: u8) -> Subscription {
    Subscription {
        filter: filter(name),
        qos,
        no_local: false,
        retain_as_published: false,
        id: None,
        retained_due: false,
    }
}

fn starts(offset: u64) -> Positions {
    (0..3).map(|partition| (partition, Position::new(0, offset + u64::from(partition)))).collect()
}

fn subscribes(epoch: Position, name: &str, qos: u8, offset: u64) -> Event {
    Event::Subscribe { epoch, subscriptions: vec![subscription(name, qos)], start: starts(offset) }
}

/// What happens to client `c`, and when.
enum Then {
    /// Connects with will, and with a delay of it.
    Opens {
        v5: bool,
        clean: bool,
        expiry: u32,
        will: Option<u32>,
    },
    Loses,
    Disconnects,
    /// DISCONNECT with a new session expiry.
    Ends(u32),
    Tick,
    Restart,
}

/// How many wills each step sends: at a second, what, and how many.
fn check(name: &str, steps: &[(i64, Then, usize)]) {
    let mut feed = Sessions::default();
    let mut epoch = Position::ZERO;
    for (idx, (at_s, then, expected)) in steps.iter().enumerate() {
        let event = match *then {
            Then::Opens { v5, clean, expiry, will } => {
                let open = Open { protocol_level: if v5 { 5 } else { 4 }, ..open(clean, expiry) };
                will.map_or_else(|| opens(open.clone()), |delay| with_will(open.clone(), delay))
            }
            Then::Loses => closes(epoch, true),
            Then::Disconnects => closes(epoch, false),
            Then::Ends(expiry) => {
                Event::Close(Box::new(Close { session_expiry_s: Some(expiry), ..close(epoch, true) }))
            }
            Then::Tick => Event::Tick,
            Then::Restart => Event::ServerStart { run: RunId(8) },
        };
        let client = if matches!(event, Event::Tick | Event::ServerStart { .. }) { "" } else { "c" };
        let (position, wills) = feed.event(*at_s, client, &event);
        if matches!(event, Event::Open(_)) {
            epoch = position;
        }
        assert_eq!(wills.len(), *expected, "{name}, step {idx}");
    }
}

#[test]
fn wills_are_sent_when_the_standard_says() {
    use Then::{Disconnects, Ends, Loses, Opens, Restart, Tick};
    let v5 = |clean, expiry, will| Opens { v5: true, clean, expiry, will };
    let v4 = |clean, expiry, will| Opens { v5: false, clean, expiry, will };
    check("lost", &[(0, v5(true, 0, Some(0)), 0), (1, Loses, 1), (2, Loses, 0)]);
    check("left in order", &[(0, v5(true, 9, Some(0)), 0), (1, Disconnects, 0), (99, Tick, 0)]);
    check("delayed", &[(0, v5(true, 99, Some(10)), 0), (1, Loses, 0), (10, Tick, 0), (11, Tick, 1), (200, Tick, 0)]);
    check("session ends before the delay", &[(0, v5(true, 5, Some(10)), 0), (1, Loses, 0), (5, Tick, 0), (6, Tick, 1)]);
    check("session ends with the connection", &[(0, v5(true, 0, Some(10)), 0), (1, Loses, 1)]);
    check("DISCONNECT ends the session", &[(0, v5(true, 50, Some(10)), 0), (1, Ends(0), 1)]);
    check("DISCONNECT shortens the session", &[(0, v5(true, 50, Some(10)), 0), (1, Ends(2), 0), (3, Tick, 1)]);
    check("expiry cannot come from zero", &[(0, v5(true, 0, Some(10)), 0), (1, Ends(50), 1)]);
    check(
        "resumed in time",
        &[(0, v5(true, 99, Some(9)), 0), (1, Loses, 0), (9, v5(false, 99, None), 0), (50, Tick, 0)],
    );
    check("too late", &[(0, v5(true, 99, Some(9)), 0), (1, Loses, 0), (10, v5(false, 99, None), 1)]);
    check("clean start ends it", &[(0, v5(true, 99, Some(9)), 0), (1, Loses, 0), (2, v5(true, 99, None), 1)]);
    check("taken over, delay", &[(0, v5(true, 99, Some(9)), 0), (1, v5(false, 99, None), 0), (50, Tick, 0)]);
    check("taken over, no delay", &[(0, v5(true, 99, Some(0)), 0), (1, v5(false, 99, None), 1)]);
    check("taken over, clean start", &[(0, v5(true, 99, Some(9)), 0), (1, v5(true, 99, None), 1)]);
    check("taken over, no session", &[(0, v5(true, 0, Some(9)), 0), (1, v5(false, 99, None), 1)]);
    check("taken over, 3.1.1", &[(0, v4(false, 99, Some(0)), 0), (1, v4(false, 99, Some(0)), 1), (2, Loses, 1)]);
    check("server died", &[(0, v5(true, 99, Some(0)), 0), (1, Restart, 1), (2, Restart, 0)]);
    check("server died, delay", &[(0, v5(true, 99, Some(9)), 0), (1, Restart, 0), (10, Tick, 1)]);
    check(
        "server died, resumed",
        &[(0, v5(true, 99, Some(9)), 0), (1, Restart, 0), (5, v5(false, 9, None), 0), (50, Tick, 0)],
    );
    check(
        "never expires",
        &[(0, v5(true, NEVER_EXPIRES, Some(9)), 0), (1, Loses, 0), (10, Tick, 1), (9_999_999, Tick, 0)],
    );
}

#[test]
fn a_will_is_a_message_of_its_client() {
    let mut feed = Sessions::default();
    let (epoch, _) = feed.event(0, "c", &with_will(open(true, 0), 0));
    let (_, wills) = feed.event(1, "c", &closes(epoch, true));
    let [Output { stream, key, value, headers }] = &wills[..] else { panic!("one will") };
    assert_eq!((*stream, key.as_slice(), value.as_deref()), (TELEMETRY, &b"c"[..], Some(&b"bye"[..])));
    let mut builder = BatchBuilder::new();
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    builder.push(5, Some(key), value.as_deref(), headers).unwrap();
    let batch = builder.finish(Compression::None).unwrap();
    let records = batch.records().unwrap();
    let message = MessageRef::parse(&records.iter().next().unwrap().unwrap()).unwrap();
    assert_eq!((message.topic, message.qos, message.retain, message.expiry_seconds), ("gone/c", 1, true, Some(30)));
    assert_eq!((message.payload_format, message.content_type), (Some(1), Some("text/plain")));
    assert_eq!(message.correlation.unwrap().data(), &[0, 255][..]);
    assert_eq!(message.user_properties().collect::<Vec<_>>(), [("a", "1"), ("a", "2")]);
    assert_eq!((message.publisher_or_key(), message.session_epoch), ("c", Some("0:0")));
}

#[test]
fn an_older_epoch_changes_nothing() {
    let mut feed = Sessions::default();
    let (old, _) = feed.event(0, "c", &opens(open(false, 99)));
    let (new, _) = feed.event(1, "c", &with_will(open(false, 99), 0));
    let before = feed.bytes();
    let progress = Progress {
        partitions: vec![PartitionProgress { partition: 0, cursor: Position::new(0, 5), done: vec![] }],
        ..Progress::default()
    };
    for event in [
        subscribes(old, "a", 1, 5),
        Event::Unsubscribe { epoch: old, filters: vec![filter("a")] },
        Event::Progress { epoch: old, progress },
        Event::Received { epoch: old, packet_id: 1, is_apart: false },
        Event::Released { epoch: old, packet_id: 1 },
        closes(old, true),
    ] {
        assert_eq!(feed.event(2, "c", &event).1, [], "{event:?}");
        assert_eq!(feed.bytes(), before, "{event:?}");
    }
    feed.event(3, "c", &closes(new, false));
    let closed = feed.bytes();
    feed.event(4, "c", &subscribes(new, "a", 1, 5));
    assert_eq!(feed.bytes(), closed, "after the end of its connection");
}

/// Until a progress says that all are sent, a session knows after which topic its retained messages are due.
#[test]
fn retained_messages_are_due_until_all_are_sent() {
    let mut feed = Sessions::default();
    let (epoch, _) = feed.event(0, "c", &opens(open(false, 99)));
    let Event::Subscribe { mut subscriptions, start, .. } = subscribes(epoch, "a/#", 1, 5) else { unreachable!() };
    subscriptions[0].retained_due = true;
    let subscribe = Event::Subscribe { epoch, subscriptions, start };
    let due = |feed: &Sessions| {
        let held = &feed.fold.session("c").unwrap().subscriptions()[0];
        (held.subscription.retained_due, held.retained_after.as_deref().map(str::to_owned))
    };
    let sent = |after: Option<&str>| Event::Progress {
        epoch,
        progress: Progress {
            retained: vec![(filter("a/#"), after.map(str::to_owned)), (filter("other"), None)],
            ..Progress::default()
        },
    };
    feed.event(1, "c", &subscribe);
    assert_eq!(due(&feed), (true, None));
    feed.event(2, "c", &sent(Some("a/7")));
    assert_eq!(due(&feed), (true, Some("a/7".to_owned())));
    let bytes = feed.bytes();
    let mut other = SessionFold::default();
    other.restore(SessionFold::FORMAT, &bytes).unwrap();
    assert_eq!(other.session("c").unwrap().subscriptions(), feed.fold.session("c").unwrap().subscriptions());
    feed.event(3, "c", &subscribe);
    assert_eq!(due(&feed), (true, None), "from the beginning, for a new subscription");
    feed.event(4, "c", &sent(None));
    assert_eq!(due(&feed), (false, None));
    feed.event(5, "c", &sent(Some("a/9")));
    assert_eq!(due(&feed), (false, None), "an old one changes nothing any more");
}

#[test]
fn a_resumed_session_has_what_it_had() {
    let mut feed = Sessions::default();
    let (epoch, _) = feed.event(0, "c", &opens(open(false, 99)));
    assert!(!feed.fold.session("c").unwrap().is_resumed);
    feed.event(1, "c", &subscribes(epoch, "a/+", 1, 5));
    feed.event(1, "c", &Event::Received { epoch, packet_id: 9, is_apart: false });
    feed.event(1, "c", &Event::Received { epoch, packet_id: 3, is_apart: false });
    feed.event(1, "c", &Event::Released { epoch, packet_id: 9 });
    let sent = |offset, state| Outbound { partition: 1, position: Position::new(0, offset), state };
    let progress = Progress {
        partitions: vec![PartitionProgress {
            partition: 1,
            cursor: Position::new(0, 20),
            done: vec![Position::new(0, 25), Position::new(0, 22)],
        }],
        outbound: vec![
            (5, Some(sent(21, OutboundState::AwaitsPubrec))),
            (2, Some(sent(23, OutboundState::AwaitsPuback))),
            (4, Some(sent(24, OutboundState::AwaitsPubrec))),
        ],
        ..Progress::default()
    };
    feed.event(1, "c", &Event::Progress { epoch, progress });
    let progress = Progress {
        partitions: vec![PartitionProgress { partition: 1, cursor: Position::new(0, 3), done: vec![] }],
        outbound: vec![(5, Some(sent(21, OutboundState::AwaitsPubcomp))), (2, None)],
        ..Progress::default()
    };
    feed.event(2, "c", &Event::Close(Box::new(Close { progress, ..close(epoch, true) })));
    let (epoch, _) = feed.event(50, "c", &opens(open(false, 99)));
    let session = feed.fold.session("c").unwrap();
    assert!(session.is_resumed && session.is_connected && session.epoch == epoch);
    assert_eq!(session.inbound(), [3]);
    assert_eq!(
        session.outbound(),
        [(4, sent(24, OutboundState::AwaitsPubrec)), (5, sent(21, OutboundState::AwaitsPubcomp))],
        "in the order in which they were sent, or released, last"
    );
    assert_eq!(session.cursor.get(1), Position::new(0, 20), "a cursor never goes back");
    assert_eq!(session.done(1).count(), 0, "done is replaced");
    assert_eq!(session.subscriptions()[0].start, starts(5));
}

#[test]
fn a_session_ends_by_log_time() {
    let mut feed = Sessions::default();
    feed.fold.watch();
    let (epoch, _) = feed.event(0, "c", &opens(open(false, 10)));
    feed.event(0, "c", &subscribes(epoch, "a", 1, 5));
    feed.event(100, "", &Event::Tick);
    assert!(feed.fold.session("c").is_some(), "kept while connected");
    feed.event(100, "c", &closes(epoch, false));
    assert_eq!(feed.fold.next_timer(), Some(seconds(110)));
    feed.event(109, "", &Event::Tick);
    assert!(feed.fold.session("c").is_some());
    feed.fold.drain_changes();
    feed.event(110, "", &Event::Tick);
    assert!(feed.fold.is_empty() && feed.fold.next_timer().is_none() && feed.fold.filters().count() == 1);
    let client = ClientId::new("c").unwrap();
    let ended = Change::Ended { client: client.clone(), epoch, reason: EndReason::Expired };
    assert_eq!(feed.fold.drain_changes(), [ended]);
    // It is kept until it is known what waited for it.
    let wanted = vec![(filter("a"), starts(5))];
    let last = Ended { at: seconds(110), reason: EndReason::Expired, wanted, done: vec![] };
    assert_eq!(feed.fold.ended().collect::<Vec<_>>(), [(&client, epoch, &last)]);
    feed.fold.begin_scan();
    assert_eq!(feed.fold.scan_lowest(9), Some(vec![(filter("a"), starts(5))]), "the index keeps what waits");
    let (_, told) = feed.event(110, "c", &Event::Buried { epoch, letters: vec![letter("session expired", 7, 9)] });
    assert_eq!(
        letters(&told),
        [
            r#"c {"session":"c","reason":"session expired","stream":"telemetry","partition":1,"from":"0:7","to":"0:9","count":2}"#
        ]
    );
    assert_eq!(feed.fold.drain_changes(), [Change::FilterDropped { filter: filter("a") }]);
    let again = Event::Buried { epoch, letters: vec![letter("session expired", 7, 9)] };
    assert!(feed.event(110, "c", &again).1.is_empty(), "once");
    let (_, _) = feed.event(111, "c", &opens(open(false, 10)));
    assert!(!feed.fold.session("c").unwrap().is_resumed);
}

fn letter(reason: &str, from: u64, to: u64) -> Letter {
    Letter { reason: reason.into(), partition: 1, from: Position::new(0, from), to: Position::new(0, to), count: 2 }
}

fn lost(name: &str, first: u64, last: u64, reason: LostReason) -> Lost {
    Lost { filter: filter(name), first: Position::new(0, first), last: Position::new(0, last), count: 3, reason }
}

/// Key and value of what went to `dlq`.
fn letters(out: &[Output]) -> Vec<String> {
    let letters = out.iter().filter(|output| output.stream == DLQ);
    letters
        .map(|output| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            format!("{} {}", text(&output.key), text(output.value.as_ref().unwrap()))
        })
        .collect()
}

#[test]
fn what_the_index_gives_up_is_told_once_to_each_who_needed_it() {
    let mut feed = Sessions::default();
    for (client, from) in [("a", 4), ("b", 30), ("c", 7)] {
        let (epoch, _) = feed.event(0, client, &opens(open(false, 1000)));
        feed.event(0, client, &subscribes(epoch, "x", 1, from));
        feed.event(0, client, &closes(epoch, false));
    }
    let event = |first, last, reason| Event::Lost { partition: 1, lost: lost("x", first, last, reason) };
    feed.event(1, "", &event(6, 9, LostReason::QueueFull));
    feed.event(1, "", &event(6, 9, LostReason::QueueFull));
    feed.event(1, "", &event(10, 12, LostReason::Retention));
    // Damage lies in the middle of what waits.
    feed.event(1, "", &event(20, 22, LostReason::Damage));
    feed.event(1, "", &event(20, 22, LostReason::Damage));
    assert_eq!(feed.fold.session("a").unwrap().subscriptions()[0].start.get(1), Position::new(0, 13));
    let (_, told) = feed.event(3, "", &Event::Tick);
    let range = |client: &str, reason: &str, from: u64, to: u64, count: u64| {
        format!(
            r#"{client} {{"session":"{client}","reason":"{reason}","stream":"telemetry","partition":1,"from":"0:{from}","to":"0:{to}","count":{count}}}"#
        )
    };
    let (full, gone, damaged) = (LostReason::QueueFull.text(), LostReason::Retention.text(), LostReason::Damage.text());
    let expected = ["a", "c"].map(|client| {
        let from = if client == "a" { 6 } else { 8 };
        [range(client, full, from, 9, 3), range(client, gone, 10, 12, 3), range(client, damaged, 20, 22, 3)]
    });
    assert_eq!(letters(&told), expected.concat());
    assert!(feed.event(9, "", &Event::Tick).1.is_empty(), "once");
}

/// A client of many.
fn nth(n: u64) -> String {
    format!("c{n:05}")
}

/// Each event concerns all of them; in one step it does what a step may.
#[test]
fn what_concerns_many_sessions_is_done_in_bounded_steps() {
    const MANY: u64 = 3 * STEP_ITEMS as u64 + 7;
    let fill = || {
        let mut feed = Sessions::default();
        for n in 0..MANY {
            let (epoch, _) = feed.event(0, &nth(n), &with_will(open(false, 1000), 9));
            feed.event(0, &nth(n), &subscribes(epoch, "x", 1, 4));
            if n % 3 == 0 {
                feed.event(0, &nth(n), &opens(Open { clean_start: true, ..open(false, 1000) }));
            }
        }
        feed
    };
    let loss = Event::Lost { partition: 1, lost: lost("x", 2, 9, LostReason::QueueFull) };
    let events = [Event::ServerStart { run: RunId(8) }, loss, Event::Tick, Event::Tick];
    let (mut feed, mut whole) = (fill(), Sessions { step_items: usize::MAX, ..fill() });
    let mut outputs = 0;
    for (at, event) in [0, 5, 100, 5000].into_iter().zip(&events) {
        let mut builder = BatchBuilder::new();
        builder.push(at * 1000, None, Some(&event.encode()), []).unwrap();
        let batch =
            ReadBatch { base: Position::new(0, feed.next), batch: builder.finish(Compression::None).unwrap(), at: 0 };
        let records = batch.batch.records().unwrap();
        let record = records.iter().next().unwrap().unwrap();
        let log_time = seconds(at);
        let input = Input { partition: 3, position: batch.base, log_time, record: &record, batch: &batch };
        let (mut steps, mut emitted) = (0, Vec::new());
        let mut made = |out: &mut Outputs| {
            // A will and a letter of each.
            assert!(out.len() <= 2 * STEP_ITEMS, "{} outputs", out.len());
            emitted.extend(out.drain());
            steps += 1;
        };
        while feed.fold.next_timer().is_some_and(|timer| timer <= log_time) {
            let mut out = Outputs::default();
            feed.fold.on_time(log_time, batch.base, &mut out);
            made(&mut out);
        }
        let mut out = Outputs::default();
        feed.fold.apply(&input, &mut out);
        made(&mut out);
        while feed.fold.has_more() {
            let mut out = Outputs::default();
            feed.fold.go_on(&mut out);
            made(&mut out);
        }
        assert!(steps >= 3, "{steps} steps at {at}");
        feed.next += 1;
        outputs += emitted.len();
        assert_eq!(whole.event(at, "", event).1, emitted, "at {at}");
        whole.copy_on(100_000);
        assert_eq!(whole.bytes(), feed.bytes(), "at {at}");
    }
    // A will of each that had one, and a letter of each that needed what was lost.
    assert_eq!(outputs as u64, (MANY - MANY.div_ceil(3)) + MANY);
    assert!(feed.fold.is_empty());
    whole.copy_all();
}

#[test]
fn what_a_session_is_done_with_undelivered_is_told_with_its_progress() {
    let mut feed = Sessions::default();
    let (epoch, _) = feed.event(0, "a", &opens(open(false, 1000)));
    let told = |epoch| Event::Progress {
        epoch,
        progress: Progress { letters: vec![letter("expired", 3, 4)], ..Progress::default() },
    };
    assert_eq!(letters(&feed.event(1, "a", &told(epoch)).1).len(), 1);
    let (later, _) = feed.event(2, "a", &opens(open(false, 1000)));
    assert!(
        letters(&feed.event(3, "a", &told(epoch)).1).is_empty(),
        "of an older connection: the new one finds it again"
    );
    let progress = Progress { letters: vec![letter("expired", 3, 4)], ..Progress::default() };
    let close = Event::Close(Box::new(Close { progress, ..close(later, false) }));
    assert_eq!(letters(&feed.event(4, "a", &close).1).len(), 1);
}

#[test]
fn snapshots_of_earlier_formats_are_read() {
    let mut feed = Sessions::default();
    let (epoch, _) = feed.event(0, "a", &opens(open(false, 1000)));
    feed.event(0, "a", &subscribes(epoch, "x", 1, 5));
    // Format 2 adds an empty list of letters and no time to the session, and an empty list of ended sessions behind it; format 3
    // an empty list of messages that are apart, before that.
    let bytes = feed.bytes();
    let mut dedup = Vec::new();
    feed.fold.seen.snapshot(&mut dedup);
    let before = bytes.len() - dedup.len();
    for (format, session, behind) in [(1, before - 4, &[][..]), (2, before - 2, &[0][..])] {
        let old = [&bytes[..session], behind, &dedup].concat();
        let mut restored = SessionFold::default();
        restored.restore(format, &old).unwrap();
        let mut again = Vec::new();
        restored.snapshot(&mut again);
        assert_eq!(again, bytes);
    }
}

#[test]
fn filters_are_counted_over_sessions() {
    let mut feed = Sessions::default();
    feed.fold.watch();
    let filters = |feed: &Sessions| -> Vec<(String, u32)> {
        feed.fold.filters().map(|(filter, count)| (filter.to_string(), count)).collect()
    };
    let (a, _) = feed.event(0, "a", &opens(open(false, 99)));
    let (b, _) = feed.event(0, "b", &opens(open(false, 99)));
    feed.event(0, "a", &subscribes(a, "x/#", 1, 5));
    feed.event(0, "b", &subscribes(b, "x/#", 2, 50));
    feed.event(0, "b", &subscribes(b, "y", 0, 50));
    assert_eq!(filters(&feed), [("x/#".to_owned(), 2)], "QoS 0 keeps nothing");
    assert_eq!(feed.fold.session("b").unwrap().cursor, starts(50), "nothing before the first subscription");
    // The same filter again keeps its start; one that kept nothing starts now.
    feed.event(1, "a", &subscribes(a, "x/#", 2, 70));
    feed.event(1, "b", &subscribes(b, "y", 1, 70));
    assert_eq!(feed.fold.session("a").unwrap().subscriptions()[0].start, starts(5));
    assert_eq!(feed.fold.session("b").unwrap().subscriptions()[1].start, starts(70));
    assert_eq!(filters(&feed), [("x/#".to_owned(), 2), ("y".to_owned(), 1)]);
    feed.event(2, "b", &subscribes(b, "x/#", 0, 90));
    assert_eq!(filters(&feed), [("x/#".to_owned(), 1), ("y".to_owned(), 1)]);
    assert_eq!(feed.fold.session("b").unwrap().cursor, starts(70), "lifted to the first that is still wanted");
    feed.event(2, "a", &Event::Unsubscribe { epoch: a, filters: vec![filter("x/#"), filter("nothing")] });
    assert_eq!(filters(&feed), [("y".to_owned(), 1)]);
    let wanted = |name: &str, offset| Change::FilterWanted { filter: filter(name), start: starts(offset) };
    let changes: Vec<_> =
        feed.fold.drain_changes().into_iter().filter(|change| !matches!(change, Change::Opened { .. })).collect();
    let dropped = Change::FilterDropped { filter: filter("x/#") };
    assert_eq!(changes, [wanted("x/#", 5), wanted("x/#", 50), wanted("y", 70), dropped]);
}

#[test]
fn takeover_and_clean_start_are_told() {
    let mut feed = Sessions::default();
    feed.event(0, "c", &opens(open(false, 99)));
    assert_eq!(feed.fold.drain_changes(), [], "a replay tells nothing");
    feed.fold.watch();
    let (first, _) = feed.event(1, "c", &opens(open(false, 99)));
    let client = ClientId::new("c").unwrap();
    let [Change::Opened { is_resumed: true, taken_over: Some(_), .. }] = feed.fold.drain_changes()[..] else {
        panic!("taken over")
    };
    let (epoch, _) = feed.event(2, "c", &opens(open(true, 99)));
    let changes = feed.fold.drain_changes();
    assert!(matches!(&changes[0], Change::Ended { reason: EndReason::CleanStart, epoch, .. } if *epoch == first));
    assert_eq!(
        changes[1],
        Change::Opened { client: client.clone(), epoch, run: RunId(7), is_resumed: false, taken_over: Some(first) }
    );
    feed.event(3, "", &Event::ServerStart { run: RunId(1) });
    let reason = CloseReason::ServerDied;
    assert_eq!(feed.fold.drain_changes(), [Change::Closed { client, epoch, reason }]);
}

#[test]
fn the_lowest_positions_are_found_in_parts() {
    let mut feed = Sessions::default();
    for n in 0..10_u64 {
        let client = format!("c{n}");
        let (epoch, _) = feed.event(0, &client, &opens(open(false, 99)));
        feed.event(0, &client, &subscribes(epoch, "x", 1, 100 + n));
        feed.event(0, &client, &subscribes(epoch, &format!("own/{}", n % 2), 1, 200 - n));
    }
    assert_eq!(feed.fold.scan_lowest(5), None, "not begun");
    feed.fold.begin_scan();
    assert_eq!(feed.fold.scan_lowest(4), None);
    // Behind the place that was reached, and lower: must not be trimmed away.
    let (epoch, _) = feed.event(0, "a", &opens(open(false, 99)));
    feed.event(0, "a", &subscribes(epoch, "x", 1, 50));
    assert_eq!(feed.fold.scan_lowest(4), None);
    let lowest = feed.fold.scan_lowest(4).unwrap();
    assert_eq!(lowest, [(filter("own/0"), starts(192)), (filter("own/1"), starts(191)), (filter("x"), starts(50))]);
}

#[test]
fn a_repeated_event_counts_once() {
    let mut feed = Sessions::default();
    let (epoch, _) = feed.event_with_id(0, "c", &opens(open(false, 99)), Some("7:1"));
    let (_, _) = feed.event_with_id(0, "c", &opens(open(false, 99)), Some("7:1"));
    assert_eq!(feed.fold.session("c").unwrap().epoch, epoch, "the copy opens nothing");
    feed.event_with_id(0, "d", &opens(open(false, 99)), Some("7:1"));
    assert!(feed.fold.session("d").is_some(), "ids are per client");
}

#[test]
fn what_is_no_event_is_skipped() {
    let mut feed = Sessions::default();
    feed.event(0, "c", &opens(open(false, 99)));
    let before = feed.bytes();
    let mut builder = BatchBuilder::new();
    for value in [Some(&b""[..]), None, Some(b"\x02"), Some(b"\x01\x63"), Some(b"{}")] {
        builder.push(0, Some(b"c"), value, []).unwrap();
    }
    builder.push(0, Some(b"\xff"), Some(&opens(open(false, 9)).encode()), []).unwrap();
    builder.push(0, None, Some(&opens(open(false, 9)).encode()), []).unwrap();
    let (_, wills) = feed.batch(builder.finish(Compression::None).unwrap());
    assert_eq!((feed.bytes(), wills), (before, vec![]));
}

/// One random event: client, seconds that pass, what.
fn step() -> impl Strategy<Value = (usize, i64, u8, u8, u32)> {
    (0_usize..3, 0_i64..8, 0_u8..14, 0_u8..3, 0_u32..12)
}

fn random_event(feed: &Sessions, client: &str, kind: u8, qos: u8, n: u32) -> (bool, Event) {
    let epoch = feed.fold.session(client).map_or(Position::ZERO, |session| session.epoch);
    let position = Position::new(0, u64::from(n) + 3);
    let event = match kind {
        0 => with_will(open(n.is_multiple_of(3), n), n / 2),
        1 => opens(Open { protocol_level: 4, ..open(n.is_multiple_of(2), n) }),
        2 | 3 => subscribes(epoch, ["a", "a/#", "+/b"][(n % 3) as usize], qos, u64::from(n)),
        4 => Event::Unsubscribe { epoch, filters: vec![filter(["a", "a/#"][(n % 2) as usize])] },
        5 => Event::Progress {
            epoch,
            progress: Progress {
                partitions: vec![PartitionProgress { partition: n % 3, cursor: position, done: vec![position.next()] }],
                outbound: vec![(
                    n as u16 % 4,
                    (qos > 0).then_some(Outbound { partition: 0, position, state: OutboundState::AwaitsPubrec }),
                )],
                retained: vec![(filter(["a", "a/#"][(n % 2) as usize]), (qos > 1).then(|| format!("a/{n}")))],
                letters: if n > 9 { vec![letter("expired", 1, u64::from(n))] } else { vec![] },
            },
        },
        6 => Event::Received { epoch, packet_id: n as u16 % 3, is_apart: n.is_multiple_of(2) },
        7 => Event::Released { epoch, packet_id: n as u16 % 3 },
        8 => closes(epoch, qos > 0),
        9 => Event::Close(Box::new(Close { session_expiry_s: Some(n), ..close(epoch, true) })),
        10 => return (true, Event::Tick),
        11 => {
            let reason = [LostReason::QueueFull, LostReason::Retention, LostReason::Damage][usize::from(qos)];
            return (
                true,
                Event::Lost { partition: n % 3, lost: lost(["a", "a/#"][(n % 2) as usize], 1, u64::from(n), reason) },
            );
        }
        12 => {
            let ended = feed.fold.ended().find(|(of, ..)| of.as_str() == client).map(|(_, epoch, _)| epoch);
            Event::Buried { epoch: ended.unwrap_or(epoch), letters: vec![letter("session expired", 1, 2)] }
        }
        _ => return (true, Event::ServerStart { run: RunId(u64::from(n % 2) + 6) }),
    };
    (false, event)
}

proptest! {
    #[test]
    fn a_restored_fold_goes_on_alike(steps in prop::collection::vec(step(), 1..60), cut in 0_usize..60) {
        let mut feed = Sessions::default();
        // In steps of two items nothing comes out differently.
        let mut small = Sessions { step_items: 2, ..Sessions::default() };
        let mut restored: Option<Sessions> = None;
        let mut now = 0;
        for (idx, (client, passes, kind, qos, n)) in steps.into_iter().enumerate() {
            now += passes;
            let client = ["a", "b", "c"][client];
            let (for_all, event) = random_event(&feed, client, kind, qos, n);
            let client = if for_all { "" } else { client };
            let (_, wills) = feed.event(now, client, &event);
            prop_assert_eq!(&small.event(now, client, &event).1, &wills);
            prop_assert_eq!(small.bytes(), feed.bytes());
            small.copy_on(usize::from(qos) * 70);
            if let Some(restored) = &mut restored {
                prop_assert_eq!(restored.event(now, client, &event).1, wills);
                prop_assert_eq!(restored.bytes(), feed.bytes());
            }
            if idx == cut {
                let mut again = Sessions { next: feed.next, ..Sessions::default() };
                again.fold.restore(SessionFold::FORMAT, &feed.bytes()).unwrap();
                again.event(now, "", &Event::Tick);
                feed.event(now, "", &Event::Tick);
                small.event(now, "", &Event::Tick);
                restored = Some(again);
            }
            // What is derived agrees with what it is derived from.
            let mut filters = BTreeMap::<TopicFilter, u32>::new();
            let mut timers = BTreeSet::new();
            for (client, session) in feed.fold.sessions() {
                for held in session.subscriptions().iter().filter(|held| held.keeps_messages()) {
                    *filters.entry(held.subscription.filter.clone()).or_default() += 1;
                }
                prop_assert_eq!(session.letters.is_empty(), session.letters_at.is_none());
                timers.extend(session.timer().map(|time| (time, client.clone())));
                prop_assert!(session.is_connected == session.closed_at.is_none());
                prop_assert!(session.is_connected || session.expiry_s > 0);
            }
            for (filter, _) in feed.fold.ended().flat_map(|(_, _, ended)| &ended.wanted) {
                *filters.entry(filter.clone()).or_default() += 1;
            }
            let counted: BTreeMap<_, _> = feed.fold.filters().map(|(filter, count)| (filter.clone(), count)).collect();
            prop_assert_eq!(&filters, &counted);
            prop_assert_eq!(&timers, &feed.fold.timers);
            prop_assert!(timers.first().is_none_or(|(time, _)| *time > seconds(now)));
        }
        small.copy_all();
    }

    #[test]
    fn any_bytes_are_refused_or_restored(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut fold = SessionFold::default();
        if fold.restore(SessionFold::FORMAT, &bytes).is_ok() {
            let mut again = Vec::new();
            fold.snapshot(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
