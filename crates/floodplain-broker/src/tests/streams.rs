//! Several data streams: each message is in one of them, and subscribers see no seam between them.

use super::{
    PERFECT, SLOPPY, clean, lasting, nothing_acknowledged_is_lost_on,
    open_ends::{
        nothing_acknowledged_is_lost_where_outcomes_are_unknown, retained_messages_survive_where_outcomes_are_unknown,
    },
    retained_messages_survive_on, take_and_ack, the_later_retained_message_counts_on, values,
};
use crate::{
    BrokerConfig,
    rig::{Rig, connect, packet},
    seams::{Access, Bindings, Bound},
};
use floodplain_testkit::Adversity;
use floodplain_types::StreamName;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

fn config() -> BrokerConfig {
    let streams = ["fast", "slow"].map(|name| StreamName::new(name).unwrap());
    BrokerConfig { streams: streams.into(), ..BrokerConfig::default() }
}

/// Each message goes to another stream than the one before, so a topic is in all of them.
#[derive(Debug, Default)]
struct Alternate(AtomicU32);

impl Bindings for Alternate {
    fn bound<'t>(&self, _: &'t str) -> Bound<'t> {
        Bound { stream: self.0.fetch_add(1, Ordering::Relaxed) % 3, ..Bound::default() }
    }
}

fn alternating(adversity: Adversity, seed: u64) -> Rig {
    let access = || Access { bindings: Box::new(Alternate::default()), ..Access::open_loopback() };
    Rig::with_access(adversity, seed, config(), access)
}

/// Topics that begin with `f` go to `fast`, those with `x` to a stream that there is not.
#[derive(Debug)]
struct ByTopic;

impl Bindings for ByTopic {
    fn bound<'t>(&self, topic: &'t str) -> Bound<'t> {
        let stream = match topic.as_bytes()[0] {
            b'f' => 1,
            b'x' => 9,
            _ => 0,
        };
        Bound { stream, ..Bound::default() }
    }
}

fn by_topic() -> Rig {
    let access = || Access { bindings: Box::new(ByTopic), ..Access::open_loopback() };
    Rig::with_access(PERFECT, 1, config(), access)
}

#[test]
fn sleepers_get_all_that_was_acknowledged_in_any_stream() {
    for seed in 0..6 {
        nothing_acknowledged_is_lost_on(alternating(PERFECT, seed), PERFECT, seed);
        nothing_acknowledged_is_lost_on(alternating(SLOPPY, seed), SLOPPY, seed);
    }
}

#[test]
fn sleepers_get_all_of_any_stream_where_outcomes_are_unknown() {
    let repeats: u32 =
        (0..4).map(|seed| nothing_acknowledged_is_lost_where_outcomes_are_unknown(alternating, seed)).sum();
    assert!(repeats > 5, "the publisher repeated {repeats} messages only");
}

#[test]
fn retained_messages_of_any_stream_come_where_outcomes_are_unknown() {
    let repeats: u32 = (0..4).map(|seed| retained_messages_survive_where_outcomes_are_unknown(alternating, seed)).sum();
    assert!(repeats > 3, "the publisher repeated {repeats} messages only");
}

#[test]
fn retained_messages_of_any_stream_survive() {
    retained_messages_survive_on(alternating(PERFECT, 1), 1, true, PERFECT, 1);
    retained_messages_survive_on(alternating(PERFECT, 2), 2, false, PERFECT, 2);
    retained_messages_survive_on(alternating(SLOPPY, 3), 2, false, SLOPPY, 3);
}

#[test]
fn the_later_retained_message_of_any_stream_counts() {
    the_later_retained_message_counts_on(alternating(PERFECT, 1));
}

