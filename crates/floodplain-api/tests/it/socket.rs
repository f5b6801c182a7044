//! `GET /api/v1/subscribe`, by a WebSocket client of a few lines (RFC 6455).

use crate::{client::Server, events::PATIENCE, topics::publish};
use floodplain_access::Role;
use floodplain_api::{Api, Limits, MessageLimits, Retained, RetainedPage, RetainedSource, TailLimits};
use floodplain_log::{Log, MessageRef};
use floodplain_sql::{Config, Unanswered};
use floodplain_types::{Position, filter_matches};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

struct Socket(TcpStream);

impl Socket {
    async fn open(server: &Server) -> Self {
        Self::open_with(server, "").await
    }

    /// With headers that end in CR LF each.
    async fn open_with(server: &Server, headers: &str) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "GET /api/v1/subscribe HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
            server.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        // The answer to this key, from §1.3.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        Self(stream)
    }

    async fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match text.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(len).unwrap().to_be_bytes());
            }
        }
        // Masked with zeros, which changes nothing.
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).await.unwrap();
    }

    /// Opcode and content of the next frame that is no ping.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            let read = async {
                let opcode = self.0.read_u8().await.unwrap() & 0x0f;
                let len = match self.0.read_u8().await.unwrap() {
                    126 => usize::from(self.0.read_u16().await.unwrap()),
                    127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
                    len => usize::from(len),
                };
                let mut content = vec![0; len];
                self.0.read_exact(&mut content).await.unwrap();
                (opcode, content)
            };
            let frame = tokio::time::timeout(PATIENCE, read).await.expect("a frame in time");
            if frame.0 != 9 {
                return frame;
            }
        }
    }

    async fn hears(&mut self) -> Value {
        let (opcode, content) = self.frame().await;
        assert_eq!(opcode, 1);
        serde_json::from_slice(&content).unwrap()
    }

    /// The next frame closes with this code (§7.4.1).
    async fn closes(&mut self, code: u16) {
        let (opcode, content) = self.frame().await;
        assert_eq!((opcode, &content[..2]), (8, &code.to_be_bytes()[..]), "{content:?}");
    }

    /// Answers a close, after which the server ends the connection.
    async fn answers_close(mut self) {
        self.0.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("an end in time");
        assert!(end.is_err(), "{end:?}");
    }

    async fn asks(&mut self, request: Value) -> Value {
        self.send(&request.to_string()).await;
        self.hears().await
    }
}

#[tokio::test]
async fn filters_come_and_go() {
    let server = Server::start().await;
    let mut socket = Socket::open(&server).await;
    assert_eq!(socket.asks(json!({ "subscribe": ["a/#", "b"] })).await, json!({ "subscribed": ["a/#", "b"] }));
    for topic in ["c", "a/1"] {
        assert_eq!(publish(&server, topic, topic).await.status, 200);
    }
    let heard = socket.hears().await;
    assert_eq!((&heard["message"]["topic"], &heard["message"]["payload"]), (&"a/1".into(), &"a/1".into()));
    assert_eq!(socket.asks(json!({ "unsubscribe": ["a/#"] })).await, json!({ "subscribed": ["b"] }));
    for topic in ["a/2", "b"] {
        assert_eq!(publish(&server, topic, topic).await.status, 200);
    }
    assert_eq!(socket.hears().await["message"]["topic"], "b");
}

#[tokio::test]
async fn mistakes_are_answered_and_change_nothing() {
    let tail = TailLimits { filters_max: 2, ..TailLimits::default() };
    let limits = MessageLimits { tail, ..MessageLimits::default() };
    let server = Server::of(Config::default(), Limits::default(), limits).await;
    let mut socket = Socket::open(&server).await;
    for (request, code) in [
        (json!({ "subscribe": ["a", "b#"] }), "topic_invalid"),
        (json!({ "subscribe": ["a", "b", "c"] }), "filters_full"),
        (json!({ "publish": "a" }), "request_invalid"),
        (json!("subscribe"), "request_invalid"),
    ] {
        assert_eq!(socket.asks(request).await["error"]["code"], code);
    }
    assert_eq!(socket.asks(json!({ "subscribe": [] })).await, json!({ "subscribed": [] }));
    server.get("/api/v1/subscribe").await.assert_problem(426, "websocket_needed");
}

#[tokio::test]
async fn a_stop_waits_until_sockets_are_closed() {
    let long = Duration::from_secs(600);
    let limits = Limits { close_time_max: long, stop_time_max: long, ..Limits::default() };
    let server = Server::limited(Config::default(), limits).await;
    let mut socket = Socket::open(&server).await;
    assert_eq!(socket.asks(json!({ "subscribe": ["a"] })).await, json!({ "subscribed": ["a"] }));
    server.stop.cancel();
    socket.closes(1001).await;
    assert!(!server.running.is_finished(), "the client has not answered yet");
    socket.answers_close().await;
    tokio::time::timeout(PATIENCE, server.running).await.expect("stops in time").unwrap();
}

/// It takes nothing, so it cannot even be told: at the deadline it is gone.
#[tokio::test]
async fn a_socket_that_takes_nothing_does_not_hold_a_stop_up() {
    let (long, short) = (Duration::from_secs(600), Duration::from_millis(50));
    let limits = Limits { stall_time_max: long, close_time_max: long, stop_time_max: short, ..Limits::default() };
    let server = Server::limited(Config::default(), limits).await;
    let mut socket = Socket::open(&server).await;
    assert_eq!(socket.asks(json!({ "subscribe": ["a"] })).await, json!({ "subscribed": ["a"] }));
    // More than the buffers of two sockets take, of a follower that holds 2 MiB.
    let payload = "x".repeat(500_000);
    for _ in 0..40 {
        assert_eq!(publish(&server, "a", &payload).await.status, 200);
    }
    server.stop.cancel();
    tokio::time::timeout(PATIENCE, server.running).await.expect("stops in time").unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, socket.0.read_to_end(&mut rest)).await;
    read.expect("an end in time").unwrap_or_default();
}

