//! Workers as a whole, on logs that are hard to use.

mod answers;
mod apart;
mod counted;
mod crashes;
mod early;
mod hostile;
mod letters;
mod limits;
mod many;
mod nodes;
mod open_ends;
mod poisoned;
mod power;
mod refusals;
mod resume;
mod segments;
mod stopped;
mod streams;

use crate::rig::{ClientId, Rig, connect, packet};
use floodplain_testkit::Adversity;
use floodplain_types::{Position, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

const PERFECT: Adversity = Adversity::NONE;
const SLOPPY: Adversity = Adversity { duplicates: 50, ..Adversity::MILD };

fn lasting(rig: &mut Rig, id: &str, present: u8) -> ClientId {
    let client = rig.client();
    rig.send(client, &connect(4, 0, &[], id));
    rig.expect(client, &[0x20, 2, present, 0]);
    client
}

fn clean(rig: &mut Rig, id: &str) -> ClientId {
    let client = rig.client();
    rig.send(client, &connect(4, 2, &[], id));
    rig.expect(client, &[0x20, 2, 0, 0]);
    client
}

/// Takes what a subscriber was sent and acknowledges its QoS 1 messages; returns their payloads.
fn take_and_ack(rig: &mut Rig, client: ClientId) -> Vec<u16> {
    let bytes = rig.take(client);
    let mut rest = &bytes[..];
    let mut payloads = Vec::new();
    while let [first, len, body @ ..] = rest {
        let (body, behind) = body.split_at(usize::from(*len));
        assert_eq!(first & 0xf6, 0x32, "{rest:02x?}");
        let [0, 1, b't', id @ .., high, low] = body else { panic!("{body:02x?}") };
        payloads.push(u16::from_be_bytes([*high, *low]));
        rig.send(client, &[0x40, 2, id[0], id[1]]);
        rest = behind;
    }
    payloads
}

/// A sleeping subscriber that comes and goes, a publisher that waits for each PUBACK, crashes in
/// between: all that was acknowledged arrives, in order but for repetitions.
fn nothing_acknowledged_is_lost(adversity: Adversity, seed: u64) {
    nothing_acknowledged_is_lost_with(adversity, seed, |_| {});
}

fn nothing_acknowledged_is_lost_with(adversity: Adversity, seed: u64, prepare: impl Fn(&Rig)) {
    let rig = Rig::new(adversity, seed);
    prepare(&rig);
    nothing_acknowledged_is_lost_on(rig, adversity, seed);
}

fn nothing_acknowledged_is_lost_on(mut rig: Rig, adversity: Adversity, seed: u64) {
    let subscriber = lasting(&mut rig, "sub", 0);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
    let mut subscriber = Some(subscriber);
    let mut publisher = clean(&mut rig, "pub");
    let mut got = BTreeSet::new();
    for i in 1..=300_u16 {
        let [high, low] = i.to_be_bytes();
        rig.send(publisher, &[0x32, 7, 0, 1, b't', high, low, high, low]);
        rig.expect(publisher, &[0x40, 2, high, low]);
        if let Some(client) = subscriber {
            got.extend(take_and_ack(&mut rig, client));
        }
        match (u64::from(i) + seed) % 40 {
            10 => {
                if let Some(client) = subscriber.take() {
                    rig.hang_up(client);
                }
            }
            20 => {
                subscriber = Some(lasting(&mut rig, "sub", 1));
            }
            35 if i % 3 == 0 => {
                rig.crash(adversity, seed + u64::from(i));
                publisher = clean(&mut rig, "pub");
                subscriber = None;
            }
            _ => {}
        }
    }
    let client = match subscriber {
        Some(client) => client,
        None => lasting(&mut rig, "sub", 1),
    };
    let got = std::cell::RefCell::new(got);
    rig.turn_until(|rig| {
        got.borrow_mut().extend(take_and_ack(rig, client));
        got.borrow().len() == 300
    });
    let got = got.into_inner();
    let lost: Vec<u16> = (1..=300).filter(|i| !got.contains(i)).collect();
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
}

#[test]
fn sleepers_get_all_that_was_acknowledged() {
    for seed in 0..10 {
        nothing_acknowledged_is_lost(PERFECT, seed);
    }
}

#[test]
fn sleepers_get_all_that_was_acknowledged_by_an_adverse_log() {
    for seed in 0..10 {
        nothing_acknowledged_is_lost(SLOPPY, seed);
    }
}

#[test]
fn a_reader_that_stops_never_slows_a_publisher() {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = clean(&mut rig, "sub");
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
    rig.reads(subscriber, false);
    let publisher = clean(&mut rig, "pub");
    for i in 1..=10_000_u16 {
        let [high, low] = i.to_be_bytes();
        rig.send(publisher, &[0x32, 7, 0, 1, b't', high, low, high, low]);
        rig.expect(publisher, &[0x40, 2, high, low]);
    }
    rig.reads(subscriber, true);
    let mut next = 1;
    for _ in 0..30_000 {
        for payload in take_and_ack(&mut rig, subscriber) {
            assert_eq!(payload, next, "each once, in order");
            next += 1;
        }
        if next > 10_000 {
            return;
        }
        rig.turn_until(|rig| rig.has_output(subscriber));
    }
    panic!("only {next} messages came");
}

#[test]
fn a_silent_client_is_disconnected_after_one_and_a_half_keep_alives() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "quiet");
    for _ in 0..88 {
        rig.advance(Duration::from_secs(1));
    }
    assert!(rig.is_open(client));
    rig.send(client, b"\xc0\x00");
    rig.expect(client, b"\xd0\x00");
    for _ in 0..89 {
        rig.advance(Duration::from_secs(1));
    }
    assert!(rig.is_open(client));
    for _ in 0..5 {
        rig.advance(Duration::from_secs(1));
    }
    rig.expect_close(client);
}

