//! Retained messages.

use crate::{
    client::Client,
    target::{each, each_version},
    wire::{Connect, MESSAGE_EXPIRY, Prop, Publish, Version},
};
use anyhow::ensure;
use std::time::{Duration, Instant};

/// Retain Handling (MQTT 5.0 §3.8.3.1): only for a new subscription, or never.
const IF_NEW: u8 = 1 << 4;
const NEVER: u8 = 2 << 4;

#[test]
fn retained_message_comes_with_the_subscription() {
    // The last of them [MQTT-3.3.1-5; 3:3.3.1-5, -6], with RETAIN 1 [3:3.3.1-8].
    each_version(|t, v| {
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for text in ["old", "new"] {
            publisher.publish(Publish::new(t.topic("a"), text, 1).retained())?;
        }
        // A message without the flag neither replaces nor deletes it [MQTT-3.3.1-8; 3:3.3.1-12].
        publisher.say(&t.topic("a"), "passing", 1)?;
        for (filter, qos) in [("a", 0), ("+", 1), ("#", 2)] {
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            subscriber.subscribe(&t.topic(filter), qos)?;
            let got = subscriber.hears(&t.topic("a"), "new")?;
            ensure!(got.retain && got.qos == qos.min(1), "{got:?}");
        }
        Ok(())
    });
}

#[test]
fn empty_payload_deletes() {
    // [MQTT-3.3.1-6, -7; 3:3.3.1-10, -11]: deleted, delivered, not stored.
    each_version(|t, v| {
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let mut live = Client::clean(t.mqtt, v, &t.id("l"))?;
        live.subscribe(&t.topic("a"), 1)?;
        publisher.publish(Publish::new(t.topic("a"), "x", 1).retained())?;
        publisher.publish(Publish::new(t.topic("a"), "", 1).retained())?;
        live.hears(&t.topic("a"), "x")?;
        live.hears(&t.topic("a"), "")?;
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        subscriber.hears_nothing()
    });
}

#[test]
fn retained_at_every_qos() {
    // [3:3.3.1-5]: with its QoS.
    each_version(|t, v| {
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for qos in 0..=2 {
            publisher.publish(Publish::new(t.topic(&format!("{qos}")), "x", qos).retained())?;
        }
        // QoS 0 has no answer to wait for: it is there when a subscription finds it.
        let deadline = Instant::now() + crate::client::PATIENCE;
        loop {
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            subscriber.subscribe(&t.topic("#"), 2)?;
            let mut got = Vec::new();
            while let Some(crate::wire::Packet::Publish(publish)) = subscriber.recv_within(crate::client::QUIET)? {
                ensure!(publish.retain, "{publish:?}");
                got.push((publish.topic, publish.qos));
            }
            got.sort();
            if got.len() == 3 {
                let want: Vec<(String, u8)> = (0..=2).map(|qos| (t.topic(&format!("{qos}")), qos)).collect();
                ensure!(got == want, "{got:?}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "only {got:?}");
        }
    });
}

#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    // [3:3.1.2-7]
    each_version(|t, v| {
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.publish(Publish::new(t.topic("a"), "kept", 1).retained())?;
        publisher.leave()?;
        // A clean start ends what may be left of it.
        Client::clean(t.mqtt, v, &t.id("p"))?.leave()?;
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        ensure!(subscriber.hears(&t.topic("a"), "kept")?.retain);
        subscriber.publish(Publish::new(t.topic("a"), "", 1).retained())?;
        Ok(())
    });
}

#[test]
fn a_retained_message_at_qos_0_takes_the_place_of_the_older_one() {
    // [MQTT-3.3.1-5; 3:3.3.1-7]
    each_version(|t, v| {
        let mut live = Client::clean(t.mqtt, v, &t.id("l"))?;
        live.subscribe(&t.topic("a"), 1)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.publish(Publish::new(t.topic("a"), "old", 2).retained())?;
        live.hears(&t.topic("a"), "old")?;
        publisher.publish(Publish::new(t.topic("a"), "new", 0).retained())?;
        live.hears(&t.topic("a"), "new")?;
        // QoS 0 has no answer to wait for: the new one is kept a little later than it is passed on.
        let deadline = Instant::now() + crate::client::PATIENCE;
        loop {
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            subscriber.subscribe(&t.topic("a"), 2)?;
            let got = subscriber.message()?;
            ensure!(got.retain && got.topic == t.topic("a"), "{got:?}");
            if got.text() == "new" {
                ensure!(got.qos == 0, "{got:?}");
                break;
            }
            ensure!(got.text() == "old" && Instant::now() < deadline, "still there: {got:?}");
        }
        publisher.publish(Publish::new(t.topic("a"), "", 1).retained())?;
        Ok(())
    });
}

#[test]
fn subscribing_again_sends_it_again() {
    // [3:3.8.4-3]; MQTT 5.0 with Retain Handling 0 [MQTT-3.3.1-9, 3.8.4-4].
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.publish(Publish::new(t.topic("a"), "x", 1).retained())?;
        for _ in 0..3 {
            client.subscribe(&t.topic("a"), 1)?;
            client.hears(&t.topic("a"), "x")?;
        }
        Ok(())
    });
}

