//! What the server knows of clients and devices: SQL tables, HTTP.

use crate::{
    process::{PATIENCE, Server, poll, run, stderr, stdout},
    serve::Mqtt,
};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
};

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
    let wanted = [
        r#"console,true,false,0,2,"[""a/#"",""b,c/+""]",MQTT 5.0"#,
        r#"truck-1,true,true,600,1,"[""devices/+/orders""]",MQTT 5.0"#,
    ];
    // CONNACK of a session that ends with its connection waits for nothing.
    poll("both sessions", || (rows(folder.path(), &server, sessions) == wanted).then_some(()));
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
    // CONNACK of a session that ends with its connection waits for nothing.
    poll("all clients", || (count("SELECT count(*) FROM devices") == ["1001"]).then_some(()));
    poll("all sessions", || (count("SELECT count(*) FROM sessions WHERE connected") == ["301"]).then_some(()));
    drop(connections);
}

fn answer(server: &Server, path: &str) -> Value {
    let (status, body) = server.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Every answer has the members that OpenAPI requires, and no others.
fn fits(document: &Value, schema: &str, value: &Value) {
    let schema = &document["components"]["schemas"][schema];
    for name in schema["required"].as_array().unwrap() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{name} is missing: {value}");
    }
    for name in value.as_object().unwrap().keys() {
        assert!(schema["properties"].get(name).is_some(), "{name} is not described");
    }
}

