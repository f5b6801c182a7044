//! Sizes and numbers that a client may use.

use crate::{
    client::Client,
    target::each_version,
    wire::{self, Connect, Packet, Publish},
};
use anyhow::{bail, ensure};

#[test]
fn a_topic_may_have_65535_bytes() {
    // [MQTT-4.7.3-3; 3:4.7.3-3]
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        let prefix = t.topic("");
        let topic = format!("{prefix}{}", "x".repeat(65_535 - prefix.len()));
        subscriber.subscribe(&topic, 1)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for qos in [0, 1, 2] {
            publisher.say(&topic, &format!("q{qos}"), qos)?;
            subscriber.hears(&topic, &format!("q{qos}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_session_may_have_thousands_of_subscriptions() {
    each_version(|t, v| {
        const FILTERS: usize = 5_000;
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        let names: Vec<String> = (0..FILTERS).map(|i| t.topic(&format!("{i}/+"))).collect();
        for chunk in names.chunks(500) {
            let filters: Vec<_> = chunk.iter().map(|name| (name.as_str(), 1)).collect();
            let codes = subscriber.subscribe_with(&[], &filters)?;
            ensure!(codes.iter().all(|code| *code == 1), "{codes:?}");
        }
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for i in [0, FILTERS / 2, FILTERS - 1] {
            let topic = t.topic(&format!("{i}/x"));
            publisher.say(&topic, "m", 1)?;
            subscriber.hears(&topic, "m")?;
        }
        Ok(())
    });
}

#[test]
fn a_retained_message_that_came_live_does_not_come_again() {
    // [MQTT-3.3.1-9]: it was not there when the subscription was made.
    each_version(|t, v| {
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for round in 0..50 {
            let topic = t.topic(&format!("r{round}"));
            let lasting = Connect::lasting(v, t.id(&format!("s{round}")), 60);
            let (mut subscriber, _) = Client::resume(t.mqtt, &lasting)?;
            // The SUBACK of a lasting session waits for the log: the message comes in that time.
            let id = subscriber.next_id();
            subscriber.send(&wire::subscribe(v, id, &[], &[(&topic, 1)]))?;
            publisher.say(&topic, "now", 0)?;
            publisher.publish(Publish::new(&topic, "now", 0).retained())?;
            let mut seen = 0;
            loop {
                match subscriber.recv()? {
                    Packet::Publish(publish) if publish.text() == "end" => {
                        subscriber.accept(&publish)?;
                        break;
                    }
                    Packet::Publish(_) => seen += 1,
                    // Only now is it certain that the next message comes.
                    Packet::Suback { .. } => publisher.say(&topic, "end", 1)?,
                    other => bail!("unexpected {other:?}"),
                }
            }
            // A second copy would come as a retained message, at the latest before the one that is asked for now.
            let other = t.topic(&format!("o{round}"));
            publisher.publish(Publish::new(&other, "kept", 1).retained())?;
            let id = subscriber.next_id();
            subscriber.send(&wire::subscribe(v, id, &[], &[(&other, 1)]))?;
            loop {
                match subscriber.recv()? {
                    Packet::Publish(publish) if publish.text() == "kept" => {
                        subscriber.accept(&publish)?;
                        break;
                    }
                    Packet::Publish(_) => seen += 1,
                    Packet::Suback { .. } => {}
                    other => bail!("unexpected {other:?}"),
                }
            }
            publisher.publish(Publish::new(&other, "", 1).retained())?;
            ensure!(seen <= 2, "round {round}: {seen} copies of two messages");
            publisher.publish(Publish::new(&topic, "", 1).retained())?;
        }
        Ok(())
    });
}

#[test]
fn a_message_of_900_kib_comes_whole() {
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("big"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let payload: Vec<u8> = (0..900 << 10).map(|i: u32| (i % 251) as u8).collect();
        for qos in [0, 1, 2] {
            publisher.publish(Publish::new(t.topic("big"), payload.clone(), qos))?;
            let got = subscriber.message()?;
            ensure!(got.payload == payload, "qos {qos}: {} bytes", got.payload.len());
        }
        Ok(())
    });
}
