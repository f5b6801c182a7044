//! What clients do not get is counted: every counter that `docs/guides/running.md` lists, when it happens and only then.

use super::{
    PERFECT, clean, lasting,
    limits::long,
    refusals::{self, Passwords, login},
};
use crate::{
    BrokerConfig,
    rig::{ClientId, Rig, connect, packet},
    seams::Access,
};
use floodplain_log::{Outcome, Refusal};
use floodplain_testkit::{Adversity, documented};
use std::time::Duration;

const GUIDE: &str = include_str!("../../../../docs/guides/running.md");

/// How often; [`SOME`] is any number above zero.
type Counted = (&'static str, u64);
const SOME: u64 = u64::MAX;

/// Each with all that it makes the broker count, without `floodplain_broker_` and `_total`.
type Scenario = (fn() -> Rig, &'static [Counted]);

const SCENARIOS: &[Scenario] = &[
    (held, &[("dropped_connections held", 1), ("refused_appends", SOME)]),
    (append_too_large, &[("dropped_connections append_too_large", 1), ("refused_appends", 1)]),
    (packet_too_large, &[("dropped_connections packet_too_large", 1)]),
    (log_refused, &[("dropped_messages log_refused", 3), ("refused_appends", 1)]),
    (log_full, &[("dropped_messages log_refused", 3), ("refused_appends", 1)]),
    (log_unknown, &[("dropped_messages log_unknown", 3), ("unknown_appends", 1)]),
    (log_behind, &[("paused_publishers log", 1), ("refused_appends", SOME)]),
    (too_many_acks, &[("paused_publishers acks", 1)]),
    (unread_answers, &[("paused_publishers output", 1)]),
    (no_connect, &[("connect_timeouts", 1)]),
    (slow_greetings, &[("refused_greetings", 1)]),
    (
        strangers,
        &[
            ("refused_connections bad_credential", 1),
            ("refused_connections not_authorized", 1),
            ("refused_connections unavailable", 1),
            ("refused_connections busy", 1),
            ("refused_connections invalid", 1),
        ],
    ),
    (one_session_more, &[("refused_connections quota", 1), ("refused_sessions", 1)]),
    (
        unwanted_messages,
        &[
            // QoS 0 has no other answer than the end of the connection; what passes has none.
            ("protocol_errors", 4),
            ("refused_messages bad_credential", 1),
            ("refused_messages busy", 1),
            ("refused_messages invalid", 1),
            ("refused_messages not_authorized", 1),
            ("refused_messages too_large", 1),
            ("refused_messages unavailable", 1),
        ],
    ),
    (
        unwanted_filters,
        &[
            ("refused_subscriptions bad_credential", 1),
            ("refused_subscriptions busy", 1),
            ("refused_subscriptions invalid", 1),
            ("refused_subscriptions not_authorized", 1),
            ("refused_subscriptions quota", 1),
            ("refused_subscriptions unavailable", 1),
        ],
    ),
    (silence, &[("keep_alive_timeouts", 1)]),
    (receive_maximum, &[("protocol_errors", 1), ("receive_maximum_exceeded", 1)]),
    (deaf_subscriber, &[("dropped_messages outbox_full", 1)]),
    (more_than_a_mailbox, &[("dropped_messages mailbox_full", 10)]),
    (too_late, &[("dropped_messages expired", 1), ("undelivered_messages", 1)]),
    (small_subscriber, &[("dropped_messages too_large", 2), ("undelivered_messages", 1)]),
    (choosy_subscriber, &[("refused_by_client", 1), ("undelivered_messages", 1)]),
    (retention, &[("waiting_lost_messages", 3)]),
    (much_retained, &[("retained_refused", 2)]),
];

#[test]
fn what_is_refused_dropped_and_lost_is_counted() {
    let documented = documented(GUIDE, "floodplain_broker_");
    let mut missing = documented.clone();
    for (scenario, expected) in SCENARIOS {
        let rig = scenario();
        let counted = rig.counts.of("floodplain_broker_").into_iter().filter(|(name, _)| documented.contains(name));
        let counted: Vec<(String, u64)> = counted.collect();
        missing.retain(|name| counted.iter().all(|(counted, _)| counted != name));
        let full = |name: &str| match name.split_once(' ') {
            Some((name, reason)) => format!("floodplain_broker_{name}_total {reason}"),
            None => format!("floodplain_broker_{name}_total"),
        };
        let is_some = |name: &str| expected.iter().any(|(some, count)| *count == SOME && full(some) == name);
        let counted =
            counted.into_iter().map(|(name, count)| (name.clone(), if is_some(&name) { SOME } else { count }));
        let mut expected: Vec<(String, u64)> = expected.iter().map(|(name, count)| (full(name), *count)).collect();
        expected.sort_unstable();
        assert_eq!(counted.collect::<Vec<_>>(), expected);
    }
    assert!(missing.is_empty(), "{missing:?} were never seen above 0");
}

const PUBLISH: &[u8] = b"\x32\x06\x00\x01t\x00\x01x";
/// Three with QoS 0.
const PUBLISHES: &[u8] = b"\x30\x04\x00\x01tx\x30\x04\x00\x01tx\x30\x04\x00\x01tx";

fn v5(rig: &mut Rig, id: &str, properties: &[u8]) -> ClientId {
    let client = rig.client();
    rig.send(client, &connect(5, 2, properties, id));
    rig.turn_until(|rig| rig.has_output(client));
    assert_eq!(rig.take(client)[3], 0);
    client
}

/// A client, on a log whose appends will end so.
fn ending(outcome: fn() -> Outcome) -> (Rig, ClientId) {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    (0..5).for_each(|_| rig.turn());
    *rig.faults.outcome.lock().unwrap() = Some(outcome);
    (rig, client)
}

fn held() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::DiskFull { free_bytes: 0, reserve_bytes: 1 }));
    rig.send(client, &[PUBLISH, b"\x32\x06\x00\x01t\x00\x02x"].concat());
    (0..11).for_each(|_| rig.advance(Duration::from_secs(1)));
    rig.expect_close(client);
    rig
}

