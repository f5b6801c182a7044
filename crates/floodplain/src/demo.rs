//! `floodplain demo`: a server in this process, a simulated fleet that publishes to it over MQTT,
//! and live counts in the terminal.

use crate::{
    client::now,
    sim::{Counts, Fleet},
    sql,
};
use anyhow::{Context as _, Result, bail};
use floodplain_server::{Addresses, Config, Server, Sources, parse_duration, start_logs};
use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

/// How often the counts are shown.
const TURN: Duration = Duration::from_secs(1);
/// Every how many turns SQL is asked: a query of the whole log is no thing for every second.
const TURNS_PER_QUERY: u64 = 3;
const QUERY: &str = "SELECT count(*) AS n, count(DISTINCT device) AS devices FROM records WHERE stream = 'telemetry'";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Devices: trucks, thermostats, motors and soil sensors in turn
    #[arg(long, default_value_t = 200, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// Readings per second of all devices together
    #[arg(long, default_value_t = 1_000.0, value_name = "PER_SECOND")]
    rate: f64,
    /// Share of devices with a fault: drop-out, drift, wrong clock or bad payload
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    faults: f64,
    /// What the fleet does follows from this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after this time, such as 30s; run until Ctrl-C if left out
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Keep the data in this folder; a temporary one, removed at the end, if left out
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Listener for MQTT; port 0 takes a free port
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    mqtt_address: String,
    /// Listener for HTTP; port 0 takes a free port
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    http_address: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "must carry its unit, such as 30s or 5m".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    anyhow::ensure!((0.0..=1.0).contains(&args.faults), "--faults must be between 0 and 1");
    let temporary = match args.data_dir {
        None => Some(tempfile::Builder::new().prefix("floodplain-demo-").tempdir().context("no temporary folder")?),
        Some(_) => None,
    };
    let data_dir = match (&args.data_dir, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(folder)) => folder.path().to_owned(),
        (None, None) => unreachable!("one of the two is there"),
    };
    let flag = |name: &str, key: &str, value: &str| (name.to_owned(), key.to_owned(), value.to_owned());
    let config = Config::load(&Sources {
        flags: vec![
            flag("--data-dir", "data_dir", &data_dir.to_string_lossy()),
            flag("--mqtt-address", "mqtt.address", &args.mqtt_address),
            flag("--http-address", "http.address", &args.http_address),
            flag("demo", "postgres.address", "127.0.0.1:0"),
            // What is odd is still said; the table is for the rest.
            flag("demo", "tracing.level", "warn"),
        ],
        ..Sources::default()
    })?;
    start_logs(&config);
    let server = Server::start(&config)?;
    let result = show(args, &server, &data_dir.to_string_lossy());
    server.stop();
    result
}

/// Runs the fleet and shows what it does, until the time is over or a signal comes.
fn show(args: &Args, server: &Server, data_dir: &str) -> Result<()> {
    let addresses = server.addresses();
    let url = format!("http://{}", addresses.http);
    let fleet = Fleet {
        address: addresses.mqtt,
        devices: args.devices,
        rate_per_s: args.rate,
        count: None,
        seed: args.seed,
        faults: args.faults,
        threads: 1,
    }
    .start()?;
    let mut screen = Screen::new();
    print_heading(&addresses, data_dir)?;
    let started = now();
    let mut before = (started, 0);
    let mut answer = Answer::default();
    for turn in 1.. {
        let left = args.duration.map_or(TURN, |limit| limit.saturating_sub(started.elapsed()).min(TURN));
        let signalled = server.wait_for_signal(Some(left));
        let counts = fleet.counts();
        if turn % TURNS_PER_QUERY == 0 {
            answer = Answer::ask(&url)?;
        }
        let seconds = before.0.elapsed().as_secs_f64();
        let rate = (counts.acked - before.1) as f64 / seconds.max(1e-3);
        before = (now(), counts.acked);
        screen.show(&lines(&counts, rate, &answer, started))?;
        if signalled || args.duration.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        if fleet.is_finished() {
            fleet.stop()?;
            bail!("the fleet has ended before its time");
        }
    }
    let counts = fleet.stop()?;
    let answer = Answer::ask(&url)?;
    println!("\nacknowledged {}, SQL counts {} messages of {} devices", counts.acked, answer.messages, answer.devices);
    if answer.messages < counts.acked {
        bail!("{} acknowledged messages are missing", counts.acked - answer.messages);
    }
    Ok(())
}

fn print_heading(addresses: &Addresses, data_dir: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let (mqtt, http) = (addresses.mqtt, addresses.http);
    writeln!(out, "Floodplain demo: MQTT {mqtt}, HTTP {http}, data in {data_dir}")?;
    writeln!(out, "Watch it from another terminal:")?;
    writeln!(out, "  mosquitto_sub -p {} -t '#' -v", mqtt.port())?;
    writeln!(out, "  floodplain sql --url http://{http} \"SELECT device, topic, payload FROM records LIMIT 5\"")?;
    writeln!(out, "Ctrl-C ends it.\n")
}

/// What SQL said last.
#[derive(Debug, Default)]
struct Answer {
    messages: u64,
    devices: u64,
    took: Duration,
}

impl Answer {
    fn ask(url: &str) -> Result<Self> {
        let asked = now();
        let row = sql::first_row(url, QUERY)?;
        let number = |name: &str| row[name].as_u64().with_context(|| format!("{name} is no number in {row}"));
        Ok(Self { messages: number("n")?, devices: number("devices")?, took: asked.elapsed() })
    }
}

fn lines(counts: &Counts, rate: f64, answer: &Answer, started: Instant) -> Vec<(&'static str, String)> {
    let (p50, p99) = (counts.latency_ms(0.5), counts.latency_ms(0.99));
    vec![
        ("running for", format!("{} s", started.elapsed().as_secs())),
        ("devices connected", grouped(counts.connected)),
        ("messages per second", grouped(rate.round() as u64)),
        ("acknowledged", grouped(counts.acked)),
        ("refused, skipped", format!("{}, {}", grouped(counts.refused), grouped(counts.skipped))),
        ("PUBACK p50, p99", format!("{p50:.1} ms, {p99:.1} ms")),
        (
            "in SQL",
            format!(
                "{} messages of {} devices, asked in {} ms",
                grouped(answer.messages),
                grouped(answer.devices),
                answer.took.as_millis()
            ),
        ),
    ]
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table that is drawn over itself on a terminal, and one line per turn elsewhere.
#[derive(Debug)]
struct Screen {
    is_terminal: bool,
    drawn: usize,
}

impl Screen {
    fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), drawn: 0 }
    }

    fn show(&mut self, lines: &[(&str, String)]) -> io::Result<()> {
        let mut text = String::new();
        if self.is_terminal {
            if self.drawn > 0 {
                // ECMA-48 CUU: back to the first line.
                text.push_str(&format!("\x1b[{}A", self.drawn));
            }
            for (name, value) in lines {
                // ECMA-48 EL: a shorter value leaves nothing of the longer one.
                text.push_str(&format!("\x1b[2K  {name:<20} {value}\n"));
            }
            self.drawn = lines.len();
        } else {
            let parts: Vec<String> = lines.iter().map(|(name, value)| format!("{name} {value}")).collect();
            text.push_str(&parts.join("; "));
            text.push('\n');
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
