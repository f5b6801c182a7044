//! `floodplain bench mqtt`: the same load on any MQTT broker, and what it costs the broker.
//!
//! Written equal for every broker: one generator thread, raw sockets, packets encoded beforehand,
//! one write per PUBLISH. Closed loops only let out what the broker has finished, so nothing has
//! to be dropped, and a message that does not come back is an error and not a statistic.

mod churn;
mod flow;
pub(crate) mod grid;
mod idle;
pub(crate) mod process;

use crate::numbers;
use crate::output::{self, Output, OutputArgs, write_table};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use floodplain_mqtt::{QoS, Version};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::{
    io::Write as _,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

/// Arguments of `floodplain bench mqtt`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The load
    #[arg(value_enum)]
    shape: Shape,
    /// The broker as HOST:PORT
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDRESS")]
    address: String,
    /// Process of the broker, if it runs here: then its CPU time and memory are measured
    #[arg(long)]
    pid: Option<u32>,
    /// Seconds before measuring
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = numbers::seconds)]
    warm_up: f64,
    /// Seconds of measuring
    #[arg(long, default_value_t = 4.0, value_parser = numbers::some_seconds)]
    seconds: f64,
    /// Speak version 5 instead of 3.1.1
    #[arg(long)]
    v5: bool,
    /// Bytes per payload, at least 8
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    payload: usize,
    /// Subscribers of shape c
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    subscribers: usize,
    /// Connections of shape d
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    connections: usize,
    /// Messages per second of shape l
    #[arg(long, default_value_t = 5_000, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rate: u64,
    #[command(flatten)]
    grid: grid::GridArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A load shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// 50 publishers to 1 subscriber, QoS 0
    A1,
    /// 50 publishers to 4 subscribers, QoS 0
    A2,
    /// 50 publishers to 1 subscriber, QoS 1, 100 in flight per publisher
    A3,
    /// 50 publishers to 1 subscriber, QoS 1, 5,000 messages per second together
    L,
    /// QoS 1 until PUBACK, 50 publishers with 20 in flight, nobody subscribed
    B1,
    /// QoS 1 until PUBACK, 50 publishers with 1 in flight, nobody subscribed
    B2,
    /// 1 publisher to 500 subscribers, QoS 0
    C,
    /// Idle connections with one subscription each
    D,
    /// Connections that come and go
    E,
    /// All of these on several brokers that are started here, in turns
    Grid,
}

impl Shape {
    fn name(self) -> String {
        self.to_possible_value().expect("no shape is hidden").get_name().to_owned()
    }
}

/// What one run needs to know, whatever its shape.
#[derive(Debug, Clone)]
struct Load {
    address: SocketAddr,
    pid: Option<u32>,
    version: Version,
    warm_up: Duration,
    measure: Duration,
    payload_bytes: usize,
}

/// What one run found out.
#[derive(Debug)]
struct Report {
    shape: String,
    /// What was counted: "deliveries", "PUBACKs", "connections".
    unit: &'static str,
    /// Of `unit`, while measuring.
    count: u64,
    seconds: f64,
    /// Messages or acknowledgements that never came; must be 0.
    lost: u64,
    /// CPU seconds of the broker while measuring.
    broker_cpu_s: Option<f64>,
    /// The same by the names of its threads.
    broker_threads: Vec<(String, process::Times)>,
    /// Share of one core that the generator used: at 0.9 and above the rate is only a floor.
    generator_load: f64,
    /// Publish to delivery.
    delivery: Option<Histogram<u64>>,
    /// Publish to PUBACK.
    ack: Option<Histogram<u64>>,
    /// KiB of memory per connection (shape d).
    kib_per_connection: Option<f64>,
    /// KiB of memory of the broker at the end.
    broker_rss_kib: Option<u64>,
}

impl Report {
    fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    /// CPU seconds of the broker per million of `unit`.
    fn cpu_s_per_million(&self) -> Option<f64> {
        self.broker_cpu_s.and_then(|cpu| self.per_million(cpu))
    }

    fn per_million(&self, cpu_s: f64) -> Option<f64> {
        (self.count > 0).then(|| cpu_s / self.count as f64 * 1e6)
    }

