//! What answers wait for, and what becomes of those who wait in vain.

use super::{PERFECT, clean, lasting, values};
use crate::{
    publication::MADE,
    rig::{ClientId, Rig, connect, packet},
    seams::{Access, Bindings, Bound},
};
use floodplain_testkit::Adversity;
use floodplain_types::Class;
use std::time::Duration;

/// Whoever comes while the log has no room is refused after a while, or goes; the log hears of both, and no will is sent
/// for a connection that was never accepted.
#[test]
fn connections_that_a_stalled_log_has_kept_waiting_end_in_the_log() {
    let mut rig = Rig::new(PERFECT, 1);
    rig.set_adversity(Adversity { refused: 1_000, ..PERFECT });
    let refused = rig.client();
    let will = b"\x00\x04MQTT\x04\x0c\x00\x3c\x00\x01m\x00\x01w\x00\x04gone";
    rig.send(refused, &packet(0x10, will));
    let gone = rig.client();
    rig.send(gone, &connect(4, 0, &[], "left"));
    let clean = rig.client();
    rig.send(clean, &connect(4, 2, &[], "clean"));
    rig.turn();
    rig.hang_up(gone);
    rig.hang_up(clean);
    for _ in 0..150 {
        rig.advance(Duration::from_millis(100));
    }
    assert_eq!(rig.take(refused), [0x20, 2, 0, 3], "server unavailable");
    assert!(!rig.is_open(refused));
    rig.set_adversity(PERFECT);
    for _ in 0..100 {
        rig.advance(Duration::from_millis(100));
    }
    for worker in &rig.workers {
        assert!(worker.closing.is_empty(), "{:?}", worker.closing);
        for requests in &worker.owner.requests {
            for (client, session) in requests.sessions.fold().sessions() {
                assert!(!session.is_connected, "{client}");
            }
        }
    }
    let known = |client: &str| {
        let mut folds = rig.workers.iter().flat_map(|worker| &worker.owner.requests);
        folds.any(|requests| requests.presence.fold().get(client).is_some_and(|presence| !presence.is_connected))
    };
    assert!(known("m") && known("left"), "the log has their beginnings and ends");
    assert_eq!(values(&rig, "telemetry"), [""; 0], "no will");
}

#[derive(Debug)]
struct Quick;

impl Bindings for Quick {
    fn bound<'t>(&self, topic: &'t str) -> Bound<'t> {
        Bound { class: topic.starts_with("quick/").then_some(Class::Leader), ..Bound::default() }
    }
}

/// The class is what the answer waits for: no test of a crash can tell it.
#[test]
fn a_message_has_the_class_of_its_binding_unless_more_is_asked_for() {
    let mut rig = Rig::new(PERFECT, 1);
    rig.access = || Access { bindings: Box::new(Quick), ..Access::open_loopback() };
    rig.crash(PERFECT, 2);
    let asks = b"\x26\x00\x0efloodplain-ack\x00\x03all";
    let [plain, asking] = [&b""[..], asks].map(|properties| {
        let client = rig.client();
        rig.send(client, &connect(5, 2, properties, &format!("c{}", properties.len())));
        rig.turn_until(|rig| rig.has_output(client));
        rig.take(client);
        client
    });
    let mut class_of = |client: ClientId, topic: &[u8], properties: &[u8], qos: u8| {
        rig.classes.lock().unwrap().clear();
        let (header, id) = (0x30 | qos << 1, if qos > 0 { &[0, 1][..] } else { &[] });
        let len = [properties.len() as u8];
        rig.send(client, &packet(header, &[&[0, topic.len() as u8], topic, id, &len, properties, b"x"].concat()));
        if qos > 0 {
            rig.turn_until(|rig| rig.has_output(client));
        }
        rig.turn();
        assert!(rig.take(client).len() >= usize::from(qos > 0));
        let classes = rig.classes.lock().unwrap();
        *classes.first().unwrap()
    };
    let mut class = |topic: &[u8], properties: &[u8], qos: u8| class_of(plain, topic, properties, qos);
    assert_eq!(class(b"slow/t", b"", 1), Class::All);
    assert_eq!(class(b"quick/t", b"", 1), Class::Leader);
    assert_eq!(class(b"quick/t", b"", 0), Class::None);
    assert_eq!(class(b"quick/t", asks, 1), Class::All);
    // Said once, at CONNECT, for all that this client sends.
    assert_eq!(class_of(asking, b"quick/t", b"", 1), Class::All);
}

