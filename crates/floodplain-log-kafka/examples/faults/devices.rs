//! Devices that write, repeat what they have not heard of, and note when they heard what.

use floodplain_log::{
    Append, BatchBuilder, Completion, CompletionSink, Compression, InOrder, Log, Outcome, Reply, Stream, header,
};
use floodplain_log_kafka::KafkaLog;
use floodplain_testkit::{History, Stamp};
use floodplain_types::{Class, Clock as _, SystemClock};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Of each partition.
const DEVICES: usize = 2;
/// Records of one device that are under way at once.
const WINDOW: usize = 8;
/// One record of each device in so long: 50 a second for each partition, so that an outage is known to 20 ms.
const PACE: Duration = Duration::from_millis(40);
const PAYLOAD_BYTES: usize = 100;

/// Shared by all devices and by who hurts them.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) history: History,
    pub(crate) input: Stream,
    /// The writers' log and its number: what one was told of refusals the next does not know.
    log: RwLock<(u64, Arc<KafkaLog>)>,
    /// When what was acknowledged, by partition.
    acks: Vec<Mutex<Vec<Instant>>>,
    unknown: AtomicU64,
    refused: AtomicU64,
    repeated: AtomicU64,
    stops: AtomicBool,
}

impl Load {
    pub(crate) fn new(log: Arc<KafkaLog>, input: Stream) -> Self {
        Self {
            history: History::new(),
            acks: (0..input.partitions).map(|_| Mutex::default()).collect(),
            input,
            log: RwLock::new((0, log)),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            stops: AtomicBool::new(false),
        }
    }

    /// Names of devices, as many for each partition.
    pub(crate) fn devices(&self) -> Vec<String> {
        let mut left = vec![DEVICES; self.input.partitions as usize];
        let names = (0..).map(|number| format!("device-{number}"));
        names
            .filter(|name| {
                let left = &mut left[self.input.partition_of(name.as_bytes()).index as usize];
                let is_taken = *left > 0;
                *left = left.saturating_sub(1);
                is_taken
            })
            .take(DEVICES * self.input.partitions as usize)
            .collect()
    }

