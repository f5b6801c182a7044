//! Start, readiness, order of stop.

use crate::process::{PATIENCE, Server, floodplain, poll, run, stderr, stdout};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
};

/// An MQTT 5.0 connection, as few bytes of it as a test needs.
pub(crate) struct Mqtt(TcpStream);

impl Mqtt {
    /// Clean start, no session behind the connection.
    pub(crate) fn connect(address: SocketAddr, client: &str) -> Self {
        Self::connect_with(address, client, 0x02, &[], None)
    }

    /// A session that outlives the connection by 600 seconds.
    pub(crate) fn connect_lasting(address: SocketAddr, client: &str) -> Self {
        Self::connect_with(address, client, 0, &[0x11, 0, 0, 2, 0x58], None)
    }

    /// As [`Self::connect`], with a will of QoS 0: topic and payload.
    pub(crate) fn connect_with_will(address: SocketAddr, client: &str, will: (&str, &str)) -> Self {
        Self::connect_with(address, client, 0x06, &[], Some(will))
    }

    /// CONNECT with keep alive 60 and these flags and properties (MQTT 5.0 §3.1).
    fn connect_with(
        address: SocketAddr,
        client: &str,
        flags: u8,
        properties: &[u8],
        will: Option<(&str, &str)>,
    ) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        let mut body = b"\0\x04MQTT\x05".to_vec();
        body.extend_from_slice(&[flags, 0, 0x3c, u8::try_from(properties.len()).unwrap()]);
        body.extend_from_slice(properties);
        text(&mut body, client);
        if let Some((topic, payload)) = will {
            body.push(0);
            text(&mut body, topic);
            text(&mut body, payload);
        }
        let mut packet = vec![0x10, u8::try_from(body.len()).unwrap()];
        packet.append(&mut body);
        stream.write_all(&packet).unwrap();
        let mut connection = Self(stream);
        let (first, body) = connection.packet().unwrap();
        assert_eq!((first, body[1]), (0x20, 0), "CONNACK with success");
        connection
    }

    /// DISCONNECT 0x00, and waits for the end of the connection.
    pub(crate) fn disconnect(mut self) {
        self.0.write_all(&[0xe0, 0]).unwrap();
        assert_eq!(self.packet(), None, "closed after DISCONNECT");
    }

    /// Publishes at QoS 1 and waits for the PUBACK.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) {
        let mut packet = vec![0x32, u8::try_from(5 + topic.len() + payload.len()).unwrap()];
        packet.extend_from_slice(&[0, u8::try_from(topic.len()).unwrap()]);
        packet.extend_from_slice(topic.as_bytes());
        packet.extend_from_slice(&[0, 1, 0]);
        packet.extend_from_slice(payload.as_bytes());
        self.0.write_all(&packet).unwrap();
        let (first, body) = self.packet().unwrap();
        assert_eq!((first, &body[..2]), (0x40, &[0, 1][..]), "PUBACK");
        assert!(body.len() < 3 || body[2] < 0x80, "PUBACK with reason {:#x}", body[2]);
    }

    /// Subscribes at QoS 1 and waits for the SUBACK.
    pub(crate) fn subscribe(&mut self, filter: &str) {
        let mut packet = vec![0x82, u8::try_from(6 + filter.len()).unwrap(), 0, 2, 0];
        packet.extend_from_slice(&[0, u8::try_from(filter.len()).unwrap()]);
        packet.extend_from_slice(filter.as_bytes());
        packet.push(1);
        self.0.write_all(&packet).unwrap();
        let (first, body) = self.packet().unwrap();
        assert_eq!((first, body.last()), (0x90, Some(&1)), "SUBACK with QoS 1");
    }

    /// The next PUBLISH, acknowledged: its retain flag, topic and payload.
    pub(crate) fn hears(&mut self) -> (bool, String, String) {
        let (first, body) = self.packet().expect("a PUBLISH");
        assert_eq!(first & 0xf6, 0x32, "PUBLISH at QoS 1");
        let topic_end = 2 + usize::from(body[1]);
        let (id, rest) = body[topic_end..].split_at(2);
        self.0.write_all(&[0x40, 2, id[0], id[1]]).unwrap();
        let payload = &rest[1 + usize::from(rest[0])..];
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (first & 1 == 1, text(&body[2..topic_end]), text(payload))
    }

    /// First byte and body of the next packet; `None` at the end of the connection.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let (mut first, mut byte, mut len, mut shift) = ([0], [0x80], 0, 0);
        if self.0.read(&mut first).unwrap() == 0 {
            return None;
        }
        // Remaining length (§1.5.5): seven bits per byte, the lowest first.
        while byte[0] & 0x80 != 0 {
            self.0.read_exact(&mut byte).unwrap();
            len |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        Some((first[0], body))
    }
}

