//! `floodplain bench mqtt grid`: several brokers in turns, in one run, as a table.
//!
//! Every cell gets a fresh broker on a free port and an empty folder. Brokers take turns within a
//! round, so that whatever else the machine does hits them alike; the table shows medians.

use super::{Args, Report, Shape, measure, ms};
use crate::{
    client::now,
    output::{self, Output, write_table},
};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::json;
use std::{
    fs::File,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Arguments of the grid.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GridArgs {
    /// Brokers of the grid
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["floodplain", "mosquitto", "nats"])]
    brokers: Vec<Broker>,
    /// Shapes of the grid
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["a1", "a2", "a3", "l", "b1", "b2", "c", "d", "e"])]
    shapes: Vec<Shape>,
    /// Rounds of the grid; a claim needs 5
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Folder for the brokers' data, on the disk that is to be measured; a new one in it is removed at the end
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    dir: PathBuf,
}

/// A broker that the grid can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Broker {
    /// This program: acknowledges after the disk has it
    Floodplain,
    /// Mosquitto without persistence
    Mosquitto,
    /// nats-server with its file store, default sync
    Nats,
}

impl Broker {
    fn name(self) -> String {
        self.to_possible_value().expect("no broker is hidden").get_name().to_owned()
    }

    /// The program, and its version as it says it.
    fn version(self) -> Result<String> {
        let (mut command, flag) = match self {
            Self::Floodplain => (Command::new(std::env::current_exe()?), "--version"),
            Self::Mosquitto => (Command::new(program("mosquitto", "mosquitto")?), "-h"),
            Self::Nats => (Command::new(program("nats-server", "nats-server")?), "--version"),
        };
        let output = command.arg(flag).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

/// Finds a program; Debian keeps servers where a user's PATH does not look.
pub(crate) fn program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed: apt-get install {package}, or leave it out"))
}

/// A broker that runs; killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn start(broker: Broker, folder: &Path) -> Result<Running> {
    let address = free_address()?;
    let log = File::create(folder.join("broker.log"))?;
    let config = folder.join("broker.conf");
    let mut command = match broker {
        Broker::Floodplain => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("serve");
            command.env("FLOODPLAIN_DATA_DIR", folder.join("data"));
            command.env("FLOODPLAIN_MQTT__ADDRESS", address.to_string());
            command.env("FLOODPLAIN_HTTP__ADDRESS", "127.0.0.1:0");
            command.env("FLOODPLAIN_POSTGRES__ADDRESS", "127.0.0.1:0");
            command
        }
        Broker::Mosquitto => {
            let port = address.port();
            let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n");
            std::fs::write(&config, text)?;
            let mut command = Command::new(program("mosquitto", "mosquitto")?);
            command.arg("-c").arg(&config);
            command
        }
        Broker::Nats => {
            let store = folder.join("store");
            std::fs::write(
                &config,
                format!(
                    "server_name: bench\nlisten: \"{}\"\njetstream {{ store_dir: {:?} }}\nmqtt {{ listen: \"{address}\" }}\n",
                    free_address()?,
                    store
                ),
            )?;
            let mut command = Command::new(program("nats-server", "nats-server")?);
            command.arg("-c").arg(&config);
            command
        }
    };
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    let mut running = Running { child: child.with_context(|| format!("start {}", broker.name()))?, address };
    let deadline = now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        let log = || std::fs::read_to_string(folder.join("broker.log")).unwrap_or_default();
        if let Some(status) = running.child.try_wait()? {
            bail!("{} ended with {status}: {}", broker.name(), log());
        }
        ensure!(now() < deadline, "{} does not listen: {}", broker.name(), log());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(running)
}

/// Median and 99th percentile of `fdatasync` after a write of 4 KiB, in milliseconds.
fn sync_ms(folder: &Path) -> Result<(f64, f64)> {
    let mut file = File::create(folder.join("sync-probe"))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        file.write_all(&[1; 4_096])?;
        let since = now();
        file.sync_data()?;
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[49], times[98]))
}

/// Results of one broker and shape over all rounds.
struct Cell {
    broker: Broker,
    shape: Shape,
    reports: Vec<Report>,
    failures: Vec<String>,
}

