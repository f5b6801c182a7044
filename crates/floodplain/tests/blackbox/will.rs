//! Wills.

use crate::{
    client::{Client, PATIENCE, QUIET},
    target::{Target, each, each_version},
    wire::{self, Connect, Prop, Publish, SESSION_EXPIRY, Version, WILL_DELAY, Will},
};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

fn with_will(t: &Target, v: Version, delay_s: u32) -> Connect {
    let mut connect = Connect::new(v, t.id("w"));
    connect.will = Some(Will {
        topic: t.topic("will"),
        payload: b"gone".to_vec(),
        qos: 1,
        retain: false,
        props: if v == Version::V5 && delay_s > 0 { vec![Prop::Four(WILL_DELAY, delay_s)] } else { Vec::new() },
    });
    connect
}

fn listener(t: &Target, v: Version) -> Result<Client> {
    let mut client = Client::clean(t.mqtt, v, &t.id("l"))?;
    client.subscribe(&t.topic("will"), 1)?;
    Ok(client)
}

#[test]
fn will_fires_when_the_connection_breaks() {
    each_version(|t, v| {
        let mut listener = listener(t, v)?;
        let (client, _) = Client::resume(t.mqtt, &with_will(t, v, 0))?;
        client.cut();
        let got = listener.hears(&t.topic("will"), "gone")?;
        ensure!(got.qos == 1 && !got.retain, "{got:?}");
        Ok(())
    });
}

#[test]
fn will_fires_by_keep_alive_and_by_malformed_packet() {
    each_version(|t, v| {
        let mut listener = listener(t, v)?;
        let mut connect = with_will(t, v, 0);
        connect.keep_alive = 1;
        let (_silent, _) = Client::resume(t.mqtt, &connect)?;
        listener.hears(&t.topic("will"), "gone")?;
        let (mut client, _) = Client::resume(t.mqtt, &with_will(t, v, 0))?;
        client.send(&[0x00, 0x00])?;
        listener.hears(&t.topic("will"), "gone")?;
        Ok(())
    });
}

#[test]
fn disconnect_removes_the_will() {
    // [MQTT-3.14.4-3, 3.1.2-10; 3:3.14.4-3, 3.1.2-10]
    each_version(|t, v| {
        let mut listener = listener(t, v)?;
        let (client, _) = Client::resume(t.mqtt, &with_will(t, v, 0))?;
        client.leave()?;
        listener.hears_nothing()
    });
}

#[test]
fn disconnect_with_will_message_sends_it() {
    // Reason code 0x04, §3.14.2.1.
    each(|t| {
        let mut listener = listener(t, Version::V5)?;
        let (client, _) = Client::resume(t.mqtt, &with_will(t, Version::V5, 0))?;
        client.leave_with(4, &[])?;
        listener.hears(&t.topic("will"), "gone")?;
        Ok(())
    });
}

#[test]
fn takeover_fires_the_will_of_the_older_connection() {
    // [MQTT-3.1.2-8; 3:3.1.2-8]
    each_version(|t, v| {
        let mut listener = listener(t, v)?;
        let (_old, _) = Client::resume(t.mqtt, &with_will(t, v, 0))?;
        let _new = Client::clean(t.mqtt, v, &t.id("w"))?;
        listener.hears(&t.topic("will"), "gone")?;
        Ok(())
    });
}

#[test]
fn will_may_be_retained_and_carry_properties() {
    each(|t| {
        let mut listener = listener(t, Version::V5)?;
        let mut connect = with_will(t, Version::V5, 0);
        if let Some(will) = &mut connect.will {
            will.retain = true;
            will.props.push(Prop::User("why".into(), "cut".into()));
        }
        let (client, _) = Client::resume(t.mqtt, &connect)?;
        client.cut();
        let got = listener.hears(&t.topic("will"), "gone")?;
        ensure!(got.user_props() == [("why", "cut")], "{got:?}");
        let mut later = Client::clean(t.mqtt, Version::V5, &t.id("later"))?;
        later.subscribe(&t.topic("will"), 1)?;
        ensure!(later.hears(&t.topic("will"), "gone")?.retain);
        later.publish(Publish::new(t.topic("will"), "", 1).retained())?;
        Ok(())
    });
}

#[test]
fn a_will_is_published_at_its_qos_and_retained_only_if_it_says_so() {
    // [MQTT-3.1.2-14, -15; 3:3.1.2-9, -16, -17]
    each_version(|t, v| {
        let mut listener = Client::clean(t.mqtt, v, &t.id("l"))?;
        listener.subscribe(&t.topic("will"), 2)?;
        for (retain, qos) in [(false, 0), (true, 0), (true, 1), (false, 2), (true, 2), (false, 1)] {
            let mut connect = with_will(t, v, 0);
            if let Some(will) = &mut connect.will {
                (will.retain, will.qos) = (retain, qos);
            }
            let (client, _) = Client::resume(t.mqtt, &connect)?;
            client.cut();
            let got = listener.hears(&t.topic("will"), "gone")?;
            ensure!(got.qos == qos && !got.retain, "{retain} {qos}: {got:?}");
            // It is passed on and kept at about the same time.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let mut later = Client::clean(t.mqtt, v, &t.id("later"))?;
                later.subscribe(&t.topic("will"), 2)?;
                match later.recv_within(QUIET)? {
                    Some(wire::Packet::Publish(kept)) => {
                        ensure!(retain && kept.retain && kept.qos == qos && kept.payload == b"gone", "{kept:?}");
                        break;
                    }
                    None if !retain => break,
                    other => ensure!(other.is_none() && Instant::now() < deadline, "{retain} {qos}: {other:?}"),
                }
            }
            listener.publish(Publish::new(t.topic("will"), "", 1).retained())?;
            listener.hears(&t.topic("will"), "")?;
        }
        Ok(())
    });
}

