//! `floodplain demo`: a server in this process, a simulated fleet that publishes to it over MQTT,
//! and live counts in the terminal.

use crate::{
    browser,
    client::now,
    doctor,
    http::Http,
    numbers, output,
    sim::{Counts, Fleet},
    sql,
};
use anyhow::{Context as _, Result, bail};
use floodplain_server::{Addresses, Config, KEYS, Server, Sources, parse_duration, start_logs};
use serde_json::json;
use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// An alert that some motors of every fleet give a reason for.
const ALERT: &str = "worn-bearing";

/// How often the counts are shown.
const TURN: Duration = Duration::from_secs(1);
/// Every how many turns SQL is asked: a query of the whole log is no thing for every second.
const TURNS_PER_QUERY: u64 = 3;
/// The newest ones: a query of the whole log would take longer each time.
const RECENT: &str = "SELECT count(*) AS n, count(DISTINCT device) AS devices FROM records \
                      WHERE stream = 'telemetry' AND topic NOT LIKE 'alerts/%' \
                      AND received > now() - INTERVAL '10 seconds'";
/// All of them. A device is in one partition; one that does not start at 0 has lost its oldest to retention.
const ALL: &str = "SELECT coalesce(sum(n), 0) AS n, coalesce(sum(devices), 0) AS devices, coalesce(max(first), 0) AS first \
                   FROM (SELECT count(*) FILTER (WHERE topic NOT LIKE 'alerts/%') AS n, \
                   count(DISTINCT device) FILTER (WHERE topic NOT LIKE 'alerts/%') AS devices, min(\"offset\") AS first \
                   FROM records WHERE stream = 'telemetry' GROUP BY \"partition\")";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Devices: trucks, thermostats, motors and soil sensors in turn
    #[arg(long, default_value_t = 200, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// Readings per second of all devices together
    #[arg(long, default_value_t = 1_000.0, value_name = "PER_SECOND", value_parser = numbers::rate)]
    rate: f64,
    /// Share of devices with a fault: drop-out, drift, wrong clock or bad payload
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = numbers::share)]
    faults: f64,
    /// What the fleet does follows from this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after this time, such as 30s; run until Ctrl-C if left out
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Keep the data in this folder; a temporary one, removed at the end, if left out: never that of the configuration
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Listener for MQTT; a free port if neither this nor FLOODPLAIN_MQTT__ADDRESS names one
    #[arg(long, value_name = "ADDRESS")]
    mqtt_address: Option<String>,
    /// Listener for HTTP; a free port if neither this nor FLOODPLAIN_HTTP__ADDRESS names one
    #[arg(long, value_name = "ADDRESS")]
    http_address: Option<String>,
    /// Do not open the console in a browser, which is done on a desktop if the output is a terminal
    #[arg(long)]
    no_open: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "must carry its unit, such as 30s or 5m".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let temporary = match args.data_dir {
        None => Some(tempfile::Builder::new().prefix("floodplain-demo-").tempdir().context("no temporary folder")?),
        Some(_) => None,
    };
    let data_dir = match (&args.data_dir, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(folder)) => folder.path().to_owned(),
        (None, None) => unreachable!("one of the two is there"),
    };
    let any_port = "127.0.0.1:0";
    let flags = [
        ("--data-dir", "data_dir", Some(data_dir.to_string_lossy().into_owned()), ""),
        ("--mqtt-address", "mqtt.address", args.mqtt_address.clone(), any_port),
        ("--http-address", "http.address", args.http_address.clone(), any_port),
        ("demo", "postgres.address", None, any_port),
        // What is odd is still said; the table is for the rest.
        ("demo", "tracing.level", None, "warn"),
    ];
    // The environment beats what only the demo wants.
    let is_set = |name: &str| KEYS.iter().any(|key| key.name == name && std::env::var_os(key.variable()).is_some());
    let flags = flags.into_iter().filter_map(|(flag, key, value, default)| {
        let value = value.or_else(|| (!is_set(key)).then(|| default.to_owned()))?;
        Some((flag.to_owned(), key.to_owned(), value))
    });
    let config =
        Config::load(&Sources { file: None, environment: std::env::vars_os().collect(), flags: flags.collect() })?;
    start_logs(&config);
    let server = Server::start(&config)?;
    let result = show(args, &server, &data_dir);
    server.stop();
    result
}