#[test]
fn devices_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let document = answer(&server, "/api/v1/openapi.json");
    assert_eq!(answer(&server, "/api/v1/devices"), json!({ "devices": [], "next": null, "total": 0 }));
    let mut truck = Mqtt::connect_lasting(server.mqtt, "truck-1");
    truck.subscribe("devices/+/orders");
    truck.publish("devices/truck-1/engine", r#"{"ts": "2026-01-01T00:00:00Z", "rpm": 1, "gear": "D"}"#);
    truck.publish("devices/truck-1/engine", r#"{"ts": "2026-01-01T00:00:01Z", "rpm": 2}"#);
    truck.publish("devices/truck-1/door", r#"{"open": true}"#);
    truck.publish("devices/Truck-2/engine", r#"{"rpm": 3}"#);
    truck.publish("site/a", "not of a table");
    let names = |path: &str| -> (Vec<String>, Value, Value) {
        let page = answer(&server, path);
        fits(&document, "Devices", &page);
        let devices = page["devices"].as_array().unwrap();
        devices.iter().for_each(|device| fits(&document, "Device", device));
        let names = devices.iter().map(|device| device["device"].as_str().unwrap().to_owned());
        (names.collect(), page["next"].clone(), page["total"].clone())
    };
    let all = vec!["Truck-2".to_owned(), "truck-1".to_owned()];
    assert_eq!(names("/api/v1/devices"), (all.clone(), Value::Null, 2.into()));
    assert_eq!(names("/api/v1/devices?search=TRUCK-"), (all.clone(), Value::Null, 2.into()));
    assert_eq!(names("/api/v1/devices?search=k-2"), (all[..1].to_vec(), Value::Null, 1.into()));
    assert_eq!(names("/api/v1/devices?connected=true"), (all[1..].to_vec(), Value::Null, 1.into()));
    assert_eq!(names("/api/v1/devices?connected=false&limit=1"), (all[..1].to_vec(), Value::Null, 1.into()));
    assert_eq!(names("/api/v1/devices?limit=1"), (all[..1].to_vec(), "Truck-2".into(), 2.into()));
    assert_eq!(names("/api/v1/devices?limit=1&after=Truck-2"), (all[1..].to_vec(), Value::Null, Value::Null));

    let device = answer(&server, "/api/v1/devices/truck-1");
    fits(&document, "DeviceDetail", &device);
    assert_eq!((&device["connected"], &device["messages"]), (&true.into(), &4.into()), "{device}");
    assert_eq!(device["tables"], json!(["door", "engine"]));
    assert_eq!(
        device["latest"][1],
        json!({ "table": "engine", "columns": [
            { "name": "rpm", "type": "Float64", "time": "2026-01-01T00:00:01Z", "value": 2.0 },
            { "name": "gear", "type": "Utf8", "time": "2026-01-01T00:00:00Z", "value": "D" },
        ]})
    );
    let session = json!({
        "client_id": "truck-1", "lasting": true, "expiry_seconds": 600,
        "subscriptions": [{ "filter": "devices/+/orders", "qos": 1 }], "subscriptions_count": 1,
    });
    assert_eq!(device["session"], session);
    let other = answer(&server, "/api/v1/devices/Truck-2");
    assert_eq!((&other["session"], &other["protocol"]), (&Value::Null, &Value::Null));

    let messages = answer(&server, "/api/v1/devices/truck-1/messages?limit=3");
    let messages = messages["messages"].as_array().unwrap();
    messages.iter().for_each(|message| fits(&document, "Message", message));
    let topics: Vec<_> = messages.iter().map(|message| message["topic"].as_str().unwrap()).collect();
    assert_eq!(topics, ["site/a", "devices/truck-1/door", "devices/truck-1/engine"]);
    drop(truck);
    let kinds = |path: &str| -> Vec<String> {
        let events = answer(&server, path);
        let events = events["events"].as_array().unwrap();
        events.iter().for_each(|event| fits(&document, "DeviceEvent", event));
        events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    };
    poll("the end of the connection", || {
        (kinds("/api/v1/devices/truck-1/events") == ["disconnected", "subscribed", "connected"]).then_some(())
    });
    assert_eq!(kinds("/api/v1/devices/truck-1/events?limit=1"), ["disconnected"]);
    assert_eq!(kinds("/api/v1/devices/Truck-2/events"), [] as [&str; 0]);

    // A client without a name that has gone is no device; one that publishes is found by its topics.
    Mqtt::connect(server.mqtt, "").disconnect();
    poll("the end of the nameless client", || {
        let gone = "SELECT count(*) FROM events WHERE device LIKE 'fp-%' AND kind = 'disconnected'";
        (rows(folder.path(), &server, gone) == ["1"]).then_some(())
    });
    poll("only real devices", || (names("/api/v1/devices").0 == all).then_some(()));

    for (path, status, code) in [
        ("/api/v1/devices/nobody", 404, "device_unknown"),
        ("/api/v1/devices/nobody/messages", 404, "device_unknown"),
        ("/api/v1/devices/nobody/events", 404, "device_unknown"),
        ("/api/v1/devices/%ff", 400, "bad_request"),
        ("/api/v1/devices?limit=0", 400, "limit_invalid"),
        ("/api/v1/devices?connected=maybe", 400, "query_invalid"),
        ("/api/v1/devices?sort=name", 400, "query_invalid"),
        ("/api/v1/devices/truck-1/messages?limit=1001", 400, "limit_invalid"),
    ] {
        let (found, body) = server.get(path);
        assert!(found == status && body.contains(code), "{path}: {found} {body}");
    }
    let overview = poll("an overview with the session", || {
        let overview = answer(&server, "/api/v1/overview");
        (overview["sessions"] == 1 && overview["subscriptions"] == 0).then_some(overview)
    });
    assert_eq!(overview["devices"], 2, "{overview}");
}

#[test]
fn a_device_with_slashes_and_a_death_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let _client = Mqtt::connect(server.mqtt, "plant/7 b");
    poll("the client", || (server.get("/api/v1/devices/plant%2F7%20b").0 == 200).then_some(()));
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    let device = answer(&server, "/api/v1/devices/plant%2F7%20b");
    assert_eq!(
        (&device["device"], &device["connected"], &device["latest"]),
        (&"plant/7 b".into(), &false.into(), &json!([]))
    );
    let events = answer(&server, "/api/v1/devices/plant%2F7%20b/events");
    let found: Vec<_> =
        events["events"].as_array().unwrap().iter().map(|event| (&event["kind"], &event["detail"])).collect();
    assert_eq!(found[0], (&"disconnected".into(), &"the server died".into()));
    assert_eq!((found.len(), found[1].0), (2, &"connected".into()));
}

#[test]
fn followers_get_retained_messages_first() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let publish = |path: &str, payload: &str| {
        let (status, body) = server.post(&format!("/api/v1/topics/{path}"), "", payload);
        assert_eq!(status, 200, "{body}");
    };
    // More than a page of one partition, on many devices.
    for n in 0..150 {
        publish(&format!("devices/d-{}/state/{n:03}?retain=true", n % 7), &n.to_string());
    }
    publish("devices/d-1/state/gone?retain=true", "1");
    publish("devices/d-1/state/gone?retain=true", "");
    publish("devices/d-1/other?retain=true", "other");
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = "/api/v1/topics/devices/%2B/state/%23?follow";
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", server.http).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == ": follows"));
    publish("devices/d-1/state/live", "live");
    let data = lines.filter_map(|line| line.strip_prefix("data: ").map(|data| serde_json::from_str(data).unwrap()));
    let heard: Vec<String> =
        data.take(151).map(|message: Value| message["payload"].as_str().unwrap().to_owned()).collect();
    assert_eq!(heard.last().map(String::as_str), Some("live"), "{heard:?}");
    let mut numbers: Vec<u32> = heard[..150].iter().map(|payload| payload.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..150).collect::<Vec<_>>());
}

