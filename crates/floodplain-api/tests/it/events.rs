//! A reader of server-sent events.

use crate::client::Server;
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Events {
    reader: BufReader<TcpStream>,
}

impl Events {
    /// Asks for `path` and waits until the server has begun.
    pub(crate) async fn open(server: &Server, path: &str) -> Self {
        Self::open_with(server, path, "").await
    }

    /// With headers that end in CR LF each.
    pub(crate) async fn open_with(server: &Server, path: &str, headers: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Else a system that is generous takes all that a slow reader does not.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", server.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self { reader: BufReader::new(stream) };
        assert!(events.line().await.unwrap().starts_with("HTTP/1.1 200"));
        let mut is_stream = false;
        loop {
            let line = events.line().await.unwrap();
            is_stream |= line.eq_ignore_ascii_case("content-type: text/event-stream");
            if line.is_empty() {
                break;
            }
        }
        assert!(is_stream);
        events
    }

    /// The next line without its end; `None` at the end of the connection.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.reader.read_line(&mut line)).await;
        let count = read.expect("a line in time").unwrap_or(0);
        (count > 0).then(|| line.trim_end().to_owned())
    }

    /// Waits for the comment with which the server says that it follows.
    pub(crate) async fn follows(&mut self) {
        while self.line().await.expect("a stream that goes on") != ": follows" {}
    }

    /// Name and data of the next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        let mut name = "message".to_owned();
        loop {
            // Lengths of chunks and comments are passed over.
            let line = self.line().await?;
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    /// The next event, which is a message; its topic and payload.
    pub(crate) async fn message(&mut self) -> (String, String) {
        let (name, data) = self.next().await.expect("a stream that goes on");
        assert_eq!(name, "message", "{data}");
        let text = |member: &str| data[member].as_str().unwrap().to_owned();
        (text("topic"), text("payload"))
    }
}