#[test]
fn a_client_that_pings_before_one_and_a_half_keep_alives_lives_at_any_phase() {
    for phase in 0..4 {
        let mut rig = Rig::new(PERFECT, 1);
        rig.advance(Duration::from_millis(250 * phase));
        let client = rig.client();
        let mut greeting = connect(4, 2, &[], "quick");
        // Keep-alive of one second: [MQTT-3.1.2-22] allows one and a half.
        greeting[11] = 1;
        rig.send(client, &greeting);
        rig.expect(client, &[0x20, 2, 0, 0]);
        for _ in 0..8 {
            for _ in 0..5 {
                rig.advance(Duration::from_millis(250));
            }
            // Nearly a quarter of a second after the last tick, and 1.49 s after the ping before.
            assert!(rig.is_open(client), "phase {phase}");
            rig.send(client, b"\xc0\x00");
            rig.expect(client, b"\xd0\x00");
        }
        for _ in 0..6 {
            rig.advance(Duration::from_millis(250));
            assert!(rig.is_open(client), "phase {phase}");
        }
        rig.advance(Duration::from_millis(250));
        rig.expect_close(client);
    }
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = rig.client();
    for _ in 0..13 {
        rig.advance(Duration::from_secs(1));
    }
    rig.expect_close(client);
}

#[test]
fn a_delayed_will_is_not_sent_if_the_client_comes_back_in_time() {
    let mut rig = Rig::new(PERFECT, 1);
    let watcher = clean(&mut rig, "watcher");
    rig.send(watcher, &packet(0x82, b"\x00\x01\x00\x01w\x01"));
    rig.expect(watcher, b"\x90\x03\x00\x01\x01");
    // Session expiry 100 s, will delay 10 s.
    let with_will = |flags: u8| {
        packet(
            0x10,
            &[
                b"\x00\x04MQTT\x05",
                &[flags, 0, 60][..],
                b"\x05\x11\x00\x00\x00\x64\x00\x01d\x05\x18\x00\x00\x00\x0a\x00\x01w\x00\x01x",
            ]
            .concat(),
        )
    };
    let connect_and_lose = |rig: &mut Rig| {
        let client = rig.client();
        rig.send(client, &with_will(0x0c));
        rig.turn_until(|rig| rig.has_output(client));
        assert_eq!(rig.take(client)[0], 0x20);
        rig.hang_up(client);
    };
    connect_and_lose(&mut rig);
    for _ in 0..6 {
        rig.advance(Duration::from_secs(1));
    }
    connect_and_lose(&mut rig);
    for _ in 0..8 {
        rig.advance(Duration::from_secs(1));
    }
    assert_eq!(rig.take(watcher), b"");
    rig.turn_until(|rig| {
        rig.advance(Duration::from_secs(1));
        rig.has_output(watcher)
    });
    rig.expect(watcher, b"\x32\x06\x00\x01w\x00\x01x");
}

