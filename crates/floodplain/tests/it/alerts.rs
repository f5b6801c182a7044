//! Alerts, from a message to all who are told.

use crate::{
    process::{PATIENCE, Server, floodplain, poll, run, stderr, stdout},
    serve::Mqtt,
};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::mpsc::{Receiver, channel},
};

/// Takes webhooks on a free port: the first is answered 503, all others 204; gives their bodies.
fn listener() -> (SocketAddr, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            let mut lines = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap_or_default() == 0 || line.trim().is_empty() {
                    break;
                }
                lines += 1;
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            // A server that is killed leaves half a request.
            if lines == 0 || stream.read_exact(&mut body).is_err() {
                continue;
            }
            let status = if count == 0 { "503 later" } else { "204 taken" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            drop(stream.get_mut().write_all(answer.as_bytes()));
            let body: Value = serde_json::from_slice(&body).unwrap();
            if count > 0 && sender.send(body).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

fn request(server: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (http, length) = (server.http, body.len());
    let head = format!("{method} /api/v1/{path} HTTP/1.0\r\nHost: {http}\r\nContent-Type: application/json\r\n");
    let (status, body) = server.ask(&format!("{head}Content-Length: {length}\r\n\r\n{body}"));
    (status, if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap() })
}

fn put(server: &Server, alert: &Value) -> Value {
    let path = format!("alerts/{}", alert["name"].as_str().unwrap());
    let (status, body) = request(server, "PUT", &path, &alert.to_string());
    assert_eq!(status, 200, "{body}");
    body
}

/// The alert of this name.
fn alert(server: &Server, name: &str) -> Value {
    let (status, body) = request(server, "GET", "alerts", "");
    assert_eq!(status, 200, "{body}");
    body["alerts"].as_array().unwrap().iter().find(|alert| alert["name"] == name).unwrap_or(&Value::Null).clone()
}

fn rows(server: &Server, query: &str) -> Value {
    let (status, body) = server.post("/api/v1/sql", "Content-Type: text/plain\r\n", query);
    assert_eq!(status, 200, "{query}: {body}");
    serde_json::from_str::<Value>(&body).unwrap()["rows"].clone()
}

/// The states of one alert and device that are stored, in order: once as they are kept, once as they are told.
fn states(server: &Server, stream: &str, topic: &str) -> Vec<String> {
    let query = format!(
        "SELECT payload FROM records WHERE stream = '{stream}' AND topic = '{topic}' ORDER BY \"partition\", \"offset\""
    );
    let rows = rows(server, &query);
    let state = |row: &Value| {
        let payload: Value = serde_json::from_str(row["payload"].as_str().unwrap()).unwrap();
        payload["state"].as_str().unwrap().to_owned()
    };
    rows.as_array().unwrap().iter().map(state).collect()
}

fn hot(webhook: Option<SocketAddr>) -> Value {
    let webhook = webhook.map(|address| format!("http://{address}/hook"));
    json!({ "name": "hot", "kind": "above", "table": "engine", "column": "oil", "value": 120, "devices": "truck-*",
        "webhook": webhook })
}

#[test]
fn a_value_above_a_limit_is_told_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let (address, webhooks) = listener();
    let mut subscriber = Mqtt::connect(server.mqtt, "operator");
    subscriber.subscribe("alerts/#");
    let mut follower = TcpStream::connect(server.http).unwrap();
    follower.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(follower, "GET /api/v1/topics/alerts/%23?follow HTTP/1.0\r\nHost: {}\r\n\r\n", server.http).unwrap();
    let mut follower = BufReader::new(follower).lines().map(Result::unwrap);
    assert!(follower.any(|line| line == ": follows"));

    let made = put(&server, &hot(Some(address)));
    assert_eq!((&made["enabled"], &made["origin"], &made["firing"]), (&json!(true), &json!("api"), &json!([])));
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for payload in [
        r#"{"oil": 120}"#,
        r#"{"oil": "121"}"#,
        r#"{"oil": true}"#,
        r#"{"oil": null}"#,
        r#"{"oil": [121]}"#,
        r#"{"other": 121}"#,
        "no json",
    ] {
        mqtt.publish("devices/truck-7/engine", payload);
    }
    mqtt.publish("devices/boat-1/engine", r#"{"oil": 500}"#);
    mqtt.publish("devices/truck-7/other", r#"{"oil": 500}"#);
    // An old row that comes late.
    mqtt.publish("devices/truck-7/engine", r#"{"oil": 500, "time": "2026-01-02T03:04:05.5Z"}"#);
    mqtt.publish("devices/truck-7/engine", r#"{"oil": 131.25}"#);
    let (retained, topic, payload) = subscriber.hears();
    let told: Value = serde_json::from_str(&payload).unwrap();
    let fires =
        json!({ "alert": "hot", "device": "truck-7", "state": "firing", "since": told["since"], "value": 131.25 });
    assert_eq!((retained, topic.as_str(), &told), (false, "alerts/hot/truck-7", &fires));
    assert_eq!(webhooks.recv_timeout(PATIENCE).unwrap(), fires, "also if the first try is refused");
    let followed = follower.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
    let followed: Value = serde_json::from_str(&followed).unwrap();
    assert_eq!((&followed["topic"], followed["payload"].as_str()), (&json!("alerts/hot/truck-7"), Some(&*payload)));
    let now = poll("the result of the webhook", || {
        let alert = alert(&server, "hot");
        (alert["last_webhook"]["status"] == 204).then_some(alert)
    });
    assert_eq!((&now["firing_count"], &now["fired_total"]), (&json!(1), &json!(1)), "{now}");
    assert_eq!(now["firing"], json!([{ "device": "truck-7", "since": told["since"], "value": 131.25 }]));
    poll("the overview", || (request(&server, "GET", "overview", "").1["alerts_firing"] == 1).then_some(()));

    let (status, body) = request(&server, "POST", "alerts/test", &hot(None).to_string());
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        (&body["would_fire"][0]["device"], &body["would_fire"][0]["value"]),
        (&json!("truck-7"), &json!(131.25))
    );
    assert_eq!(body["would_fire"].as_array().unwrap().len(), 1, "boat-1 is not meant");

    // Whoever says that it has ended: it has not.
    mqtt.publish("alerts/hot/truck-7", &payload.replace("firing", "resolved"));
    assert_eq!(subscriber.hears().1, "alerts/hot/truck-7");
    mqtt.publish("devices/truck-7/engine", r#"{"oil": 119}"#);
    let ended: Value = serde_json::from_str(&subscriber.hears().2).unwrap();
    assert_eq!((&ended["state"], &ended["value"]), (&json!("resolved"), &json!(119.0)));
    assert_eq!(webhooks.recv_timeout(PATIENCE).unwrap(), ended);
    assert_eq!(states(&server, "alerts", "alerts/hot/truck-7"), ["firing", "resolved"]);
    assert_eq!(alert(&server, "hot")["firing"], json!([]));
}

#[test]
fn a_kill_loses_no_transition_and_doubles_none() {
    let folder = tempfile::tempdir().unwrap();
    let topics = ["alerts/hot/truck-0", "alerts/hot/truck-1", "alerts/hot/truck-2"];
    let mut sent = [0_usize; 3];
    for life in 0..6 {
        let mut server = Server::start(folder.path());
        if life == 0 {
            put(&server, &hot(None));
        }
        let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
        for n in 0..20 {
            let device = (n * 7 + life) % 3;
            // Each message of a device crosses the limit.
            let oil = if sent[device].is_multiple_of(2) { 121 } else { 119 };
            mqtt.publish(&format!("devices/truck-{device}/engine"), &format!(r#"{{"oil": {oil}}}"#));
            sent[device] += 1;
        }
        if life % 2 == 1 {
            // Some lives end when all is told, others in between.
            poll("all transitions", || (states(&server, "alerts", topics[2]).len() >= sent[2]).then_some(()));
        }
        server.signal("KILL");
        server.wait();
    }
    let server = Server::start(folder.path());
    for (topic, sent) in topics.into_iter().zip(sent) {
        poll("all transitions", || (states(&server, "alerts", topic).len() >= sent).then_some(()));
    }
    // What would come too much comes with the next ones.
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for (device, sent) in sent.iter_mut().enumerate() {
        let oil = if sent.is_multiple_of(2) { 121 } else { 119 };
        mqtt.publish(&format!("devices/truck-{device}/engine"), &format!(r#"{{"oil": {oil}}}"#));
        *sent += 1;
    }
    for (topic, sent) in topics.into_iter().zip(sent) {
        poll("the last transition", || (states(&server, "alerts", topic).len() >= sent).then_some(()));
        let expected: Vec<&str> = ["firing", "resolved"].into_iter().cycle().take(sent).collect();
        assert_eq!(states(&server, "alerts", topic), expected, "{topic}");
        assert_eq!(states(&server, "telemetry", topic), expected, "{topic}");
    }
    let total: usize = sent.iter().map(|sent| sent.div_ceil(2)).sum();
    assert_eq!(alert(&server, "hot")["fired_total"], json!(total));
}

#[test]
fn a_webhook_that_was_not_told_before_a_kill_is_told_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let (address, webhooks) = listener();
    let mut server = Server::start(folder.path());
    put(&server, &hot(Some(address)));
    Mqtt::connect(server.mqtt, "gateway").publish("devices/truck-1/engine", r#"{"oil": 121}"#);
    // The first try is refused, the next one comes a second later.
    poll("the first try", || (alert(&server, "hot")["last_webhook"]["status"] == 503).then_some(()));
    server.signal("KILL");
    server.wait();
    drop(server);
    let mut server = Server::start(folder.path());
    assert_eq!(webhooks.recv_timeout(PATIENCE).unwrap()["state"], "firing");
    let receipts = "SELECT count(*) AS n FROM records WHERE stream = 'alerts' AND topic IS NULL";
    poll("the end of the delivery", || (rows(&server, receipts)[0]["n"] == 1).then_some(()));
    server.signal("KILL");
    server.wait();
    drop(server);
    let server = Server::start(folder.path());
    Mqtt::connect(server.mqtt, "gateway").publish("devices/truck-1/engine", r#"{"oil": 119}"#);
    assert_eq!(webhooks.recv_timeout(PATIENCE).unwrap()["state"], "resolved", "what was told is not told again");
}

#[test]
fn the_cause_is_found_in_whatever_stream_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"
        streams = [{ name = "gauges" }]
        bindings = [{ name = "g", filter = "g/+", stream = "gauges", device_level = 2, table = { name = "engine" } }]
    "#;
    std::fs::write(folder.path().join("floodplain.toml"), config).unwrap();
    let server = Server::start(folder.path());
    put(&server, &hot(None));
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    mqtt.publish("devices/truck-1/engine", r#"{"oil": 121}"#);
    mqtt.publish("g/truck-2", r#"{"oil": 122}"#);
    poll("both alerts", || (alert(&server, "hot")["firing_count"] == 2).then_some(()));
    let cause = "SELECT r.stream, r.topic FROM alerts a JOIN records r ON r.stream = a.cause_stream \
                 AND r.\"partition\" = a.cause_partition AND r.position = a.cause_position ORDER BY r.topic";
    let wanted = json!([
        { "stream": "telemetry", "topic": "devices/truck-1/engine" }, { "stream": "gauges", "topic": "g/truck-2" },
    ]);
    assert_eq!(rows(&server, cause), wanted);
}

/// What fires now, and each transition, as SQL has them.
fn table(server: &Server) -> (Value, Value) {
    let active = rows(server, "SELECT rule, device, state, value FROM alerts WHERE active ORDER BY rule, device");
    (active, rows(server, "SELECT device, state, value, cause_position FROM alerts ORDER BY device, time"))
}

#[test]
fn neither_a_replay_nor_a_start_tells_anything_again() {
    let folder = tempfile::tempdir().unwrap();
    let (address, webhooks) = listener();
    let mut server = Server::start(folder.path());
    put(&server, &hot(Some(address)));
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for (device, oil) in [(1, 121), (1, 119), (1, 122), (2, 130)] {
        mqtt.publish(&format!("devices/truck-{device}/engine"), &format!(r#"{{"oil": {oil}}}"#));
        assert_eq!(webhooks.recv_timeout(PATIENCE).unwrap()["value"], f64::from(oil));
    }
    let receipts = "SELECT count(*) AS n FROM records WHERE stream = 'alerts' AND topic IS NULL";
    poll("the ends of the deliveries", || (rows(&server, receipts)[0]["n"] == 4).then_some(()));
    let (active, transitions) = table(&server);
    assert_eq!(
        active,
        json!([
            { "rule": "hot", "device": "truck-1", "state": "firing", "value": 122.0 },
            { "rule": "hot", "device": "truck-2", "state": "firing", "value": 130.0 },
        ])
    );
    let states: Vec<_> = transitions.as_array().unwrap().iter().map(|row| (&row["device"], &row["state"])).collect();
    let [one, two, fires, ends] = ["truck-1", "truck-2", "firing", "resolved"].map(|text| json!(text));
    assert_eq!(states, [(&one, &fires), (&one, &ends), (&one, &fires), (&two, &fires)]);
    // The cause leads to the message.
    let cause = "SELECT r.device, json_get_float(r.payload, 'oil') AS oil FROM alerts a JOIN records r ON r.stream = a.cause_stream \
                 AND r.\"partition\" = a.cause_partition AND r.position = a.cause_position WHERE a.active ORDER BY oil";
    let cause = rows(&server, cause);
    assert_eq!(cause, json!([{ "device": "truck-1", "oil": 122.0 }, { "device": "truck-2", "oil": 130.0 }]));

    let before = (table(&server), states_of_all(&server));
    for life in 0..3 {
        let url = format!("http://{}", server.http);
        let output = run(folder.path(), &["replay", "--url", &url]);
        assert!(output.status.success() && stdout(&output).contains("done"), "{}{}", stdout(&output), stderr(&output));
        assert_eq!((table(&server), states_of_all(&server)), before, "after a replay, life {life}");
        server.signal(if life == 1 { "TERM" } else { "KILL" });
        server.wait();
        server = Server::start(folder.path());
        assert_eq!((table(&server), states_of_all(&server)), before, "after a start, life {life}");
    }
    // What is told next is new, so nothing was told in between.
    Mqtt::connect(server.mqtt, "gateway").publish("devices/truck-2/engine", r#"{"oil": 119}"#);
    let next = webhooks.recv_timeout(PATIENCE).unwrap();
    assert_eq!((&next["device"], &next["state"]), (&two, &ends));
    assert_eq!(alert(&server, "hot")["fired_total"], json!(3));
}

/// As they are kept, and as subscribers were told.
fn states_of_all(server: &Server) -> Vec<Vec<String>> {
    let topics = ["alerts/hot/truck-1", "alerts/hot/truck-2"];
    topics.iter().flat_map(|topic| ["alerts", "telemetry"].map(|stream| states(server, stream, topic))).collect()
}

#[test]
fn silence_is_told_and_its_end_also_over_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let (address, webhooks) = listener();
    // Without devices of its own, so that nobody else is meant.
    let quiet = json!({ "name": "quiet", "kind": "silent", "minutes": 0.02, "devices": "truck-*",
        "webhook": format!("http://{address}/") });
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    mqtt.publish("devices/truck-7/engine", r#"{"oil": 1}"#);
    put(&server, &quiet);
    let mut subscriber = Mqtt::connect(server.mqtt, "operator");
    subscriber.subscribe("alerts/quiet/+");
    let (_, topic, payload) = subscriber.hears();
    let told: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(
        (topic.as_str(), &told["state"], &told["value"]),
        ("alerts/quiet/truck-7", &json!("firing"), &Value::Null)
    );
    assert_eq!(webhooks.recv_timeout(PATIENCE).unwrap(), told);
    let (status, body) = request(&server, "POST", "alerts/test", &quiet.to_string());
    assert_eq!(
        (status, &body),
        (200, &json!({ "would_fire": [{ "device": "truck-7", "value": null, "time": told["since"] }] }))
    );
    server.signal("KILL");
    server.wait();
    drop(server);

    let server = Server::start(folder.path());
    let now = alert(&server, "quiet");
    assert_eq!(now["firing"], json!([{ "device": "truck-7", "since": told["since"], "value": null }]), "{now}");
    let mut subscriber = Mqtt::connect(server.mqtt, "operator");
    subscriber.subscribe("alerts/quiet/+");
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    mqtt.publish("devices/truck-7/engine", r#"{"oil": 1}"#);
    let states_told = [subscriber.hears().2, subscriber.hears().2].map(|payload| {
        let told: Value = serde_json::from_str(&payload).unwrap();
        told["state"].as_str().unwrap().to_owned()
    });
    assert_eq!(states_told, ["resolved", "firing"], "and then it is silent again");
    assert_eq!(states(&server, "alerts", "alerts/quiet/truck-7"), ["firing", "resolved", "firing"]);
    let (status, _) = request(&server, "DELETE", "alerts/quiet", "");
    assert_eq!(status, 204);
    assert_eq!(states(&server, "alerts", "alerts/quiet/truck-7").last().map(String::as_str), Some("resolved"));
}

#[test]
fn alerts_of_the_file_cannot_be_changed_and_bad_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("floodplain.toml");
    std::fs::write(
        &file,
        "[[alerts]]\nname = \"low\"\nkind = \"below\"\ntable = \"tank\"\ncolumn = \"level\"\nvalue = 10\n",
    )
    .unwrap();
    let mut server = Server::start(folder.path());
    Mqtt::connect(server.mqtt, "gateway").publish("devices/t-1/tank", r#"{"level": 5}"#);
    poll("the alert of the file", || (alert(&server, "low")["firing_count"] == 1).then_some(()));
    let low = json!({ "name": "low", "kind": "below", "table": "tank", "column": "level", "value": 1 });
    for (method, path, body, status, code) in [
        ("PUT", "alerts/low", low.to_string(), 409, "alert_from_config"),
        ("DELETE", "alerts/low", String::new(), 409, "alert_from_config"),
        ("DELETE", "alerts/none", String::new(), 404, "alert_unknown"),
        ("PUT", "alerts/other", low.to_string(), 422, "alert_invalid"),
        ("PUT", "alerts/x", json!({ "name": "x", "kind": "silent" }).to_string(), 422, "alert_invalid"),
        ("PUT", "alerts/x", json!({ "name": "x", "kind": "odd" }).to_string(), 400, "bad_request"),
        ("PUT", "alerts/x", "{".to_owned(), 400, "bad_request"),
        (
            "POST",
            "alerts/test",
            json!({ "name": "x", "kind": "above", "table": "no", "column": "c", "value": 1 }).to_string(),
            400,
            "sql_invalid",
        ),
    ] {
        let (found, answer) = request(&server, method, path, &body);
        assert_eq!((found, answer["code"].as_str()), (status, Some(code)), "{method} {path} {body}: {answer}");
    }
    server.signal("TERM");
    server.wait();
    std::fs::remove_file(file).unwrap();
    let server = Server::start(folder.path());
    assert_eq!(alert(&server, "low"), Value::Null, "it is gone with the file");
    assert_eq!(states(&server, "alerts", "alerts/low/t-1"), ["firing", "resolved"]);
}

#[test]
fn the_command_sets_lists_and_deletes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let url = format!("http://{}", server.http);
    let floodplain = |args: &[&str]| {
        let output = run(folder.path(), &[&["alert"], args, &["--url", &url]].concat());
        (output.status.code(), stdout(&output), stderr(&output))
    };
    assert_eq!(floodplain(&["set", "quiet", "--silent", "5", "--devices", "truck-*"]).0, Some(0));
    let cold = ["set", "cold", "--below", "-5.5", "--table", "room", "--column", "celsius", "--off"];
    assert_eq!(floodplain(&cold).0, Some(0));
    std::fs::write(folder.path().join("hook"), "http://127.0.0.1:9/secret\n").unwrap();
    let hot = ["set", "hot", "--above", "30", "--table", "room", "--column", "celsius", "--webhook-file", "hook"];
    assert_eq!(floodplain(&hot).0, Some(0));
    let (_, json, _) = floodplain(&["list", "--output", "json"]);
    let list: Value = serde_json::from_str(&json).unwrap();
    let found: Vec<_> = list.as_array().unwrap().iter().map(|alert| alert["name"].as_str().unwrap()).collect();
    assert_eq!(found, ["cold", "hot", "quiet"]);
    assert_eq!((&list[0]["value"], &list[0]["enabled"]), (&json!(-5.5), &json!(false)));
    assert_eq!((&list[1]["webhook"], &list[2]["minutes"]), (&json!("http://127.0.0.1:9/secret"), &json!(5.0)));
    let (_, table, _) = floodplain(&["list"]);
    for text in ["room.celsius below -5.5", "silent for 5.0 min", "truck-*", "not told yet", "off"] {
        assert!(table.contains(text), "{text}: {table}");
    }
    assert_eq!(floodplain(&["delete", "hot"]).0, Some(0));
    let (code, _, error) = floodplain(&["delete", "hot"]);
    assert!(code == Some(1) && error.contains("floodplain errors alert_unknown"), "{error}");
    let (code, _, error) = floodplain(&["set", "x", "--above", "1"]);
    assert!(code == Some(1) && error.contains("needs table and column"), "{error}");
    assert_eq!(floodplain(&["set", "x"]).0, Some(2), "one of three is needed");
    assert!(!server.logged().contains("secret"), "{}", server.logged());
    check_config(folder.path());
}

/// What the file may not say, `config check` says.
fn check_config(folder: &Path) {
    std::fs::write(folder.join("bad.toml"), "[[alerts]]\nname = \"quiet\"\nkind = \"silent\"\nminutes = 0\n").unwrap();
    let output = floodplain(folder).args(["config", "check", "--config", "bad.toml"]).output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("a silent alert needs minutes"), "{}", stderr(&output));
}
