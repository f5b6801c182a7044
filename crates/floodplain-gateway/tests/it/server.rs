//! A gateway on a log in a temporary folder that is as hard to use as its contract allows, and a client that speaks in bytes.
#![allow(clippy::unwrap_used)]

use floodplain_broker::{BrokerConfig, seams::Access};
use floodplain_fold::Folder;
use floodplain_gateway::{Gateway, GatewayConfig, Run};
use floodplain_log::{AllSlots, Disk, Embedded, EmbeddedConfig, Log, OsDisk};
use floodplain_testkit::{AdverseLog, Adversity};
use floodplain_types::SystemClock;
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// Long enough for a loaded machine, short enough for a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) log: Arc<Embedded>,
    gateway: Gateway,
    dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), 2)
    }

    pub(crate) fn start_in(dir: TempDir, threads: usize) -> Self {
        Self::start_with(dir, threads, BrokerConfig::default())
    }

    pub(crate) fn start_with(dir: TempDir, threads: usize, broker: BrokerConfig) -> Self {
        Self::start_of(dir, threads, broker, Access::open_loopback())
    }

    pub(crate) fn start_of(dir: TempDir, threads: usize, broker: BrokerConfig, access: Access) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let clock = Arc::new(SystemClock);
        let config = EmbeddedConfig::new(dir.path().join("log"));
        let (log, _) = Embedded::open(disk.clone(), clock.clone(), config).unwrap();
        let config = GatewayConfig { mqtt_address: ([127, 0, 0, 1], 0).into(), threads, broker };
        // Offsets that no record has, and everything late, each in its own time.
        static SERVERS: AtomicU64 = AtomicU64::new(1);
        let seed = SERVERS.fetch_add(1, Ordering::Relaxed);
        println!("this server's log has the seed {seed}");
        let shared: Arc<dyn Log> = AdverseLog::start(log.clone(), Adversity::MILD, seed);
        let owners = Arc::new(AllSlots::new(shared.clone(), 1));
        let snapshots = Arc::new(Folder::new(disk, dir.path()));
        let gateway = Gateway::start(&config, access, shared, owners, snapshots, Run::new(&*clock), clock).unwrap();
        Self { address: gateway.mqtt_address(), log, gateway, dir }
    }

    /// Stops in order and starts again on the same data.
    pub(crate) fn restart(self) -> Self {
        let Self { log, gateway, dir, .. } = self;
        gateway.stop().unwrap();
        drop(gateway);
        log.close();
        drop(log);
        Self::start_in(dir, 2)
    }

    pub(crate) fn stop(&self) {
        self.gateway.stop().unwrap();
    }

    pub(crate) fn raw(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream }
    }

    /// A 3.1.1 client with a clean session.
    pub(crate) fn v3(&self, id: &str) -> Client {
        let mut client = self.raw();
        client.send(&connect(4, 2, 60, &[], id));
        client.expect(b"\x20\x02\x00\x00");
        client
    }

    /// A 5.0 client with a clean start and these CONNECT properties.
    pub(crate) fn v5(&self, id: &str, properties: &[u8]) -> Client {
        let mut client = self.raw();
        client.send(&connect(5, 2, 60, properties, id));
        let connack = client.packet();
        assert_eq!(&connack[..1], b"\x20");
        assert_eq!(connack[2..4], [0, 0], "{connack:?}");
        client
    }
}

/// CONNECT without will and credentials. `properties` are for level 5 only.
pub(crate) fn connect(level: u8, flags: u8, keep_alive: u16, properties: &[u8], id: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT".to_vec();
    body.extend([level, flags]);
    body.extend(keep_alive.to_be_bytes());
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(text(id));
    packet(0x10, &body)
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A packet with this first byte and body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut len = body.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(body);
    out
}

pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads exactly as many bytes as expected, and compares.
    pub(crate) fn expect(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        let mut len = 0;
        while len < got.len() {
            match self.stream.read(&mut got[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(error) => panic!("expected {expected:02x?}, got {:02x?}, then {error}", &got[..len]),
            }
        }
        assert_eq!(got[..len], *expected, "got {:02x?}, expected {expected:02x?}", &got[..len]);
    }

    /// Reads one whole packet.
    pub(crate) fn packet(&mut self) -> Vec<u8> {
        let mut out = vec![0; 2];
        self.stream.read_exact(&mut out).unwrap();
        let mut len = usize::from(out[1] & 0x7f);
        let mut shift = 7;
        while out.last().unwrap() & 0x80 != 0 {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            out.push(byte[0]);
            len |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
        }
        let head = out.len();
        out.resize(head + len, 0);
        self.stream.read_exact(&mut out[head..]).unwrap();
        out
    }

    /// The server closes without another byte.
    pub(crate) fn expect_close(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{rest:02x?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }

    /// The server has handled all that was sent. Skips what it had to say meanwhile.
    pub(crate) fn expect_pong(&mut self) {
        self.send(b"\xc0\x00");
        while self.packet() != b"\xd0\x00" {}
    }

    /// Nothing was sent before the answer to a PINGREQ.
    pub(crate) fn expect_silence(&mut self) {
        self.send(b"\xc0\x00");
        self.expect(b"\xd0\x00");
    }
}
