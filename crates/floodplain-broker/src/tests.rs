//! Workers as a whole, on logs that are hard to use.

use crate::rig::{ClientId, Rig, connect, packet};
use floodplain_testkit::Adversity;
use std::{collections::BTreeSet, time::Duration};

const PERFECT: Adversity = Adversity { holes: 0, duplicates: 0, unknown: 0, fenced: 0, late: false };
const SLOPPY: Adversity = Adversity { holes: 200, duplicates: 50, unknown: 0, fenced: 0, late: true };

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
    let mut rig = Rig::new(adversity, seed);
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
    for _ in 0..20_000 {
        if got.len() == 300 {
            break;
        }
        rig.turn();
        got.extend(take_and_ack(&mut rig, client));
    }
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
    for i in 1..=20_000_u16 {
        let [high, low] = i.to_be_bytes();
        rig.send(publisher, &[0x32, 7, 0, 1, b't', high, low, high, low]);
        rig.expect(publisher, &[0x40, 2, high, low]);
    }
    rig.reads(subscriber, true);
    let mut next = 1;
    for _ in 0..200_000 {
        for payload in take_and_ack(&mut rig, subscriber) {
            assert_eq!(payload, next, "each once, in order");
            next += 1;
        }
        if next > 20_000 {
            return;
        }
        rig.turn();
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
        for _ in 0..100 {
            rig.turn();
        }
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
    for _ in 0..5 {
        rig.advance(Duration::from_secs(1));
    }
    rig.expect(watcher, b"\x32\x06\x00\x01w\x00\x01x");
}
