//! What librdkafka says about itself, as metrics and lines of the log. Handles are made once.

use ::metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use rdkafka::{
    ClientContext, Statistics, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError,
    types::RDKafkaErrorCode,
};
use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

/// Counters of the engine. Those that the embedded engine has, too, have its names.
#[derive(Clone)]
pub(crate) struct LogMetrics {
    pub(crate) appends: Counter,
    pub(crate) refused: Counter,
    pub(crate) unknown: Counter,
    pub(crate) batches: Counter,
    pub(crate) records: Counter,
    pub(crate) appended_bytes: Counter,
    pub(crate) append_seconds: Histogram,
    pub(crate) queue_bytes: Gauge,
    pub(crate) retained_partitions: Counter,
    /// Producers that had to be replaced.
    pub(crate) fatal: Counter,
    pub(crate) linger_seconds: Histogram,
    /// Records that came again from a place that was read before: the cluster has lost committed ones.
    pub(crate) rewound: Counter,
    pub(crate) past_reads: Counter,
    pub(crate) past_read_seconds: Histogram,
}

impl LogMetrics {
    pub(crate) fn new() -> Self {
        Self {
            appends: counter!("floodplain_log_appends_total"),
            refused: counter!("floodplain_log_appends_refused_total"),
            unknown: counter!("floodplain_log_appends_unknown_total"),
            batches: counter!("floodplain_log_batches_total"),
            records: counter!("floodplain_log_records_total"),
            appended_bytes: counter!("floodplain_log_appended_bytes_total"),
            append_seconds: histogram!("floodplain_log_append_duration_seconds"),
            queue_bytes: gauge!("floodplain_log_queue_bytes"),
            retained_partitions: counter!("floodplain_log_retention_starts_moved_total"),
            fatal: counter!("floodplain_log_kafka_fatal_errors_total"),
            linger_seconds: histogram!("floodplain_log_kafka_linger_seconds"),
            rewound: counter!("floodplain_log_kafka_rewound_records_total"),
            past_reads: counter!("floodplain_log_kafka_past_reads_total"),
            past_read_seconds: histogram!("floodplain_log_kafka_past_read_duration_seconds"),
        }
    }
}

impl fmt::Debug for LogMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogMetrics")
    }
}

/// Metrics of one client of the cluster, with its kind as the label: `all-0`, `leader`, `tail`, ...
struct ClientMetrics {
    queue_records: Gauge,
    queue_bytes: Gauge,
    requests: Counter,
    sent_bytes: Counter,
    received_bytes: Counter,
    sent_records: Counter,
    received_records: Counter,
    retries: Counter,
    timeouts: Counter,
    disconnects: Counter,
    errors: Counter,
    brokers_up: Gauge,
    waiting_requests: Gauge,
    rtt_seconds: Gauge,
    throttle_seconds: Gauge,
    batch_records: Gauge,
    batch_bytes: Gauge,
}

impl ClientMetrics {
    fn new(kind: &str) -> Self {
        let kind = kind.to_owned();
        macro_rules! of {
            ($make:ident, $name:literal) => {
                $make!(concat!("floodplain_log_kafka_client_", $name), "client" => kind.clone())
            };
        }
        Self {
            queue_records: of!(gauge, "queue_records"),
            queue_bytes: of!(gauge, "queue_bytes"),
            requests: of!(counter, "requests_total"),
            sent_bytes: of!(counter, "sent_bytes_total"),
            received_bytes: of!(counter, "received_bytes_total"),
            sent_records: of!(counter, "sent_records_total"),
            received_records: of!(counter, "received_records_total"),
            retries: of!(counter, "retries_total"),
            timeouts: of!(counter, "request_timeouts_total"),
            disconnects: of!(counter, "disconnects_total"),
            errors: of!(counter, "errors_total"),
            brokers_up: of!(gauge, "brokers_up"),
            waiting_requests: of!(gauge, "waiting_requests"),
            rtt_seconds: of!(gauge, "round_trip_p99_seconds"),
            throttle_seconds: of!(gauge, "throttle_p99_seconds"),
            batch_records: of!(gauge, "batch_records_avg"),
            batch_bytes: of!(gauge, "batch_bytes_avg"),
        }
    }