/// The number of messages in the log, by SQL.
fn count(folder: &Path, server: &Server) -> u32 {
    let url = format!("http://{}", server.http);
    let query = "SELECT count(*) AS n FROM records WHERE stream = 'telemetry'";
    let output = run(folder, &["sql", "--url", &url, "--output", "csv", query]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(text.lines().next(), Some("n"));
    text.lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_ready_server_is_healthy_and_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    assert_eq!(server.get("/healthz").0, 200);
    assert_eq!(server.get("/readyz").0, 200);
    Mqtt::connect(server.mqtt, "probe").publish("site/probe/up", "1");
    let (status, metrics) = server.get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.lines().any(|line| line.starts_with("floodplain_log_")), "{metrics}");
    assert_eq!(server.get("/nowhere").0, 404);
}

#[test]
fn sigterm_tells_mqtt_5_clients_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (signal, number) in [("TERM", 1), ("INT", 2)] {
        let mut server = Server::start(folder.path());
        let mut client = Mqtt::connect(server.mqtt, "truck-7");
        client.publish("fleet/truck-7/speed", "61");
        server.signal(signal);
        // MQTT 5.0 §3.14.2.1: 0x8B, server shutting down.
        let (first, body) = client.packet().expect("DISCONNECT before the end");
        assert_eq!((first, body[0]), (0xe0, 0x8b));
        assert_eq!(client.packet(), None, "closed after DISCONNECT");
        assert_eq!(server.wait().code(), Some(0));
        assert!(TcpStream::connect(server.http).is_err(), "nobody listens any more");
        assert!(server.logged().contains("server has stopped"), "{}", server.logged());
        assert!(!folder.path().join("ready.json").exists(), "a stopped server is not ready");
        drop(server);
        let server = Server::start(folder.path());
        assert_eq!(count(folder.path(), &server), number);
    }
}

#[test]
fn an_acknowledged_message_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    Mqtt::connect(server.mqtt, "truck-7").publish("fleet/truck-7/speed", "61");
    server.signal("KILL");
    server.wait();
    let server = Server::start(folder.path());
    assert_eq!(count(folder.path(), &server), 1);
}

#[test]
fn a_data_folder_has_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Server::start(folder.path());
    let second = floodplain(folder.path())
        .args(["serve", "--data-dir", "data", "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"])
        .args(["--postgres-address", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another"), "{}", stderr(&second));
}

#[test]
fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--mqtt-address", "--http-address", "--postgres-address"] {
        let mut command = floodplain(folder.path());
        command.args(["serve", "--data-dir", "data"]);
        for other in ["--mqtt-address", "--http-address", "--postgres-address"] {
            command.args([other, if other == flag { &address } else { "127.0.0.1:0" }]);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}");
        assert!(stderr(&output).contains(&address), "{flag}: {}", stderr(&output));
        assert!(!folder.path().join("data").exists(), "{flag}: the log was opened before the port was found taken");
    }
}

#[test]
fn a_stale_ready_file_is_gone_before_anything_listens() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ready.json"), "{\"mqtt\": \"127.0.0.1:1\"}").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["serve", "--data-dir", "data", "--ready-file", "ready.json", "--http-address", &address];
    let output = run(
        folder.path(),
        &[&args[..], &["--mqtt-address", "127.0.0.1:0", "--postgres-address", "127.0.0.1:0"]].concat(),
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(!folder.path().join("ready.json").exists());
}

#[test]
fn logs_are_json_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("floodplain.toml"), "[tracing]\nformat = \"json\"\n").unwrap();
    let mut server = Server::start(folder.path());
    server.signal("TERM");
    server.wait();
    let logged = server.logged();
    let lines: Vec<serde_json::Value> = logged.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["message"] == "server accepts traffic"), "{logged}");
}

/// Sends a query and reads the head of the answer.
fn ask(server: &Server, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (host, length) = (server.http, query.len());
    write!(stream, "POST /api/v1/sql HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{query}").unwrap();
    stream
}

/// Waits until a stopping server has come past MQTT.
fn mqtt_is_closed(server: &Server) {
    poll("end of the MQTT listener", || TcpStream::connect(server.mqtt).is_err().then_some(()));
}

