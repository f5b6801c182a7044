//! CONNECT, keep-alive, takeover and the end of a connection.

use crate::{
    client::{Client, PATIENCE},
    target::{Server, each, each_version},
    wire::{
        self, ASSIGNED_ID, Connect, MAXIMUM_PACKET_SIZE, Packet, Prop, Publish, RECEIVE_MAXIMUM, SESSION_EXPIRY,
        Version,
    },
};
use anyhow::{Context, bail, ensure};
use std::{
    io::Read,
    time::{Duration, Instant},
};

const SERVER_KEEP_ALIVE: u8 = 0x13;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;
const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
const RESPONSE_INFORMATION: u8 = 0x1a;

#[test]
fn connect_and_leave() {
    // Over TCP [MQTT-4.2.0-1; 3:7.1.1-1]
    each_version(|t, v| {
        // [MQTT-3.1.4-5; 3:3.1.4-4]: CONNACK 0.
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        // [MQTT-3.12.4-1; 3:3.12.4-1]
        client.ping()?;
        client.leave()
    });
}

#[test]
fn packets_may_follow_connect_before_connack() {
    // MQTT 5.0 §3.1.4: clients need not wait for the CONNACK.
    each_version(|t, v| {
        let mut client = Client::open(t.mqtt, v)?;
        let mut bytes = Connect::new(v, t.id("c")).encode();
        bytes.extend(wire::subscribe(v, 7, &[], &[(&t.topic("a"), 1)]));
        bytes.extend(wire::Publish { id: 8, ..wire::Publish::new(t.topic("a"), "x", 1) }.encode(v));
        bytes.extend([0xc0, 0]);
        client.send(&bytes)?;
        // [MQTT-3.2.0-1; 3:3.2.0-1]: nothing comes before it, and no second one [MQTT-3.2.0-2].
        ensure!(matches!(client.recv()?, Packet::Connack { code: 0, .. }));
        let (mut suback, mut puback, mut publish, mut pong) = (0, 0, 0, 0);
        while suback + puback + publish + pong < 4 {
            match client.recv()? {
                Packet::Suback { id: 7, .. } => suback += 1,
                Packet::Ack { id: 8, .. } => puback += 1,
                Packet::Publish(_) => publish += 1,
                Packet::Pingresp => pong += 1,
                other => bail!("unexpected {other:?}"),
            }
        }
        ensure!((suback, puback, publish, pong) == (1, 1, 1, 1));
        Ok(())
    });
}

#[test]
fn bytes_may_come_one_by_one() {
    each_version(|t, v| {
        let mut client = Client::open(t.mqtt, v)?;
        for byte in Connect::new(v, t.id("c")).encode() {
            client.send(&[byte])?;
        }
        ensure!(matches!(client.recv()?, Packet::Connack { code: 0, .. }));
        for byte in wire::subscribe(v, 3, &[], &[(&t.topic("a"), 0)]) {
            client.send(&[byte])?;
        }
        ensure!(matches!(client.recv()?, Packet::Suback { id: 3, .. }));
        Ok(())
    });
}

#[test]
fn first_packet_must_be_connect() {
    // [MQTT-3.1.0-1; 3:3.1.0-1]
    each_version(|t, v| {
        let mut client = Client::open(t.mqtt, v)?;
        client.send(&wire::Publish::new(t.topic("a"), "x", 0).encode(v))?;
        let seen = client.until_closed()?;
        // [MQTT-3.14.0-1]: before a CONNACK no DISCONNECT.
        ensure!(seen.is_empty(), "{seen:?}");
        Ok(())
    });
}

#[test]
fn second_connect_closes() {
    // [MQTT-3.1.0-2; 3:3.1.0-2], and no second CONNACK [MQTT-3.2.0-2].
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.send(&Connect::new(v, t.id("c")).encode())?;
        let seen = client.until_closed()?;
        ensure!(seen.iter().all(|p| matches!(p, Packet::Disconnect { code: 0x82 })), "{seen:?}");
        Ok(())
    });
}

