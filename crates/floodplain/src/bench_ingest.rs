//! `floodplain bench ingest`: the same rows into several databases of time series, and what they cost there, from the
//! socket to files.
//!
//! A row is a device, a time and seven numbers. Databases are started here, on free ports and empty folders, and take
//! turns. CPU time counts from before the first row to the end of the process, which is told to stop once it has rested:
//! so what was put off is paid for, too. How many rows a database has is asked before, and must be what was written. This
//! program writes rows that are still in memory to files when it stops; that none was left is looked at behind the end, when it
//! is started once more.

use crate::{
    bench_mqtt::{
        grid::{free_address, markdown, program},
        process,
    },
    client::{Client, Event, now},
    http::Http,
    output::{self, Output, OutputArgs, write_table},
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use floodplain_mqtt::{Connect, Packet, PacketId, Publish, QoS, ReasonCode as _, Version};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs::File,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const FIELDS: usize = 7;
/// Between two rows of a device.
const STEP_MS: i64 = 10_000;
/// 2026-11-20T00:00:00Z.
const START_MS: i64 = 1_795_132_800_000;
/// A database that takes less of a core than this for [`REST`] has done what it put off.
const IDLE_SHARE: f64 = 0.05;
const REST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(120);
const START_MAX: Duration = Duration::from_secs(60);
/// Messages that wait for their PUBACK.
const WINDOW: usize = 2_000;

/// Arguments of `floodplain bench ingest`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who takes the rows, and how
    #[arg(value_enum, default_values = ["floodplain-lines", "floodplain-json", "influxdb", "victoria-metrics"])]
    ways: Vec<Way>,
    /// Rows that are written, in each round
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: u64,
    /// Devices that have them in turns
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    devices: u64,
    /// Lines in one request
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    batch: u64,
    /// Rounds; a claim needs 5
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Folder for the data, on the disk that is to be measured; a new one in it is removed at the end
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// A database, and the form in which it gets the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// This program, line protocol over HTTP
    FloodplainLines,
    /// This program, a JSON object per row over MQTT at QoS 1
    FloodplainJson,
    /// InfluxDB 1, line protocol over HTTP
    Influxdb,
    /// VictoriaMetrics, line protocol over HTTP
    VictoriaMetrics,
}

impl Way {
    fn name(self) -> String {
        self.to_possible_value().expect("no way is hidden").get_name().to_owned()
    }

    fn command(self, folder: &Path, http: SocketAddr, mqtt: SocketAddr) -> Result<Command> {
        Ok(match self {
            Self::FloodplainLines | Self::FloodplainJson => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("serve").env("FLOODPLAIN_DATA_DIR", folder.join("data"));
                command.env("FLOODPLAIN_MQTT__ADDRESS", mqtt.to_string());
                command.env("FLOODPLAIN_HTTP__ADDRESS", http.to_string());
                command.env("FLOODPLAIN_POSTGRES__ADDRESS", "127.0.0.1:0");
                command
            }
            Self::Influxdb => {
                let config = folder.join("influxdb.conf");
                let dir = |name: &str| folder.join(name);
                std::fs::write(
                    &config,
                    format!(
                        "reporting-enabled = false\nbind-address = \"{}\"\n[meta]\n  dir = {:?}\n[data]\n  dir = {:?}\n  \
                         wal-dir = {:?}\n  query-log-enabled = false\n[monitor]\n  store-enabled = false\n[http]\n  \
                         bind-address = \"{http}\"\n  log-enabled = false\n",
                        free_address()?,
                        dir("meta"),
                        dir("data"),
                        dir("wal"),
                    ),
                )?;
                let mut command = Command::new(program("influxd", "influxdb")?);
                command.arg("-config").arg(&config);
                command
            }
            Self::VictoriaMetrics => {
                let mut command = Command::new(program("victoria-metrics", "victoria-metrics")?);
                command.arg(format!("-storageDataPath={}", folder.join("data").display()));
                command.arg(format!("-httpListenAddr={http}"));
                command.args([
                    "-retentionPeriod=10y",
                    "-search.latencyOffset=0s",
                    "-search.maxUniqueTimeseries=100000000",
                ]);
                command
            }
        })
    }

    /// Where it answers when it has started.
    const fn health(self) -> &'static str {
        match self {
            Self::FloodplainLines | Self::FloodplainJson => "readyz",
            Self::Influxdb => "ping",
            Self::VictoriaMetrics => "health",
        }
    }
}

