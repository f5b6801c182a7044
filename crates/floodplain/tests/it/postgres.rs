//! SQL by the PostgreSQL wire, with clients that are not ours.

use crate::{
    access::{PASSWORD, send, setup_link},
    process::{PATIENCE, Server, floodplain, java, poll, python},
    serve::Mqtt,
};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Output, Stdio},
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

fn url(server: &Server) -> String {
    format!("postgresql://anna@{}/floodplain", server.postgres)
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
    // Several statements at once; with the first that fails, the rest is not run.
    assert_eq!(rows(&server, "BEGIN; SELECT 1; SET a = 'x;y'; SELECT 2; COMMIT"), ["BEGIN", "1", "SET", "2", "COMMIT"]);
    let refused = psql(&server, &["--command", "BEGIN READ ONLY; DELETE FROM engine; SELECT 3"]);
    let (said, wrong) = (String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(said == "BEGIN\n" && wrong.contains("Delete is refused"), "{said}{wrong}");
    let refused = psql(&server, &["--command", "SELECT 1; SELECT nothing FROM engine"]);
    let wrong = String::from_utf8_lossy(&refused.stderr);
    assert!(wrong.contains("LINE 1: SELECT 1; SELECT nothing FROM engine\n                         ^"), "{wrong}");
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
    python("psycopg_cases.py", &[&url(&server)]);
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

/// What people type at psql to look around; parts of what it prints.
#[test]
fn psql_describes_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = filled(folder.path());
    for (command, expected) in [
        ("\\d", &["public|dlq|table|anna", "public|engine|table|anna", "public|records|table|anna"][..]),
        (
            "\\dt",
            &[
                "public|alerts|table|anna",
                "public|devices|table|anna",
                "public|dlq|table|anna",
                "public|engine|table|anna",
                "public|events|table|anna",
                "public|records|table|anna",
                "public|sessions|table|anna",
                "public|streams|table|anna",
                "public|tables|table|anna",
            ],
        ),
        ("\\dt e*", &["public|engine|table|anna"]),
        ("\\dt+", &["public|engine|table|anna|permanent|||"]),
        ("\\dv", &[]),
        ("\\d devices", &["device|text|||", "last_seen|timestamp with time zone|||"]),
        ("\\d+ sessions", &["subscriptions|bigint||||plain|||"]),
        ("\\d alerts", &["rule|text|||", "active|boolean|||"]),
        (
            "\\d engine",
            &[
                "device|text||not null|",
                "time|timestamp with time zone||not null|",
                "rpm|double precision|||",
                "lamp|boolean|||",
            ],
        ),
        ("\\d+ engine", &["gear|text||||plain|||"]),
        ("\\d dlq", &["received|timestamp with time zone||not null|", "count|bigint|||"]),
        ("\\d pg_catalog.pg_class", &["relname|name|||", "relkind|\"char\"|||"]),
        ("\\l", &["floodplain|anna|UTF8|C|C||libc|"]),
        ("\\l+", &["floodplain|anna|UTF8|C|C||libc|||pg_default|"]),
        ("\\dn", &["public|anna"]),
        ("\\du", &["anna||{}"]),
        ("\\db", &["pg_default|anna|"]),
        ("\\df", &[]),
        ("\\di", &[]),
        ("\\dx", &[]),
        ("\\dT", &[]),
    ] {
        let output = psql(&server, &["--command", command]);
        let [said, wrong] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(output.status.success() && !wrong.contains("ERROR"), "{command}: {wrong}");
        for line in expected {
            assert!(said.lines().any(|found| found == *line), "{command} lacks {line}:\n{said}");
        }
        assert!(!expected.is_empty() || said.is_empty(), "{command}: {said}");
    }
    for (query, expected) in [
        (
            "SELECT current_user, session_user, current_schema, current_schema(), current_database()",
            "anna|anna|public|public|floodplain",
        ),
        ("SELECT 'engine'::regclass::oid::regclass", "engine"),
        ("SELECT 'public.engine'::regclass = 'engine'::regclass, to_regclass('nothing')", "t|"),
        (
            "SELECT 'integer'::regtype::oid, 1184::oid::regtype, format_type(1009, NULL)",
            "23|timestamp with time zone|text[]",
        ),
        ("SHOW search_path", "public"),
        ("SHOW TimeZone", "UTC"),
        ("SHOW transaction isolation level", "repeatable read"),
        ("SELECT setting FROM pg_settings WHERE name = 'server_version_num'", "160006"),
        ("SELECT relname FROM pg_class WHERE oid = 'engine'::regclass AND relkind = ANY (ARRAY['r', 'v'])", "engine"),
        (
            "SELECT udt_name FROM information_schema.columns WHERE table_name = 'engine' AND column_name = 'rpm'",
            "float8",
        ),
        ("SELECT array[1, 2], make_array('a b', NULL)", "{1,2}|{\"a b\",NULL}"),
    ] {
        assert_eq!(rows(&server, query), [expected], "{query}");
    }
    let refused = psql(&server, &["--command", "SELECT 'nothing'::regclass"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("relation \"nothing\" does not exist"), "{refused:?}");
}

#[test]
fn jdbc_finds_tables_and_reads_rows() {
    let folder = tempfile::tempdir().unwrap();
    let server = filled(folder.path());
    java("Jdbc.java", "jdbc", &[&format!("jdbc:postgresql://{}/floodplain?user=anna", server.postgres)]);
}

#[test]
fn sqlalchemy_reflects_tables_and_reads_rows() {
    let folder = tempfile::tempdir().unwrap();
    let server = filled(folder.path());
    python("sqlalchemy_cases.py", &[&url(&server)]);
}

#[test]
fn what_grafana_asks_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = filled(folder.path());
    python("grafana_cases.py", &[&url(&server)]);
}

/// What psql makes of a connection with `settings` of libpq.
fn psql_with(server: &Server, settings: &str) -> Output {
    let port = server.postgres.port();
    Command::new("psql")
        .args(["--no-psqlrc", "--no-password", "--no-align", "--tuples-only", "--command", "SELECT current_user"])
        .arg(format!("hostaddr=127.0.0.1 host=localhost port={port} dbname=floodplain gssencmode=disable {settings}"))
        .env("LC_ALL", "C")
        .env("PGPASSFILE", "/nonexistent")
        .output()
        .expect("psql is there: cargo xtask tools")
}

fn check_psql(server: &Server, settings: &str, expected: Result<&str, &str>) {
    let output = psql_with(server, settings);
    let [said, wrong] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    match expected {
        Ok(user) => assert!(output.status.success() && said.trim() == user, "{settings}: {said}{wrong}"),
        Err(part) => assert!(!output.status.success() && wrong.contains(part), "{settings}: {said}{wrong}"),
    }
}

/// Makes the first user, `anna`.
fn claim(server: &Server) {
    let link = setup_link(server);
    let (_, token) = link.split_once("/setup#").unwrap();
    let setup = serde_json::json!({ "token": token, "user": "anna", "password": PASSWORD });
    assert_eq!(send(server, "POST", "/api/v1/setup", &[], &setup).status(), 204);
}

#[test]
fn psql_logs_in_with_the_password_of_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    // Nobody owns the server yet, and who reaches it is on this machine.
    check_psql(&server, "user=anna", Ok("anna"));
    claim(&server);
    check_psql(&server, &format!("user=anna password='{PASSWORD}'"), Ok("anna"));
    check_psql(&server, "user=anna", Err("no password supplied"));
    let wrong = "password authentication failed for user";
    check_psql(&server, "user=anna password=wrong", Err(wrong));
    check_psql(&server, &format!("user=bert password='{PASSWORD}'"), Err(wrong));
    let logged = server.logged();
    assert!(!logged.contains(PASSWORD));
    assert_eq!(logged.matches("a login failed").count(), 2, "{logged}");
    let basic = [("Authorization", "Basic YW5uYTphIHBhc3N3b3JkIG9mIGFubmE=")];
    let get = |path| send(&server, "GET", path, &basic, &serde_json::Value::Null).into_body().read_to_string().unwrap();
    let (metrics, counted) =
        (get("/metrics"), "floodplain_access_checks_total{credential=\"password\",outcome=\"refused\"} 2");
    assert!(metrics.contains(counted), "{metrics}");
    let url = format!("jdbc:postgresql://{}/floodplain?user=anna&password=wrong", server.postgres);
    java("Jdbc.java", "jdbc", &[&url, "28P01"]);
}