impl Cell {
    fn median(&self, value: impl Fn(&Report) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.reports.iter().filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// What a column shows of a report.
type Measure = fn(&Report) -> Option<f64>;

const COLUMNS: &[(&str, usize, Measure)] = &[
    ("CPU s per million", 2, |r| r.cpu_s_per_million()),
    ("per second", 0, |r| Some(r.rate())),
    ("delivery p50 ms", 2, |r| r.delivery.as_ref().map(|h| ms(h, 0.5))),
    ("delivery p99 ms", 2, |r| r.delivery.as_ref().map(|h| ms(h, 0.99))),
    ("PUBACK p50 ms", 2, |r| r.ack.as_ref().map(|h| ms(h, 0.5))),
    ("PUBACK p99 ms", 2, |r| r.ack.as_ref().map(|h| ms(h, 0.99))),
    ("KiB per connection", 2, |r| r.kib_per_connection),
    ("memory MiB", 1, |r| r.broker_rss_kib.map(|kib| kib as f64 / 1024.0)),
    ("generator load", 2, |r| Some(r.generator_load)),
];

pub(super) fn run(args: &Args) -> Result<()> {
    let grid = &args.grid;
    ensure!(!grid.shapes.contains(&Shape::Grid), "the grid cannot hold itself");
    let versions: Vec<String> = grid.brokers.iter().map(|broker| broker.version()).collect::<Result<_>>()?;
    let mut cells = Vec::new();
    for shape in &grid.shapes {
        for broker in &grid.brokers {
            cells.push(Cell { broker: *broker, shape: *shape, reports: Vec::new(), failures: Vec::new() });
        }
    }
    let mut syncs = Vec::new();
    for round in 1..=grid.rounds {
        for cell in &mut cells {
            let folder =
                tempfile::tempdir_in(&grid.dir).with_context(|| format!("make a folder in {}", grid.dir.display()))?;
            syncs.push(sync_ms(folder.path())?);
            let running = start(cell.broker, folder.path())?;
            let name = format!("round {round}, {} on {}", cell.shape.name(), cell.broker.name());
            match measure(args, cell.shape, running.address, Some(running.child.id())) {
                Ok(report) if report.lost == 0 => {
                    let cpu = report.cpu_s_per_million().unwrap_or_default();
                    eprintln!("{name}: {:.0}/s, {cpu:.2} CPU s per million", report.rate());
                    cell.reports.push(report);
                }
                Ok(report) => cell.failures.push(format!("{name}: {} {} lost", report.lost, report.unit)),
                Err(error) => cell.failures.push(format!("{name}: {error:#}")),
            }
        }
    }
    syncs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (sync_p50, sync_p99) = syncs[syncs.len() / 2];
    let failures: Vec<&String> = cells.iter().flat_map(|cell| &cell.failures).collect();
    let mut out = output::stdout();
    match args.output.output {
        Output::Json => {
            let cells: Vec<_> = cells
                .iter()
                .map(|cell| {
                    let reports: Vec<_> = cell.reports.iter().map(Report::json).collect();
                    json!({ "broker": cell.broker.name(), "shape": cell.shape.name(), "rounds": reports })
                })
                .collect();
            let sync = json!({ "p50": sync_p50, "p99": sync_p99 });
            writeln!(
                out,
                "{}",
                json!({ "versions": versions, "fdatasync_ms": sync, "cells": cells, "failures": failures })
            )?;
        }
        Output::Table => {
            for version in &versions {
                writeln!(out, "{version}")?;
            }
            writeln!(
                out,
                "fdatasync of 4 KiB: p50 {sync_p50:.2} ms, p99 {sync_p99:.2} ms (median of {} looks)\n",
                syncs.len()
            )?;
            let mut header = vec!["shape".to_owned(), "broker".to_owned()];
            header.extend(COLUMNS.iter().map(|(name, ..)| (*name).to_owned()));
            let rows: Vec<Vec<String>> = cells.iter().map(row).collect();
            write_table(&mut out, &header, &rows)?;
            writeln!(out, "\n{}", markdown(&header, &rows))?;
        }
    }
    ensure!(failures.is_empty(), "{} runs failed: {failures:?}", failures.len());
    Ok(())
}

fn row(cell: &Cell) -> Vec<String> {
    let mut row = vec![cell.shape.name(), cell.broker.name()];
    for (_, digits, measure) in COLUMNS {
        row.push(cell.median(measure).map(|value| format!("{value:.digits$}")).unwrap_or_default());
    }
    row
}

/// The same table for a page.
pub(crate) fn markdown(header: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header);
    text.push_str(&line(&vec!["---".to_owned(); header.len()]));
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}
