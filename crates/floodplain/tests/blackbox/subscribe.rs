//! Filters, overlaps, options, unsubscribe.

use crate::{
    client::Client,
    target::{Server, each, each_version},
    wire::{self, Connect, MAXIMUM_PACKET_SIZE, Packet, Prop, Publish, SUBSCRIPTION_ID, Version},
};
use anyhow::{Result, ensure};
use std::io::Read;

const NO_LOCAL: u8 = 4;
const RETAIN_AS_PUBLISHED: u8 = 8;

#[test]
fn filters_match_as_the_standard_says() {
    // [MQTT-3.3.2-3; 3:3.3.2-3, 4.7.1-2, -3, 4.7.3-4]
    // One row per filter: topics below the test's prefix that match, and that do not.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        ("a", &["a"], &["A", "a/", "/a", "ab", "a/b"]),
        ("a/+", &["a/b", "a/"], &["a", "a/b/c", "/a/b"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c"], &["ab", "b/a"]),
        ("+/b", &["a/b", "/b"], &["b", "a/b/c"]),
        ("+/+", &["a/b", "/", "/a"], &["a", "a/b/c"]),
        ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/d/c"]),
        ("#", &["a", "", "a/b/c"], &[]),
        ("a b/ü", &["a b/ü"], &["a b/u", "a%20b/ü"]),
    ];
    each_version(|t, v| {
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for (i, (filter, matching, others)) in CASES.iter().enumerate() {
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            let topic = |rest: &str| t.topic(&format!("{i}/{rest}"));
            subscriber.subscribe(&topic(filter), 1)?;
            let end = t.topic(&format!("end{i}"));
            subscriber.subscribe(&end, 1)?;
            for other in *others {
                publisher.say(&topic(other), "no", 1)?;
            }
            for wanted in *matching {
                publisher.say(&topic(wanted), "yes", 1)?;
            }
            publisher.say(&end, "end", 1)?;
            for wanted in *matching {
                subscriber.hears(&topic(wanted), "yes")?;
            }
            subscriber.hears(&end, "end")?;
        }
        Ok(())
    });
}

#[test]
fn wildcards_do_not_match_dollar_topics() {
    // [MQTT-4.7.2-1; 3:4.7.2-1]
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&format!("+/{}/#", t.prefix), 1)?;
        subscriber.subscribe("#", 1)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        // A broker may refuse the topic; it must not deliver it to these filters.
        publisher.publish(Publish::new(format!("$x/{}/a", t.prefix), "no", 1))?;
        publisher.say(&format!("x/{}/a", t.prefix), "yes", 1)?;
        loop {
            let got = subscriber.message()?;
            // Other tests may run on the same broker.
            if got.topic.contains(&t.prefix) {
                ensure!(got.text() == "yes", "{got:?}");
                return Ok(());
            }
        }
    });
}

#[test]
fn overlapping_filters_give_the_highest_qos() {
    // [MQTT-3.3.4-2; 3:3.3.5-1]: a copy each, or one with the highest QoS.
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        let codes = client.subscribe_with(&[], &[(&t.topic("#"), 0), (&t.topic("a"), 2), (&t.topic("+"), 1)])?;
        ensure!(codes == [0, 2, 1], "{codes:?}");
        client.say(&t.topic("a"), "x", 2)?;
        client.say(&t.topic("end"), "end", 2)?;
        let mut copies = Vec::new();
        loop {
            let got = client.message()?;
            if got.text() == "end" {
                break;
            }
            copies.push(got.qos);
        }
        ensure!(copies.iter().max() == Some(&2) && copies.len() <= 3, "{copies:?}");
        Ok(())
    });
}

#[test]
fn subscription_ids_come_with_the_message() {
    // [MQTT-3.3.4-3, -4]
    each(|t| {
        let v = Version::V5;
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        for (filter, id) in [("#", 1), ("a", 268_435_455), ("b", 3)] {
            client.subscribe_with(&[Prop::Var(SUBSCRIPTION_ID, id)], &[(&t.topic(filter), 1)])?;
        }
        client.subscribe_with(&[], &[(&t.topic("+"), 1)])?;
        client.say(&t.topic("a"), "x", 1)?;
        client.say(&t.topic("end/x"), "end", 1)?;
        let mut ids = Vec::new();
        loop {
            let got = client.message()?;
            if got.text() == "end" {
                ensure!(got.subscription_ids() == [1], "{got:?}");
                break;
            }
            ids.extend(got.subscription_ids());
        }
        ids.sort_unstable();
        ensure!(ids == [1, 268_435_455], "{ids:?}");
        // The same filter again replaces the id [MQTT-3.8.4-3].
        client.subscribe_with(&[Prop::Var(SUBSCRIPTION_ID, 9)], &[(&t.topic("#"), 1)])?;
        client.say(&t.topic("x/y"), "y", 1)?;
        let got = client.hears(&t.topic("x/y"), "y")?;
        ensure!(got.subscription_ids() == [9], "{got:?}");
        Ok(())
    });
}

