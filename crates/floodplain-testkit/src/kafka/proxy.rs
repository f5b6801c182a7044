//! What stands between clients and a broker, and can stand in their way.

use super::error::{Error, Result};
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

const BUFFER_BYTES: usize = 64 << 10;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// They go through.
    Open,
    /// Those of clients go through, those of the broker are lost.
    Mute,
    /// There are no connections; new ones are closed at once.
    Cut,
    /// As [`Self::Open`], until a client makes a request with this number of an API: the broker hears it, and from then
    /// on it is [`Self::Mute`].
    MuteAt(i16),
    /// As [`Self::Open`], until a client makes such a request: the broker does not hear it, and from then on it is
    /// [`Self::Cut`].
    CutAt(i16),
    /// The proxy ends.
    Closed,
}

/// A listener of which every connection goes on to one broker.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Shared by the proxy, the thread that accepts, and two threads for each connection.
#[derive(Debug)]
struct Shared {
    broker: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// Both sockets of each connection, by its number.
    open: Vec<(u64, TcpStream, TcpStream)>,
    next: u64,
}

impl Proxy {
    /// Listens on a free port for the broker that listens on `port`.
    pub(super) fn start(port: u16) -> Result<Self> {
        let failed = || Error::what("start a proxy");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        let state = State { way: Way::Open, open: Vec::new(), next: 0 };
        let shared = Arc::new(Shared { broker: (Ipv4Addr::LOCALHOST, port).into(), state: Mutex::new(state) });
        let theirs = Arc::clone(&shared);
        spawn(move || accept(&listener, &theirs)).map_err(failed())?;
        Ok(Self { address, shared })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the way of bytes; what is just being written still goes the old one. Where bytes were lost, or will be,
    /// connections end.
    pub(super) fn set(&self, way: Way) {
        self.shared.state().set(way);
    }

    /// Whether it waits for a request.
    pub(super) fn waits(&self) -> bool {
        matches!(self.shared.state().way, Way::MuteAt(_) | Way::CutAt(_))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Way::Closed);
        // Wakes the thread that accepts, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn set(&mut self, way: Way) {
        if self.way == Way::Mute || matches!(way, Way::Cut | Way::Closed) {
            for (_, client, broker) in self.open.drain(..) {
                drop((client.shutdown(Shutdown::Both), broker.shutdown(Shutdown::Both)));
            }
        }
        self.way = way;
    }

    /// A client makes requests with these numbers; whether the broker hears them.
    fn hear(&mut self, requests: &[i16]) -> bool {
        match self.way {
            Way::MuteAt(api) if requests.contains(&api) => self.set(Way::Mute),
            Way::CutAt(api) if requests.contains(&api) => {
                self.set(Way::Cut);
                return false;
            }
            _ => {}
        }
        true
    }
}

/// Where the requests of a connection begin: each has its length before it, and the number of its API at its start.
#[derive(Debug, Default)]
struct Requests {
    /// What is known of length and number of the next one.
    head: Vec<u8>,
    /// Bytes of the last one that are still to come.
    left: usize,
}

impl Requests {
    /// The numbers of all requests of which the beginning ends in `bytes`.
    fn take(&mut self, mut bytes: &[u8]) -> Vec<i16> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let (head, rest) = bytes.split_at(bytes.len().min(6 - self.head.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if let [a, b, c, d, e, f] = self.head[..] {
                found.push(i16::from_be_bytes([e, f]));
                self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(2);
                self.head.clear();
            }
        }
        found
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("kafka-proxy".to_owned()).stack_size(128 << 10).spawn(run).map(drop)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.state().way == Way::Closed {
            return;
        }
        // A client whose connection fails comes again.
        drop(client.and_then(|client| connect(client, shared)));
    }
}

fn connect(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    if shared.state().way == Way::Cut {
        return Ok(());
    }
    // A broker on loopback accepts or refuses at once; the kernel accepts for one that is frozen.
    let broker = TcpStream::connect(shared.broker)?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (from_client, to_broker) = (client.try_clone()?, broker.try_clone()?);
    let (from_broker, to_client) = (broker.try_clone()?, client.try_clone()?);
    let number = {
        let mut state = shared.state();
        if matches!(state.way, Way::Cut | Way::Closed) {
            return Ok(());
        }
        state.next += 1;
        let number = state.next;
        state.open.push((number, client, broker));
        number
    };
    let (there, back) = (Arc::clone(shared), Arc::clone(shared));
    spawn(move || pump(&there, number, from_client, to_broker, false))?;
    spawn(move || pump(&back, number, from_broker, to_client, true))
}

