//! Nothing is answered before the log has committed what the answer stands for: `docs/ARCHITECTURE.md`, sessions.

use super::{PERFECT, clean, lasting};
use crate::rig::{ClientId, Rig, connect, packet};
use floodplain_types::Class;
use std::time::Duration;

/// Turns in which anything that does not wait for the log would long have come.
const TURNS: u32 = 50;

/// While the log holds back its commit, `bytes` have no answer; then they have this one, and the unit was of class `all`.
fn waits(rig: &mut Rig, client: ClientId, bytes: &[u8], answer: &[u8]) {
    rig.hold(true);
    rig.classes.lock().unwrap().clear();
    rig.send(client, bytes);
    for _ in 0..TURNS {
        rig.turn();
    }
    assert_eq!(rig.take(client), b"", "before the commit of {bytes:02x?}");
    assert_eq!(*rig.classes.lock().unwrap(), [Class::All], "{bytes:02x?}");
    rig.hold(false);
    rig.expect(client, answer);
}

/// The answer comes although the log commits nothing.
fn does_not_wait(rig: &mut Rig, client: ClientId, bytes: &[u8], answer: &[u8]) {
    rig.hold(true);
    rig.send(client, bytes);
    rig.expect(client, answer);
    rig.hold(false);
    rig.turn();
}

#[test]
fn connack_of_a_lasting_session_waits_for_its_open() {
    let mut rig = Rig::new(PERFECT, 1);
    let new = rig.client();
    waits(&mut rig, new, &connect(4, 0, &[], "lasts"), &[0x20, 2, 0, 0]);
    rig.hang_up(new);
    let again = rig.client();
    waits(&mut rig, again, &connect(4, 0, &[], "lasts"), &[0x20, 2, 1, 0]);
    // With a will, which must be stored with it [MQTT-3.1.2-7].
    let with_will = rig.client();
    let will = b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01m\x00\x01w\x00\x04gone";
    waits(&mut rig, with_will, &packet(0x10, will), &[0x20, 2, 0, 0]);
    // One that begins anew, and lasts.
    let anew = rig.client();
    rig.hold(true);
    rig.send(anew, &connect(5, 2, &[0x11, 0, 0, 1, 0], "anew"));
    for _ in 0..TURNS {
        rig.turn();
    }
    assert_eq!(rig.take(anew), b"");
    rig.hold(false);
    rig.turn_until(|rig| rig.has_output(anew));
    assert_eq!(rig.take(anew)[..1], [0x20]);
    // Nothing is kept of this one.
    let clean = rig.client();
    does_not_wait(&mut rig, clean, &connect(4, 2, &[], "clean"), &[0x20, 2, 0, 0]);
}

#[test]
fn puback_and_pubrec_wait_for_the_message() {
    for is_lasting in [false, true] {
        let mut rig = Rig::new(PERFECT, 1);
        let client = if is_lasting { lasting(&mut rig, "c", 0) } else { clean(&mut rig, "c") };
        waits(&mut rig, client, b"\x32\x06\x00\x01t\x00\x01x", b"\x40\x02\x00\x01");
        waits(&mut rig, client, b"\x34\x06\x00\x01t\x00\x02x", b"\x50\x02\x00\x02");
    }
}

#[test]
fn pubcomp_waits_for_the_release() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = lasting(&mut rig, "c", 0);
    rig.send(client, b"\x34\x06\x00\x01t\x00\x02x");
    rig.expect(client, b"\x50\x02\x00\x02");
    waits(&mut rig, client, b"\x62\x02\x00\x02", b"\x70\x02\x00\x02");
    // The log knows nothing of the ids of a session that ends with its connection.
    let client = clean(&mut rig, "clean");
    rig.send(client, b"\x34\x06\x00\x01t\x00\x02x");
    rig.expect(client, b"\x50\x02\x00\x02");
    does_not_wait(&mut rig, client, b"\x62\x02\x00\x02", b"\x70\x02\x00\x02");
}

