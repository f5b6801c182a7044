//! What sessions do not get is in the dead-letter stream: all of it, once, whatever happens in between.

use super::{PERFECT, clean, lasting, nothing_acknowledged_is_lost_with, take_and_ack, values};
use crate::{
    BrokerConfig,
    rig::{ClientId, Rig, connect, packet},
};
use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

/// A session with an expiry interval in seconds, subscribed to `t` with QoS 1.
fn subscriber(rig: &mut Rig, expiry_s: u8) -> ClientId {
    let client = rig.client();
    rig.send(client, &connect(5, 2, &[0x11, 0, 0, 0, expiry_s], "sub"));
    rig.turn_until(|rig| rig.has_output(client));
    rig.take(client);
    rig.send(client, &packet(0x82, b"\x00\x01\x00\x00\x01t\x01"));
    rig.expect(client, b"\x90\x04\x00\x01\x00\x01");
    client
}

fn publish(rig: &mut Rig, count: u16) {
    let publisher = clean(rig, "pub");
    for i in 1..=count {
        let [high, low] = i.to_be_bytes();
        rig.send(publisher, &[0x32, 7, 0, 1, b't', high, low, high, low]);
        rig.expect(publisher, &[0x40, 2, high, low]);
    }
    rig.hang_up(publisher);
}

fn letters_after(rig: &mut Rig, seconds: u32) -> Vec<String> {
    for _ in 0..seconds {
        rig.advance(Duration::from_secs(1));
        rig.turn();
        rig.turn();
    }
    values(rig, "dlq")
}

#[test]
fn retention_that_passes_a_sleeper_is_told() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = subscriber(&mut rig, 200);
    rig.hang_up(client);
    publish(&mut rig, 3);
    rig.trim_all(&["telemetry"]);
    let letters = letters_after(&mut rig, 30);
    let expected = r#"{"session":"sub","reason":"retention has removed it","stream":"telemetry","partition":3,"from":"0:0","to":"0:2","count":3}"#;
    assert_eq!(letters, [expected]);
    // What comes later waits.
    publish(&mut rig, 1);
    let client = rig.client();
    rig.send(client, &connect(5, 0, &[0x11, 0, 0, 0, 200], "sub"));
    rig.turn_until(|rig| rig.take(client).ends_with(b"\x00\x01"));
    assert_eq!(letters_after(&mut rig, 30).len(), 1);
}

#[test]
fn retention_that_passes_while_the_server_is_down_is_told() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = subscriber(&mut rig, 200);
    rig.hang_up(client);
    publish(&mut rig, 3);
    rig.trim_all(&["telemetry"]);
    rig.crash(PERFECT, 2);
    let letters = letters_after(&mut rig, 30);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].contains(r#""reason":"retention has removed it""#), "{letters:?}");
    rig.crash(PERFECT, 3);
    assert_eq!(letters_after(&mut rig, 30), letters, "once");
}

