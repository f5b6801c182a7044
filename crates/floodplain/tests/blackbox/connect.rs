//! CONNECT, keep-alive, takeover and the end of a connection.

use crate::{
    client::{Client, PATIENCE},
    target::{each, each_version},
    wire::{self, ASSIGNED_ID, Connect, Packet, Prop, RECEIVE_MAXIMUM, SESSION_EXPIRY, Version},
};
use anyhow::{Context, bail, ensure};
use std::time::{Duration, Instant};

#[test]
fn connect_and_leave() {
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
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
    // [MQTT-3.1.0-1]
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
    // [MQTT-3.1.0-2]
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
            std::io::Read::read_to_end(&mut client.socket(), &mut answer)?;
            let refused = matches!(answer.as_slice(), [] | [0x20, 2, 0, 1] | [0x20, 3, 0, 0x84, 0]);
            ensure!(refused, "level {level}: {answer:?}, expected code {code}");
        }
        Ok(())
    });
}

#[test]
fn empty_client_id() {
    each(|t| {
        // MQTT 5.0 assigns one and says so [MQTT-3.1.3-6, -7].
        let (_client, connack) = Client::connect(t.mqtt, &Connect::new(Version::V5, ""))?;
        ensure!(connack.code == 0, "{connack:?}");
        let assigned = connack.props.iter().find_map(|p| match p {
            Prop::Text(ASSIGNED_ID, id) => Some(id.clone()),
            _ => None,
        });
        ensure!(!assigned.context("no assigned id")?.is_empty());
        // 3.1.1 takes it with a clean session only: else code 2 [MQTT-3.1.3-8].
        let (_client, connack) = Client::connect(t.mqtt, &Connect::new(Version::V311, ""))?;
        ensure!(connack.code == 0, "{connack:?}");
        let (_client, connack) = Client::connect(t.mqtt, &Connect::lasting(Version::V311, "", 0))?;
        ensure!(connack.code == 2, "{connack:?}");
        Ok(())
    });
}

#[test]
fn takeover_closes_the_older_connection() {
    // [MQTT-3.1.4-3]
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
    // [MQTT-3.1.2-22]: after one and a half times the keep-alive.
    each_version(|t, v| {
        let mut connect = Connect::new(v, t.id("c"));
        connect.keep_alive = 1;
        let since = Instant::now();
        let (mut client, _) = Client::resume(t.mqtt, &connect)?;
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
    each(|t| {
        let mut connect = Connect::new(Version::V5, t.id("c"));
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
