//! What a message costs where the log is on Apache Kafka: CPU time of the server and of its brokers, batches, requests.
//!
//! `kafka-speed FLOODPLAIN [SECONDS]`: for 1, 8, 16 and 64 partitions a fresh server on three brokers of this machine takes QoS 1 until
//! PUBACK, from 50 publishers with 20 and with 1 in flight, each twice as long, of which the second half counts. Prints a table.
#![allow(clippy::print_stdout, reason = "its table is what it is for")]

use anyhow::{Context as _, Result, ensure};
use floodplain_testkit::{
    Program, Server,
    kafka::{KafkaCluster, KafkaJars, KafkaOptions},
};
use serde_json::Value;
use std::{path::Path, process::Command};

const PARTITIONS: [u32; 4] = [1, 8, 16, 64];
/// Shapes of `floodplain bench mqtt`.
const SHAPES: [&str; 2] = ["b1", "b2"];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let binary = args.next().context("usage: kafka-speed FLOODPLAIN [SECONDS]")?;
    let seconds = args.next().unwrap_or_else(|| "10".to_owned());
    let folder = tempfile::tempdir()?;
    // As `cargo xtask kafka up` has them: with less memory the topics of all these servers are collected again and again.
    let options = KafkaOptions { heap_mib: 1024, quick_compiler: false, ..KafkaOptions::default() };
    let cluster = KafkaCluster::start(&KafkaJars::find()?, 3, &folder.path().join("brokers"), options)?;
    // Java compiles what is used much, for minutes beside everything else, and brokers cost three times as much meanwhile.
    for (shape, seconds) in [("b2", "60"), ("b1", "15")] {
        measure(&binary, &folder.path().join(format!("warm-up-{shape}")), &cluster, 64, shape, seconds)?;
    }
    println!(
        "| partitions | in flight | per second | PUBACK p50 ms | PUBACK p99 ms | CPU s per million, server | brokers | records per batch | bytes per batch | requests per second | requests per million |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for partitions in PARTITIONS {
        for shape in SHAPES {
            let folder = folder.path().join(format!("{partitions}-{shape}"));
            println!("{}", measure(&binary, &folder, &cluster, partitions, shape, &seconds)?);
        }
    }
    Ok(cluster.stop()?)
}

/// A row of the table.
fn measure(
    binary: &str,
    folder: &Path,
    cluster: &KafkaCluster,
    partitions: u32,
    shape: &str,
    seconds: &str,
) -> Result<String> {
    std::fs::create_dir_all(folder)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let variables = vec![
        ("FLOODPLAIN_LOG__ENGINE", "kafka".to_owned()),
        ("FLOODPLAIN_KAFKA__BROKERS", cluster.bootstrap()),
        ("FLOODPLAIN_KAFKA__TOPIC_PREFIX", format!("{name}-")),
        ("FLOODPLAIN_KAFKA__SLOTS", "16".to_owned()),
        ("FLOODPLAIN_MQTT__PARTITIONS", partitions.to_string()),
    ];
    let program = Program { variables, ..Program::new(Path::new(binary), folder) };
    let server = program.start()?;
    let bench = || -> Result<Value> {
        let output = Command::new(binary)
            .args(["bench", "mqtt", shape, "--seconds", seconds, "--output", "json", "--address"])
            .arg(server.mqtt.to_string())
            .output()?;
        ensure!(output.status.success(), "bench: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(report["lost"] == 0, "messages were lost: {report}");
        Ok(report)
    };
    bench()?;
    let before = Moment::now(&server, cluster)?;
    let report = bench()?;
    let after = Moment::now(&server, cluster)?;
    let metrics = server.metrics()?;
    let producers = |name: &str| {
        // Those of class `all` did the work; what they have not sent for a while says nothing.
        let name = format!("floodplain_log_kafka_client_{name}{{client=\"all-");
        let values = metrics.lines().filter(|line| line.starts_with(&name)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<f64>().ok()).fold(0.0, f64::max)
    };
    let (batch_records, batch_bytes) = (producers("batch_records_avg"), producers("batch_bytes_avg"));
    let millions = (after.records - before.records) / 1e6;
    let took = (after.at - before.at).as_secs_f64();
    let requests = after.requests - before.requests;
    let number = |value: &Value| value.as_f64().map_or("-".to_owned(), |value| format!("{value:.1}"));
    let row = format!(
        "| {partitions} | {} | {:.0} | {} | {} | {:.1} | {:.1} | {batch_records:.1} | {batch_bytes:.0} | {:.0} | {:.0} |",
        if shape == "b1" { 20 } else { 1 },
        report["per_second"].as_f64().unwrap_or_default(),
        number(&report["ack_ms"]["p50"]),
        number(&report["ack_ms"]["p99"]),
        (after.server_s - before.server_s) / millions,
        (after.brokers_s - before.brokers_s) / millions,
        requests / took,
        requests / millions,
    );
    server.terminate()?;
    Ok(row)
}

/// What was spent up to a moment.
struct Moment {
    at: std::time::Instant,
    server_s: f64,
    brokers_s: f64,
    /// That the log has taken: messages, and the little that the server writes itself.
    records: f64,
    /// Of producers of class `all`.
    requests: f64,
}

impl Moment {
    #[expect(clippy::disallowed_methods, reason = "other processes do not run by a clock of ours")]
    fn now(server: &Server, cluster: &KafkaCluster) -> Result<Self> {
        // librdkafka tells its statistics once a second.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let mut brokers_s = 0.0;
        for node in cluster.nodes() {
            brokers_s += cpu_s(cluster.pid(node)?.context("a broker has died")?)?;
        }
        let metrics = server.metrics()?;
        let sum = |prefix: &str| {
            let values = metrics.lines().filter(|line| line.starts_with(prefix));
            values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Ok(Self {
            at: std::time::Instant::now(),
            server_s: cpu_s(server.pid())?,
            brokers_s,
            records: sum("floodplain_log_records_total "),
            requests: sum("floodplain_log_kafka_client_requests_total{client=\"all-"),
        })
    }
}

/// CPU time that a process has used, in the program and in the kernel.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc(5): behind the name, which may have blanks, utime is field 14 and stime 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