#[test]
fn a_session_that_expires_is_told_once_wherever_a_crash_comes() {
    for turns in 0..24 {
        let mut rig = Rig::new(PERFECT, turns);
        let client = subscriber(&mut rig, 5);
        rig.hang_up(client);
        publish(&mut rig, 3);
        rig.advance(Duration::from_secs(4));
        rig.advance(Duration::from_secs(2));
        for _ in 0..turns {
            rig.turn();
        }
        rig.crash(PERFECT, turns);
        let letters = letters_after(&mut rig, 40);
        assert_eq!(letters.len(), 1, "{turns}: {letters:?}");
        assert!(letters[0].contains(r#""reason":"session expired""#), "{turns}: {letters:?}");
        assert!(letters[0].ends_with(r#""count":3}"#), "{turns}: {letters:?}");
    }
}

#[test]
fn a_session_that_expires_while_the_server_is_down_is_told() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = subscriber(&mut rig, 5);
    rig.hang_up(client);
    publish(&mut rig, 3);
    rig.clock.advance(Duration::from_secs(60));
    rig.crash(PERFECT, 2);
    let letters = letters_after(&mut rig, 10);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(
        letters[0].contains(r#""reason":"session expired""#) && letters[0].ends_with(r#""count":3}"#),
        "{letters:?}"
    );
}

#[test]
fn a_session_that_its_client_discards_is_told() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = subscriber(&mut rig, 100);
    rig.hang_up(client);
    publish(&mut rig, 2);
    // The first is a new session that misses nothing.
    let client = subscriber(&mut rig, 100);
    let letters = letters_after(&mut rig, 10);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].contains("discarded by its client") && letters[0].ends_with(r#""count":2}"#), "{letters:?}");
    // One that had all leaves none, though it ends with its connection.
    publish(&mut rig, 1);
    rig.turn_until(|rig| rig.has_output(client));
    let sent = rig.take(client);
    rig.send(client, &[&[0x40, 2][..], &sent[5..7]].concat());
    rig.send(client, &packet(0xe0, b"\x00\x05\x11\x00\x00\x00\x00"));
    assert_eq!(letters_after(&mut rig, 10).len(), 1);
}

#[test]
fn what_the_disk_does_not_give_costs_itself_alone() {
    unreadable(false);
}

/// Nor one whose reading panics.
#[test]
fn what_the_disk_does_not_give_costs_itself_alone_whose_reading_panics() {
    unreadable(true);
}

fn unreadable(panics: bool) {
    let mut rig = Rig::new(PERFECT, 1);
    let client = lasting(&mut rig, "sub", 0);
    rig.send(client, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(client, b"\x90\x03\x00\x01\x01");
    rig.hang_up(client);
    publish(&mut rig, 5);
    rig.faults.panics.store(panics, Ordering::Relaxed);
    *rig.faults.unreadable.lock().unwrap() = Some(2);
    let client = lasting(&mut rig, "sub", 1);
    let mut got = Vec::new();
    while got.len() < 4 {
        rig.turn_until(|rig| rig.has_output(client));
        assert!(rig.has_output(client), "only {got:?} came");
        got.extend(take_and_ack(&mut rig, client));
    }
    assert_eq!(got, [1, 2, 4, 5]);
    let expected = r#"{"session":"sub","reason":"it cannot be read","stream":"telemetry","partition":3,"from":"0:2","to":"0:2","count":1}"#;
    assert_eq!(letters_after(&mut rig, 5), [expected]);
    rig.crash(PERFECT, 2);
    let client = lasting(&mut rig, "sub", 1);
    assert_eq!(letters_after(&mut rig, 5), [expected], "once");
    assert!(!rig.has_output(client), "it is done with");
}

#[test]
fn folds_that_memory_does_not_serve_read_elsewhere() {
    for seed in 0..3 {
        nothing_acknowledged_is_lost_with(PERFECT, seed, |rig| rig.faults.is_cold.store(true, Ordering::Relaxed));
    }
}

#[test]
fn sessions_that_last_are_bounded() {
    let mut rig = Rig::with_config(PERFECT, 1, BrokerConfig { sessions_max: 8, ..BrokerConfig::default() });
    let (mut granted, mut refused) = (0, 0);
    for n in 0..40 {
        let client = rig.client();
        rig.send(client, &connect(5, 2, b"\x11\x00\x00\x00\x60", &format!("c{n}")));
        rig.turn_until(|rig| rig.has_output(client));
        match rig.take(client)[..4] {
            [0x20, _, 0, 0] => granted += 1,
            [0x20, _, 0, 0x97] => refused += 1,
            ref other => panic!("{other:02x?}"),
        }
    }
    assert_eq!((granted, refused), (8, 32), "two in each of four partitions");
    // Who has one, has it; and who wants none is let in.
    let client = rig.client();
    rig.send(client, &connect(5, 0, b"\x11\x00\x00\x00\x60", "c0"));
    rig.turn_until(|rig| rig.has_output(client));
    assert_eq!(rig.take(client)[2..4], [1, 0]);
    clean(&mut rig, "another");
}

/// The last of them makes the session log its progress: with a letter for it, too.
#[test]
fn what_a_client_refuses_is_told_together_with_its_progress() {
    for count in [31, 32, 33, 62, 63, 64] {
        let mut rig = Rig::new(PERFECT, 1);
        let client = subscriber(&mut rig, 200);
        publish(&mut rig, 1);
        rig.turn_until(|rig| rig.has_output(client));
        let sent = rig.take(client);
        rig.send(client, &[&[0x40, 2][..], &sent[5..7]].concat());
        publish(&mut rig, count);
        let mut refused = 0;
        while refused < count {
            rig.turn_until(|rig| rig.has_output(client));
            let sent = rig.take(client);
            let mut rest = &sent[..];
            while let [0x32, len, _, _, _, high, low, ..] = *rest {
                rig.send(client, &[0x40, 3, high, low, 0x87]);
                rest = &rest[2 + usize::from(len)..];
                refused += 1;
            }
        }
        rig.turn();
        rig.crash(PERFECT, 2);
        // What was not logged comes again.
        let client = rig.client();
        rig.send(client, &connect(5, 0, &[0x11, 0, 0, 0, 200], "sub"));
        rig.turn_until(|rig| rig.has_output(client));
        let mut letters = letters_after(&mut rig, 10);
        let again = rig.take(client).windows(2).filter(|pair| *pair == b"t\0").count() as u64;
        letters.retain(|letter| letter.contains("refused by the client"));
        let told = letters.iter().map(|letter| {
            let (_, count) = letter.rsplit_once(r#""count":"#).unwrap();
            count.trim_end_matches('}').parse::<u64>().unwrap()
        });
        let told = told.sum::<u64>();
        // The one that was taken comes again, too, if nothing was logged.
        assert_eq!(told + again, u64::from(count) + u64::from(told == 0), "{count}: {letters:?}");
    }
}

/// A client that is connected and behind is told once of what retention took before it came to it.
#[test]
fn a_connected_laggard_is_told_once() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = subscriber(&mut rig, 200);
    rig.hang_up(client);
    let publisher = clean(&mut rig, "pub");
    for i in 1..=150_u8 {
        // PUBLISH of 14,000 bytes: some of a page are fetched, and some not, when the queue is full.
        let body = [b"\x00\x01t\x00", &[i][..], &[i; 14_000]].concat();
        rig.send(publisher, &[&[0x32, body.len() as u8 | 0x80, (body.len() >> 7) as u8], &body[..]].concat());
        rig.expect(publisher, &[0x40, 2, 0, i]);
    }
    let client = rig.client();
    rig.send(client, &connect(5, 0, &[0x11, 0, 0, 0, 200], "sub"));
    for _ in 0..20 {
        rig.turn();
    }
    rig.trim_all(&["telemetry"]);
    let mut letters = letters_after(&mut rig, 20);
    // It acknowledges what it got, asks for more, and finds that gone.
    let mut got = BTreeSet::new();
    for _ in 0..20 {
        let bytes = rig.take(client);
        let mut rest = &bytes[..];
        while let [first, low, high, body @ ..] = rest {
            if first & 0xf0 != 0x30 {
                rest = &rest[2 + usize::from(*low)..];
                continue;
            }
            let len = usize::from(low & 0x7f) | usize::from(*high) << 7;
            got.insert(body[4]);
            rig.send(client, &[0x40, 2, body[3], body[4]]);
            rest = &body[len..];
        }
        letters = letters_after(&mut rig, 2);
    }
    assert!(got.len() > 10 && got.len() < 150, "{} came", got.len());
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].contains("retention has removed it") && letters[0].contains(r#""to":"0:149""#), "{letters:?}");
}