#[test]
fn unknown_protocol_level_is_refused() {
    each(|t| {
        // In the form of 3.1.1 code 1 [3:3.1.2-2], in that of 5.0 0x84 [MQTT-3.1.2-2].
        for (level, form, code) in [(2, Version::V311, 1), (6, Version::V5, 0x84)] {
            let mut client = Client::open(t.mqtt, form)?;
            let mut bytes = Connect::new(form, t.id("c")).encode();
            bytes[8] = level;
            client.send(&bytes)?;
            let mut answer = Vec::new();
            // A broker may know 3.1.1 only, or say nothing.
            client.socket().read_to_end(&mut answer)?;
            let refused = matches!(answer.as_slice(), [] | [0x20, 2, 0, 1] | [0x20, 3, 0, 0x84, 0]);
            ensure!(refused, "level {level}: {answer:?}, expected code {code}");
        }
        Ok(())
    });
}

#[test]
fn empty_client_id() {
    each(|t| {
        // MQTT 5.0 assigns one and says so [MQTT-3.1.3-6, -7], each time another one [MQTT-3.2.2-16].
        let mut clients = Vec::new();
        let mut ids = std::collections::BTreeSet::new();
        for clean in [true, false, true] {
            let (client, connack) = Client::connect(t.mqtt, &Connect { clean, ..Connect::new(Version::V5, "") })?;
            ensure!(connack.code == 0 && !connack.session_present, "{connack:?}");
            let assigned = connack.props.iter().find_map(|p| match p {
                Prop::Text(ASSIGNED_ID, id) => Some(id.clone()),
                _ => None,
            });
            ensure!(ids.insert(assigned.context("no assigned id")?), "given twice: {connack:?}");
            clients.push(client);
        }
        ensure!(!ids.contains(""));
        // 3.1.1 takes it with a clean session only: else code 2 [3:3.1.3-7, -8].
        for _ in 0..2 {
            let (client, connack) = Client::connect(t.mqtt, &Connect::new(Version::V311, ""))?;
            ensure!(connack.code == 0, "{connack:?}");
            clients.push(client);
        }
        let (mut refused, connack) = Client::connect(t.mqtt, &Connect::lasting(Version::V311, "", 0))?;
        ensure!(connack.code == 2, "{connack:?}");
        ensure!(refused.until_closed()?.is_empty());
        // None has taken over from another [3:3.1.3-6].
        clients.iter_mut().try_for_each(Client::ping)
    });
}

#[test]
fn takeover_closes_the_older_connection() {
    // [MQTT-3.1.4-3; 3:3.1.4-2]
    each_version(|t, v| {
        let mut old = Client::clean(t.mqtt, v, &t.id("c"))?;
        let mut new = Client::clean(t.mqtt, v, &t.id("c"))?;
        let seen = old.until_closed()?;
        match v {
            Version::V311 => ensure!(seen.is_empty(), "{seen:?}"),
            Version::V5 => ensure!(matches!(seen.as_slice(), [Packet::Disconnect { code: 0x8e }]), "{seen:?}"),
        }
        new.ping()
    });
}

#[test]
fn takeover_keeps_the_session() {
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("c"), 600);
        let (mut old, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(!present);
        old.subscribe(&t.topic("a"), 1)?;
        let (mut new, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(present, "the session was lost");
        old.until_closed()?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.say(&t.topic("a"), "one", 1)?;
        new.hears(&t.topic("a"), "one")?;
        Ok(())
    });
}

#[test]
fn silence_beyond_the_keep_alive_closes() {
    // [MQTT-3.1.2-22; 3:3.1.2-24]: after one and a half times the keep-alive.
    each_version(|t, v| {
        let mut connect = Connect::new(v, t.id("c"));
        connect.keep_alive = 1;
        let since = Instant::now();
        let (mut client, connack) = Client::connect(t.mqtt, &connect)?;
        // Its own value counts, since it is told no other [MQTT-3.2.2-22].
        ensure!(connack.code == 0 && !connack.props.iter().any(|p| matches!(p, Prop::Two(SERVER_KEEP_ALIVE, _))));
        let seen = client.until_closed()?;
        let silent = since.elapsed();
        ensure!(silent >= Duration::from_millis(1_400), "closed after {silent:?}");
        ensure!(silent < PATIENCE / 2, "closed after {silent:?}");
        ensure!(seen.iter().all(|p| matches!(p, Packet::Disconnect { code: 0x8d })), "{seen:?}");
        Ok(())
    });
}

