//! One reader of the end of the log for all who follow it, and for the index of topics.
//!
//! A thread, because it parses every record and may have to read files. It rests while nobody follows and the index was
//! never asked for. A follower that takes too little loses messages, which are counted; it never slows the reader.

use crate::{
    index::Index,
    message::{self, Place},
};
use floodplain_log::{DataStreams, Log, MessageRef, Partition, ReadError, WatermarkSink};
use floodplain_types::{Position, Timestamp, filter_matches};
use metrics::{Counter, Gauge};
use std::{
    collections::VecDeque,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tracing::warn;

/// What one turn reads of a partition.
const READ_BYTES: usize = 256 << 10;
/// After a failed read.
const BACKOFF: Duration = Duration::from_millis(200);

/// What followers may take.
#[derive(Debug, Clone, Copy)]
pub struct TailLimits {
    /// Followers at once, server-sent events and WebSockets together.
    pub followers_max: usize,
    /// Filters of one follower.
    pub filters_max: usize,
    /// Messages that wait for one follower; what comes beyond is skipped and counted.
    pub waiting_max: usize,
    /// The same in bytes of JSON. One message always fits.
    pub waiting_bytes_max: usize,
}

impl Default for TailLimits {
    fn default() -> Self {
        Self { followers_max: 64, filters_max: 64, waiting_max: 4096, waiting_bytes_max: 2 << 20 }
    }
}

/// What a follower gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// `MESSAGE`, one line of JSON.
    Message(Arc<str>),
    /// So many messages were left out here.
    Skipped(u64),
}

/// The thread and what it shares. Dropping it ends the thread.
pub(crate) struct Tail {
    shared: Arc<Shared>,
    wake: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    log: Arc<dyn Log>,
    /// A partition is known by its index among all of them.
    streams: DataStreams,
    limits: TailLimits,
    followers: Mutex<Vec<Arc<Shelf>>>,
    index: Mutex<Index>,
    index_wanted: AtomicBool,
    /// Rung when the index has got further.
    indexed: Notify,
    stop: AtomicBool,
    followers_meter: Gauge,
    skipped_meter: Counter,
}

/// Never waits: one wake-up that is not yet taken is enough.
struct Waker(SyncSender<()>);

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

impl WatermarkSink for Waker {
    fn advanced(&self, _: &[(Partition, Position)]) {
        wake(&self.0);
    }
}

fn wake(sender: &SyncSender<()>) {
    match sender.try_send(()) {
        // Disconnected: the thread has ended, and the log still knows its waker.
        Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there are counts and queues that are whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tail {
    pub(crate) fn start(log: Arc<dyn Log>, streams: DataStreams, limits: TailLimits) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(1);
        log.watch(Arc::new(Waker(sender.clone())));
        let shared = Arc::new(Shared {
            log,
            streams,
            limits,
            followers: Mutex::default(),
            index: Mutex::default(),
            index_wanted: AtomicBool::new(false),
            indexed: Notify::new(),
            stop: AtomicBool::new(false),
            followers_meter: metrics::gauge!("floodplain_http_followers_count"),
            skipped_meter: metrics::counter!("floodplain_http_skipped_messages_total"),
        });
        let reader = Reader::new(shared.clone());
        let thread =
            std::thread::Builder::new().name("floodplain-tail".to_owned()).spawn(move || reader.run(&receiver))?;
        Ok(Self { shared, wake: sender, thread: Some(thread) })
    }

    /// Follows `filters` from now on: every message that is committed after this call. `None` if there are too many
    /// followers.
    pub(crate) fn follow(&self, filters: Vec<String>) -> Option<Follower> {
        let Shared { log, streams, limits, followers, .. } = &*self.shared;
        let shelf = {
            // The reader asks who follows after it has read, so who is not there yet must begin behind that.
            let mut followers = lock(followers);
            if followers.len() >= limits.followers_max {
                return None;
            }
            let from = streams.all().map(|(_, partition)| log.watermark(partition)).collect();
            let shelf = Arc::new(Shelf {
                from,
                filters: Mutex::new(filters),
                queue: Mutex::default(),
                filled: Notify::new(),
                waiting_max: limits.waiting_max,
                waiting_bytes_max: limits.waiting_bytes_max,
            });
            followers.push(shelf.clone());
            self.shared.followers_meter.set(followers.len() as f64);
            shelf
        };
        wake(&self.wake);
        Some(Follower { shelf, shared: self.shared.clone() })
    }

    /// Waits until the index holds all that is committed now; false if that takes longer than `limit`.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn caught_up(&self, limit: Duration) -> bool {
        let Shared { log, streams, indexed, .. } = &*self.shared;
        let ends: Vec<_> = streams.all().map(|(_, partition)| log.watermark(partition)).collect();
        let caught_up = async {
            loop {
                let mut more = std::pin::pin!(indexed.notified());
                more.as_mut().enable();
                if self.index(|index| index.has_read(&ends)) {
                    return;
                }
                more.await;
            }
        };
        tokio::time::timeout(limit, caught_up).await.is_ok()
    }

    /// Asks the index of topics, which begins to read the log at the first call. Blocks for a moment.
    pub(crate) fn index<T>(&self, ask: impl FnOnce(&Index) -> T) -> T {
        if !self.shared.index_wanted.swap(true, Ordering::Relaxed) {
            wake(&self.wake);
        }
        ask(&lock(&self.shared.index))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        wake(&self.wake);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("thread of followers has panicked");
        }
    }
}

