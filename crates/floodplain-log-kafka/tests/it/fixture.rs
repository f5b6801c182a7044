//! One cluster for all tests, and logs on it that do not see each other.

use floodplain_log_kafka::{KafkaConfig, KafkaLog};
use floodplain_testkit::kafka::{KafkaCluster, KafkaJars, KafkaOptions};
use floodplain_types::{Clock, ManualClock, Timestamp};
use std::{
    sync::{
        Arc, LazyLock, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

struct Shared {
    cluster: KafkaCluster,
    /// Its data; the death of this process ends the brokers.
    _dir: TempDir,
}

/// Started by the first test that needs it. Its brokers die with the process.
static SHARED: LazyLock<Mutex<Shared>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let options = KafkaOptions { proxied: true, ..KafkaOptions::default() };
    let cluster = KafkaCluster::start(&KafkaJars::find().unwrap(), 3, dir.path(), options).unwrap();
    Mutex::new(Shared { cluster, _dir: dir })
});

/// The cluster, for one test at a time: some of them kill brokers.
pub(crate) struct Kafka(MutexGuard<'static, Shared>);

impl Kafka {
    pub(crate) fn take() -> Self {
        Self(SHARED.lock().expect("a test before has left the cluster as it was"))
    }

    pub(crate) fn cluster(&self) -> &KafkaCluster {
        &self.0.cluster
    }

    /// Settings of a log that is alone with its topics.
    pub(crate) fn config(&self) -> KafkaConfig {
        static LOGS: AtomicU32 = AtomicU32::new(0);
        KafkaConfig {
            topic_prefix: format!("log{}-", LOGS.fetch_add(1, Ordering::Relaxed)),
            // Tests write records of other times.
            retention: None,
            producers: 2,
            close_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(25),
            ..KafkaConfig::new(self.0.cluster.bootstrap().split(','))
        }
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
}

pub(crate) fn open(config: KafkaConfig) -> Arc<KafkaLog> {
    KafkaLog::open(clock() as Arc<dyn Clock>, config).unwrap()
}
