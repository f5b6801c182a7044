//! One thread of the gateway: its sockets, its listener, its worker.
//!
//! A turn takes everything that is ready (mail, accepts, readable sockets), lets the worker append
//! and post once, and then writes once per connection. There is no task per connection: a socket
//! that becomes ready marks its slot at the thread's doorbell.

use crate::{
    doorbell::{Doorbell, socket_waker},
    metrics::Metrics,
};
use floodplain_broker::{CloseKind, ConnId, Effect, Handoff, Job, Worker};
use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::TcpStream as StdStream,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Interval, MissedTickBehavior},
};

/// What one socket may bring in one turn.
const SCRATCH_BYTES: usize = 64 << 10;
/// Reads of a connection whose client has opened another: as much as a socket's buffer usually holds.
const DRAIN_READS_MAX: usize = 128;
/// Accepts per turn, so that a storm of new clients does not starve the established ones.
const ACCEPTS_PER_TURN: usize = 64;
/// Sockets that were closed by us and wait for the client to read what they were told; beyond
/// that the oldest is reset.
const LINGERING_MAX: usize = 1024;
const LINGER: Duration = Duration::from_secs(2);
/// What a client may still have sent when we close; one that sends more is reset.
const FAREWELL_BYTES_MAX: usize = 1 << 20;
const TICK: Duration = Duration::from_millis(250);

/// A connection on its way to the thread that owns its device.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(crate) stream: StdStream,
    pub(crate) handoff: Handoff,
}

/// Connections that other threads have moved here. Bounded by the number of half-open connections,
/// since each was one of those until a moment ago.
pub(crate) type Inbox = Arc<Mutex<Vec<Moving>>>;

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    waker: Waker,
    conn: ConnId,
    /// Something could not be written: wait until the socket takes more.
    wants_write: bool,
    /// It has refused to be written to.
    is_broken: bool,
    paused: bool,
}

#[derive(Debug)]
struct Lingering {
    _stream: TcpStream,
    until: Instant,
}

/// A socket's place is the worker's slot for its connection.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) worker: Worker,
    pub(crate) listener: Option<TcpListener>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) inbox: Inbox,
    /// Inboxes and doorbells of all threads, by worker.
    pub(crate) peers: Vec<(Inbox, Arc<Doorbell>)>,
    pub(crate) metrics: Metrics,
    sockets: Vec<Option<Socket>>,
    open: usize,
    lingering: VecDeque<Lingering>,
    lingering_max: usize,
    farewell_bytes_max: usize,
    ready: Vec<u32>,
    scratch: Box<[u8]>,
    started: Instant,
    ticker: Option<Pin<Box<Interval>>>,
    accept_after: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Accepting has failed since the last connection, which was said once.
    accept_fails: bool,
    /// Of sockets, successful or not.
    #[cfg(test)]
    writes: u64,
}

/// Whether accept(2) tells the end of the connection it would have returned: the next one may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    // EPROTO has no kind of its own.
    const EPROTO: i32 = 71;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::Interrupted
            | K::NetworkDown
            | K::NetworkUnreachable
            | K::HostUnreachable
    ) || error.raw_os_error() == Some(EPROTO)
}

impl Thread {
    pub(crate) fn new(
        worker: Worker,
        bell: Arc<Doorbell>,
        inbox: Inbox,
        peers: Vec<(Inbox, Arc<Doorbell>)>,
        metrics: Metrics,
    ) -> Self {
        Self {
            worker,
            listener: None,
            bell,
            inbox,
            peers,
            metrics,
            sockets: Vec::new(),
            open: 0,
            lingering: VecDeque::new(),
            lingering_max: LINGERING_MAX,
            farewell_bytes_max: FAREWELL_BYTES_MAX,
            ready: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            started: Instant::now(),
            ticker: None,
            accept_after: None,
            accept_fails: false,
            #[cfg(test)]
            writes: 0,
        }
    }

    /// One turn. Ready once the worker has stopped and every socket is closed.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.bell.answer(cx.waker(), &mut ready);
        self.tick(cx);
        self.metrics.turns.increment(1);
        self.worker.take_mail();
        while self.worker.read_letter() {
            if self.worker.wants_flush() {
                self.run_effects();
            }
        }
        ready.sort_unstable();
        ready.dedup();
        for slot in ready.drain(..) {
            self.serve(slot);
            if self.worker.wants_flush() {
                self.run_effects();
            }
        }
        self.ready = ready;
        // After the established ones: a new connection may be of a client whose old one has just said good-bye.
        self.take_inbox();
        self.accept(cx);
        self.worker.end_turn();
        self.run_effects();
        if self.worker.has_work() {
            self.bell.ring();
        }
        if self.worker.is_stopped() && self.open == 0 {
            self.lingering.clear();
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        let ticker = self.ticker.get_or_insert_with(|| {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Box::pin(interval)
        });
        while ticker.poll_tick(cx).is_ready() {
            let now = Instant::now();
            self.worker.tick(now - self.started);
            while self.lingering.front().is_some_and(|gone| gone.until <= now) {
                self.lingering.pop_front();
            }
        }
    }

