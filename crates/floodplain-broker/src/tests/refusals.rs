//! Identity, policy and admission that say no: what the client is told, what is counted, and that nothing of it is stored.

use super::{PERFECT, clean, values};
use crate::{
    rig::{ClientId, Rig, connect, packet},
    seams::{Access, Admission, Credentials, Denied, Identity, Policy, Principal},
};
use floodplain_types::{Class, DeviceId, TenantId};
use std::{net::SocketAddr, time::Duration};

const BUSY: Denied = Denied::Busy { retry_after: Duration::from_secs(1) };
/// The properties that tell of it.
const AGAIN: &[u8] = b"\x13\x1f\x00\x10try again in 1 s";

/// Takes the password "right", and says of others why not.
#[derive(Debug)]
pub(super) struct Passwords;

impl Identity for Passwords {
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        assert_eq!(credentials.username.is_some(), credentials.password.is_some());
        match credentials.password {
            Some(b"right") => {
                let device = DeviceId::new(credentials.client_id).map_err(|_| Denied::BadCredential)?;
                Ok(Principal { tenant: TenantId::default_tenant(), device, trusted: true })
            }
            Some(b"later") => Err(Denied::Unavailable),
            Some(b"often") => Err(BUSY),
            Some(_) => Err(Denied::BadCredential),
            None => Err(Denied::NotAuthorized),
        }
    }
}

/// What the first level of a topic or filter says.
#[derive(Debug)]
struct Levels {
    /// Whether publishing is asked for, too.
    of_topics: bool,
}

fn level(topic: &str) -> Result<(), Denied> {
    match topic.split('/').next() {
        Some("no") => Err(Denied::NotAuthorized),
        Some("bad") => Err(Denied::BadCredential),
        Some("later") => Err(Denied::Unavailable),
        Some("busy") => Err(BUSY),
        _ => Ok(()),
    }
}

impl Policy for Levels {
    fn publish(&self, _: &Principal, topic: &str) -> Result<(), Denied> {
        if self.of_topics { level(topic) } else { Ok(()) }
    }
    fn subscribe(&self, _: &Principal, filter: &str) -> Result<(), Denied> {
        level(filter)
    }
    fn speaks_for(&self, _: &Principal, _: &str) -> bool {
        true
    }
    fn class(&self, _: &Principal, _: &str) -> Class {
        Class::All
    }
}

#[derive(Debug)]
struct Full;

impl Admission for Full {
    fn connect(&self, _: SocketAddr) -> Result<(), Denied> {
        Err(BUSY)
    }
}

pub(super) fn rig(access: fn() -> Access) -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    rig.access = access;
    rig.crash(PERFECT, 2);
    rig
}

pub(super) fn with_policy() -> Access {
    Access { policy: Box::new(Levels { of_topics: true }), ..Access::open_loopback() }
}