/// The values of all records of a stream.
fn values(rig: &Rig, stream: &str) -> Vec<String> {
    let streams = rig.log.streams();
    let stream = streams.iter().find(|found| found.id.stream.as_str() == stream).unwrap();
    let mut values = Vec::new();
    for partition in (0..stream.partitions).map(|index| stream.partition(index)) {
        let mut at = rig.log.start(partition);
        while at < rig.log.watermark(partition) {
            let read = rig.log.read(partition, at, usize::MAX).unwrap();
            for batch in &read.batches {
                let records = batch.batch.records().unwrap();
                let all = records.iter().map(|record| record.unwrap().value.unwrap_or_default().to_vec());
                values.extend(all.map(|value| String::from_utf8(value).unwrap()));
            }
            at = read.next;
        }
    }
    values
}

/// The payload of each message that the log has, and how often.
fn stored(rig: &Rig) -> BTreeMap<String, u32> {
    let mut stored = BTreeMap::new();
    values(rig, "telemetry").into_iter().for_each(|payload| *stored.entry(payload).or_default() += 1);
    stored
}

#[test]
fn a_session_that_wakes_reads_what_it_gets_and_not_the_log() {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = lasting(&mut rig, "sub", 0);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
    rig.hang_up(subscriber);
    let publisher = clean(&mut rig, "pub");
    // 16 MiB that nobody waits for, 200 small messages for the sleeper in between.
    let noise = [&[0x32, 0x84, 0x80, 0x04, 0, 1, b'n', 0, 1][..], &vec![0; (64 << 10) - 1]].concat();
    for i in 1..=200_u16 {
        let [high, low] = i.to_be_bytes();
        rig.send(publisher, &[0x32, 7, 0, 1, b't', high, low, high, low]);
        rig.expect(publisher, &[0x40, 2, high, low]);
        rig.send(publisher, &noise);
        rig.expect(publisher, &[0x40, 2, 0, 1]);
    }
    rig.advance(Duration::from_secs(1));
    rig.bytes_read.store(0, Ordering::Relaxed);
    let subscriber = lasting(&mut rig, "sub", 1);
    let mut got = Vec::new();
    while got.len() < 200 {
        rig.turn_until(|rig| rig.has_output(subscriber));
        assert!(rig.has_output(subscriber), "only {got:?} came");
        got.extend(take_and_ack(&mut rig, subscriber));
    }
    assert_eq!(got, (1..=200).collect::<Vec<u16>>());
    let read = rig.bytes_read.load(Ordering::Relaxed);
    // A record is more than its payload of two bytes: topic, id and lengths are delivered too.
    assert!(read <= 2 * 200 * 10 + (1 << 20), "{read} bytes were read");
}