/// By QoS 0, 1 and 2, a will, and one of a session that ends with a crash.
#[test]
fn messages_are_in_the_stream_of_their_topic() {
    let mut rig = by_topic();
    let publisher = clean(&mut rig, "pub");
    for topic in [b'f', b't', b'x'] {
        rig.send(publisher, &packet(0x30, &[0, 1, topic, topic, b'0']));
        rig.send(publisher, &packet(0x32, &[0, 1, topic, 0, 1, topic, b'1']));
        rig.expect(publisher, b"\x40\x02\x00\x01");
        rig.send(publisher, &packet(0x34, &[0, 1, topic, 0, 2, topic, b'2']));
        rig.expect(publisher, b"\x50\x02\x00\x02");
        rig.send(publisher, b"\x62\x02\x00\x02");
        rig.expect(publisher, b"\x70\x02\x00\x02");
    }
    for (id, topic) in [(b'a', b'f'), (b'b', b'x'), (b'c', b'f'), (b'd', b't')] {
        let mortal = rig.client();
        let will = [b"\x00\x04MQTT\x04\x0e\x00\x3c\x00\x01", &[id, 0, 1, topic, 0, 1, id][..]].concat();
        rig.send(mortal, &packet(0x10, &will));
        rig.expect(mortal, &[0x20, 2, 0, 0]);
        if id < b'c' {
            rig.hang_up(mortal);
        }
    }
    rig.crash(PERFECT, 2);
    for _ in 0..20 {
        rig.advance(Duration::from_millis(100));
    }
    let sorted = |stream| {
        let mut found = values(&rig, stream);
        found.sort();
        found
    };
    assert_eq!(sorted("fast"), ["a", "c", "f0", "f1", "f2"]);
    assert_eq!(sorted("telemetry"), ["b", "d", "t0", "t1", "t2", "x0", "x1", "x2"]);
    assert_eq!(sorted("slow"), [""; 0]);
}

/// A message of another stream that a session does not get is named with the stream and its own partition.
#[test]
fn letters_name_the_stream() {
    let mut rig = by_topic();
    let client = rig.client();
    rig.send(client, &connect(5, 2, &[0x11, 0, 0, 0, 200], "sub"));
    rig.turn_until(|rig| rig.has_output(client));
    rig.take(client);
    rig.send(client, &packet(0x82, b"\x00\x01\x00\x00\x01#\x01"));
    rig.expect(client, b"\x90\x04\x00\x01\x00\x01");
    rig.hang_up(client);
    let publisher = clean(&mut rig, "pub");
    for topic in [b'f', b't'] {
        rig.send(publisher, &packet(0x32, &[0, 1, topic, 0, 1, b'x']));
        rig.expect(publisher, b"\x40\x02\x00\x01");
    }
    rig.trim_all(&["fast"]);
    for _ in 0..30 {
        rig.advance(Duration::from_secs(1));
        rig.turn();
    }
    let expected = r#"{"session":"sub","reason":"retention has removed it","stream":"fast","partition":3,"from":"0:0","to":"0:0","count":1}"#;
    assert_eq!(values(&rig, "dlq"), [expected]);
    // What is left when the session ends, too.
    for _ in 0..200 {
        rig.advance(Duration::from_secs(1));
        rig.turn();
    }
    let letters = values(&rig, "dlq");
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters[1].contains(r#""reason":"session expired","stream":"telemetry","partition":3"#), "{letters:?}");
}

/// A stream comes, and goes from the configuration: what sleeps gets what was published before, between and after.
#[test]
fn a_session_is_older_than_a_stream_and_younger_than_its_declaration() {
    let mut rig = Rig::with_config(PERFECT, 1, BrokerConfig::default());
    let subscriber = lasting(&mut rig, "sub", 0);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
    rig.hang_up(subscriber);
    let mut number = 0_u16;
    let mut publish = |rig: &mut Rig| {
        let publisher = clean(rig, "pub");
        for _ in 0..6 {
            number += 1;
            let [high, low] = number.to_be_bytes();
            rig.send(publisher, &[0x32, 7, 0, 1, b't', high, low, high, low]);
            rig.expect(publisher, &[0x40, 2, high, low]);
        }
    };
    publish(&mut rig);
    rig.access = || Access { bindings: Box::new(Alternate::default()), ..Access::open_loopback() };
    rig.declare(config());
    rig.crash(PERFECT, 2);
    publish(&mut rig);
    rig.declare(BrokerConfig::default());
    rig.crash(PERFECT, 3);
    publish(&mut rig);
    assert_eq!(values(&rig, "fast").len() + values(&rig, "slow").len(), 8, "old streams are there");
    let subscriber = lasting(&mut rig, "sub", 1);
    let got = std::cell::RefCell::new(std::collections::BTreeSet::new());
    rig.turn_until(|rig| {
        got.borrow_mut().extend(take_and_ack(rig, subscriber));
        got.borrow().len() == 18
    });
    assert_eq!(got.into_inner(), (1..=18).collect());
}
