//! Streams beside `telemetry`, as clients see them: not at all.

use crate::{
    client::Client,
    target::Server,
    wire::{Connect, Publish, Version, Will},
};
use anyhow::{Result, ensure};
use floodplain_testkit::without_our_variables;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

const V5: Version = Version::V5;

const STREAMS: &str = "[[streams]]\nname = \"fast\"\n[[streams]]\nname = \"slow\"\n";
const BINDINGS: &str = "[[bindings]]\nname = \"quick\"\nfilter = \"quick/+\"\nstream = \"fast\"\ndevice_level = 2\n\
                        table = { name = \"quick\" }\ndecoder = { format = \"json\" }\n\
                        [[bindings]]\nname = \"lines\"\nfilter = \"devices/+/lines\"\nstream = \"slow\"\ndevice_level = 2\n\
                        table = { level = 3 }\n";

fn configure(folder: &Path, text: &str) {
    std::fs::write(folder.join("floodplain.toml"), text).unwrap();
}

/// Runs the command against the server: whether it succeeded, and what it printed.
fn command(server: &Server, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floodplain"));
    without_our_variables(&mut command);
    let output = command.args(args).args(["--url", &format!("http://{}", server.http)]).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn bind(server: &Server, name: &str, stream: &str) {
    let (filter, table) = (format!("{name}/+"), format!("table_{name}"));
    let args =
        ["binding", "set", name, "--filter", &filter, "--stream", stream, "--device-level", "2", "--table", &table];
    let (is_set, text) = command(server, &args);
    assert!(is_set, "{text}");
}

/// Each stream of the topics like `pattern`, and how many messages it has of them.
fn streams(server: &Server, pattern: &str) -> Result<Vec<(String, u64)>> {
    let rows = server.sql(&format!(
        "SELECT stream, count(*) AS n FROM records WHERE topic LIKE '{pattern}' GROUP BY stream ORDER BY stream"
    ))?;
    Ok(rows.iter().map(|row| (row["stream"].as_str().unwrap().to_owned(), row["n"].as_u64().unwrap())).collect())
}

fn request(server: &Server, method: &str, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(server.http).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (host, length) = (server.http, body.len());
    write!(socket, "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Server-sent events, and what was read of them and not looked at.
struct Follower(TcpStream, String);

impl Follower {
    /// It has been told that it follows.
    fn new(server: &Server, filter: &str) -> Self {
        let mut socket = TcpStream::connect(server.http).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(socket, "GET /api/v1/topics/{filter}?follow HTTP/1.0\r\nHost: {}\r\n\r\n", server.http).unwrap();
        let mut follower = Self(socket, String::new());
        follower.until(": follows");
        follower
    }

    /// Reads on until the end of a line with this text.
    fn until(&mut self, text: &str) -> String {
        let mut chunk = [0; 4096];
        loop {
            let end = self.1.find(text).and_then(|at| self.1[at..].find('\n').map(|end| at + end + 1));
            if let Some(end) = end {
                let rest = self.1.split_off(end);
                return std::mem::replace(&mut self.1, rest);
            }
            let n = self.0.read(&mut chunk).unwrap();
            assert!(n > 0, "ended before {text:?}: {}", self.1);
            self.1.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    }
}

fn texts(client: &mut Client, count: usize) -> Result<BTreeSet<String>> {
    (0..count).map(|_| Ok(client.message()?.text())).collect()
}

#[test]
fn messages_of_a_bound_topic_are_in_its_stream_and_come_to_everybody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    configure(folder.path(), &format!("{STREAMS}{BINDINGS}"));
    let server = Server::start(folder.path())?;
    let mut live = Client::clean(server.mqtt, V5, "live")?;
    live.subscribe("+/+", 2)?;
    let mut follower = Follower::new(&server, "%2B/%2B");
    let mut publisher = Client::clean(server.mqtt, V5, "pub")?;
    for qos in 0..3 {
        for topic in ["quick/d1", "plain/d1"] {
            let text = format!("{{\"n\":{qos},\"t\":\"{topic}\"}}");
            publisher.say(topic, &text, qos)?;
            live.hears(topic, &text)?;
            let event = follower.until(&format!("\"qos\":{qos}"));
            let stream = if topic == "quick/d1" { "fast" } else { "telemetry" };
            ensure!(event.contains(&format!("\"position\":\"{stream}/")), "{event}");
        }
    }
    // A will, a message by HTTP, and lines.
    let will = Will { topic: "quick/will".into(), payload: b"{}".to_vec(), qos: 1, retain: false, props: Vec::new() };
    let (mortal, _) = Client::resume(server.mqtt, &Connect { will: Some(will), ..Connect::new(V5, "mortal") })?;
    mortal.cut();
    live.hears("quick/will", "{}")?;
    let answer = request(&server, "POST", "/api/v1/topics/quick/d2", "{\"n\":9}");
    ensure!(answer.contains("{\"position\":\"fast/"), "{answer}");
    live.hears("quick/d2", "{\"n\":9}")?;
    let answer = request(
        &server,
        "POST",
        "/write?precision=s",
        "lines,device=d1 v=1 1700000000\nother,device=d1 v=2 1700000000\n",
    );
    ensure!(answer.contains("204"), "{answer}");
    ensure!(streams(&server, "quick/%")? == [("fast".to_owned(), 5)]);
    ensure!(streams(&server, "plain/%")? == [("telemetry".to_owned(), 3)]);
    ensure!(streams(&server, "devices/d1/lines")? == [("slow".to_owned(), 1)]);
    ensure!(streams(&server, "devices/d1/other")? == [("telemetry".to_owned(), 1)]);
    // Rows are there when a query begins, whatever the stream.
    let rows = server.sql("SELECT device, n FROM quick WHERE n IS NOT NULL ORDER BY device, n")?;
    let expected = json!([{ "device": "d1", "n": 0.0 }, { "device": "d1", "n": 1.0 }, { "device": "d1", "n": 2.0 },
        { "device": "d2", "n": 9.0 }]);
    ensure!(Value::Array(rows.clone()) == expected, "{rows:?}");
    ensure!(server.sql("SELECT device FROM lines")?.len() == 1);
    // A device has all its messages, newest first.
    let answer = request(&server, "GET", "/api/v1/devices/d1/messages?limit=50", "");
    let of = |stream: &str| answer.matches(&format!("\"position\":\"{stream}/")).count();
    ensure!((of("fast"), of("slow"), of("telemetry")) == (3, 1, 1), "{answer}");
    let newest = answer.find("\"position\"").map(|at| &answer[at..]).unwrap_or_default();
    ensure!(!newest.starts_with("\"position\":\"fast/"), "{answer}");
    let known = server
        .sql("SELECT stream, count(*) AS n FROM streams WHERE stream IN ('fast', 'telemetry') GROUP BY stream")?;
    ensure!(known.len() == 2 && known[0]["n"] == known[1]["n"], "{known:?}");
    // What a decoder refuses is named with its stream, and shown.
    publisher.say("quick/d1", "oops", 1)?;
    let letters = server.sql("SELECT stream, stage FROM dlq")?;
    ensure!(Value::Array(letters.clone()) == json!([{ "stream": "fast", "stage": "decode" }]), "{letters:?}");
    let answer = request(&server, "GET", "/api/v1/dlq", "");
    ensure!(answer.contains("\"position\":\"fast/") && answer.contains("\"payload\":\"oops\""), "{answer}");
    Ok(())
}

#[test]
fn a_session_that_sleeps_gets_all_streams_after_kill_9_and_without_their_declaration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    configure(folder.path(), STREAMS);
    let server = Server::start(folder.path())?;
    let connect = Connect::lasting(V5, "sleeper", 3_600);
    let (mut sleeper, _) = Client::resume(server.mqtt, &connect)?;
    sleeper.subscribe("+/+", 2)?;
    bind(&server, "moves", "fast");
    // Some in flight, some that wait.
    let mut publisher = Client::clean(server.mqtt, V5, "pub")?;
    publisher.say("moves/d1", "fast 0", 2)?;
    sleeper.hears("moves/d1", "fast 0")?;
    for qos in 1..3 {
        publisher.say("moves/d1", &format!("fast {qos}"), qos)?;
        publisher.say("plain/d1", &format!("plain {qos}"), qos)?;
        sleeper.message_raw()?;
        sleeper.message_raw()?;
    }
    sleeper.cut();
    let mut expected = BTreeSet::from(["fast 1", "fast 2", "plain 1", "plain 2"].map(str::to_owned));
    let mut say = |publisher: &mut Client, topic: &str, text: String| {
        publisher.say(topic, &text, 1)?;
        expected.insert(text);
        anyhow::Ok(())
    };
    for stream in ["slow", "telemetry", "fast"] {
        bind(&server, "moves", stream);
        for n in 0..40 {
            say(&mut publisher, "moves/d1", format!("{stream} again {n}"))?;
        }
    }
    bind(&server, "moves", "slow");
    server.kill()?;
    // The declarations are gone, the streams stay: those who sleep, and bindings, find them.
    configure(folder.path(), "");
    let server = Server::start(folder.path())?;
    let mut publisher = Client::clean(server.mqtt, V5, "pub")?;
    say(&mut publisher, "moves/d1", "after".to_owned())?;
    say(&mut publisher, "plain/d1", "after, plain".to_owned())?;
    ensure!(
        streams(&server, "moves/d1")?
            == [("fast".to_owned(), 43), ("slow".to_owned(), 41), ("telemetry".to_owned(), 40)],
        "{:?}",
        streams(&server, "moves/d1")?
    );
    let (mut sleeper, present) = Client::resume(server.mqtt, &connect)?;
    ensure!(present);
    let got = texts(&mut sleeper, expected.len())?;
    ensure!(got == expected, "missing: {:?}", expected.difference(&got).collect::<Vec<_>>());
    sleeper.hears_nothing()?;
    // It is live again in each.
    for stream in ["fast", "slow", "telemetry"] {
        bind(&server, "moves", stream);
        publisher.say("moves/d1", stream, 1)?;
        sleeper.hears("moves/d1", stream)?;
    }
    bind(&server, "other", "slow");
    let (is_set, text) =
        command(&server, &["binding", "set", "x", "--filter", "x", "--table", "x", "--stream", "nowhere"]);
    ensure!(!is_set && text.contains("declare it under [[streams]]") && text.contains("stream_unknown"), "{text}");
    let (is_set, text) = command(&server, &["binding", "set", "x", "--filter", "x", "--table", "x", "--stream", "dlq"]);
    ensure!(!is_set && text.contains("one of the server's own"), "{text}");
    let (is_listed, text) = command(&server, &["binding", "list"]);
    ensure!(is_listed && text.lines().any(|line| line.contains("other/+") && line.contains("slow")), "{text}");
    Ok(())
}

/// Of two retained messages the later counts, whatever their streams, and one stream is decoded again.
#[test]
fn retained_messages_and_replays_of_several_streams() -> Result<()> {
    let folder = tempfile::tempdir()?;
    configure(folder.path(), STREAMS);
    let mut server = Server::start(folder.path())?;
    for (round, stream) in ["telemetry", "fast", "slow", "telemetry", "fast"].into_iter().enumerate() {
        bind(&server, "kept", stream);
        let mut publisher = Client::clean(server.mqtt, V5, "pub")?;
        publisher.publish(Publish::new("kept/d1", stream, 1).retained())?;
        publisher.publish(Publish::new(format!("kept/r{round}"), stream, 1).retained())?;
        if round == 3 {
            server.kill()?;
            server = Server::start(folder.path())?;
        }
        let mut late = Client::clean(server.mqtt, V5, "late")?;
        late.subscribe("kept/d1", 1)?;
        ensure!(late.hears("kept/d1", stream)?.retain);
        late.subscribe("kept/#", 1)?;
        let mut topics = (0..round + 2).map(|_| Ok(late.message()?.topic)).collect::<Result<Vec<_>>>()?;
        topics.sort();
        let mut expected: Vec<String> = (0..=round).map(|n| format!("kept/r{n}")).collect();
        expected.insert(0, "kept/d1".to_owned());
        ensure!(topics == expected, "{topics:?}");
        // The same by HTTP.
        ensure!(Follower::new(&server, "kept/d1").until("\"payload\"").contains(&format!("\"{stream}\"")));
    }
    // Deleted in one, it is gone from all.
    let mut publisher = Client::clean(server.mqtt, V5, "pub")?;
    publisher.publish(Publish::new("kept/d1", "", 1).retained())?;
    let mut late = Client::clean(server.mqtt, V5, "late")?;
    late.subscribe("kept/d1", 1)?;
    late.hears_nothing()?;
    // Ten messages and the deletion: four of them in telemetry, two in slow.
    let (is_over, text) = command(&server, &["replay", "--stream", "slow", "--output", "json"]);
    let job: Value = serde_json::from_str(&text)?;
    ensure!(is_over && job["records"] == 2 && job["state"] == "done", "{text}");
    let (is_over, text) = command(&server, &["replay", "--output", "json"]);
    let job: Value = serde_json::from_str(&text)?;
    ensure!(is_over && job["records"] == 11, "{text}");
    let (is_over, text) = command(&server, &["replay", "--stream", "nowhere"]);
    ensure!(!is_over && text.contains("stream_unknown"), "{text}");
    Ok(())
}