    fn take_inbox(&mut self) {
        let moved = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        for Moving { stream, handoff } in moved {
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let conn = self.worker.adopt(handoff);
                    self.keep(stream, conn);
                }
                Err(error) => {
                    self.metrics.dropped_not_moved.increment(1);
                    tracing::warn!(%error, "connection lost while it moved to its worker");
                }
            }
        }
    }

    fn accept(&mut self, cx: &mut Context<'_>) {
        if let Some(wait) = &mut self.accept_after {
            if wait.as_mut().poll(cx).is_pending() {
                return;
            }
            self.accept_after = None;
        }
        if self.worker.is_stopping() {
            self.listener = None;
        }
        for turn in 0.. {
            let Some(listener) = &self.listener else { return };
            if turn == ACCEPTS_PER_TURN {
                self.bell.ring();
                return;
            }
            match listener.poll_accept(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok((stream, peer))) => {
                    self.metrics.accepted.increment(1);
                    if std::mem::take(&mut self.accept_fails) {
                        tracing::info!("connections are accepted again");
                    }
                    // Refusing is the cheapest thing we do: nothing was allocated for it.
                    match self.worker.open(peer) {
                        Some(conn) => self.keep(stream, conn),
                        None => self.metrics.refused_half_open.increment(1),
                    }
                }
                Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
                Poll::Ready(Err(error)) => {
                    // Out of file descriptors, most likely: accept would fail again at once, and what we can spare is
                    // little.
                    self.metrics.failed_accepts.increment(1);
                    self.metrics.dropped_linger_full.increment(self.lingering.len() as u64);
                    self.lingering.clear();
                    if !std::mem::replace(&mut self.accept_fails, true) {
                        tracing::warn!(%error, "cannot accept connections, trying again every 100 ms");
                    }
                    let mut wait = Box::pin(tokio::time::sleep(Duration::from_millis(100)));
                    if wait.as_mut().poll(cx).is_pending() {
                        self.accept_after = Some(wait);
                    }
                    return;
                }
            }
        }
    }

    fn keep(&mut self, stream: TcpStream, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.sockets.len() <= slot {
            self.sockets.resize_with(slot + 1, || None);
        }
        let waker = socket_waker(&self.bell, conn.slot);
        self.sockets[slot] = Some(Socket { stream, waker, conn, wants_write: false, is_broken: false, paused: false });
        self.open += 1;
        // Bytes may be waiting already; reading is also what registers the waker.
        self.serve(conn.slot);
    }

    /// Reads what a socket has, and writes what it could not take before.
    fn serve(&mut self, slot: u32) {
        let Some(Some(socket)) = self.sockets.get_mut(slot as usize) else { return };
        let conn = socket.conn;
        if socket.wants_write {
            self.write(slot);
        }
        let Some(Some(socket)) = self.sockets.get_mut(slot as usize) else { return };
        if socket.paused {
            return;
        }
        let mut cx = Context::from_waker(&socket.waker);
        let mut buf = ReadBuf::new(&mut self.scratch);
        match Pin::new(&mut socket.stream).poll_read(&mut cx, &mut buf) {
            Poll::Pending if socket.is_broken => self.worker.hung_up(conn),
            Poll::Pending => {}
            Poll::Ready(Ok(())) if buf.filled().is_empty() => self.worker.hung_up(conn),
            Poll::Ready(Ok(())) => {
                let full = buf.remaining() == 0;
                let bytes = buf.filled();
                socket.paused = !self.worker.received(conn, bytes);
                if socket.paused {
                    return;
                }
                if full {
                    // Its turn comes again after the others.
                    self.bell.mark(slot);
                    return;
                }
                // Less than asked for: the socket is empty, and this registers the waker without
                // a system call.
                if socket.stream.poll_read_ready(&mut cx).is_ready() {
                    self.bell.mark(slot);
                }
            }
            Poll::Ready(Err(_)) => self.worker.hung_up(conn),
        }
    }

    /// Reads what a socket has at this moment. Past the runtime, which asks a socket only once the kernel has told of its
    /// news: the news of this one may be told in the next turn, though it came before what is handled now.
    fn drain(&mut self, conn: ConnId) {
        for _ in 0..DRAIN_READS_MAX {
            let Some(Some(socket)) = self.sockets.get_mut(conn.slot as usize) else { return };
            if socket.conn != conn || socket.paused {
                return;
            }
            match (&*socket2::SockRef::from(&socket.stream)).read(&mut self.scratch) {
                Ok(0) => return self.worker.hung_up(conn),
                Ok(n) => {
                    socket.paused = !self.worker.received(conn, &self.scratch[..n]);
                    if n < self.scratch.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !socket.is_broken => return,
                Err(_) => return self.worker.hung_up(conn),
            }
        }
    }

    /// Writes a connection's output, as much as the socket takes.
    fn write(&mut self, slot: u32) {
        let Some(Some(socket)) = self.sockets.get_mut(slot as usize) else { return };
        loop {
            let output = self.worker.output(socket.conn);
            if output.is_empty() {
                socket.wants_write = false;
                return;
            }
            if socket.is_broken {
                self.worker.deafened(socket.conn);
                return;
            }
            #[cfg(test)]
            {
                self.writes += 1;
            }
            match socket.stream.try_write(output) {
                Ok(n) => self.worker.written(socket.conn, n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.wants_write = true;
                    let mut cx = Context::from_waker(&socket.waker);
                    if socket.stream.poll_write_ready(&mut cx).is_ready() {
                        continue;
                    }
                    return;
                }
                Err(_) => {
                    // What came before is still there to be read, and its end behind it.
                    socket.wants_write = false;
                    socket.is_broken = true;
                    self.worker.deafened(socket.conn);
                    self.bell.mark(slot);
                    return;
                }
            }
        }
    }

    fn run_effects(&mut self) {
        while let Some(effect) = self.worker.next_effect() {
            match effect {
                Effect::Write(conn) => self.write(conn.slot),
                Effect::Resume(conn) => {
                    if let Some(Some(socket)) = self.sockets.get_mut(conn.slot as usize)
                        && socket.conn == conn
                    {
                        socket.paused = false;
                        self.bell.mark(conn.slot);
                    }
                }
                Effect::Drain(old, conn) => {
                    self.drain(old);
                    self.worker.drained(conn);
                }
                Effect::Close(conn, kind) => self.close(conn, kind),
                Effect::Move(conn, to, handoff) => self.hand_off(conn, to, handoff),
                Effect::Run(job) => self.run(job),
            }
        }
    }

    fn take(&mut self, conn: ConnId) -> Option<Socket> {
        let socket = self.sockets.get_mut(conn.slot as usize)?.take()?;
        self.open -= 1;
        Some(socket)
    }

    /// Writes what a connection that ends was told last. Past the runtime, which takes a socket that has just come here for one that
    /// takes nothing until the kernel has told of it, and that is in another turn.
    fn write_last(&mut self, conn: ConnId) {
        self.write(conn.slot);
        let Some(Some(socket)) = self.sockets.get(conn.slot as usize) else { return };
        while !socket.is_broken && !self.worker.output(conn).is_empty() {
            match (&*socket2::SockRef::from(&socket.stream)).write(self.worker.output(conn)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It takes nothing, and nobody waits for it.
                Ok(0) | Err(_) => return,
                Ok(n) => self.worker.written(conn, n),
            }
        }
    }

    fn close(&mut self, conn: ConnId, kind: CloseKind) {
        self.write_last(conn);
        let socket = self.take(conn);
        self.worker.release(conn);
        let Some(socket) = socket else { return };
        if kind == CloseKind::ByPeer {
            return;
        }
        // Closing a socket with unread bytes resets the connection, and the client may lose what
        // we told it last: end our side, and wait a little for it to end its own.
        if socket2::SockRef::from(&socket.stream).shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let mut seen = 0;
        loop {
            match socket.stream.try_read(&mut self.scratch) {
                Ok(n) if n > 0 && seen < self.farewell_bytes_max => seen += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(n) if n > 0 => return self.metrics.dropped_unread_input.increment(1),
                // The client has ended its side too.
                Ok(_) | Err(_) => return,
            }
        }
        if self.lingering.len() >= self.lingering_max && self.lingering.pop_front().is_some() {
            self.metrics.dropped_linger_full.increment(1);
        }
        self.lingering.push_back(Lingering { _stream: socket.stream, until: Instant::now() + LINGER });
    }

    fn hand_off(&mut self, conn: ConnId, to: u8, handoff: Handoff) {
        let socket = self.take(conn);
        self.worker.release(conn);
        let Some(socket) = socket else { return };
        match socket.stream.into_std() {
            Ok(stream) => {
                let (inbox, bell) = &self.peers[usize::from(to)];
                inbox.lock().unwrap_or_else(PoisonError::into_inner).push(Moving { stream, handoff });
                bell.ring();
            }
            Err(error) => {
                self.metrics.dropped_not_moved.increment(1);
                tracing::warn!(%error, "cannot move a connection to its worker");
            }
        }
    }

    fn run(&self, job: Job) {
        // Bounded by the worker: see `JOB_THREADS`. The result is mail.
        drop(tokio::task::spawn_blocking(move || job.run()));
    }
}

#[cfg(test)]
mod tests;
