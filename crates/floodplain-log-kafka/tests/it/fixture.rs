//! One cluster for all tests, and logs on it that do not see each other.

use floodplain_log::{Append, Batch, CompletionSink, Log, Outcome, Partition, Reply, Stream};
use floodplain_log_kafka::{KafkaConfig, KafkaLog};
use floodplain_testkit::{
    Outcomes, batch_of,
    kafka::{KafkaCluster, KafkaJars, KafkaOptions},
    wait_until,
};
use floodplain_types::{Class, Clock, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Started by the first test that needs it. Its brokers die with the process.
static CLUSTER: LazyLock<KafkaCluster> = LazyLock::new(|| {
    let settings = [
        // Owners may be missed sooner than the least of 6 s.
        ("group.min.session.timeout.ms", "1000"),
        // Who comes back leads again: else one broker does all after a while.
        ("leader.imbalance.check.interval.seconds", "2"),
        ("leader.imbalance.per.broker.percentage", "0"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let start_timeout = Duration::from_secs(400);
    let options = KafkaOptions { proxied: true, settings, start_timeout, ..KafkaOptions::default() };
    KafkaCluster::start(&KafkaJars::find().unwrap(), 3, &folder(), options).unwrap()
});

/// Who hurts brokers has them alone; others do not see each other.
static USE: RwLock<()> = RwLock::new(());

/// A folder that the next run removes: nothing of ours runs when this process ends.
fn folder() -> PathBuf {
    const PREFIX: &str = "log-kafka-";
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in std::fs::read_dir(parent).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let is_left = |pid: &str| !Path::new(&format!("/proc/{pid}")).exists();
        if name.strip_prefix(PREFIX).is_some_and(is_left) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    parent.join(format!("{PREFIX}{}", std::process::id()))
}

/// Warnings of the engine, beside what a test that fails has to say.
pub(crate) fn say_what_is_wrong() {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stderr);
    // Another test has done it.
    drop(log.try_init());
}

/// The cluster, for as long as a test uses it.
pub(crate) struct Kafka {
    _use: Use,
}

enum Use {
    Alone { _guard: RwLockWriteGuard<'static, ()> },
    Shared { _guard: RwLockReadGuard<'static, ()> },
}

const LEFT: &str = "a test before has left the cluster as it was";

impl Kafka {
    /// For a test that hurts brokers.
    pub(crate) fn take() -> Self {
        say_what_is_wrong();
        Self { _use: Use::Alone { _guard: USE.write().expect(LEFT) } }
    }

    /// For one that leaves them alone.
    pub(crate) fn share() -> Self {
        say_what_is_wrong();
        Self { _use: Use::Shared { _guard: USE.read().expect(LEFT) } }
    }

    pub(crate) fn cluster(&self) -> &'static KafkaCluster {
        &CLUSTER
    }

    /// Settings of a log that is alone with its topics.
    pub(crate) fn config(&self) -> KafkaConfig {
        static LOGS: AtomicU32 = AtomicU32::new(0);
        config_at(&self.cluster().bootstrap(), &format!("log{}-", LOGS.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Settings of a log at these brokers with this prefix of its topics.
pub(crate) fn config_at(bootstrap: &str, prefix: &str) -> KafkaConfig {
    KafkaConfig {
        topic_prefix: prefix.to_owned(),
        // Tests write records of other times.
        retention: None,
        producers: 2,
        close_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(25),
        ..KafkaConfig::new(bootstrap.split(','))
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
}

pub(crate) fn open(config: KafkaConfig) -> Arc<KafkaLog> {
    KafkaLog::open(clock() as Arc<dyn Clock>, config).unwrap()
}

pub(crate) fn stream(log: &KafkaLog, name: &str, partitions: u32) -> Stream {
    let (tenant, stream) = (TenantId::default_tenant(), StreamName::new(name).unwrap());
    log.open_stream(&StreamId { tenant, stream, generation: 0 }, partitions).unwrap()
}

/// Appends and waits for the end.
pub(crate) fn append(log: &KafkaLog, class: Class, batches: Vec<(Partition, Batch)>) -> Outcome {
    let outcomes = Outcomes::new();
    let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
    log.submit(Append { batches, class }, Some(Reply { sink, tag: 0 }));
    outcomes.wait(0, &|| ())
}

/// Appends one record in class `all`, which is committed: its position.
pub(crate) fn write(log: &KafkaLog, partition: Partition, value: &str) -> Position {
    match append(log, Class::All, vec![(partition, batch_of(b"key", value.as_bytes(), 1))]) {
        Outcome::Committed(positions) => positions[0],
        other => panic!("{value} ended as {other:?}"),
    }
}

pub(crate) fn wait_for(log: &KafkaLog, partition: Partition, position: Position) {
    wait_until("the watermark comes", &|| (), || log.watermark(partition) >= position);
}

/// The values from `from` to the watermark with their positions.
pub(crate) fn values(log: &KafkaLog, partition: Partition, from: Position) -> Vec<(Position, String)> {
    let (mut at, end, mut values) = (from, log.watermark(partition), Vec::new());
    while at < end {
        let read = log.read(partition, at, 64 << 10).unwrap();
        assert!(read.next > at, "a read goes on: {at} of {end}");
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap();
                values.push((batch.position(&record), value));
            }
        }
        at = read.next;
    }
    assert_eq!(at, end, "a read ends at the watermark");
    values
}
