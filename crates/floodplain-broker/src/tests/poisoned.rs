//! A write or a sync of the log has failed: nothing is acknowledged any more until the process starts anew, and then all
//! that was is there: `docs/ARCHITECTURE.md`, the first invariant, as clients see it.

use super::{PERFECT, clean, power::Sleeper, stored};
use crate::{
    BrokerConfig,
    rig::{ClientId, Rig, connect, packet},
};
use floodplain_testkit::{Fault, Op, Rule};
use std::time::Duration;

/// Turns in which anything that does not wait for the log would long have come.
const TURNS: u32 = 50;
/// Some for each worker.
const PUBLISHERS: [(u8, &str); 6] = [(4, "old1"), (5, "new1"), (4, "old2"), (5, "new2"), (4, "old3"), (5, "new3")];

/// Connects with a session that lasts; whether it was there.
fn connected(rig: &mut Rig, version: u8, id: &str) -> (ClientId, bool) {
    let client = rig.client();
    rig.send(client, &lasting(version, id));
    rig.turn_until(|rig| rig.has_output(client));
    let connack = rig.take(client);
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    (client, connack[2] == 1)
}

fn lasting(version: u8, id: &str) -> Vec<u8> {
    connect(version, 0, if version == 5 { &[0x11, 0, 0, 1, 0] } else { &[] }, id)
}

/// PUBLISH to `t`; repeated if `dup`.
fn publish(version: u8, qos: u8, id: u8, payload: &str, dup: bool) -> Vec<u8> {
    let properties = if version == 5 { &[0][..] } else { &[] };
    let first = 0x30 | qos << 1 | u8::from(dup) << 3;
    packet(first, &[&[0, 1, b't', 0, id], properties, payload.as_bytes()].concat())
}

fn subscribe(version: u8, id: u8, filter: u8) -> Vec<u8> {
    let properties = if version == 5 { &[0][..] } else { &[] };
    packet(0x82, &[&[0, id], properties, &[0, 1, filter, 2]].concat())
}

/// CONNACK of a server that is unavailable (3.1.1: 3), in the words that 5.0 has room for.
fn unavailable(version: u8, why: &str) -> Vec<u8> {
    if version == 4 {
        return packet(0x20, &[0, 3]);
    }
    let reason = [&[0x1f, 0, why.len() as u8], why.as_bytes()].concat();
    packet(0x20, &[&[0, 0x88, reason.len() as u8], &reason[..]].concat())
}

