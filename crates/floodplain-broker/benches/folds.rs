//! What folds cost: `cargo bench -p floodplain-broker --bench folds`.
//!
//! Times are processor time. Sleeping sessions in memory and in a snapshot, indexing what waits, retained messages by `#`.
#![allow(clippy::unwrap_used)]

use floodplain_broker::folds::{
    Close, CloseReason, Event, NEVER_EXPIRES, Open, Progress, RetainedFold, RunId, SessionFold, Subscription,
    WaitingIndex, newest,
};
use floodplain_fold::{Fold, Input, Outputs};
use floodplain_log::{Batch, BatchBuilder, Compression, MessageRef, ReadBatch};
use floodplain_types::{Position, Timestamp, TopicFilter};
use std::time::Duration;

/// Time that this thread has spent on a processor: other work on the machine does not count.
fn now() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap())
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

/// Gives batches to a fold, and counts what that takes.
struct Feed<F> {
    fold: F,
    next: u64,
    spent: Duration,
    records: u64,
}

impl<F: Fold> Feed<F> {
    fn new(fold: F) -> Self {
        Self { fold, next: 0, spent: Duration::ZERO, records: 0 }
    }

    fn batch(&mut self, batch: Batch) -> Position {
        let base = Position::new(0, self.next);
        let batch = ReadBatch { base, at: self.next * 200, batch };
        self.next += u64::from(batch.batch.record_count());
        let mut out = Outputs::default();
        let started = now();
        for record in &batch.batch.records().unwrap() {
            let record = record.unwrap();
            let (position, log_time) = (batch.position(&record), Timestamp::from_millis(1_000_000));
            self.fold.apply(&Input { partition: 0, position, log_time, record: &record, batch: &batch }, &mut out);
            self.records += 1;
        }
        self.spent += now() - started;
        base
    }

    fn report(&self, what: &str) {
        let ns = self.spent.as_nanos() as f64 / self.records as f64;
        println!("{what:<46} {ns:>9.0} ns each ({} of them)", self.records);
    }
}

fn event(feed: &mut Feed<SessionFold>, builder: &mut BatchBuilder, client: &str, event: &Event) -> Position {
    builder.push(1_000_000, Some(client.as_bytes()), Some(&event.encode()), []).unwrap();
    feed.batch(builder.finish(Compression::None).unwrap())
}

fn sessions(count: u32) {
    let mut feed = Feed::new(SessionFold::default());
    let mut builder = BatchBuilder::new();
    let before = resident_bytes();
    for n in 0..count {
        let client = format!("device-{n:07}");
        let open = Open {
            run: RunId(1),
            protocol_level: 5,
            takes_over: false,
            clean_start: false,
            session_expiry_s: NEVER_EXPIRES,
            keep_alive_s: 60,
            peer: "10.1.2.3:50000".to_owned(),
            will: None,
        };
        let epoch = event(&mut feed, &mut builder, &client, &Event::Open(Box::new(open)));
        let filter = TopicFilter::new(&format!("cmd/{client}/#")).unwrap();
        let subscription =
            Subscription { filter, qos: 1, no_local: false, retain_as_published: false, id: None, retained_due: false };
        let start = (0..16).map(|p| (p, Position::new(0, 1_000_000 + u64::from(n)))).collect();
        event(&mut feed, &mut builder, &client, &Event::Subscribe { epoch, subscriptions: vec![subscription], start });
        let close = Close {
            epoch,
            reason: CloseReason::ConnectionLost,
            fires_will: true,
            session_expiry_s: None,
            progress: Progress::default(),
        };
        event(&mut feed, &mut builder, &client, &Event::Close(Box::new(close)));
    }
    feed.report("session event");
    let each = (resident_bytes() - before) / u64::from(count);
    println!("{:<46} {each:>9} bytes in memory, one filter of its own, 16 partitions", "sleeping session");
    let started = now();
    let mut bytes = Vec::new();
    feed.fold.snapshot(&mut bytes);
    let took = now() - started;
    let each = bytes.len() / count as usize;
    println!("{:<46} {each:>9} bytes in the snapshot; all {count} copied in {took:.0?}", "sleeping session");
    let started = now();
    let mut restored = SessionFold::default();
    restored.restore(SessionFold::FORMAT, &bytes).unwrap();
    println!("{:<46} {:>9.0?} for {count}", "restore", (now() - started));
    let started = now();
    feed.fold.begin_scan();
    let lowest = feed.fold.scan_lowest(usize::MAX).unwrap();
    println!("{:<46} {:>9.0?} for {count} sessions, {} filters", "lowest positions", (now() - started), lowest.len());
}

fn telemetry(batches: u64, qos: u8, topic: impl Fn(u64) -> String, mut give: impl FnMut(Batch)) {
    let mut builder = BatchBuilder::new();
    for batch in 0..batches {
        for n in 0..100 {
            let n = batch * 100 + n;
            let (topic, key) = (topic(n), format!("device-{:05}", n % 10_000));
            let message = MessageRef {
                topic: &topic,
                key: key.as_bytes(),
                payload: &[7; 100],
                qos,
                retain: qos == 2,
                ..MessageRef::default()
            };
            message.write(&mut builder, 1_000_000, std::iter::empty()).unwrap();
        }
        give(builder.finish(Compression::None).unwrap());
    }
}

