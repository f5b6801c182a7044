//! Start and stop of all threads.

use crate::{
    Error,
    doorbell::Doorbell,
    listen,
    metrics::Metrics,
    run::Run,
    thread::{Inbox, Thread},
};
use floodplain_broker::{Broker, BrokerConfig, Environment, JOB_THREADS, Roster, seams::Access};
use floodplain_fold::Objects;
use floodplain_log::{Log, Owners};
use floodplain_types::Clock;
use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};
use tokio::net::TcpListener;

/// Where to listen, with how many threads, and the broker's limits.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Port 0 takes a free port. Only loopback addresses are allowed for now.
    pub mqtt_address: SocketAddr,
    /// 0 is one per core. At most 64.
    pub threads: usize,
    pub broker: BrokerConfig,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { mqtt_address: ([127, 0, 0, 1], 1883).into(), threads: 0, broker: BrokerConfig::default() }
    }
}

/// A running gateway. Dropping it stops it, waiting for its threads.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    broker: Arc<Broker>,
    threads: Mutex<Vec<(String, JoinHandle<()>)>>,
}

impl Gateway {
    /// Binds the listeners, replays the folds and accepts. Blocks until clients can connect.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub fn start(
        config: &GatewayConfig,
        access: Access,
        log: Arc<dyn Log>,
        owners: Arc<dyn Owners>,
        snapshots: Arc<dyn Objects>,
        run: Run,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.threads == 0 { cores.min(64) } else { config.threads };
        // Bound early, so that a taken port is told before a long replay; listening begins with it,
        // and clients wait in the backlog.
        let (address, listeners) = listen::bind(config.mqtt_address, count)?;
        let Run { id: run, previous: previous_runs } = run;
        let environment = Environment { access, log, owners, snapshots, clock, run, previous_runs };
        let broker = Arc::new(Broker::open(config.broker.clone(), environment, count)?);
        let peers: Vec<(Inbox, Arc<Doorbell>)> = (0..count).map(|_| Default::default()).collect();
        // One message per thread: that it is ready, or why not.
        let (ready, started) = sync_channel(count);
        let mut threads = Vec::with_capacity(count);
        for (idx, listener) in listeners.into_iter().enumerate() {
            let name = format!("mqtt-{idx}");
            let start = Start { idx, listener, broker: broker.clone(), peers: peers.clone(), ready: ready.clone() };
            let thread = std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || start.run())
                .map_err(|source| Error::Thread { name: name.clone(), source })?;
            threads.push((name, thread));
        }
        drop(ready);
        let gateway = Self { address, broker, threads: Mutex::new(threads) };
        for _ in 0..count {
            match started.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::Panicked { name: "mqtt".to_owned() }),
            }
        }
        tracing::info!(%address, threads = count, "accepting mqtt clients");
        Ok(gateway)
    }

    /// The address that clients connect to.
    #[must_use]
    pub const fn mqtt_address(&self) -> SocketAddr {
        self.address
    }

    /// What asks the broker about its clients.
    #[must_use]
    pub fn roster(&self) -> Roster {
        self.broker.roster()
    }

    /// Stops in order and blocks until it is done, at most about ten seconds: no more accepts,
    /// DISCONNECT 0x8B to MQTT 5.0 clients, all sockets closed, everything appended confirmed.
    /// Close the log afterwards.
    ///
    /// # Errors
    /// [`Error::Panicked`] names a thread that did not end by itself.
    pub fn stop(&self) -> Result<(), Error> {
        self.broker.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let mut result = Ok(());
        for (name, thread) in threads {
            if thread.join().is_err() {
                result = Err(Error::Panicked { name });
            }
        }
        result
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "gateway did not stop in order");
        }
    }
}

struct Start {
    idx: usize,
    listener: StdListener,
    broker: Arc<Broker>,
    peers: Vec<(Inbox, Arc<Doorbell>)>,
    ready: SyncSender<Result<(), Error>>,
}

impl Start {
    fn run(self) {
        let Self { idx, listener, broker, peers, ready } = self;
        let fail = |name: &str, source| Error::Thread { name: name.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Reads of the log for folds and for sessions that wake, and snapshots.
            .max_blocking_threads(JOB_THREADS)
            .thread_name(format!("mqtt-{idx}-disk"))
            .build();
        let outcome = runtime.map_err(|error| fail("tokio", error)).and_then(|runtime| {
            let worker = broker.worker(idx).map_err(Error::from)?;
            let _guard = runtime.enter();
            let listener = TcpListener::from_std(listener).map_err(|error| fail("listener", error))?;
            let (inbox, bell) = peers[idx].clone();
            let ring = bell.clone();
            worker.mailbox().on_mail(move || ring.ring());
            let mut thread = Thread::new(worker, bell, inbox, peers.clone(), Metrics::new());
            thread.listener = Some(listener);
            drop(_guard);
            Ok((runtime, thread))
        });
        // Whoever waits for this may have gone: then there is nobody to tell.
        match outcome {
            Ok((runtime, mut thread)) => {
                drop(ready.send(Ok(())));
                drop(ready);
                let turns = std::future::poll_fn(|cx| thread.poll_turn(cx));
                runtime.block_on(tokio::task::unconstrained(turns));
                // Sockets must be closed while their runtime is there.
                runtime.block_on(async { drop(thread) });
                runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    }
}