/// Gives up its place when it is dropped.
pub(crate) struct Follower {
    shelf: Arc<Shelf>,
    shared: Arc<Shared>,
}

impl Follower {
    /// Whether a message at this place may still come.
    pub(crate) fn is_new(&self, partition: u32, position: Position) -> bool {
        self.shelf.from.get(partition as usize).is_some_and(|from| position >= *from)
    }

    /// Changes what is followed; the rest of what waits is still given.
    pub(crate) fn filters<T>(&self, change: impl FnOnce(&mut Vec<String>) -> T) -> T {
        change(&mut lock(&self.shelf.filters))
    }

    /// The next event.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&self) -> Event {
        loop {
            let filled = self.shelf.filled.notified();
            if let Some(event) = lock(&self.shelf.queue).take() {
                return event;
            }
            filled.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = lock(&self.shared.followers);
        followers.retain(|shelf| !Arc::ptr_eq(shelf, &self.shelf));
        self.shared.followers_meter.set(followers.len() as f64);
    }
}

/// What waits for one follower.
struct Shelf {
    /// By partition: what is before was there before the follower.
    from: Vec<Position>,
    filters: Mutex<Vec<String>>,
    queue: Mutex<Queue>,
    filled: Notify,
    waiting_max: usize,
    waiting_bytes_max: usize,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    skipped: u64,
}

impl Queue {
    fn take(&mut self) -> Option<Event> {
        match self.events.pop_front() {
            Some(event) => {
                if let Event::Message(json) = &event {
                    self.bytes -= json.len();
                }
                Some(event)
            }
            None if self.skipped > 0 => Some(Event::Skipped(std::mem::take(&mut self.skipped))),
            None => None,
        }
    }

    /// Whether there was room.
    fn put(&mut self, json: Arc<str>, messages_max: usize, bytes_max: usize) -> bool {
        let is_full = self.events.len() >= messages_max || self.bytes + json.len() > bytes_max;
        if is_full && !self.events.is_empty() {
            self.skipped += 1;
            return false;
        }
        if self.skipped > 0 {
            self.events.push_back(Event::Skipped(std::mem::take(&mut self.skipped)));
        }
        self.bytes += json.len();
        self.events.push_back(Event::Message(json));
        true
    }
}

impl Shelf {
    fn wants(&self, partition: u32, position: Position, topic: &str) -> bool {
        let is_new = self.from.get(partition as usize).is_some_and(|from| position >= *from);
        is_new && lock(&self.filters).iter().any(|filter| filter_matches(filter, topic))
    }
}

/// The state of the thread.
struct Reader {
    shared: Arc<Shared>,
    /// Where to read on, by partition; `None` while nobody needs it.
    live: Option<Vec<Position>>,
    /// What the index has still to read of the past: partition, from, to.
    past: VecDeque<(u32, Position, Position)>,
    indexes: bool,
}