/// A database that runs; killed when dropped.
struct Running {
    child: Child,
    http: String,
    mqtt: SocketAddr,
    agent: ureq::Agent,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    fn start(way: Way, folder: &Path) -> Result<Self> {
        let (http, mqtt) = (free_address()?, free_address()?);
        let log = File::create(folder.join("server.log"))?;
        let mut command = way.command(folder, http, mqtt)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("start {}", way.name()))?;
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let mut running = Self { child, http: format!("http://{http}"), mqtt, agent };
        let deadline = now() + START_MAX;
        while !running.is_there(way) {
            let log = || std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
            if let Some(status) = running.child.try_wait()? {
                bail!("{} ended with {status}: {}", way.name(), log());
            }
            ensure!(now() < deadline, "{} does not answer: {}", way.name(), log());
            std::thread::sleep(Duration::from_millis(20));
        }
        if way == Way::Influxdb {
            running.post("query?q=CREATE%20DATABASE%20bench", "")?;
        }
        Ok(running)
    }

    fn is_there(&self, way: Way) -> bool {
        let answer = self.agent.get(format!("{}/{}", self.http, way.health())).call();
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn post(&self, path: &str, body: &str) -> Result<String> {
        let answer = self.agent.post(format!("{}/{path}", self.http)).send(body)?;
        let status = answer.status();
        let text = answer.into_body().read_to_string()?;
        ensure!(status.is_success(), "{path} answered {status}: {text:.500}");
        Ok(text)
    }

    fn get(&self, path: &str) -> Result<Value> {
        let text = self.agent.get(format!("{}/{path}", self.http)).call()?.into_body().read_to_string()?;
        serde_json::from_str(&text).with_context(|| format!("{path} answered {text:.500}"))
    }

    /// Rows that a query finds.
    fn rows(&self, way: Way, load: &Load) -> Result<u64> {
        match way {
            Way::FloodplainLines | Way::FloodplainJson => {
                let query = json!({ "query": "SELECT count(*) AS n FROM bench" });
                let answer = Http::new(&self.http).ask("POST", "sql", Some(&query))?;
                answer["rows"][0]["n"].as_u64().with_context(|| answer.to_string())
            }
            Way::Influxdb => {
                let answer = self.get("query?db=bench&q=SELECT%20count(f0)%20FROM%20bench")?;
                Ok(answer["results"][0]["series"][0]["values"][0][1].as_u64().unwrap_or(0))
            }
            Way::VictoriaMetrics => {
                let (seconds, end) = (load.rows.div_ceil(load.devices) * 10 + 10, load.end_ms() / 1000);
                let path = format!("api/v1/query?query=sum(count_over_time(bench_f0[{seconds}s]))&time={end}");
                let answer = self.get(&path)?;
                let count = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0");
                Ok(count.parse::<f64>()? as u64)
            }
        }
    }

    /// Waits until it has done what it put off; in vain if it never rests.
    fn rest(&self) -> Result<()> {
        let deadline = now() + REST_MAX;
        let mut before = process::cpu(self.child.id())?;
        while now() < deadline {
            std::thread::sleep(REST);
            let after = process::cpu(self.child.id())?;
            if (after - before).as_secs_f64() < IDLE_SHARE * REST.as_secs_f64() {
                return Ok(());
            }
            before = after;
        }
        Ok(())
    }

    /// Tells it to stop; its CPU time to the end.
    fn stop(mut self) -> Result<Duration> {
        let pid = self.child.id();
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
        let deadline = now() + START_MAX;
        // What has ended keeps its times until it is waited for.
        while !process::has_ended(pid)? {
            ensure!(now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
        let cpu = process::cpu(pid)?;
        self.child.wait()?;
        Ok(cpu)
    }
}

/// The rows.
#[derive(Debug, Clone, Copy)]
struct Load {
    rows: u64,
    devices: u64,
    batch: u64,
}

impl Load {
    fn row(&self, n: u64) -> (u64, i64, [f64; FIELDS]) {
        let (device, turn) = (n % self.devices, n / self.devices);
        // Numbers with two digits that wander: a hash of device and field, and a slow wave.
        let field = |at: usize| {
            let noise = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17 + 7 * at as u32) >> 40) % 500;
            let base = (device * 7 + at as u64) % 90 * 100;
            let wave = ((turn as f64 / 60.0 + at as f64).sin() * 1_000.0) as i64;
            (base as i64 + wave + noise as i64) as f64 / 100.0
        };
        (device, START_MS + turn as i64 * STEP_MS, std::array::from_fn(field))
    }

    fn end_ms(&self) -> i64 {
        START_MS + self.rows.div_ceil(self.devices) as i64 * STEP_MS
    }

    fn lines(&self, from: u64, out: &mut String) {
        out.clear();
        for n in from..(from + self.batch).min(self.rows) {
            let (device, ms, fields) = self.row(n);
            write!(out, "bench,device=device-{device:06} ").expect("a String takes all");
            for (at, value) in fields.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                write!(out, "{comma}f{at}={value}").expect("a String takes all");
            }
            writeln!(out, " {ms}000000").expect("a String takes all");
        }
    }

    fn post(&self, running: &Running, path: &str) -> Result<()> {
        let mut lines = String::new();
        for from in (0..self.rows).step_by(self.batch as usize) {
            self.lines(from, &mut lines);
            running.post(path, &lines)?;
        }
        Ok(())
    }

    fn publish(&self, running: &Running) -> Result<()> {
        let mut connect = Connect::new(Version::V311, "bench");
        connect.clean_start = true;
        let (mut client, welcome) = Client::connect(&running.mqtt.to_string(), &connect)?;
        let window = WINDOW.min(usize::from(welcome.receive_maximum));
        let (mut waiting, mut next) = (0, 0);
        let (mut topic, mut payload) = (String::new(), String::new());
        while next < self.rows || waiting > 0 {
            while next < self.rows && waiting < window {
                let (device, ms, fields) = self.row(next);
                topic.clear();
                payload.clear();
                write!(topic, "devices/device-{device:06}/bench")?;
                write!(payload, "{{\"time\":{ms}")?;
                for (at, value) in fields.iter().enumerate() {
                    write!(payload, ",\"f{at}\":{value}")?;
                }
                payload.push('}');
                let id = PacketId::new((next % u64::from(u16::MAX)) as u16 + 1).expect("it is not 0");
                let mut publish = Publish::new(&topic, payload.as_bytes());
                publish.qos = QoS::AtLeastOnce;
                publish.packet_id = Some(id);
                client.queue(&Packet::Publish(publish))?;
                (next, waiting) = (next + 1, waiting + 1);
            }
            match client.next(now() + START_MAX)? {
                Some(Event::Puback(_, code)) => {
                    ensure!(!code.is_failure(), "a row was refused: {code:?}");
                    waiting -= 1;
                }
                Some(other) => bail!("expected PUBACK, got {other:?}"),
                None => bail!("no PUBACK within {START_MAX:?}"),
            }
        }
        client.leave()
    }
}