#[test]
fn pings_keep_the_connection() {
    // [MQTT-3.1.2-20; 3:3.1.2-23]
    each_version(|t, v| {
        let mut connect = Connect::new(v, t.id("c"));
        connect.keep_alive = 1;
        let (mut client, _) = Client::resume(t.mqtt, &connect)?;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            client.ping()?;
            // Listening is the wait: 0.5 s pass unless something unexpected comes.
            ensure!(client.recv_within(Duration::from_millis(500))?.is_none());
        }
        client.leave()
    });
}

#[test]
fn client_that_only_listens_still_has_to_ping() {
    // What the server sends does not count as a sign of life.
    each(|t| {
        let mut connect = Connect::new(Version::V5, t.id("s"));
        connect.keep_alive = 1;
        let (mut listener, _) = Client::resume(t.mqtt, &connect)?;
        listener.subscribe(&t.topic("a"), 0)?;
        let mut publisher = Client::clean(t.mqtt, Version::V5, &t.id("p"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            ensure!(Instant::now() < deadline, "the silent listener was kept");
            publisher.say(&t.topic("a"), "x", 0)?;
            match listener.recv_within(Duration::from_millis(50)) {
                Ok(Some(Packet::Disconnect { code: 0x8d })) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    });
}

#[test]
fn receive_maximum_zero_is_an_error() {
    each(|t| {
        let mut connect = Connect::new(Version::V5, t.id("c"));
        connect.props.push(Prop::Two(RECEIVE_MAXIMUM, 0));
        let mut client = Client::open(t.mqtt, Version::V5)?;
        client.send(&connect.encode())?;
        let seen = client.until_closed()?;
        let refused = matches!(seen.as_slice(), [] | [Packet::Connack { code: 0x81 | 0x82, .. }]);
        ensure!(refused, "{seen:?}");
        Ok(())
    });
}

#[test]
fn disconnect_may_not_raise_the_expiry_from_zero() {
    // §3.14.2.2.2: protocol error.
    each(|t| {
        let mut client = Client::clean(t.mqtt, Version::V5, &t.id("c"))?;
        client.send(&wire::disconnect(Version::V5, 0, &[Prop::Four(SESSION_EXPIRY, 60)]))?;
        let seen = client.until_closed()?;
        ensure!(seen.iter().all(|p| matches!(p, Packet::Disconnect { code: 0x82 })), "{seen:?}");
        let (_client, present) = Client::resume(t.mqtt, &Connect::lasting(Version::V5, t.id("c"), 60))?;
        ensure!(!present, "the session was kept");
        Ok(())
    });
}

#[test]
fn every_id_of_1_to_23_letters_and_digits_is_taken() {
    // [MQTT-3.1.3-5; 3:3.1.3-5]
    const ALL: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    each_version(|t, v| {
        let longest = ALL.as_bytes().chunks(23).map(|chunk| std::str::from_utf8(chunk).expect("ASCII"));
        for id in (1..23).map(|len| &ALL[62 - len..]).chain(longest).chain([&ALL[..1]]) {
            Client::clean(t.mqtt, v, id)?.leave()?;
        }
        Ok(())
    });
}

#[test]
fn a_refused_connect_is_closed_and_nothing_behind_it_is_handled() {
    for v in wire::BOTH {
        let server = Server::fresh().unwrap();
        let mut listener = Client::clean(server.mqtt, v, "l").unwrap();
        listener.subscribe("#", 1).unwrap();
        // A client id that is longer than this server takes.
        let id = "x".repeat(300);
        for connect in [Connect::new(v, id.as_str()), Connect::lasting(v, id.as_str(), 600)] {
            let mut bytes = connect.encode();
            bytes.extend(Publish { id: 1, ..Publish::new("a", "unheard", 1) }.encode(v));
            bytes.extend(Publish::new("a", "unheard", 0).encode(v));
            bytes.extend(Connect::new(v, "c").encode());
            let mut client = Client::open(server.mqtt, v).unwrap();
            client.send(&bytes).unwrap();
            // [MQTT-3.1.3-8, 3.1.4-2, 3.2.2-7, 4.13.2-1; 3:3.1.3-9, 3.2.2-5]: a CONNACK that says so, and the end.
            let seen = client.until_closed().unwrap();
            let [Packet::Connack { session_present: false, code, .. }] = seen[..] else { panic!("{v:?} {seen:?}") };
            assert_eq!(code, if v == Version::V5 { 0x85 } else { 2 });
        }
        // [MQTT-3.1.4-6; 3:3.1.4-5]
        listener.say("a", "end", 1).unwrap();
        listener.hears("a", "end").unwrap();
    }
}

#[test]
fn an_unknown_authentication_method_is_refused() {
    // [MQTT-4.12.0-1]
    each(|t| {
        for data in [None, Some(Prop::Data(AUTHENTICATION_DATA, b"x".to_vec()))] {
            let mut connect = Connect::new(Version::V5, t.id("c"));
            connect.props.push(Prop::Text(AUTHENTICATION_METHOD, "not a method".into()));
            connect.props.extend(data);
            let mut client = Client::open(t.mqtt, Version::V5)?;
            client.send(&connect.encode())?;
            let seen = client.until_closed()?;
            ensure!(matches!(seen.as_slice(), [Packet::Connack { code: 0x8c | 0x87, .. }]), "{seen:?}");
        }
        Ok(())
    });
}

#[test]
fn without_an_authentication_method_there_is_no_auth() {
    each(|t| {
        // [MQTT-4.12.0-6]: neither AUTH, which would not be parsed, nor a method.
        let (mut client, connack) = Client::connect(t.mqtt, &Connect::new(Version::V5, t.id("c")))?;
        let named = |p: &Prop| matches!(p, Prop::Text(AUTHENTICATION_METHOD, _) | Prop::Data(AUTHENTICATION_DATA, _));
        ensure!(connack.code == 0 && !connack.props.iter().any(named), "{connack:?}");
        client.ping()?;
        // [MQTT-4.12.0-7]: and none from the client, to go on or to begin again.
        for code in [0x00, 0x18, 0x19] {
            let mut client = Client::clean(t.mqtt, Version::V5, &t.id("c"))?;
            let mut body = vec![code];
            wire::props(&[Prop::Text(AUTHENTICATION_METHOD, "PLAIN".into())], &mut body);
            client.send(&wire::packet(0xf0, &body))?;
            let seen = client.until_closed()?;
            ensure!(seen == [Packet::Disconnect { code: 0x82 }], "{seen:?}");
        }
        Ok(())
    });
}

#[test]
fn response_information_comes_only_if_it_is_asked_for() {
    // [MQTT-3.1.2-28]
    each(|t| {
        for asked in [None, Some(Prop::Byte(REQUEST_RESPONSE_INFORMATION, 0))] {
            let mut connect = Connect::new(Version::V5, t.id("c"));
            connect.props.extend(asked);
            let (_client, connack) = Client::connect(t.mqtt, &connect)?;
            let told = connack.props.iter().any(|p| matches!(p, Prop::Text(RESPONSE_INFORMATION, _)));
            ensure!(connack.code == 0 && !told, "{connack:?}");
        }
        Ok(())
    });
}

#[test]
fn a_small_client_gets_its_connack_without_words() {
    let server = Server::fresh().unwrap();
    let greeted = |id: &str, max: u32| {
        let mut connect = Connect::new(Version::V5, id);
        connect.props.push(Prop::Four(MAXIMUM_PACKET_SIZE, max));
        let mut client = Client::open(server.mqtt, Version::V5).unwrap();
        client.send(&connect.encode()).unwrap();
        let mut answer = vec![0; 2];
        client.socket().read_exact(&mut answer).unwrap();
        answer.resize(2 + usize::from(answer[1]), 0);
        client.socket().read_exact(&mut answer[2..]).unwrap();
        answer
    };
    let has = |answer: &[u8], text: &[u8]| answer.windows(text.len()).any(|bytes| bytes == text);
    // [MQTT-3.2.2-20]: user properties are left out where there is no room for them.
    assert!(has(&greeted("c", 1_000), b"floodplain-ack"));
    let small = greeted("c", 40);
    assert!(!has(&small, b"\x26\0") && small.len() <= 40, "{small:02x?}");
    assert!(small[0] == 0x20 && small[2..4] == [0, 0], "{small:02x?}");
    // [MQTT-3.2.2-19]: and so is the reason string of a refusal.
    let long = "x".repeat(300);
    assert!(has(&greeted(&long, 1_000), b"client id is longer"));
    assert_eq!(greeted(&long, 20), b"\x20\x03\0\x85\0");
}

#[test]
fn what_follows_a_disconnect_is_not_heard() {
    // [MQTT-3.14.4-1; 3:3.14.4-2]
    each_version(|t, v| {
        let mut listener = Client::clean(t.mqtt, v, &t.id("l"))?;
        listener.subscribe(&t.topic("#"), 1)?;
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        let mut bytes = Publish { id: 1, ..Publish::new(t.topic("a"), "before", 1) }.encode(v);
        bytes.extend(wire::disconnect(v, 0, &[]));
        bytes.extend(Publish::new(t.topic("a"), "behind", 0).encode(v));
        bytes.extend(Publish { id: 2, ..Publish::new(t.topic("a"), "behind", 1) }.encode(v));
        bytes.extend([0xc0, 0]);
        client.send(&bytes)?;
        let seen = client.until_closed()?;
        ensure!(seen.iter().all(|p| matches!(p, Packet::Ack { id: 1, .. })), "{seen:?}");
        listener.hears(&t.topic("a"), "before")?;
        listener.say(&t.topic("a"), "end", 1)?;
        listener.hears(&t.topic("a"), "end")?;
        Ok(())
    });
}

#[test]
fn many_clients_come_and_go() {
    each(|t| {
        let mut clients = Vec::new();
        for i in 0..300 {
            let mut client = Client::clean(t.mqtt, Version::V311, &t.id(&format!("c{i}")))?;
            client.subscribe(&t.topic(&format!("{i}")), 0)?;
            clients.push(client);
        }
        let mut publisher = Client::clean(t.mqtt, Version::V311, &t.id("p"))?;
        for i in 0..300 {
            publisher.say(&t.topic(&format!("{i}")), &format!("to {i}"), 0)?;
        }
        for (i, mut client) in clients.into_iter().enumerate() {
            client.hears(&t.topic(&format!("{i}")), &format!("to {i}"))?;
            client.leave()?;
        }
        Ok(())
    });
}

#[test]
fn connack_comes_also_to_a_client_that_says_goodbye_at_once() {
    // [MQTT-3.1.4-5; 3:3.1.4-4]. Of many clients some belong to another thread than the one that accepts them.
    each_version(|t, v| {
        for i in 0..30 {
            let mut client = Client::open(t.mqtt, v)?;
            client.send(&[Connect::new(v, t.id(&format!("c{i}"))).encode(), wire::disconnect(v, 0, &[])].concat())?;
            let seen = client.until_closed()?;
            ensure!(matches!(seen.as_slice(), [Packet::Connack { code: 0, .. }]), "{i}: {seen:?}");
        }
        Ok(())
    });
}

#[test]
fn every_refused_connect_is_told_why() {
    // Refusals that are known only to the thread that owns the client id.
    let server = Server::fresh().unwrap();
    for i in 0..30 {
        let mut connect = Connect::new(Version::V5, format!("c{i}"));
        connect.will = Some(wire::Will { topic: "/".repeat(300), ..wire::Will::default() });
        let mut client = Client::open(server.mqtt, Version::V5).unwrap();
        client.send(&connect.encode()).unwrap();
        let seen = client.until_closed().unwrap();
        assert!(matches!(seen.as_slice(), [Packet::Connack { code: 0x90, .. }]), "{i}: {seen:?}");
    }
}
