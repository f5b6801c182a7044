//! Messages over HTTP: between MQTT and HTTP, from line protocol to tables, across a kill.

use crate::{
    process::{PATIENCE, Server, poll, python},
    serve::Mqtt,
};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
};

/// Publishes JSON; the position.
fn publish(server: &Server, path: &str, payload: &str) -> String {
    let (status, body) = server.post(&format!("/api/v1/topics/{path}"), "Content-Type: application/json\r\n", payload);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["position"].as_str().unwrap().to_owned()
}

/// The rows of a query.
fn rows(server: &Server, query: &str) -> Value {
    let (status, body) = server.post("/api/v1/sql", "Content-Type: text/plain\r\n", query);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["rows"].clone()
}

#[test]
fn mqtt_subscribers_hear_what_is_published_by_http() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut subscriber = Mqtt::connect(server.mqtt, "listener");
    subscriber.subscribe("devices/#");
    // So many devices that every worker owns some of them.
    for n in 0..20 {
        publish(&server, &format!("devices/d-{n}/engine"), &n.to_string());
        assert_eq!(subscriber.hears(), (false, format!("devices/d-{n}/engine"), n.to_string()));
    }
    publish(&server, "home/kitchen", "not for this subscriber");
    publish(&server, "devices/d-1/engine?qos=2", "last");
    assert_eq!(subscriber.hears().2, "last");
}

#[test]
fn retained_messages_by_http_are_there_for_later_subscribers() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    publish(&server, "home/kitchen/light?retain=true", "on");
    publish(&server, "home/hall/light?retain=true", "on");
    // An empty one takes it away, whoever set it.
    publish(&server, "home/hall/light?retain=true", "");
    // The fold of retained messages follows the commit; a subscriber that comes before it gets the message live.
    poll("the retained message", || {
        let mut subscriber = Mqtt::connect(server.mqtt, "listener");
        subscriber.subscribe("home/+/light");
        publish(&server, "home/end/light", "end");
        let mut heard = Vec::new();
        while heard.last().is_none_or(|(_, topic, _): &(bool, String, String)| topic != "home/end/light") {
            heard.push(subscriber.hears());
        }
        heard.retain(|(retain, ..)| *retain);
        (heard == [(true, "home/kitchen/light".to_owned(), "on".to_owned())]).then_some(())
    });
}

#[test]
fn followers_hear_what_is_published_by_mqtt() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /api/v1/topics/devices/%2B/engine?follow HTTP/1.0\r\nHost: {}\r\n\r\n", server.http).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == ": follows"));
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for n in 0..50 {
        mqtt.publish(&format!("devices/d-{}/engine", n % 5), &format!("{{\"n\": {n}}}"));
        mqtt.publish("devices/d-1/other", "0");
    }
    let data = lines.filter_map(|line| line.strip_prefix("data: ").map(|data| serde_json::from_str(data).unwrap()));
    let mut heard: Vec<String> =
        data.take(50).map(|message: Value| message["payload"].as_str().unwrap().to_owned()).collect();
    let mut wanted: Vec<String> = (0..50).map(|n| format!("{{\"n\": {n}}}")).collect();
    heard.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(heard, wanted);
}

#[test]
fn what_was_answered_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let positions: Vec<String> =
        (0..10).map(|n| publish(&server, &format!("devices/d-{n}/engine"), &format!("{{\"n\": {n}}}"))).collect();
    let (status, body) = server.post("/write?precision=s", "", "cpu,host=h load=0.5 1700000000\n");
    assert_eq!((status, body.as_str()), (204, ""));
    server.signal("KILL");
    server.wait();
    drop(server);
    let server = Server::start(folder.path());
    let query = "SELECT concat_ws('/', stream, partition, generation, \"offset\") AS position FROM records \
                 WHERE topic LIKE 'devices/d-%' ORDER BY json_get_int(payload, 'n')";
    let found = rows(&server, query);
    let found: Vec<&str> = found.as_array().unwrap().iter().map(|row| row["position"].as_str().unwrap()).collect();
    assert_eq!(found, positions);
    assert_eq!(rows(&server, "SELECT device, load FROM cpu"), serde_json::json!([{ "device": "h", "load": 0.5 }]));
}