fn append_too_large() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::TooLarge { bytes: 2, max_bytes: 1 }));
    rig.send(client, PUBLISH);
    rig.expect_close(client);
    *rig.faults.outcome.lock().unwrap() = None;
    rig
}

/// CONNACK is longer than this.
fn packet_too_large() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = rig.client();
    rig.send(client, &connect(5, 2, &[0x27, 0, 0, 0, 10], "c"));
    rig.expect_close(client);
    rig
}

fn log_refused() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::Poisoned { cause: "a sync".into() }));
    rig.send(client, PUBLISHES);
    (0..5).for_each(|_| rig.turn());
    rig
}

fn log_full() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::DiskFull { free_bytes: 0, reserve_bytes: 1 }));
    rig.send(client, PUBLISHES);
    (0..5).for_each(|_| rig.turn());
    rig
}

fn log_unknown() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Unknown);
    rig.send(client, PUBLISHES);
    (0..5).for_each(|_| rig.turn());
    rig
}

fn log_behind() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    rig.set_adversity(Adversity { refused: 1_000, ..PERFECT });
    rig.send(client, PUBLISH);
    rig.turn_until(|rig| rig.is_pressed(client));
    assert!(!rig.send_in_turn(client, PUBLISH));
    rig
}

fn too_many_acks() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    rig.hold(true);
    assert!(!rig.send_in_turn(client, &PUBLISH.repeat(1_100)));
    rig
}

fn unread_answers() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    rig.reads(client, false);
    while rig.send_in_turn(client, &b"\xc0\x00".repeat(32 << 10)) {
        rig.turn();
    }
    rig
}

fn no_connect() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = rig.client();
    (0..13).for_each(|_| rig.advance(Duration::from_secs(1)));
    rig.expect_close(client);
    rig
}