#[test]
fn a_will_is_published_once() {
    // [MQTT-3.1.2-10; 3:3.1.2-10]
    each_version(|t, v| {
        let mut listener = listener(t, v)?;
        let mut connect = Connect::lasting(v, t.id("w"), 600);
        connect.will = with_will(t, v, 0).will;
        let (client, _) = Client::resume(t.mqtt, &connect)?;
        client.cut();
        listener.hears(&t.topic("will"), "gone")?;
        // Its session goes on, and the will is no part of it any more; without one there is none [3:3.1.2-12].
        connect.will = None;
        for _ in 0..2 {
            let (client, present) = Client::resume(t.mqtt, &connect)?;
            ensure!(present, "the session was lost");
            client.cut();
        }
        let (mut client, _) = Client::resume(t.mqtt, &connect)?;
        client.say(&t.topic("will"), "end", 1)?;
        listener.hears(&t.topic("will"), "end")?;
        Ok(())
    });
}

#[test]
fn user_properties_of_a_will_keep_their_order() {
    // [MQTT-3.1.3-10]
    each(|t| {
        let mut listener = listener(t, Version::V5)?;
        let mut connect = with_will(t, Version::V5, 0);
        let users = [("b", "1"), ("a", "2"), ("b", "3"), ("", ""), ("b", "1")];
        if let Some(will) = &mut connect.will {
            will.props.extend(users.map(|(name, value)| Prop::User(name.into(), value.into())));
            will.props.insert(2, Prop::Text(wire::CONTENT_TYPE, "text/plain".into()));
        }
        let (client, _) = Client::resume(t.mqtt, &connect)?;
        client.cut();
        let got = listener.hears(&t.topic("will"), "gone")?;
        ensure!(got.user_props() == users, "{got:?}");
        Ok(())
    });
}

#[test]
fn will_delay_waits() {
    // §3.1.3.2.2: the will comes when the delay has passed or the session ends, whichever is first.
    each(|t| {
        let mut listener = listener(t, Version::V5)?;
        let mut connect = with_will(t, Version::V5, 2);
        connect.props.push(Prop::Four(SESSION_EXPIRY, 60));
        let (client, _) = Client::resume(t.mqtt, &connect)?;
        let since = Instant::now();
        client.cut();
        listener.hears(&t.topic("will"), "gone")?;
        let after = since.elapsed();
        ensure!(after > Duration::from_millis(900) && after < PATIENCE / 2, "came after {after:?}");
        Ok(())
    });
}

#[test]
fn resuming_in_time_withdraws_the_will() {
    // [MQTT-3.1.3-9]
    each(|t| {
        let mut listener = listener(t, Version::V5)?;
        let mut connect = with_will(t, Version::V5, 2);
        connect.clean = false;
        connect.props.push(Prop::Four(SESSION_EXPIRY, 60));
        let (client, _) = Client::resume(t.mqtt, &connect)?;
        client.cut();
        let mut again = connect.clone();
        again.will = None;
        let (_client, present) = Client::resume(t.mqtt, &again)?;
        ensure!(present, "the session was lost");
        ensure!(listener.recv_within(Duration::from_millis(3_500))?.is_none(), "the will came");
        Ok(())
    });
}

#[test]
fn end_of_the_session_fires_the_will_before_its_delay() {
    // [MQTT-3.1.3-9], min(delay, session end).
    each(|t| {
        let mut listener = listener(t, Version::V5)?;
        let mut connect = with_will(t, Version::V5, 600);
        connect.props.push(Prop::Four(SESSION_EXPIRY, 1));
        let (client, _) = Client::resume(t.mqtt, &connect)?;
        client.cut();
        listener.hears(&t.topic("will"), "gone")?;
        // And at once when a clean start ends the session.
        let mut connect = with_will(t, Version::V5, 600);
        connect.props.push(Prop::Four(SESSION_EXPIRY, 600));
        let (client, _) = Client::resume(t.mqtt, &connect)?;
        client.cut();
        let _new = Client::clean(t.mqtt, Version::V5, &t.id("w"))?;
        listener.hears(&t.topic("will"), "gone")?;
        Ok(())
    });
}

#[test]
fn will_flags_without_will_are_malformed() {
    // [MQTT-3.1.2-11, -13; 3:3.1.2-11]
    each_version(|t, v| {
        for flags in [0x08, 0x10, 0x20] {
            let mut bytes = Connect::new(v, t.id("c")).encode();
            bytes[9] |= flags;
            let mut client = Client::open(t.mqtt, v)?;
            client.send(&bytes)?;
            let seen = client.until_closed()?;
            let refused = seen.iter().all(|p| matches!(p, wire::Packet::Connack { code: 0x81 | 0x82, .. }));
            ensure!(refused, "{flags:#x}: {seen:?}");
        }
        Ok(())
    });
}