#[test]
fn line_protocol_becomes_tables() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut subscriber = Mqtt::connect(server.mqtt, "listener");
    subscriber.subscribe("devices/d-1/#");
    let lines = "cpu,device=d-1,core=0 load=0.5,n=3i 1700000000000\n\
                 cpu,device=d-1,core=1 load=0.75 1700000000000\n\
                 bad line\n\
                 mem,host=h-1 free=7i 1700000000000\n";
    let (status, body) = server.post("/api/v2/write?org=o&bucket=b&precision=ms", "", lines);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["code"], &answer["lines"][0]["line"]), (400, &"invalid".into(), &3.into()), "{body}");
    assert!(answer["error"].as_str().unwrap().starts_with("partial write: line 3: "), "{body}");
    // The client does not send it again.
    let letter = rows(&server, "SELECT stage, line, byte_position, count, topic FROM dlq");
    assert_eq!(letter.as_array().map(Vec::len), Some(1), "{letter}");
    assert_eq!((&letter[0]["stage"], &letter[0]["line"]), (&"decode".into(), &1.into()), "{letter}");
    let kept = rows(&server, "SELECT utf8(payload) AS lines FROM records WHERE topic = 'devices/http/refused_lines'");
    assert_eq!(kept, serde_json::json!([{ "lines": "bad line\n" }]));
    let found = rows(&server, "SELECT device, core, load, n, CAST(time AS text) AS t FROM cpu ORDER BY core");
    let time = "2023-11-14T22:13:20Z";
    let wanted = serde_json::json!([
        { "device": "d-1", "core": "0", "load": 0.5, "n": 3, "t": time },
        { "device": "d-1", "core": "1", "load": 0.75, "n": null, "t": time },
    ]);
    assert_eq!(found, wanted);
    assert_eq!(
        rows(&server, "SELECT device, host, free FROM mem"),
        serde_json::json!([{ "device": "h-1", "host": "h-1", "free": 7 }])
    );
    let (_, topic, payload) = subscriber.hears();
    assert_eq!(topic, "devices/d-1/cpu");
    assert_eq!(payload.lines().next(), Some("cpu,core=0 load=0.5,n=3i 1700000000000000000"));
    for (path, headers, body, status) in [
        ("/write?precision=days", "", "a f=1", 400),
        ("/write", "Content-Encoding: br\r\n", "a f=1", 415),
        ("/write", "Content-Encoding: gzip\r\n", "a f=1", 400),
        ("/write", "", "no line", 400),
        ("/write", "", "", 204),
        // What Telegraf begins with; there is one database.
        ("/query", "", "q=CREATE+DATABASE+%22telegraf%22", 200),
        ("/query?q=create%20database%20a", "", "", 200),
        ("/query", "", "q=CREATE+DATABASE+a%3B+DROP+DATABASE+b", 400),
        ("/query", "", "q=SELECT+*+FROM+cpu", 400),
        ("/query", "", "", 400),
    ] {
        let (found, answer) = server.post(path, headers, body);
        assert_eq!(found, status, "{path} {headers}: {answer}");
    }
    assert_eq!(server.get("/ping").0, 204);
}

#[test]
fn telegraf_writes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let printed = python("telegraf.py", &[&server.http.to_string()]);
    assert!(printed.contains("all good"), "{printed}");
    let query = "SELECT cpu.device, cpu.usage_idle, mem.total, disk.device AS disk FROM cpu, mem, disk";
    let wanted =
        serde_json::json!([{ "device": "edge-1", "usage_idle": 97.25, "total": 25_282_244_608_i64, "disk": "vda1" }]);
    assert_eq!(rows(&server, query), wanted);
}

#[test]
fn the_client_of_influxdb_writes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let printed = python("influx.py", &[&format!("http://{}", server.http)]);
    assert!(printed.contains("refused: 400"), "{printed}");
    let query = "SELECT device, count(*) AS n, sum(rpm) AS rpm FROM engine GROUP BY device ORDER BY device";
    let wanted = serde_json::json!([
        { "device": "truck-0", "n": 500, "rpm": 249_500 }, { "device": "truck-1", "n": 500, "rpm": 250_000 },
    ]);
    assert_eq!(rows(&server, query), wanted);
}

#[test]
fn pyarrow_reads_results() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("floodplain.toml"), "sql.rows_max = 30000\n").unwrap();
    let server = Server::start(folder.path());
    for (n, lamp) in [(1, r#","lamp":false"#), (2, r#","lamp":true"#), (3, "")] {
        publish(&server, "devices/truck-1/engine", &format!(r#"{{"ts":"2026-01-01T00:00:0{n}Z","rpm":{n}.5{lamp}}}"#));
    }
    python("arrow_cases.py", &[&format!("http://{}", server.http)]);
}

#[test]
fn the_overview_and_the_tables_say_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let json = |path: &str| -> Value {
        let (status, body) = server.get(path);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    assert_eq!(json("/api/v1/tables"), serde_json::json!({ "tables": [] }));
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for n in 0..10 {
        mqtt.publish(&format!("devices/d-{n}/engine"), r#"{"time": 1700000000000, "rpm": 1, "gear": "D"}"#);
    }
    publish(&server, "devices/d-0/engine", r#"{"time": 1700000001000, "rpm": 2}"#);
    let overview = poll("an overview of all messages", || {
        let overview = json("/api/v1/overview");
        (overview["messages_total"] == 11 && overview["topics"] == 10).then_some(overview)
    });
    assert_eq!((&overview["devices"], &overview["connections"]), (&10.into(), &1.into()), "{overview}");
    assert_eq!((&overview["ack"]["class"], &overview["log"]["poisoned"]), (&"all".into(), &Value::Null));
    assert!(overview["disk"]["free_bytes"].as_u64().unwrap() > 0 && overview["sync"]["p99_ms"].as_f64().unwrap() > 0.0);
    let tables = json("/api/v1/tables");
    let table = &tables["tables"][0];
    assert_eq!((&table["table"], &table["rows"]), (&"engine".into(), &11.into()), "{tables}");
    assert_eq!((&table["from"], &table["to"]), (&"2023-11-14T22:13:20Z".into(), &"2023-11-14T22:13:21Z".into()));
    let columns: Vec<String> = table["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| {
            format!(
                "{} {} {}",
                column["name"].as_str().unwrap(),
                column["type"].as_str().unwrap(),
                column["role"].as_str().unwrap()
            )
        })
        .collect();
    for column in
        ["device Utf8 key", "time Timestamp key", "_seq Struct system", "rpm Float64 value", "gear Utf8 value"]
    {
        assert!(columns.iter().any(|found| found == column), "{column}: {columns:?}");
    }
    let (status, body) = server.get("/api/v1/tables/engine");
    assert!(status == 405 && body.contains("method_not_allowed"), "{status} {body}");
}