#[test]
fn suback_and_unsuback_of_a_lasting_session_wait_for_their_events() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = lasting(&mut rig, "c", 0);
    waits(&mut rig, client, &packet(0x82, b"\x00\x01\x00\x01t\x01"), b"\x90\x03\x00\x01\x01");
    waits(&mut rig, client, &packet(0xa2, b"\x00\x02\x00\x01t"), b"\xb0\x02\x00\x02");
    // Nothing changes, so nothing is to be stored.
    does_not_wait(&mut rig, client, &packet(0xa2, b"\x00\x03\x00\x01t"), b"\xb0\x02\x00\x03");
    let client = clean(&mut rig, "clean");
    does_not_wait(&mut rig, client, &packet(0x82, b"\x00\x01\x00\x01t\x01"), b"\x90\x03\x00\x01\x01");
    does_not_wait(&mut rig, client, &packet(0xa2, b"\x00\x02\x00\x01t"), b"\xb0\x02\x00\x02");
}

/// QoS 2 towards a lasting session: a crash between the two must find the id in the log.
#[test]
fn outbound_qos_2_waits_for_the_progress_that_names_its_id() {
    let mut rig = Rig::new(PERFECT, 1);
    let subscriber = lasting(&mut rig, "sub", 0);
    rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x02"));
    rig.expect(subscriber, b"\x90\x03\x00\x01\x02");
    let publisher = clean(&mut rig, "pub");
    rig.send(publisher, b"\x34\x06\x00\x01t\x00\x02x");
    rig.expect(publisher, b"\x50\x02\x00\x02");
    // The message is committed; what names its id is not, from here on.
    rig.hold(true);
    for _ in 0..TURNS {
        rig.turn();
    }
    assert_eq!(rig.take(subscriber), b"", "PUBLISH");
    rig.hold(false);
    rig.expect(subscriber, b"\x34\x06\x00\x01t\x00\x01x");
    waits(&mut rig, subscriber, b"\x50\x02\x00\x01", b"\x62\x02\x00\x01");
}

/// Answers leave in the order in which they became due: a quick one does not overtake, and none is early for another's sake.
#[test]
fn answers_behind_one_that_waits_wait_too() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = lasting(&mut rig, "c", 0);
    rig.send(client, b"\x34\x06\x00\x01t\x00\x02x");
    rig.expect(client, b"\x50\x02\x00\x02");
    // A repetition is answered from memory, but not before the message in front of it.
    let both = b"\x32\x06\x00\x01t\x00\x01x\x3c\x06\x00\x01t\x00\x02x";
    waits(&mut rig, client, both, b"\x40\x02\x00\x01\x50\x02\x00\x02");
}

#[test]
fn what_was_sent_once_at_qos_2_does_not_expire() {
    // [MQTT-4.3.3-7]
    let mut rig = Rig::new(PERFECT, 1);
    let lasts = connect(5, 0, &[0x11, 0, 0, 2, 0], "sub");
    let answer = |rig: &mut Rig, client, bytes: &[u8]| {
        rig.send(client, bytes);
        rig.turn_until(|rig| rig.has_output(client));
        rig.take(client)
    };
    let subscriber = rig.client();
    assert_eq!(answer(&mut rig, subscriber, &lasts)[0], 0x20);
    assert_eq!(answer(&mut rig, subscriber, &packet(0x82, b"\0\x01\0\0\x01t\x02")), b"\x90\x04\0\x01\0\x02");
    let publisher = rig.client();
    assert_eq!(answer(&mut rig, publisher, &connect(5, 2, &[], "pub"))[0], 0x20);
    // It expires after two seconds.
    let publish = packet(0x34, b"\0\x01t\0\x07\x05\x02\0\0\0\x02x");
    assert_eq!(answer(&mut rig, publisher, &publish), b"\x50\x02\0\x07");
    rig.turn_until(|rig| rig.has_output(subscriber));
    assert_eq!(rig.take(subscriber), packet(0x34, b"\0\x01t\0\x01\x05\x02\0\0\0\x02x"));
    rig.hang_up(subscriber);
    rig.advance(Duration::from_secs(10));
    let subscriber = rig.client();
    let mut seen = answer(&mut rig, subscriber, &lasts);
    assert_eq!((seen[0], seen[2]), (0x20, 1), "its session is there");
    let again = packet(0x3c, b"\0\x01t\0\x01\x05\x02\0\0\0\0x");
    rig.turn_until(|rig| {
        seen.extend(rig.take(subscriber));
        seen.ends_with(&again)
    });
    assert!(seen.ends_with(&again), "{seen:02x?}");
}
