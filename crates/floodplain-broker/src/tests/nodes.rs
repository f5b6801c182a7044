//! Two servers on one log.

use super::open_ends::connected;
use crate::rig::{ClientId, Rig, connect, packet};
use floodplain_testkit::Adversity;
use std::{sync::atomic::Ordering, time::Duration};

struct Nodes([Rig; 2]);

impl Nodes {
    fn new() -> Self {
        Self(Rig::new(Adversity::NONE, 1).share())
    }

    /// Time passes for both.
    fn pass(&mut self, by: Duration) {
        self.0[0].clock.advance(by);
        self.0.iter_mut().for_each(|rig| rig.pass(by));
    }

    /// For one of them; the other is frozen.
    fn pass_at(&mut self, node: usize, by: Duration) {
        self.0[node].advance(by);
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            self.pass(Duration::from_millis(10));
        }
    }

    /// Waits until the client was sent these bytes.
    fn expect(&mut self, node: usize, client: ClientId, expected: &[u8]) {
        self.0[node].turn_until(|rig| rig.has_output(client));
        self.settle();
        let got = self.0[node].take(client);
        assert_eq!(got, expected, "got {got:02x?}, expected {expected:02x?}");
    }

    fn subscriber(&mut self, node: usize, id: &str, qos: u8) -> ClientId {
        let client = connected(&mut self.0[node], 0, id);
        self.0[node].send(client, &packet(0x82, &[0, 1, 0, 1, b'#', qos]));
        self.expect(node, client, &[0x90, 3, 0, 1, qos]);
        client
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

/// CONNECT of 3.1.1 with a will `gone` to topic `w` at QoS 1.
fn with_will(id: &str, clean: bool) -> Vec<u8> {
    let flags = 0x0c | u8::from(clean) << 1;
    let body =
        [b"\x00\x04MQTT\x04", &[flags, 0, 0, 0, id.len() as u8][..], id.as_bytes(), b"\x00\x01w\x00\x04gone"].concat();
    packet(0x10, &body)
}

#[test]
fn a_message_of_any_qos_comes_to_subscribers_of_both_servers_once() {
    let mut nodes = Nodes::new();
    let subscribers = [nodes.subscriber(0, "sub-0", 2), nodes.subscriber(1, "sub-1", 2)];
    for node in [0, 1] {
        let publisher = connected(&mut nodes.0[node], 0x02, &format!("pub-{node}"));
        for qos in 0..=2 {
            let topic = [b'a' + node as u8, b'0' + qos];
            let id: &[u8] = if qos == 0 { &[] } else { &[0, qos] };
            let publish = packet(0x30 | qos << 1, &[&[0, 2], &topic[..], id, b"x"].concat());
            nodes.0[node].send(publisher, &publish);
            match qos {
                0 => nodes.settle(),
                1 => nodes.expect(node, publisher, &[0x40, 2, 0, 1]),
                _ => {
                    nodes.expect(node, publisher, &[0x50, 2, 0, 2]);
                    nodes.0[node].send(publisher, &[0x62, 2, 0, 2]);
                    nodes.expect(node, publisher, &[0x70, 2, 0, 2]);
                }
            }
            for (at, subscriber) in subscribers.into_iter().enumerate() {
                let got = nodes.0[at].take(subscriber);
                assert_eq!(got.first(), Some(&(0x30 | qos << 1)), "at {at}: {got:02x?}");
                assert_eq!(&got[2..6], [&[0, 2], &topic[..]].concat(), "at {at}: {got:02x?}");
                let id = match qos {
                    0 => {
                        assert_eq!(got.len(), 7, "{got:02x?}");
                        continue;
                    }
                    _ => [got[6], got[7]],
                };
                assert_eq!(got.len(), 9, "{got:02x?}");
                let answer = if qos == 1 { 0x40 } else { 0x50 };
                nodes.0[at].send(subscriber, &[answer, 2, id[0], id[1]]);
                nodes.settle();
                if qos == 2 {
                    assert_eq!(nodes.0[at].take(subscriber), [0x62, 2, id[0], id[1]]);
                    nodes.0[at].send(subscriber, &[0x70, 2, id[0], id[1]]);
                }
            }
            nodes.settle();
            for (at, subscriber) in subscribers.into_iter().enumerate() {
                assert_eq!(nodes.0[at].take(subscriber), [0; 0], "at {at}, QoS {qos}");
            }
        }
    }
}

#[test]
fn a_client_that_connects_to_the_other_server_takes_its_session_with_it() {
    let mut nodes = Nodes::new();
    let old = nodes.0[0].client();
    // Session Expiry Interval 99 s.
    let connect = connect(5, 0, &[0x11, 0, 0, 0, 99], "dev");
    nodes.0[0].send(old, &connect);
    nodes.settle();
    assert_eq!(nodes.0[0].take(old)[..4][2..], [0, 0]);
    nodes.0[0].send(old, &packet(0x82, b"\x00\x01\x00\x00\x01a\x01"));
    nodes.expect(0, old, &[0x90, 4, 0, 1, 0, 1]);
    let new = nodes.0[1].client();
    nodes.0[1].send(new, &connect);
    nodes.settle();
    assert_eq!(nodes.0[1].take(new)[..4][2..], [1, 0], "the session is present");
    assert_eq!(nodes.0[0].take(old)[..3], [0xe0, 1, 0x8e]);
    assert!(!nodes.0[0].is_open(old));
    let publisher = connected(&mut nodes.0[0], 0x02, "pub");
    nodes.0[0].send(publisher, &packet(0x32, b"\x00\x01a\x00\x07x"));
    nodes.expect(0, publisher, &[0x40, 2, 0, 7]);
    nodes.expect(1, new, b"\x32\x07\x00\x01a\x00\x01\x00x");
    // And back, while the server does not know yet what the other one does.
    let back = nodes.0[0].client();
    nodes.0[0].send_in_turn(back, &connect);
    let again = nodes.0[1].client();
    nodes.0[1].send_in_turn(again, &connect);
    nodes.settle();
    let open = [nodes.0[0].is_open(back), nodes.0[1].is_open(new), nodes.0[1].is_open(again)];
    assert_eq!(open.iter().filter(|open| **open).count(), 1, "one connection is left: {open:?}");
}

#[test]
fn a_server_that_dies_is_missed_and_its_wills_are_sent_once() {
    for dies in [0, 1] {
        let lives = 1 - dies;
        let mut nodes = Nodes::new();
        // The slots are the first one's: whoever dies, the wills come.
        let subscriber = nodes.subscriber(lives, "sub", 1);
        let clients: Vec<ClientId> = (0..8)
            .map(|n| {
                let client = nodes.0[dies].client();
                nodes.0[dies].send(client, &with_will(&format!("c{n}"), n % 2 == 0));
                nodes.expect(dies, client, &[0x20, 2, 0, 0]);
                client
            })
            .collect();
        for _ in 0..30 {
            nodes.pass(Duration::from_secs(1));
        }
        assert_eq!(nodes.0[lives].take(subscriber), [0; 0], "both live");
        for _ in 0..40 {
            nodes.pass_at(lives, Duration::from_millis(500));
        }
        if dies == 0 {
            assert_eq!(nodes.0[lives].take(subscriber), [0; 0], "nobody may say so");
            nodes.0[lives].gain_slots();
            for _ in 0..40 {
                nodes.pass_at(lives, Duration::from_millis(500));
            }
        }
        let wills =
            |bytes: &[u8]| bytes.windows(5).filter(|bytes| bytes == b"\x00gone" || bytes.ends_with(b"gone")).count();
        let got = nodes.0[lives].take(subscriber);
        assert_eq!(wills(&got), 8, "{got:02x?}");
        // It was only frozen: its clients are told to come again, and nothing is sent twice.
        for _ in 0..40 {
            nodes.pass(Duration::from_millis(500));
        }
        assert!(clients.iter().all(|client| !nodes.0[dies].is_open(*client)));
        let again = connected(&mut nodes.0[dies], 0x02, "again");
        for _ in 0..60 {
            nodes.pass(Duration::from_millis(500));
        }
        assert!(nodes.0[dies].is_open(again), "a server that woke is alive");
        assert_eq!(wills(&nodes.0[lives].take(subscriber)), 0);
        nodes.pass(MILLISECOND);
    }
}

/// A log that does not say where a message of class `none` is may say the place of another one.
#[test]
fn a_message_is_delivered_beside_one_whose_place_is_not_known() {
    let mut nodes = Nodes::new();
    let subscriber = nodes.subscriber(0, "sub", 1);
    let publisher = connected(&mut nodes.0[0], 0x02, "pub");
    nodes.0[0].hold(true);
    nodes.0[0].send(publisher, &packet(0x32, b"\x00\x01a\x00\x07x"));
    nodes.0[0].send(publisher, &packet(0x30, b"\x00\x01ay"));
    nodes.0[0].hold(false);
    nodes.expect(0, publisher, &[0x40, 2, 0, 7]);
    let got = nodes.0[0].take(subscriber);
    assert_eq!(got, [&b"\x30\x04\x00\x01ay"[..], b"\x32\x06\x00\x01a\x00\x01x"].concat(), "{got:02x?}");
    // One that never comes keeps nobody waiting for it.
    nodes.0[0].faults.loses_none.store(true, Ordering::Relaxed);
    nodes.0[0].hold(true);
    nodes.0[0].send(publisher, &packet(0x33, b"\x00\x01r\x00\x08x"));
    nodes.0[0].send(publisher, &packet(0x30, b"\x00\x01ay"));
    nodes.0[0].hold(false);
    nodes.expect(0, publisher, &[0x40, 2, 0, 8]);
    let late = connected(&mut nodes.0[0], 0x02, "late");
    nodes.0[0].send(late, &packet(0x82, b"\x00\x01\x00\x01r\x01"));
    nodes.expect(0, late, &[&[0x90, 3, 0, 1, 1][..], b"\x33\x06\x00\x01r\x00\x01x"].concat());
}

/// A client connects, or connects and goes, while its server freezes after so many turns: what the log has ended meanwhile is
/// not open there, and nothing waits for ever.
#[test]
fn what_the_log_has_ended_while_it_was_opened_does_not_stay_open() {
    for (turns, goes, clean, elsewhere) in (0..48).map(|n| (n / 8, n & 1 > 0, n & 2 > 0, n & 4 > 0)) {
        let case = format!("{turns} turns, goes: {goes}, clean: {clean}, elsewhere: {elsewhere}");
        let mut nodes = Nodes::new();
        nodes.0[1].gain_slots();
        nodes.settle();
        let client = nodes.0[0].client();
        nodes.0[0].send_in_turn(client, &connect(4, u8::from(clean) << 1, &[], "dev"));
        (0..turns).for_each(|_| nodes.0[0].turn());
        if goes {
            nodes.0[0].hang_up_in_turn(client);
        }
        nodes.0[0].pump();
        if elsewhere {
            let other = nodes.0[1].client();
            nodes.0[1].send(other, &connect(4, 0x02, &[], "dev"));
            (0..20).for_each(|_| nodes.pass_at(1, Duration::from_millis(10)));
            nodes.0[1].hang_up(other);
        }
        for _ in 0..40 {
            nodes.pass_at(1, Duration::from_millis(500));
        }
        for _ in 0..60 {
            nodes.pass(Duration::from_millis(500));
        }
        let [frozen, lives] = &nodes.0;
        let stored: Vec<_> = lives.workers.iter().flat_map(|worker| worker.connected("dev")).collect();
        // Its `Open` may have come into the log after all that.
        assert_eq!(frozen.is_open(client), !goes && stored.len() == 1, "{case}: {stored:?}");
        assert!(stored.len() <= usize::from(!goes), "{case}: {stored:?}");
        assert!(frozen.workers.iter().all(|worker| worker.opens_nothing()), "{case}");
    }
}