#[derive(Debug, Clone, Copy)]
struct Report {
    /// CPU seconds of the database, per million rows.
    cpu: f64,
    /// Rows per second until the last was acknowledged.
    rate: f64,
    /// Bytes on the disk after the end, per row: of Floodplain's, log and files.
    bytes: f64,
    rss_kib: u64,
}

fn measure(way: Way, load: &Load, folder: &Path) -> Result<Report> {
    let running = Running::start(way, folder)?;
    let (start, begun) = (process::cpu(running.child.id())?, now());
    match way {
        Way::FloodplainLines => load.post(&running, "write?precision=ns")?,
        Way::FloodplainJson => load.publish(&running)?,
        Way::Influxdb | Way::VictoriaMetrics => load.post(&running, "write?db=bench&precision=ns")?,
    }
    let seconds = begun.elapsed().as_secs_f64();
    running.rest()?;
    let (rss_kib, before) = (process::rss_kib(running.child.id())?, process::cpu(running.child.id())?);
    let rows = running.rows(way, load)?;
    ensure!(rows == load.rows, "{} rows were written and {rows} are there", load.rows);
    // The question is not part of it.
    let asked = process::cpu(running.child.id())? - before;
    let cpu = running.stop()? - start - asked;
    let millions = load.rows as f64 / 1e6;
    let report = Report {
        cpu: cpu.as_secs_f64() / millions,
        rate: load.rows as f64 / seconds,
        bytes: bytes_in(folder)? as f64 / load.rows as f64,
        rss_kib,
    };
    if matches!(way, Way::FloodplainLines | Way::FloodplainJson) {
        all_in_files(way, load, folder)?;
    }
    Ok(report)
}