    fn json(&self) -> Value {
        let latency = |histogram: &Option<Histogram<u64>>| {
            histogram.as_ref().map(
                |h| json!({ "p50": ms(h, 0.5), "p99": ms(h, 0.99), "p999": ms(h, 0.999), "max": h.max() as f64 / 1e6 }),
            )
        };
        let thread = |(name, times): &(String, process::Times)| {
            let [user, system] = [times.user, times.system].map(|time| self.per_million(time.as_secs_f64()));
            (name.clone(), json!({ "user": user, "system": system }))
        };
        let threads: serde_json::Map<String, Value> = self.broker_threads.iter().map(thread).collect();
        json!({
            "shape": self.shape,
            "unit": self.unit,
            "count": self.count,
            "seconds": self.seconds,
            "per_second": self.rate(),
            "lost": self.lost,
            "broker_cpu_s_per_million": self.cpu_s_per_million(),
            "broker_threads_cpu_s_per_million": threads,
            "broker_rss_kib": self.broker_rss_kib,
            "kib_per_connection": self.kib_per_connection,
            "generator_load": self.generator_load,
            "delivery_ms": latency(&self.delivery),
            "ack_ms": latency(&self.ack),
        })
    }

    fn table(&self) -> Vec<[String; 2]> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
        row("shape", self.shape.clone());
        row("counted", self.unit.to_owned());
        row("count", self.count.to_string());
        row("per second", format!("{:.0}", self.rate()));
        row("lost", self.lost.to_string());
        row("generator load", format!("{:.2}", self.generator_load));
        if let Some(cpu) = self.cpu_s_per_million() {
            row("broker CPU s per million", format!("{cpu:.2}"));
        }
        for (name, times) in &self.broker_threads {
            let [user, system] = [times.user, times.system].map(|time| self.per_million(time.as_secs_f64()));
            if let (Some(user), Some(system)) = (user, system) {
                row(&format!("of it threads {name}"), format!("{user:.2} and in the kernel {system:.2}"));
            }
        }
        if let Some(kib) = self.broker_rss_kib {
            row("broker memory KiB", kib.to_string());
        }
        if let Some(kib) = self.kib_per_connection {
            row("KiB per connection", format!("{kib:.2}"));
        }
        for (name, histogram) in [("delivery", &self.delivery), ("PUBACK", &self.ack)] {
            if let Some(h) = histogram.as_ref().filter(|h| !h.is_empty()) {
                for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                    row(&format!("{name} {label} ms"), format!("{:.2}", ms(h, quantile)));
                }
            }
        }
        rows
    }
}

/// A quantile of nanoseconds in milliseconds.
fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e6
}

/// Runs the command.
///
/// # Errors
/// A broker that refuses, and any lost message or acknowledgement.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.payload >= 8, "--payload must be at least 8: the send time is in it");
    process::raise_file_limit()?;
    if args.shape == Shape::Grid {
        return grid::run(args);
    }
    let address = args.address.to_socket_addrs().with_context(|| format!("resolve {}", args.address))?.next();
    let address = address.with_context(|| format!("{} has no address", args.address))?;
    let report = measure(args, args.shape, address, args.pid)?;
    let printed = match args.output.output {
        Output::Json => writeln!(output::stdout(), "{}", report.json()),
        Output::Table => {
            let rows: Vec<Vec<String>> = report.table().into_iter().map(Vec::from).collect();
            write_table(&mut output::stdout(), &["measure".to_owned(), "value".to_owned()], &rows)
        }
    };
    ensure!(report.lost == 0, "{} {} were lost", report.lost, report.unit);
    Ok(printed?)
}

/// One run of one shape on one broker.
fn measure(args: &Args, shape: Shape, address: SocketAddr, pid: Option<u32>) -> Result<Report> {
    use flow::{Flow, Goal, Pace};
    let load = Load {
        address,
        pid,
        version: if args.v5 { Version::V5 } else { Version::V311 },
        warm_up: Duration::from_secs_f64(args.warm_up),
        measure: Duration::from_secs_f64(args.seconds),
        payload_bytes: args.payload,
    };
    let flow = |publishers, subscribers, qos, pace, goal| Flow { publishers, subscribers, qos, pace, goal };
    let (q0, q1) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    let closed = |window, per_publisher| Pace::Closed { window, per_publisher };
    let flow = match shape {
        Shape::A1 => flow(50, 1, q0, closed(5_000, usize::MAX), Goal::Deliveries),
        Shape::A2 => flow(50, 4, q0, closed(5_000, usize::MAX), Goal::Deliveries),
        Shape::A3 => flow(50, 1, q1, closed(5_000, 100), Goal::Deliveries),
        Shape::L => flow(50, 1, q1, Pace::Open { per_second: args.rate }, Goal::Deliveries),
        Shape::B1 => flow(50, 0, q1, closed(usize::MAX, 20), Goal::Acks),
        Shape::B2 => flow(50, 0, q1, closed(usize::MAX, 1), Goal::Acks),
        Shape::C => flow(1, args.subscribers, q0, closed(20, usize::MAX), Goal::Deliveries),
        Shape::D => return idle::run(&load, args.connections),
        Shape::E => return churn::run(&load),
        Shape::Grid => unreachable!("the grid runs other shapes"),
    };
    flow::run(&load, &flow, shape.name())
}
