//! The publishers: `mosquitto_pub` and paho-mqtt, each with its own way to connect again.

use super::{Series, now};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

/// Lines for one run of `mosquitto_pub`: its packet identifiers, by which lines are counted, start again behind 65,535.
const LINES_MAX: usize = 60_000;

/// One publisher of one file.
#[derive(Debug)]
pub(super) struct Publisher {
    client: &'static str,
    /// How often each line was sent, when all are acknowledged.
    thread: Option<JoinHandle<Result<BTreeMap<usize, u32>>>>,
    done: Receiver<()>,
}

impl Publisher {
    /// `mosquitto_pub -l`, started again from the first line without PUBACK when it gives up.
    pub(super) fn mosquitto(series: &Series, address: SocketAddr) -> Result<Self> {
        let (topic, payloads) = (series.topic.clone(), series.payloads.clone());
        Self::spawn("mosquitto_pub", move || {
            let mut sends = BTreeMap::new();
            let mut first = 0;
            while first < payloads.len() {
                let some = &payloads[first..payloads.len().min(first + LINES_MAX)];
                let acked = mosquitto_once(&topic, some, first, address, &mut sends)?;
                if acked == 0 {
                    // The server is down.
                    std::thread::sleep(Duration::from_millis(100));
                }
                first += acked;
            }
            Ok(sends)
        })
    }

    /// paho-mqtt, which connects again and repeats by itself.
    pub(super) fn paho(series: &Series, address: SocketAddr, tools: &Path) -> Result<Self> {
        let (topic, payloads) = (series.topic.clone(), series.payloads.clone());
        let mut command = Command::new(tools.join("venv/bin/python"));
        command.args(["-c", include_str!("paho_publisher.py")]);
        command.args([address.ip().to_string(), address.port().to_string(), topic]);
        Self::spawn("paho-mqtt", move || {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start python")?;
            let mut stdin = child.stdin.take().context("input of python")?;
            stdin.write_all((payloads.join("\n") + "\n").as_bytes())?;
            drop(stdin);
            let output = child.wait_with_output()?;
            ensure!(output.status.success(), "the paho publisher ended with {}", output.status);
            let mut sends: BTreeMap<usize, u32> = (1..=payloads.len()).map(|n| (n, 1)).collect();
            for line in String::from_utf8(output.stdout)?.lines() {
                let n = line.strip_prefix("resent ").with_context(|| format!("the paho publisher wrote {line:?}"))?;
                *sends.entry(n.parse()?).or_default() += 1;
            }
            Ok(sends)
        })
    }

    fn spawn(
        client: &'static str,
        work: impl FnOnce() -> Result<BTreeMap<usize, u32>> + Send + 'static,
    ) -> Result<Self> {
        let (sender, done) = sync_channel(1);
        let thread = std::thread::Builder::new().spawn(move || {
            let result = work();
            // Nobody listens any more if the run has failed elsewhere.
            sender.send(()).ok();
            result
        })?;
        Ok(Self { client, thread: Some(thread), done })
    }

    /// Whether every line is acknowledged.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub(super) fn client(&self) -> &'static str {
        self.client
    }

    /// Waits until every line is acknowledged; returns how often each was sent.
    pub(super) fn finish(&mut self, patience: Duration) -> Result<BTreeMap<usize, u32>> {
        if self.done.recv_timeout(patience).is_err() {
            bail!("{} did not finish within {patience:?}", self.client);
        }
        let thread = self.thread.take().context("finished twice")?;
        thread.join().expect("publishers do not panic").with_context(|| self.client.to_owned())
    }
}

/// Publishes `payloads`, the first being line `first` + 1, until all are acknowledged or the
/// program ends; returns how many were acknowledged from the front. Its debug output says what
/// was sent and what was acknowledged; its packet identifiers count lines.
fn mosquitto_once(
    topic: &str,
    payloads: &[String],
    first: usize,
    address: SocketAddr,
    sends: &mut BTreeMap<usize, u32>,
) -> Result<usize> {
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
        // The same name each time: a device's records are in order in one partition.
        .args(["-i", &format!("mosquitto-{}", topic.replace('/', "-")), "-q", "1", "-d", "-l", "-t", topic])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start mosquitto_pub")?;
    let mut stdin = child.stdin.take().context("input of mosquitto_pub")?;
    let text = payloads.join("\n") + "\n";
    // In a thread of its own: it reads only while it is connected.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let mut acked = vec![false; payloads.len()];
    let output = child.stdout.take().context("output of mosquitto_pub")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        let number = |before: &str, after: char| -> Option<usize> {
            line.split_once(before)?.1.split(after).next()?.trim().parse().ok()
        };
        if line.contains(" sending PUBLISH ") {
            let id = number(", m", ',').with_context(|| format!("mosquitto_pub wrote {line:?}"))?;
            *sends.entry(first + id).or_default() += 1;
        } else if line.contains(" received PUBACK ") {
            let id = number("Mid: ", ',').with_context(|| format!("mosquitto_pub wrote {line:?}"))?;
            *acked.get_mut(id.wrapping_sub(1)).with_context(|| format!("PUBACK for unknown {id}"))? = true;
        }
    }
    wait(child)?;
    // A program that gave up has not read all: that is what the next one is for.
    drop(writer.join().expect("the writer does not panic"));
    Ok(acked.iter().take_while(|acked| **acked).count())
}

fn wait(mut child: Child) -> Result<()> {
    let deadline = now() + Duration::from_secs(30);
    while child.try_wait()?.is_none() {
        if now() > deadline {
            child.kill()?;
            bail!("mosquitto_pub closed its output and did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