/// What clients see while the log takes nothing, and after the process, or the machine, has started anew. Gives how many
/// messages the log has kept that it had not acknowledged.
fn nothing_is_acknowledged_until_restart(op: Op, loses_power: bool, seed: u64) -> usize {
    let context = format!("{op:?}, {}, seed {seed}", if loses_power { "power cut" } else { "crash" });
    let mut rig = Rig::on_disk(PERFECT, seed, BrokerConfig::default());
    let mut sleeper = Sleeper::new(&mut rig);
    let publishers = PUBLISHERS.map(|(version, name)| (connected(&mut rig, version, name).0, version, name));
    let idle = clean(&mut rig, "idle");
    let at = publishers.map(|(client, ..)| rig.worker_of(client));
    assert!(at.contains(&Some(0)) && at.contains(&Some(1)), "each worker has publishers: {at:?}");
    for (client, version, name) in publishers {
        rig.send(client, &publish(version, 1, 1, &format!("acked1 {name}"), false));
        rig.expect(client, b"\x40\x02\x00\x01");
        rig.send(client, &publish(version, 2, 2, &format!("acked2 {name}"), false));
        rig.expect(client, b"\x50\x02\x00\x02");
    }

    // They wait, all of them for the same group or two, and this is what comes of it.
    rig.disk.fail(Rule::nth(1, Fault::Eio).of(op).on_kind("log/journal"));
    for (client, version, name) in publishers {
        let messages =
            [(1, 3), (2, 4)].map(|(qos, id)| publish(version, qos, id, &format!("waited{qos} {name}"), false)).concat();
        rig.send_in_turn(client, &[messages, vec![0x62, 2, 0, 2], subscribe(version, 9, b'o')].concat());
    }
    let newcomers = [(4, "late4"), (5, "late5")].map(|(version, name)| {
        let client = rig.client();
        rig.send_in_turn(client, &lasting(version, name));
        (client, version)
    });
    let nobody_is_answered = |rig: &mut Rig| {
        (0..TURNS).for_each(|_| rig.turn());
        for client in publishers.iter().map(|(client, ..)| client).chain(newcomers.iter().map(|(client, _)| client)) {
            assert_eq!(rig.take(*client), b"", "{context}");
            assert!(rig.is_open(*client), "{context}");
        }
    };
    nobody_is_answered(&mut rig);
    assert!(rig.disk.hit().contains(&(op, "log/journal".to_owned())), "{context}");
    // The disk is well again, which changes nothing: what it has of that group nobody knows.
    for (client, version, name) in publishers {
        let messages = [(1, 5), (2, 6)]
            .map(|(qos, id)| publish(version, qos, id, &format!("refused{qos} {name}"), false))
            .concat();
        rig.send(client, &messages);
    }
    nobody_is_answered(&mut rig);

    // Who comes now is told at once, whatever the session.
    for (version, flags) in [(4, 0), (4, 2), (5, 0), (5, 2)] {
        for name in ["x1", "x2", "x3", "x4", "old1", "new2"] {
            let client = rig.client();
            rig.send(client, &connect(version, flags, &[], name));
            rig.expect_close(client);
            let told = unavailable(version, "the log takes nothing until it has recovered");
            assert_eq!(rig.take(client), told, "{context}");
        }
    }
    // Who waits is told when it is time: 5.0 has no DISCONNECT but 0x89 for it, and 3.1.1 none at all [MQTT-3.14.0-1].
    (0..11).for_each(|_| rig.advance(Duration::from_secs(1)));
    for (client, version, _) in publishers {
        assert!(!rig.is_open(client), "{context}");
        assert_eq!(rig.take(client), if version == 5 { &b"\xe0\x01\x89"[..] } else { b"" }, "{context}");
    }
    for (client, version) in newcomers {
        assert!(!rig.is_open(client), "{context}");
        assert_eq!(rig.take(client), unavailable(version, "the log does not answer"), "{context}");
    }
    // Nobody is sent away who waits for nothing.
    rig.send(idle, b"\xc0\x00");
    rig.expect(idle, b"\xd0\x00");

    if loses_power {
        rig.lose_power(PERFECT, seed);
    } else {
        rig.crash(PERFECT, seed);
    }
    let mut unanswered = stored(&rig);
    for (_, name) in PUBLISHERS {
        for qos in [1, 2] {
            assert_eq!(unanswered.remove(&format!("acked{qos} {name}")), Some(1), "{context}");
        }
    }
    let kept = unanswered.len();
    assert!(
        unanswered.iter().all(|(text, count)| text.starts_with("waited") && *count == 1),
        "{context}: {unanswered:?}"
    );

    // Clients come back, and repeat what was not answered.
    for (version, name) in PUBLISHERS {
        let (client, present) = connected(&mut rig, version, name);
        assert!(present, "{context}");
        for (qos, id, what) in [(1, 3, "waited"), (2, 4, "waited"), (1, 5, "refused"), (2, 6, "refused")] {
            rig.send(client, &publish(version, qos, id, &format!("{what}{qos} {name}"), true));
            rig.expect(client, &[if qos == 1 { 0x40 } else { 0x50 }, 2, 0, id]);
        }
        for id in [2, 4, 6] {
            rig.send(client, &[0x62, 2, 0, id]);
            // What says that the first one was released is in the unit of what waited with it: of that id 5.0 is told
            // that it is not in use.
            let was_released = version == 5 && id == 2 && unanswered.contains_key(&format!("waited1 {name}"));
            let pubcomp = if was_released { packet(0x70, &[0, 2, 0x92]) } else { packet(0x70, &[0, id]) };
            rig.expect(client, &pubcomp);
        }
        rig.send(client, &subscribe(version, 9, b'o'));
        let properties = if version == 5 { &[0][..] } else { &[] };
        rig.expect(client, &packet(0x90, &[&[0, 9], properties, &[2]].concat()));
    }
    let stored = stored(&rig);
    for (_, name) in PUBLISHERS {
        for (qos, what) in [1, 2].into_iter().flat_map(|qos| ["acked", "waited", "refused"].map(|what| (qos, what))) {
            let text = format!("{what}{qos} {name}");
            // A repeat at QoS 1 is a second message where the first one was kept.
            let count = 1 + u32::from(qos == 1 && unanswered.contains_key(&text));
            assert_eq!(stored.get(&text), Some(&count), "{context}: {text}");
        }
    }
    assert_eq!(stored.len(), PUBLISHERS.len() * 6, "{context}");
    assert!(sleeper.wake(&mut rig, &stored), "{context}");
    assert_eq!(sleeper.got, stored, "{context}");
    kept
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_until_restart() {
    for seed in 0..4 {
        nothing_is_acknowledged_until_restart(Op::Write, seed % 2 == 0, seed);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_restart() {
    let kept: Vec<_> =
        (0..8).map(|seed| nothing_is_acknowledged_until_restart(Op::Sync, seed % 2 == 0, seed)).collect();
    // Both are allowed, and both are tried.
    assert!(kept.contains(&0) && kept.iter().any(|kept| *kept > 0), "{kept:?}");
}