/// What a snapshot costs the worker's thread, of states as large as they may be: at once, and in parts as workers do.
fn snapshot<F: Fold>(what: &str, fold: &mut F) {
    let started = now();
    let mut bytes = Vec::new();
    fold.snapshot(&mut bytes);
    let whole = now() - started;
    let (mut parts, mut count, started) = (Vec::with_capacity(bytes.len()), 0, now());
    fold.begin_copy();
    loop {
        let max_len = parts.len() + (512 << 10);
        count += 1;
        if fold.copy_part(&mut parts, max_len) {
            break;
        }
    }
    let each = (now() - started) / count;
    assert!(parts == bytes);
    let mib = bytes.len() >> 20;
    println!("snapshot of {what:<34} {whole:>9.1?} for {mib} MiB; in {count} parts {each:.2?} each");
}

fn snapshots() {
    let mut feed = Feed::new(SessionFold::default());
    let mut builder = BatchBuilder::new();
    for n in 0..65_536_u64 {
        let client = format!("device-{n:07}");
        for event in 0..64 {
            let id = format!("1.0.{:x}", n * 64 + event);
            let headers = [("fp.x", id.as_bytes())];
            builder.push(1_000_000, Some(client.as_bytes()), Some(&Event::Tick.encode()), headers).unwrap();
        }
        feed.batch(builder.finish(Compression::None).unwrap());
    }
    snapshot("a full dedup window", &mut feed.fold);

    let mut index = Feed::new(WaitingIndex::default());
    for n in 0..1_000 {
        let filter = TopicFilter::new(&format!("cmd/{n}/#")).unwrap();
        index.fold.add_filter(&filter, Position::ZERO, Position::ZERO);
    }
    telemetry(10_400, 1, |n| format!("cmd/{}/m", n % 1_000), |batch| _ = index.batch(batch));
    snapshot(&format!("{} postings", index.fold.len()), &mut index.fold);

    for (payload, count) in [(100, 250_000_u64), (16_384, 4_000)] {
        let mut retained = Feed::new(RetainedFold::default());
        for n in 0..count {
            let (topic, payload) = (format!("t/{n}/m"), vec![7; payload]);
            let message = MessageRef {
                topic: &topic,
                key: b"d",
                payload: &payload,
                qos: 1,
                retain: true,
                ..MessageRef::default()
            };
            message.write(&mut builder, 1_000_000, std::iter::empty()).unwrap();
            retained.batch(builder.finish(Compression::None).unwrap());
        }
        snapshot(&format!("retained messages of {payload} bytes"), &mut retained.fold);
    }
}

fn main() {
    snapshots();
    if std::env::args().any(|arg| arg == "snapshots") {
        return;
    }
    sessions(200_000);

    let mut index = Feed::new(WaitingIndex::default());
    telemetry(5_000, 1, |n| format!("t/{}/m", n % 10_000), |batch| _ = index.batch(batch));
    index.report("message, nothing sleeps");
    let mut index = Feed::new(WaitingIndex::default());
    for n in 0..10_000 {
        let filter = TopicFilter::new(&format!("cmd/{n}/#")).unwrap();
        index.fold.add_filter(&filter, Position::ZERO, Position::ZERO);
    }
    telemetry(5_000, 0, |n| format!("t/{}/m", n % 10_000), |batch| _ = index.batch(batch));
    index.report("message of QoS 0, 10,000 filters");
    (index.spent, index.records) = (Duration::ZERO, 0);
    telemetry(5_000, 1, |n| format!("t/{}/m", n % 10_000), |batch| _ = index.batch(batch));
    index.report("message that nobody waits for, 10,000 filters");
    (index.spent, index.records) = (Duration::ZERO, 0);
    telemetry(5_000, 1, |n| format!("cmd/{}/m", n % 10_000), |batch| _ = index.batch(batch));
    index.report("message that waits, 10,000 filters");

    let mut retained = Feed::new(RetainedFold::default());
    telemetry(2_000, 1, |n| format!("t/{n}/m"), |batch| _ = retained.batch(batch));
    retained.report("message that is not retained");
    (retained.spent, retained.records) = (Duration::ZERO, 0);
    telemetry(2_000, 2, |n| format!("t/{n}/m"), |batch| _ = retained.batch(batch));
    retained.report("message that is retained");
    let (started, mut found, mut after, mut pages) = (now(), 0, None, 0);
    loop {
        let page = retained.fold.page("#", after.as_deref(), 256);
        let (candidates, next) = newest(vec![page], Timestamp::from_millis(1_000_000));
        found += candidates.len();
        pages += 1;
        after = next;
        if after.is_none() {
            break;
        }
    }
    println!("{:<46} {:>9.0?} for {found} messages in {pages} pages", "retained by #", (now() - started));
}
