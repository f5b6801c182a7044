//! What is not for us: foreign pages, unknown paths, requests without end.

use crate::client::Server;
use floodplain_sql::Config;

#[tokio::test]
async fn foreign_pages_are_refused() {
    let server = Server::start().await;
    let request = |host: &str, more: &str| {
        format!(
            "POST /api/v1/sql HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}Content-Length: 8\r\n\r\nSELECT 1"
        )
    };
    let port = server.address.port();
    for host in [format!("evil.example:{port}"), "10.1.2.3".to_owned(), format!("127.0.0.1.evil.example:{port}")] {
        server.raw(request(&host, "").as_bytes()).await.assert_problem(421, "foreign_host");
    }
    for host in
        [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "localhost".to_owned(), "[::1]:80".to_owned()]
    {
        assert_eq!(server.raw(request(&host, "").as_bytes()).await.status, 200, "{host}");
    }
    let own = format!("localhost:{port}");
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        let answer = server.raw(request(&own, &format!("Origin: {origin}\r\n")).as_bytes()).await;
        answer.assert_problem(403, "foreign_origin");
    }
    let answer = server.raw(request(&own, &format!("Origin: http://{own}\r\n")).as_bytes()).await;
    assert_eq!(answer.status, 200);
    // Metrics and health are no secret of another page either.
    let get = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    server.raw(get.as_bytes()).await.assert_problem(421, "foreign_host");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let server = Server::start().await;
    for path in ["/nothing", "/api/v1/nothing", "/api/v1/sql/", "/%00", "/..%2f..%2fetc/passwd"] {
        server.get(path).await.assert_problem(404, "not_found");
    }
    for (method, path) in [("GET", "/api/v1/sql"), ("DELETE", "/metrics"), ("POST", "/readyz")] {
        let answer = server.request(method, path, "", "").await;
        answer.assert_problem(405, "method_not_allowed");
        assert!(answer.head.contains("allow: "), "{answer:?}");
    }
}

#[tokio::test]
async fn huge_bodies_are_refused() {
    let server = Server::with(Config { text_max_bytes: 1_000, ..Config::default() }).await;
    let text = |bytes: usize| format!("SELECT '{}'", "x".repeat(bytes));
    assert_eq!(server.query(&text(900)).await.status, 200);
    server.query(&text(1_000)).await.assert_problem(413, "sql_too_long");
    server.query(&text(100_000)).await.assert_problem(413, "body_too_large");
    // Without a length, the body is refused while it comes.
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    let head =
        "POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    server.raw(format!("{head}{chunk}{chunk}").as_bytes()).await.assert_problem(413, "body_too_large");
}

#[tokio::test]
async fn noise_is_refused_and_the_next_one_served() {
    let server = Server::start().await;
    for noise in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\x10\x0c\x00\x04MQTT\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let answer = server.raw(&[noise, &[b'\n'; 4]].concat()).await;
        assert!([400, 505].contains(&answer.status), "{answer:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20));
    let answer = server.raw(long.as_bytes()).await;
    // Silence is right here only: closing before all was read may reset the connection, and the answer with it.
    assert!([0, 414, 431].contains(&answer.status), "{answer:?}");
    assert_eq!(server.get("/healthz").await.status, 200);
}