    /// Returns how many brokers are connected.
    fn take(&self, statistics: &Statistics) -> i32 {
        let total = |counter: &Counter, value: i64| counter.absolute(u64::try_from(value).unwrap_or(0));
        self.queue_records.set(statistics.msg_cnt as f64);
        self.queue_bytes.set(statistics.msg_size as f64);
        total(&self.requests, statistics.tx);
        total(&self.sent_bytes, statistics.tx_bytes);
        total(&self.received_bytes, statistics.rx_bytes);
        total(&self.sent_records, statistics.txmsgs);
        total(&self.received_records, statistics.rxmsgs);
        let (mut up, mut waiting, mut retries, mut timeouts, mut disconnects) = (0, 0, 0, 0, 0);
        let (mut rtt_us, mut throttle_ms) = (None, 0);
        // Logical brokers (a coordinator) are one of the others once more.
        for broker in statistics.brokers.values().filter(|broker| broker.source != "logical") {
            up += i32::from(broker.nodeid >= 0 && matches!(broker.state.as_str(), "UP" | "UPDATE"));
            waiting += broker.waitresp_cnt.max(0);
            retries += broker.txretries;
            timeouts += broker.req_timeouts;
            disconnects += broker.disconnects.unwrap_or(0);
            rtt_us = rtt_us.max(broker.rtt.as_ref().filter(|window| window.cnt > 0).map(|window| window.p99));
            throttle_ms = throttle_ms.max(broker.throttle.as_ref().map_or(0, |window| window.p99));
        }
        self.brokers_up.set(up);
        self.waiting_requests.set(waiting as f64);
        self.retries.absolute(retries);
        self.timeouts.absolute(timeouts);
        total(&self.disconnects, disconnects);
        // Windows are as long as the interval: one in which nothing was asked says nothing.
        if let Some(rtt_us) = rtt_us {
            self.rtt_seconds.set(rtt_us as f64 / 1e6);
        }
        self.throttle_seconds.set(throttle_ms as f64 / 1e3);
        let topics = || statistics.topics.values();
        let average = |gauge: &Gauge, sum: i64, count: i64| {
            if count > 0 {
                gauge.set(sum as f64 / count as f64);
            }
        };
        let (records, bytes) = (topics().map(|topic| &topic.batchcnt), topics().map(|topic| &topic.batchsize));
        average(
            &self.batch_records,
            records.clone().map(|window| window.sum).sum(),
            records.map(|window| window.cnt).sum(),
        );
        average(&self.batch_bytes, bytes.clone().map(|window| window.sum).sum(), bytes.map(|window| window.cnt).sum());
        up
    }
}

/// What a client of the cluster tells us, whatever it is for, and what else it has to do with.
pub(crate) struct Context<T = ()> {
    kind: String,
    metrics: ClientMetrics,
    /// It was said that no broker can be reached: each connection that fails would say it again.
    is_cut_off: AtomicBool,
    /// What takes the answers that only a client of this kind gets.
    pub(crate) takes: T,
}

impl Context {
    pub(crate) fn new(kind: &str) -> Self {
        Self::with(kind, ())
    }
}

impl<T> Context<T> {
    pub(crate) fn with(kind: &str, takes: T) -> Self {
        Self { kind: kind.to_owned(), metrics: ClientMetrics::new(kind), is_cut_off: AtomicBool::new(false), takes }
    }
}

impl<T> fmt::Debug for Context<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<T: Send + Sync> ClientContext for Context<T> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.kind.as_str();
        match level {
            // librdkafka mends what it reports here by itself; what it cannot comes as an error.
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::info!(client, facility, message, "kafka client reports an error");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(client, facility, message, "kafka client reports");
            }
        }
    }

    fn stats(&self, statistics: Statistics) {
        let brokers_up = self.metrics.take(&statistics);
        if brokers_up > 0 && self.is_cut_off.swap(false, Ordering::Relaxed) {
            tracing::info!(client = %self.kind, brokers_up, "kafka brokers can be reached again");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let client = self.kind.as_str();
        let code = error.rdkafka_error_code();
        // Answers to a consumer, which gets them once more as what it has read.
        if matches!(
            code,
            Some(
                RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
            )
        ) {
            return;
        }
        self.metrics.errors.increment(1);
        match code {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if !self.is_cut_off.swap(true, Ordering::Relaxed) {
                    tracing::warn!(client, reason, "no kafka broker can be reached");
                }
            }
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut,
            ) => tracing::info!(client, reason, "connection to a kafka broker failed"),
            _ => tracing::warn!(client, %error, reason, "kafka client failed"),
        }
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_as_librdkafka_writes_them_are_read() {
        let json = r#"{"name":"n","client_id":"c","type":"producer","ts":1,"time":1,"age":1,"replyq":0,"msg_cnt":3,
            "msg_size":40,"msg_max":1,"msg_size_max":1,"simple_cnt":0,"metadata_cache_cnt":1,"brokers":{},"topics":{},
            "tx":5,"tx_bytes":6,"rx":7,"rx_bytes":8,"txmsgs":9,"txmsg_bytes":10,"rxmsgs":11,"rxmsg_bytes":12}"#;
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        ::metrics::with_local_recorder(&recorder, || Context::new("all-0").stats_raw(json.as_bytes()));
        let text = recorder.handle().render();
        for line in [
            "floodplain_log_kafka_client_queue_records{client=\"all-0\"} 3",
            "floodplain_log_kafka_client_queue_bytes{client=\"all-0\"} 40",
            "floodplain_log_kafka_client_sent_records_total{client=\"all-0\"} 9",
            "floodplain_log_kafka_client_received_bytes_total{client=\"all-0\"} 8",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