#[test]
fn no_local_keeps_own_messages_away() {
    // [MQTT-3.8.3-3]
    each(|t| {
        let v = Version::V5;
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.subscribe_with(&[], &[(&t.topic("a"), 1 | NO_LOCAL), (&t.topic("b"), 1)])?;
        client.say(&t.topic("a"), "own", 1)?;
        client.say(&t.topic("b"), "own", 1)?;
        client.hears(&t.topic("b"), "own")?;
        let mut other = Client::clean(t.mqtt, v, &t.id("o"))?;
        other.say(&t.topic("a"), "other", 1)?;
        client.hears(&t.topic("a"), "other")?;
        Ok(())
    });
}

#[test]
fn retain_as_published() {
    // [MQTT-3.3.1-12, -13]; 3.1.1 always gets 0 on live delivery [3:3.3.1-9].
    each(|t| {
        let v = Version::V5;
        let mut keeps = Client::clean(t.mqtt, v, &t.id("k"))?;
        keeps.subscribe_with(&[], &[(&t.topic("a"), 1 | RETAIN_AS_PUBLISHED)])?;
        let mut clears = Client::clean(t.mqtt, v, &t.id("c"))?;
        clears.subscribe(&t.topic("a"), 1)?;
        let mut old = Client::clean(t.mqtt, Version::V311, &t.id("o"))?;
        old.subscribe(&t.topic("a"), 1)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for retain in [true, false] {
            publisher.publish(Publish { retain, ..Publish::new(t.topic("a"), "x", 1) })?;
            ensure!(keeps.hears(&t.topic("a"), "x")?.retain == retain);
            ensure!(!clears.hears(&t.topic("a"), "x")?.retain);
            ensure!(!old.hears(&t.topic("a"), "x")?.retain);
        }
        publisher.publish(Publish::new(t.topic("a"), "", 1).retained())?;
        Ok(())
    });
}

#[test]
fn same_filter_again_changes_the_qos() {
    // [MQTT-3.8.4-3]: replaced, not doubled.
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        for qos in [2, 0, 1] {
            client.subscribe(&t.topic("a"), qos)?;
            client.say(&t.topic("a"), &format!("{qos}"), 2)?;
            let got = client.hears(&t.topic("a"), &format!("{qos}"))?;
            ensure!(got.qos == qos, "{got:?}");
        }
        client.hears_nothing()
    });
}

#[test]
fn unsubscribe_stops_one_filter() {
    // Of many filters in one packet each goes, and there is one answer [MQTT-3.10.4-6; 3:3.10.4-6].
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.subscribe_with(&[], &[(&t.topic("a"), 1), (&t.topic("b"), 1), (&t.topic("+"), 0)])?;
        // Compared character by character [MQTT-3.10.4-1; 3:3.10.4-1]; always answered [MQTT-3.10.4-5; 3:3.10.4-5].
        let codes = client.unsubscribe(&[&t.topic("a"), &t.topic("#"), &t.topic("+")])?;
        match v {
            Version::V311 => ensure!(codes.is_empty(), "{codes:?}"),
            Version::V5 => ensure!(codes == [0, 0x11, 0], "{codes:?}"),
        }
        // [MQTT-3.10.4-2; 3:3.10.4-2]
        client.say(&t.topic("a"), "no", 1)?;
        client.say(&t.topic("b"), "yes", 1)?;
        client.hears(&t.topic("b"), "yes")?;
        client.unsubscribe(&[&t.topic("b")])?;
        client.say(&t.topic("b"), "no", 1)?;
        client.subscribe(&t.topic("c"), 1)?;
        client.say(&t.topic("c"), "end", 1)?;
        client.hears(&t.topic("c"), "end")?;
        Ok(())
    });
}

