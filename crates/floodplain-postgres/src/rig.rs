//! A server over a database that is made up, and a client that sends what it likes.

use crate::{Database, Demand, Described, Entrance, Login, QueryError, Refused, Rows, serve};
use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use floodplain_types::{Parameter, ScramVerifier};
use futures::{StreamExt as _, stream};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `is_so`.
pub(crate) async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Knows the statements `three` (rows), `endless`, `changing`, `bare`, `panic`; all others write.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Queries whose rows somebody still holds.
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) has_changed: AtomicBool,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn numbers(name: &str) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, true)]))
}

fn writes(text: &str) -> QueryError {
    QueryError { sqlstate: "25006", message: format!("{} writes", text.trim()), position: Some(1) }
}

impl Made {
    fn schema(&self, text: &str, has_values: bool) -> Result<SchemaRef, QueryError> {
        match text.trim() {
            "panic" => panic!("a defect of the test's making"),
            "three" | "endless" => Ok(numbers("n")),
            "changing" if self.has_changed.load(Ordering::SeqCst) => {
                Ok(Arc::new(Schema::new(vec![Field::new("n", DataType::Utf8, true)])))
            }
            "changing" => Ok(numbers("n")),
            "bare" if has_values => Ok(numbers("Int64(1)")),
            "bare" => Ok(Arc::new(Schema::new(vec![Field::new("$1", DataType::Utf8, true)]))),
            other => Err(writes(other)),
        }
    }
}

#[async_trait::async_trait]
impl Database for Made {
    fn server_version(&self) -> String {
        "16.6".to_owned()
    }

    async fn describe(&self, _: &str, text: &str, _: &[Option<DataType>]) -> Result<Described, QueryError> {
        let parameters = if text.trim() == "bare" { vec![None] } else { Vec::new() };
        Ok(Described { parameters, schema: self.schema(text, false)? })
    }

    async fn query(&self, _: &str, text: &str, _: Vec<Parameter>) -> Result<Rows, QueryError> {
        let schema = self.schema(text, true)?;
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        let array: ArrayRef = match schema.field(0).data_type() {
            DataType::Utf8 => Arc::new(StringArray::from(vec!["1", "2", "3"])),
            _ => Arc::new(Int64Array::from(vec![1, 2, 3])),
        };
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![array]).unwrap();
        let batches = stream::repeat(batch).map(move |batch| {
            let _held = &open;
            Ok(batch)
        });
        let batches = if text.trim() == "endless" { batches.boxed() } else { batches.take(1).boxed() };
        Ok(Rows { schema, batches })
    }
}

/// Lets everybody in until it is claimed.
#[derive(Debug, Default)]
pub(crate) struct Door {
    pub(crate) is_claimed: AtomicBool,
    pub(crate) epoch: AtomicU64,
}

#[async_trait::async_trait]
impl Login for Door {
    fn allowed(&self, _: &str, _: SocketAddr) -> Result<(), Refused> {
        Ok(())
    }

    async fn demand(&self, _: &str, _: SocketAddr) -> Result<Demand, Refused> {
        if self.is_claimed.load(Ordering::SeqCst) {
            let verifier = ScramVerifier { salt: vec![1], iterations: 4096, stored_key: [2; 32], server_key: [3; 32] };
            return Ok(Demand::Scram(verifier));
        }
        Ok(Demand::Trust)
    }

    async fn ended(&self, _: &str, _: SocketAddr, _: bool) {}

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }
}

pub(crate) struct Rig {
    pub(crate) made: Arc<Made>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(Arc::new(Door::default())).await
    }

    pub(crate) async fn with(login: Arc<dyn Login>) -> Self {
        let (made, stop) = (Arc::new(Made::default()), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let entrance = Entrance { login, tls: None };
        let serving = tokio::spawn(serve(listener, made.clone(), entrance, stop.clone()));
        Self { made, address, stop, serving }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.serving).await.expect("all connections end").unwrap();
    }
}

/// A message: its kind and its body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

pub(crate) fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// Without parameters, or with these texts.
pub(crate) fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

pub(crate) fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), &[0], &max_rows.to_be_bytes()].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
    /// Process and secret, for a cancel request.
    pub(crate) key: Vec<u8>,
}

impl Client {
    /// Comes in as `anna`.
    pub(crate) async fn new(address: SocketAddr) -> Self {
        let stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let mut client = Self { stream, key: Vec::new() };
        client.stream.write_all(b"\0\0\0\x13\0\x03\0\0user\0anna\0\0").await.unwrap();
        loop {
            match client.receive().await.expect("it comes in") {
                (b'K', key) => client.key = key,
                (b'Z', _) => return client,
                (b'E', body) => panic!("{}", String::from_utf8_lossy(&body)),
                _ => {}
            }
        }
    }

    /// `None` at the end.
    pub(crate) async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let received = async {
            let kind = self.stream.read_u8().await?;
            let mut body = vec![0; self.stream.read_u32().await? as usize - 4];
            self.stream.read_exact(&mut body).await?;
            std::io::Result::Ok((kind, body))
        };
        timeout(PATIENCE, received).await.expect("an answer or the end").ok()
    }

    /// What comes until the server is ready or closes, as `T DDD C Z` without spaces, and SQLSTATE and text of an error.
    pub(crate) async fn answers(&mut self) -> (String, String) {
        let (mut kinds, mut error) = (String::new(), String::new());
        while let Some((kind, body)) = self.receive().await {
            kinds.push(kind.into());
            if kind == b'E' {
                let fields = body.split(|byte| *byte == 0).filter_map(|field| field.split_first());
                let shown = fields.filter(|(name, _)| b"CMP".contains(name));
                let shown = shown.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
                error = shown.collect::<Vec<_>>().join(" ");
            }
            if kind == b'Z' {
                break;
            }
        }
        (kinds, error)
    }

    pub(crate) async fn ask(&mut self, messages: &[Vec<u8>]) -> (String, String) {
        self.stream.write_all(&messages.concat()).await.unwrap();
        self.answers().await
    }
}