#[test]
fn the_latest_values_come_from_an_index_and_are_those_of_a_scan() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let scan = "SELECT device, max(time) AS time, last_value(rpm ORDER BY time, _seq) FILTER (WHERE rpm IS NOT NULL) AS rpm, \
                last_value(gear ORDER BY time, _seq) FILTER (WHERE gear IS NOT NULL) AS gear FROM engine GROUP BY device ORDER BY device";
    let latest = "SELECT device, time, rpm, gear FROM latest('engine') ORDER BY device";
    let one = "SELECT device, rpm FROM latest('engine') WHERE device = 'd-3'";
    for life in 0..3_u32 {
        let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
        for n in 0..60_u32 {
            let (device, second) = (n % 7, (n * 37 + life * 11) % 50);
            let gear = if n % 3 == 0 { format!(r#", "gear": "{}""#, n % 5) } else { String::new() };
            let rpm = if n % 4 == 0 { String::new() } else { format!(r#", "rpm": {}"#, n + life) };
            let payload = format!(r#"{{"ts": "2026-01-01T00:00:{second:02}Z"{rpm}{gear}}}"#);
            mqtt.publish(&format!("devices/d-{device}/engine"), &payload);
            // Then every column is there.
            if n % 10 == 9 {
                assert_eq!(rows(folder.path(), &server, latest), rows(folder.path(), &server, scan));
            }
        }
        poll("the index", || {
            let plan = rows(folder.path(), &server, &format!("EXPLAIN {latest}")).join("\n");
            (!plan.contains("HistoryExec")).then_some(())
        });
        assert_eq!(rows(folder.path(), &server, latest), rows(folder.path(), &server, scan));
        assert_eq!(rows(folder.path(), &server, one).len(), 1);
        assert_eq!(rows(folder.path(), &server, "SELECT count(*) FROM latest('engine') WHERE rpm IS NULL"), ["0"]);
        server.signal("KILL");
        server.wait();
        server = Server::start(folder.path());
    }
}

#[test]
fn a_simulated_fleet_is_its_devices_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let address = server.mqtt.to_string();
    let args = ["sim", "--address", &address, "--devices", "3", "--count", "9", "--rate", "100", "--faults", "0"];
    let output = run(folder.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    let devices = rows(folder.path(), &server, "SELECT device FROM devices ORDER BY device");
    assert_eq!(devices, ["motor-00002", "thermostat-00001", "truck-00000"]);
    assert_eq!(rows(folder.path(), &server, "SELECT sum(messages) FROM devices"), ["9"]);
    let connects = "SELECT client_id, count(*) FROM events WHERE kind = 'connected' GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(folder.path(), &server, connects), ["motor-00002,1", "thermostat-00001,1", "truck-00000,1"]);
    // The log is as large as it is, also before its first segment.
    let (status, overview) = server.get("/api/v1/overview");
    let overview: Value = serde_json::from_str(&overview).unwrap();
    assert!(status == 200 && overview["disk"]["log_bytes"].as_u64().unwrap() > 1000, "{overview}");
}