#[test]
fn retain_handling() {
    // [MQTT-3.3.1-10, -11]
    each(|t| {
        let v = Version::V5;
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        // A PUBACK says that the message is kept, not that it has been passed on: until then a new
        // subscription may still see it live.
        let mut live = Client::clean(t.mqtt, v, &t.id("l"))?;
        live.subscribe(&t.topic("a"), 1)?;
        client.publish(Publish::new(t.topic("a"), "x", 1).retained())?;
        live.hears(&t.topic("a"), "x")?;
        client.subscribe_with(&[], &[(&t.topic("a"), 1 | NEVER)])?;
        client.hears_nothing()?;
        client.subscribe_with(&[], &[(&t.topic("a"), 1 | IF_NEW)])?;
        client.hears_nothing()?;
        client.subscribe_with(&[], &[(&t.topic("+"), 1 | IF_NEW)])?;
        ensure!(client.hears(&t.topic("a"), "x")?.retain);
        Ok(())
    });
}

#[test]
fn retained_message_expires() {
    // [MQTT-3.3.2-5, -6]
    each(|t| {
        let v = Version::V5;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.publish(Publish::new(t.topic("long"), "x", 1).retained().with(Prop::Four(MESSAGE_EXPIRY, 600)))?;
        publisher.publish(Publish::new(t.topic("short"), "x", 1).retained().with(Prop::Four(MESSAGE_EXPIRY, 1)))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            subscriber.subscribe(&t.topic("#"), 1)?;
            let mut topics = Vec::new();
            while let Some(crate::wire::Packet::Publish(publish)) = subscriber.recv_within(crate::client::QUIET)? {
                topics.push(publish.topic);
            }
            ensure!(topics.contains(&t.topic("long")), "{topics:?}");
            if topics == [t.topic("long")] {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "still there: {topics:?}");
        }
    });
}

#[test]
fn thousand_retained_messages_come_whole() {
    each_version(|t, v| {
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for n in 0..1_000 {
            publisher.publish(Publish::new(t.topic(&format!("{n}/state")), format!("{n}"), 1).retained())?;
        }
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("+/state"), 1)?;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            let got = subscriber.message()?;
            ensure!(got.retain && got.topic == t.topic(&format!("{}/state", got.text())), "{got:?}");
            ensure!(seen.insert(got.text()), "{got:?} came twice");
        }
        for n in 0..1_000 {
            publisher.publish(Publish::new(t.topic(&format!("{n}/state")), "", 1).retained())?;
        }
        Ok(())
    });
}

/// What a lasting session was to get when its connection broke is owed to it (MQTT 5.0 §4.1; 3: §4.1).
#[test]
fn retained_messages_go_on_after_a_reset() {
    each_version(|t, v| {
        const COUNT: usize = 500;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for n in 0..COUNT {
            publisher.publish(Publish::new(t.topic(&format!("{n}/state")), format!("{n}"), 1).retained())?;
        }
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("+/state"), 1)?;
        let mut seen = std::collections::BTreeSet::new();
        for stop in [40, 200, 370, COUNT] {
            while seen.len() < stop {
                let got = subscriber.message()?;
                ensure!(got.topic == t.topic(&format!("{}/state", got.text())), "{got:?}");
                seen.insert(got.text());
            }
            // Unread and unacknowledged messages are under way.
            subscriber.cut();
            let (again, present) = Client::resume(t.mqtt, &connect)?;
            ensure!(present, "the session was lost");
            subscriber = again;
        }
        for n in 0..COUNT {
            publisher.publish(Publish::new(t.topic(&format!("{n}/state")), "", 1).retained())?;
        }
        Ok(())
    });
}