#[test]
fn answers_have_the_ids_of_what_they_answer() {
    // [MQTT-2.2.1-6, 3.8.4-1, -2, 3.10.4-4; 3:2.3.1-7, 3.8.4-1, -2, 3.10.4-4]
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        let ids = [7, 65_535, 1, 300, 7];
        let mut bytes = Vec::new();
        for id in ids {
            bytes.extend(wire::subscribe(v, id, &[], &[(&t.topic("a"), 1), (&t.topic("b"), 0)]));
            bytes.extend(wire::unsubscribe(v, id, &[&t.topic("b"), &t.topic("c")]));
        }
        client.send(&bytes)?;
        for id in ids {
            ensure!(client.recv()? == Packet::Suback { id, codes: vec![1, 0] });
            let codes = if v == Version::V5 { vec![0, 0x11] } else { Vec::new() };
            ensure!(client.recv()? == Packet::Unsuback { id, codes });
        }
        client.ping()
    });
}

#[test]
fn replacing_a_subscription_loses_no_message() {
    // [MQTT-3.8.4-4]
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        let (address, id, topic) = (t.mqtt, t.id("p"), t.topic("a"));
        let count = 500;
        let publisher = std::thread::spawn(move || -> Result<()> {
            let mut publisher = Client::clean(address, v, &id)?;
            (0..count).try_for_each(|n| publisher.say(&topic, &format!("{n}"), 1))
        });
        for n in 0..count {
            if n % 5 == 0 {
                subscriber.subscribe(&t.topic("a"), 1 + u8::from(n % 2 == 0))?;
            }
            subscriber.hears(&t.topic("a"), &format!("{n}"))?;
        }
        publisher.join().expect("the publisher does not panic")
    });
}

#[test]
fn unsubscribe_lets_deliveries_end_that_have_begun() {
    // [MQTT-3.10.4-3; 3:3.10.4-3]
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let mut begun = Vec::new();
        for (text, qos) in [("0", 1), ("1", 2), ("2", 2)] {
            publisher.say(&t.topic("a"), text, qos)?;
            begun.push(subscriber.message_raw()?);
        }
        subscriber.unsubscribe(&[&t.topic("a")])?;
        publisher.say(&t.topic("a"), "too late", 2)?;
        // One ends on this connection, the others on the next.
        subscriber.accept(&begun.remove(1))?;
        subscriber.ping()?;
        subscriber.cut();
        let (mut subscriber, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(present);
        for before in begun {
            let again = subscriber.message_raw()?;
            ensure!(again.dup && (again.id, again.text()) == (before.id, before.text()), "{again:?}, {before:?}");
            subscriber.accept(&again)?;
        }
        subscriber.hears_nothing()
    });
}

#[test]
fn a_small_client_gets_its_suback_without_words() {
    // [MQTT-3.9.2-1]
    let server = Server::fresh().unwrap();
    for (max, has_words) in [(1_000, true), (40, false)] {
        let mut connect = Connect::new(Version::V5, "c");
        connect.props.push(Prop::Four(MAXIMUM_PACKET_SIZE, max));
        let (mut client, _) = Client::resume(server.mqtt, &connect).unwrap();
        // A filter with more levels than this server takes.
        client.send(&wire::subscribe(Version::V5, 1, &[], &[(&"/".repeat(300), 0)])).unwrap();
        client.send(&wire::disconnect(Version::V5, 0, &[])).unwrap();
        let mut answer = Vec::new();
        client.socket().read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(&[0x8f]), "{answer:02x?}");
        assert_eq!(answer == b"\x90\x04\0\x01\0\x8f", !has_words, "{answer:02x?}");
    }
}

#[test]
fn suback_has_one_code_per_filter_in_order() {
    // [MQTT-3.8.4-6, -7; 3:3.8.4-5, 3.9.3-1], and it is the only one; the last filter is like one of a later packet
    // [MQTT-3.8.4-5; 3:3.8.4-4].
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        let codes = client.subscribe_with(&[], &[(&t.topic("a"), 2), (&t.topic("b"), 0), (&t.topic("a"), 1)])?;
        ensure!(codes == [2, 0, 1], "{codes:?}");
        client.say(&t.topic("a"), "x", 2)?;
        ensure!(client.hears(&t.topic("a"), "x")?.qos == 1);
        Ok(())
    });
}

#[test]
fn fan_out_reaches_everybody() {
    // [MQTT-4.5.0-1; 3:4.5.0-1]
    each_version(|t, v| {
        let mut subscribers = Vec::new();
        for i in 0..100 {
            let mut subscriber = Client::clean(t.mqtt, v, &t.id(&format!("s{i}")))?;
            subscriber.subscribe(&t.topic("#"), (i % 3) as u8)?;
            subscribers.push(subscriber);
        }
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for n in 0..20 {
            publisher.say(&t.topic("a"), &format!("{n}"), 1)?;
        }
        for subscriber in &mut subscribers {
            for n in 0..20 {
                subscriber.hears(&t.topic("a"), &format!("{n}"))?;
            }
        }
        Ok(())
    });
}
