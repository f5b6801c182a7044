use super::*;
use crate::{Demand, Login, Refused, TlsError, login::Startup};
use async_trait::async_trait;
use floodplain_types::ScramVerifier;
use futures::Sink;
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, ConnectionManager,
        auth::{DefaultServerParameterProvider, StartupHandler},
        query::SimpleQueryHandler,
        results::{Response, Tag},
    },
    error::{PgWireError, PgWireResult},
};
use std::{
    fmt::Debug,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

const PATIENCE: Duration = Duration::from_secs(60);

/// SSLRequest, and a startup message of protocol 3.0 with user "anna".
const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const STARTUP: &[u8] = b"\0\0\0\x13\0\x03\0\0user\0anna\0\0";

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}

/// Of the password "pencil", with the salt of RFC 7677 §3.
fn pencil() -> ScramVerifier {
    ScramVerifier {
        salt: bytes::<16>("5b6d99689d12358eeca04b141236fa81").to_vec(),
        iterations: 4096,
        stored_key: bytes("586e5df283e6dceb5c3e791d8b8528ec191e664045ce971792e2e6b5bb13e2a6"),
        server_key: bytes("c1f3cbc1c13a9d35a14c0990eed97629ea225863e566a4314ab99f3f00e5d9d5"),
    }
}

/// `anna` needs nothing, `bert` is refused, all others have the password "pencil".
#[derive(Debug, Default)]
struct People {
    ended: Mutex<Vec<(String, bool)>>,
    /// Too many have failed.
    is_slow: AtomicBool,
}

#[async_trait]
impl Login for People {
    fn allowed(&self, _: &str, _: SocketAddr) -> Result<(), Refused> {
        match self.is_slow.load(Ordering::SeqCst) {
            true => Err(Refused { sqlstate: "28000", message: "too many failed".to_owned() }),
            false => Ok(()),
        }
    }

    async fn demand(&self, user: &str, peer: SocketAddr) -> Result<Demand, Refused> {
        assert!(peer.ip().is_loopback());
        match user {
            "anna" => Ok(Demand::Trust),
            "bert" => Err(Refused { sqlstate: "28000", message: "wait for 3 s".to_owned() }),
            _ => Ok(Demand::Scram(pencil())),
        }
    }

    async fn ended(&self, user: &str, _: SocketAddr, succeeded: bool) {
        self.ended.lock().unwrap().push((user.to_owned(), succeeded));
    }

    fn epoch(&self) -> u64 {
        0
    }
}

/// Answers each query with its text as the tag.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl SimpleQueryHandler for Echo {
    async fn do_query<C>(&self, _: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Ok(vec![Response::Execution(Tag::new(query))])
    }
}

struct Handlers(Arc<Startup<DefaultServerParameterProvider>>);

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::new(Echo)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.0)
    }
}

/// Serves one connection.
struct Server {
    people: Arc<People>,
    address: SocketAddr,
    ended: JoinHandle<io::Result<()>>,
}

impl Server {
    async fn start(tls: Option<Tls>, login_time_max: Duration) -> Self {
        let people = Arc::new(People::default());
        let certificate = tls.as_ref().map(|tls| &tls.certificate_pem[..]);
        let (login, connections) = (Arc::clone(&people), Arc::new(ConnectionManager::new()));
        let startup = Startup::new(login, DefaultServerParameterProvider::default(), connections, certificate);
        let handlers = Handlers(Arc::new(startup));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ended = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            serve(stream, tls.as_ref(), handlers, login_time_max).await
        });
        Self { people, address, ended }
    }

    /// What psql makes of it, with `settings` of libpq.
    async fn psql(self, settings: &str) -> (Output, Vec<(String, bool)>) {
        let connection = format!(
            "hostaddr=127.0.0.1 host=localhost port={} dbname=floodplain gssencmode=disable {settings}",
            self.address.port()
        );
        let mut psql = Command::new("psql");
        psql.args(["-X", "-w", "-c", "ECHO", &connection]).env("PGPASSFILE", "/nonexistent");
        let output = tokio::task::spawn_blocking(move || psql.output().unwrap()).await.unwrap();
        // A client that refuses the certificate breaks off: what became of the socket does not matter.
        drop(self.ended.await.unwrap());
        let ended = self.people.ended.lock().unwrap().clone();
        (output, ended)
    }
}

