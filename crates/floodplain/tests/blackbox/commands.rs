//! Our own commands as clients: `pub`, `sub`, `sim` and `bench mqtt`, on whatever broker.

use crate::{
    client::Client,
    target::{Server, Target, each, each_version},
    wire::{CONTENT_TYPE, Connect, Prop, Version},
};
use anyhow::{Context, Result, ensure};
use floodplain_testkit::without_our_variables;
use serde_json::Value;
use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

fn floodplain(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floodplain"));
    command.args(args).stdin(Stdio::null());
    without_our_variables(&mut command);
    command
}

/// `pub` or `sub`, pointed at the target.
fn client(t: &Target, v: Version, name: &str) -> Command {
    let mut command = floodplain(&[name, "--url", &format!("mqtt://{}", t.mqtt)]);
    command.args(["-V", if v == Version::V5 { "5" } else { "3.1.1" }]);
    command
}

fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Fails with exit code 1 and says why.
fn fail(command: &mut Command) -> Result<String> {
    let Output { status, stderr, .. } = command.output()?;
    ensure!(status.code() == Some(1), "{command:?} ended with {status}");
    Ok(String::from_utf8(stderr)?)
}

#[test]
fn pub_publishes_lines_and_sub_finds_them_after_its_sleep() {
    each_version(|t, v| {
        for qos in ["1", "2"] {
            let (filter, topic, id) = (t.topic(&format!("{qos}/#")), t.topic(&format!("{qos}/a")), t.id(qos));
            let sub = |more: &[&str]| {
                let mut command = client(t, v, "sub");
                command.args(["-i", &id, "-c", "-t", &filter, "-q", qos]).args(more);
                command
            };
            succeed(&mut sub(&["--subscribe-only"]))?;
            let lines: String = (0..300).map(|n| format!("line {n}\n")).collect();
            let mut publisher = client(t, v, "pub")
                .args(["-t", &topic, "-q", qos, "--lines", "--output", "json"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            publisher.stdin.take().context("stdin")?.write_all(lines.as_bytes())?;
            let output = publisher.wait_with_output()?;
            ensure!(output.status.success());
            let report: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(report["acknowledged"] == 300, "{report}");
            ensure!(succeed(&mut sub(&["-C", "300", "-W", "20"]))? == lines);
            let why = fail(&mut sub(&["-C", "1", "-W", "0.5"]))?;
            ensure!(why.contains("only 0 messages came"), "{why}");
        }
        Ok(())
    });
}

#[test]
fn pub_sends_properties_and_the_retain_flag() {
    each(|t| {
        let topic = t.topic("a");
        let mut listener = Client::clean(t.mqtt, Version::V5, &t.id("l"))?;
        listener.subscribe(&topic, 1)?;
        succeed(client(t, Version::V5, "pub").args(["-t", &topic, "-q", "1", "-r", "-m", "x"]).args([
            "-D",
            "unit=km/h",
            "-D",
            "unit=again",
            "--content-type",
            "text/plain",
        ]))?;
        let got = listener.hears(&topic, "x")?;
        ensure!(got.user_props() == [("unit", "km/h"), ("unit", "again")], "{got:?}");
        ensure!(got.props.contains(&Prop::Text(CONTENT_TYPE, "text/plain".into())), "{got:?}");
        let line =
            succeed(client(t, Version::V5, "sub").args(["-t", &topic, "-C", "1", "-W", "20", "--output", "json"]))?;
        let message: Value = serde_json::from_str(&line)?;
        ensure!(message["retain"] == true && message["payload"] == "x" && message["topic"] == topic, "{message}");
        ensure!(message["user_properties"][1][1] == "again", "{message}");
        succeed(client(t, Version::V311, "pub").args(["-t", &topic, "-q", "1", "-r", "-n"]))?;
        Ok(())
    });
}

#[test]
fn pub_without_a_server_fails() {
    // A port that nobody has: it was taken a moment ago and given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let why = fail(floodplain(&["pub", "-t", "a", "-m", "b", "--port"]).arg(free.port().to_string())).unwrap();
    assert!(why.contains("cannot connect"), "{why}");
}

/// The connection that breaks is not that of the reader of our output.
#[test]
fn pub_fails_when_its_server_dies() {
    for qos in ["0", "1"] {
        let server = Server::fresh().unwrap();
        let mut publisher = floodplain(&["pub", "--url", &format!("mqtt://{}", server.mqtt), "-t", "a", "--lines"])
            .args(["-q", qos, "--output", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = publisher.stdin.take().unwrap();
        stdin.write_all(b"1\n2\n").unwrap();
        server.heard("SELECT count(*) AS n FROM records WHERE topic = 'a'", 2).unwrap();
        server.kill().unwrap();
        // More lines, as long as it takes them: it may end at once.
        drop(stdin.write_all(b"3\n4\n"));
        drop(stdin);
        let output = publisher.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "QoS {qos}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("stopped after"), "{output:?}");
    }
}

/// While its input says nothing, it pings, and notices the end of the connection.
#[test]
fn pub_looks_after_a_quiet_connection() {
    each(|t| {
        let topic = t.topic("a");
        let mut listener = Client::clean(t.mqtt, Version::V5, &t.id("l"))?;
        listener.subscribe(&topic, 0)?;
        let mut publisher = client(t, Version::V5, "pub")
            .args(["-t", &topic, "-q", "1", "--lines", "--keep-alive", "1", "--will-topic", &topic])
            .args(["--will-payload", "dead"])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut stdin = publisher.stdin.take().context("stdin")?;
        stdin.write_all(b"first\n")?;
        listener.hears(&topic, "first")?;
        // Twice a client that says nothing comes and is sent away: so long the server waits for a sign of life.
        for _ in 0..2 {
            let mut silent = Connect::new(Version::V5, t.id("silent"));
            silent.keep_alive = 1;
            let (mut silent, _) = Client::resume(t.mqtt, &silent)?;
            silent.until_closed()?;
        }
        stdin.write_all(b"second")?;
        drop(stdin);
        listener.hears(&topic, "second")?;
        ensure!(publisher.wait()?.success());
        Ok(())
    });
}

#[test]
fn the_grid_measures_this_program() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let grid = ["bench", "mqtt", "grid", "--brokers", "floodplain", "--shapes", "b2", "--rounds", "1", "--dir", dir];
    let report = succeed(floodplain(&grid).args(["--warm-up", "0.1", "--seconds", "2", "--output", "json"])).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let round = &report["cells"][0]["rounds"][0];
    assert!(round["count"].as_u64() > Some(0) && round["lost"] == 0, "{report}");
    assert!(round["broker_cpu_s_per_million"].is_f64() && report["fdatasync_ms"]["p50"].is_f64(), "{report}");
    let of_worker = &round["broker_threads_cpu_s_per_million"]["mqtt"];
    assert!(of_worker["user"].is_f64() && of_worker["system"].is_f64(), "{report}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the grid leaves nothing behind");
}

#[test]
fn ingest_writes_what_it_says_and_counts_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let ingest = ["bench", "ingest", "floodplain-lines", "floodplain-json", "--rows", "3000", "--rounds", "1", "--dir"];
    let report = succeed(floodplain(&ingest).args([dir, "--devices", "7", "--output", "json"])).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    for way in report["ways"].as_array().unwrap() {
        assert!(way["rounds"][0]["cpu_s_per_million"].as_f64() > Some(0.0), "{report}");
    }
    assert_eq!(report["ways"].as_array().unwrap().len(), 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn sim_publishes_what_it_says() {
    each(|t| {
        let mut listener = Client::clean(t.mqtt, Version::V5, &t.id("l"))?;
        listener.subscribe("devices/#", 0)?;
        let report = succeed(&mut floodplain(&[
            "sim",
            "--address",
            &t.mqtt.to_string(),
            "--devices",
            "20",
            "--rate",
            "2000",
            "--count",
            "1000",
            "--faults",
            "0",
            "--output",
            "json",
        ]))?;
        let report: Value = serde_json::from_str(&report)?;
        // On a machine that is busy with something else a device may skip a reading.
        let number = |name: &str| report[name].as_u64().with_context(|| format!("no {name} in {report}"));
        let sent = number("sent")?;
        ensure!(sent > 0 && sent + number("skipped")? == 1_000 && number("acknowledged")? == sent, "{report}");
        for _ in 0..sent {
            let got = listener.message()?;
            let reading: Value = serde_json::from_slice(&got.payload).with_context(|| got.text())?;
            ensure!(got.topic.starts_with("devices/") && reading["time"].is_i64(), "{got:?}");
        }
        Ok(())
    });
}

#[test]
fn bench_loses_nothing() {
    each(|t| {
        for shape in ["a1", "a3", "l", "b1", "b2", "c", "d", "e"] {
            let report = succeed(&mut floodplain(&[
                "bench",
                "mqtt",
                shape,
                "--address",
                &t.mqtt.to_string(),
                "--warm-up",
                "0.1",
                "--seconds",
                "0.3",
                "--subscribers",
                "20",
                "--connections",
                "200",
                "--rate",
                "500",
                "--output",
                "json",
            ]))
            .with_context(|| shape.to_owned())?;
            let report: Value = serde_json::from_str(&report)?;
            ensure!(report["lost"] == 0 && report["count"].as_u64() > Some(0), "{report}");
        }
        Ok(())
    });
}
