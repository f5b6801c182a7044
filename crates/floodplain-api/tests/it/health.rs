//! `/metrics`, `/healthz`, `/readyz`, and the end.

use crate::client::{ENDLESS, Server};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test]
async fn health() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
    *server.reason.lock().unwrap() = Some("log is poisoned by an earlier failure".to_owned());
    assert_eq!(server.get("/healthz").await.status, 200);
    let answer = server.get("/readyz").await;
    answer.assert_problem(503, "not_ready");
    assert!(answer.head.contains("retry-after"), "{answer:?}");
    assert_eq!(answer.json()["detail"], "log is poisoned by an earlier failure");
}

#[tokio::test]
async fn metrics_count_queries_and_requests() {
    let server = Server::start().await;
    assert_eq!(server.query("SELECT device FROM records").await.status, 200);
    let answer = server.get("/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    for name in
        ["floodplain_http_requests_total{status=\"2xx\"}", "floodplain_sql_queries_total{outcome=\"completed\"}"]
    {
        let line = answer.body.lines().find(|line| line.starts_with(name));
        let count: u64 = line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0);
        assert!(count >= 1, "{name}:\n{}", answer.body);
    }
}

#[tokio::test]
async fn stops_between_requests_and_after_answers() {
    let server = Server::start().await;
    // One connection idles, one has a query that will not end by itself.
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    idle.read_exact(&mut head).await.unwrap();
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    let length = ENDLESS.len();
    let request = format!("POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{ENDLESS}");
    busy.write_all(request.as_bytes()).await.unwrap();
    server.running_becomes(1).await;
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), server.running).await.expect("stops in time").unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");
}
