//! A small log with something of everything, and the ways to ask it.

use floodplain_log::{
    Append, BatchBuilder, Compression, Correlation, Embedded, EmbeddedConfig, Log, MessageRef, OsDisk, Outcome, Stream,
};
use floodplain_sql::{Config, Error, Format, Sql};
use floodplain_testkit::ModelLog;
use floodplain_types::{Class, Clock as _, ManualClock, StreamId, StreamName, TenantId, Timestamp};
use std::sync::Arc;

/// 2026-11-21T09:00:00Z.
pub(crate) const NINE: i64 = 1_795_251_600_000;

pub(crate) struct Fleet {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: Arc<ManualClock>,
}

impl Fleet {
    /// Streams `telemetry` (4 partitions), `requests` and `dlq` (2), `_folds` (1), and one of another tenant.
    pub(crate) fn empty() -> Self {
        Self::on(|clock| Arc::new(ModelLog::new(clock)))
    }

    /// The same on the log that `make` makes.
    pub(crate) fn on(make: impl FnOnce(Arc<ManualClock>) -> Arc<dyn Log>) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NINE)));
        let log = make(clock.clone());
        for (name, partitions) in [("telemetry", 4), ("requests", 2), ("dlq", 2), ("_folds", 1)] {
            log.open_stream(&id("default", name), partitions).unwrap();
        }
        log.open_stream(&id("other", "telemetry"), 1).unwrap();
        Self { log, clock }
    }

    /// What `docs/guides/sql.md` and the `.slt` files speak of.
    pub(crate) fn sample() -> Self {
        Self::empty().filled()
    }

    pub(crate) fn filled(self) -> Self {
        let fleet = self;
        for minute in 0..6_i64 {
            fleet.clock.set(Timestamp::from_millis(NINE + minute * 60_000));
            for truck in 1..=2 {
                let device = format!("truck-{truck}");
                let payload = format!(
                    r#"{{"n":{minute},"speed":{speed:.1},"engine":{{"temp":{temp},"ok":true}},"pos":[48.{minute},11.5]}}"#,
                    speed = 50.5 + minute as f64 * f64::from(truck),
                    temp = 80 + minute,
                );
                let topic = format!("devices/{device}/track");
                fleet.publish("telemetry", &message(&device, &topic, payload.as_bytes()), &[("site", "north")]);
            }
        }
        fleet.clock.set(Timestamp::from_millis(NINE + 600_000));
        let mut text = message("thermo-1", "rooms/1/temp", b"21.5");
        text.qos = 0;
        fleet.publish("telemetry", &text, &[]);
        let mut odd = message("motor-1", "motors/1/raw", b"\xff\x00\x01");
        (odd.qos, odd.retain, odd.expiry_seconds) = (2, true, Some(60));
        (odd.content_type, odd.response_topic) = (Some("application/x-odd"), Some("reply/here"));
        (odd.correlation, odd.publisher) = (Some(Correlation::Raw(b"\xfe\x01")), Some("gateway"));
        odd.event_time_ns = Some(1_500_000_000_123_456_789);
        odd.ingest_time_ns = Some((NINE + 600_000) * 1_000_000 + 1_234);
        fleet.publish("telemetry", &odd, &[("a", "1"), ("b", "x\"y"), ("a", "2")]);
        fleet.publish("requests", &message("truck-1", "$session/open", b"{}"), &[]);
        fleet.publish("_folds", &message("sessions", "snapshot", b"{}"), &[]);
        let log = &fleet.log;
        let other = log.open_stream(&id("other", "telemetry"), 1).unwrap();
        assert!(append(&**log, &other, &message("spy", "secret", b"{}"), &[], NINE));
        // As a Kafka client writes it: no topic, no value.
        let telemetry = log.open_stream(&id("default", "telemetry"), 4).unwrap();
        let mut builder = BatchBuilder::new();
        builder.push(NINE + 600_000, Some(b"kafka-1"), None, [("traceparent", b"00-1".as_slice())]).unwrap();
        let batch = builder.finish(Compression::Zstd).unwrap();
        assert!(submit(&**log, vec![(telemetry.partition_of(b"kafka-1"), batch)]));
        fleet
    }

    pub(crate) fn stream(&self, name: &str) -> Stream {
        self.log.streams().into_iter().find(|stream| *stream.id == id("default", name)).unwrap()
    }

    pub(crate) fn publish(&self, stream: &str, message: &MessageRef<'_>, user: &[(&str, &str)]) {
        assert!(self.try_publish(stream, message, user));
    }

    /// Whether it was committed.
    pub(crate) fn try_publish(&self, stream: &str, message: &MessageRef<'_>, user: &[(&str, &str)]) -> bool {
        append(&*self.log, &self.stream(stream), message, user, self.clock.now().as_millis())
    }

    pub(crate) fn sql(&self) -> Sql {
        self.sql_with(Config::default())
    }

    pub(crate) fn sql_with(&self, config: Config) -> Sql {
        Sql::new(Arc::clone(&self.log), Config { threads: 2, ..config }).unwrap()
    }
}

pub(crate) fn id(tenant: &str, stream: &str) -> StreamId {
    let (tenant, stream) = (TenantId::new(tenant).unwrap(), StreamName::new(stream).unwrap());
    StreamId { tenant, stream, generation: 0 }
}

pub(crate) fn message<'a>(device: &'a str, topic: &'a str, payload: &'a [u8]) -> MessageRef<'a> {
    let mut message = MessageRef::default();
    (message.topic, message.payload, message.key, message.qos) = (topic, payload, device.as_bytes(), 1);
    message
}

fn append(log: &dyn Log, stream: &Stream, message: &MessageRef<'_>, user: &[(&str, &str)], ms: i64) -> bool {
    let mut builder = BatchBuilder::new();
    message.write(&mut builder, ms, user.iter().copied()).unwrap();
    let batch = builder.finish(Compression::None).unwrap();
    submit(log, vec![(stream.partition_of(message.key), batch)])
}

/// Whether the batches were committed.
pub(crate) fn submit(log: &dyn Log, batches: Vec<(floodplain_log::Partition, floodplain_log::Batch)>) -> bool {
    let appended = floodplain_log::append(log, Append { batches, class: Class::All });
    let outcome = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(appended);
    matches!(outcome, Outcome::Committed(_))
}

/// A log in files, with journals so small that most of it is in segments.
pub(crate) fn embedded(dir: &std::path::Path, clock: Arc<ManualClock>) -> Arc<dyn Log> {
    let config = EmbeddedConfig { journal_bytes: 256 << 10, tail_bytes: 16 << 10, ..EmbeddedConfig::new(dir) };
    Embedded::open(Arc::new(OsDisk), clock, config).unwrap().0
}

/// The whole answer as text.
pub(crate) fn ask(sql: &Sql, query: &str, format: Format) -> Result<String, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut encoder = sql.query(query).await?.encode(format);
        let mut text = Vec::new();
        while let Some(chunk) = encoder.next().await {
            text.extend_from_slice(&chunk?);
        }
        Ok(String::from_utf8(text).unwrap())
    })
}

/// The answer as CSV lines without the header.
pub(crate) fn lines(sql: &Sql, query: &str) -> Vec<String> {
    let text = ask(sql, query, Format::Csv).unwrap_or_else(|error| panic!("{query}: {error}"));
    text.lines().skip(1).map(str::to_owned).collect()
}

/// The answer as JSON.
pub(crate) fn json(sql: &Sql, query: &str) -> serde_json::Value {
    let text = ask(sql, query, Format::Json).unwrap_or_else(|error| panic!("{query}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{query}: {error}\n{text}"))
}