#[test]
fn who_came_before_the_first_user_is_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut psql = Command::new("psql")
        .args(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password"])
        .arg(url(&server))
        .envs([("LC_ALL", "C"), ("PGPASSFILE", "/nonexistent")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql is there: cargo xtask tools");
    let mut typed = psql.stdin.take().unwrap();
    typed.write_all(b"SELECT 'one' || 'first';\n").unwrap();
    poll("its first query", || {
        let metrics = send(&server, "GET", "/metrics", &[], &serde_json::Value::Null).into_body().read_to_string();
        metrics.unwrap().contains("floodplain_postgres_queries_total 1").then_some(())
    });
    claim(&server);
    typed.write_all(b"SELECT 'one' || 'second';\n").unwrap();
    drop(typed);
    let output = psql.wait_with_output().unwrap();
    let [said, wrong] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(said == "onefirst\n" && wrong.contains("log in again"), "{said}{wrong}");
}

/// A certificate of its own making for `localhost`.
fn certificate(folder: &std::path::Path) {
    let openssl = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=CA:FALSE", "-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stderr));
}

#[test]
fn psql_verifies_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificate(folder);
    let config = "[postgres]\ntls_certificate = \"certificate.pem\"\ntls_key = \"key.pem\"\n";
    std::fs::write(folder.join("floodplain.toml"), config).unwrap();
    let server = Server::start(folder);
    claim(&server);
    let trusted = format!("sslrootcert={}", folder.join("certificate.pem").display());
    let anna = format!("user=anna password='{PASSWORD}'");
    check_psql(&server, &format!("{anna} {trusted} sslmode=verify-full channel_binding=require"), Ok("anna"));
    check_psql(
        &server,
        &format!("user=anna password=wrong {trusted} sslmode=verify-full"),
        Err("password authentication failed"),
    );
    // Another server's certificate is not taken.
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    let mistrusted = format!("sslrootcert={}", other.path().join("certificate.pem").display());
    check_psql(&server, &format!("{anna} {mistrusted} sslmode=verify-full"), Err("certificate verify failed"));
}

