//! Bindings of a running server: by command, by HTTP, from the file; dead letters; decoding again.

use crate::{
    process::{Server, poll, run, stderr, stdout},
    serve::Mqtt,
};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// What a command prints; it must not fail.
fn floodplain(folder: &Path, server: &Server, args: &[&str]) -> String {
    let url = format!("http://{}", server.http);
    let output = run(folder, &[args, &["--url", &url]].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// What a command says when it fails.
fn refused(folder: &Path, server: &Server, args: &[&str]) -> String {
    let url = format!("http://{}", server.http);
    let output = run(folder, &[args, &["--url", &url]].concat());
    assert!(!output.status.success(), "{args:?}: {}", stdout(&output));
    stderr(&output)
}

fn json(folder: &Path, server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(&floodplain(folder, server, &[args, &["--output", "json"]].concat())).unwrap()
}

/// The rows of a query as CSV, without the header.
fn rows(folder: &Path, server: &Server, query: &str) -> Vec<String> {
    let csv = floodplain(folder, server, &["sql", "--output", "csv", query]);
    csv.lines().skip(1).map(str::to_owned).collect()
}

const ROADS: [&str; 14] = [
    "binding",
    "set",
    "roads",
    "--filter",
    "roads/+",
    "--device-level",
    "2",
    "--table",
    "traffic",
    "--time-field",
    "timestamp",
    "--key-column",
    "n",
    "--format=json",
];

fn reading(n: u32) -> String {
    format!(r#"{{"timestamp": "2015-09-01 11:30:00", "value": {n}.5, "n": {n}}}"#)
}

#[test]
fn a_binding_decodes_what_is_published_once_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    mqtt.publish("roads/a7", &reading(0));
    floodplain(folder.path(), &server, &ROADS);
    for n in 1..=20 {
        mqtt.publish("roads/a7", &reading(n));
    }
    let query = "SELECT count(*), sum(value), count(DISTINCT time), min(device) FROM traffic";
    assert_eq!(rows(folder.path(), &server, query), ["20,220,1,a7"]);
    let keys = "SELECT count(*) FROM records WHERE topic = 'roads/a7' AND device = 'a7'";
    assert_eq!(rows(folder.path(), &server, keys), ["20"], "the record is of the device that the binding finds");
    let list = json(folder.path(), &server, &["binding", "list"]);
    assert_eq!((&list[0]["name"], &list[0]["matched"], &list[0]["failed"]), (&"roads".into(), &20.into(), &0.into()));
    assert_eq!((&list[1]["name"], &list[1]["builtin"]), (&"default".into(), &true.into()));
    // Killed, and there again.
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    Mqtt::connect(server.mqtt, "gateway").publish("roads/a7", &reading(21));
    assert_eq!(rows(folder.path(), &server, query), ["21,241.5,1,a7"]);
    assert_eq!(rows(folder.path(), &server, "SELECT count(*) FROM messages"), ["1"]);
    // What came before it, too, once that is asked for.
    let job = json(folder.path(), &server, &["replay", "--binding", "roads"]);
    assert_eq!((&job["state"], &job["rows"], &job["failed"]), (&"done".into(), &22.into(), &0.into()));
    assert_eq!(rows(folder.path(), &server, query), ["22,242,1,a7"]);
    floodplain(folder.path(), &server, &["binding", "delete", "roads"]);
    Mqtt::connect(server.mqtt, "gateway").publish("roads/a7", &reading(22));
    assert_eq!(rows(folder.path(), &server, "SELECT count(*) FROM messages"), ["2"]);
    let unknown = refused(folder.path(), &server, &["binding", "delete", "roads"]);
    assert!(unknown.contains("there is no binding \"roads\" (floodplain errors binding_unknown)"), "{unknown}");
}

#[test]
fn what_a_declared_decoder_refuses_can_be_counted_and_decoded_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    floodplain(folder.path(), &server, &ROADS);
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    mqtt.publish("roads/a7", &reading(1));
    mqtt.publish("roads/a7", "out of order");
    mqtt.publish("roads/a8", r#"{"timestamp": "soon", "n": 2}"#);
    let list = |server: &Server| json(folder.path(), server, &["dlq", "list"]);
    let letters = list(&server);
    assert_eq!(letters.as_array().unwrap().len(), 2, "{letters}");
    let of_stage = |letters: &Value, stage: &str| {
        letters.as_array().unwrap().iter().find(|letter| letter["stage"] == stage).unwrap().clone()
    };
    assert_eq!(of_stage(&letters, "time")["device"], "a8");
    let first = of_stage(&letters, "decode");
    assert_eq!((&first["kind"], &first["binding"]), (&"decode".into(), &"roads".into()));
    assert_eq!((&first["topic"], &first["device"]), (&"roads/a7".into(), &"a7".into()));
    assert_eq!((&first["payload"], &first["byte_position"]), (&"out of order".into(), &0.into()));
    assert_eq!(first["replayed"], Value::Null);
    let count = "SELECT stage, count(*) FROM dlq WHERE binding = 'roads' GROUP BY stage ORDER BY stage";
    assert_eq!(rows(folder.path(), &server, count), ["decode,1", "time,1"]);
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    assert_eq!(rows(folder.path(), &server, "SELECT count(*) FROM traffic"), ["1"]);
    assert_eq!(list(&server).as_array().unwrap().len(), 2, "no letter twice");
    let mut pages = Vec::new();
    let mut after = String::new();
    for _ in 0..2 {
        let page: Value =
            serde_json::from_str(&server.get(&format!("/api/v1/dlq?binding=roads&limit=1{after}")).1).unwrap();
        assert_eq!(page["counts"].as_array().unwrap().len(), 2);
        pages.extend(page["entries"].as_array().unwrap().clone());
        after = page["next"].as_str().map(|next| format!("&after={next}")).unwrap_or_default();
    }
    assert_eq!((&Value::Array(pages), after.as_str()), (&letters, ""));
    // With another decoder one of them is understood.
    floodplain(
        folder.path(),
        &server,
        &[
            "binding",
            "set",
            "roads",
            "--filter",
            "roads/+",
            "--device-level",
            "2",
            "--table",
            "notes",
            "--format",
            "text",
        ],
    );
    let job = json(folder.path(), &server, &["dlq", "replay", first["id"].as_str().unwrap()]);
    assert_eq!((&job["state"], &job["rows"], &job["failed"]), (&"done".into(), &1.into(), &0.into()));
    assert_eq!(rows(folder.path(), &server, "SELECT device, value FROM notes"), ["a7,out of order"]);
    let letters = list(&server);
    assert!(of_stage(&letters, "time")["replayed"].is_null(), "{letters}");
    assert!(of_stage(&letters, "decode")["replayed"].is_string(), "{letters}");
    assert_eq!(rows(folder.path(), &server, "SELECT count(*), count(replayed) FROM dlq"), ["2,1"]);
}

#[test]
fn a_test_shows_what_would_become_of_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    floodplain(folder.path(), &server, &ROADS);
    let shown = json(folder.path(), &server, &["binding", "test", "roads/a7", "-m", &reading(7)]);
    assert_eq!(
        (&shown["binding"], &shown["device"], &shown["table"]),
        (&"roads".into(), &"a7".into(), &"traffic".into())
    );
    let row = &shown["rows"][0];
    assert_eq!(row["time"], "2015-09-01T11:30:00Z");
    let field =
        |name: &str| row["fields"].as_array().unwrap().iter().find(|field| field["name"] == name).unwrap().clone();
    assert_eq!((&field("n")["role"], &field("n")["value"]), (&"key".into(), &7.0.into()));
    assert_eq!((&field("value")["role"], &field("value")["type"]), (&"value".into(), &"Float64".into()));
    let text = refused(folder.path(), &server, &["binding", "test", "roads/a7", "-m", r#"{"n": x}"#]);
    assert!(text.contains("refused in stage decode at byte 6: payload is not json"), "{text}");
    // One that is not set, and the table of messages.
    let args = ["binding", "test", "a/b", "-m", "1.5", "--filter", "a/+", "--table", "t", "--format", "number"];
    let shown = json(folder.path(), &server, &args);
    assert_eq!((&shown["table"], &shown["rows"][0]["fields"][0]["value"]), (&"t".into(), &1.5.into()));
    let shown = json(folder.path(), &server, &["binding", "test", "x", "-m", "1"]);
    assert_eq!((&shown["binding"], &shown["table"]), (&"default".into(), &"messages".into()));
    let shown = json(folder.path(), &server, &["binding", "test", "x", "-m", r#"{"a": 1}"#]);
    assert_eq!(
        (&shown["rows"][0]["fields"][1]["column"], &shown["rows"][0]["rest"]["a"]),
        (&"payload".into(), &1.into())
    );
    assert_eq!(rows(folder.path(), &server, "SELECT count(*) FROM records WHERE stream = 'telemetry'"), ["0"]);
    // By the columns that the table has, and no column is made.
    let engine = "devices/truck-7/engine";
    Mqtt::connect(server.mqtt, "gateway").publish(engine, r#"{"rpm": 1.5, "gear": 1}"#);
    let message = r#"{"rpm": 2, "gear": "high", "_load": 3}"#;
    let shown = json(folder.path(), &server, &["binding", "test", engine, "-m", message]);
    let fields = shown["rows"][0]["fields"].as_array().unwrap();
    let field = |name: &str| {
        let field = fields.iter().find(|field| field["name"] == name).unwrap();
        [&field["column"], &field["type"], &field["value"]]
    };
    assert_eq!(field("rpm"), [&Value::from("rpm"), &"Float64".into(), &2.0.into()]);
    assert_eq!(field("gear"), [&Value::Null, &"Utf8".into(), &"high".into()]);
    assert_eq!(field("_load"), [&Value::from("load_field"), &"Float64".into(), &3.0.into()]);
    assert_eq!(shown["rows"][0]["rest"], serde_json::json!({ "gear": "high" }));
    // A number that no float holds is shown as the table keeps it.
    let number = r#"{"topic":"devices/truck-7/engine","payload":"{\"gear\": 99999999999999999999}"}"#;
    let (status, text) = server.post("/api/v1/bindings/test", "content-type: application/json\r\n", number);
    assert!(status == 200 && text.contains(r#""rest":{"gear":99999999999999999999}"#), "{status} {text}");
    let text = floodplain(folder.path(), &server, &["binding", "test", engine, "-m", message]);
    assert!(text.contains("gear (in _rest)") && text.contains("_load (as load_field)"), "{text}");
    floodplain(folder.path(), &server, &["table", "set", "engine", "--retention", "1d"]);
    let old = ["binding", "test", engine, "-m", r#"{"time": "2015-09-01T11:30:00Z", "rpm": 1}"#];
    let text = refused(folder.path(), &server, &old);
    assert!(text.contains("refused in stage retention: a row is older"), "{text}");
    assert_eq!(rows(folder.path(), &server, "SELECT rpm, gear FROM engine"), ["1.5,1"]);
}

#[test]
fn what_is_wrong_or_not_built_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let put = |body: &str| {
        let length = body.len();
        let head = format!("Host: {}\r\nContent-Type: application/json\r\nContent-Length: {length}", server.http);
        server.ask(&format!("PUT /api/v1/bindings/b HTTP/1.0\r\n{head}\r\n\r\n{body}"))
    };
    for (body, status, code) in [
        (r#"{"filter":"a","table":{"name":"t"}}"#, 200, "\"version\":1"),
        (r#"{"filter":"a","table":{"name":"t"}}"#, 200, "\"version\":1"),
        (r#"{"filter":"a","table":{"name":"dlq"}}"#, 422, "binding_invalid"),
        (r#"{"filter":"a","table":{"name":"t"},"decoder":{"format":"struct"}}"#, 422, "missing field `fields`"),
        (r#"{"filter":"a","table":{"name":"t"},"class":"most"}"#, 422, "use none, leader or all"),
        (r#"{"filter":"a","table":{"name":"t"},"class":"leader"}"#, 200, "\"class\":\"leader\""),
        (r#"{"filter":"a","table":{"name":"t"},"dedup":{"property":"id"}}"#, 200, "\"dedup\":{\"property\":\"id\"}"),
        (r#"{"filter":"a","table":{"name":"t"},"dedup":{"field":"id","window":"2h"}}"#, 422, "from 1s to 1h"),
        (r#"{"filter":"a"}"#, 422, "missing field `table`"),
        ("[]", 422, "binding_invalid"),
        ("{", 400, "bad_request"),
    ] {
        let (found, answer) = put(body);
        assert!(found == status && answer.contains(code), "{body}: {found} {answer}");
    }
    // What an acknowledgement means says so, too.
    put(r#"{"filter":"a","table":{"name":"t"},"class":"leader"}"#);
    let (_, overview) = server.get("/api/v1/overview");
    assert!(overview.contains("Bindings promise less for their topics: b (leader)."), "{overview}");
    let (status, answer) = server.post("/api/v1/replay", "Content-Type: application/json\r\n", r#"{"from":"soon"}"#);
    assert!(status == 400 && answer.contains("is no time"), "{answer}");
}

#[test]
fn bindings_of_the_file_are_taken_up_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("floodplain.toml");
    let text = "[[bindings]]\nname = \"roads\"\nfilter = \"roads/+\"\ndevice_level = 2\ntable = { name = \"traffic\" }\n\
                decoder = { format = \"json\" }\nkey_columns = [\"n\"]\n";
    std::fs::write(&file, text).unwrap();
    let mut server = Server::start(folder.path());
    Mqtt::connect(server.mqtt, "gateway").publish("roads/a7", &reading(1));
    assert_eq!(rows(folder.path(), &server, "SELECT device, n FROM traffic"), ["a7,1"]);
    let list = json(folder.path(), &server, &["binding", "list"]);
    assert_eq!(list[0]["source"], "config");
    let error = refused(folder.path(), &server, &["binding", "delete", "roads"]);
    assert!(error.contains("binding_read_only"), "{error}");
    server.signal("TERM");
    server.wait();
    std::fs::write(&file, "").unwrap();
    let server = Server::start(folder.path());
    Mqtt::connect(server.mqtt, "gateway").publish("roads/a7", &reading(2));
    assert_eq!(rows(folder.path(), &server, "SELECT count(*) FROM messages"), ["1"]);
    assert_eq!(rows(folder.path(), &server, "SELECT device, n FROM traffic"), ["a7,1"]);
}

#[test]
fn file_and_command_declare_every_member_alike() {
    let folder = tempfile::tempdir().unwrap();
    let file = r#"
        [[streams]]
        name = "fast"
        [[bindings]]
        name = "by-file"
        filter = "file/+/+"
        stream = "fast"
        device_level = 2
        table = { level = 3 }
        decoder = { format = "json", types = { n = "int64" } }
        time_field = "at"
        key_columns = ["n", "axle"]
        retention = "36500d"
        class = "leader"
        dedup = { field = "seq", window = "5m" }
    "#;
    std::fs::write(folder.path().join("floodplain.toml"), file).unwrap();
    std::fs::write(folder.path().join("decoder.json"), r#"{"format": "json", "types": {"n": "int64"}}"#).unwrap();
    let server = Server::start(folder.path());
    let decoder = folder.path().join("decoder.json");
    let args = "binding set by-command --filter command/+/+ --stream fast --device-level 2 --table-level 3 --time-field at \
                --key-column n --key-column axle --retention 36500d --class leader --dedup-field seq --dedup-window 5m";
    let args: Vec<&str> = args.split_whitespace().chain(["--decoder-file", decoder.to_str().unwrap()]).collect();
    floodplain(folder.path(), &server, &args);
    let list = json(folder.path(), &server, &["binding", "list"]);
    let declared = |name: &str| {
        let mut found = list.as_array().unwrap().iter().find(|binding| binding["name"] == name).unwrap().clone();
        let members = found.as_object_mut().unwrap();
        for own in ["name", "filter", "source", "version"] {
            assert!(members.remove(own).is_some(), "{own} of {name}: {list}");
        }
        found
    };
    assert_eq!(declared("by-file"), declared("by-command"));
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for way in ["file", "command"] {
        for (n, axle, seq) in [(1, "a", 1), (1, "b", 2), (1, "b", 2), (1, "b", 3)] {
            let row =
                format!(r#"{{"at": "2015-09-01T11:30:00Z", "n": {n}, "axle": "{axle}", "v": {seq}, "seq": {seq}}}"#);
            mqtt.publish(&format!("{way}/truck/{way}_axles"), &row);
        }
        // Seq 2 came twice and is known; 3 is of the row of 2 and is its newest value.
        let query = format!("SELECT device, time, n, axle, v FROM {way}_axles ORDER BY axle");
        let wanted = ["truck,2015-09-01T11:30:00Z,1,a,1", "truck,2015-09-01T11:30:00Z,1,b,3"];
        assert_eq!(rows(folder.path(), &server, &query), wanted, "{way}");
        let stream = format!("SELECT DISTINCT stream FROM records WHERE topic LIKE '{way}/%'");
        assert_eq!(rows(folder.path(), &server, &stream), ["fast"]);
        let kept = format!("SELECT retention FROM tables WHERE table_name = '{way}_axles'");
        assert_eq!(rows(folder.path(), &server, &kept), ["36500d"]);
    }
    let (_, overview) = server.get("/api/v1/overview");
    assert!(overview.contains("by-command (leader)") && overview.contains("by-file (leader)"), "{overview}");
    let list = json(folder.path(), &server, &["binding", "list"]);
    for name in ["by-file", "by-command"] {
        let found = list.as_array().unwrap().iter().find(|binding| binding["name"] == name).unwrap();
        assert_eq!((&found["matched"], &found["duplicates"], &found["failed"]), (&4.into(), &1.into(), &0.into()));
    }
}

#[test]
fn a_range_of_time_is_decoded_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    let received = |n: u32| {
        let query = format!("SELECT received FROM records WHERE json_get_int(payload, 'n') = {n}");
        rows(folder.path(), &server, &query).remove(0)
    };
    // Each in a millisecond of its own.
    for n in 1..=3 {
        mqtt.publish("roads/a7", &reading(n));
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let at = now();
        poll("the next millisecond", || (now() > at).then_some(()));
    }
    floodplain(folder.path(), &server, &ROADS);
    // From the second on, and before the third.
    let range = ["replay", "--from", &received(2), "--to", &received(3)];
    let job = json(folder.path(), &server, &range);
    assert_eq!((&job["state"], &job["rows"]), (&"done".into(), &1.into()), "{job}");
    assert_eq!(rows(folder.path(), &server, "SELECT n FROM traffic"), ["2"]);
    floodplain(folder.path(), &server, &["replay", "--binding", "roads", "--to", &received(2)]);
    assert_eq!(rows(folder.path(), &server, "SELECT n FROM traffic ORDER BY n"), ["1", "2"]);
}

#[test]
fn what_repeats_an_id_makes_no_row_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let set = |server: &Server, name: &str, by: [&str; 2]| {
        let (filter, table) = (format!("{name}/+"), name);
        let args =
            ["binding", "set", name, "--filter", &filter, "--device-level", "2", "--table", table, "--format=json"];
        floodplain(folder.path(), server, &[&args[..], &by, &["--dedup-window", "1h"]].concat());
    };
    set(&server, "pumps", ["--dedup-property", "message-id"]);
    set(&server, "gates", ["--dedup-field", "seq"]);
    let publish = |server: &Server, topic: &str, payload: &str, id: &str| {
        let (port, property) = (server.mqtt.port().to_string(), format!("message-id={id}"));
        let args = ["pub", "-p", &port, "-q", "1", "-D", &property, "-t", topic, "-m", payload];
        let output = run(folder.path(), &args);
        assert!(output.status.success(), "{}", stderr(&output));
    };
    let count = |server: &Server, table: &str| rows(folder.path(), server, &format!("SELECT sum(n) FROM {table}"));
    publish(&server, "pumps/p1", r#"{"n": 1}"#, "a");
    publish(&server, "pumps/p1", r#"{"n": 10}"#, "b");
    publish(&server, "pumps/p1", r#"{"n": 100}"#, "a");
    publish(&server, "gates/g1", r#"{"n": 1, "seq": 7}"#, "");
    publish(&server, "gates/g1", r#"{"n": 10, "seq": 7}"#, "");
    assert_eq!((count(&server, "pumps"), count(&server, "gates")), (vec!["11".to_owned()], vec!["1".to_owned()]));
    let list = json(folder.path(), &server, &["binding", "list"]);
    let of = |name: &str| list.as_array().unwrap().iter().find(|binding| binding["name"] == name).unwrap();
    assert_eq!((&of("pumps")["matched"], &of("pumps")["duplicates"]), (&3.into(), &1.into()));
    assert_eq!(of("gates")["duplicates"], 1);
    let table = floodplain(folder.path(), &server, &["binding", "list"]);
    assert!(table.contains("property message-id") && table.contains("field seq"), "{table}");
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.contains("floodplain_history_duplicates_total 2"), "{metrics}");
    // Killed, and there again: the ids are in the log.
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    publish(&server, "pumps/p1", r#"{"n": 1000}"#, "b");
    publish(&server, "gates/g1", r#"{"n": 100, "seq": 7}"#, "");
    publish(&server, "gates/g1", r#"{"n": 1000, "seq": 8}"#, "");
    assert_eq!((count(&server, "pumps"), count(&server, "gates")), (vec!["11".to_owned()], vec!["1001".to_owned()]));
    floodplain(folder.path(), &server, &["replay"]);
    assert_eq!((count(&server, "pumps"), count(&server, "gates")), (vec!["11".to_owned()], vec!["1001".to_owned()]));
    assert_eq!(rows(folder.path(), &server, "SELECT count(*) FROM records WHERE stream = 'telemetry'"), ["8"]);
    let test = ["binding", "test", "pumps/p1", "-m", r#"{"n": 1}"#, "-D", "message-id=c"];
    assert_eq!(json(folder.path(), &server, &test)["rows"][0]["id"], "c");
    let shown = floodplain(folder.path(), &server, &["binding", "test", "gates/g1", "-m", r#"{"seq": 9}"#]);
    assert!(shown.contains("the time of ingest, id 9"), "{shown}");
    let both = ["binding", "set", "x", "--filter", "x", "--table", "x", "--dedup-window", "1m"];
    assert!(refused(folder.path(), &server, &both).contains("--dedup-window needs"));
}

#[test]
fn how_old_rows_become_is_set_by_command_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("floodplain.toml"), "[[tables]]\nname = \"engine\"\nretention = \"2d\"\n")
        .unwrap();
    let mut server = Server::start(folder.path());
    let level = ["binding", "set", "plants", "--filter", "plants/+/+", "--device-level", "2", "--table-level", "3"];
    floodplain(folder.path(), &server, &[&level[..], &["--retention", "12h"]].concat());
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    mqtt.publish("devices/d/engine", r#"{"rpm": 1}"#);
    mqtt.publish("plants/p/temp", r#"{"v": 1}"#);
    mqtt.publish("devices/d/free", r#"{"v": 1}"#);
    let kept =
        |server: &Server| rows(folder.path(), server, "SELECT table_name, retention FROM tables ORDER BY table_name");
    assert_eq!(kept(&server), ["engine,2d", "free,", "temp,12h"]);
    floodplain(folder.path(), &server, &["table", "set", "engine", "--retention", "36h"]);
    floodplain(folder.path(), &server, &["table", "set", "temp", "--retention", "30d"]);
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    assert_eq!(kept(&server), ["engine,36h", "free,", "temp,30d"]);
    let list = json(folder.path(), &server, &["table", "list"]);
    let sources: Vec<_> = list.as_array().unwrap().iter().map(|table| table["retention_source"].clone()).collect();
    assert_eq!(sources, ["table".into(), Value::Null, "table".into()]);
    floodplain(folder.path(), &server, &["table", "set", "engine", "--retention", "none"]);
    let shown = floodplain(folder.path(), &server, &["table", "show", "engine"]);
    assert!(shown.contains("2d") && shown.contains("of the configuration file") && shown.contains("rpm"), "{shown}");
    // Older than its table keeps rows.
    Mqtt::connect(server.mqtt, "gateway").publish("devices/d/temp", r#"{"ts": "2015-09-01T11:30:00Z", "v": 2}"#);
    assert_eq!(rows(folder.path(), &server, "SELECT v FROM temp"), ["1"]);
    let letters = "SELECT stage, reason, binding FROM dlq";
    assert_eq!(rows(folder.path(), &server, letters), ["retention,older_than_retention,default"]);
    let error = refused(folder.path(), &server, &["table", "set", "nowhere", "--retention", "1d"]);
    assert!(error.contains("there is no table \"nowhere\" (floodplain errors table_unknown)"), "{error}");
    let error = refused(folder.path(), &server, &["table", "set", "engine", "--retention", "ever"]);
    assert!(error.contains("is no duration such as 30d or 12h"), "{error}");
}

/// Publishes readings from `next` on, which counts what was acknowledged, until the server is gone.
fn publish_until_it_dies(server: SocketAddr, next: &AtomicU32) {
    loop {
        let body = reading(next.load(Ordering::SeqCst));
        let publish = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect(server)?;
            let (host, length) = (server, body.len());
            write!(
                stream,
                "POST /api/v1/topics/roads/a7 HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.split(' ').nth(1) == Some("200"))
        };
        if !publish().unwrap_or(false) {
            return;
        }
        next.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_server_that_is_killed_while_its_bindings_change_has_each_message_in_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let next = Arc::new(AtomicU32::new(0));
    for life in 0..5_u32 {
        let mut server = Server::start(folder.path());
        let (http, counter) = (server.http, next.clone());
        let publisher = std::thread::spawn(move || publish_until_it_dies(http, &counter));
        let url = format!("http://{http}");
        let some_more = || {
            let before = next.load(Ordering::SeqCst);
            poll("more messages", || (next.load(Ordering::SeqCst) > before + 1).then_some(()));
        };
        for change in 0..=life + 1 {
            some_more();
            let table = format!("t{}", change % 2);
            let args = ["binding", "set", "roads", "--filter", "roads/+", "--device-level", "2", "--table", &table];
            let args = [&args[..], &["--key-column", "n", "--format", "json", "--url", &url]].concat();
            let output = run(folder.path(), &args);
            assert!(output.status.success(), "{}", stderr(&output));
            some_more();
        }
        server.signal("KILL");
        server.wait();
        // The one that was under way may be there, and is not sent again.
        publisher.join().unwrap();
        next.fetch_add(1, Ordering::SeqCst);
    }
    let server = Server::start(folder.path());
    let all =
        "SELECT n FROM t0 UNION ALL SELECT n FROM t1 UNION ALL SELECT json_get_float(payload, 'n') AS n FROM messages";
    let twice = format!("SELECT count(*) FROM (SELECT n FROM ({all}) GROUP BY n HAVING count(*) > 1)");
    assert_eq!(rows(folder.path(), &server, &twice), ["0"]);
    let missing = format!(
        "SELECT count(*) FROM (SELECT DISTINCT json_get_float(payload, 'n') AS sent FROM records WHERE topic = 'roads/a7') \
         WHERE sent NOT IN (SELECT n FROM ({all}))"
    );
    assert_eq!(rows(folder.path(), &server, &missing), ["0"]);
    let count: u32 = rows(folder.path(), &server, &format!("SELECT count(*) FROM ({all})"))[0].parse().unwrap();
    let next = next.load(Ordering::SeqCst);
    assert!((next - 5..=next).contains(&count) && count > 20, "{count} of {next}");
}