/// A certificate of its own making for `localhost`, and its key.
fn certificate(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let openssl = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=CA:FALSE",
        ])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stderr));
    ["certificate.pem", "key.pem"].map(|name| std::fs::read(folder.join(name)).unwrap()).into()
}

#[tokio::test]
async fn psql_comes_in_or_is_told_why_not() {
    let proven = |succeeded| vec![("carl".to_owned(), succeeded)];
    for (settings, expected, ended) in [
        ("user=anna", Ok(()), vec![]),
        ("user=bert", Err("FATAL:  wait for 3 s"), vec![]),
        ("user=carl password=pencil", Ok(()), proven(true)),
        ("user=carl password=pencil2", Err("FATAL:  password authentication failed for user \"carl\""), proven(false)),
        ("user=carl", Err("no password supplied"), vec![]),
        ("user=anna sslmode=require", Err("server does not support SSL"), vec![]),
        ("user=carl password=pencil channel_binding=require", Err("channel binding"), vec![]),
    ] {
        let (output, reported) = Server::start(None, PATIENCE).await.psql(settings).await;
        check(settings, &output, expected);
        assert_eq!(reported, ended, "{settings}");
    }
}

fn check(settings: &str, output: &Output, expected: Result<(), &str>) {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    match expected {
        Ok(()) => assert!(output.status.success() && out == "ECHO\n", "{settings}: {out}{err}"),
        Err(part) => assert!(!output.status.success() && err.contains(part), "{settings}: {out}{err}"),
    }
}

#[tokio::test]
async fn psql_speaks_tls_and_binds_its_proof_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let tls = Tls::new(&certificate, &key).unwrap();
    let trusted = format!("sslrootcert={}", folder.path().join("certificate.pem").display());
    for (settings, expected) in [
        ("user=anna sslmode=require", Ok(())),
        ("user=anna sslmode=disable", Ok(())),
        ("user=anna sslmode=verify-full", Ok(())),
        ("user=carl password=pencil sslmode=verify-full channel_binding=require", Ok(())),
        ("user=carl password=pencil sslmode=verify-full channel_binding=disable", Ok(())),
        ("user=carl password=pencil sslmode=disable", Ok(())),
        ("user=carl password=wrong sslmode=verify-full channel_binding=require", Err("password authentication failed")),
    ] {
        let settings = format!("{settings} {trusted}");
        let (output, _) = Server::start(Some(tls.clone()), PATIENCE).await.psql(&settings).await;
        check(&settings, &output, expected);
    }
}

#[test]
fn what_is_no_certificate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (one, key) = certificate(folder.path());
    let (_, other_key) = certificate(folder.path());
    assert!(matches!(Tls::new(b"", &key), Err(TlsError::Certificate)));
    assert!(matches!(Tls::new(&one, &one), Err(TlsError::Key)));
    assert!(matches!(Tls::new(&one, &other_key), Err(TlsError::Unusable(_))));
    let shown = format!("{:?} {:?}", Tls::new(&one, &key).unwrap(), pencil());
    assert_eq!(shown, "Tls { .. } ScramVerifier { iterations: 4096, .. }");
}

/// CVE-2021-23214.
#[tokio::test]
async fn what_came_in_clear_before_tls_is_not_heard() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let server = Server::start(Some(Tls::new(&certificate, &key).unwrap()), PATIENCE).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[SSL_REQUEST, STARTUP].concat()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    // A server that heard it would wait for more: it finds the end instead.
    drop(stream.shutdown().await);
    let mut got = Vec::new();
    drop(stream.read_to_end(&mut got).await);
    assert_eq!(got, b"");
    assert_eq!(server.ended.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// All that the server says to `sent` before it closes.
async fn conversation(server: Server, sent: &[u8]) -> (String, io::Result<()>) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut got = Vec::new();
    let mut chunk = [0; 1024];
    // Closing with bytes unread resets the connection.
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        got.extend_from_slice(&chunk[..read]);
    }
    (String::from_utf8_lossy(&got).into_owned(), server.ended.await.unwrap())
}

