//! What librdkafka knows of itself is in our metrics.

use crate::fixture::{Kafka, open, stream, wait_for, write};
use floodplain_log_kafka::KafkaConfig;
use floodplain_testkit::wait_until;
use std::time::Duration;

#[test]
fn clients_of_a_real_cluster_become_metrics() {
    let kafka = Kafka::share();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let config = KafkaConfig { statistics_interval: Duration::from_millis(200), producers: 1, ..kafka.config() };
    let log = metrics::with_local_recorder(&recorder, || open(config));
    let partition = stream(&log, "a", 1).partition(0);
    let last = (0..10).map(|i| write(&log, partition, &i.to_string())).max().unwrap();
    wait_for(&log, partition, last.next());
    let text = recorder.handle().render();
    assert!(text.contains("floodplain_log_records_total 10\n"), "{text}");
    assert!(text.contains("floodplain_log_appends_total 11\n"), "with the entry of the stream: {text}");
    let value = |name: &str, client: &str| -> f64 {
        let start = format!("floodplain_log_kafka_client_{name}{{client=\"{client}\"}} ");
        let text = recorder.handle().render();
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0.0)
    };
    for (name, client, least) in [
        // The entry of the stream, too.
        ("sent_records_total", "all-0", 11.0),
        ("received_records_total", "tail", 11.0),
        ("brokers_up", "tail", 1.0),
        ("round_trip_p99_seconds", "all-0", 1e-6),
        ("batch_records_avg", "all-0", 1.0),
        ("requests_total", "lookup", 1.0),
    ] {
        // Averages are those of one interval.
        let goes_on = || {
            write(&log, partition, "more");
        };
        wait_until(&format!("{name} of {client}"), &goes_on, || value(name, client) >= least);
    }
}