/// However many get it, by whatever version and QoS.
#[test]
fn a_message_is_encoded_once() {
    const EACH: usize = 20;
    let mut rig = Rig::new(PERFECT, 1);
    let mut subscribers = Vec::new();
    for (level, qos) in [(4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2)] {
        for n in 0..EACH {
            let client = rig.client();
            rig.send(client, &connect(level, 2, &[], &format!("{level}-{qos}-{n}")));
            rig.turn_until(|rig| rig.has_output(client));
            let properties = if level == 5 { &b"\0"[..] } else { &b""[..] };
            rig.send(client, &packet(0x82, &[b"\x00\x01", properties, b"\x00\x01t", &[qos]].concat()));
            rig.turn_until(|rig| rig.take(client).ends_with(&[qos]));
            subscribers.push(client);
        }
    }
    let publisher = clean(&mut rig, "p");
    MADE.set(0);
    rig.send(publisher, b"\x34\x06\x00\x01t\x00\x01x");
    rig.expect(publisher, b"\x50\x02\x00\x01");
    rig.turn_until(|rig| subscribers.iter().all(|client| rig.has_output(*client)));
    for client in subscribers {
        assert!(rig.take(client).ends_with(b"x"));
    }
    assert_eq!(MADE.get(), 1);
}

/// The log says where a batch begins. An engine may leave out offsets behind that, so where a session's `Open` lies, by which
/// the log knows all that the session does, is not to be counted.
#[test]
fn sessions_are_known_whose_batch_has_gaps() {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for seed in 0..20 {
        let mut rig = Rig::new(Adversity { gaps: 1_000, ..PERFECT }, seed);
        let clients = NAMES.map(|_| rig.client());
        // All in one turn, so several in one batch.
        for (client, name) in clients.iter().zip(NAMES) {
            rig.send_in_turn(*client, &connect(4, 0, &[], name));
        }
        for client in clients {
            rig.expect(client, &[0x20, 2, 0, 0]);
            rig.send(client, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
            rig.expect(client, b"\x90\x03\x00\x01\x01");
        }
        clients.iter().for_each(|client| rig.hang_up_in_turn(*client));
        let publisher = clean(&mut rig, "pub");
        let message = |id: u8| [0x32, 6, 0, 1, b't', 0, id, id];
        rig.send(publisher, &[message(1), message(2), message(3)].concat());
        rig.expect(publisher, b"\x40\x02\x00\x01\x40\x02\x00\x02\x40\x02\x00\x03");
        for name in NAMES {
            let client = lasting(&mut rig, name, 1);
            rig.expect(client, &[message(1), message(2), message(3)].concat());
        }
    }
}

/// Also where the connection ends before that is known.
#[test]
fn connections_are_ended_whose_batch_has_gaps() {
    for seed in 0..20 {
        let mut rig = Rig::new(Adversity { gaps: 1_000, late: true, ..PERFECT }, seed);
        let clients = [(); 8].map(|()| rig.client());
        // An id that the server gives need not move to another worker first.
        clients.iter().for_each(|client| _ = rig.send_in_turn(*client, &connect(4, 2, &[], "")));
        clients.iter().for_each(|client| rig.hang_up_in_turn(*client));
        let open = |rig: &Rig| {
            let requests = rig.workers.iter().flat_map(|worker| &worker.owner.requests);
            requests.map(|requests| requests.sessions.fold().len()).sum::<usize>()
        };
        let is_unsaid = |rig: &Rig| rig.workers.iter().any(|worker| !worker.closing.is_empty());
        assert!(is_unsaid(&rig), "no connection ended before it was known");
        rig.turn_until(|rig| !is_unsaid(rig) && open(rig) == 0);
        assert_eq!((is_unsaid(&rig), open(&rig)), (false, 0));
    }
}