/// Starts once more, and sees that no row comes from the log: all of them were in files at the stop.
fn all_in_files(way: Way, load: &Load, folder: &Path) -> Result<()> {
    let running = Running::start(way, folder)?;
    let rows = running.rows(way, load)?;
    ensure!(rows == load.rows, "{} rows were written and {rows} are there after a restart", load.rows);
    let metrics = running.agent.get(format!("{}/metrics", running.http)).call()?.into_body().read_to_string()?;
    let decoded = metrics.lines().find_map(|line| line.strip_prefix("floodplain_history_rows_total "));
    ensure!(decoded.is_none_or(|count| count == "0"), "{decoded:?} rows were in memory only when it stopped");
    running.stop().map(drop)
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Runs the command.
///
/// # Errors
/// A database that is not installed, refuses, or has other rows than were written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let load = Load { rows: args.rows, devices: args.devices, batch: args.batch };
    let mut reports: Vec<(Way, Vec<Report>)> = args.ways.iter().map(|way| (*way, Vec::new())).collect();
    for round in 1..=args.rounds {
        for (way, reports) in &mut reports {
            let folder = tempfile::tempdir_in(&args.dir);
            let folder = folder.with_context(|| format!("make a folder in {}", args.dir.display()))?;
            let name = way.name();
            let report = measure(*way, &load, folder.path()).with_context(|| format!("round {round}, {name}"))?;
            eprintln!("round {round}, {name}: {:.2} CPU s per million rows, {:.0} rows/s", report.cpu, report.rate);
            reports.push(report);
        }
    }
    let median = |reports: &[Report], of: fn(&Report) -> f64| {
        let mut values: Vec<f64> = reports.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut out = output::stdout();
    match args.output.output {
        Output::Json => {
            let ways: Vec<Value> = reports
                .iter()
                .map(|(way, reports)| {
                    let rounds = reports.iter().map(|report| {
                        json!({ "cpu_s_per_million": report.cpu, "rows_per_second": report.rate,
                                "bytes_per_row": report.bytes, "rss_kib": report.rss_kib })
                    });
                    json!({ "way": way.name(), "rounds": rounds.collect::<Vec<_>>() })
                })
                .collect();
            writeln!(out, "{}", json!({ "rows": load.rows, "devices": load.devices, "ways": ways }))?;
        }
        Output::Table => {
            let header = ["way", "CPU s per million rows", "rows per second", "bytes on disk per row", "memory MiB"];
            let header: Vec<String> = header.into_iter().map(str::to_owned).collect();
            let row = |(way, reports): &(Way, Vec<Report>)| {
                vec![
                    way.name(),
                    format!("{:.2}", median(reports, |report| report.cpu)),
                    format!("{:.0}", median(reports, |report| report.rate)),
                    format!("{:.1}", median(reports, |report| report.bytes)),
                    format!("{:.0}", median(reports, |report| report.rss_kib as f64 / 1024.0)),
                ]
            };
            let rows: Vec<Vec<String>> = reports.iter().map(row).collect();
            write_table(&mut out, &header, &rows)?;
            writeln!(out, "\n{}", markdown(&header, &rows))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_written_once_in_batches() {
        let load = Load { rows: 10, devices: 3, batch: 4 };
        let (mut all, mut lines) = (String::new(), String::new());
        for from in (0..load.rows).step_by(4) {
            load.lines(from, &mut lines);
            all.push_str(&lines);
        }
        let keys: std::collections::BTreeSet<_> =
            all.lines().map(|line| (line.split(' ').next(), line.rsplit(' ').next())).collect();
        assert_eq!((all.lines().count(), keys.len()), (10, 10));
        assert!(all.starts_with("bench,device=device-000000 f0="), "{all}");
    }
}
