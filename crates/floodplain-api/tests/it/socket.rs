//! `GET /api/v1/subscribe`, by a WebSocket client of a few lines (RFC 6455).

use crate::{client::Server, events::PATIENCE, topics::publish};
use floodplain_api::{Limits, MessageLimits, TailLimits};
use floodplain_sql::Config;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

struct Socket(TcpStream);

impl Socket {
    async fn open(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "GET /api/v1/subscribe HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
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
async fn sockets_are_closed_when_the_server_stops() {
    let server = Server::start().await;
    let mut socket = Socket::open(&server).await;
    assert_eq!(socket.asks(json!({ "subscribe": ["a"] })).await, json!({ "subscribed": ["a"] }));
    server.stop.cancel();
    let (opcode, content) = socket.frame().await;
    // §7.4.1: 1001, going away.
    assert_eq!((opcode, &content[..2]), (8, &1001_u16.to_be_bytes()[..]));
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
