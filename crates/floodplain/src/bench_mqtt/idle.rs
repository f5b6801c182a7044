//! Shape d: what an idle connection with one subscription costs in memory.

use super::{Load, Report, process::Sample};
use crate::client::wires::{Wire, connect_packet, subscribe_packet};
use anyhow::{Context, Result, ensure};
use floodplain_mqtt::QoS;
use std::{io::Write, time::Duration};

/// Connections that are opened at a time.
const BATCH: usize = 200;
/// How long the broker may settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) fn run(load: &Load, connections: usize) -> Result<Report> {
    ensure!(connections > 0, "--connections must be at least 1");
    // The first client makes the broker set up what it sets up once.
    drop(Wire::connect(load.address, load.version, "bench-first")?);
    std::thread::sleep(SETTLE);
    let before = Sample::take(load.pid)?;
    let mut wires = Vec::with_capacity(connections);
    for first in (0..connections).step_by(BATCH) {
        let batch = first..connections.min(first + BATCH);
        for i in batch.clone() {
            let mut wire = Wire::open(load.address, load.version).with_context(|| format!("connection {i}"))?;
            wire.stream.write_all(&connect_packet(load.version, &format!("device-{i}"))?)?;
            wires.push(wire);
        }
        for i in batch.clone() {
            wires[i].expect_connack().with_context(|| format!("connection {i}"))?;
            let subscribe = subscribe_packet(load.version, &format!("cmd/device-{i}/#"), QoS::AtMostOnce)?;
            wires[i].stream.write_all(&subscribe)?;
        }
        for i in batch {
            wires[i].expect_suback().with_context(|| format!("connection {i}"))?;
        }
    }
    let connected = Sample::take(load.pid)?;
    std::thread::sleep(SETTLE);
    let after = Sample::take(load.pid)?;
    let grown = |after: u64, before: u64| (after as f64 - before as f64) / connections as f64;
    Ok(Report {
        shape: "d".to_owned(),
        unit: "connections",
        count: connections as u64,
        seconds: connected.seconds_since(&before),
        lost: 0,
        broker_cpu_s: connected.broker_cpu_s_since(&before),
        broker_threads: connected.threads_since(&before),
        generator_load: connected.generator_load_since(&before),
        delivery: None,
        ack: None,
        kib_per_connection: after.broker_rss_kib.zip(before.broker_rss_kib).map(|(a, b)| grown(a, b)),
        broker_rss_kib: after.broker_rss_kib,
    })
}
