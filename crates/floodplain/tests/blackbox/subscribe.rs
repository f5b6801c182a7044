//! Filters, overlaps, options, unsubscribe.

use crate::{
    client::Client,
    target::{each, each_version},
    wire::{Prop, Publish, SUBSCRIPTION_ID, Version},
};
use anyhow::ensure;

const NO_LOCAL: u8 = 4;
const RETAIN_AS_PUBLISHED: u8 = 8;

#[test]
fn filters_match_as_the_standard_says() {
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
    // [MQTT-4.7.2-1]
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
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.subscribe_with(&[], &[(&t.topic("a"), 1), (&t.topic("b"), 1), (&t.topic("+"), 0)])?;
        // Compared character by character [MQTT-3.10.4-1]; always answered [MQTT-3.10.4-5].
        let codes = client.unsubscribe(&[&t.topic("a"), &t.topic("#"), &t.topic("+")])?;
        match v {
            Version::V311 => ensure!(codes.is_empty(), "{codes:?}"),
            Version::V5 => ensure!(codes == [0, 0x11, 0], "{codes:?}"),
        }
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
fn suback_has_one_code_per_filter_in_order() {
    // [MQTT-3.8.4-6]
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