#[test]
fn a_stopping_server_answers_what_it_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut stream = ask(&server, "SELECT value FROM generate_series(1, 900000)");
    let mut answer = vec![0; 1_000];
    stream.read_exact(&mut answer).unwrap();
    server.signal("TERM");
    mqtt_is_closed(&server);
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8(answer).unwrap();
    assert!(text.contains("\"row_count\":900000,"), "{}", &text[text.len() - 200..]);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_server_stops_in_order_though_nobody_reads_its_logs_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = floodplain(folder.path())
        .args(["serve", "--data-dir", "data", "--ready-file", "ready.json", "--mqtt-address", "127.0.0.1:0"])
        .args(["--http-address", "127.0.0.1:0", "--postgres-address", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    poll("ready file", || folder.path().join("ready.json").exists().then_some(()));
    drop(server.stderr.take());
    let id = server.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
    assert_eq!(poll("end of the server", || server.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    // HTTP gives this query five seconds.
    let endless = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b \
                   WHERE a.value % 7 = b.value % 11";
    let _stream = ask(&server, endless);
    let running = |metrics: &str| metrics.lines().any(|line| line == "floodplain_sql_running_queries 1");
    poll("start of the query", || running(&server.get("/metrics").1).then_some(()));
    server.signal("TERM");
    mqtt_is_closed(&server);
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(1));
    assert!(!server.logged().contains("server has stopped"), "{}", server.logged());
}

#[test]
fn a_failed_start_is_json_where_logs_are() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(folder.path(), &["serve", "--set", "tracing.format=json", "--http-address", &address]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert!(last["level"] == "ERROR" && last["error"].as_str().unwrap().contains(&address), "{text}");
}

#[test]
fn the_demo_takes_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let demo = |name: &str, value: &str| floodplain(folder.path()).arg("demo").env(name, value).output().unwrap();
    let output = demo("FLOODPLAIN_HTTP__ADRESS", "x");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let output = demo("FLOODPLAIN_HTTP__ADDRESS", &address);
    assert!(output.status.code() == Some(1) && stderr(&output).contains(&address), "{}", stderr(&output));
}

/// What was acknowledged is found by a query that starts afterwards.
#[test]
fn a_query_after_the_puback_sees_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients: Vec<Mqtt> = (0..10).map(|n| Mqtt::connect(server.mqtt, &format!("truck-{n}"))).collect();
    for n in 0..200 {
        let device = n % clients.len();
        clients[device].publish(&format!("fleet/truck-{device}/n"), &n.to_string());
        let query =
            format!("SELECT count(*) AS n FROM records WHERE utf8(payload) = '{n}' AND device = 'truck-{device}'");
        let mut answer = String::new();
        ask(&server, &query).read_to_string(&mut answer).unwrap();
        assert!(answer.contains("{\"n\":1}"), "message {n}: {answer}");
    }
}

#[test]
fn a_result_that_is_cut_off_is_a_failure_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("floodplain.toml"), "[sql]\nrows_max = 30000\n").unwrap();
    let server = Server::start(folder.path());
    let url = format!("http://{}", server.http);
    for form in ["table", "json", "csv"] {
        let query = "SELECT value FROM generate_series(1, 100000)";
        let output = run(folder.path(), &["sql", "--url", &url, "--output", form, query]);
        assert_eq!(output.status.code(), Some(1), "{form}");
        assert!(stderr(&output).contains("not all rows"), "{form}: {}", stderr(&output));
        assert!(stdout(&output).lines().count() >= 30_000, "{form}: the rows so far are printed");
        assert!(!stdout(&output).ends_with("\n\n"), "{form}");
    }
}

/// The command writes CSV itself; over HTTP the server does.
#[test]
fn csv_is_the_same_from_the_command_and_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let query = "SELECT 'a,\"b\"' AS \"x,y\", NULL AS n, '' AS e, 1.5 AS f, '12345678901234567890.123'::decimal(30, 3) AS d, true AS t, \
                 decode('ff00', 'hex') AS b, decode('6869', 'hex') AS hi, [1, 2] AS l, DATE '2026-11-25' AS day, \
                 'NaN'::double AS nan UNION ALL SELECT 'line\n', 1, 'x', -2, 0, false, NULL, NULL, NULL, NULL, 1e-7 ORDER BY e";
    let mut stream = TcpStream::connect(server.http).unwrap();
    let (host, length) = (server.http, query.len());
    let head = "POST /api/v1/sql HTTP/1.0\r\nAccept: text/csv\r\n";
    write!(stream, "{head}Host: {host}\r\nContent-Length: {length}\r\n\r\n{query}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let output = run(folder.path(), &["sql", "--url", &format!("http://{host}"), "--output", "csv", query]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), body);
}

#[test]
fn the_demo_needs_nothing_and_counts_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["demo", "--duration", "4s", "--devices", "20", "--rate", "200"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let last = text.lines().last().unwrap();
    let numbers: Vec<u64> = last.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [acked, counted, devices] = numbers[..] else { panic!("{last}") };
    assert!(acked > 100 && counted >= acked && devices <= 20, "{last}");
    assert!(text.lines().filter(|line| line.starts_with("running for")).count() >= 3, "{text}");
    // Of five motors the most worn one vibrates more than its alert allows.
    let fires = |line: &str| line.contains("alert worn-bearing fires for ") && !line.contains("fires for 0");
    assert!(text.lines().any(fires), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}