/// Moves bytes until one side ends, then ends both.
fn pump(shared: &Shared, number: u64, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut requests = Requests::default();
    while let Ok(length) = from.read(&mut buffer)
        && length > 0
    {
        if is_answer && shared.state().way == Way::Mute {
            continue;
        }
        if !is_answer && !shared.state().hear(&requests.take(&buffer[..length])) {
            break;
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    shared.state().open.retain(|(open, ..)| *open != number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Says back what it hears, as long as somebody speaks.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                thread::spawn(move || io::copy(&mut socket.try_clone().unwrap(), &mut socket));
            }
        });
        port
    }

    fn client(proxy: &Proxy) -> TcpStream {
        let client = TcpStream::connect(proxy.address()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client
    }

    fn is_echoed(client: &mut TcpStream) -> bool {
        let mut answer = [0; 5];
        client.write_all(b"water").and_then(|()| client.read_exact(&mut answer)).is_ok() && &answer == b"water"
    }

    /// The end of a connection, by whatever way it is told.
    fn has_ended(client: &mut TcpStream) -> bool {
        match client.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    #[test]
    fn a_cut_ends_connections_and_lets_none_in_until_it_is_healed() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut before = client(&proxy);
        assert!(is_echoed(&mut before) && is_echoed(&mut before));
        proxy.set(Way::Cut);
        assert!(has_ended(&mut before));
        assert!(has_ended(&mut client(&proxy)));
        proxy.set(Way::Open);
        assert!(is_echoed(&mut client(&proxy)));
        assert!(!is_echoed(&mut before));
    }

    #[test]
    fn what_a_mute_broker_answers_is_lost_with_its_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().port()).unwrap();
        let mut client = client(&proxy);
        client.write_all(b"one").unwrap();
        let (mut broker, _) = listener.accept().unwrap();
        let mut heard = [0; 3];
        broker.read_exact(&mut heard).unwrap();
        broker.write_all(b"1").unwrap();
        client.read_exact(&mut heard[..1]).unwrap();
        assert_eq!(heard[0], b'1');
        proxy.set(Way::Mute);
        // The broker hears, and answers; of its answer nothing comes, but the end.
        client.write_all(b"two").unwrap();
        broker.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"two");
        broker.write_all(b"2").unwrap();
        proxy.set(Way::Open);
        assert!(has_ended(&mut client));
    }

    #[test]
    fn requests_are_found_however_they_are_cut() {
        let request = |api: i16, body: usize| {
            let length = (2 + body as u32).to_be_bytes();
            [&length[..], &api.to_be_bytes(), &vec![9; body]].concat()
        };
        let bytes = [request(18, 0), request(26, 300), request(0, 1)].concat();
        for size in 1..bytes.len() {
            let mut requests = Requests::default();
            let found: Vec<i16> = bytes.chunks(size).flat_map(|chunk| requests.take(chunk)).collect();
            assert_eq!(found, [18, 26, 0], "pieces of {size}");
        }
    }

    #[test]
    fn a_request_springs_the_trap() {
        let proxy = Proxy::start(echo()).unwrap();
        let request = [0, 0, 0, 3, 0, 26, 7];
        let other = [0, 0, 0, 3, 0, 25, 7];
        let echoed = |client: &mut TcpStream, request: &[u8]| {
            let mut answer = vec![0; request.len()];
            client.write_all(request).and_then(|()| client.read_exact(&mut answer)).is_ok()
        };
        for way in [Way::MuteAt(26), Way::CutAt(26)] {
            let mut client = client(&proxy);
            proxy.set(way);
            assert!(echoed(&mut client, &other) && proxy.waits(), "{way:?}");
            client.write_all(&request).unwrap();
            crate::wait_until("it is heard", &|| (), || !proxy.waits());
            proxy.set(Way::Open);
            assert!(has_ended(&mut client), "{way:?}");
            assert!(echoed(&mut another(&proxy), &request));
        }
    }

    fn another(proxy: &Proxy) -> TcpStream {
        client(proxy)
    }

    #[test]
    fn the_port_is_free_when_the_proxy_is_gone() {
        let proxy = Proxy::start(echo()).unwrap();
        let address = proxy.address();
        let mut client = client(&proxy);
        assert!(is_echoed(&mut client));
        drop(proxy);
        assert!(has_ended(&mut client));
        crate::wait_until("nobody listens", &|| (), || TcpStream::connect(address).is_err());
    }
}
