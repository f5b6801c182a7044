//! What the server knows of clients and devices: SQL tables, HTTP.

use crate::{
    process::{Server, poll, run, stderr, stdout},
    serve::Mqtt,
};
use std::path::Path;

/// The rows of a query as CSV, without the header.
fn rows(folder: &Path, server: &Server, query: &str) -> Vec<String> {
    let url = format!("http://{}", server.http);
    let output = run(folder, &["sql", "--url", &url, "--output", "csv", query]);
    assert!(output.status.success(), "{query}: {}", stderr(&output));
    stdout(&output).lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn events_tell_what_happened_to_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let events = |server: &Server, device: &str| {
        let query = format!("SELECT kind, detail FROM events WHERE device = '{device}' ORDER BY time, position, kind");
        rows(folder.path(), server, &query)
    };
    let kinds = |server: &Server, device: &str| -> Vec<String> {
        let kind = |row: &String| row.split(',').next().unwrap().to_owned();
        events(server, device).iter().map(kind).collect()
    };
    let mut lasting = Mqtt::connect_lasting(server.mqtt, "truck-1");
    lasting.subscribe("devices/+/orders");
    lasting.subscribe("all/#");
    lasting.disconnect();
    // The end of a connection is appended when its socket has gone.
    let told = poll("the end of truck-1", || {
        let told = events(&server, "truck-1");
        (told.len() == 4).then_some(told)
    });
    assert!(told[0].starts_with("connected,\"MQTT 5.0 from 127.0.0.1:"), "{told:?}");
    assert!(told[0].contains("session expires after 600 s") && told[0].contains("keep-alive 60 s"), "{told:?}");
    assert_eq!(
        told[1..],
        ["subscribed,devices/+/orders (QoS 1)", "subscribed,all/# (QoS 1)", "disconnected,the client said DISCONNECT"]
    );

    let first = Mqtt::connect(server.mqtt, "truck-2");
    let second = Mqtt::connect(server.mqtt, "truck-2");
    poll("a take-over", || (kinds(&server, "truck-2") == ["connected", "connected", "taken_over"]).then_some(()));
    drop((first, second));
    drop(Mqtt::connect_with_will(server.mqtt, "truck-3", ("wills/truck-3", "gone")));
    poll("a will", || (kinds(&server, "truck-3") == ["connected", "disconnected", "will"]).then_some(()));
    let wills = "SELECT count(*) FROM records WHERE topic = 'wills/truck-3' AND device = 'truck-3'";
    poll("the will's message", || (rows(folder.path(), &server, wills) == ["1"]).then_some(()));

    let count = |server: &Server, filter: &str| {
        rows(folder.path(), server, &format!("SELECT count(*) FROM events WHERE {filter}"))
    };
    assert_eq!(count(&server, "time > now() + INTERVAL '1 hour'"), ["0"]);
    assert_eq!(count(&server, "client_id = 'truck-3' AND time > now() - INTERVAL '1 hour'"), ["3"]);
    let plan = rows(
        folder.path(),
        &server,
        "EXPLAIN SELECT * FROM events WHERE device = 'truck-1' AND time > '2026-01-01T00:00:00Z'",
    );
    let plan = plan.join("\n");
    assert!(plan.contains(r#"device in {""truck-1""}"#) && plan.contains("received "), "{plan}");
    assert!(plan.contains("partitions=2,"), "one of requests and one of dlq: {plan}");

    let before = count(&server, "kind = 'server_started'");
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    assert_eq!(events(&server, "truck-1"), told, "events outlive a kill");
    assert_ne!(count(&server, "kind = 'server_started' AND device IS NULL"), before);
}

#[test]
fn sessions_and_devices_are_what_the_broker_knows() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut lasting = Mqtt::connect_lasting(server.mqtt, "truck-1");
    lasting.subscribe("devices/+/orders");
    let mut live = Mqtt::connect(server.mqtt, "console");
    live.subscribe("a/#");
    live.subscribe("b,c/+");
    let sessions = "SELECT client_id, connected, lasting, expiry_seconds, subscriptions, filters, protocol FROM sessions ORDER BY client_id";
    assert_eq!(
        rows(folder.path(), &server, sessions),
        [
            r#"console,true,false,0,2,"[""a/#"",""b,c/+""]",MQTT 5.0"#,
            r#"truck-1,true,true,600,1,"[""devices/+/orders""]",MQTT 5.0"#
        ]
    );
    lasting.publish("devices/truck-1/engine", r#"{"rpm": 1}"#);
    lasting.publish("devices/truck-1/engine", r#"{"rpm": 22}"#);
    lasting.publish("devices/truck-2/engine", r#"{"rpm": 3}"#);
    let devices = "SELECT device, connected, messages, bytes, protocol FROM devices ORDER BY device";
    let wanted = ["console,true,0,0,MQTT 5.0", "truck-1,true,2,21,MQTT 5.0", "truck-2,false,1,10,"];
    assert_eq!(rows(folder.path(), &server, devices), wanted);
    let seen = "SELECT count(*) FROM devices WHERE messages > 0 AND first_seen <= last_seen AND last_seen > now() - INTERVAL '1 hour'";
    assert_eq!(rows(folder.path(), &server, seen), ["2"]);
    drop((lasting, live));
    poll("the end of the connections", || {
        let connected = rows(folder.path(), &server, "SELECT count(*) FROM devices WHERE connected");
        (connected == ["0"]).then_some(())
    });
    let lasts = [r#"truck-1,false,true,600,1,"[""devices/+/orders""]",MQTT 5.0"#];
    assert_eq!(rows(folder.path(), &server, sessions), lasts);
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    assert_eq!(rows(folder.path(), &server, sessions), lasts);
    let wanted = ["console,false,0,0,MQTT 5.0", "truck-1,false,2,21,MQTT 5.0", "truck-2,false,1,10,"];
    assert_eq!(rows(folder.path(), &server, devices), wanted);
}

#[test]
fn a_fleet_of_many_pages_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut mqtt = Mqtt::connect_lasting(server.mqtt, "gateway");
    for n in 0..700 {
        mqtt.publish(&format!("devices/d-{n:03}/engine"), "{}");
    }
    let count = |query: &str| rows(folder.path(), &server, query);
    assert_eq!(count("SELECT count(*), count(DISTINCT device), sum(messages) FROM devices"), ["701,701,700"]);
    assert_eq!(count("SELECT device FROM devices ORDER BY device DESC LIMIT 1"), ["gateway"]);
    let connections: Vec<_> = (0..300).map(|n| Mqtt::connect(server.mqtt, &format!("c-{n:03}"))).collect();
    assert_eq!(count("SELECT count(*) FROM devices"), ["1001"]);
    assert_eq!(count("SELECT count(*) FROM sessions WHERE connected"), ["301"]);
    drop(connections);
}
