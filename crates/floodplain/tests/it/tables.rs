//! From a payload to a row of a table.

use crate::{
    process::{Server, python, run, stderr, stdout},
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
fn a_row_is_there_once_its_message_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for n in 1..=20 {
        let device = format!("truck-{}", n % 3);
        mqtt.publish(&format!("devices/{device}/engine"), &format!(r#"{{"n": {n}, "oil": {{"temp": {n}.5}}}}"#));
        let found = rows(folder.path(), &server, r#"SELECT count(*), sum(n), max("oil.temp") FROM engine"#);
        assert_eq!(found, [format!("{n},{},{n}.5", n * (n + 1) / 2)]);
    }
    let devices = "SELECT device, count(*) FROM engine WHERE device <> 'truck-0' GROUP BY device ORDER BY device";
    assert_eq!(rows(folder.path(), &server, devices), ["truck-1,7", "truck-2,7"]);
}

#[test]
fn topics_without_a_table_go_to_messages() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    Mqtt::connect(server.mqtt, "thermo").publish("home/kitchen", r#"{"celsius": 21.5}"#);
    let found = rows(folder.path(), &server, "SELECT device, topic FROM messages");
    assert_eq!(found, ["thermo,home/kitchen"]);
}

#[test]
fn rows_outlive_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let query = r#"SELECT count(*), sum(n), count(DISTINCT device) FROM "Engine""#;
    for life in 0..4_u32 {
        let mut server = Server::start(folder.path());
        if life > 0 {
            assert_eq!(rows(folder.path(), &server, query), [format!("{},{},5", life * 10, life * 55)]);
        }
        let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
        for n in 1..=10 {
            mqtt.publish(&format!("devices/d{}/Engine", n % 5), &format!(r#"{{"n": {n}, "life": {life}}}"#));
        }
        if life % 2 == 0 {
            server.signal("KILL");
        } else {
            server.signal("TERM");
        }
        server.wait();
    }
}

/// What other programs read is what a query shows.
#[test]
fn pyarrow_reads_the_files_of_tables() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[[bindings]]\nname = \"roads\"\nfilter = \"roads/+\"\ndevice_level = 2\ntable = { name = \"traffic\" }\n\
                decoder = { format = \"json\", types = { n = \"int64\" } }\nkey_columns = [\"n\"]\n";
    std::fs::write(folder.path().join("floodplain.toml"), file).unwrap();
    let mut server = Server::start(folder.path());
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for n in 0..200 {
        // Devices take turns, times go back and forth, and some come twice.
        let (device, second) = (format!("devices/truck-{}/engine", n % 3), 7 * n % 50);
        let time = format!("2026-01-01T00:00:{second:02}Z");
        mqtt.publish(&device, &format!(r#"{{"ts": "{time}", "rpm": {n}.5, "oil": {{"temp": {second}}}}}"#));
        mqtt.publish(&device, &format!(r#"{{"ts": "{time}", "lamp": {}, "gear": "ü{n}", "tags": [{n}]}}"#, n % 2 == 0));
        mqtt.publish(&format!("roads/a{}", n % 2), &format!(r#"{{"ts": "{time}", "n": {}, "value": {n}}}"#, n % 5));
    }
    mqtt.publish("devices/truck-1/engine", r#"{"rpm": 0, "note": "without a time"}"#);
    mqtt.publish("roads/a0", r#"{"ts": "2026-01-01T00:00:00Z", "value": -1}"#);
    let expected = ["engine", "traffic"].map(|table| {
        let columns = if table == "engine" {
            r#"device, time, rpm, lamp, gear, "oil.temp", note, _rest"#
        } else {
            "device, time, n, value, _rest"
        };
        let (status, body) =
            server.post("/api/v1/sql", "Content-Type: text/plain\r\n", &format!("SELECT {columns} FROM {table}"));
        assert_eq!(status, 200, "{body}");
        (table, serde_json::from_str::<serde_json::Value>(&body).unwrap()["rows"].take())
    });
    server.signal("TERM");
    assert!(server.wait().success(), "{}", server.logged());
    let history = folder.path().join("data/history");
    let expected = serde_json::json!(std::collections::BTreeMap::from(expected));
    python("parquet_cases.py", &[history.to_str().unwrap(), &expected.to_string()]);
}

#[test]
fn the_latest_values_and_what_the_server_knows_of_its_tables() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for (device, payload) in [
        ("a", r#"{"ts": "2026-01-01T00:00:02Z", "rpm": 2, "oil": 20}"#),
        ("a", r#"{"ts": "2026-01-01T00:00:03Z", "rpm": 3}"#),
        ("a", r#"{"ts": "2026-01-01T00:00:01Z", "rpm": 1, "lamp": true}"#),
        ("b", r#"{"ts": "2026-01-01T00:00:01Z", "rpm": 9}"#),
    ] {
        mqtt.publish(&format!("devices/{device}/engine"), payload);
    }
    // The server's own names are free of payloads.
    mqtt.publish("devices/a/dlq", r#"{"rpm": 1}"#);
    let rows = |query: &str| rows(folder.path(), &server, query);
    assert_eq!(
        rows("SELECT device, time, rpm, oil, lamp FROM latest('engine') ORDER BY device"),
        ["a,2026-01-01T00:00:03Z,3,20,true", "b,2026-01-01T00:00:01Z,9,,"]
    );
    let known = "SELECT table_name, columns, rows FROM tables ORDER BY table_name";
    assert_eq!(rows(known)[0], "engine,5,4");
    assert_eq!(rows("SELECT topic FROM messages"), ["devices/a/dlq"]);
    assert_eq!(rows("SELECT count(*) FROM dlq"), ["0"]);
    assert_eq!(rows("SELECT sum(end_offset) FROM streams WHERE stream = 'telemetry'"), ["5"]);
}