/// Each has said 800,000 bytes of a CONNECT that is longer.
fn slow_greetings() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let mut slow = vec![0x10, 0x80, 0xea, 0x30];
    slow.resize(800_000, 0);
    let mut last = rig.client();
    while {
        rig.send(last, &slow);
        rig.is_open(last)
    } {
        last = rig.client();
    }
    rig
}

fn strangers() -> Rig {
    let mut rig = refusals::rig(|| Access { identity: Box::new(Passwords), ..Access::open_loopback() });
    for password in [Some("guess"), None, Some("later"), Some("often")] {
        let client = rig.client();
        rig.send(client, &login(5, 2, "stranger", password));
        rig.expect_close(client);
    }
    // A session without a name cannot be kept [3:3.1.3-8].
    let client = rig.client();
    rig.send(client, &connect(4, 0, &[], ""));
    rig.expect_close(client);
    rig
}

fn one_session_more() -> Rig {
    // One in each partition.
    let mut rig = Rig::with_config(PERFECT, 1, BrokerConfig { sessions_max: 4, ..BrokerConfig::default() });
    for n in 0.. {
        let client = rig.client();
        rig.send(client, &connect(4, 0, &[], &format!("s{n}")));
        rig.turn_until(|rig| rig.has_output(client));
        if rig.take(client) != [0x20, 2, 0, 0] {
            break;
        }
    }
    rig
}

fn unwanted_messages() -> Rig {
    let mut rig = refusals::rig(refusals::with_policy);
    let publish = |topic: &str| long(0x30, &[&(topic.len() as u16).to_be_bytes(), topic.as_bytes(), b"x"].concat());
    let too_many_levels = "/".repeat(256);
    for topic in ["no/t", "bad/t", "later/t", "busy/t", &too_many_levels] {
        let client = clean(&mut rig, "c");
        rig.send(client, &publish(topic));
        rig.hang_up(client);
    }
    let client = clean(&mut rig, "c");
    // One million bytes are announced.
    rig.send(client, b"\x30\xc0\x84\x3d\x00\x01t");
    rig.expect_close(client);
    rig
}

fn unwanted_filters() -> Rig {
    let mut rig = refusals::rig(refusals::with_policy);
    rig.declare(BrokerConfig { subscriptions_max: 6, ..BrokerConfig::default() });
    rig.crash(PERFECT, 3);
    let client = clean(&mut rig, "c");
    rig.send(
        client,
        &packet(0x82, b"\x00\x01\x00\x01a\x00\x00\x01b\x00\x00\x01c\x00\x00\x01d\x00\x00\x01e\x00\x00\x01f\x00"),
    );
    rig.send(client, &packet(0x82, b"\x00\x02\x00\x01g\x00"));
    rig.send(client, &packet(0xa2, b"\x00\x03\x00\x01a"));
    rig.send(
        client,
        &packet(0x82, b"\x00\x04\x00\x02no\x00\x00\x03bad\x00\x00\x05later\x00\x00\x04busy\x00\x00\x0a$share/g/a\x00"),
    );
    (0..5).for_each(|_| rig.turn());
    assert!(rig.take(client).ends_with(&[0x80; 5]));
    rig
}

fn silence() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "quiet");
    (0..94).for_each(|_| rig.advance(Duration::from_secs(1)));
    rig.expect_close(client);
    rig
}

fn receive_maximum() -> Rig {
    let mut rig = Rig::with_config(PERFECT, 1, BrokerConfig { receive_maximum: 1, ..BrokerConfig::default() });
    let client = v5(&mut rig, "c", &[]);
    rig.send(client, &packet(0x34, b"\x00\x01t\x00\x01\x00x"));
    rig.send(client, &packet(0x34, b"\x00\x01t\x00\x02\x00x"));
    rig.expect_close(client);
    rig
}

/// Subscribed to `t`.
fn subscribe(rig: &mut Rig, client: ClientId, qos: u8) {
    rig.send(client, &packet(0x82, &[0, 1, 0, 1, b't', qos]));
    rig.expect(client, &[0x90, 3, 0, 1, qos]);
}

