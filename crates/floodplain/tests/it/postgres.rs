//! SQL by the PostgreSQL wire, with clients that are not ours.

use crate::{
    process::{PATIENCE, Server},
    serve::Mqtt,
};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Output},
};

/// A server with rows in table `engine`.
fn filled(folder: &std::path::Path) -> Server {
    let server = Server::start(folder);
    let mut mqtt = Mqtt::connect(server.mqtt, "gateway");
    for n in 1..=5 {
        let payload =
            format!(r#"{{"ts": "2026-01-01T00:00:0{n}Z", "rpm": {n}.5, "lamp": {}, "gear": "{n}"}}"#, n % 2 == 0);
        mqtt.publish(&format!("devices/truck-{}/engine", n % 2), &payload);
    }
    server
}

fn psql(server: &Server, args: &[&str]) -> Output {
    Command::new("psql")
        .args(["--no-psqlrc", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1"])
        .arg(format!("postgresql://anna@{}/floodplain?sslmode=disable", server.postgres))
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .expect("psql is there: cargo xtask tools")
}

fn rows(server: &Server, query: &str) -> Vec<String> {
    let output = psql(server, &["--command", query]);
    assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn psql_reads_rows() {
    let folder = tempfile::tempdir().unwrap();
    let server = filled(folder.path());
    assert_eq!(
        rows(&server, "SELECT device, time, rpm, lamp, gear FROM engine WHERE device = 'truck-0' ORDER BY time"),
        ["truck-0|2026-01-01 00:00:02+00|2.5|t|2", "truck-0|2026-01-01 00:00:04+00|4.5|t|4"]
    );
    assert_eq!(
        rows(&server, "SELECT count(*), NULL, utf8(payload) FROM records GROUP BY 3 ORDER BY 3 LIMIT 1")[0]
            .split('|')
            .next(),
        Some("1")
    );
    assert_eq!(rows(&server, "SHOW server_version"), ["16.6"]);
    // What it cannot do it says, with a code and a place.
    let refused = psql(&server, &["--set", "VERBOSITY=verbose", "--command", "SELECT nothing FROM engine"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("nothing") && said.contains("LINE 1"), "{said}");
    let refused = psql(&server, &["--set", "VERBOSITY=verbose", "--command", "DELETE FROM engine"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("25006"), "{refused:?}");
    // A transaction, and more rows than one message holds.
    let many = psql(
        &server,
        &["--command", "BEGIN", "--command", "SELECT value FROM generate_series(1, 20000)", "--command", "COMMIT"],
    );
    assert_eq!(String::from_utf8(many.stdout).unwrap().lines().count(), 20_002);
}

#[test]
fn psycopg_binds_parameters_and_reads_binary() {
    let folder = tempfile::tempdir().unwrap();
    let server = filled(folder.path());
    let tools = std::env::var_os("FLOODPLAIN_TEST_TOOLS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/floodplain/tools"),
        PathBuf::from,
    );
    let output = Command::new(tools.join("venv/bin/python"))
        .args(["-c", include_str!("psycopg_cases.py")])
        .arg(format!("postgresql://anna@{}/floodplain?sslmode=prefer", server.postgres))
        .output()
        .expect("Python is there: cargo xtask tools");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "all good");
}

#[test]
fn what_is_no_startup_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let server = filled(folder.path());
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 64],
        &[0xff; 64],
        b"\0\0\0\x08\x04\xd2\x16\x2e",
        b"\0\0\0\x10\0\x09\0\0user\0x\0\0",
    ] {
        let mut stream = TcpStream::connect(server.postgres).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // An answer or none, and the end.
        drop(stream.read_to_end(&mut answer));
    }
    assert_eq!(rows(&server, "SELECT count(*) FROM engine"), ["5"]);
}
