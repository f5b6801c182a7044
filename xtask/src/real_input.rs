//! Recorded series through foreign MQTT clients, with a kill in the middle.
//!
//! Every line of every CSV file becomes one message at QoS 1, sent by `mosquitto_pub` or by
//! paho-mqtt. A subscriber with a lasting session listens. The server is killed with -9 in the
//! middle and started again on its data folder; the publishers repeat what was not acknowledged.
//! In the end SQL and the subscriber must both have exactly the files: nothing lost, nothing
//! changed, in order, and twice only what was sent twice; and `psql` must have each line as one row
//! of the table that a binding makes of them.

mod broker;
mod compare;
mod publishers;
mod table;

use crate::{
    run,
    tools::{self, Tools},
};
use anyhow::{Context as _, Result, ensure};
use broker::{Broker, Subscriber};
use compare::Row;
use publishers::Publisher;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const USAGE: &str = "usage: cargo xtask real-input --data DIR [--kills COUNT]";
/// Long enough to be killed in the middle, on a disk that takes its time and on one that does not.
const MADE_UP_LINES: i64 = 5_000;
/// How long the publishers, and then the subscriber, may take.
const PATIENCE: Duration = Duration::from_secs(300);

#[expect(clippy::disallowed_methods, reason = "durations of real processes")]
fn now() -> Instant {
    Instant::now()
}

/// One file, as messages.
#[derive(Debug)]
struct Series {
    topic: String,
    /// Payloads in the order of the lines; the first has number 1.
    payloads: Vec<String>,
    /// Timestamp and value as the file has them.
    fields: Vec<(String, String)>,
}

impl Series {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let stem = path.file_stem().context("file without a name")?.to_string_lossy();
        let mut series = Self { topic: format!("traffic/{stem}"), payloads: Vec::new(), fields: Vec::new() };
        let mut lines = text.lines();
        ensure!(lines.next() == Some("timestamp,value"), "{} has another header", path.display());
        for (n, line) in (1..).zip(lines) {
            let (timestamp, value) = line.split_once(',').with_context(|| format!("{}: {line}", path.display()))?;
            value.parse::<f64>().with_context(|| format!("{}: {line}", path.display()))?;
            series.payloads.push(format!("{{\"n\": {n}, \"timestamp\": \"{timestamp}\", \"value\": {value}}}"));
            series.fields.push((timestamp.to_owned(), value.to_owned()));
        }
        Ok(series)
    }
}

/// Runs the main job on the files of a folder.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (data, kills) = parse(args)?;
    check(&data, kills, &tools::install()?)
}

/// Runs the main job on two small files, one for each client.
pub(crate) fn made_up(tools: &Tools) -> Result<()> {
    let data = run::target().join(format!("made-up-input-{}", std::process::id()));
    fs::create_dir_all(&data)?;
    for (name, step) in [("even", 7), ("odd", 13)] {
        // Texts of numbers as sensors write them: with and without digits behind the point, negative, zero.
        let value = |n: i64| match n * step % 1_000 - 300 {
            whole if n % 3 == 0 => whole.to_string(),
            tenths => format!("{}.{}", tenths / 10, (tenths % 10).abs()),
        };
        let line = |n: i64| format!("2026-01-{:02} {:02}:{:02}:00,{}\n", 1 + n / 1_440, n / 60 % 24, n % 60, value(n));
        let text: String = (0..MADE_UP_LINES).map(line).collect();
        fs::write(data.join(format!("{name}.csv")), format!("timestamp,value\n{text}"))?;
    }
    check(&data, 1, tools)?;
    Ok(fs::remove_dir_all(&data)?)
}