#[tokio::test]
async fn nonsense_is_a_protocol_violation_and_the_end() {
    for (nonsense, place) in [
        (&b"\x01\0\0\0\x04"[..], "an unknown message"),
        (b"Q\x7f\xff\xff\xff", "a message of two gigabytes"),
        (b"Q\x01\0\0\x05", "a query of more than 16 MiB"),
        (b"S\0\0\0\x03", "a message shorter than its length"),
        (b"Q\0\0\0\x05x", "a text without an end"),
        (b"S\0\0\0\x05\0", "a Sync with a body"),
        (b"P\0\0\0\x06\0\0", "a Parse without types"),
        (b"P\0\0\0\x08\0\0\0\x01", "a Parse with fewer types than it says"),
        (b"B\0\0\0\x06\0\0", "a Bind without parameters"),
        (b"B\0\0\0\x10\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0", "a Bind with a parameter beyond its end"),
        (b"B\0\0\0\x10\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0", "a Bind with a parameter of negative length"),
        (b"B\0\0\0\x08\0\0\xff\xff", "a Bind with formats beyond its end"),
        (b"D\0\0\0\x04", "a Describe of nothing"),
        (b"C\0\0\0\x04", "a Close of nothing"),
        (b"E\0\0\0\x05\0", "an Execute without a number of rows"),
        (b"p\0\0\0\x04", "a password without a login"),
    ] {
        let server = Server::start(None, PATIENCE).await;
        let (got, ended) = conversation(server, &[STARTUP, nonsense, b"X\0\0\0\x04"].concat()).await;
        let login_is_answered = got.starts_with('R') && got.contains("server_version");
        assert!(login_is_answered, "{place}: {got:?}");
        assert!(ended.is_ok(), "{place}: {ended:?}");
        if place != "a password without a login" {
            let code = if place.contains("of two") || place.contains("more than") { "C54000\0" } else { "C08P01\0" };
            assert!(got.contains("FATAL\0") && got.contains(code), "{place}: {got:?}");
        }
    }
}

/// Startup message of "carl", who has a password.
const CARL: &[u8] = b"\0\0\0\x13\0\x03\0\0user\0carl\0\0";

#[tokio::test]
async fn nonsense_before_the_login_is_the_end_too() {
    for (nonsense, code, place) in [
        (&b"p\0\0\x40\x01"[..], "54000", "a password of more than 16 KiB"),
        (b"P\0\0\0\x06\0\0", "08P01", "a Parse without types"),
        (b"Q\0\0\0\x05\0", "08P01", "a query"),
        (b"p\0\0\0\x03", "08P01", "a password shorter than its length"),
        (b"p\0\0\0\x04", "08P01", "no SASL at all"),
        (b"p\0\0\0\x12SCRAM-SHA-256\0", "08P01", "SASL without a length"),
        (b"p\0\0\0\x16SCRAM-SHA-256\0\x7f\xff\xff\xff", "08P01", "SASL beyond its end"),
        (b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xfe", "08P01", "SASL of negative length"),
    ] {
        let server = Server::start(None, PATIENCE).await;
        let (got, ended) = conversation(server, &[CARL, nonsense].concat()).await;
        assert!(got.contains("FATAL\0") && got.contains(&format!("C{code}\0")), "{place}: {got:?}");
        assert!(ended.is_ok(), "{place}: {ended:?}");
    }
    for (nonsense, place) in
        [(&b"\0\0\x40\x01\0\x03\0\0"[..], "a long startup"), (b"\0\0\0\x07\0\x03\0\0", "a short one")]
    {
        let (got, ended) = conversation(Server::start(None, PATIENCE).await, nonsense).await;
        assert!(got.contains("FATAL\0") && ended.is_ok(), "{place}: {got:?} {ended:?}");
    }
}

/// Many connections that wait with their proofs until all have begun.
#[tokio::test]
async fn a_proof_that_comes_after_too_many_failures_is_not_looked_at() {
    let server = Server::start(None, PATIENCE).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let first = [&b"p\0\0\0\x21SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc"[..]].concat();
    stream.write_all(&[CARL, &first].concat()).await.unwrap();
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(",i=4096") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "{got:?}");
    }
    server.people.is_slow.store(true, Ordering::SeqCst);
    stream.write_all(b"p\0\0\0\x14c=biws,r=abc,p=x").await.unwrap();
    got.clear();
    drop(stream.read_to_end(&mut got).await);
    let got = String::from_utf8_lossy(&got).into_owned();
    assert!(got.contains("C28000\0") && got.contains("too many failed"), "{got}");
    assert!(server.people.ended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_does_not_log_in_is_dropped() {
    let carl = b"\0\0\0\x13\0\x03\0\0user\0carl\0\0";
    for sent in [&b""[..], SSL_REQUEST, carl] {
        let server = Server::start(None, Duration::from_millis(50)).await;
        let (_, ended) = conversation(server, sent).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