/// Runs the fleet and shows what it does, until the time is over or a signal comes.
fn show(args: &Args, server: &Server, data_dir: &Path) -> Result<()> {
    let addresses = server.addresses();
    let url = format!("http://{}", addresses.http);
    let console = format!("{url}/");
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
    print_heading(&console, &addresses, data_dir)?;
    if !args.no_open && screen.is_terminal && browser::is_wanted() {
        browser::open(&console);
    }
    let http = Http::new(&url);
    let mut firing = set_alert(&http).and_then(|()| firing_for(&http));
    let started = now();
    let mut before = (started, 0);
    let mut answer = Ok(Answer::default());
    for turn in 1.. {
        let left = args.duration.map_or(TURN, |limit| limit.saturating_sub(started.elapsed()).min(TURN));
        let signalled = server.wait_for_signal(Some(left));
        let counts = fleet.counts();
        if turn % TURNS_PER_QUERY == 0 {
            // The fleet goes on, whatever a query ends in.
            answer = Answer::ask(&url, RECENT);
            firing = firing_for(&http);
        }
        let seconds = before.0.elapsed().as_secs_f64();
        let rate = (counts.acked - before.1) as f64 / seconds.max(1e-3);
        before = (now(), counts.acked);
        screen.show(&lines(&counts, rate, &answer, &firing, started))?;
        if signalled || args.duration.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        if fleet.is_finished() {
            fleet.stop()?;
            bail!("the fleet has ended before its time");
        }
    }
    let counts = fleet.stop()?;
    let answer = Answer::ask(&url, ALL)?;
    let mut out = output::stdout();
    if answer.first > 0 {
        writeln!(out, "\nretention has removed the oldest messages; what is left is not compared")?;
    }
    let (acked, messages, devices) = (counts.acked, answer.messages, answer.devices);
    writeln!(out, "\nacknowledged {acked}, SQL counts {messages} messages of {devices} devices")?;
    if answer.first == 0 && answer.messages < counts.acked {
        bail!("{} acknowledged messages are missing", counts.acked - answer.messages);
    }
    Ok(())
}

fn set_alert(http: &Http) -> Result<()> {
    let alert = json!({ "name": ALERT, "kind": "above", "table": "vibration", "column": "vibration_mm_s", "value": 2.1,
        "devices": "motor-*" });
    http.ask("PUT", &format!("alerts/{ALERT}"), Some(&alert)).map(drop)
}

/// For how many devices the alert fires.
fn firing_for(http: &Http) -> Result<u64> {
    let answer = http.ask("GET", "alerts", None)?;
    let alert = answer["alerts"].as_array().and_then(|alerts| alerts.iter().find(|alert| alert["name"] == ALERT));
    alert.and_then(|alert| alert["firing_count"].as_u64()).context("the alert is gone")
}

fn print_heading(console: &str, addresses: &Addresses, data_dir: &Path) -> io::Result<()> {
    let mut out = output::stdout();
    let (mqtt, http) = (addresses.mqtt, addresses.http);
    writeln!(out, "Floodplain demo: the console is at {console}")?;
    writeln!(out, "MQTT {mqtt}, HTTP {http}, data in {}", data_dir.display())?;
    if doctor::is_memory(data_dir) {
        writeln!(out, "That is memory, where a sync costs nothing; --data-dir FOLDER takes a disk.")?;
    }
    writeln!(out, "Watch it there, or from another terminal:")?;
    writeln!(out, "  mosquitto_sub -p {} -t '#' -v", mqtt.port())?;
    writeln!(out, "  mosquitto_sub -p {} -t 'alerts/#'", mqtt.port())?;
    writeln!(out, "  floodplain sql --url http://{http} \"SELECT device, topic, payload FROM records LIMIT 5\"")?;
    writeln!(out, "Ctrl-C ends it.\n")
}

/// What SQL said last.
#[derive(Debug, Default)]
struct Answer {
    messages: u64,
    devices: u64,
    /// The greatest first offset of a partition.
    first: u64,
    took: Duration,
}

impl Answer {
    fn ask(url: &str, query: &str) -> Result<Self> {
        let asked = now();
        let row = sql::first_row(url, query)?;
        let number = |name: &str| row[name].as_u64().with_context(|| format!("{name} is no number in {row}"));
        Ok(Self {
            messages: number("n")?,
            devices: number("devices")?,
            first: row["first"].as_u64().unwrap_or(0),
            took: asked.elapsed(),
        })
    }
}

fn lines(
    counts: &Counts,
    rate: f64,
    answer: &Result<Answer>,
    firing: &Result<u64>,
    started: Instant,
) -> Vec<(&'static str, String)> {
    let (p50, p99) = (counts.latency_ms(0.5), counts.latency_ms(0.99));
    vec![
        ("running for", format!("{} s", started.elapsed().as_secs())),
        ("devices connected", grouped(counts.connected)),
        ("messages per second", grouped(rate.round() as u64)),
        ("acknowledged", grouped(counts.acked)),
        ("refused, skipped", format!("{}, {}", grouped(counts.refused), grouped(counts.skipped))),
        ("PUBACK p50, p99", format!("{p50:.1} ms, {p99:.1} ms")),
        (
            "in SQL, last 10 s",
            match answer {
                Ok(answer) => format!(
                    "{} messages of {} devices, asked in {} ms",
                    grouped(answer.messages),
                    grouped(answer.devices),
                    answer.took.as_millis()
                ),
                Err(error) => format!("{error:#}"),
            },
        ),
        (
            "alert worn-bearing",
            match firing {
                Ok(count) => format!("fires for {count} motors"),
                Err(error) => format!("{error:#}"),
            },
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
        let mut out = output::stdout();
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