impl Reader {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, live: None, past: VecDeque::new(), indexes: false }
    }

    fn run(mut self, wakes: &Receiver<()>) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let step = self.step();
            if self.indexes {
                self.shared.indexed.notify_waiters();
            }
            match step {
                Ok(true) => {}
                // Ends when nobody can wake it any more.
                Ok(false) if wakes.recv().is_ok() => {}
                Ok(false) => return,
                Err(error) => {
                    warn!(%error, "the end of the log cannot be read, trying again");
                    self.rest(wakes);
                }
            }
        }
    }

    /// Waits, whatever is committed meanwhile.
    fn rest(&self, wakes: &Receiver<()>) {
        let until = Instant::now() + BACKOFF;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if wakes.recv_timeout(left).is_err() {
                return;
            }
        }
    }

    /// Reads a little; whether there may be more.
    fn step(&mut self) -> Result<bool, ReadError> {
        let shared = Arc::clone(&self.shared);
        let indexes = shared.index_wanted.load(Ordering::Relaxed);
        let partitions = 0..shared.streams.partitions();
        let mut live = {
            let followers = lock(&shared.followers);
            if followers.is_empty() && !indexes {
                self.live = None;
                return Ok(false);
            }
            // Not later than what any follower has seen as the end.
            let start = |index: u32| {
                let end = shared.log.watermark(shared.streams.partition(index));
                let from = followers.iter().filter_map(|shelf| shelf.from.get(index as usize)).min();
                from.map_or(end, |from| *from.min(&end))
            };
            self.live.take().unwrap_or_else(|| partitions.clone().map(start).collect())
        };
        if indexes && !self.indexes {
            self.indexes = true;
            for (index, end) in partitions.zip(&live) {
                self.past.push_back((index, shared.log.start(shared.streams.partition(index)), *end));
            }
            if self.past.is_empty() {
                lock(&shared.index).complete();
            }
        }
        let mut more = false;
        let mut failed = None;
        for (index, at) in (0..).zip(&mut live) {
            if *at < shared.log.watermark(shared.streams.partition(index)) {
                more = true;
                match self.read(index, *at, None) {
                    Ok(next) => *at = next,
                    Err(error) => failed = Some(error),
                }
            }
        }
        if indexes {
            lock(&shared.index).read_to(&live);
        }
        self.live = Some(live);
        if let Some(error) = failed {
            return Err(error);
        }
        if more {
            return Ok(true);
        }
        // Nothing new: the time for what is old.
        let Some((index, from, to)) = self.past.front().copied() else { return Ok(false) };
        let next = if from < to { self.read(index, from, Some(to))? } else { to };
        if next >= to {
            self.past.pop_front();
        } else if let Some(front) = self.past.front_mut() {
            front.1 = next;
        }
        if self.past.is_empty() {
            lock(&shared.index).complete();
        }
        Ok(true)
    }

    /// Reads some records of a partition; where to read on. What is before `to` is past: nobody follows it.
    fn read(&self, index: u32, from: Position, to: Option<Position>) -> Result<Position, ReadError> {
        let shared = &*self.shared;
        let partition = shared.streams.partition(index);
        let read = match shared.log.read_cached(partition, from, READ_BYTES) {
            Some(read) => read,
            None => match shared.log.read(partition, from, READ_BYTES) {
                Ok(read) => read,
                // Retention was faster.
                Err(ReadError::Trimmed { start, .. }) => return Ok(start),
                Err(ReadError::Corrupt { next, .. }) => return Ok(next),
                Err(error) => return Err(error),
            },
        };
        let followers = if to.is_none() { lock(&shared.followers).clone() } else { Vec::new() };
        let mut topics = self.indexes.then(|| lock(&shared.index));
        for batch in &read.batches {
            // A batch that nobody can read is reported by those who keep its rows.
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().flatten() {
                let position = batch.position(&record);
                if position < from || to.is_some_and(|to| position >= to) {
                    continue;
                }
                let Ok(message) = MessageRef::parse(&record) else { continue };
                let received = Timestamp::from_millis(batch.batch.timestamp_ms(&record));
                let received = message.ingest_time_ns.map_or(received, Timestamp);
                if let Some(topics) = &mut topics {
                    topics.add(&message, received);
                }
                offer(shared, &followers, (index, position), received, &message);
            }
        }
        Ok(read.next)
    }
}

/// Gives a message to all who want it; made into JSON once, if at all.
fn offer(
    shared: &Shared,
    followers: &[Arc<Shelf>],
    (index, position): (u32, Position),
    received: Timestamp,
    message: &MessageRef<'_>,
) {
    let mut json: Option<Arc<str>> = None;
    for shelf in followers {
        if !shelf.wants(index, position, message.topic) {
            continue;
        }
        let json = json.get_or_insert_with(|| {
            let place = Place::of(&shared.streams, index, position);
            message::to_json(place, received, message).into()
        });
        if lock(&shelf.queue).put(Arc::clone(json), shelf.waiting_max, shelf.waiting_bytes_max) {
            shelf.filled.notify_one();
        } else {
            shared.skipped_meter.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_where_messages_are_missing() {
        let mut queue = Queue::default();
        let put = |queue: &mut Queue, text: &str| queue.put(text.into(), 2, 100);
        assert!(put(&mut queue, "1") && put(&mut queue, "2"));
        assert!(!put(&mut queue, "3") && !put(&mut queue, "4"));
        let message = |text: &str| Some(Event::Message(text.into()));
        assert_eq!(queue.take(), message("1"));
        assert!(put(&mut queue, "5"));
        assert_eq!([queue.take(), queue.take(), queue.take()], [message("2"), Some(Event::Skipped(2)), message("5")]);
        assert_eq!(queue.take(), None);
        assert!(put(&mut queue, "6") && put(&mut queue, "7") && !put(&mut queue, "8"));
        assert_eq!([queue.take(), queue.take()], [message("6"), message("7")]);
        assert_eq!([queue.take(), queue.take()], [Some(Event::Skipped(1)), None]);
    }

    #[test]
    fn bytes_are_bounded_but_one_message_fits() {
        let mut queue = Queue::default();
        let long: Arc<str> = "x".repeat(50).into();
        assert!(queue.put(long.clone(), 100, 10));
        assert!(!queue.put("1".into(), 100, 10));
        assert_eq!(queue.take(), Some(Event::Message(long)));
        assert_eq!((queue.bytes, queue.take()), (0, Some(Event::Skipped(1))));
    }
}
