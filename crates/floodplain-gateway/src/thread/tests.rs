//! What a thread loses of its connections is counted, and what is wrong with one of them is not wrong with all.

use super::*;
use floodplain_broker::{Broker, BrokerConfig, Environment, seams::Access};
use floodplain_fold::Folder;
use floodplain_log::AllSlots;
use floodplain_testkit::{Counts, FaultDisk, ModelLog};
use floodplain_types::SystemClock;
use std::{collections::BTreeSet, net::SocketAddr, os::fd::OwnedFd, path::Path};

const GUIDE: &str = include_str!("../../../../docs/guides/running.md");

/// The counters of the guide that are the gateway's.
fn documented() -> BTreeSet<String> {
    floodplain_testkit::documented(GUIDE, "floodplain_gateway_")
}

/// Those of them that are not zero.
fn counted(counts: &Counts) -> Vec<(String, u64)> {
    let all = counts.of("floodplain_gateway_");
    all.into_iter().filter(|(name, _)| documented().contains(name)).collect()
}

const HALF_OPEN_MAX: usize = 20;

/// A thread that runs in the test, the first of two.
struct World {
    thread: Thread,
    address: SocketAddr,
    counts: Counts,
    clients: Vec<StdStream>,
}

impl World {
    async fn new() -> Self {
        let counts = Counts::default();
        let clock = Arc::new(SystemClock);
        let config = BrokerConfig { partitions: 2, half_open_max: HALF_OPEN_MAX, ..BrokerConfig::default() };
        let log = Arc::new(ModelLog::new(clock.clone()));
        let environment = Environment {
            access: Access::open_loopback(),
            owners: Arc::new(AllSlots::new(log.clone(), 1)),
            log,
            snapshots: Arc::new(Folder::new(Arc::new(FaultDisk::new(1)), Path::new("/data"))),
            clock,
            run: 1,
            previous_runs: Vec::new(),
        };
        let peers: Vec<(Inbox, Arc<Doorbell>)> = (0..2).map(|_| Default::default()).collect();
        let (inbox, bell) = peers[0].clone();
        let mut thread = metrics::with_local_recorder(&counts, || {
            let worker = Broker::open(config, environment, 2).unwrap().worker(0).unwrap();
            Thread::new(worker, bell, inbox, peers, Metrics::new())
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        thread.listener = Some(listener);
        Self { thread, address, counts, clients: Vec::new() }
    }

    fn client(&mut self, bytes: &[u8]) {
        let mut client = StdStream::connect(self.address).unwrap();
        client.write_all(bytes).unwrap();
        self.clients.push(client);
    }

    /// Takes turns until then.
    async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let turns = std::future::poll_fn(|cx| {
            let is_stopped = self.thread.poll_turn(cx).is_ready();
            if is_stopped || done(self) { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(Duration::from_secs(20), turns).await.unwrap();
    }
}

/// What no CONNECT begins with.
const GARBAGE: &[u8] = &[0xc0, 0, 0xc0, 0, 0xc0, 0, 0xc0, 0];

async fn half_open(world: &mut World) {
    (0..=HALF_OPEN_MAX).for_each(|_| world.client(b""));
    world.until(|world| !counted(&world.counts).is_empty()).await;
}

/// A socket that does not listen.
async fn failed_accepts(world: &mut World) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    world.thread.listener = Some(TcpListener::from_std(socket.into()).unwrap());
    world.until(|world| !counted(&world.counts).is_empty()).await;
}

async fn linger_full(world: &mut World) {
    world.thread.lingering_max = 2;
    (0..3).for_each(|_| world.client(GARBAGE));
    world.until(|world| !counted(&world.counts).is_empty()).await;
    assert_eq!(world.thread.lingering.len(), 2);
}

/// Those that wait for their clients go when there are no files left.
async fn linger_spared(world: &mut World) {
    (0..2).for_each(|_| world.client(GARBAGE));
    world.until(|world| world.thread.lingering.len() == 2).await;
    failed_accepts(world).await;
    assert_eq!(world.thread.lingering.len(), 0);
}

async fn unread_input(world: &mut World) {
    world.thread.farewell_bytes_max = 0;
    world.thread.scratch = vec![0; 2].into();
    world.client(GARBAGE);
    world.until(|world| !counted(&world.counts).is_empty()).await;
    assert_eq!(world.thread.lingering.len(), 0);
}

/// One that belongs to the other thread comes back as something that is no socket.
async fn not_moved(world: &mut World) {
    for id in b'a'..=b'h' {
        world.client(&[&b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01"[..], &[id]].concat());
    }
    world.until(|world| !world.thread.peers[1].0.lock().unwrap().is_empty()).await;
    let Moving { handoff, .. } = world.thread.peers[1].0.lock().unwrap().pop().unwrap();
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let stream = StdStream::from(OwnedFd::from(file));
    world.thread.inbox.lock().unwrap().push(Moving { stream, handoff });
    world.until(|world| !counted(&world.counts).is_empty()).await;
}

async fn check(missing: &mut BTreeSet<String>, scenario: impl AsyncFnOnce(&mut World), expected: &[(&str, u64)]) {
    let mut world = World::new().await;
    scenario(&mut world).await;
    let counted = counted(&world.counts);
    missing.retain(|name| !counted.iter().any(|(counted, _)| counted == name));
    let expected = expected.iter().map(|(name, count)| (format!("floodplain_gateway_{name}"), *count));
    assert_eq!(counted, expected.collect::<Vec<_>>());
}

#[test]
fn connections_that_are_refused_and_dropped_are_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut missing = documented();
    let missing = &mut missing;
    runtime.block_on(async {
        check(missing, half_open, &[("refused_connections_total half_open", 1)]).await;
        check(missing, failed_accepts, &[("failed_accepts_total", 1)]).await;
        check(missing, linger_full, &[("dropped_connections_total linger_full", 1)]).await;
        let spared = &[("dropped_connections_total linger_full", 2), ("failed_accepts_total", 1)];
        check(missing, linger_spared, spared).await;
        check(missing, unread_input, &[("dropped_connections_total unread_input", 1)]).await;
        check(missing, not_moved, &[("dropped_connections_total not_moved", 1)]).await;
    });
    assert!(missing.is_empty(), "{missing:?} were never seen above 0");
}

/// What a turn has to say to a client is one write, however many packets it is.
#[test]
fn the_answers_of_a_turn_are_written_at_once() {
    const PINGS: usize = 100;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        // One after another, until one belongs to this thread.
        for id in b'a'..=b'h' {
            world.client(&[&b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01"[..], &[id]].concat());
            let moved = |world: &World| world.thread.peers[1].0.lock().unwrap().len();
            let before = moved(&world);
            world.until(|world| world.thread.writes > 0 || moved(world) > before).await;
            if world.thread.writes > 0 {
                break;
            }
        }
        let mut client = world.clients.pop().unwrap();
        let mut connack = [0; 4];
        client.read_exact(&mut connack).unwrap();
        assert_eq!((connack, world.thread.writes), ([0x20, 2, 0, 0], 1));
        client.write_all(&[0xc0, 0].repeat(PINGS)).unwrap();
        world.until(|world| world.thread.writes > 1).await;
        let mut answers = vec![0; 3 * PINGS];
        assert_eq!(client.read(&mut answers).unwrap(), 2 * PINGS);
        assert_eq!(answers[..2 * PINGS], [0xd0, 0].repeat(PINGS));
        assert_eq!(world.thread.writes, 2);
    });
}

/// 10,000 clients that are gone before they are accepted must not cost 100 ms each; a full table of files must.
#[test]
fn only_what_lasts_makes_accepting_wait() {
    for (name, code, is_of_one) in [
        ("ECONNABORTED", 103, true),
        ("ECONNRESET", 104, true),
        ("EPROTO", 71, true),
        ("EINTR", 4, true),
        ("ENETDOWN", 100, true),
        ("EHOSTUNREACH", 113, true),
        ("EMFILE", 24, false),
        ("ENFILE", 23, false),
        ("ENOMEM", 12, false),
        ("ENOBUFS", 105, false),
        ("EBADF", 9, false),
    ] {
        assert_eq!(is_of_one_connection(&io::Error::from_raw_os_error(code)), is_of_one, "{name}");
    }
}