fn check(data: &Path, kills: usize, tools: &Tools) -> Result<()> {
    run::run(run::cargo().args(["build", "--release", "--locked", "--package", "floodplain"]))?;
    let mut files: Vec<PathBuf> = fs::read_dir(data)
        .with_context(|| format!("read {}", data.display()))?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    ensure!(!files.is_empty(), "{} holds no CSV file", data.display());
    let series: Vec<Series> = files.iter().map(|path| Series::read(path)).collect::<Result<_>>()?;

    let folder = run::target().join(format!("real-input-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let report = play(&series, &folder, kills, tools.folder());
    match report {
        Ok(()) => Ok(fs::remove_dir_all(&folder)?),
        Err(error) => Err(error.context(format!("what happened is in {}", folder.display()))),
    }
}

fn parse(args: &[String]) -> Result<(PathBuf, usize)> {
    let (mut data, mut kills) = (None, 1);
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let value = args.next().context(USAGE)?;
        match flag.as_str() {
            "--data" => data = Some(PathBuf::from(value)),
            "--kills" => kills = value.parse().context(USAGE)?,
            _ => anyhow::bail!(USAGE),
        }
    }
    Ok((data.context(USAGE)?, kills))
}

fn play(series: &[Series], folder: &Path, kills: usize, tools: &Path) -> Result<()> {
    let total: usize = series.iter().map(|series| series.payloads.len()).sum();
    let mut broker = Broker::start(folder)?;
    table::bind(&broker)?;
    let mut subscriber = Subscriber::start(broker.mqtt(), folder)?;
    let since = now();
    let mut publishers: Vec<Publisher> = series
        .iter()
        .enumerate()
        .map(|(i, series)| {
            if i % 2 == 0 {
                Publisher::mosquitto(series, broker.mqtt())
            } else {
                Publisher::paho(series, broker.mqtt(), tools)
            }
        })
        .collect::<Result<_>>()?;

    let mut restarts = Vec::new();
    let mut received_at_kill = 0;
    for kill in 1..=kills {
        let mark = total * kill / (kills + 1);
        subscriber.wait_until(|received| received >= mark, PATIENCE)?;
        broker.kill()?;
        let unfinished = publishers.iter().filter(|publisher| !publisher.is_finished()).count();
        ensure!(unfinished > 0, "every publisher was done at kill {kill}: these files are too short to test it");
        received_at_kill = subscriber.received();
        let restart = now();
        broker.restart()?;
        restarts.push(restart.elapsed());
    }
    let sends: Vec<BTreeMap<usize, u32>> =
        publishers.iter_mut().map(|publisher| publisher.finish(PATIENCE)).collect::<Result<_>>()?;
    let published = since.elapsed();
    subscriber.wait_for_distinct(total, PATIENCE)?;
    let delivered = since.elapsed();
    let rows = broker.rows()?;
    let received = subscriber.stop()?;

    let table: Vec<Row> = series
        .iter()
        .zip(&publishers)
        .zip(&sends)
        .map(|((series, publisher), sends)| compare::compare(series, publisher.client(), sends, &rows, &received))
        .collect();
    compare::print(&table);
    println!();
    println!("messages                         {total} in {} files", series.len());
    println!("kills with -9                    {kills}, the last after {received_at_kill} deliveries");
    println!("start to ready after a kill      {restarts:.1?}");
    println!("published and acknowledged after {published:.1?}, restart and reconnects included");
    println!("delivered after                  {delivered:.1?}");
    let known: usize = table.iter().map(|row| row.log_rows).sum();
    ensure!(known == rows.len(), "the log holds {} records of the test that no file has", rows.len() - known);
    let differences: Vec<&String> = table.iter().flat_map(|row| &row.differences).collect();
    ensure!(
        differences.is_empty(),
        "{} differences, the first: {:?}",
        differences.len(),
        &differences[..differences.len().min(5)]
    );
    let in_table = table::compare(&broker, series)?;
    let (merged, overwritten) = table::merge(&broker, &rows)?;
    // The change of the binding has put all rows into files; this is what is read from them.
    broker.stop()?;
    broker.restart()?;
    ensure!(table::compare(&broker, series)? == in_table, "another number of rows after a restart");
    println!(
        "rows of the table by psql        {in_table}, one for each line, from memory and from files after a restart"
    );
    println!("without line numbers as keys     {merged} rows, {overwritten} values overwritten");
    println!("log, subscriber, table by psql and files are equal");
    broker.stop()?;
    Ok(())
}