/// A message of QoS 0 for `t`.
fn large(payload: usize) -> Vec<u8> {
    long(0x30, &[&b"\x00\x01t"[..], &vec![7; payload]].concat())
}

fn deaf_subscriber() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = clean(&mut rig, "sub");
    subscribe(&mut rig, subscriber, 0);
    rig.reads(subscriber, false);
    let publisher = clean(&mut rig, "pub");
    // What does not fit is the first that is dropped.
    while rig.counts.get("floodplain_broker_dropped_messages_total outbox_full") == 0 {
        assert!(rig.unread(subscriber) < 400_000);
        rig.send(publisher, &large(20_000));
    }
    rig
}

/// In one turn, from one worker to the other.
fn more_than_a_mailbox() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let publisher = clean(&mut rig, "pub");
    let subscriber = (0..).map(|n| clean(&mut rig, &format!("s{n}")));
    let clients: Vec<ClientId> = subscriber.take(8).collect();
    let there = rig.worker_of(publisher);
    let subscriber = clients.into_iter().find(|client| rig.worker_of(*client) != there).unwrap();
    subscribe(&mut rig, subscriber, 0);
    for _ in 0..10 {
        rig.send_in_turn(publisher, &large(900_000));
    }
    rig.turn();
    rig.turn();
    assert_eq!(rig.take(subscriber), b"");
    rig
}

fn too_late() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = lasting(&mut rig, "sub", 0);
    subscribe(&mut rig, subscriber, 1);
    rig.hang_up(subscriber);
    let publisher = v5(&mut rig, "pub", &[]);
    // Expires after two seconds.
    rig.send(publisher, &packet(0x32, b"\x00\x01t\x00\x01\x05\x02\x00\x00\x00\x02x"));
    rig.expect(publisher, b"\x40\x02\x00\x01");
    rig.advance(Duration::from_secs(3));
    lasting(&mut rig, "sub", 1);
    (0..10).for_each(|_| rig.turn());
    rig
}

fn small_subscriber() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    // A packet may have 200 bytes.
    let subscriber = v5(&mut rig, "sub", &[0x27, 0, 0, 0, 200]);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x04\x00\x01\x00\x01");
    let publisher = clean(&mut rig, "pub");
    rig.send(publisher, &large(300));
    rig.send(publisher, &long(0x32, &[&b"\x00\x01t\x00\x01"[..], &[7; 300]].concat()));
    rig.expect(publisher, b"\x40\x02\x00\x01");
    (0..5).for_each(|_| rig.turn());
    rig
}

fn choosy_subscriber() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = v5(&mut rig, "sub", &[]);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x00\x01t\x01"));
    rig.expect(subscriber, b"\x90\x04\x00\x01\x00\x01");
    let publisher = clean(&mut rig, "pub");
    rig.send(publisher, PUBLISH);
    rig.expect(subscriber, b"\x32\x07\x00\x01t\x00\x01\x00x");
    // Not authorized.
    rig.send(subscriber, b"\x40\x03\x00\x01\x87");
    rig
}

fn retention() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = lasting(&mut rig, "sub", 0);
    subscribe(&mut rig, subscriber, 1);
    rig.hang_up(subscriber);
    let publisher = clean(&mut rig, "pub");
    for _ in 0..3 {
        rig.send(publisher, PUBLISH);
        rig.expect(publisher, b"\x40\x02\x00\x01");
    }
    rig.trim_all(&["telemetry"]);
    (0..30).for_each(|_| rig.advance(Duration::from_secs(1)));
    rig
}

/// A partition has room for 64 MiB.
fn much_retained() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let publisher = clean(&mut rig, "pub");
    for n in 0..76_u8 {
        rig.send(publisher, &long(0x33, &[&[0, 1, b'0' + n, 0, 1][..], &[7; 900_000]].concat()));
        rig.expect(publisher, b"\x40\x02\x00\x01");
    }
    rig
}