#[test]
fn what_is_no_certificate_names_its_key_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certificate(folder);
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    std::fs::copy(other.path().join("key.pem"), folder.join("other.pem")).unwrap();
    for (certificate, key, expected) in [
        ("certificate.pem", "none", "postgres.tls_key = \"none\" (default) must be a path"),
        ("none", "key.pem", "postgres.tls_certificate = \"none\" (default) must be a path"),
        ("nothing.pem", "key.pem", "postgres.tls_certificate: cannot read nothing.pem"),
        ("certificate.pem", "nothing.pem", "postgres.tls_key: cannot read nothing.pem"),
        ("key.pem", "key.pem", "postgres.tls_certificate cannot be used from key.pem: there is no certificate in PEM"),
        (
            "certificate.pem",
            "certificate.pem",
            "postgres.tls_key cannot be used from certificate.pem: there is no private key",
        ),
        (
            "certificate.pem",
            "other.pem",
            "postgres.tls_certificate cannot be used from certificate.pem: certificate and key",
        ),
    ] {
        let mut command = floodplain(folder);
        command.args(["config", "check"]);
        for (name, value) in [("CERTIFICATE", certificate), ("KEY", key)] {
            if value != "none" {
                command.env(format!("FLOODPLAIN_POSTGRES__TLS_{name}"), value);
            }
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{certificate} {key}: {said}");
    }
}