/// What the log retains, as the broker's folds would say.
#[derive(Debug)]
struct FromLog(Arc<dyn Log>);

#[async_trait::async_trait]
impl RetainedSource for FromLog {
    async fn page(&self, filter: &str, after: Option<&str>) -> Result<RetainedPage, Unanswered> {
        let mut found = BTreeMap::new();
        let stream = self.0.streams().remove(0);
        for partition in (0..stream.partitions).map(|index| stream.partition(index)) {
            for batch in self.0.read(partition, Position::ZERO, usize::MAX).unwrap().batches {
                for record in batch.batch.records().unwrap().iter().flatten() {
                    let message = MessageRef::parse(&record).unwrap();
                    if message.retain
                        && filter_matches(filter, message.topic)
                        && after.is_none_or(|after| *message.topic > *after)
                    {
                        let retained = Retained {
                            partition: partition.index,
                            position: batch.position(&record),
                            record: record.bytes.to_vec().into(),
                            base_timestamp_ms: batch.batch.base_timestamp_ms(),
                        };
                        found.insert(message.topic.to_owned(), retained);
                    }
                }
            }
        }
        // Two to a page.
        let next = found.keys().nth(1).filter(|_| found.len() > 2).cloned();
        Ok(RetainedPage { messages: found.into_values().take(2).collect(), next })
    }
}

#[tokio::test]
async fn retained_messages_of_new_filters_come_first() {
    let limits = (Limits::default(), MessageLimits::default());
    let with_source = |api: &mut Api, log| api.retained = Some(Arc::new(FromLog(log)));
    let server = Server::changed(Config::default(), limits.0, limits.1, with_source).await;
    for n in 0..5 {
        assert_eq!(publish(&server, &format!("state/{n}?retain=true"), &n.to_string()).await.status, 200);
    }
    assert_eq!(publish(&server, "state/not", "not retained").await.status, 200);
    assert_eq!(publish(&server, "other?retain=true", "other").await.status, 200);
    let mut socket = Socket::open(&server).await;
    socket.send(&json!({ "subscribe": ["state/#"] }).to_string()).await;
    // It follows from its answer on, and the retained ones were asked for before this is committed.
    assert_eq!(socket.hears().await, json!({ "subscribed": ["state/#"] }));
    assert_eq!(publish(&server, "state/live", "live").await.status, 200);
    for n in 0..5 {
        let heard = socket.hears().await;
        assert_eq!((&heard["message"]["payload"], &heard["message"]["retain"]), (&n.to_string().into(), &true.into()));
    }
    assert_eq!(socket.hears().await["message"]["payload"], "live");
    // One that is followed already has none, a new one has its own.
    socket.send(&json!({ "subscribe": ["state/#", "other"] }).to_string()).await;
    assert_eq!(socket.hears().await, json!({ "subscribed": ["other", "state/#"] }));
    assert_eq!(socket.hears().await["message"]["payload"], "other");
    assert_eq!(publish(&server, "state/live", "end").await.status, 200);
    assert_eq!(socket.hears().await["message"]["payload"], "end");
}

#[tokio::test]
async fn sockets_are_closed_when_who_follows_may_not_any_more() {
    let limits = Limits { caller_check_every: Duration::from_millis(10), ..Limits::default() };
    let server = Server::limited(Config::default(), limits).await;
    let mut nobody = Socket::open(&server).await;
    assert_eq!(nobody.asks(json!({ "subscribe": ["a"] })).await, json!({ "subscribed": ["a"] }));
    let setup = server.registry.setup_token().unwrap();
    let anna = server.registry.setup(setup.reveal(), "anna", "correct horse battery").await.unwrap();
    // §7.4.1: 1008, against the policy. From the first user on, nobody is nobody.
    nobody.closes(1008).await;
    nobody.answers_close().await;

    let (token, secret) = server.registry.add_token(&anna, "t", Role::Viewer, None).await.unwrap();
    let editor = server.registry.add_token(&anna, "e", Role::Editor, None).await.unwrap().1;
    let header = |secret: &str| format!("Authorization: Bearer {secret}\r\n");
    let mut kept = Socket::open_with(&server, &header(editor.reveal())).await;
    let mut removed = Socket::open_with(&server, &header(secret.reveal())).await;
    for socket in [&mut kept, &mut removed] {
        assert_eq!(socket.asks(json!({ "subscribe": ["a"] })).await, json!({ "subscribed": ["a"] }));
    }
    server.registry.remove_token(&anna, &token.id).await.unwrap();
    removed.closes(1008).await;
    removed.answers_close().await;
    // Somebody who may is not disturbed.
    let answer = server.request("POST", "/api/v1/topics/a", &header(editor.reveal()), "1").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(kept.hears().await["message"]["payload"], "1");
}

#[tokio::test]
async fn foreign_pages_open_no_socket() {
    let server = Server::start().await;
    let head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://evil.example\r\n";
    let request = format!("GET /api/v1/subscribe HTTP/1.1\r\nHost: {}\r\n{head}\r\n", server.address);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
}
