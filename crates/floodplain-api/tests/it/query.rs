//! `POST /api/v1/sql`.

use crate::client::{ENDLESS, Server};
use floodplain_api::Limits;
use floodplain_sql::Config;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const QUERY: &str = "SELECT device, json_get_int(payload, 'n') AS n FROM records ORDER BY n";
const CSV: &str = "device,n\r\nd-1,1\r\nd-2,2\r\nd-3,3\r\n";

#[tokio::test]
async fn json_is_the_default() {
    let server = Server::start().await;
    let answer = server.query(QUERY).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{answer:?}");
    let json = answer.json();
    assert_eq!(json["columns"][1], serde_json::json!({ "name": "n", "type": "bigint" }));
    assert_eq!(json["rows"][2], serde_json::json!({ "device": "d-3", "n": 3 }));
    assert_eq!(json["row_count"], 3);
}

#[tokio::test]
async fn the_format_is_chosen_by_accept_or_body() {
    let server = Server::start().await;
    let json = |format: &str| format!(r#"{{"query": "{QUERY}"{format}}}"#);
    for (headers, body) in [
        ("Accept: text/csv\r\n", QUERY.to_owned()),
        ("Accept: text/csv\r\nContent-Type: application/x-www-form-urlencoded\r\n", QUERY.to_owned()),
        ("Accept: text/csv\r\nContent-Type: application/json; charset=utf-8\r\n", json("")),
        ("Accept: application/json\r\nContent-Type: application/json\r\n", json(r#", "format": "csv""#)),
    ] {
        let answer = server.request("POST", "/api/v1/sql", headers, &body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, CSV), "{headers}");
        assert!(answer.head.contains("content-type: text/csv"), "{answer:?}");
    }
    let wanted = "Content-Type: application/json\r\nAccept: text/csv\r\n";
    let answer = server.request("POST", "/api/v1/sql", wanted, &json(r#", "format": "json""#)).await;
    assert_eq!(answer.json()["row_count"], 3);
    let answer = server.request("POST", "/api/v1/sql", "Accept: image/png\r\n", QUERY).await;
    answer.assert_problem(406, "not_acceptable");
}

#[tokio::test]
async fn mistakes_say_what_and_where() {
    let server = Server::start().await;
    for (query, status, code) in [
        ("SELECT *\n FORM records", 400, "sql_syntax"),
        ("SELECT devise FROM records", 400, "sql_invalid"),
        ("SELECT * FROM nowhere", 400, "sql_invalid"),
        ("DROP TABLE records", 403, "sql_read_only"),
        ("SELECT 1/0", 422, "sql_execution"),
    ] {
        server.query(query).await.assert_problem(status, code);
    }
    let position = server.query("SELECT *\n FORM records").await.json()["position"].clone();
    assert_eq!(position, serde_json::json!({ "line": 2, "column": 7 }));
    let detail = server.query("SELECT devise FROM records").await.json()["detail"].clone();
    assert!(detail.as_str().unwrap().contains("devise"), "{detail}");
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let server = Server::start().await;
    let json = "Content-Type: application/json\r\n";
    for (headers, body, status, code) in [
        (json, "", 400, "bad_request"),
        (json, "{", 400, "bad_request"),
        (json, r#"{"sql": "SELECT 1"}"#, 400, "bad_request"),
        (json, r#"{"query": "SELECT 1", "format": "xml"}"#, 400, "bad_request"),
        (json, r#"{"query": 1}"#, 400, "bad_request"),
        ("Content-Type: image/png\r\n", "SELECT 1", 415, "unsupported_media_type"),
        ("", "", 400, "sql_syntax"),
    ] {
        server.request("POST", "/api/v1/sql", headers, body).await.assert_problem(status, code);
    }
    let head = b"POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n";
    server.raw(&[head, &b"\xff\xfe"[..]].concat()).await.assert_problem(400, "bad_request");
}

#[tokio::test]
async fn limits_have_codes() {
    let limit = Duration::from_millis(200);
    let server = Server::with(Config { rows_max: 2, ..Config::default() }).await;
    server.query(QUERY).await.assert_problem(422, "sql_row_limit");
    let server = Server::with(Config { time_max: limit, ..Config::default() }).await;
    server.query(ENDLESS).await.assert_problem(504, "sql_time_limit");
    let server = Server::with(Config { memory_max_bytes: 1 << 20, ..Config::default() }).await;
    let large = "SELECT value, count(*) FROM generate_series(1, 3000000) GROUP BY value";
    server.query(large).await.assert_problem(507, "sql_memory_limit");
}

#[tokio::test]
async fn an_error_after_the_first_rows_is_told() {
    let server = Server::with(Config { rows_max: 30_000, ..Config::default() }).await;
    let query = "SELECT value FROM generate_series(1, 100000)";
    let answer = server.query(query).await;
    assert_eq!((answer.status, answer.whole), (200, true));
    let json = answer.json();
    assert_eq!(json["row_count"], 30_000);
    assert_eq!(json["rows"].as_array().unwrap().len(), 30_000);
    assert_eq!(json["error"]["code"], "sql_row_limit");
    let answer = server.request("POST", "/api/v1/sql", "Accept: text/csv\r\n", query).await;
    assert_eq!((answer.status, answer.whole), (200, false), "csv breaks off");
}

#[tokio::test]
async fn large_results_come_in_chunks() {
    let server = Server::start().await;
    let answer =
        server.query("SELECT value, repeat('x', 20) AS text FROM generate_series(1, 50000) ORDER BY value").await;
    assert!(answer.whole && answer.head.contains("transfer-encoding: chunked"), "{}", answer.head);
    let json = answer.json();
    assert_eq!(json["rows"][49_999]["value"], 50_000);
    assert_eq!(json.get("error"), None);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_query() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let length = ENDLESS.len();
    let request = format!("POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{ENDLESS}");
    stream.write_all(request.as_bytes()).await.unwrap();
    server.running_becomes(1).await;
    drop(stream);
    server.running_becomes(0).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_one_query_and_no_more() {
    let server = Server::start().await;
    let query = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 900000)";
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let length = query.len();
    let request = format!("POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{query}");
    stream.write_all(request.as_bytes()).await.unwrap();
    server.running_becomes(1).await;
    assert_eq!(server.query("SELECT 1 AS one").await.json()["rows"][0]["one"], 1);
    // The answer may be here before the query has given its place back.
    server.running_becomes(1).await;
    drop(stream);
    server.running_becomes(0).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_loses_its_place() {
    let limits = Limits { connections_max: 1, stall_time_max: Duration::from_millis(200), ..Limits::default() };
    let server = Server::limited(Config::default(), limits).await;
    let query = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 900000)";
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let length = query.len();
    let request = format!("POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{query}");
    stream.write_all(request.as_bytes()).await.unwrap();
    server.running_becomes(1).await;
    // There is one place: the next one is served when it is free.
    assert_eq!(server.query("SELECT 1 AS one").await.json()["rows"][0]["one"], 1);
    server.running_becomes(0).await;
    drop(stream);
}

#[tokio::test]
async fn a_client_that_reads_slowly_keeps_its_place() {
    let limits = Limits { stall_time_max: Duration::from_millis(500), ..Limits::default() };
    let server = Server::limited(Config::default(), limits).await;
    let query = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 30000)";
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let (length, close) = (query.len(), "Host: localhost\r\nConnection: close");
    let request = format!("POST /api/v1/sql HTTP/1.1\r\n{close}\r\nContent-Length: {length}\r\n\r\n{query}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut total, mut chunk, started) = (0, vec![0; 4 << 20], tokio::time::Instant::now());
    loop {
        match stream.read(&mut chunk).await.unwrap() {
            0 => break,
            length => total += length,
        }
        if started.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(total > 30_000_000, "{total} bytes came");
}

#[tokio::test]
async fn a_request_that_does_not_come_ends() {
    let time = Duration::from_millis(200);
    let limits = Limits { head_time_max: time, ..Limits::default() };
    let answer = Server::limited(Config::default(), limits).await.raw(b"POST /api/v1/sql HT").await;
    assert!([0, 408].contains(&answer.status), "{answer:?}");
    let limits = Limits { body_time_max: time, ..Limits::default() };
    let head = b"POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n\r\nSELE";
    Server::limited(Config::default(), limits).await.raw(head).await.assert_problem(408, "slow_body");
}