/// CONNECT with user name and password, if there is one.
pub(super) fn login(level: u8, flags: u8, id: &str, password: Option<&str>) -> Vec<u8> {
    let mut bytes = connect(level, flags | if password.is_some() { 0xc0 } else { 0 }, &[], id);
    if let Some(password) = password {
        for text in ["user", password] {
            bytes.extend((text.len() as u16).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes[1] = (bytes.len() - 2) as u8;
    }
    bytes
}

fn v5(rig: &mut Rig, id: &str) -> ClientId {
    let client = rig.client();
    rig.send(client, &connect(5, 2, &[], id));
    rig.turn_until(|rig| rig.has_output(client));
    let connack = rig.take(client);
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    client
}

/// Whether the log knows a client.
fn knows(rig: &Rig, client: &str) -> bool {
    let mut requests = rig.workers.iter().flat_map(|worker| &worker.owner.requests);
    requests.any(|requests| {
        let mut sessions = requests.sessions.fold().sessions();
        requests.presence.fold().get(client).is_some() || sessions.any(|(id, _)| id.as_str() == client)
    })
}

#[test]
fn a_connect_that_nobody_vouches_for_is_refused() {
    let mut rig = rig(|| Access { identity: Box::new(Passwords), ..Access::open_loopback() });
    let witness = rig.client();
    rig.send(witness, &login(4, 2, "witness", Some("right")));
    rig.expect(witness, &[0x20, 2, 0, 0]);
    rig.send(witness, &packet(0x82, b"\x00\x01\x00\x01#\x01"));
    rig.expect(witness, b"\x90\x03\x00\x01\x01");
    for (password, old, new, reason) in [
        (Some("wrong"), 4, 0x86, "bad_credential"),
        (None, 5, 0x87, "not_authorized"),
        (Some("later"), 3, 0x88, "unavailable"),
        (Some("often"), 3, 0x89, "busy"),
    ] {
        let name = format!("floodplain_broker_refused_connections_total {reason}");
        assert_eq!(rig.counts.get(&name), 0);
        for (version, code) in [(4, old), (5, new)] {
            let client = rig.client();
            // What comes behind it is not looked at.
            let publish: &[u8] = if version == 4 { b"\x30\x04\x00\x01tx" } else { b"\x30\x05\x00\x01t\x00x" };
            rig.send(client, &[&login(version, 0, "stranger", password), publish].concat());
            rig.expect_close(client);
            let got = rig.take(client);
            let expected = match (version, reason) {
                (4, _) => vec![0x20, 2, 0, code],
                (_, "busy") => packet(0x20, &[&[0, code][..], AGAIN].concat()),
                _ => vec![0x20, 3, 0, code, 0],
            };
            assert_eq!(got, expected, "{password:?} {got:02x?}");
        }
        assert_eq!(rig.counts.get(&name), 2);
    }
    // Nobody else noticed, and the log has nothing of it.
    assert!(!knows(&rig, "stranger") && knows(&rig, "witness"));
    assert_eq!(values(&rig, "telemetry"), [""; 0]);
    rig.send(witness, b"\xc0\x00");
    rig.expect(witness, b"\xd0\x00");
    let known = rig.client();
    rig.send(known, &login(5, 2, "stranger", Some("right")));
    rig.turn_until(|rig| rig.has_output(known));
    assert_eq!(rig.take(known)[3], 0);
}

/// A refused newcomer does not take over from whoever is connected under that name.
#[test]
fn who_is_refused_takes_over_nobody() {
    let mut rig = rig(|| Access { identity: Box::new(Passwords), ..Access::open_loopback() });
    let owner = rig.client();
    rig.send(owner, &login(5, 2, "name", Some("right")));
    rig.turn_until(|rig| rig.has_output(owner));
    rig.take(owner);
    let thief = rig.client();
    rig.send(thief, &login(5, 2, "name", Some("guess")));
    rig.expect_close(thief);
    rig.send(owner, b"\xc0\x00");
    rig.expect(owner, b"\xd0\x00");
    assert!(rig.is_open(owner));
}

#[test]
fn a_connect_is_refused_while_there_is_no_room() {
    let mut rig = rig(|| Access { admission: Box::new(Full), ..Access::open_loopback() });
    let busy = packet(0x20, &[b"\x00\x89", AGAIN].concat());
    for (version, expected) in [(4, &[0x20, 2, 0, 3][..]), (5, &busy)] {
        let client = rig.client();
        rig.send(client, &connect(version, 0, &[], "c"));
        rig.expect_close(client);
        assert_eq!(rig.take(client), expected);
    }
    assert_eq!(
        rig.counts.of("floodplain_broker_refused"),
        [("floodplain_broker_refused_connections_total busy".to_owned(), 2)]
    );
    assert!(!knows(&rig, "c"));
}

#[test]
fn a_will_that_may_not_be_published_refuses_the_connect() {
    let mut rig = rig(with_policy);
    let witness = clean(&mut rig, "witness");
    rig.send(witness, &packet(0x82, b"\x00\x01\x00\x01#\x01"));
    rig.expect(witness, b"\x90\x03\x00\x01\x01");
    for (topic, old, new, reason) in
        [("no/w", 5, 0x87, "not_authorized"), ("later", 3, 0x88, "unavailable"), ("busy", 3, 0x89, "busy")]
    {
        let words = if reason == "busy" { AGAIN } else { &[0] };
        let told = packet(0x20, &[&[0, new][..], words].concat());
        for (version, expected) in [(4, vec![0x20, 2, 0, old]), (5, told)] {
            let client = rig.client();
            // Will with QoS 1.
            let mut bytes = connect(version, 0x0e, &[], "mortal");
            if version == 5 {
                bytes.push(0);
            }
            bytes.extend([0, topic.len() as u8]);
            bytes.extend(topic.as_bytes());
            bytes.extend(b"\x00\x04gone");
            bytes[1] = (bytes.len() - 2) as u8;
            rig.send(client, &bytes);
            rig.expect_close(client);
            assert_eq!(rig.take(client), expected, "{topic} {version}");
        }
        assert_eq!(rig.counts.get(&format!("floodplain_broker_refused_connections_total {reason}")), 2);
    }
    for _ in 0..20 {
        rig.advance(Duration::from_secs(1));
    }
    assert!(!knows(&rig, "mortal"));
    assert_eq!(values(&rig, "telemetry"), [""; 0], "no will");
    assert_eq!(rig.take(witness), b"");
}

/// PUBLISH with an id, if its QoS has one.
fn publish(version: u8, qos: u8, topic: &str, id: u8) -> Vec<u8> {
    let topic = [&[0, topic.len() as u8], topic.as_bytes()].concat();
    let id = if qos > 0 { &[0, id][..] } else { &[] };
    let properties = if version == 5 { &[0][..] } else { &[] };
    packet(0x30 | qos << 1, &[&topic[..], id, properties, b"x"].concat())
}

#[test]
fn a_message_that_may_not_be_published_is_refused() {
    let mut rig = rig(with_policy);
    let witness = clean(&mut rig, "witness");
    rig.send(witness, &packet(0x82, b"\x00\x01\x00\x01#\x01"));
    rig.expect(witness, b"\x90\x03\x00\x01\x01");
    let count = |rig: &Rig| rig.counts.get("floodplain_broker_refused_messages_total not_authorized");

    // 5.0 answers, and the connection goes on: the ids are free again, and the quota is given back.
    let client = v5(&mut rig, "new");
    for round in 0..600_u64 {
        rig.send(client, &publish(5, 1, "no/t", 7));
        rig.expect(client, b"\x40\x03\x00\x07\x87");
        rig.send(client, &publish(5, 2, "no/t", 8));
        rig.expect(client, b"\x50\x03\x00\x08\x87");
        assert_eq!(count(&rig), 2 * round + 2);
    }
    // QoS 0 has no answer.
    rig.send(client, &publish(5, 0, "no/t", 0));
    rig.expect_close(client);
    let got = rig.take(client);
    assert_eq!((got[0], got[2]), (0xe0, 0x87), "{got:02x?}");
    assert_eq!(count(&rig), 1_201);

    // 3.1.1 acknowledges or closes [3:3.3.5-2].
    for qos in 0..=2 {
        let client = clean(&mut rig, "old");
        rig.send(client, &publish(4, qos, "no/t", 7));
        rig.expect_close(client);
        assert_eq!(rig.take(client), b"", "QoS {qos}");
        assert_eq!(count(&rig), 1_202 + u64::from(qos));
    }
    assert_eq!(values(&rig, "telemetry"), [""; 0]);

    // Others, and other topics, are well.
    let client = v5(&mut rig, "new");
    rig.send(client, &publish(5, 1, "yes/t", 1));
    rig.expect(client, b"\x40\x02\x00\x01");
    rig.expect(witness, b"\x32\x0a\x00\x05yes/t\x00\x01x");
    assert_eq!(values(&rig, "telemetry"), ["x"]);
}

/// What passes is no reason for a code that is final for the message [MQTT-4.4.0-2; 3:4.8.0-2]: the client is sent away, and
/// sends it again. QoS 0, which is promised nothing, is dropped.
#[test]
fn a_message_that_cannot_be_taken_now_is_not_answered() {
    for (topic, reason) in [("busy/t", "busy"), ("later/t", "unavailable")] {
        let mut rig = rig(with_policy);
        let name = format!("floodplain_broker_refused_messages_total {reason}");
        for qos in 1..=2 {
            let client = v5(&mut rig, "new");
            rig.send(client, &publish(5, qos, topic, 7));
            rig.expect_close(client);
            let got = rig.take(client);
            assert_eq!((got[0], got[2]), (0xe0, 0x89), "{got:02x?}");
            let client = clean(&mut rig, "old");
            rig.send(client, &publish(4, qos, topic, 7));
            rig.expect_close(client);
            assert_eq!(rig.take(client), b"");
            assert_eq!(rig.counts.get(&name), u64::from(qos) * 2);
        }
        let client = v5(&mut rig, "new");
        rig.send(client, &[publish(5, 0, topic, 0), publish(5, 1, "yes", 1)].concat());
        rig.expect(client, b"\x40\x02\x00\x01");
        assert_eq!(rig.counts.get(&name), 5);
        assert_eq!(values(&rig, "telemetry"), ["x"]);
    }
}

#[test]
fn a_filter_that_may_not_be_subscribed_is_refused_alone() {
    let mut rig = rig(|| Access { policy: Box::new(Levels { of_topics: false }), ..Access::open_loopback() });
    let filters = b"\x00\x02no\x01\x00\x03yes\x01\x00\x05later\x01\x00\x04busy\x01";
    for (version, id, codes) in [(4, "old", [0x80, 1, 0x80, 0x80]), (5, "new", [0x87, 1, 0x83, 0x97])] {
        // A session that is stored.
        let client = rig.client();
        let expiry: &[u8] = if version == 5 { &[0x11, 0, 0, 1, 0] } else { &[] };
        rig.send(client, &connect(version, 0, expiry, id));
        rig.turn_until(|rig| rig.has_output(client));
        rig.take(client);
        let properties = if version == 5 { &[0][..] } else { &[] };
        rig.send(client, &packet(0x82, &[&[0, 1], properties, filters].concat()));
        rig.turn_until(|rig| rig.has_output(client));
        let got = rig.take(client);
        assert!(got[0] == 0x90 && got.ends_with(&codes), "{got:02x?}");
        let publisher = clean(&mut rig, "pub");
        for topic in ["no", "later", "busy", "yes"] {
            rig.send(publisher, &publish(4, 1, topic, 1));
            rig.expect(publisher, b"\x40\x02\x00\x01");
        }
        rig.turn_until(|rig| rig.has_output(client));
        let got = rig.take(client);
        assert_eq!(got[2..7], *b"\x00\x03yes", "{got:02x?}");
        rig.send(client, &[0x40, 2, got[7], got[8]]);
        let requests = rig.workers.iter().flat_map(|worker| &worker.owner.requests);
        let sessions = requests.flat_map(|requests| requests.sessions.fold().sessions());
        let session = sessions.filter(|(client, _)| client.as_str() == id).map(|(_, session)| session).next().unwrap();
        let stored: Vec<_> = session.subscriptions().iter().map(|held| held.subscription.filter.as_str()).collect();
        assert_eq!(stored, ["yes"], "nothing else is stored");
        assert_eq!(rig.take(client), b"");
    }
    let counted = ["not_authorized", "unavailable", "busy"]
        .map(|reason| rig.counts.get(&format!("floodplain_broker_refused_subscriptions_total {reason}")));
    assert_eq!(counted, [2, 2, 2]);
}