#[test]
fn what_expires_while_a_session_sleeps_is_named_in_the_dead_letter_stream() {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = lasting(&mut rig, "sub", 0);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
    rig.hang_up(subscriber);
    let publisher = rig.client();
    rig.send(publisher, &connect(5, 2, &[], "pub"));
    rig.turn_until(|rig| rig.has_output(publisher));
    rig.take(publisher);
    for id in 1..=3_u8 {
        // Expires after two seconds.
        rig.send(publisher, &packet(0x32, &[b"\x00\x01t\x00", &[id][..], b"\x05\x02\x00\x00\x00\x02xx"].concat()));
    }
    rig.expect(publisher, b"\x40\x02\x00\x01\x40\x02\x00\x02\x40\x02\x00\x03");
    rig.advance(Duration::from_secs(3));
    let subscriber = lasting(&mut rig, "sub", 1);
    // Never started is deleted [MQTT-3.3.2-5]: what comes is a newer message.
    rig.send(publisher, &packet(0x32, b"\x00\x01t\x00\x04\x00y"));
    rig.expect(subscriber, b"\x32\x06\x00\x01t\x00\x01y");
    rig.turn_until(|rig| {
        rig.advance(Duration::from_secs(1));
        !values(rig, "dlq").is_empty()
    });
    let letters = values(&rig, "dlq");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].contains(r#""session":"sub","reason":"expired","#), "{letters:?}");
    assert!(letters[0].ends_with(r#""from":"0:0","to":"0:2","count":3}"#), "{letters:?}");
}

#[test]
fn a_session_that_expires_leaves_a_dead_letter_for_what_waited() {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = rig.client();
    // Expiry 5 s.
    rig.send(subscriber, &connect(5, 2, b"\x11\x00\x00\x00\x05", "sub"));
    rig.turn_until(|rig| rig.has_output(subscriber));
    rig.take(subscriber);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x04\x00\x01\x00\x01");
    rig.hang_up(subscriber);
    let publisher = clean(&mut rig, "pub");
    rig.send(publisher, &packet(0x32, b"\x00\x01t\x00\x01x"));
    rig.expect(publisher, b"\x40\x02\x00\x01");
    rig.turn_until(|rig| {
        rig.advance(Duration::from_secs(1));
        !values(rig, "dlq").is_empty()
    });
    let letters = values(&rig, "dlq");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].contains(r#""session":"sub","reason":"session expired","#), "{letters:?}");
    assert!(letters[0].ends_with(r#""count":1}"#), "{letters:?}");
}

#[test]
fn a_clock_that_is_set_ends_no_connection() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "quiet");
    rig.clock.advance(Duration::from_secs(86_400));
    rig.advance(Duration::from_secs(1));
    rig.clock.set(Timestamp::from_millis(1_000_000_000_000));
    rig.advance(Duration::from_secs(1));
    rig.send(client, b"\xc0\x00");
    rig.expect(client, b"\xd0\x00");
}

#[test]
fn a_message_acknowledged_before_a_subscription_does_not_reach_it_live() {
    for seed in 0..20 {
        let mut rig = Rig::new(PERFECT, seed);
        let client = clean(&mut rig, "both");
        // Somebody else wants it, so that it is on its way to both workers.
        for id in ["x", "y"] {
            let other = clean(&mut rig, id);
            rig.send(other, &packet(0x82, b"\x00\x01\x00\x01#\x01"));
            rig.expect(other, b"\x90\x03\x00\x01\x01");
        }
        let late = clean(&mut rig, "late");
        rig.send(client, &packet(0x32, b"\x00\x01t\x00\x01a"));
        rig.expect(client, b"\x40\x02\x00\x01");
        for client in [client, late] {
            rig.send(client, &packet(0x82, b"\x00\x02\x00\x01t\x01"));
            rig.expect(client, b"\x90\x03\x00\x02\x01");
        }
        rig.send(client, &packet(0x32, b"\x00\x01t\x00\x02b"));
        rig.expect(late, b"\x32\x06\x00\x01t\x00\x01b");
    }
}

/// Retained messages of a lasting session that are cut off, by the end of the connection or by a crash: the next
/// connection gets the rest; with QoS 2 no message a second time.
fn retained_messages_survive(qos: u8, crash: bool, adversity: Adversity, seed: u64) {
    retained_messages_survive_on(Rig::new(adversity, seed), qos, crash, adversity, seed);
}

fn retained_messages_survive_on(mut rig: Rig, qos: u8, crash: bool, adversity: Adversity, seed: u64) {
    const COUNT: u16 = 300;
    let publisher = clean(&mut rig, "pub");
    for i in 1..=COUNT {
        let [high, low] = i.to_be_bytes();
        let topic = [b't', b'a' + (i / 26) as u8, b'a' + (i % 26) as u8];
        let publish = [&[0, 3], &topic[..], &[high, low, high, low]].concat();
        rig.send(publisher, &packet(0x31 + (qos << 1), &publish));
        if qos == 2 {
            rig.expect(publisher, &[0x50, 2, high, low]);
            rig.send(publisher, &[0x62, 2, high, low]);
            rig.expect(publisher, &[0x70, 2, high, low]);
        } else {
            rig.expect(publisher, &[0x40, 2, high, low]);
        }
    }
    let mut client = lasting(&mut rig, "sub", 0);
    rig.send(client, &packet(0x82, &[0, 1, 0, 1, b'#', qos]));
    rig.turn_until(|rig| rig.has_output(client));
    let mut got: Vec<u16> = Vec::new();
    for round in 0.. {
        assert!(round < 200, "only {} of {COUNT} came", got.len());
        // A few turns, and whatever came is acknowledged; then the connection is cut.
        for _ in 0..3 + round % 5 {
            rig.turn();
            got.extend(take_retained(&mut rig, client));
        }
        if got.iter().collect::<BTreeSet<_>>().len() == usize::from(COUNT) {
            break;
        }
        if crash && round % 2 == 1 {
            rig.crash(adversity, seed + round);
        } else {
            rig.hang_up(client);
        }
        client = lasting(&mut rig, "sub", 1);
    }
    if qos == 2 {
        assert_eq!(got.len(), usize::from(COUNT), "none twice");
    }
}

/// Takes retained messages and acknowledges them as far as their flow goes; gives those whose flow has ended, and of
/// QoS 1 all.
fn take_retained(rig: &mut Rig, client: ClientId) -> Vec<u16> {
    let bytes = rig.take(client);
    let mut rest = &bytes[..];
    let mut payloads = Vec::new();
    while let [first, len, body @ ..] = rest {
        let (body, behind) = body.split_at(usize::from(*len));
        match (first & 0xf0, body) {
            (0x90, _) => {}
            (0x30, [0, 3, b't', _, _, id @ .., high, low]) => {
                payloads.push(u16::from_be_bytes([*high, *low]));
                let answer = if first & 6 == 4 { 0x50 } else { 0x40 };
                rig.send(client, &[answer, 2, id[0], id[1]]);
            }
            (0x60, [high, low]) => rig.send(client, &[0x70, 2, *high, *low]),
            other => panic!("{other:02x?}"),
        }
        rest = behind;
    }
    payloads
}

#[test]
fn retained_messages_that_a_hang_up_cut_off_come_later() {
    retained_messages_survive(1, false, PERFECT, 1);
    retained_messages_survive(2, false, PERFECT, 2);
    retained_messages_survive(2, false, SLOPPY, 3);
}

#[test]
fn retained_messages_that_a_crash_cut_off_come_later() {
    retained_messages_survive(1, true, PERFECT, 4);
    retained_messages_survive(1, true, SLOPPY, 5);
}

/// Clients of two partitions take turns, each after the other's PUBACK, within one millisecond: the last one counts.
#[test]
fn the_later_retained_message_counts_within_a_millisecond() {
    the_later_retained_message_counts_on(Rig::new(PERFECT, 1));
}

fn the_later_retained_message_counts_on(mut rig: Rig) {
    let publishers: Vec<_> = (0..6).map(|n| clean(&mut rig, &format!("p{n}"))).collect();
    for round in 0..4_u8 {
        for (n, publisher) in publishers.iter().enumerate() {
            rig.advance(Duration::from_nanos(1_000));
            rig.send(*publisher, &packet(0x33, &[0, 1, b't', 0, 1, round, n as u8]));
            rig.expect(*publisher, &[0x40, 2, 0, 1]);
            let subscriber = clean(&mut rig, "sub");
            rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x00"));
            rig.expect(subscriber, b"\x90\x03\x00\x01\x00");
            rig.expect(subscriber, &packet(0x31, &[0, 1, b't', round, n as u8]));
            rig.hang_up(subscriber);
        }
    }
}

/// Retention does not wait for folds, so a session that few events concern must not need its first ones for ever.
#[test]
fn what_retention_takes_from_requests_is_in_snapshots_in_time() {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = lasting(&mut rig, "sub", 0);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
    let publisher = clean(&mut rig, "pub");
    rig.send(publisher, b"\x33\x07\x00\x01t\x00\x01\x00\x07");
    rig.expect(publisher, b"\x40\x02\x00\x01");
    rig.hang_up(subscriber);
    for _ in 0..3 {
        rig.advance(Duration::from_secs(61));
    }
    rig.trim_all(&["requests", "telemetry"]);
    rig.crash(PERFECT, 2);
    lasting(&mut rig, "sub", 1);
    let other = clean(&mut rig, "other");
    rig.send(other, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(other, b"\x90\x03\x00\x01\x01");
    rig.expect(other, b"\x33\x07\x00\x01t\x00\x01\x00\x07");
}

/// A gateway speaks for devices whose partitions other workers own. Their records are of the device, in one partition;
/// subscribers get them in order, and a subscription right behind a message finds it retained, also at QoS 0.
#[test]
fn messages_of_devices_that_the_topic_names() {
    for adversity in [PERFECT, SLOPPY] {
        let mut rig = Rig::new(adversity, 1);
        let gateway = clean(&mut rig, "gateway");
        let live = clean(&mut rig, "live");
        rig.send(live, &packet(0x82, b"\x00\x01\x00\x0bdevices/+/t\x01"));
        rig.expect(live, b"\x90\x03\x00\x01\x01");
        for round in 0..20_u8 {
            for device in b'a'..=b'h' {
                let topic = [b"\x00\x0bdevices/", &[device][..], b"/t"].concat();
                rig.send(gateway, &packet(0x31, &[&topic[..], &[round]].concat()));
                rig.send(gateway, &packet(0x82, &[&[0, 1], &topic[..], &[0]].concat()));
                rig.expect(gateway, b"\x90\x03\x00\x01\x00");
                rig.expect(gateway, &packet(0x31, &[&topic[..], &[round]].concat()));
                rig.send(gateway, &packet(0xa2, &[&[0, 1], &topic[..]].concat()));
                rig.expect(gateway, b"\xb0\x02\x00\x01");
                rig.expect(live, &packet(0x30, &[&topic[..], &[round]].concat()));
                rig.send(gateway, &packet(0x32, &[&topic[..], &[0, 2, round]].concat()));
                rig.expect(gateway, b"\x40\x02\x00\x02");
                rig.turn_until(|rig| rig.has_output(live));
                let got = rig.take(live);
                assert_eq!(
                    (&got[..2 + topic.len()], got.last()),
                    (&[&[0x32, 14 + 2], &topic[..]].concat()[..], Some(&round))
                );
                let id = &got[2 + topic.len()..][..2];
                rig.send(live, &[0x40, 2, id[0], id[1]]);
            }
        }
        let mut homes = BTreeMap::<Vec<u8>, BTreeSet<u32>>::new();
        let telemetry = rig.log.streams().into_iter().find(|found| found.id.stream.as_str() == "telemetry").unwrap();
        for index in 0..telemetry.partitions {
            let read = rig.log.read(telemetry.partition(index), Position::ZERO, usize::MAX).unwrap();
            for batch in &read.batches {
                for record in &batch.batch.records().unwrap() {
                    homes.entry(record.unwrap().key.unwrap().to_vec()).or_default().insert(index);
                }
            }
        }
        assert_eq!(homes.len(), 8, "{homes:?}");
        assert!(homes.values().all(|partitions| partitions.len() == 1), "{homes:?}");
    }
}

/// The disk is full when the server starts: it starts, holds what it has to say, and says it when there is room.
#[test]
fn a_log_without_room_does_not_keep_the_server_from_starting() {
    let full = Adversity { refused: 1_000, ..PERFECT };
    let mut rig = Rig::new(PERFECT, 1);
    let witness = lasting(&mut rig, "witness", 0);
    rig.send(witness, &packet(0x82, b"\x00\x01\x00\x01w\x01"));
    rig.expect(witness, b"\x90\x03\x00\x01\x01");
    let mortal = rig.client();
    // A will with QoS 1 on topic w.
    let will = b"\x00\x04MQTT\x04\x0e\x00\x3c\x00\x01m\x00\x01w\x00\x04gone";
    rig.send(mortal, &packet(0x10, will));
    rig.expect(mortal, &[0x20, 2, 0, 0]);
    rig.crash(full, 2);
    for _ in 0..20 {
        rig.advance(Duration::from_millis(100));
    }
    rig.set_adversity(PERFECT);
    let witness = rig.client();
    rig.send(witness, &connect(4, 0, &[], "witness"));
    // What was refused is said again after a while.
    let mut got = Vec::new();
    for _ in 0..1_000 {
        rig.advance(Duration::from_millis(20));
        got.extend(rig.take(witness));
        if got.ends_with(b"gone") {
            break;
        }
    }
    assert!(got.starts_with(&[0x20, 2, 1, 0]) && got.ends_with(b"gone"), "{got:02x?}");
}
