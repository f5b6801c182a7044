//! What clients do not get is counted, under the names that `docs/guides/running.md` lists.

use crate::{
    client::Client,
    target::Server,
    wire::{BOTH, Connect, MAXIMUM_PACKET_SIZE, Packet, Prop, Publish, Version},
};
use std::collections::BTreeMap;

const GUIDE: &str = include_str!("../../../../docs/guides/running.md");
const KAFKA_GUIDE: &str = include_str!("../../../../docs/guides/kafka.md");

/// The rows of the metrics' table under a heading of a guide: name, and the next cell.
fn rows(guide: &'static str, heading: &str) -> BTreeMap<&'static str, &'static str> {
    let section = guide.split("\n## ").find(|section| section.lines().next() == Some(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `floodplain_")).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`'), cells[2])
    });
    rows.collect()
}

/// The counters of the guide with the reasons that they tell apart.
fn documented() -> BTreeMap<&'static str, Vec<&'static str>> {
    let reasons = |cell: &'static str| cell.split('`').skip(1).step_by(2).collect();
    rows(GUIDE, "What is refused and dropped").into_iter().map(|(name, cell)| (name, reasons(cell))).collect()
}

#[test]
fn the_guide_lists_all_that_the_log_and_the_folds_count() {
    let is_on_kafka = std::env::var_os("FLOODPLAIN_TEST_KAFKA").is_some();
    lists_what_is_counted(&Server::fresh().unwrap(), is_on_kafka);
}

pub(crate) fn lists_what_is_counted(server: &Server, is_on_kafka: bool) {
    let metrics = server.metrics().unwrap();
    let is_ours = |name: &str| name.starts_with("floodplain_log_") || name.starts_with("floodplain_fold_");
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let found: BTreeMap<&str, &str> = types.filter(|(name, _)| is_ours(name)).collect();
    let mut listed = rows(GUIDE, "What the log and the folds count");
    if is_on_kafka {
        listed.retain(|name, _| name.starts_with("floodplain_fold_"));
        listed.append(&mut rows(KAFKA_GUIDE, "What it counts"));
    }
    assert_eq!(found, listed);
    // A server that has just begun has had no trouble yet.
    let troubles =
        ["refused", "unknown", "damaged", "torn", "not_kept", "errors", "lost", "unreadable", "dropped", "poisoned"];
    for (series, value) in metrics.lines().filter(|line| is_ours(line)).filter_map(|line| line.rsplit_once(' ')) {
        let is_trouble = troubles.iter().any(|trouble| series.contains(trouble));
        assert!(!is_trouble || value == "0", "{series} {value}");
    }
}

#[test]
fn the_guide_lists_what_is_refused_and_dropped() {
    let server = Server::fresh().unwrap();
    let metrics = server.metrics().unwrap();
    let documented = documented();
    for (name, reasons) in &documented {
        let series = if reasons.is_empty() {
            vec![(*name).to_owned()]
        } else {
            reasons.iter().map(|reason| format!("{name}{{reason=\"{reason}\"}}")).collect()
        };
        for series in series {
            assert!(metrics.lines().any(|line| line == format!("{series} 0")), "{series} is not in /metrics");
        }
    }
    // Nothing of this kind is left out.
    let kinds = ["refused", "dropped", "lost", "failed", "exceeded", "timeouts", "errors", "paused"];
    for (series, _) in metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')) {
        let (name, reason) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.split('"').nth(1)),
            None => (series, None),
        };
        let is_ours = name.starts_with("floodplain_broker_") || name.starts_with("floodplain_gateway_");
        if is_ours && kinds.iter().any(|kind| name.contains(kind)) {
            let reasons = documented.get(name).unwrap_or_else(|| panic!("{name} is not in the guide"));
            assert!(reason.is_none_or(|reason| reasons.contains(&reason)), "{series} is not in the guide");
        }
    }
}

#[test]
fn a_reader_that_stops_loses_qos_0_and_it_is_counted() {
    for v in BOTH {
        let server = Server::fresh().unwrap();
        let dropped = || server.counted("floodplain_broker_dropped_messages_total").unwrap();
        let mut subscriber = Client::clean(server.mqtt, v, "s").unwrap();
        subscriber.subscribe("a", 0).unwrap();
        subscriber.subscribe("end", 1).unwrap();
        let mut publisher = Client::clean(server.mqtt, v, "p").unwrap();
        let text = "x".repeat(60_000);
        let mut sent = 0;
        // Far more than the buffers of two sockets take.
        while dropped() == 0 {
            assert!(sent < 10_000, "{sent} messages, and none is dropped");
            for _ in 0..50 {
                publisher.say("a", &text, 0).unwrap();
                sent += 1;
            }
            publisher.ping().unwrap();
        }
        // It was dropped for its reader, and nobody else waits: this one is there, too, and takes no harm.
        publisher.say("end", "end", 1).unwrap();
        let mut heard = 0;
        while subscriber.message().unwrap().topic == "a" {
            heard += 1;
        }
        assert_eq!(heard + dropped(), sent, "{v:?}");
        assert!(heard > 0);
        assert_eq!(server.counted("floodplain_broker_undelivered_messages_total").unwrap(), 0);
    }
}

#[test]
fn messages_that_are_too_large_are_counted() {
    let server = Server::fresh().unwrap();
    let refused = || server.counted(r#"floodplain_broker_refused_messages_total{reason="too_large"}"#).unwrap();
    for (v, told) in [(Version::V311, vec![]), (Version::V5, vec![Packet::Disconnect { code: 0x95 }])] {
        let before = refused();
        let mut client = Client::clean(server.mqtt, v, "p").unwrap();
        // One million bytes are announced: that is enough to refuse it.
        client.send(&[0x32, 0xc0, 0x84, 0x3d, 0, 1, b'a', 0, 1]).unwrap();
        assert_eq!(client.until_closed().unwrap(), told);
        assert_eq!(refused(), before + 1);
    }

    // Larger than the subscriber allows.
    let dropped = || server.counted(r#"floodplain_broker_dropped_messages_total{reason="too_large"}"#).unwrap();
    let mut connect = Connect::new(Version::V5, "s");
    connect.props.push(Prop::Four(MAXIMUM_PACKET_SIZE, 200));
    let (mut subscriber, _) = Client::resume(server.mqtt, &connect).unwrap();
    subscriber.subscribe("a", 1).unwrap();
    let mut publisher = Client::clean(server.mqtt, Version::V5, "p").unwrap();
    for qos in [0, 1] {
        publisher.say("a", &"x".repeat(300), qos).unwrap();
        publisher.say("a", "small", qos).unwrap();
        subscriber.hears("a", "small").unwrap();
        assert_eq!(dropped(), u64::from(qos) + 1);
    }
    assert_eq!(server.counted("floodplain_broker_undelivered_messages_total").unwrap(), 1);
    assert_eq!(server.log("a").unwrap().len(), 4, "what was refused is not stored");
}

#[test]
fn filters_and_connections_that_are_refused_are_counted() {
    let server = Server::fresh().unwrap();
    let filters = || server.counted("floodplain_broker_refused_subscriptions_total").unwrap();
    let connections = || server.counted(r#"floodplain_broker_refused_connections_total{reason="invalid"}"#).unwrap();
    for (v, code) in [(Version::V311, 0x80), (Version::V5, 0x9e)] {
        let before = filters();
        let mut client = Client::clean(server.mqtt, v, "s").unwrap();
        let codes = client.subscribe_with(&[], &[("$share/g/a", 1), ("a", 1), ("$share/g/b", 0)]).unwrap();
        // [MQTT-3.8.4-7]
        assert_eq!(codes, [code, 1, code]);
        assert_eq!(filters(), before + 2);
        // The connection is well, and so is the filter between the two.
        let mut publisher = Client::clean(server.mqtt, v, "p").unwrap();
        publisher.publish(Publish::new("a", "x", 1)).unwrap();
        client.hears("a", "x").unwrap();
    }
    let before = connections();
    // [3:3.1.3-8]: a session without an id that is to be kept.
    let (_, connack) =
        Client::connect(server.mqtt, &Connect { clean: false, ..Connect::new(Version::V311, "") }).unwrap();
    assert_eq!(connack.code, 2);
    assert_eq!(connections(), before + 1);
}