    fn log(&self) -> (u64, Arc<KafkaLog>) {
        self.log.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The process of the writers dies: what it has under way ends as unknown, and the brokers may have it or not. The
    /// next one has another producer id.
    pub(crate) fn replace(&self, log: Arc<KafkaLog>) {
        // Nobody speaks with the next one before that.
        self.log().1.close();
        let mut held = self.log.write().unwrap_or_else(PoisonError::into_inner);
        *held = (held.0 + 1, log);
    }

    pub(crate) fn stop(&self) {
        self.stops.store(true, Ordering::Relaxed);
    }

    /// Attempts without a known end, refused ones, and how many records were sent again.
    pub(crate) fn ends(&self) -> (u64, u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.unknown), load(&self.refused), load(&self.repeated))
    }

    /// How much each partition has acknowledged.
    pub(crate) fn acked(&self) -> Vec<usize> {
        self.acks.iter().map(|acks| acks.lock().unwrap_or_else(PoisonError::into_inner).len()).collect()
    }

    /// How many acknowledgements came in a time.
    pub(crate) fn acks_between(&self, from: Instant, until: Instant) -> usize {
        let within = |acks: &Vec<Instant>| {
            acks.partition_point(|ack| *ack < until).saturating_sub(acks.partition_point(|ack| *ack < from))
        };
        self.acks.iter().map(|acks| within(&acks.lock().unwrap_or_else(PoisonError::into_inner))).sum()
    }

    /// The longest time in which a partition acknowledged nothing, from `from` on.
    pub(crate) fn outage(&self, from: Instant) -> Duration {
        let of = |acks: &Mutex<Vec<Instant>>| longest_gap(&acks.lock().unwrap_or_else(PoisonError::into_inner), from);
        self.acks.iter().map(of).max().unwrap_or_default()
    }

    /// A device, until all are stopped and what it has sent is acknowledged.
    pub(crate) fn run(&self, device: &str, submitter: u32) {
        let partition = self.input.partition_of(device.as_bytes());
        let (sink, ended) = mpsc::sync_channel(WINDOW);
        let sink: Arc<dyn CompletionSink> = Arc::new(Ends(Mutex::new(sink)));
        let mut under_way: HashMap<u64, Stamp> = HashMap::new();
        let (mut unacked, mut again) = (BTreeSet::new(), VecDeque::new());
        let (mut next_seq, mut next_tag, mut next_at) = (0_u64, 0_u64, Instant::now());
        let (mut has_lost, mut of_log, mut refusals_seen) = (false, 0, 0);
        loop {
            let stops = self.stops.load(Ordering::Relaxed);
            if stops && unacked.is_empty() {
                return;
            }
            if has_lost && under_way.is_empty() {
                // It connects anew, and sends in order what it has not heard of.
                (has_lost, again) = (false, unacked.iter().copied().collect());
                next_at = Instant::now() + PACE;
                self.repeated.fetch_add(again.len() as u64, Ordering::Relaxed);
            }
            let may_send = !has_lost && under_way.len() < WINDOW && (!stops || !again.is_empty());
            if may_send && Instant::now() >= next_at {
                let seq = again.pop_front().unwrap_or_else(|| {
                    next_seq += 1;
                    next_seq
                });
                unacked.insert(seq);
                let stamp = Stamp::new(device, seq);
                let mut builder = BatchBuilder::new();
                let id = seq.to_string();
                let (value, headers) = (stamp.payload(PAYLOAD_BYTES), [(header::DEDUP_ID, id.as_bytes())]);
                let time_ms = SystemClock.now().as_millis();
                builder.push(time_ms, Some(device.as_bytes()), Some(&value), headers).expect("it is small");
                let batch = builder.finish(Compression::None).expect("it has a record");
                self.history.invoke(&stamp);
                under_way.insert(next_tag, stamp);
                let (number, log) = self.log();
                if number != of_log {
                    (of_log, refusals_seen) = (number, 0);
                }
                let reply = Reply { sink: Arc::clone(&sink), tag: next_tag };
                let append = Append { batches: vec![(partition, batch)], class: Class::All };
                log.submit_in_order(append, reply, InOrder { submitter, refusals_seen });
                next_tag += 1;
                // What is sent again is sent at once.
                next_at = Instant::now() + if again.is_empty() { PACE } else { Duration::ZERO };
            }
            let wait = if may_send { next_at.saturating_duration_since(Instant::now()) } else { PACE };
            let Ok(Completion { tag, outcome }) = ended.recv_timeout(wait) else { continue };
            let stamp = under_way.remove(&tag).expect("an append ends once");
            match outcome {
                Outcome::Committed(_) => {
                    self.history.ok(&stamp);
                    unacked.remove(&stamp.seq);
                    let acks = &self.acks[partition.index as usize];
                    acks.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                Outcome::Unknown => {
                    self.history.unknown(&stamp);
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                    has_lost = true;
                }
                Outcome::Refused(_) => {
                    self.history.fail(&stamp);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    refusals_seen += 1;
                    has_lost = true;
                }
            }
        }
    }
}

/// The longest time between two moments, of which the second is behind `from`, and from the last one until now.
pub(crate) fn longest_gap(moments: &[Instant], from: Instant) -> Duration {
    let first = moments.partition_point(|moment| *moment < from).saturating_sub(1);
    let gaps = moments[first..].windows(2).map(|pair| pair[1] - pair[0]);
    gaps.chain(moments.last().map(Instant::elapsed)).max().unwrap_or_default()
}

#[derive(Debug)]
struct Ends(Mutex<mpsc::SyncSender<Completion>>);

impl CompletionSink for Ends {
    fn complete(&self, completions: Vec<Completion>) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // There is room for all that is under way, and the device has ended only when nothing is.
        completions.into_iter().for_each(|completion| drop(sender.send(completion)));
    }
}
